"""The benchmarks are no installed package: the checkout is where they are imported from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
