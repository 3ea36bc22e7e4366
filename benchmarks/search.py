"""What `make sweep` proposes (TPE), and a Gaussian process, beside random search at the same number of trials.

Five sweeps of each, with the space and trials of sweep.yaml, on a small setting: `plain`, 6,000 training rows of the
data that is prepared here, two epochs, val alone. All begin with the same trial, and with the same seeds. What counts
is the best val accuracy after each trial, whatever metric sweep.yaml names.

`python benchmarks/search.py` (after `make repro`) writes benchmarks/search.json after each trial, and continues where
it was stopped. 180 short trainings: about 45 minutes on two idle cores.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from common import files, params

import optuna
from optuna.trial import create_trial

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

import benchmark_files
import rerun
import search_space
import sweep
from analysis import dvc_lock
from conditions import machine

RESULTS = Path("benchmarks/search.json")
RERUN = Path(".cache/search")
SETTING = {
    "model.architecture": "plain",
    "split.train_size": 6000,
    "train.epochs": 2,
    "train.least_steps": 1,
    "train.progressive_resizing.share": 0.0,  # plain takes one size only
    "evaluate.parts": ["val"],
}
SAMPLERS = {
    "Gaussian process": lambda search, seed: optuna.samplers.GPSampler(n_startup_trials=search.trials // 4, seed=seed),
    "TPE": sweep.guided,
    "random": lambda search, seed: optuna.samplers.RandomSampler(seed),
}


def accuracy(changes: dict[str, Any]) -> float:
    rerun.prepare(RERUN, changes)
    return rerun.train_and_evaluate(RERUN, "val")[1]["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=benchmark_files.positive, default=5, help="of each sampler")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    current = params.changed(params.load(), SETTING)
    search = search_space.load(current).model_copy(update={"metric": "accuracy"})
    baseline = search.encoded(dvc_lock.leaves(current.model_dump()))
    key = {"machine": machine(), "setting": SETTING, "search": search.model_dump(mode="json")}
    results: dict[str, Any] = benchmark_files.earlier(RESULTS, **key) or key | {"runs": []}
    for number in range(arguments.sweeps):
        seeded = search.model_copy(update={"seed": number})
        for name, sampler in SAMPLERS.items():
            run = next((r for r in results["runs"] if (r["sampler"], r["seed"]) == (name, number)), None)
            if run is None:
                run = {"sampler": name, "seed": number, "trials": []}
                results["runs"].append(run)
            while len(run["trials"]) < search.trials:
                distributions = search.distributions()
                done = [create_trial(**trial, distributions=distributions) for trial in run["trials"]]
                chosen = sweep.proposed(seeded, baseline, done, sampler)
                value = accuracy(SETTING | search.decoded(chosen))
                run["trials"].append({"params": chosen, "value": value})
                print(f"{name}, sweep {number}, trial {len(done)}: {value}", flush=True)
                files.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
