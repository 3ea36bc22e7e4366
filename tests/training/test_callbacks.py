"""Callbacks, around real fits of a tiny network."""

import subprocess
import time
from pathlib import Path
from typing import Any

from common.errors import InputError

import dvclive
import keras
import numpy as np
import pytest
from dvc.repo import Repo
from keras import layers
from scmrepo.exceptions import SCMError

from training.batches import Batches
from training.callbacks import Curves, LearningRate, Progress, ProgressiveResizing, Weights
from training.native_model import NativeModel
from twins import prepare

EPOCHS, STEPS = 4, 3  # of fit()


def tiny(learning_rate: float = 0.3) -> NativeModel:
    """With batch normalisation, so that there are moving statistics too."""
    keras.utils.set_random_seed(0)
    inputs = layers.Input((2, 2, 1))
    x = layers.BatchNormalization(momentum=0.5)(layers.Flatten()(inputs))
    model = NativeModel(inputs, layers.Dense(3)(x))
    prepare(model, keras.optimizers.SGD(learning_rate))
    return model


def batches(seed: int) -> Batches:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (30, 2, 2, 1), np.uint8)
    labels = generator.integers(0, 3, 30).astype(np.uint8)
    return Batches(images, labels, np.array([128.0]), np.array([64.0]), 10, 1, "cpu")


def fit(model: NativeModel, *callbacks: keras.callbacks.Callback) -> dict[str, list[float]]:
    return model.fit(
        batches(0).loader(), validation_data=batches(1).loader(), epochs=EPOCHS, callbacks=list(callbacks), verbose=0
    ).history


# --- LearningRate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [8, 8, 8, 8, 8, 8, 8, 8]),
        ("constant", 0.5, [2, 4, 6, 8, 8, 8, 8, 8]),
        ("constant", 1.0, [1, 2, 3, 4, 5, 6, 7, 8]),
        ("linear", 0.0, [8, 7, 6, 5, 4, 3, 2, 1]),
        ("linear", 0.5, [2, 4, 6, 8, 8, 6, 4, 2]),
        ("linear", 1.0, [1, 2, 3, 4, 5, 6, 7, 8]),
        ("cosine", 0.5, [2, 4, 6, 8, 8, 4 + 8**0.5, 4, 4 - 8**0.5]),
    ],
)
def test_learning_rate_of_each_step(schedule: str, warmup: float, expected: list[float]) -> None:
    rate = LearningRate(8, schedule, warmup, steps=8)
    assert [rate.value(step) for step in range(8)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.33])
def test_learning_rate_rises_to_its_peak_and_falls_to_zero(schedule: str, warmup: float) -> None:
    rate = LearningRate(0.4, schedule, warmup, steps=100)
    values = np.array([rate.value(step) for step in range(101)])
    turn = round(100 * warmup)
    assert values.max() == values[turn] == 0.4
    assert (np.diff(values[:turn]) > 0).all()
    assert (np.diff(values[turn:]) < 0).all()
    assert values[100] == pytest.approx(0, abs=1e-12)  # one step after the last


def test_the_optimizer_is_given_the_rate_of_its_step() -> None:
    seen = []

    class Recorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(float(self.model.optimizer.learning_rate.numpy()))

    rate = LearningRate(0.4, "linear", 0.25, EPOCHS * STEPS)
    fit(tiny(), rate, Recorder())
    assert seen == pytest.approx([rate.value(step) for step in range(EPOCHS * STEPS)])


def test_a_constant_rate_is_left_to_reduce_on_plateau() -> None:
    model = tiny()
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=100)
    rates = fit(model, LearningRate(0.3, "constant", 0.0, EPOCHS * STEPS), plateau)["learning_rate"]
    assert rates == pytest.approx([0.3, 0.3, 0.15, 0.075])  # before each epoch's reduction
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(0.3 / 8)


def test_a_fall_at_the_end_of_the_warm_up_stays() -> None:
    fall = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch == 1 else rate)
    model, seen = tiny(), []

    class Recorder(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(float(self.model.optimizer.learning_rate.numpy()))

    fit(model, LearningRate(0.4, "constant", 1 / EPOCHS, EPOCHS * STEPS), fall, Recorder())
    rise = [0.4 * (step + 1) / STEPS for step in range(STEPS)]
    assert seen == pytest.approx([*rise, *[0.2] * (EPOCHS - 1) * STEPS])


# --- Weights --------------------------------------------------------------------------------------


class Recorder(keras.callbacks.Callback):
    """Copies of all weights: after each step, while each validation runs, and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[np.ndarray]] = []
        self.validation: list[list[np.ndarray]] = []
        self.after: list[list[np.ndarray]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps.append(self.model.get_weights())

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == STEPS - 1:
            self.validation.append(self.model.get_weights())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.after.append(self.model.get_weights())


def assert_equal(some: list[np.ndarray], others: list[np.ndarray], rtol: float = 0.0) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


def averages(steps: list[list[np.ndarray]], decay: float) -> list[list[np.ndarray]]:
    """After each step, the exponential moving average that begins with the first step's weights."""
    result = [[weight.astype(np.float64) for weight in steps[0]]]
    for live in steps[1:]:
        result.append([decay * old + (1 - decay) * new for old, new in zip(result[-1], live, strict=True)])
    return result


def test_validation_and_the_end_have_the_average() -> None:
    model, recorder = tiny(), Recorder()
    fit(model, Weights(0.8, "last"), recorder)
    average = averages(recorder.steps, 0.8)
    for epoch, seen in enumerate(recorder.validation):
        assert_equal(seen, average[(epoch + 1) * STEPS - 1], rtol=1e-5)
    assert_equal(model.get_weights(), average[-1], rtol=1e-5)
    # the average is something of its own, moving statistics included
    assert all((a != b).any() for a, b in zip(average[-1], recorder.steps[-1], strict=True))


def test_training_goes_on_as_if_there_were_no_average() -> None:
    averaged, plain = Recorder(), Recorder()
    fit(tiny(), Weights(0.8, "last"), averaged)
    fit(tiny(), plain)
    for one, other in zip(averaged.steps, plain.steps, strict=True):
        assert_equal(one, other)
    for epoch, after in enumerate(averaged.after):
        assert_equal(after, averaged.steps[(epoch + 1) * STEPS - 1])


@pytest.mark.parametrize("averaging", [0.0, 0.8])
def test_best_ends_with_the_weights_of_the_best_epoch(averaging: float) -> None:
    # a rate so large that accuracy goes up and down
    model, recorder = tiny(learning_rate=5.0), Recorder()
    accuracy = fit(model, Weights(averaging, "best"), recorder)["val_accuracy"]
    best = int(np.argmax(accuracy))
    assert best < EPOCHS - 1  # otherwise this would prove nothing
    assert_equal(model.get_weights(), recorder.validation[best])
    assert model.evaluate(batches(1).loader(), verbose=0, return_dict=True)["accuracy"] == pytest.approx(accuracy[best])


def test_best_leaves_out_the_epochs_before_the_first_that_counts() -> None:
    recorder = Recorder()
    accuracy = fit(tiny(learning_rate=5.0), Weights(0, "best"), recorder)["val_accuracy"]
    first = int(np.argmax(accuracy)) + 1
    model = tiny(learning_rate=5.0)
    fit(model, Weights(0, "best", first))
    assert_equal(model.get_weights(), recorder.validation[first + int(np.argmax(accuracy[first:]))])


def test_best_is_the_first_of_equals() -> None:
    model, weights, recorder = tiny(learning_rate=1e-12), Weights(0, "best"), Recorder()
    accuracy = fit(model, weights, recorder)["val_accuracy"]
    assert len(set(accuracy)) == 1
    assert_equal(model.get_weights(), recorder.validation[0])
    moving = [weight.name for weight in model.weights].index("moving_mean")
    assert (recorder.validation[0][moving] != recorder.validation[1][moving]).any()


def test_last_ends_with_the_weights_of_the_last_step() -> None:
    model, recorder = tiny(), Recorder()
    fit(model, Weights(0, "last"), recorder)
    assert_equal(model.get_weights(), recorder.steps[-1])


# --- Curves ---------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and DVC repository with one commit, in which dvc.yaml is written by hand."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init().close()
    (tmp_path / "dvc.yaml").write_text("stages: {} # by hand\n")
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", *identity, "commit", "--quiet", "--message", "start"], check=True)
    return tmp_path


def test_curves_are_tables_of_one_row_an_epoch(repository: Path) -> None:
    folder = repository / "metrics" / "curves"
    tables = folder / "plots" / "metrics"
    (tables / "val").mkdir(parents=True)
    (tables / "val" / "of_a_run_before.tsv").touch()
    curves = Curves(folder)
    history = fit(tiny(), curves)
    for part, prefix in (("train", ""), ("val", "val_")):
        for measure in ("loss", "accuracy"):
            header, *rows = (tables / part / f"{measure}.tsv").read_text().splitlines()
            assert header == f"step\t{measure}"
            steps, values = zip(*(row.split("\t") for row in rows), strict=True)
            assert steps == tuple("1234")
            assert [float(value) for value in values] == pytest.approx(history[prefix + measure])
            if part == "train":  # on val, evaluate measures the model that is saved
                assert curves.last[f"train_{measure}"] == pytest.approx(float(values[-1]), abs=1e-6)
    assert curves.last["epochs"] == EPOCHS
    assert len(curves.last) == 3
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "accuracy.tsv",
        "accuracy.tsv",
        "loss.tsv",
        "loss.tsv",
    ]


def test_curves_leave_the_rest_of_the_repository_alone(repository: Path) -> None:
    fit(tiny(), Curves(repository / "metrics" / "curves"))
    status = subprocess.check_output(["git", "status", "--porcelain", "-uall"], text=True)
    assert sorted(status.splitlines()) == [
        f"?? metrics/curves/plots/metrics/{part}/{measure}.tsv"
        for part in ("train", "val")
        for measure in ("accuracy", "loss")
    ]
    refs = subprocess.check_output(["git", "for-each-ref"], text=True)
    assert len(refs.splitlines()) == 1  # the branch, and no experiment


def test_curves_need_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(tiny(), Curves(Path("curves")))
    assert [path.name for path in tmp_path.iterdir()] == ["curves"]


def test_a_loss_that_is_not_finite_ends_training_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^train loss must stay finite .* in epoch \d$"):
        fit(tiny(learning_rate=1e38), Curves(tmp_path / "curves"))


def test_an_infinite_loss_ends_training_too(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "curves")
    curves.on_train_begin()
    with pytest.raises(InputError, match=r"^val loss must stay finite .* received inf in epoch 3$"):
        curves.on_epoch_end(2, {"loss": 1.0, "val_loss": float("inf")})


def test_curves_need_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init()
    with pytest.raises(SCMError):
        dvclive.Live("others", dvcyaml=None, save_dvc_exp=False)
    curves = Curves(tmp_path / "curves")
    curves.on_epoch_end(0, {"accuracy": 0.5})
    curves.on_train_end()
    assert [path.name for path in (tmp_path / "curves").rglob("*.tsv")] == ["accuracy.tsv"]


# --- Progress -------------------------------------------------------------------------------------


def progress(scale: float = 0.5, share: float = 0.5) -> Progress:
    return Progress(EPOCHS, STEPS, ProgressiveResizing(scale, int(share * EPOCHS), []))


def test_progress_is_one_plain_line_an_epoch_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    history = fit(tiny(), progress())
    output, errors = capfd.readouterr()
    assert errors == ""
    assert "\r" not in output
    assert output.splitlines() == [
        f"epoch {epoch + 1}/{EPOCHS}: " + ", ".join(f"{name} {values[epoch]:.4f}" for name, values in history.items())
        for epoch in range(EPOCHS)
    ]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_bar_counts_what_an_epoch_costs(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = progress(scale=0.5)
    time.sleep(0.2)  # from a tenth of a second on tqdm takes a step for progress
    small = EPOCHS // 2
    costs = STEPS * np.where(np.arange(EPOCHS) < small, 0.25, 1)
    assert shown.bar.total == costs.sum()
    for epoch in range(first, EPOCHS):
        shown.on_epoch_begin(epoch)
        assert shown.bar.n == costs[:epoch].sum()
        assert epoch > first or shown.bar.format_dict["rate"] is None
        for batch in range(STEPS):
            shown.on_train_batch_end(batch)
    assert shown.bar.n == shown.bar.total
    assert shown.bar.initial == costs[:first].sum()  # the time left follows from the epochs of this process
    shown.on_train_end()


def test_the_bar_shows_the_accuracy_so_far(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = progress()
    shown.on_epoch_begin(0)
    shown.on_epoch_end(0, {"accuracy": 0.5, "loss": 1.0, "val_accuracy": 0.25, "val_loss": 2.0})
    shown.bar.refresh()
    output, errors = capfd.readouterr()
    assert output == f"epoch 1/{EPOCHS}: accuracy 0.5000, loss 1.0000, val_accuracy 0.2500, val_loss 2.0000\n"
    assert "to go, accuracy 0.5000" in errors
    shown.on_train_end()
