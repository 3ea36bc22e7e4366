"""What differs in the data of two revisions, row by row, as Markdown: `make data-diff A=main B=workspace OUT=page.md`.

prepare writes a hash of the pixels and the label of every row into metrics/data/, which git has: no data is needed. Only
the picture of changed rows, beside OUT, needs the images of one of the two revisions in the working directory.
"""

import argparse
from pathlib import Path
from typing import Any

from common import arrays, files, release
from common.errors import InputError

import numpy as np
import pandas as pd

import pages
from analysis import figures, revisions
from analysis.marked_pages import markdown
from analysis.revisions import Revision

PARTS = ("train", "test")
PICTURED = 25
CLASSES, COPIES = "metrics/data/classes.csv", "metrics/data/duplicates.csv"


def rows(revision: Revision) -> pd.DataFrame:
    """One row for each image: `part`, `label` (the class) and `image`, the hash; empty where the revision has no hashes."""
    classes = revision.table(CLASSES, "part", "class")
    found = []
    for part in PARTS:
        table = revision.table(f"metrics/data/{part}_rows.csv", "image", "label", dtype={"image": str})
        if classes is None or table is None:
            return pd.DataFrame(columns=["part", "label", "image"])
        names = classes.loc[classes["part"] == part, "class"].tolist()[1:]  # the first row is of all classes
        found.append(table.assign(part=part, label=table["label"].map(dict(enumerate(names)))))
    return pd.concat(found, ignore_index=True)


def changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The images that differ in part or label, with these of both sides; missing where a side does not have the image.

    Copies of an image are told apart by their order in part and label.
    """
    sides = []
    for table in (before, after):
        ordered = table.sort_values(["part", "label"], kind="stable")
        sides.append(ordered.assign(copy=ordered.groupby("image").cumcount()).set_index(["image", "copy"]))
    both = sides[0].join(sides[1], how="outer", suffixes=(" before", " after")).reset_index()
    same = [(both[f"{name} before"] == both[f"{name} after"]) for name in ("part", "label")]
    return both[~(same[0] & same[1])]


def counted(table: pd.DataFrame, *columns: str) -> str:
    """A Markdown table of how many rows have each combination, the most first."""
    found = table.groupby(list(columns)).size().rename("images").reset_index()
    return markdown(found.sort_values("images", ascending=False, kind="stable"), names=True)


def figures_of(revision: Revision) -> dict[str, Any]:
    """Images, their share of the part and pixel statistics of each class, and the number of copies, by name."""
    found = {}
    classes = revision.table(CLASSES, "part", "class", "images", "pixel_mean", "pixel_std")
    for row in (
        [] if classes is None else classes.assign(total=classes.groupby("part")["images"].transform("max")).itertuples()
    ):
        name = f"{row.part}, {row[2]}"
        found[name] = (
            f"{row.images:,} ({row.images / max(1, row.total):.1%}), pixels {row.pixel_mean} ± {row.pixel_std}"
        )
    copies = revision.table(COPIES, "where", "images", "label_differs")
    for row in [] if copies is None else copies.itertuples():
        found[f"copies: {row.where}"] = f"{row.images:,}, {row.label_differs:,} with another label"
    return found


def picture(changed: pd.DataFrame, page: Path | None) -> str:
    """Draws the first changed images whose pixels are here, beside the page; the Markdown shows them, or says why not."""
    if page is None or changed.empty:
        return ""
    here: dict[str, np.ndarray] = {}
    for part in PARTS if (arrays.PREPARED / "test/images.npy").exists() else ():
        images, _ = arrays.load(part)
        here |= dict(zip(release.short(release.hashes(images)), images, strict=True))
    shown = changed[changed["image"].isin(here.keys())].head(PICTURED)
    if shown.empty:
        return "None of the changed images is here to be shown."
    sides = [shown[f"part {side}"].str.cat(shown[f"label {side}"], " ").fillna("none") for side in ("before", "after")]
    titles = [f"{old}\nnow: {new}" for old, new in zip(*sides, strict=True)]
    drawn = page.with_name(f"{page.stem}-data.png")
    with files.atomic_file(drawn) as unfinished:
        figures.titled(np.stack([here[image] for image in shown["image"]]), titles, unfinished)
    return f"![Changed images]({drawn.name})"


def content(before: Revision, after: Revision, page: Path | None) -> dict[str, Any]:
    """What the template shows; `known` is whether both revisions have hashes."""
    sides = rows(before), rows(after)
    changed = changes(*sides)
    old, new = (changed[f"part {side}"].isna() for side in ("before", "after"))
    stays = changed[~old & ~new]
    leaks = [set(side[side["part"] == "test"]["image"]) & set(side[side["part"] == "train"]["image"]) for side in sides]
    return {
        "known": all(len(side) for side in sides),
        "total": len(changed),
        "added": counted(changed[old], "part after", "label after"),
        "removed": counted(changed[new], "part before", "label before"),
        "relabelled": counted(stays[stays["label before"] != stays["label after"]], "label before", "label after"),
        "moved": counted(stays[stays["part before"] != stays["part after"]], "part before", "part after"),
        "figures": markdown(pages.unequal("figure", figures_of(before), figures_of(after)), names=True),
        "leaked": len(leaks[1] - leaks[0]),
        "picture": picture(changed, page),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="A")
    parser.add_argument("after", metavar="B", nargs="?", default=revisions.WORKSPACE)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it here, not to the terminal")
    arguments = parser.parse_args()
    before, after = (revisions.resolve(name) for name in (arguments.before, arguments.after))
    found = content(before, after, arguments.out)
    if not found["known"]:
        raise InputError(
            f"both revisions must have metrics/data/train_rows.csv and test_rows.csv, which prepare writes; received {before} and {after}"
        )
    pages.write(pages.render("data_diff.md.j2", found | {"before": before, "after": after}), arguments.out)


if __name__ == "__main__":
    main()
