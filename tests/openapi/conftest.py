"""schemathesis is there from Python 3.11 on."""

import sys

collect_ignore = ["test_openapi.py"] if sys.version_info < (3, 11) else []
