"""Stage 4: trains the chosen architecture on the train rows and watches it on the val rows."""

from common import errors  # first: from here on an interruption is one line

# isort: split
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import arrays, backend, files, locks, params
from common.errors import InputError

# isort: split
import keras
import torch

import architectures
from training import checkpoint, machine, model_file, processes
from training.augmentation import Augmentation
from training.batches import Batches, resized
from training.callbacks import Curves, LearningRate, Progress, ProgressiveResizing, Weights
from training.step import NativeModel


def normalisation(images: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C,) that raw pixels are normalised with.

    Args:
        images: (N, H, W, C) uint8, the training rows alone.
        kind: "standard" for those of the images, "unit" for pixels / 255.
    """
    channels = images.shape[-1]
    if kind == "unit":
        return np.zeros(channels), np.full(channels, 255.0)
    # from counts of the 256 values: exact, and a thousand images at a time, since NumPy counts in
    # a copy eight times as large
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), 1000):
        pixels = images[start : start + 1000].reshape(-1, channels)
        counts += [np.bincount(pixels[:, c], minlength=256) for c in range(channels)]
    total, values = counts[0].sum(), np.arange(256)
    mean = counts @ values / total
    std = np.sqrt(counts @ values**2 / total - mean**2)
    return mean, np.where(std > 0, std, 1.0)  # a channel of one value stays as it is


def make_optimizer(name: str, learning_rate: float, options: dict) -> keras.Optimizer:
    """One of Keras' optimizers by its lower-case name."""
    if "learning_rate" in options:
        raise InputError(
            f"train.optimizer_options.{name} must leave the learning rate to train.learning_rate; "
            f"received learning_rate: {options['learning_rate']}"
        )
    try:
        return keras.optimizers.get(
            {"class_name": name, "config": {"learning_rate": learning_rate, **options}}
        )
    except (ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"train.optimizer_options.{name} must fit {name}; received {options}: {reason}"
        ) from None


class Training(NamedTuple):
    """All that a training has before its first step."""

    key: str  # stands for all that its bytes depend on
    device: str
    train: Batches
    val: Batches
    network: keras.Model  # as the architecture has it; `model` trains its weights
    model: NativeModel
    precision: str  # float32 or bfloat16
    learning_rate: LearningRate
    resizing: ProgressiveResizing
    mean: np.ndarray  # (C,), as `std`
    std: np.ndarray
    class_names: list[str]


def set_up() -> Training:
    """Reads parameters and data, makes model and optimizer, seeds every generator.

    Raises:
        InputError: data or parameters are wrong, or those of another machine are others.
    """
    chosen = params.load()
    settings = chosen.train
    machine.set_up(settings.threads)
    device = machine.choose_device(settings.device)
    processes.join(device)  # before anything can fail: the others see that this process is gone
    precision = processes.of_first(
        None if processes.rank() else machine.choose_precision(settings.precision, device)
    )
    images, labels = arrays.load("train")
    train_rows, val_rows = arrays.load_rows("train"), arrays.load_rows("val")
    class_names = arrays.load_class_names()

    if device == "cpu" and settings.precision == "bfloat16" and not processes.rank():
        speed = machine.speed_of_bfloat16()
        if speed < 1:
            print(
                f"bfloat16 has {speed:.2f} times the speed of float32 on this processor: "
                "set train.precision to float32 or auto",
                file=sys.stderr,
            )
    # one seed, one independent stream for each purpose
    init_seed, order_seed, augmentation_seed = (
        int(word) for word in np.random.SeedSequence(settings.seed).generate_state(3)
    )
    keras.utils.set_random_seed(init_seed)

    train_images = images[train_rows]
    mean, std = normalisation(train_images, settings.normalisation)
    augmentation = Augmentation(
        settings.augmentation.flip,
        settings.augmentation.shift,
        settings.augmentation.cutout,
        len(train_rows),
        augmentation_seed,
    )
    train = Batches(
        train_images,
        labels[train_rows],
        mean,
        std,
        settings.batch_size,
        device,
        augmentation,
        order_seed,
        settings.data_pruning,
    )
    val = Batches(images[val_rows], labels[val_rows], mean, std, 1000, device)
    for part in (train, val):
        smallest = part.rows_an_epoch % part.batch_size or part.batch_size
        if smallest < processes.count():
            raise InputError(
                f"train.processes must be at most {smallest}, the rows of the smallest batch; "
                f"received {processes.count()}"
            )

    network = architectures.build(
        chosen.model.architecture,
        images.shape[1:],
        len(class_names),
        chosen.model.options.get(chosen.model.architecture, {}),
        device,
    )
    with keras.device(device):
        model = NativeModel(network.inputs, network.outputs[0], name=chosen.model.architecture)
        model.prepare(
            make_optimizer(
                settings.optimizer,
                settings.learning_rate,
                settings.optimizer_options.get(settings.optimizer, {}),
            ),
            settings.label_smoothing,
            precision,
        )
        processes.draw_apart([variable.value for variable in model.variables])
    resizing = ProgressiveResizing(
        settings.progressive_resizing.scale,
        settings.progressive_resizing.share,
        settings.epochs,
        [train, val],
    )
    small = resized(torch.zeros(1, *images.shape[1:], device=device), resizing.scale)
    if resizing.epochs and not model.takes(small):
        resizing.epochs = 0
        if not processes.rank():
            print(
                f"{chosen.model.architecture} cannot take images of {small.shape[1]} × {small.shape[2]}: "
                "trained without train.progressive_resizing",
                file=sys.stderr,
            )
    learning_rate = LearningRate(
        settings.learning_rate, settings.schedule, settings.warmup, settings.epochs * len(train)
    )
    key = checkpoint.key(
        [str(chosen.model), str(settings), device, precision, class_names],
        [train_images, labels[train_rows], images[val_rows], labels[val_rows]],
    )
    if len(set(processes.of_all(key))) > 1:
        raise InputError(
            "all machines must have the same parameters, data, code, libraries and kind of processor; "
            "received others"
        )
    return Training(
        key,
        device,
        train,
        val,
        network,
        model,
        precision,
        learning_rate,
        resizing,
        mean,
        std,
        class_names,
    )


def fit(training: Training, shown: list[keras.callbacks.Callback], state_file: Path) -> None:
    """Trains, on from the last epoch that `state_file` knows of.

    Args:
        shown: callbacks that write or say what the training does.
    """
    settings = params.load().train
    callbacks = [
        training.learning_rate,
        training.resizing,
        Weights(settings.averaging, settings.keep, training.resizing.epochs),
        *shown,
    ]
    if settings.reduce_on_plateau:
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=settings.reduce_on_plateau)
        )
    if settings.early_stopping:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                patience=settings.early_stopping, start_from_epoch=training.resizing.epochs
            )
        )
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
    settings = params.load().train
    if processes.wanted(settings.processes):
        processes.launch(settings.processes, Path(__file__))
        return
    processes.keep_error()
    if settings.processes != processes.count():
        raise InputError(
            f"train.processes must be as many as torchrun starts, {processes.count()}; "
            f"received {settings.processes}"
        )
    training = set_up()
    if processes.rank():  # the first process writes for all
        fit(training, [], Path())
        return
    with (
        checkpoint.kept(training.key) as state_file,
        locks.alone(),
        files.whole_folder(Path("metrics/curves")) as curves_folder,
    ):
        curves = Curves(curves_folder)
        each = f"{processes.count()} processes of " if processes.started() else ""
        print(
            f"{training.model.name}: {training.model.count_params():,} parameters, "
            f"{len(training.train.labels):,} training images, {training.precision} on {each}"
            f"{training.device}"
        )
        fit(training, [curves, Progress(settings.epochs, len(training.train))], state_file)
        with keras.device(training.device):
            model_file.save(
                model_file.with_preprocessing(training.network, training.mean, training.std),
                training.class_names,
                Path("models/model.keras"),
            )
        files.write_json(Path("metrics/train.json"), curves.last)


if __name__ == "__main__":
    arrays.forbid_test_images()
    main()
