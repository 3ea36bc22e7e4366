"""What every script shares; light to import.

To import it seals a script of src/ (seal.py) and makes errors one line (errors.py).
"""

from common import seal

seal.seal()

import sys

from common import errors, inputs

sys.excepthook = errors.print_one_line
inputs.refuse_shadows()
