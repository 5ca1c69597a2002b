"""What is asked of people: a table beside DBOS's, in the same database.

The one rule: every change of a request is one conditional update, and whoever locks a request and
its run locks the request first.
"""
