"""The commands of `crewai-dbos` that are about a database, a module each."""
