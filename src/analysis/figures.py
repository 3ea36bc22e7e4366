"""Pictures of data and of mistakes, as PNG files with the same bytes each time."""

import os
import tempfile
from pathlib import Path

# Read when Matplotlib is loaded: the screen of a notebook, a user's settings and styles, and fonts of the
# machine, which would draw what Matplotlib's own fonts lack, or stand in for them in another version.
user_folder = tempfile.TemporaryDirectory()
os.environ |= {"MPLBACKEND": "agg", "MPLCONFIGDIR": user_folder.name, "MPL_IGNORE_SYSTEM_FONTS": "1"}

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.rcdefaults()  # without the matplotlibrc of the working directory

from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def class_means(images: np.ndarray, labels: np.ndarray, names: list[str], path: Path) -> None:
    """The mean image of each class that has any; images (N, H, W, C) uint8, labels (N,)."""
    present = np.unique(labels)
    means = np.stack([images[labels == label].mean(0) for label in present]).astype(np.uint8)
    titled(means, [names[label] for label in present], path, inches=1.8)


def class_counts(table: pd.DataFrame, path: Path) -> None:
    """Bars of `images` by `class` and `part`; the first row of a part, of all classes, is left out."""
    wide = table[table.groupby("part").cumcount() > 0].pivot_table("images", "class", "part", sort=False)
    figure, axes = plt.subplots(figsize=(6, 1 + 0.35 * len(wide)), layout="constrained")
    wide.plot.barh(ax=axes, width=0.8)
    axes.invert_yaxis()  # the first class at the top
    axes.set(xlabel="images", ylabel="")
    for tick in axes.yaxis.get_major_ticks():
        tick.label1.set_parse_math(False)
        tick.label2.set_parse_math(False)
    axes.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def mistakes(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, names: list[str], path: Path) -> None:
    """The 25 mistakes with the highest confidence, the true class above the predicted one.

    Images are (N, H, W, C) uint8, labels (N,), probabilities (N, classes).
    """
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:25]
    titles = [f"true: {names[labels[row]]}\nsaid: {names[predicted[row]]} {confidence[row]:.2f}" for row in worst]
    titled(images[worst], titles, path)


def titled(images: np.ndarray, titles: list[str], path: Path, columns: int = 5, inches: float = 1.9) -> None:
    """Images (N, H, W, C) uint8, grey where C is 1, so many a row, each under its title.

    Args:
        inches: the width of a column.
    """
    count = max(1, len(images))
    columns = min(columns, count)
    rows = -(-count // columns)  # rounded up
    figure, places = plt.subplots(
        rows, columns, figsize=(inches * columns, inches * rows * 1.15), squeeze=False, layout="constrained"
    )
    for place in places.flat:
        place.axis("off")
    for place, image, title in zip(places.flat, images, titles, strict=False):
        place.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
        # without y Matplotlib looks for a free place, a second for a page; a class may be called $x$
        place.set_title(title, y=1, fontsize=7, parse_math=False)
    if not titles:
        places[0, 0].set_title("none")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})  # the version would change the bytes
    plt.close(figure)
