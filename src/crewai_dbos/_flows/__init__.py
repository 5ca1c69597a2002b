"""A run of a flow, and a conversation."""
