"""Writes the prepared arrays as the two files of Kaggle's form, which `data.source: csv` reads.

They are fashion-mnist_train.csv and fashion-mnist_test.csv in data/input.
"""

from pathlib import Path

from common import arrays, files, kaggle_csv
from common.errors import InputError


def main() -> None:
    for name in ("train", "test"):
        images, labels = arrays.load(name)
        if not len(images) or images.shape[1:] != (kaggle_csv.HEIGHT, kaggle_csv.WIDTH, 1):
            rule = f"{name} must hold at least one image, of 28 x 28 x 1, for this form"
            raise InputError(f"{rule}; received {' x '.join(map(str, images.shape))}")
        path = Path(f"data/input/fashion-mnist_{name}.csv")
        with files.atomic_file(path) as part:
            kaggle_csv.write(part, images, labels)
        print(f"{path}: {len(images):,} rows")


if __name__ == "__main__":
    main()
