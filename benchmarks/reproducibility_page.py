"""The tables of docs/reproducibility.md, as Markdown, from benchmarks/."""

from typing import Any

import pandas as pd

import benchmark_files
import sameness
from analysis import metric_files, revisions, seeds
from analysis.marked_pages import markdown


def runs_table() -> str:
    """The committed training, whole and real, once more; errors are those of `benchmark_files.results`."""
    found = benchmark_files.results("sameness", of_this_training=True)
    if not found.get("runs"):
        return "Not measured with this recipe (`python benchmarks/sameness.py`)."
    rows = [
        {
            "training": run["run"],
            **_place(run),
            "MD5 of models/model.keras": f"`{run['md5'][:12]}…`",
            "bytes": "as committed" if sameness.is_committed(run) else "others",
        }
        for run in found["runs"]
    ]
    differing = [_on_test(run) for run in found["runs"] if "test" in run]
    missing = [name for name in sameness.RUNS if name not in [run["run"] for run in found["runs"]]]
    said = [f"Not run with this training yet: {', '.join(missing)}."] if missing else []
    return "\n\n".join([markdown(pd.DataFrame(rows)), *differing, *said])


def _on_test(run: dict[str, Any]) -> str:
    """How the predictions of a run with other bytes differ, beside the noise of seeds."""
    change = run["test"]["accuracy"]
    text = (
        f"{run['run']} on {run['processor']}: {run['test']['predictions changed']:,} test predictions changed, "
        f"test accuracy {100 * change:+.2f} points"
    )
    runs = seeds.noise(revisions.HERE)
    if runs is None:
        return f"{text}; the spread over seeds is not measured (`make noise`)."
    accuracy = runs[runs["part"] == "test"]["accuracy"]
    return f"{text}; the standard deviation over {len(accuracy)} seeds is {100 * accuracy.std():.2f} points."


def processors_table() -> str:
    """All stages on few rows, natively and on imitated processors; errors are those of `runs_table`."""
    found = benchmark_files.results("sameness", of_this_training=True)
    if not found.get("small"):
        return "Not measured with this recipe (`python benchmarks/sameness.py --small`)."
    rows = [
        {
            "processor": f"{run['imitated']} (`{run['by']}`)" if run["imitated"] else "itself",
            **_place(run),
            "trained": f"{run['rows']:,} rows, {run['epochs']} epochs",
            "hash of all outputs": f"`{sameness.one_hash(run['outputs'])[:12]}…`",
            "other bytes than in the first with as many": "–"
            if run is sameness.first_as_large(run, found["small"])
            else listed(sameness.other_outputs(run, found["small"])),
        }
        for run in found["small"]
    ]
    return markdown(pd.DataFrame(rows))


def operations_table() -> str:
    """Single operations and optimizers, here and elsewhere; errors are those of `runs_table`."""
    found = benchmark_files.results("arithmetic")
    if not found:
        return "Not measured (`python benchmarks/arithmetic.py`)."
    first = found["runs"][0]["hashes"]
    rows = []
    for run in found["runs"]:
        others = [name for name, value in run["hashes"].items() if first.get(name, value) != value]
        rows.append(
            {
                "processor": f"emulated (`{run['under']}`)" if run["under"] else "itself",
                **_place(run),
                "operations and optimizers": len(run["hashes"]),
                "other bits than in the first row": listed(others),
            }
        )
    return markdown(pd.DataFrame(rows))


def listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _place(run: dict[str, Any]) -> dict[str, str]:
    """The machine of a run."""
    return {
        "computed on": f"{run['processor']} ({run['vector instructions']})",
        "Python": run["python"],
        "PyTorch": run["torch"],
        "C library": run["C library"],
    }


def speed_table() -> str:
    """A training step beside the alternatives: one table for each file of benchmarks/train_step/."""
    tables = []
    for path in sorted((benchmark_files.BENCHMARKS / "train_step").glob("*.json")):
        found = metric_files.read(path)
        columns = {
            f"{precision}, batch {result['batch_size']}": {
                "images a second": f"{result['images_a_second']['ours']:,}",
                **{ratio: f"{value:.2f}" for ratio, value in result["ratios"].items()},
            }
            for precision, measured in found["precisions"].items()
            for result in measured["results"]
        }
        table = pd.DataFrame(columns).rename_axis("").reset_index()
        commits = sorted({measured["commit"] for measured in found["precisions"].values()})
        tables.append(f"{markdown(table)}\n\nMeasured on {benchmark_files.machine(found)}, at {', '.join(commits)}.")
    return (
        "\n\n".join(tables)
        or "Not measured (`python benchmarks/train_step.py`, once more with `--precision bfloat16`)."
    )
