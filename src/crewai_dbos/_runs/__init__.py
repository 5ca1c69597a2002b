"""What runs of all kinds have in common: definition, start, body, handle."""
