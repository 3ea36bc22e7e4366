"""How much the figures of metrics/ depend on the seed: the same training with five of them.

`make noise` writes metrics/noise.csv, the figures of each seed on val and test, metrics/noise.json, their
mean, standard deviation and n, and metrics/noise_classes.csv, the recall of each class. The first seed is
train.seed, whose figures the pipeline has already; the next four are experiments (tools/replicate.py). A second
call goes on where it was stopped.
"""

from pathlib import Path

from common import files

import pandas as pd

import replicate
from analysis import metric_files, revisions, seeds

SEEDS = 5
METRICS = Path("metrics")


def main() -> None:
    metric_files.by_part(METRICS)  # which must be there
    models = replicate.replicate(revisions.HERE, SEEDS).values()
    table = pd.DataFrame([row for model in models for row in seeds.figures(model)])
    classes = pd.DataFrame([row for model in models for row in seeds.recalls(model)])
    for name, content in (("noise.csv", table), ("noise_classes.csv", classes)):
        with files.atomic_file(METRICS / name) as part:
            content.to_csv(part, index=False)
    files.write_json(METRICS / "noise.json", metric_files.summary(table))


if __name__ == "__main__":
    main()
