"""A worker, as those see it who watch over it: probes, its status, and metrics.

Nothing of what is asked or answered in a run is in any of it.
"""
