"""The record of a run: which calls were made in it, where, and with what result."""
