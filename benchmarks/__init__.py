"""Benchmarks on a GPU: outputs checked first, peers of one precision class, cold L2, medians, interleaved.

Runs from a checkout too: where the package is not installed, it is taken from `src` beside this folder.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("tilewright") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
