"""The published systems: what they are, what their results say, and that they still train as they did."""

import json
import math
import re
import shutil
from contextlib import chdir
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import keras
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

import architectures
import fetch
import first_steps
import prepare
import rerun
import split
import summary
from conftest import ROOT, TINY, Clone, made_once
from training import machine, operations
from training.callbacks import LearningRate

FOLDER = ROOT / "published"
STAGES = YAML(typ="safe").load(FOLDER / "dvc.yaml")["stages"]
SYSTEMS = list(STAGES["train"]["foreach"])
ARCHITECTURES = STAGES["train"]["foreach"]
CURVE = "metrics/curves/plots/metrics/train/accuracy.tsv"


def settings(name: str) -> params.Params:
    return params.load(FOLDER / name / "params.yaml")


def network(name: str, options: dict[str, Any] | None = None) -> keras.Model:
    return architectures.build(name, (28, 28, 1), 10, (options or {}).get(name, {}))


# --- what they are ------------------------------------------------------------------------------


def test_each_has_parameters_and_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert sorted(YAML(typ="safe").load(FOLDER / "claims.yaml")) == sorted(SYSTEMS)
    for name in SYSTEMS:
        chosen = settings(name)
        assert chosen.model.architecture == ARCHITECTURES[name]  # on whose file the training depends
        assert (chosen.data.source, chosen.train.device) == ("fashion-mnist", "cpu")
        assert "test" in chosen.evaluate.parts
        assert chosen.train.normalisation == "unit"  # pixels divided by 255
        assert (chosen.train.optimizer, chosen.train.learning_rate) == ("adam", 0.001)
        assert chosen.train.shards == {"deep": 2}.get(name, 1)  # batch statistics over the whole batch, or over half


def of(name: str, kind: type[keras.Layer], attribute: str) -> list[Any]:
    return [getattr(x, attribute) for x in network(name).layers if isinstance(x, kind)]


def kinds(name: str) -> list[str]:
    return [type(layer).__name__ for layer in network(name).layers[1:]]


def shapes(name: str, *without: str) -> list[tuple[int, ...]]:
    """What each layer gives for an image, but for layers of these kinds."""
    return [x.output.shape[1:] for x in network(name).layers[1:] if type(x).__name__ not in without]


def test_subset20k_is_its_authors_code() -> None:
    model = network("subset20k")
    shapes = [layer.output.shape[1:] for layer in model.layers[1:] if "dropout" not in layer.name]
    assert shapes == [(26, 26, 32), (13, 13, 32), (5408,), (5408,), (10,)]
    assert model.count_params() == 29_306_282
    assert of("subset20k", keras.layers.Dropout, "rate") == [0.2]
    assert settings("subset20k").split.train_slice == (10_000, 30_000)
    train = settings("subset20k").train
    assert (train.epochs, train.batch_size, train.keep) == (10, 32, "last")


def test_heinit_is_its_authors_code() -> None:
    assert shapes("heinit", "BatchNormalization", "Dropout") == [
        *[(28, 28, 64)] * 2, (14, 14, 64), *[(14, 14, 128)] * 2, (7, 7, 128), *[(7, 7, 256)] * 2, (3, 3, 256),
        (2304,), (2048,), (1028,), (10,),
    ]  # fmt: skip
    block = ["Conv2D", "Conv2D", "BatchNormalization", "MaxPooling2D", "Dropout"]
    dense = ["Flatten", "Dense", "BatchNormalization", "Dropout", "Dense", "BatchNormalization", "Dense"]
    assert kinds("heinit") == [*block * 3, *dense]
    model = network("heinit")
    assert model.count_params() == 7_995_654
    assert sum(math.prod(weight.shape) for weight in model.trainable_weights) == 7_988_606
    assert of("heinit", keras.layers.Dropout, "rate") == [0.5] * 4
    initialisers = [type(found).__name__ for found in of("heinit", keras.layers.Conv2D, "kernel_initializer")]
    assert initialisers == ["HeNormal", "GlorotUniform"] * 3
    train = settings("heinit").train
    assert (train.epochs, train.batch_size, train.keep, train.early_stopping) == (50, 32, "last", None)
    assert (train.reduce_on_plateau, train.plateau_factor, train.plateau_floor) == (3, 0.2, 0.00001)


def falls(folder: Path, patience: int) -> tuple[int, ...]:
    """The epochs after which the learning rate falls by Keras' ReduceLROnPlateau, from the val losses of a training."""
    found: list[int] = []
    best, waited = math.inf, 0
    losses = pd.read_csv(folder / "metrics/curves/plots/metrics/val/loss.tsv", sep="\t")["loss"]
    for epoch, loss in enumerate(losses, 1):
        best, waited = (loss, 0) if loss < best - 1e-4 else (best, waited + 1)
        if waited == patience:
            found, waited = [*found, epoch], 0
    return tuple(found)


def test_heinit_all_is_heinit_on_all_rows_with_the_rates_of_heinit() -> None:
    ours, first = settings("heinit_all"), settings("heinit")
    assert ours.train.rate_falls == falls(FOLDER / "heinit", 3)[:3]  # 0.001, 0.0002, 0.00004, then the floor
    assert (ours.split.val_size, ours.evaluate.parts) == (0, ("test",))
    same = ours.model_copy(update={"split": first.split, "evaluate": first.evaluate})
    rates = {"rate_falls": (), "reduce_on_plateau": 3}
    assert same.model_copy(update={"train": ours.train.model_copy(update=rates)}) == first


def test_deep_is_its_authors_code() -> None:
    block = ["Conv2D", "BatchNormalization", "Conv2D", "MaxPooling2D", "Dropout"]
    assert kinds("deep") == [*block * 2, "Flatten", "Dense", "Dropout", "Dense"]
    assert of("deep", keras.layers.Conv2D, "filters") == [64, 64, 128, 128]
    assert of("deep", keras.layers.Dense, "units") == [256, 10]
    assert of("deep", keras.layers.Dropout, "rate") == [0.25, 0.25, 0.5]
    train = settings("deep").train
    assert (train.epochs, train.batch_size, train.keep) == (100, 64, "best")
    assert (train.early_stopping, train.reduce_on_plateau, train.plateau_factor) == (15, 8, 0.5)
    moves = train.augmentation
    assert (moves.flip, moves.rotation, moves.zoom, moves.shift) == ("random", 10, 0.1, 0)
    assert settings("deep").split.val_size == 0.2


def test_dsc_is_its_authors_code() -> None:
    assert kinds("dsc") == [*["Conv2D", "MaxPooling2D", "Dropout"] * 3, "Flatten", "Dense", "Dropout", "Dense"]
    assert network("dsc").count_params() == 390_410
    assert of("dsc", keras.layers.Dropout, "rate") == [0.25] * 3 + [0.5]
    train = settings("dsc").train
    assert (train.epochs, train.batch_size, train.keep) == (50, 164, "last")
    moves = train.augmentation
    assert (moves.flip, moves.rotation, moves.zoom, moves.shift) == ("random", 0.2, 0.2, 0)
    assert settings("dsc").split.val_size == 0.3


def test_basic_is_the_notebook_with_the_phrases_of_its_description() -> None:
    assert kinds("basic") == ["Conv2D", "MaxPooling2D", "Dropout", "Flatten", "Dense", "Dense"]
    assert network("basic").count_params() == 173_738
    assert of("basic", keras.layers.Dropout, "rate") == [0.2]
    train = settings("basic").train
    assert settings("basic").model.options == {}  # the network is the one above
    assert (train.epochs, train.batch_size, train.keep) == (50, 512, "last")
    assert settings("basic").split.val_size == 0.2


# --- what their results say ---------------------------------------------------------------------


def flops_a_step(model: keras.Model) -> int:
    """A layer's products: forward, for its weights if they train, for its input if any before them do."""
    total, trains_before = 0, False
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            places = math.prod(layer.output.shape[1:-1])
            products = 1 + layer.trainable + trains_before
            total += 2 * places * math.prod(layer.kernel.shape) * products
            trains_before |= layer.trainable
    return total


def flops(chosen: params.Params, images: int, epochs: int) -> int:
    """Of all images that the training sees."""
    train, options = chosen.train, chosen.model.options.get(chosen.model.architecture, {})
    small = math.floor(train.progressive_resizing.share * train.epochs + 1e-9)  # epochs
    side = round(28 * train.progressive_resizing.scale) if small else 28
    of_small, of_whole = (
        flops_a_step(architectures.build(chosen.model.architecture, (size, size, 1), 10, options))
        for size in (side, 28)
    )
    return (images - round(train.data_pruning * images)) * (small * of_small + (epochs - small) * of_whole)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval, https://doi.org/10.1080/01621459.1927.10502953."""
    z, p = 1.959963984540054, correct / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def curve(folder: Path, part: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"metrics/curves/plots/metrics/{part}/accuracy.tsv", sep="\t")


@pytest.mark.parametrize("name", [*SYSTEMS, "default"])
def test_every_figure_follows_from_predictions_curves_and_parameters(name: str) -> None:
    folder = ROOT if name == "default" else FOLDER / name
    result = json.loads((FOLDER / "results.json").read_text())[name]
    chosen = params.load(folder / "params.yaml")
    val = chosen.split.val_size
    val_images = round(60_000 * val) if isinstance(val, float) else val
    parts = ("val", "test") if val else ("test",)
    tables = {part: pd.read_csv(folder / f"metrics/predictions/{part}.csv") for part in parts}
    correct = {part: (table["label"] == table["predicted"]) for part, table in tables.items()}
    assert len(tables["test"]) == 10_000
    assert not val or len(tables["val"]) == val_images
    for part in parts:
        assert result[f"{part}_images"] == len(tables[part])
    low, high = wilson(correct["test"].sum(), 10_000)
    for part in parts:
        assert result[f"{part}_accuracy"] == pytest.approx(correct[part].mean(), abs=1e-6)
    assert result["test_accuracy_low"] == pytest.approx(low, abs=1e-4)
    assert result["test_accuracy_high"] == pytest.approx(high, abs=1e-4)
    trained = curve(folder, "train")
    assert result["epochs"] == len(trained) <= chosen.train.epochs
    epoch = trained["step"].iloc[-1]
    if chosen.train.keep == "best":
        seen = curve(folder, "val")
        epoch = seen["step"][seen["accuracy"] == seen["accuracy"].max()].iloc[0]
    expected = trained.set_index("step")["accuracy"][epoch]
    assert result["train_accuracy"] == pytest.approx(expected, abs=1e-6)
    start, end = chosen.split.train_slice or (val_images, 60_000)
    assert result["training_images"] == (chosen.split.train_size or end - start)
    assert result["precision"] == chosen.train.precision
    model = network(chosen.model.architecture, chosen.model.options)
    assert result["parameters"] == sum(math.prod(weight.shape) for weight in model.weights)
    assert result["training_flops"] == flops(chosen, result["training_images"], result["epochs"])
    claim = {} if name == "default" else YAML(typ="safe").load(FOLDER / "claims.yaml")[name]
    for part in ("train", "test"):
        assert result.get(f"claimed_{part}_accuracy") == claim.get(part)
    for key in ("chose_on_test", "why"):
        assert result.get(key) == claim.get(key)
    assert result.get("claimed_on_release") == claim.get("release")
    assert result.get("logged", {}) == claim.get("logged", {})
    figures = {"parameters", "training_images", "epochs", "training_flops", "train_accuracy", "precision",
               "test_accuracy", "test_accuracy_low", "test_accuracy_high", "test_images"}  # fmt: skip
    figures |= {"val_accuracy", "val_images"} if val else set()
    if claim:
        figures |= {"claimed_train_accuracy", "claimed_test_accuracy", "chose_on_test", "verdict"}
        figures |= {"claimed_on_release", "logged"}
        figures |= {"why"} & set(claim)
        assert result["verdict"] == ("reached" if claim["test"] <= high else "not reached")
        assert ("why" in claim) == (result["verdict"] == "not reached")
    assert set(result) == figures


def test_what_is_committed_follows_from_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["summary.py", "--check"])
    summary.main()


count = operations.of_training
known: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}


def counted(chosen: params.Params, *counts: int) -> tuple[int, int]:
    """As `count`, which builds and runs the network: once for each in a run of these tests."""
    key = (str(chosen), counts)
    if key not in known:
        known[key] = count(chosen, *counts)
    return known[key]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what is committed: published/, and what the default is measured by."""

    def not_in_git(folder: str, names: list[str]) -> set[str]:
        made = {"data", "models", "plots", ".cache"}
        return made & set(names) if Path(folder).parent == FOLDER else set()

    shutil.copytree(FOLDER, tmp_path / "published", ignore=not_in_git)
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    for name in ("params.yaml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["summary.py", "--check"])
    monkeypatch.setattr(operations, "of_training", counted)
    return tmp_path / "published"


def edit(path: Path, pattern: str, new: str) -> None:
    """Replaces what `pattern` finds first."""
    text, count = re.subn(pattern, new, path.read_text(), count=1)
    assert count
    path.write_text(text)


@pytest.mark.parametrize(
    ("file", "pattern", "new"),
    [
        ("results.json", r'"epochs": \d+', '"epochs": 3'),
        ("results.json", r'"claimed_train_accuracy": [\d.]+', '"claimed_train_accuracy": 0.5'),
        ("deep/metrics/test.json", r'"accuracy": 0\.\d+', '"accuracy": 0.999'),
        ("dsc/metrics/curves/plots/metrics/train/accuracy.tsv", r"(\n49\t)\S+", r"\g<1>0.5"),
        ("subset20k/params.yaml", "10000, 30000", "10000, 31000"),
        ("claims.yaml", r"test: 0\.89\n", "test: 0.5\n"),
        ("basic/metrics/curves/plots/metrics/val/accuracy.tsv", r"(\n1\t)\S+", r"\g<1>0.5"),
    ],
)
def test_an_edited_figure_is_refused(scratch: Path, file: str, pattern: str, new: str) -> None:
    edit(scratch / file, pattern, new)
    with pytest.raises(InputError, match="must follow from the metrics"):
        summary.main()


@pytest.mark.parametrize(("share", "epochs", "best"), [(0.0, 4, 1), (0.5, 4, 3), (0.9, 20, 1)])
def test_the_best_epoch_is_one_that_training_may_keep(scratch: Path, share: float, epochs: int, best: int) -> None:
    """The last case stopped before its images would have become full: its network took one size only."""
    folder = scratch / "basic"
    for part, accuracies in {"train": (0.1, 0.2, 0.3, 0.4), "val": (0.9, 0.5, 0.8, 0.7)}.items():
        rows = [f"{step}\t{accuracy}\n" for step, accuracy in enumerate(accuracies, 1)]
        (folder / f"metrics/curves/plots/metrics/{part}/accuracy.tsv").write_text("step\taccuracy\n" + "".join(rows))
    resizing = {"train.progressive_resizing": {"scale": 0.7, "share": share}}
    set_params(folder, resizing | {"train.keep": "best", "train.epochs": epochs})
    assert summary.measured(folder)["train_accuracy"] == pytest.approx(best / 10)


@pytest.mark.parametrize(("name", "claim", "why"), [("basic", "0.99", ""), ("basic", "0.5", "It is small.")])
def test_a_reason_is_there_exactly_where_a_claim_was_not_reached(
    scratch: Path, name: str, claim: str, why: str
) -> None:
    content = YAML(typ="safe").load(scratch / "claims.yaml")
    content[name] |= {"test": float(claim), "why": why or None}
    YAML().dump(content, scratch / "claims.yaml")
    with pytest.raises(InputError, match=rf"say why exactly where .* {name}, (not )?reached: "):
        summary.main()


def test_a_claim_at_the_end_of_the_interval_is_reached(scratch: Path) -> None:
    content = YAML(typ="safe").load(scratch / "claims.yaml")
    content["basic"]["test"] = json.loads((scratch / "basic/metrics/test.json").read_text())["accuracy_high"]
    YAML().dump(content, scratch / "claims.yaml")
    assert summary.results()["basic"]["verdict"] == "reached"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("claims.yaml", None, r"claims\.yaml must be a file in the working directory; received"),
        ("claims.yaml", "a: [", r"claims\.yaml must be valid YAML in UTF-8; received"),
        ("claims.yaml", "a: {train: 1.0}", r"claims\.yaml: a\.test: field required"),
        (
            "claims.yaml",
            "a: {train: 1.0, test: 0.9, chose_on_test: Yes, release: 31 August 2017}",
            r"a\.chose_on_test: input should be .*; received 'Yes'",
        ),
        (
            "claims.yaml",
            "a: {train: null, test: 0.9, chose_on_test: 'no', release: 31 August 2017, why: It has 29 weights}",
            r"a\.why: string should match .*; received 'It has 29 weights'",
        ),
        ("basic/metrics/test.json", "{}", "published/basic must be evaluated on the test images"),
        ("../metrics/data/classes.csv", None, r"classes\.csv must be a table with part, class"),
        (f"basic/{CURVE}", "step\n", r"accuracy\.tsv must be a table with step, accuracy"),
    ],
)
def test_a_missing_or_damaged_file_is_one_line(scratch: Path, file: str, content: str | None, message: str) -> None:
    if content is None:
        (scratch / file).unlink()
    else:
        (scratch / file).write_text(content)
    with pytest.raises(InputError, match=message):
        summary.main()


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_default_may_leave_a_part_out(scratch: Path, part: str) -> None:
    (scratch.parent / f"metrics/{part}.json").write_text("{}")
    found = summary.results()["default"]
    assert f"{part}_accuracy" not in found
    assert found["training_flops"] > 0


# --- that they still train as they did ----------------------------------------------------------

SMALL: dict[str, Any] = {
    "split.train_size": 160,
    "split.train_slice": None,
    "train.epochs": 1,
    "train.batch_size": 8,
    "train.precision": "float32",  # which every processor has
}
SYNTHETIC: dict[str, Any] = {key: value for key, value in TINY.items() if key.startswith("data.")}


def set_params(folder: Path, changes: dict[str, Any]) -> None:
    with chdir(folder):
        rerun.write_params(Path("params.yaml"), changes)


def would_run(clone: Clone) -> set[str]:
    said = clone.run("sh", "-c", "cd published && dvc repro --dry")
    return {line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which all have run on a few synthetic images."""

    def make(path: Path) -> None:
        clone = Clone.new(path)
        folder = clone.folder / "published"
        for lock in (folder / "dvc.lock", clone.folder / "dvc.lock"):
            lock.unlink(missing_ok=True)
        set_params(clone.folder, SYNTHETIC)
        for name in SYSTEMS:
            shutil.rmtree(folder / name / "metrics")
            set_params(folder / name, SMALL | ({"split.val_size": 100} if settings(name).split.val_size else {}))
        clone.commit("start")
        clone.dvc("repro", "prepare")
        clone.run("sh", "-c", "cd published && dvc repro")
        clone.commit("reproduce")

    made = Clone(made_once(tmp_path_factory, "published systems", make))
    return made.copied(tmp_path_factory.getbasetemp() / "copy of published systems")


@pytest.mark.slow
def test_all_train_on_synthetic_data_through_the_pipeline(small: Clone) -> None:
    for name in SYSTEMS:
        metrics = small.folder / "published" / name / "metrics"
        assert len(pd.read_csv(metrics / "predictions/test.csv")) == 100
        assert json.loads((metrics / "val.json").read_text()).get("images", 100) == 100
        assert len(curve(metrics.parent, "train")) == 1
        steps = pd.read_csv(metrics / "first_steps.csv")
        assert list(steps["step"]) == list(range(1, 21))
        mean = pd.read_csv(metrics / "curves/plots/metrics/train/loss.tsv", sep="\t")["loss"][0]
        assert steps["loss"].mean() == pytest.approx(mean, rel=1e-4)  # 20 steps an epoch
    assert small.git("status", "--porcelain") == ""
    at_the_top = small.dvc("status") + small.dvc("dag", "--dot")
    assert "published" not in at_the_top


@pytest.mark.slow
def test_other_parameters_run_that_system_alone(small: Clone, tmp_path: Path) -> None:
    assert would_run(small) == set()
    clone = small.copied(tmp_path / "clone")
    for name in SYSTEMS:
        file = clone.folder / "published" / name / "params.yaml"
        before = file.read_bytes()
        set_params(file.parent, {"train.epochs": 2})
        expected = {"split", "first_steps", "train", "evaluate"}
        assert would_run(clone) == {f"{stage}@{name}" for stage in expected}
        file.write_bytes(before)


@pytest.mark.slow
def test_other_first_losses_demand_the_training_again(small: Clone, tmp_path: Path) -> None:
    clone = small.copied(tmp_path / "clone")
    edit(clone.folder / "published/basic/metrics/first_steps.csv", r"\n1,.*", "\n1,9.0")
    assert would_run(clone) == {"first_steps@basic", "train@basic"}  # and what follows from them


def losses(prepared: Path, folder: Path, name: str, changes: dict[str, Any]) -> pd.Series:
    """Those of the first steps, taken again in `folder`."""
    (folder / "data").mkdir()
    (folder / "data/prepared").symlink_to(prepared)
    shutil.copy(FOLDER / name / "params.yaml", folder)
    set_params(folder, changes)
    with chdir(folder):
        split.main()
        table = FOLDER / name / "metrics/predictions/val.csv"
        assert list(np.load("data/split/val.npy")) == (list(pd.read_csv(table)["id"]) if table.exists() else [])
        found = first_steps.first_losses()
    return pd.Series(found, index=range(1, len(found) + 1)).round(6)


def skip_other_roots(name: str) -> None:
    """Where the committed training took its square roots as an AMD processor does, and this is none."""
    exact = settings(name).train.optimizer_options.get("adam", {}).get("exact_roots", True)
    if not exact and "AMD" not in machine.processor():
        pytest.skip("with MKL's roots the committed losses are those of AMD's processors")


def others(name: str, again: pd.Series) -> pd.Series:
    """The losses that differ from the committed ones."""
    committed = pd.read_csv(FOLDER / name / "metrics/first_steps.csv", index_col="step")["loss"]
    assert list(again.index) == list(committed.index) == list(range(1, 21))
    return again[again != committed]


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_first_steps_are_those_of_the_committed_training(
    real: Path, tmp_path: Path, settings_of_torch: None, name: str
) -> None:
    assert machine.is_portable(), "this processor's float32 is its own: no other one gives these losses"
    skip_other_roots(name)
    assert others(name, losses(real, tmp_path, name, {})).empty, (
        f"the training code computes something else for {name} (in published/: dvc repro --force first_steps@{name}, "
        "then make published)"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("basic", {"train.seed": 1}),
        ("dsc", {"train.augmentation.flip": "none"}),
        ("basic", {"train.optimizer_options": {"adam": {"beta_1": 0.8}}}),
        ("dsc", {"train.learning_rate": 0.0010001}),
        ("dsc", {"train.augmentation.zoom": 0.1}),
        ("dsc", {"train.augmentation.rotation": 2.0}),
    ],
)
def test_another_training_is_noticed(
    real: Path, tmp_path: Path, settings_of_torch: None, name: str, changes: dict[str, Any]
) -> None:
    found = []
    for folder, own in (("as it is", {}), ("changed", changes)):
        (tmp_path / folder).mkdir()
        found.append(losses(real, tmp_path / folder, name, own))
    assert len(found[0]) == 20
    assert not found[0].equals(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["basic", "dsc"])
def test_so_is_another_learning_rate_from_step_7_on(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings_of_torch: None, name: str
) -> None:
    def change(callback: LearningRate, epoch: int, logs: Any = None) -> None:
        if epoch == 5:  # of one step each
            rate = callback.model.optimizer.learning_rate
            rate.assign(rate * 1.001)

    skip_other_roots(name)
    monkeypatch.setattr(LearningRate, "on_epoch_end", change)
    steps = others(name, losses(real, tmp_path, name, {})).index
    assert len(steps)
    assert min(steps) > 7  # the loss of a step is taken before its update


def test_steps_go_on_in_the_next_epoch(workspace: Path, settings_of_torch: None) -> None:
    for stage in (fetch, prepare, split):
        stage.main()
    losses = first_steps.first_losses()  # of four epochs
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 20
