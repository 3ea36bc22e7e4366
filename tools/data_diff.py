"""What differs in the data of two revisions, row by row, as Markdown: `make data-diff A=main B=workspace OUT=page.md`.

git has a hash of the pixels and the label of every row (metrics/data/). Only the picture beside OUT needs images here.
"""

import argparse
from pathlib import Path
from typing import Any

from common import arrays, files, release

import numpy as np
import pandas as pd

import pages
from analysis import figures, revisions
from analysis.marked_pages import markdown
from analysis.revisions import Revision

PARTS = ("train", "test")
CLASSES = "metrics/data/classes.csv"


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

    Of copies of an image, those that both sides have in a part and label are the same, and the others are told apart by
    their order in part and label.
    """
    every = [_numbered(table, ["part", "label", "image"]).index for table in (before, after)]
    sides = [_numbered(one.difference(other).to_frame(index=False), ["image"]) for one, other in (every, every[::-1])]
    return sides[0].join(sides[1], how="outer", suffixes=(" before", " after")).reset_index()


def _numbered(table: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The table by `key` and `copy`, the number of a row among those of one key."""
    return table.assign(copy=table.groupby(key, dropna=False).cumcount()).set_index([*key, "copy"])


def counted(table: pd.DataFrame, *columns: str) -> str:
    """A Markdown table of how many rows have each combination, the most first."""
    found = table.groupby(list(columns)).size().sort_values(ascending=False, kind="stable")
    return markdown(found.rename("images").reset_index(), names=True)


def figures_of(revision: Revision) -> dict[str, Any]:
    """Images, their share of the part and pixel statistics of each class, and the number of copies, by name."""
    columns = {"part": str, "class": str, "images": int, "pixel_mean": str, "pixel_std": str}
    classes = revision.table(CLASSES, *columns, dtype=columns)
    columns = {"where": str, "images": int, "label_differs": int}
    copies = revision.table("metrics/data/duplicates.csv", *columns, dtype=columns)
    if classes is None or copies is None:
        return {}
    found = {f"copies: {where}": f"{n:,}, {m:,} with another label" for where, n, m in copies.itertuples(index=False)}
    shares = classes["images"] / classes.groupby("part")["images"].transform("max").clip(lower=1)
    names = classes["part"].where(~classes["part"].duplicated(), classes["part"] + ", " + classes["class"])
    for row in classes.assign(name=names, share=shares).itertuples():
        found[row.name] = f"{row.images:,} ({row.share:.1%}), pixels {row.pixel_mean or '–'} ± {row.pixel_std or '–'}"
    return found


def picture(changed: pd.DataFrame, page: Path | None) -> str:
    """Draws the first changed images whose pixels are here, beside the page; the Markdown shows them, or says why not."""
    if page is None or changed.empty:
        return ""
    parts = [arrays.load(part)[0] for part in PARTS if (arrays.PREPARED / "test/images.npy").exists()]
    here = {key: image for part in parts for key, image in zip(release.short(release.hashes(part)), part, strict=True)}
    shown = changed[changed["image"].isin(here.keys())].head(25)
    if shown.empty:
        return "None of the changed images is here to be shown."
    sides = [shown[f"part {side}"].str.cat(shown[f"label {side}"], " ").fillna("none") for side in ("before", "after")]
    titles = [f"{old}\nnow: {new}" for old, new in zip(*sides, strict=True)]
    drawn = page.with_name(f"{page.stem}-data.png")
    with files.atomic_file(drawn) as unfinished:
        figures.titled(np.stack([here[image] for image in shown["image"]]), titles, unfinished)
    return f"![Changed images](<{drawn.name}>)"


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
        "picture": picture(changed, page) if all(map(len, sides)) else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="A", help="a commit, an experiment or workspace")
    parser.add_argument("after", metavar="B", nargs="?", default=revisions.WORKSPACE, help="(default: workspace)")
    parser.add_argument("--out", type=pages.file_name, metavar="FILE", help="write it here, not to the terminal")
    arguments = parser.parse_args()
    before, after = (revisions.resolve(name) for name in (arguments.before, arguments.after))
    found = content(before, after, arguments.out) | {"before": before, "after": after}
    pages.write("data_diff.md.j2", found, arguments.out)


if __name__ == "__main__":
    main()
