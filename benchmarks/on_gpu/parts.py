"""The parts of gpu.py: each takes its settings, reports figures as it goes, and ends before its deadline.

A part reports by calling `report` with all that it knows so far.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import params
from common.backend import keras
from common.errors import InputError

import numpy as np
import torch
from scipy import stats

import architectures
from on_gpu import trainings
from on_gpu.jobs import Job, Settings
from on_gpu.throughput import throughput
from on_gpu.trainings import ROOT
from training import machine
from training.batches import Batches
from training.native_model import NativeModel
from training.shards import Adder

Report = Callable[[dict[str, Any]], None]
Trained = tuple[dict[str, Any], trainings.train.Training]  # with its figures
MODES = ({"graphs": True, "strict": True}, {"graphs": False, "strict": True},
         {"graphs": True, "strict": False}, {"graphs": False, "strict": False})  # fmt: skip
SIGNIFICANT = 0.05
LONGER = 1.2  # a training on all rows may take, times one without val
ROWS = 55_000  # for training


def run_job(path: Path) -> None:
    """Runs the part that a `Job` has written to `path`."""
    imported = time.time()
    job = json.loads(path.read_text(encoding="utf-8"))
    settings = job["settings"]
    settings = Settings(**settings | {"prepared": Path(settings["prepared"]), "work": Path(settings["work"])})
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")
    start_up = {"import": round(imported - job["started"], 2), "device": round(time.time() - imported, 2)}
    result = path.with_suffix(".result.json")

    def report(found: dict[str, Any]) -> None:
        part = result.with_suffix(".part")
        part.write_text(json.dumps({"start-up seconds": start_up} | found))
        part.replace(result)

    report({})
    PARTS[job["part"]](settings, report, **job["more"])


# --- single trainings -------------------------------------------------------------------------------


def single(settings: Settings, report: Report, name: str, changes: dict[str, Any], kill_in_epoch: int | None) -> None:
    """One training with the state of each epoch on disk, and the hash of its model."""
    state = settings.work / f"{name}.state"
    found, training = trainings.once(settings, name, changes, state=state, kill_in_epoch=kill_in_epoch)
    report(found | {"md5": trainings.model_hash(training)})


def start(settings: Settings, label: str, folder: str, kill_in_epoch: int | None = None, **mode: Any) -> Job:
    """A training in a process of its own, in the mode of `settings` or another one."""
    changes = settings.recipes["base"] | settings.recipes["sameness"]
    more = {"name": folder, "changes": changes, "kill_in_epoch": kill_in_epoch}
    return Job("single", replace(settings, **mode), label, **more)


def probe(settings: Settings, report: Report) -> None:
    """The first of `MODES` in which a training succeeds; why those before it do not."""
    found: dict[str, Any] = {"machine": trainings.about_the_machine(), "failed": []}
    for number, mode in enumerate(MODES):
        result = start(settings, f"probe {number}", f"probe {number}", **mode).wait(settings.left())
        if "md5" in result:
            report(found | {"mode": mode, "training": result})
            return
        found["failed"].append({"mode": mode} | result)
        report(found)
    raise InputError("a training must succeed in one of four modes; all failed")


def sameness(settings: Settings, report: Report) -> None:
    """Hashes: twice the same training, one that was killed, one without graphs."""
    jobs = {
        "first": start(settings, "first", "first"),
        "second": start(settings, "second", "second"),
        "without graphs": start(settings, "without graphs", "eager", graphs=False),
    }
    killed = start(settings, "killed", "killed", kill_in_epoch=1).wait(settings.left())
    jobs["killed, then resumed"] = start(settings, "resumed", "killed")
    found: dict[str, Any] = {"killed": {"ended with": killed.get("ended with")}}
    for name, job in jobs.items():
        found[name] = job.wait(settings.left())
        report(found)
    hashes = {name: found[name].get("md5") for name in jobs}
    report(found | {"hashes": hashes, "same bytes": {
        name: bool(md5) and md5 == hashes["first"] for name, md5 in hashes.items() if name != "first"
    }})  # fmt: skip


# --- CPU and GPU ------------------------------------------------------------------------------------


def first_step(settings: Settings, device: str) -> dict[str, torch.Tensor]:
    """Logits and weights after one float32 step of the default network, from the same start."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (256, 28, 28, 1), np.uint8)
    labels = generator.integers(0, 10, 256).astype(np.uint8)
    keras.utils.set_random_seed(0)
    network = architectures.build("blocks", (28, 28, 1), 10, {})
    start = [variable.numpy() for variable in network.variables]
    network = architectures.build("blocks", (28, 28, 1), 10, {}, device)
    for variable, value in zip(network.variables, start, strict=True):
        variable.assign(torch.from_numpy(value).to(device))
    with keras.device(device):
        model = NativeModel(network.inputs, network.outputs[0])
        model.prepare(keras.optimizers.SGD(1.0), 0.1, "float32", Adder(4, 1, device), range(1, 4))
        (batch,) = Batches(images, labels, np.array([128.0]), np.array([64.0]), 256, 4, device)
        with torch.no_grad():
            logits = model.logits(batch.normalised(batch.images)).cpu()
        model._update(batch)
    moved = [v.value.detach().cpu() - torch.from_numpy(s) for v, s in zip(network.variables, start, strict=True)]
    return {"logits": logits, "gradient": torch.cat([change.flatten() for change in moved])}


def agreement(settings: Settings, report: Report, seeds: int = 5) -> None:
    """Whether val accuracy on GPU and CPU differ by more than seeds do (Welch's t test)."""
    machine.set_up("float32")  # before the first product on a GPU, at which PyTorch reads cuBLAS' settings for good
    device = "cuda" if torch.cuda.is_available() else "cpu"
    one, other = first_step(settings, "cpu"), first_step(settings, device)
    errors = {name: float((one[name] - other[name]).norm() / one[name].norm()) for name in one}
    found: dict[str, Any] = {"relative error of a first step in float32": errors}
    report(found)
    base = settings.recipes["base"] | settings.recipes["agreement"]
    threads = {"TRAIN_THREADS": str(max(1, (os.cpu_count() or 1) // seeds))}
    jobs = [
        Job("cpu", settings, f"cpu {seed}", threads, changes=base | {"train.seed": seed, "train.device": "cpu"})
        for seed in range(seeds)
    ]
    accuracies: dict[str, list[float]] = {"gpu": [], "cpu": []}
    for seed in range(seeds):
        result, _ = trainings.once(settings, f"gpu {seed}", base | {"train.seed": seed})
        accuracies["gpu"].append(result["last epoch"]["val_accuracy"])
        report(found | {"val accuracy": accuracies})
    for job in jobs:
        result = job.wait(settings.left())
        if "val accuracy" not in result:
            report(found | {"val accuracy": accuracies, "failed": result})
            return
        accuracies["cpu"].append(result["val accuracy"])
    difference = statistics.mean(accuracies["gpu"]) - statistics.mean(accuracies["cpu"])
    p = float(stats.ttest_ind(*accuracies.values(), equal_var=False).pvalue)
    figures = {"val accuracy": accuracies, "gpu - cpu": round(difference, 6), "p": None if np.isnan(p) else round(p, 4)}
    report(found | figures | {"within seed noise": bool(p > SIGNIFICANT)})


def cpu(settings: Settings, report: Report, changes: dict[str, Any]) -> None:
    found, _ = trainings.once(settings, f"cpu {changes['train.seed']}", changes)
    report({"val accuracy": found["last epoch"]["val_accuracy"], "seconds": found["seconds"]})


# --- recipes ----------------------------------------------------------------------------------------


def steps(candidate: dict[str, Any]) -> int:
    """Of a candidate of recipes.yaml, about."""
    with chdir(ROOT):
        chosen = params.load().train
    batch_size = candidate.get("train.batch_size", chosen.batch_size)
    pruning = candidate.get("train.data_pruning", chosen.data_pruning)
    rows = candidate.get("split.train_size", ROWS)
    return round(candidate.get("train.epochs", chosen.epochs) * (1 - pruning) * rows / batch_size)


def recipe(settings: Settings, report: Report, part: str) -> None:
    """Val chooses a candidate; what is trained of it meets the test images once."""
    plan, base = settings.recipes[part], settings.recipes["base"]
    limit, seeds = plan.get("seconds", float("inf")), plan.get("seeds", ())
    found: dict[str, Any] = {"goal": plan["goal"], "limit in seconds": plan.get("seconds"), "candidates": []}
    tried: list[Trained] = []
    for number, candidate in enumerate(plan["candidates"]):
        # the first training of a form pays for what the libraries prepare, and tells how long a step takes
        warm_up = {"split.train_size": 24 * candidate.get("train.batch_size", 256), "split.val_size": 500}
        before, _ = trainings.once(
            settings, f"{part} {number} warm-up", base | candidate | warm_up | {"train.epochs": 4}
        )
        expected = before["seconds a step in the last epoch"] * steps(candidate | settings.changes)
        longest = max(expected, *(result["seconds"] for result, _ in tried), 0.0)
        if settings.left() < expected + LONGER * len(seeds) * longest:
            found.setdefault("left out", []).append({"changes": candidate, "expected seconds": round(expected, 1)})
            report(found)
            continue
        result, training = trainings.once(settings, f"{part} {number}", base | candidate)
        result["warm-up seconds"] = before["seconds"]
        tried.append((result, training))
        found["candidates"].append(result)
        report(found)
    if not tried:
        return
    in_time = [pair for pair in tried if pair[0]["seconds"] <= limit] or tried
    best = max(in_time, key=lambda pair: pair[0]["last epoch"].get("val_accuracy", 0.0))
    found |= {"chosen by val": best[0]["changes"], "final": [], "test accuracy": []}
    report(found)
    for result, training in finals(settings, part, best) if "final" in plan else [best]:
        found["final"].append(result)
        found["test accuracy"] += trainings.test_accuracies(settings, [training])
        test, seconds = found["test accuracy"], [result["seconds"] for result in found["final"]]
        found |= {"mean": round(statistics.mean(test), 6), "n": len(test)}
        found |= {"standard deviation": round(statistics.stdev(test), 6) if len(test) > 1 else None}
        found |= {"mean seconds": round(statistics.mean(seconds), 3)}
        found |= {"reached": found["mean"] >= plan["goal"] and found["mean seconds"] <= limit}
        report(found)


def finals(settings: Settings, part: str, best: Trained) -> Iterator[Trained]:
    """The chosen candidate on all rows with each seed, as long as there is time."""
    plan, (result, _) = settings.recipes[part], best
    changes = result["changes"] | plan["final"]
    for seed in plan["seeds"]:
        if settings.left() < LONGER * result["seconds"]:
            return
        result, training = trainings.once(settings, f"{part} final {seed}", changes | {"train.seed": seed})
        yield result, training


def heinit(settings: Settings, report: Report) -> None:
    """The published system on this device in float32; it meets the test images once."""
    found, training = trainings.once(settings, "heinit", {"train.device": "auto"}, base=ROOT / "published/heinit")
    report(found | {"test accuracy": trainings.test_accuracies(settings, [training])[0]})


PARTS: dict[str, Callable[..., None]] = {
    "probe": probe,
    "sameness": sameness,
    "agreement": agreement,
    "throughput": throughput,
    "fast": lambda settings, report: recipe(settings, report, "fast"),
    "accurate": lambda settings, report: recipe(settings, report, "accurate"),
    "record": lambda settings, report: recipe(settings, report, "record"),
    "heinit": heinit,
    "single": single,
    "cpu": cpu,
}
