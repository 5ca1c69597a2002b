"""Events: what happened in a run, in a table beside DBOS's, for whoever reads along."""
