"""`crewai-dbos demo`: the same crash with and without durable execution, and what each cost.

`mailer` is the agent and an example of using the library, `model` answers it, `child` is the
process that gets killed, `process` handles it, `story` kills and counts, `show` prints.
"""
