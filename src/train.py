"""Stage 4: trains the chosen architecture on the train rows and watches it on the val rows.

The environment variables TRAIN_THREADS and TRAIN_PROCESSES say who computes it (docs/interruption.md).
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common import arrays, classes, files, inputs, locks, params
from common.backend import keras
from common.errors import InputError, first_line

import numpy as np
import torch

import architectures
from training import checkpoint, machine, model_file, processes, temperature
from training.adam import Adam
from training.augmentation import Augmentation
from training.batches import Batches, resized
from training.callbacks import Curves, LearningRate, Progress, ProgressiveResizing, Weights
from training.muon import Muon
from training.native_model import NativeModel
from training.shards import Adder

VAL_BATCH_SIZE, VAL_SHARDS = 1000, 8
COUNTS = "_steps", "_frequency"  # ends of the names of options that Keras takes as integers alone


def normalisation(images: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C,) to normalise raw pixels with.

    Args:
        images: (N, H, W, C) uint8, the training rows alone.
        kind: "standard" computes them from the images; "unit" gives pixels / 255.
    """
    channels = images.shape[-1]
    if kind == "unit":
        return np.zeros(channels), np.full(channels, 255.0)
    # exact, from counts of the 256 values; a thousand images at a time, since NumPy's copy is eight times as large
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), 1000):
        pixels = images[start : start + 1000].reshape(-1, channels)
        counts += [np.bincount(pixels[:, c], minlength=256) for c in range(channels)]
    total, values = counts[0].sum(), np.arange(256)
    mean = counts @ values / total
    std = np.sqrt(counts @ values**2 / total - mean**2)
    return mean, np.where(std > 0, std, 1.0)  # a channel of one value stays as it is


def make_optimizer(name: str, learning_rate: float | None, options: dict) -> tuple[keras.Optimizer, float]:
    """One of Keras' optimizers by its lower-case name, or `Muon`, and its learning rate; what is None is as Keras has it."""
    kind = {"adam": Adam, "muon": Muon}.get(name) or type(keras.optimizers.get(name))  # its Muon leaves kernels out
    options = {k: int(v) if k.endswith(COUNTS) and v % 1 == 0 else v for k, v in options.items() if v is not None}
    try:
        optimizer = kind(**options | ({"learning_rate": learning_rate} if learning_rate else {}))
        return optimizer, learning_rate or options.get("learning_rate") or float(optimizer.learning_rate.numpy())
    except (ValueError, TypeError) as error:
        raise InputError(
            f"train.optimizer_options.{name} must fit {name}; received {options}: {first_line(error)}"
        ) from None


class Training(NamedTuple):
    """What a training has before its first step."""

    settings: params.Train  # as read once: params.yaml may be edited meanwhile
    fingerprint: str  # of everything that its bytes depend on
    device: str
    train: Batches
    val: Batches
    mean: np.ndarray  # (C,) of raw train pixels, as `std`
    std: np.ndarray
    class_names: list[str]
    network: keras.Model  # from normalised images to logits; becomes a part of the model file
    model: NativeModel  # trains the weights of `network`
    learning_rate: LearningRate


def set_up(precision: str | None = None) -> Training:
    """Reads parameters and data, makes model and optimizer, and seeds every generator.

    Args:
        precision: in the place of `train.precision`.

    Raises:
        InputError: data or parameters are wrong, or differ between machines.
    """
    chosen = params.load()
    settings = chosen.train
    precision = precision or settings.precision
    device = machine.choose_device(settings.device)
    machine.set_up(precision)
    # before anything can fail: only processes that have joined notice when one of them ends
    processes.join(device)
    # one seed, one independent stream for each purpose
    seeds = np.random.SeedSequence(settings.seed).generate_state(2 + settings.shards)
    init_seed, order_seed, augmentation_seed, *shard_seeds = (int(word) for word in seeds)
    train, val, mean, std = load_batches(settings, device, order_seed, augmentation_seed)
    class_names = arrays.load_class_names()
    name = chosen.model.architecture
    shape, options = tuple(train.images.shape[1:]), chosen.model.options.get(name, {})
    build = partial(architectures.build, name, shape, len(class_names), options, device)
    # before the first epoch, not after the last; and before the seed
    model_file.refuse_custom_layers(build())
    keras.utils.set_random_seed(init_seed)
    network = build()
    if network.output_shape != (None, len(class_names)):
        raise InputError(f"model.architecture must give (None, {len(class_names)}); received {network.output_shape}")
    threads = machine.number("TRAIN_THREADS", max(1, machine.cores() // processes.on_this_machine()))
    adder = Adder(settings.shards, threads, device)
    with keras.device(device):
        model = NativeModel(network.inputs, network.outputs[0], name=name)
        optimizer, peak = make_optimizer(
            settings.optimizer, settings.learning_rate, settings.optimizer_options.get(settings.optimizer, {})
        )
        model.prepare(optimizer, settings.label_smoothing, precision, adder, shard_seeds)
    learning_rate = LearningRate(peak, settings.schedule, settings.warmup, settings.epochs * len(train))
    arithmetic = machine.arithmetic(precision, device, getattr(optimizer, "exact_roots", True))
    if (precision, device) == ("float32", "cpu") and not arithmetic.startswith("portable") and not processes.rank():
        cause = f"PyTorch {torch.__version__}" if "avx2" in machine.vector_instructions() else machine.processor()
        print(
            f"{cause} does not compute as PyTorch {machine.KNOWN_VERSION} does on x86-64 processors with AVX2: "
            "the last bits will be others than there",
            file=sys.stderr,
        )
    fingerprint = checkpoint.fingerprint(
        [str(chosen.model), str(settings), arithmetic, class_names],
        [data.numpy(force=True) for part in (train, val) for data in (part.images, part.labels)],
    )
    if len(set(processes.gather(fingerprint))) > 1:
        raise InputError(
            "all machines must have the same parameters, data, code and libraries, and the same processor where "
            "arithmetic is not portable; received machines that differ"
        )
    return Training(settings, fingerprint, device, train, val, mean, std, class_names, network, model, learning_rate)


def load_batches(
    settings: params.Train, device: str, order_seed: int, draw_seed: int
) -> tuple[Batches, Batches, np.ndarray, np.ndarray]:
    """Batches of train and of val, and the mean and standard deviation (C,) of raw train pixels that normalise both."""
    images, labels = arrays.load("train")
    train_rows, val_rows = (arrays.load_rows(name, len(images)) for name in ("train", "val"))
    train_images = images[train_rows]
    mean, std = normalisation(train_images, settings.normalisation)
    changes = dict(settings.augmentation)
    changes["cutout"] = round(changes["cutout"] * min(28, *images.shape[1:3]) / 28)  # not all of a small image
    augmentation = Augmentation(**changes, rows=len(train_rows), seed=draw_seed, device=device)
    how = settings.batch_size, settings.shards, device, augmentation, order_seed, settings.data_pruning
    train = Batches(train_images, labels[train_rows], mean, std, *how, settings.least_steps)
    val_shards = 1 if device == "cuda" else VAL_SHARDS  # a GPU computes a batch side by side
    val = Batches(images[val_rows], labels[val_rows], mean, std, VAL_BATCH_SIZE, val_shards, device)
    return train, val, mean, std


def make_resizing(training: Training) -> ProgressiveResizing:
    """As params.yaml has it, or none, with a warning, where the model takes one image size only."""
    progressive, parts = training.settings.progressive_resizing, [training.train, training.val]
    resizing = ProgressiveResizing(progressive.scale, params.small_epochs(progressive, training.settings.epochs), parts)
    if not resizing.epochs:
        return resizing
    small = resized(torch.zeros_like(training.train.images[:1]), progressive.scale)  # (1, h, w, C)
    try:
        with torch.no_grad(), keras.device(training.device):
            training.model.logits(small)
    except (RuntimeError, ValueError):  # PyTorch's and Keras' errors for shapes that do not fit
        resizing.epochs = 0
        if not processes.rank():
            print(
                f"{training.model.name} cannot take images of {small.shape[1]} × {small.shape[2]}: "
                "trained without train.progressive_resizing",
                file=sys.stderr,
            )
    return resizing


def fit(
    training: Training, resizing: ProgressiveResizing, reporters: list[keras.callbacks.Callback], state_file: Path
) -> None:
    """Trains, from the epoch after the last one that `state_file` has.

    Args:
        reporters: callbacks that write or print how the training goes.
    """
    settings = training.settings
    first = resizing.epochs  # with full images
    weights = Weights(settings.averaging, settings.keep, first)
    callbacks = [training.learning_rate, resizing, weights, *reporters]
    patience, factor, floor = settings.reduce_on_plateau, settings.plateau_factor, settings.plateau_floor
    if patience:
        plateau = keras.callbacks.ReduceLROnPlateau(factor=factor, patience=patience, min_lr=floor)
        restart = keras.callbacks.LambdaCallback(on_epoch_begin=lambda at, _: at == first and plateau.on_train_begin())
        callbacks += [plateau, restart]  # the best val loss of smaller images says nothing of full ones
    if settings.rate_falls:
        callbacks.append(
            keras.callbacks.LearningRateScheduler(
                lambda epoch, rate: max(rate * factor, min(rate, floor)) if epoch in settings.rate_falls else rate
            )
        )
    if settings.early_stopping:
        callbacks.append(keras.callbacks.EarlyStopping(patience=settings.early_stopping, start_from_epoch=first))
    with keras.device(training.device):
        resume = checkpoint.Checkpoint(state_file, training.train, callbacks, training.device)
        training.model.fit(
            training.train.loader(),
            validation_data=training.val.loader() if len(training.val.labels) else None,
            initial_epoch=resume.epochs,
            epochs=settings.epochs,
            callbacks=[*callbacks, resume],
            shuffle=False,  # Batches does it
            verbose=0,
        )


def main() -> None:
    shards, wanted = params.load().train.shards, machine.number("TRAIN_PROCESSES", processes.count())
    if wanted > shards:
        raise InputError(f"TRAIN_PROCESSES must be at most train.shards, {shards}; received {wanted}")
    if processes.should_launch(wanted):
        processes.launch(wanted, Path(__file__))
        return
    processes.report_error_to_launcher()
    if wanted != processes.count():
        raise InputError(f"TRAIN_PROCESSES must be as many as torchrun starts, {processes.count()}; received {wanted}")
    start = time.monotonic()
    training = set_up()
    settings, resizing = training.settings, make_resizing(training)
    if processes.rank():  # the first process writes for all
        fit(training, resizing, [], Path())
        return
    with (
        checkpoint.state_file(training.fingerprint) as state_file,
        locks.exclusive(),
        files.atomic_folder(Path("metrics/curves")) as curves_folder,
    ):
        several = f"{processes.count()} processes of " if processes.is_distributed() else ""
        print(
            f"{training.model.name}: {training.model.count_params():,} parameters, "
            f"{len(training.train.labels):,} training images, {settings.precision} on {several}{training.device}"
        )
        if (size := training.train.batch_size) < settings.batch_size or training.train.passes > 1:
            print(f"few rows: passes an epoch {training.train.passes}, rows a batch {size} (train.least_steps)")
        if settings.augmentation.flip != "none" and tuple(training.class_names) != classes.FASHION_MNIST:
            print("mirror images count as their class; letters and digits need -S train.augmentation.flip=none")
        is_new = not state_file.exists()
        curves = Curves(curves_folder)
        progress = Progress(settings.epochs, len(training.train), resizing)
        fit(training, resizing, [curves, progress], state_file)
        with keras.device(training.device):
            fitted = temperature.fit(training.model, training.val)
            classifier = model_file.with_preprocessing(training.network, training.mean, training.std, fitted)
            md5 = model_file.save(classifier, training.class_names, Path("models/model.keras"))
        if is_new:  # else earlier processes took a part of its seconds, on which no output depends
            with state_file.with_name("seconds.csv").open("a") as log:
                log.write(f"{md5},{time.monotonic() - start:.0f}\n")
        files.write_json(
            Path("metrics/train.json"),
            curves.last | {"temperature": fitted, "precision": settings.precision, "device": training.device},
        )


if __name__ == "__main__":
    inputs.declare("data/prepared/classes.json", "data/prepared/train", "data/split")
    main()
