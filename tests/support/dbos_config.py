"""DBOS settings for tests."""

from dbos import DBOSConfig

# DBOS.destroy() waits for one more poll on SQLite, a second by default.
QUICK: DBOSConfig = {"name": "tests", "notification_listener_polling_interval_sec": 0.02}
