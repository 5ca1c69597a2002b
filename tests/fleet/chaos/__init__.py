"""Workers, runs of every kind, and faults that come at any time: the parts of `test_chaos`."""
