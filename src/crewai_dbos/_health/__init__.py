"""What monitoring sees of a worker: probes, its status, and metrics.

Nothing of what is asked or answered in a run is in any of it.
"""
