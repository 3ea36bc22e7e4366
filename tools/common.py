"""The way from tools/, published/ and benchmarks/ to src/: it makes `common` here that of src/.

Python looks for imports in the folder of the script that it runs. There `common`, which every script
imports first, is this file (in published/ and benchmarks/ a link to it): it puts src/ before that folder,
and the package `common` of src/ in its own place.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
del sys.modules[__name__]
importlib.import_module(__name__)
