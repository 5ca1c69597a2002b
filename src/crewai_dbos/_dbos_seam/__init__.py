"""Everything of DBOS that is not public, in one place. Read against dbos 3.4.0.

`tests/dbos_seam/` fails when one of these moves.
"""
