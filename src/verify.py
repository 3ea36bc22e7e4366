"""Holds the files under data/ and models/ against dvc.lock, byte for byte.

`python src/verify.py` names each that was changed, is missing or was added, and then fails.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
from analysis import tracked
from common.errors import InputError

FOLDERS = ("data/", "models/")


def main() -> None:
    differences = list(tracked.changed(FOLDERS))
    if differences:
        raise InputError(
            f"{' and '.join(FOLDERS)} must hold what dvc.lock says (dvc checkout --force brings it "
            f"back); {'; '.join(differences)}"
        )
    print(f"every file of the pipeline under {' and '.join(FOLDERS)} is as dvc.lock says")


if __name__ == "__main__":
    main()
