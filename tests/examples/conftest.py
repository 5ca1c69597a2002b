import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"

# Child processes get this path, too.
sys.path += [str(EXAMPLES), str(EXAMPLES / "crew_project" / "src")]
