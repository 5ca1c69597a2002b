"""Secrets: where they are found, and how they are cut out of what is stored and logged."""
