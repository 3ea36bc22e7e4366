"""Stage 2: every source as uint8 arrays, train and test apart, with tables and figures of them."""

import math
import re
import sys
from pathlib import Path

from common import arrays, classes, files, idx, image_folder, inputs, kaggle_csv, locks, params, release
from common.errors import InputError, one_line
from common.near_duplicates import groups

import numpy as np
import pandas as pd

from analysis import figures, statistics

RAW = Path("data/raw")
INPUT = Path("data/input")
PARTS = {"train": "train", "test": "t10k"}  # and how names of IDX files begin
READ = {  # what a source reads in data/input, or may lie there
    "csv": re.compile(r"fashion-mnist_(train|test)\.csv|README\.md|\.gitignore"),
    "folder": re.compile(r"(train|test)/|README\.md|\.gitignore"),
    "idx": re.compile(r"(train|t10k)-(images-idx3|labels-idx1)-ubyte(\.gz)?|classes\.txt|README\.md|\.gitignore"),
}
Part = tuple[np.ndarray, np.ndarray]  # images (N, H, W, C) and labels (N,), both uint8


def read_idx(folder: Path) -> dict[str, Part]:
    """The four IDX files in `folder`, packed or not."""

    def read(name: str, dimensions: int) -> np.ndarray:
        path = idx.packed_or_not(folder / name)
        return idx.decode(idx.read_bytes(path), dimensions, str(path))

    return {
        part: (read(f"{prefix}-images-idx3-ubyte", 3)[..., None], read(f"{prefix}-labels-idx1-ubyte", 1))
        for part, prefix in PARTS.items()
    }


def class_names() -> list[str]:
    """The lines of data/input/classes.txt, or the ten digits without that file."""
    path = INPUT / "classes.txt"
    if not path.exists() and not path.is_symlink():
        return [str(digit) for digit in range(10)]
    try:
        names = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be a readable UTF-8 file; received: {error}") from None
    names = [name.strip() for name in names if name.strip()]
    if not 2 <= len(set(names)) == len(names) <= image_folder.MAX_CLASSES:
        raise InputError(
            f"{path} must hold 2 to {image_folder.MAX_CLASSES} different names; received {len(names)}, {len(set(names))} different"
        )
    return names


def refuse_unseen_and_name_unread(source: str) -> None:
    """Refuses links to folders, folders with a .dvc, and .dvcignore, which hide from DVC; warns of what no one reads."""
    inside = sorted(INPUT.rglob("*"))
    for path in map(image_folder.regular, inside):
        if path.name == ".dvcignore" or (path.is_dir() and (path.is_symlink() or (path / ".dvc").is_dir())):
            rule = f"{INPUT} must hold no link to a folder, no .dvcignore and no folder with a .dvc"
            raise InputError(f"{rule}, into which DVC does not look; received {path}")
    if (whole := Path(f"{INPUT}.dvc")).exists():  # it would hide what git has there
        raise InputError(f"{INPUT} must be tracked by what is in it (dvc add {INPUT}/NAME); received {whole}")
    names = sorted(f"{path.name}{'/' * path.is_dir()}" for path in INPUT.iterdir())
    is_tree = source == "folder" and "train/" not in names  # each folder is a class
    read = re.compile(rf"{READ[source].pattern}|[^/]*\.dvc{r'|[^.][^/]*/' * is_tree}")
    unread = [name for name in names if not read.fullmatch(name)]
    if hidden := sum(path.name[0] == "." and path.name != ".gitignore" and path.parent != INPUT for path in inside):
        unread.append(f"{hidden:,} hidden files in folders")
    if unread:
        print(f"warning: not read in {INPUT}: {one_line(', '.join(unread))}", file=sys.stderr)


def check(names: list[str], parts: dict[str, Part], shape: tuple[int, int, int]) -> None:
    """Refuses data that no later stage could use. Warns where train and test may be swapped.

    Raises:
        InputError: images have another shape than data.height, data.width and data.channels, or not one label
            of a class each, or there are no training images, or none of a class that test has.
    """
    train, test = (len(parts[part][0]) for part in ("train", "test"))
    for part, (images, labels) in parts.items():
        if images.shape[1:] != shape:
            raise InputError(
                f"{part} images must be {shape} (data.height, data.width, data.channels); received {images.shape[1:]}"
            )
        if len(images) != len(labels):
            raise InputError(f"{part} must hold one image a label ({len(labels):,}); received {len(images):,}")
        if (wrong := np.flatnonzero(labels >= len(names))).size:
            row = wrong[0]
            raise InputError(f"{part} labels must be from 0 to {len(names) - 1}; received {labels[row]} in row {row}")
    if train == 0:
        raise InputError("train must hold at least one image; received none")
    if (unknown := np.setdiff1d(parts["test"][1], parts["train"][1])).size:
        raise InputError(f"train must hold images of each class in test; received none of {names[unknown[0]]}")
    if test == 0:
        print("warning: there are no test images, so evaluate looks at val alone", file=sys.stderr)
    if train < test:
        print(f"warning: train has fewer images than test ({train:,} and {test:,}); are they swapped?", file=sys.stderr)


def summarise(part: str, images: np.ndarray, labels: np.ndarray, names: list[str]) -> pd.DataFrame:
    """The number of images, and mean and standard deviation of their pixels (0–255): of all, then of each class."""
    groups = [("all", np.ones(len(labels), bool)), *((name, labels == label) for label, name in enumerate(names))]
    counted = []
    for name, rows in groups:
        pixels, mean, std = images[rows], None, None
        if count := pixels.size:  # exact, and in little memory
            total, squares = int(pixels.sum()), int(np.einsum("nhwc,nhwc->", pixels, pixels, dtype=np.int64))
            mean, std = round(total / count, 2), round(math.sqrt(count * squares - total**2) / count, 2)
        counted.append((part, name, len(pixels), mean, std))
    return pd.DataFrame(counted, columns=["part", "class", "images", "pixel_mean", "pixel_std"])


def duplicates(parts: dict[str, pd.DataFrame], key: str, prefix: str) -> pd.DataFrame:
    """The number of images with a copy: within train, within test, and test images also in train.

    `label_differs` counts the images among them that have a copy with another label.

    Args:
        parts: for train and test a table with the column `label` and others, one of which is `key`.
        key: the column whose values are the same for copies.
        prefix: of the names of the rows.
    """
    rows = []
    for part, images in parts.items():
        copies = images[images.duplicated(key, keep=False)]
        different_labels = copies.groupby(key)["label"].transform("nunique")
        rows.append((f"{prefix}within {part}", len(copies), int((different_labels > 1).sum())))
    shared = parts["test"][parts["test"][key].isin(parts["train"][key])]
    labels_in_train = parts["train"][[key, "label"]].drop_duplicates()
    pairs = shared.reset_index().merge(labels_in_train, on=key, suffixes=("", "_in_train"))
    differs = pairs.loc[pairs["label"] != pairs["label_in_train"], "index"].nunique()
    rows.append((f"{prefix}test images also in train", len(shared), differs))
    return pd.DataFrame(rows, columns=["where", "images", "label_differs"])


def recognise_release(rows: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """The release of Fashion-MNIST that the images are. Warns where train has test images of today's release.

    Args:
        rows: for train and test the hashes of the images and the labels.
    """
    found = release.recognise(rows)
    print(f"release of Fashion-MNIST: {found}")
    if shared := np.isin(rows["train"][0], np.load(release.TEST_IMAGES)).sum():
        shown = f"warning: {shared:,} rows of train are test images of the release of {release.TODAY}"
        print(f"{shown}: figures on test do not compare with those on that release", file=sys.stderr)
    return found


@locks.exclusive()
def main() -> None:
    data = params.load().data
    shape = (data.height, data.width, data.channels)
    names = list(classes.FASHION_MNIST)
    if data.source in ("csv", "folder", "idx") and INPUT.is_dir():
        refuse_unseen_and_name_unread(data.source)
    if data.source == "csv":
        parts = {part: kaggle_csv.read(INPUT / f"fashion-mnist_{part}.csv") for part in PARTS}
    elif data.source == "folder":
        names, parts = image_folder.read(INPUT, shape)
    elif data.source == "idx":
        names, parts = class_names(), read_idx(INPUT)
    else:
        parts = read_idx(RAW)
    check(names, parts, shape)

    table = pd.concat([summarise(part, *parts[part], names) for part in parts])
    rows = {part: (release.hashes(images), labels) for part, (images, labels) in parts.items()}
    images, labels = parts["train"]
    near = np.split(groups(np.concatenate([images, parts["test"][0]])), [len(labels)])
    keys = {
        part: pd.DataFrame({"image": rows[part][0], "near": group, "label": rows[part][1]})
        for part, group in zip(parts, near, strict=True)
    }
    copies = pd.concat([duplicates(keys, "image", ""), duplicates(keys, "near", "nearly, ")])
    shown = table.assign(**{"class": table["class"].map(one_line)})
    print(shown.to_string(index=False), copies.to_string(index=False), sep="\n\n")
    if statistics.unequal(parts["train"][1]):
        sizes = table.loc[table["part"] == "train", "images"].iloc[1:]
        print(f"classes are unequal, from {sizes.min():,} to {sizes.max():,} images: macro figures come first")

    found = recognise_release(rows) if shape == (28, 28, 1) else release.UNKNOWN
    with (
        files.atomic_folder(arrays.PREPARED / "train") as train,
        files.atomic_folder(arrays.PREPARED / "test") as test,
        files.atomic_folder(Path("metrics/data")) as tables,
        files.atomic_folder(Path("plots/data")) as pictures,
    ):
        arrays.save(train, *parts["train"])
        arrays.save(test, *parts["test"])
        table.to_csv(tables / "classes.csv", index=False)
        copies.to_csv(tables / "duplicates.csv", index=False)
        for part, (hashes, labels_of_part) in rows.items():
            of_rows = pd.DataFrame({"image": release.short(hashes), "label": labels_of_part})
            of_rows.to_csv(tables / f"{part}_rows.csv", index=False)
        first = [names[label] for label in labels[:9]]
        figures.titled(images[:9], first, pictures / "first_images.png", columns=3, inches=2.0)
        figures.class_means(images, labels, names, pictures / "class_means.png")
        figures.class_counts(table, pictures / "class_counts.png")
    with files.atomic_file(arrays.NEAR_DUPLICATES) as part_file:
        arrays.save_array(part_file, near[0])
    files.write_json(arrays.PREPARED / "classes.json", names)
    files.write_json(arrays.PREPARED / "source.json", {"source": data.source, "release": found})


if __name__ == "__main__":
    inputs.declare("data/input", "data/raw", "src/common/fashion_mnist_test.npy")
    main()
