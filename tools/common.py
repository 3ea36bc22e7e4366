"""The way from tools/, published/ and benchmarks/ to src/: it makes `common` here that of src/.

Python looks for imports in the folder of the script that it runs. There `common`, which every script
imports first, is this file (in published/ and benchmarks/ a link to it): it puts src/ before that folder, both
behind the libraries, and the package `common` of src/ in its own place.
"""

import importlib
import sys
from pathlib import Path

sys.path[:] = [*sys.path[1:], str(Path(__file__).resolve().parents[1] / "src"), sys.path[0]]
del sys.modules[__name__]
importlib.import_module(__name__)
