"""Writes the prepared arrays as the two files of Kaggle's form, which `data.source: csv` reads.

They are fashion-mnist_train.csv and fashion-mnist_test.csv.
"""

import argparse
from pathlib import Path

from common import arrays, files, kaggle_csv
from common.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("data/input"), help="folder (default: %(default)s)")
    folder = parser.parse_args().to
    for name in ("train", "test"):
        images, labels = arrays.load(name)
        if not len(images):
            raise InputError(f"{name} must hold at least one image for this form; received none")
        if images.shape[1:] != (kaggle_csv.HEIGHT, kaggle_csv.WIDTH, 1):
            raise InputError(f"images must be 28 x 28 x 1 for this form; received {images.shape[1:]}")
        path = folder / f"fashion-mnist_{name}.csv"
        with files.atomic_file(path) as part:
            kaggle_csv.write(part, images, labels)
        print(f"{path}: {len(images):,} rows")


if __name__ == "__main__":
    main()
