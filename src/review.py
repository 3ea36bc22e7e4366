"""What a change to the model did, as Markdown: `make review BASE=main`, and `OUT=` writes it to a file.

The working directory is held against the commit at which the change left BASE. Everything comes from git,
so a clone without data will do; what could not be had is named.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
from pathlib import Path
from typing import Any

import pandas as pd

import check
from analysis import comparison, figures, pages, revisions
from analysis.revisions import Side
from common import arrays, files
from common.errors import InputError

# isort: split
from dvc.repo import Repo

EXAMPLES = 10
PICTURED = 25
VAL_CURVE = "metrics/curves/plots/metrics/val/accuracy.tsv"


def changed(diff: dict[str, Any]) -> list[dict[str, Any]]:
    """Name, old and new value of each entry in DVC's diff of parameters or metrics, by name."""
    rows = []
    for file, values in diff.get("diff", {}).items():
        prefix = "" if file == "params.yaml" else f"{Path(file).stem} "
        rows += [
            {
                "name": f"{prefix}{name}",
                "old": "–" if value.get("old") is None else value["old"],
                "new": "–" if value.get("new") is None else value["new"],
                "difference": f"{value['diff']:+.4g}" if "diff" in value else "",
            }
            for name, value in values.items()
        ]
    return sorted(rows, key=lambda row: row["name"])


def curves(before: Side, after: Side) -> dict[str, Any] | None:
    """Accuracy on val by epoch (%), of both sides; None where a side has none."""
    tables = [side.table(VAL_CURVE, "accuracy", sep="\t") for side in (before, after)]
    if any(table is None or table.empty for table in tables):
        return None
    found = [(100 * table["accuracy"]).round(2).tolist() for table in tables if table is not None]
    return {
        "before": found[0],
        "after": found[1],
        "low": int(min(map(min, found))),
        "high": int(max(map(max, found))) + 1,
        "epochs": len(found[0]) if len(found[0]) == len(found[1]) else None,
        # an axis on which both have their points at whole numbers: Mermaid adds up steps
        "end": max(1, (len(found[0]) - 1) * (len(found[1]) - 1)),
    }


def data_changes(before: Side, after: Side) -> list[dict[str, str]]:
    """The outputs before training that differ, by the start of their hash, and the images by part."""
    old, new = before.outputs(), after.outputs()
    rows = [
        {"path": path, "old": old.get(path, "–")[:7], "new": new.get(path, "–")[:7]}
        for path in sorted(old.keys() | new.keys())
        if path.startswith("data/") and old.get(path) != new.get(path)
    ]
    counted = [side.table("metrics/data/classes.csv", "part", "images") for side in (before, after)]
    sizes = [
        {} if table is None else table.groupby("part", sort=False)["images"].max().to_dict()
        for table in counted
    ]
    for part in dict.fromkeys([*sizes[0], *sizes[1]]):
        if sizes[0].get(part) != sizes[1].get(part):
            rows.append(
                {
                    "path": f"{part} images",
                    "old": f"{sizes[0].get(part, 0):,}",
                    "new": f"{sizes[1].get(part, 0):,}",
                }
            )
    return rows


def code_changes(before: Side, after: Side) -> list[dict[str, str]]:
    """The files of code that the stages depend on and that differ, with what became of them."""
    old, new = before.code(), after.code()
    return [
        {
            "path": path,
            "what": "new" if path not in old else "gone" if path not in new else "changed",
        }
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def newly(table: pd.DataFrame, right: bool) -> pd.DataFrame:
    """The images that became right, or wrong, those named with most confidence first."""
    was, now = (table[name] == table["label"] for name in ("before", "after"))
    rows = table[(now & ~was) if right else (was & ~now)]
    return rows.sort_values("confidence", ascending=False, kind="stable").reset_index()


def picture(wrong: pd.DataFrame, part: str, page: Path | None) -> str:
    """Draws the first newly wrong images beside the page, and says in Markdown what was done."""
    folder = "test" if part == "test" else "train"
    if wrong.empty or page is None:
        return ""
    if not (arrays.PREPARED / folder).exists():
        return "The images are not here; `make repro` or `dvc pull` brings them."
    images, labels = arrays.load(folder)
    first = wrong.head(PICTURED)
    names = dict(enumerate(arrays.load_class_names()))
    if pd.Series(labels).reindex(first["id"]).map(names).tolist() != first["label"].tolist():
        return "The images that are here are not those of the predictions."
    titles = [f"true: {row.label}\nnow: {row.after}" for row in first.itertuples()]
    drawn = page.with_suffix(".png")
    with files.whole_file(drawn) as unfinished:
        figures.titled(images[first["id"].to_numpy()], titles, unfinished)
    return f"![The newly wrong images]({drawn.name})"


def compared(before: Side, after: Side, page: Path | None) -> dict[str, Any]:
    """The verdict and all that follows from predictions, or why there is none."""
    found = {side: side.predicted() for side in (before, after)}
    part, why = "test", "nothing is chosen among changes here"
    missing = [str(side) for side, parts in found.items() if "test" not in parts]
    if missing:
        part, why = "val", f"{missing[0]} has no predictions on test"
    try:
        table = comparison.predictions(before, after, part)
    except InputError as error:
        return {"verdict": "not compared", "reason": f"{error}.", "found": None}
    spread = comparison.noise((before, after), part)
    result = comparison.overall(table, spread)
    wrong = newly(table, right=False)
    return {
        "verdict": result.verdict,
        "reason": result.reason,
        "found": result,
        "part": part,
        "why_part": why,
        "classes": comparison.by_class(table, spread).to_dict("records"),
        "seeds_of_classes": "recall" in spread,
        "confusions": comparison.confusions(table).head(EXAMPLES).to_dict("records"),
        "images": {
            "Newly right": newly(table, right=True).head(EXAMPLES).to_dict("records"),
            "Newly wrong": wrong.head(EXAMPLES).to_dict("records"),
        },
        "picture": picture(wrong, part, page),
    }


def review(base: str, page: Path | None) -> dict[str, Any]:
    """What the template shows.

    Raises:
        InputError: BASE is not there, or what git has of a side is damaged.
    """
    fork = revisions.git("merge-base", base, "HEAD")
    clean = not revisions.git("status", "--porcelain", "--untracked-files=no")
    before, after = Side(base, fork), revisions.side("HEAD" if clean else revisions.WORKSPACE)
    with Repo() as repo:
        parameters = changed(repo.params.diff(a_rev=fork, b_rev="workspace"))
        metrics = changed(repo.metrics.diff(a_rev=fork, b_rev="workspace"))
    problems = list(check.lock_problems())
    found = compared(before, after, page)
    return {
        **found,
        "verdict": "not reproduced" if problems else found["verdict"],
        "before": before,
        "after": after,
        "problems": problems,
        "code": code_changes(before, after),
        "parameters": parameters,
        "metrics": metrics,
        "curves": curves(before, after),
        "data": data_changes(before, after),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", metavar="BASE")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write it here, not to the terminal"
    )
    arguments = parser.parse_args()
    content = review(arguments.base, arguments.out)
    text = pages.render("review.md.j2", content)
    if arguments.out is None:
        print(text)
        return
    with files.whole_file(arguments.out) as unfinished:
        unfinished.write_text(text, "utf-8")
    print(f"{arguments.out}: {content['verdict']}")


if __name__ == "__main__":
    main()
