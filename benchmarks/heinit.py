"""How long the committed recipe trains, beside stock Keras with the published system `heinit`.

That system trains 50 epochs in batches of 32. Both are measured in one run, step by step in turn, and
the median step is multiplied by the number of steps, on the same 60,000 rows; of the recipe's steps those
on smaller images by themselves.

`python benchmarks/heinit.py` prints the ratio and writes benchmarks/heinit.json.
"""

import json
import math
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from train_step import CLASSES, SHAPE, machine

from common import files, params

# isort: split
import keras
import torch

import architectures
import train
from training.batches import resized
from training.callbacks import ProgressiveResizing
from training.machine import choose_precision, set_up
from training.step import NativeModel

ROWS, ROUNDS, STEPS = 60_000, 10, 4
EPOCHS, BATCH_SIZE = 50, 32  # of heinit


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, *SHAPE), torch.randint(CLASSES, (size,))


def main() -> None:
    chosen = params.load()
    settings = chosen.train
    set_up(settings.threads)
    name = chosen.model.architecture
    default = architectures.build(name, SHAPE, CLASSES, chosen.model.options.get(name, {}))
    ours = NativeModel(default.inputs, default.outputs[0])
    ours.prepare(
        train.make_optimizer(
            settings.optimizer,
            settings.learning_rate,
            settings.optimizer_options.get(settings.optimizer, {}),
        ),
        settings.label_smoothing,
        choose_precision(settings.precision, "cpu"),
    )
    ours.reset_metrics()
    stock = architectures.build("heinit", SHAPE, CLASSES, {})
    stock.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, labels = batch(settings.batch_size)
    scale, share = settings.progressive_resizing.scale, settings.progressive_resizing.share
    small_epochs = ProgressiveResizing(scale, share, settings.epochs, []).epochs
    small = resized(images, scale)
    few_images, few_labels = batch(BATCH_SIZE)
    left_out = round(settings.data_pruning * ROWS)
    pruning = (torch.ones(settings.batch_size), lambda losses: None) if left_out else ()
    works = {
        "ours": lambda: ours.train_step((images, labels, *pruning)),
        "ours, smaller images": lambda: ours.train_step((small, labels, *pruning)),
        "stock": lambda: stock.train_on_batch(few_images, few_labels),
    }
    times: dict[str, list[float]] = {who: [] for who in works}
    for turn in range(ROUNDS + 1):  # the first warms up and does not count
        for who, work in works.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                work()
            if turn:
                times[who].append((time.perf_counter() - start) / STEPS)
    step = {who: statistics.median(all_of_one) for who, all_of_one in times.items()}
    steps_an_epoch = math.ceil((ROWS - left_out) / settings.batch_size)
    steps = {
        "ours": (settings.epochs - small_epochs) * steps_an_epoch,
        "ours, smaller images": small_epochs * steps_an_epoch,
        "stock": EPOCHS * math.ceil(ROWS / BATCH_SIZE),
    }
    seconds = {who: step[who] * steps[who] for who in step}
    all_of_ours = seconds["ours"] + seconds["ours, smaller images"]
    result = {
        "seconds_a_step": {who: round(value, 5) for who, value in step.items()},
        "steps": steps,
        "seconds": {who: round(value) for who, value in seconds.items()},
        "stock / ours": round(seconds["stock"] / all_of_ours, 2),
        "machine": machine(),
    }
    print(json.dumps(result, indent=1))
    files.write_json(Path("benchmarks/heinit.json"), result)


if __name__ == "__main__":
    main()
