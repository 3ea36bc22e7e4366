"""The tables of docs/reproducibility.md, as Markdown, from benchmarks/."""

from typing import Any

import pandas as pd

import benchmark_files
from analysis import marked_pages, revisions, seeds

NAMED = 3  # outputs that differ; more would hide the table


def runs_table() -> str:
    """The committed training, whole and real, once more: by whom it was computed, and its bytes.

    Raises:
        InputError: benchmarks/sameness.json is of another training than dvc.lock.
    """
    with benchmark_files.results("sameness", "runs", "small", of_this_training=True) as found:
        if not found or not found["runs"]:
            return "Not measured with this recipe (`python benchmarks/sameness.py`)."
        rows = [
            {
                "training": run["run"],
                **_place(run),
                "MD5 of models/model.keras": f"`{run['md5'][:12]}…`",
                "bytes": "as committed" if run["as in dvc.lock"] else "others",
            }
            for run in found["runs"]
        ]
        others = [_on_test(run) for run in found["runs"] if "test" in run]
    return "\n\n".join([marked_pages.markdown(pd.DataFrame(rows)), *others])


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
    """All stages on few rows, natively and on imitated processors.

    Raises:
        InputError: benchmarks/sameness.json is of another training than dvc.lock.
    """
    with benchmark_files.results("sameness", "runs", "small", of_this_training=True) as found:
        if not found or not found["small"]:
            return "Not measured with this recipe (`python benchmarks/sameness.py --small`)."
        first: dict[tuple[int, int], dict[str, str]] = {}  # the outputs, by what was trained
        rows = [
            {
                "processor": f"{run['imitated']} (`{run['by']}`)" if run["imitated"] else "itself",
                **_place(run),
                "trained": f"{run['rows']:,} rows, {run['epochs']} epochs",
                "hash of all outputs": f"`{run['hash'][:12]}…`",
                "unlike the first": _unlike(
                    first.setdefault((run["rows"], run["epochs"]), run["outputs"]), run["outputs"]
                ),
            }
            for run in found["small"]
        ]
    return marked_pages.markdown(pd.DataFrame(rows))


def _place(run: dict[str, Any]) -> dict[str, str]:
    """The machine of a run."""
    return {
        "computed on": f"{run['processor']} ({run['vector instructions']})",
        "Python": run["python"],
        "PyTorch": run["torch"],
        "C library": run["C library"],
    }


def _unlike(first: dict[str, str], outputs: dict[str, str]) -> str:
    """The outputs whose hashes are not those of the first run of the same training."""
    if outputs is first:
        return ""
    paths = sorted(path for path in first | outputs if first.get(path) != outputs.get(path))
    named = ", ".join(paths[:NAMED]) + (", …" if len(paths) > NAMED else "")
    return f"{len(paths)} of {len(first | outputs)}" + (f": {named}" if paths else "")


def speed_table() -> str:
    """A training step beside the alternatives: one table for each file of benchmarks/train_step/."""
    tables = []
    for path in sorted((benchmark_files.BENCHMARKS / "train_step").glob("*.json")):
        with benchmark_files.results(f"train_step/{path.stem}", "machine", "precisions") as found:
            assert found is not None  # the file is there
            columns = {
                f"{precision}, batch {result['batch_size']}": {
                    "images a second": f"{result['images_a_second']['ours']:,}",
                    **{ratio: f"{value:.2f}" for ratio, value in result["ratios"].items()},
                }
                for precision, measured in found["precisions"].items()
                for result in measured["results"]
            }
            table = pd.DataFrame(columns).rename_axis("").reset_index()
            tables.append(f"{marked_pages.markdown(table)}\n\nMeasured on {benchmark_files.machine(found)}.")
    return "\n\n".join(tables) or "Not measured (`python benchmarks/train_step.py`)."
