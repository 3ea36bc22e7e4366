"""The commit and its experiments, one line each: `make experiments`.

What differs from the commit, accuracy on val with Wilson's 95 % interval, the number of seeds, the seconds of training
where they are known, and the verdict of `make compare` beside the commit. Replicates count as seeds of their model.
"""

import argparse
import re
from pathlib import Path

from common.errors import InputError, one_line

import pandas as pd

from analysis import comparison, dvc_lock, metric_files, revisions, seeds
from analysis.revisions import Revision

SECONDS = Path(".cache/checkpoints/seconds.csv")  # of trainings here that nothing interrupted, by the model's hash
PARENTS = re.compile(r".*/|^\w+\.(?!txt$)(\w+\.(?=\w+\.))*")  # of a parameter, but for the last, or of a file
ACCURACY = "{accuracy:.2%} ({accuracy_low:.1%}–{accuracy_high:.1%})"
WIDTHS = {"name": 16, "differs in": 24}  # of 100 columns


def verdict(base: Revision, model: Revision) -> str:
    try:
        return comparison.compare(base, model, "val")[0].verdict
    except InputError:
        return "other images" if {"val"} <= {*base.predicted()} & {*model.predicted()} else "not on val"


def table() -> pd.DataFrame:
    """One row for the commit, and one for each experiment of it that is no other seed of a row before it."""
    base = revisions.resolve("HEAD")
    commit, before = str(base.commit), base.parameters() | base.code()
    models: dict[str | None, Revision] = {}
    for model in [base, *revisions.experiments(f"refs/exps/{commit[:2]}/{commit[2:]}/*")]:
        models.setdefault(seeds.training(model), model)
    logged = SECONDS.read_text(encoding="utf-8").splitlines() if SECONDS.exists() else []
    seconds = dict(line.partition(",")[::2] for line in logged)
    rows = []
    for model in models.values():
        known = model.parameters() | model.code()
        other = [key for key in before | known if before.get(key, "new") != known.get(key, "removed")]
        changes = [f"{PARENTS.sub('', key)} {known.get(key, 'removed')}" for key in other]
        val = model.json("metrics/val.json", *metric_files.FIGURES)
        rows.append(
            {
                "name": one_line(model.name),
                "differs in": one_line(", ".join(changes)),
                "val accuracy": ACCURACY.format_map(val) if val else "",
                "seeds": len(seeds.trainings(model, "val").accuracy) if val else 0,
                "seconds": seconds.get(model.outputs().get(dvc_lock.MODEL, ""), ""),
                "verdict": "" if model == base else verdict(base, model),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    shown = table()
    for name, width in WIDTHS.items():
        shown[name] = [text if len(text) <= width else text[: width - 1] + "…" for text in shown[name]]
    print(shown.to_markdown(index=False, tablefmt="plain", disable_numparse=True))


if __name__ == "__main__":
    main()
