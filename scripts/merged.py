"""Print constraints with those of another file in their place.

usage: python scripts/merged.py CONSTRAINTS OTHERS
"""

import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
base, others = ((root / name).read_text().splitlines() for name in sys.argv[1:])
replaced = {line.partition("==")[0] for line in others}

print("\n".join(line for line in base if line.partition("==")[0] not in replaced))
print("\n".join(others))
