"""How much the figures of metrics/ depend on the seed: the same training with five of them.

`make noise` writes metrics/noise.csv, the figures of each seed on val and test, metrics/noise.json, their
mean, standard deviation and n, and metrics/noise_classes.csv, the recall of each class. The first seed is
train.seed, whose figures the pipeline has already; the next four are trained here, one after the other. A
second call goes on where it was stopped.
"""

import shutil
from pathlib import Path

from common import files, params

import pandas as pd

from analysis import metric_files, rerun

SEEDS = 5
METRICS = Path("metrics")
RERUNS = Path(".cache/noise")


def main() -> None:
    first = params.load().train.seed
    folder = RERUNS / rerun.key()
    rows, recalls = metric_files.rows(METRICS, first), metric_files.recalls(METRICS, first)
    for seed in range(first + 1, first + SEEDS):
        trained = folder / str(seed)
        if not (trained / "metrics/test.json").exists():  # what a run writes last
            print(f"seed {seed} of {first} to {first + SEEDS - 1}", flush=True)
            rerun.run(trained, {"train.seed": seed})
        rows += metric_files.rows(trained / "metrics", seed)
        recalls += metric_files.recalls(trained / "metrics", seed)
    table = pd.DataFrame(rows)
    classes = pd.DataFrame(recalls)[["seed", "part", "class", "recall"]]
    for name, content in (("noise.csv", table), ("noise_classes.csv", classes)):
        with files.atomic_file(METRICS / name) as part:
            content.to_csv(part, index=False)
    files.write_json(METRICS / "noise.json", metric_files.summary(table))
    shutil.rmtree(RERUNS, ignore_errors=True)


if __name__ == "__main__":
    main()
