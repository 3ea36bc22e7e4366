"""What every script shares; light to import.

To import it seals a script of src/ (seal.py) and makes errors one line (errors.py).
"""

from common import seal

seal.seal()

import io
import sys

from common import errors, inputs

if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot show is escaped; notebooks show all
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
sys.excepthook = errors.print_one_line
sys.set_int_max_str_digits(0)  # errors quote integers of any length
inputs.refuse_shadows()
