"""Stage 2: the raw files as uint8 arrays, train and test apart, with a table of what they hold."""

from common import errors  # first: from here on an interruption is one line

# isort: split
from pathlib import Path

import numpy as np
import pandas as pd

from common import arrays, classes, files, idx
from common.errors import InputError

RAW = Path("data/raw")
PARTS = {"train": "train", "test": "t10k"}  # ours: the prefix of the IDX files


def read_part(prefix: str, class_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 1) and labels (N,), both uint8, of one part.

    Raises:
        InputError: the two files do not fit each other or the classes.
    """
    images_file, labels_file = (
        RAW / f"{prefix}-images-idx3-ubyte",
        RAW / f"{prefix}-labels-idx1-ubyte",
    )
    images = idx.decode(idx.read_bytes(images_file), str(images_file))
    labels = idx.decode(idx.read_bytes(labels_file), str(labels_file))
    if images.ndim != 3 or 0 in images.shape:
        raise InputError(
            f"{images_file} must hold images in 3 dimensions, none of them 0; received {images.shape}"
        )
    if labels.ndim != 1:
        raise InputError(f"{labels_file} must hold labels in 1 dimension; received {labels.ndim}")
    if len(images) != len(labels):
        raise InputError(
            f"{images_file} must hold one image a label ({len(labels):,}); received {len(images):,}"
        )
    if (wrong := np.flatnonzero(labels >= class_count)).size:
        raise InputError(
            f"{labels_file} must hold labels 0 to {class_count - 1}; received {labels[wrong[0]]} in row {wrong[0]}"
        )
    return images[..., None], labels  # (N, H, W) -> (N, H, W, 1)


def summarise(
    part: str, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> pd.DataFrame:
    """One row a class and one for all: number of images, mean and standard deviation of their pixels (0–255)."""
    pixels = images.reshape(len(images), -1)
    groups = {"all": np.ones(len(labels), bool)} | {
        name: labels == label for label, name in enumerate(names)
    }
    return pd.DataFrame(
        [
            {
                "part": part,
                "class": name,
                "images": int(rows.sum()),
                "pixel_mean": pixels[rows].mean() if rows.any() else np.nan,
                "pixel_std": pixels[rows].std() if rows.any() else np.nan,
            }
            for name, rows in groups.items()
        ]
    ).round(2)


def main() -> None:
    names = classes.FASHION_MNIST
    tables = []
    for part, prefix in PARTS.items():
        images, labels = read_part(prefix, len(names))
        with files.whole_folder(arrays.PREPARED / part) as folder:
            arrays.save(folder, images, labels)
        tables.append(summarise(part, images, labels, names))
    table = pd.concat(tables)
    files.write_json(arrays.PREPARED / "classes.json", list(names))
    with files.whole_file(Path("metrics/data.csv")) as part_file:
        table.to_csv(part_file, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
