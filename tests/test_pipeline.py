"""The pipeline as declared in dvc.yaml, against what its scripts use; and the whole of it, run by dvc."""

import json
import shutil
import subprocess
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, TINY, Clone, write_params
from dvc.utils.hydra import apply_overrides
from PIL import Image

from analysis import declarations
from common import arrays, params, synthetic

SRC = ROOT / "src"
with chdir(ROOT):
    PIPELINE = declarations.Pipeline()
STAGES = PIPELINE.stages
declared, value = PIPELINE.declared, PIPELINE.value


def script(stage: str) -> Path:
    return ROOT / PIPELINE.script(stage)


def test_dvc_yaml_lists_what_the_stages_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert not [*PIPELINE.problems()]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (f"{key}={json.dumps(value(key))}", value(key))
        for key in sorted(PIPELINE.leaves())
        if not isinstance(value(key), dict)  # options are set one by one, as below
    ]
    + [
        ("data.source=csv", "csv"),
        ("split.train_size=6000", 6000),
        ("model.options.blocks.widths=[8,16]", [8, 16]),
        ("train.learning_rate=1e-3", 0.001),
        ("train.early_stopping=3", 3),
        ("train.optimizer_options.sgd.nesterov=false", False),
        ("train.augmentation.flip=none", "none"),
        ("evaluate.parts=[val]", ("val",)),
    ],
)
def test_experiments_can_set_every_key(tmp_path: Path, override: str, expected: Any) -> None:
    """By the function that `dvc exp run -S` calls."""
    path = write_params(tmp_path, {})
    apply_overrides(str(path), [override])
    read: Any = params.load(path)
    for name in override.split("=", maxsplit=1)[0].split("."):
        read = read[name] if isinstance(read, dict) else getattr(read, name)
    assert read == expected


# --- files --------------------------------------------------------------------------------------


def test_light_stages_import_neither_torch_nor_keras() -> None:
    for stage in ("fetch", "prepare", "split"):
        code = (
            f"import sys, runpy; sys.path.insert(0, {str(SRC)!r}); runpy.run_path({str(script(stage))!r}); "
            "print([name for name in ('torch', 'keras') if name in sys.modules])"
        )
        assert subprocess.check_output(["python", "-c", code], text=True).strip() == "[]", stage


def test_only_prepare_and_evaluate_are_given_the_test_images() -> None:
    holders = {s for s in STAGES if {"data/raw", "data/prepared/test"} & {*declared(s, "deps")}}
    assert holders == {"prepare", "evaluate"}


def test_each_stage_runs_with_nothing_but_what_it_declares(tmp_path: Path) -> None:
    """Each runs in a folder of its own that holds its declared dependencies alone."""
    made = tmp_path / "made"
    for stage in STAGES:
        box = tmp_path / stage
        box.mkdir()
        write_params(box, TINY)
        deps = declared(stage, "deps")
        if stage == "train":
            deps.append(f"src/architectures/{TINY['model.architecture']}.py")
        for dep in deps:
            source = ROOT / dep if dep.startswith(("src/", "data/input")) else made / dep
            target = box / dep
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        done = subprocess.run(
            STAGES[stage]["cmd"].split(), cwd=box, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{stage}: {done.stderr}"
        for out in declared(stage, "outs") + declared(stage, "metrics"):
            target = made / out
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(box / out, target)  # fails if the stage did not write it


# --- train, val and test --------------------------------------------------------------------------

RUN_AND_TELL = """
import json, os, runpy, sys
from pathlib import Path
source, stage, *folders = sys.argv[1:]
opened = set()
def record(event, arguments):
    if event == "open" and isinstance(arguments[0], str | os.PathLike) and arguments[1] in ("r", "rb"):
        path = Path(arguments[0]).resolve()
        opened.update(name for name in folders if path.is_relative_to(Path(name).resolve()))
sys.addaudithook(record)
sys.path.insert(0, source)
runpy.run_path(f"{source}/{stage}.py", run_name="__main__")
told, refused = sorted(opened), []
for name in folders:
    try:
        next(path for path in Path(name).iterdir()).open().close()
    except PermissionError as error:
        assert "the test images decide nothing here" in str(error)
        refused.append(name)
print(json.dumps({"opened": told, "refused": refused}))
"""
HOLD_TEST_IMAGES = ["data/raw", "data/prepared/test"]


@pytest.mark.parametrize(
    ("stage", "opened", "refused"),
    [
        ("fetch", [], []),
        ("prepare", ["data/raw"], []),
        ("split", [], HOLD_TEST_IMAGES),
        ("train", [], HOLD_TEST_IMAGES),
        ("evaluate", ["data/prepared/test"], []),
        ("export", [], HOLD_TEST_IMAGES),
    ],
)
def test_no_stage_but_prepare_and_evaluate_opens_the_test_images(
    reproduced: Clone, tmp_path: Path, stage: str, opened: list[str], refused: list[str]
) -> None:
    """And split and train cannot."""
    done = subprocess.run(
        ["python", "-c", RUN_AND_TELL, SRC, stage, *HOLD_TEST_IMAGES],
        cwd=reproduced.copied(tmp_path / "project").folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"opened": opened, "refused": refused}


def test_train_val_and_test_share_no_image(reproduced: Clone) -> None:
    with chdir(reproduced.folder):
        images, test = (arrays.load(part)[0] for part in ("train", "test"))
        parts = [images[arrays.load_rows(name)] for name in ("train", "val")] + [test]
    found = [{image.tobytes() for image in part} for part in parts]
    assert [len(each) for each in found] == [300, 100, 100]
    assert len(set.union(*found)) == 500


def test_the_committed_results_are_of_data_without_repetition() -> None:
    table = pd.read_csv(ROOT / "metrics/data/duplicates.csv", index_col="where")
    assert table["images"].to_dict() == {
        "within train": 0, "within test": 0, "test images also in train": 0,
    }  # fmt: skip


# --- the whole, run by dvc ----------------------------------------------------------------------


def test_a_second_repro_has_nothing_to_do(reproduced: Clone) -> None:
    assert "up to date" in reproduced.dvc("repro")
    assert "up to date" in reproduced.dvc("repro", "--allow-missing", "--dry")


def test_running_every_stage_again_gives_the_same_bytes(reproduced: Clone) -> None:
    reproduced.dvc("repro", "--force")
    assert reproduced.git("status", "--porcelain") == ""


def test_an_older_commit_needs_no_run(reproduced: Clone, tmp_path: Path) -> None:
    clone = reproduced.copied(tmp_path / "project")
    folder = clone.folder
    write_params(folder, TINY | {"data.synthetic.seed": 1, "train.seed": 1})
    clone.dvc("repro")
    clone.commit("other data and another model")
    newer = (folder / "models/model.keras").read_bytes()
    for revision, model in [
        ("HEAD~1", (reproduced.folder / "models/model.keras").read_bytes()),
        ("main", newer),
    ]:
        clone.git("checkout", "--quiet", revision)
        clone.dvc("checkout", "--allow-missing")
        said = clone.dvc("repro")
        assert "up to date" in said
        assert "Running stage" not in said
        assert (folder / "models/model.keras").read_bytes() == model
        assert clone.git("status", "--porcelain") == ""


def test_metrics_name_synthetic_data(reproduced: Clone) -> None:
    assert (
        json.loads((reproduced.folder / "metrics/test.json").read_text())["source"] == "synthetic"
    )


ACCURACY_FROM_SCRATCH = """
import json, os
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
images = np.fromfile("data/raw/t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28, 1)
labels = np.fromfile("data/raw/t10k-labels-idx1-ubyte", np.uint8)[8:]
model = keras.saving.load_model("models/model.keras")
correct = model.predict(images, verbose=0).argmax(1) == labels
written = json.load(open("metrics/test.json"))["accuracy"]
assert abs(correct.mean() - written) < 1e-6, (correct.mean(), written)
print("the same")
"""


def test_accuracy_is_what_plain_keras_and_numpy_compute(reproduced: Clone) -> None:
    """In a process that cannot import anything of this repository (-I: no path but Python's own)."""
    assert "the same" in reproduced.run("python", "-I", "-c", ACCURACY_FROM_SCRATCH)


def test_dvc_leaves_nothing_behind_that_git_would_see(reproduced: Clone) -> None:
    tracked = reproduced.git("ls-files").split()
    assert "metrics/predictions/test.csv" in tracked
    assert "metrics/curves/plots/metrics/val/accuracy.tsv" in tracked
    owned_by_dvc = ("data/raw/", "data/prepared/t", "data/split/", "models/model", "plots/data/")
    assert not [name for name in tracked if name.startswith(owned_by_dvc)]


def test_experiments_differ_in_what_was_changed(reproduced: Clone) -> None:
    reproduced.dvc("exp", "run", "--name", "slow", "-S", "train.learning_rate=1e-3")
    reproduced.dvc(
        "exp",
        "run",
        "--name",
        "val-only",
        "-S",
        "train.learning_rate=0.02",
        "-S",
        "evaluate.parts=[val]",
    )
    shown = reproduced.experiments()
    rate = {
        name: shown[name]["params"]["params.yaml"]["data"]["train"]["learning_rate"]
        for name in ("main", "slow", "val-only")
    }
    assert rate == {"main": 0.05, "slow": 0.001, "val-only": 0.02}
    metrics = {name: shown[name]["metrics"] for name in rate}
    assert metrics["main"]["metrics/val.json"] != metrics["slow"]["metrics/val.json"]
    assert metrics["slow"]["metrics/test.json"]["data"]["images"] == 100
    assert (
        metrics["val-only"]["metrics/test.json"]["data"] == {}
    )  # not the figures of another model
    reproduced.git("checkout", "--quiet", "--force", "main")
    reproduced.git("clean", "--quiet", "--force")
    reproduced.dvc("checkout", "--allow-missing")
    assert "up to date" in reproduced.dvc("repro")


def draw_pictures(folder: Path, classes: list[str], per_class: int) -> None:
    """Coloured garments of any size, by class, in the form of `data.source: folder`."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        grey = synthetic.draw(np.full(per_class, label), generator)  # (N, 28, 28)
        for number, image in enumerate(grey):
            tint = generator.uniform(0.3, 1, 3)
            picture = Image.fromarray((image[..., None] * tint).astype(np.uint8))  # (28, 28, 3)
            size = (int(generator.integers(30, 90)), int(generator.integers(30, 90)))
            picture.resize(size).save(folder / name / f"{number:03}.png")


def test_the_pipeline_takes_a_folder_of_pictures_of_another_size_and_other_classes(
    tmp_path: Path,
) -> None:
    names = ["blouse", "boots", "cape", "gown", "jeans", "parka", "slippers"]
    clone = Clone.new(tmp_path)
    changes = {"data.source": "folder", "data.height": 40, "data.width": 40, "data.channels": 3}
    write_params(clone.folder, TINY | changes | {"model.architecture": "blocks"})
    draw_pictures(clone.folder / "data/input/train", names, 60)
    draw_pictures(clone.folder / "data/input/test", names, 10)
    clone.commit("start")
    clone.dvc("repro")
    predictions = pd.read_csv(clone.folder / "metrics/predictions/test.csv")
    assert len(predictions) == 70
    assert set(predictions["label"]) == set(names)
    assert set(predictions["predicted"]) <= set(names)
    assert list(pd.read_csv(clone.folder / "metrics/classes/val.csv")["class"]) == names
    code = (
        "import os; os.environ['KERAS_BACKEND'] = 'torch'; import keras; "
        "model = keras.saving.load_model('models/model.keras'); "
        "print(model.input_shape, model.output_shape)"
    )
    assert "(None, 40, 40, 3) (None, 7)" in clone.run("python", "-I", "-c", code)
    said = json.loads(clone.run("python", "src/predict.py", "--json", "data/input/test/gown"))
    expected = predictions[predictions["label"] == "gown"]
    assert [entry["classes"][0]["name"] for entry in said] == [*expected["predicted"]]
    shown = [entry["classes"][0]["probability"] for entry in said]
    np.testing.assert_allclose(shown, expected["confidence"], atol=1.01e-4)


@pytest.mark.slow
def test_a_queued_grid(reproduced: Clone) -> None:
    grid = ("-S", "train.learning_rate=0.03", "-S", "model.architecture=plain,blocks")
    reproduced.dvc("exp", "run", "--queue", *grid)
    reproduced.dvc("exp", "run", "--run-all")
    shown = [entry["params"]["params.yaml"]["data"] for entry in reproduced.experiments().values()]
    tried = {(entry["train"]["learning_rate"], entry["model"]["architecture"]) for entry in shown}
    assert tried >= {(0.05, "plain"), (0.03, "plain"), (0.03, "blocks")}
    reproduced.dvc("checkout", "--allow-missing")
