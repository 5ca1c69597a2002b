"""crewAI's own tests, with durable objects underneath. `__main__.py` says how it is run."""
