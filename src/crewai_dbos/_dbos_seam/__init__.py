"""Everything of DBOS that is not public, in one place. Read against dbos 3.4.0.

`tests/test_dbos_seam.py` fails when one of these moves.
"""
