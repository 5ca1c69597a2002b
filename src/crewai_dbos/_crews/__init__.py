"""A run of a crew, and a batch of them."""
