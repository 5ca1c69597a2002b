"""Everything of crewAI that is not public, in one place. Read against crewai 1.15.30.

What is private is read and written here and nowhere else. Methods of crewAI that we override stand
with the other overrides of their class, and what is changed in the whole process is in
`_patches.py`. `tests/test_crewai_seam.py` fails when one of these moves.
"""
