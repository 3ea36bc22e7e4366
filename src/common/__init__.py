"""What every script shares; light to import.

To import it seals a script of src/ (seal.py) and makes errors one line (errors.py).
"""

from common import seal

is_sealed = seal.seal()

from common import errors, inputs

errors.install()
if is_sealed:
    inputs.refuse_shadows()
