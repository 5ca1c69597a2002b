"""Workers on one database: who lives, and who goes on with the runs of one that does not.

DBOS fences: whatever a process does that has lost a run, it can't record it. What DBOS leaves to
others is to know that a process is gone, and that is here.
"""
