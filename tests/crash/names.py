"""What the tests and the processes they start both know."""

RUN = "run"
"""The workflow id."""

ASK = "Send letters to Ann and Bob."

API_KEY = "sk-secret-of-the-test"
