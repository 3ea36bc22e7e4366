"""What every script shares; light to import. To import it makes errors one line (errors.py)."""

from common import errors

errors.install()
