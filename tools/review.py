"""The effect of a change to the model, as Markdown: `make review BASE=main`; `OUT=` writes it to a file.

The working directory is compared with the commit at which the change left BASE. Everything comes from
git, so a clone without data will do; what is not there is named.
"""

import argparse
from pathlib import Path
from typing import Any

from common.errors import InputError

import pandas as pd

import check
import data_diff
import pages
from analysis import comparison, metric_files, revisions
from analysis.git import git
from analysis.marked_pages import code, escaped, markdown
from analysis.revisions import Revision

EXAMPLES = 10  # images that a table lists
VAL_CURVE = "metrics/curves/plots/metrics/val/accuracy.tsv"


def quoted(table: pd.DataFrame) -> str:
    """A Markdown table whose first column is code."""
    name = table.columns[0]
    return markdown(table.assign(**{name: table[name].map(code)}), names=True)


def metric_changes(before: Revision, after: Revision) -> pd.DataFrame:
    """The figures in metrics/ that differ, with their difference."""
    sides = []
    for revision in (before, after):
        parts = {part: revision.json(f"metrics/{part}.json") for part in ("train", *metric_files.PARTS)}
        sides.append({f"{part} {name}": value for part in parts for name, value in parts[part].items()})
    table = pages.unequal("metric", *sides)
    numbers = table[["before", "after"]].apply(pd.to_numeric, errors="coerce")
    return table.assign(difference=(numbers["after"] - numbers["before"]).map("{:+.4g}".format, na_action="ignore"))


def curves(*models: Revision) -> list[list[float]]:
    """Accuracy on val by epoch (%), of each model that has a curve."""
    tables = [model.table(VAL_CURVE, "accuracy", sep="\t", dtype={"accuracy": float}) for model in models]
    points = [table["accuracy"] for table in tables if table is not None and len(table)]
    return [(100 * accuracy.clip(0, 1).fillna(0)).round(2).tolist() for accuracy in points]


def newly(table: pd.DataFrame, right: bool) -> pd.DataFrame:
    """The images that became right, or wrong, those predicted with most confidence first."""
    was, now = (table[name] == table["label"] for name in ("before", "after"))
    rows = table[(now & ~was) if right else (was & ~now)]
    return rows.sort_values("confidence", ascending=False, kind="stable").reset_index().head(EXAMPLES)


def compared(before: Revision, after: Revision) -> dict[str, Any]:
    """The verdict and all that follows from predictions, or why there is none."""
    part, why = "test", "nothing is chosen among changes here"
    for revision in (before, after):
        if "test" not in revision.predicted():
            part, why = "val", f"{revision} has no predictions on test"
    try:
        table = comparison.predictions(before, after, part)
    except InputError as error:
        return {"verdict": "not compared", "reason": escaped(f"{error}."), "found": None}
    result, classes = comparison.compare(before, after, part)
    remedy = f" {comparison.remedy(before, after)}" if result.verdict == "not decided" else ""
    confusions = comparison.confusions(table).head(EXAMPLES).rename(columns={"label": "true class"})
    return {
        "verdict": result.verdict,
        "reason": f"{result.reason}{remedy}",
        "found": result,
        "part": part,
        "why_part": why,
        "classes": classes,
        "confusions": markdown(confusions, names=True),
        "images": {"Newly right": newly(table, right=True), "Newly wrong": newly(table, right=False)},
    }


def review(base: str, page: Path | None = None) -> dict[str, Any]:
    """What the template shows.

    Raises:
        InputError: git does not know BASE, or a file of a revision is damaged.
    """
    fork = git("merge-base", base, "HEAD")
    clean = not git("status", "--porcelain", "--untracked-files=no")
    before, after = (Revision(base, fork), revisions.resolve("HEAD" if clean else revisions.WORKSPACE))
    problems = list(check.lock_problems())
    found = compared(before, after)
    return {
        **found,
        "verdict": "not reproduced" if problems else found["verdict"],
        "before": before,
        "after": after,
        "problems": problems,
        "parameters": quoted(pages.unequal("parameter", before.parameters(), after.parameters())),
        "code": quoted(pages.unequal("what stages depend on", before.code(), after.code())),
        "metrics": markdown(metric_changes(before, after), names=True),
        "curves": curves(before, after),
        "data": markdown(pages.unequal("output", before.data(), after.data()), names=True),
        "rows": data_diff.content(before, after, page),
        "without_lock": [revision for revision in (before, after) if not revision.lock()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", metavar="BASE", help="the branch or commit that this one left")
    parser.add_argument("--out", type=pages.file_name, metavar="FILE", help="write it here, not to the terminal")
    arguments = parser.parse_args()
    content = review(arguments.base, arguments.out)
    pages.write("review.md.j2", content, arguments.out)
    if arguments.out:
        print(f"{arguments.out}: {content['verdict']}")


if __name__ == "__main__":
    main()
