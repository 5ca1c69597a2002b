"""`crewai-dbos demo`: one crash, with and without durable execution, and what each of them cost.

`mailer` is the agent and an example of using the library, `model` answers it, `child` is the process
that gets killed, `story` kills and counts, `show` draws.
"""
