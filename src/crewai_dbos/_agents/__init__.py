"""A run of one agent."""
