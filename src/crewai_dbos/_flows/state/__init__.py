"""The state of a flow, and which method changed what of it.

The one rule: a change is credited to every method that has touched the field since it was last
stored. Where one of them is still at work, the stored value may hold half of its work, and says so.
When that one ends, it stores the field again.
"""
