"""The commit and its experiments, one line each: `make experiments`.

What differs from the commit, accuracy on val with Wilson's 95 % interval, the number of seeds, the seconds of
training where they are known, and the verdict of `make compare` beside the commit. Replicates count as seeds of
their model.
"""

import argparse
from typing import Any

from common import params
from common.errors import InputError

import pandas as pd
from ruamel.yaml import YAML

from analysis import comparison, dvc_lock, metric_files, revisions, seeds
from analysis.git import git
from analysis.revisions import Revision

WIDTHS = {"name": 20, "differs in": 34}  # of 100 columns


def values(revision: Revision) -> dict[str, Any]:
    """Every parameter by its key."""
    return dvc_lock.leaves(YAML(typ="safe").load(revision.content("params.yaml") or b"{}") or {})


def verdict(base: Revision, model: Revision) -> str:
    try:
        return comparison.compare(base, model, "val")[0].verdict
    except InputError:  # of other images, or not evaluated on val
        return "not compared"


def table() -> pd.DataFrame:
    """One row for the commit, and one for each experiment of it that is no other seed of a row before it."""
    base = revisions.resolve("HEAD")
    commit = str(base.commit)
    pattern = f"refs/exps/{commit[:2]}/{commit[2:]}/*"
    listed = git("for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname:lstrip=4)", pattern)
    found = [Revision(name, commit) for commit, _, name in (line.partition(" ") for line in listed.splitlines())]
    seconds, known, rows = metric_files.seconds(), set(), []
    for model in [base, *found]:
        training = seeds.training(model)
        if training in known:
            continue
        known.add(training)
        val, before = model.json("metrics/val.json"), values(base)
        changes = [
            f"{key.rpartition('.')[2]} {value}" for key, value in values(model).items() if before.get(key) != value
        ]
        rows.append(
            {
                "name": model.name,
                "differs in": ", ".join(changes),
                "val accuracy": "{accuracy:.2%} ({accuracy_low:.1%}–{accuracy_high:.1%})".format_map(val)
                if val
                else "",
                "seeds": len(seeds.trainings(model, "val").accuracy) if val else 0,
                "seconds": seconds.get(model.outputs().get("models/model.keras", ""), ""),
                "verdict": "" if model == base else verdict(base, model),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    params.load()  # which must be valid
    shown = table()
    for name, width in WIDTHS.items():
        shown[name] = [text if len(text) <= width else text[: width - 1] + "…" for text in shown[name]]
    print(shown.to_string(index=False, justify="left"))


if __name__ == "__main__":
    main()
