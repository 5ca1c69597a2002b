"""The module that rows and pickles of earlier versions name as that of the public errors.

`errors.py` has them now. What the journal stores goes on naming this one, so that a process of an
earlier version reads it too.
"""

from crewai_dbos.errors import *  # noqa: F403
