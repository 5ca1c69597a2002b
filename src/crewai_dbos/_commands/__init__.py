"""The commands of `crewai-dbos` that need nothing but the database."""
