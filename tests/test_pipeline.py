"""The pipeline as declared in dvc.yaml, against what its scripts use; and the whole of it, run by dvc."""

import json
import shutil
import subprocess
from contextlib import chdir
from pathlib import Path
from typing import Any

from common import arrays, files, params, synthetic

import numpy as np
import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from PIL import Image

import stage_dependencies
from conftest import HOSTILE, ROOT, TINY, Clone, with_forks, write_params

SRC = ROOT / "src"
with chdir(ROOT):
    PIPELINE = stage_dependencies.Pipeline()
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
        ("data.source=folder", "folder"),
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
    path = write_params(tmp_path, {"data.source": "folder"})  # which has any form
    apply_overrides(str(path), [override])
    read: Any = params.load(path)
    for name in override.split("=", maxsplit=1)[0].split("."):
        read = read[name] if isinstance(read, dict) else getattr(read, name)
    assert read == expected


# --- files --------------------------------------------------------------------------------------


def test_light_stages_import_neither_torch_nor_keras() -> None:
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(SRC)!r})\n"
        "for path in sys.argv[1:]:\n"
        "    runpy.run_path(path)\n"
        "    print([name for name in ('torch', 'keras') if name in sys.modules])"
    )
    light = [script(stage) for stage in ("fetch", "prepare", "split")]
    assert subprocess.check_output(["python", "-c", code, *light], text=True) == 3 * "[]\n"


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
        Clone(box).run(*STAGES[stage]["cmd"].split())
        for out in declared(stage, "outs") + declared(stage, "metrics"):
            target = made / out
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(box / out, target)  # fails if the stage did not write it


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_refuses_options_that_it_lacks(tmp_path: Path, stage: str) -> None:
    words = ["python", "-EB", str(script(stage)), "--halp"]
    done = subprocess.run(words, cwd=tmp_path, env=with_forks(), check=False, text=True, capture_output=True)
    assert done.returncode == 2
    assert "unrecognized arguments: --halp" in done.stderr
    assert not [*tmp_path.iterdir()]


# --- train, val and test --------------------------------------------------------------------------

RUN_AND_TELL = """
import json, os, runpy, sys
from pathlib import Path
source, stage, *folders = sys.argv[1:]
del sys.argv[1:]
os.environ["SEALED_PROCESS"] = str(os.getpid())  # the stage seals this process without starting once more
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
    except Exception as error:
        assert "a stage must read only what it declares" in str(error)
        refused.append(name)
print(json.dumps({"opened": told, "refused": refused}))
"""
HOLD_TEST_IMAGES = ["data/raw", "data/prepared/test"]


@pytest.mark.parametrize(
    ("stage", "opened", "refused"),
    [
        ("fetch", [], HOLD_TEST_IMAGES),
        ("prepare", ["data/raw"], ["data/prepared/test"]),
        ("split", [], HOLD_TEST_IMAGES),
        ("train", [], HOLD_TEST_IMAGES),
        ("evaluate", ["data/prepared/test"], ["data/raw"]),
        ("export", [], HOLD_TEST_IMAGES),
    ],
)
def test_no_stage_but_prepare_and_evaluate_opens_the_test_images(
    reproduced: Clone, tmp_path: Path, stage: str, opened: list[str], refused: list[str]
) -> None:
    """And no stage can open what it does not declare."""
    tell = tmp_path / "tell.py"
    tell.write_text(RUN_AND_TELL)
    clone = reproduced.copied(tmp_path / "project")
    said = clone.run("python", str(tell), str(SRC), stage, *HOLD_TEST_IMAGES)
    assert json.loads(said.splitlines()[-1]) == {"opened": opened, "refused": refused}


def test_train_val_and_test_share_no_image(reproduced: Clone) -> None:
    with chdir(reproduced.folder):
        images, test = (arrays.load(part)[0] for part in ("train", "test"))
        parts = [images[arrays.load_rows(name, len(images))] for name in ("train", "val")] + [test]
    found = [{image.tobytes() for image in part} for part in parts]
    assert [len(each) for each in found] == [300, 100, 100]
    assert len(set.union(*found)) == 500


def test_the_committed_results_are_of_data_without_repetition() -> None:
    table = pd.read_csv(ROOT / "metrics/data/duplicates.csv", index_col="where")
    exact = ["within train", "within test", "test images also in train"]
    assert table.loc[exact, "images"].tolist() == [0, 0, 0]


# --- the whole, run by dvc ----------------------------------------------------------------------


def test_a_second_repro_has_nothing_to_do(reproduced: Clone) -> None:
    assert "up to date" in reproduced.dvc("repro")
    assert "up to date" in reproduced.dvc("repro", "--allow-missing", "--dry")


def test_running_every_stage_again_gives_the_same_bytes(
    reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another environment, by the real commands, where forks of one process ran before."""
    clone = reproduced.copied(tmp_path / "project")
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    said = clone.dvc("repro", "--force", fresh=True)
    assert said.count("Running stage") == len(STAGES)
    assert clone.git("status", "--porcelain") == ""


def test_an_older_commit_needs_no_run(reproduced: Clone, tmp_path: Path) -> None:
    clone = reproduced.copied(tmp_path / "project")
    folder = clone.folder
    write_params(folder, TINY | {"data.synthetic.seed": 1, "train.seed": 1})
    clone.dvc("repro", "evaluate")
    clone.commit("other data and another model")
    newer = (folder / "models/model.keras").read_bytes()
    for revision, model in [("HEAD~1", (reproduced.folder / "models/model.keras").read_bytes()), ("main", newer)]:
        clone.git("checkout", "--quiet", revision)
        clone.dvc("checkout", "--allow-missing")
        said = clone.dvc("repro", "evaluate")
        assert "up to date" in said
        assert "Running stage" not in said
        assert (folder / "models/model.keras").read_bytes() == model
        assert clone.git("status", "--porcelain") == ""


def test_metrics_name_synthetic_data(reproduced: Clone) -> None:
    assert json.loads((reproduced.folder / "metrics/test.json").read_text())["source"] == "synthetic"


FROM_SCRATCH = """
import importlib.util, json, os
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
assert not any(importlib.util.find_spec(name) for name in ("common", "architectures", "training"))
model = keras.saving.load_model("models/model.keras")
"""
ACCURACY = """
images = np.fromfile("data/raw/t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28, 1)
labels = np.fromfile("data/raw/t10k-labels-idx1-ubyte", np.uint8)[8:]
correct = model.predict(images, verbose=0).argmax(1) == labels
print(correct.mean())
"""


def from_scratch(clone: Clone, folder: Path, code: str) -> str:
    """What a script in `folder` prints, with the model, where nothing of this repository can be imported."""
    (folder / "scratch.py").write_text(FROM_SCRATCH + code)
    return clone.run("python", str(folder / "scratch.py")).splitlines()[-1]


def test_accuracy_is_what_plain_keras_and_numpy_compute(reproduced: Clone, tmp_path: Path) -> None:
    written = json.loads((reproduced.folder / "metrics/test.json").read_text())["accuracy"]
    computed = float(from_scratch(reproduced, tmp_path, ACCURACY))
    assert computed == pytest.approx(written, abs=1e-6)


def test_dvc_leaves_nothing_behind_that_git_would_see(reproduced: Clone) -> None:
    tracked = reproduced.git("ls-files").split()
    assert "metrics/predictions/test.csv" in tracked
    assert "metrics/curves/plots/metrics/val/accuracy.tsv" in tracked
    owned_by_dvc = ("data/raw/", "data/prepared/t", "data/split/", "models/model", "plots/data/")
    assert not [name for name in tracked if name.startswith(owned_by_dvc)]


def test_experiments_differ_in_what_was_changed(reproduced: Clone, tmp_path: Path) -> None:
    clone = reproduced.copied(tmp_path / "project")
    settings = ("-S", "train.learning_rate=1e-3", "-S", "evaluate.parts=[val]")
    clone.dvc("exp", "run", "--name", "slow", *settings, "evaluate")
    shown = clone.experiments()
    rate = {name: shown[name]["params"]["params.yaml"]["data"]["train"]["learning_rate"] for name in ("main", "slow")}
    assert rate == {"main": 0.05, "slow": 0.001}
    metrics = {name: shown[name]["metrics"] for name in rate}
    assert metrics["main"]["metrics/val.json"] != metrics["slow"]["metrics/val.json"]
    assert metrics["main"]["metrics/test.json"]["data"]["images"] == 100
    assert metrics["slow"]["metrics/test.json"]["data"] == {}  # not the figures of another model
    clone.git("checkout", "--quiet", "--force", "main")
    clone.git("clean", "--quiet", "--force")
    clone.dvc("checkout", "--allow-missing")
    assert "up to date" in clone.dvc("repro")


def draw_pictures(folder: Path, classes: list[str], per_class: int) -> None:
    """Coloured garments of any size, by class, in the form of `data.source: folder`."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        grey = synthetic.draw(np.full(per_class, label), generator)  # (N, 28, 28)
        for number, image in enumerate(grey):
            tint = generator.uniform(0.3, 1, 3)
            picture = Image.fromarray((image[..., None] * tint).astype(np.uint8))  # (28, 28, 3)
            size = (int(generator.integers(20, 50)), int(generator.integers(20, 50)))
            picture.resize(size).save(folder / name / f"{number:03}.png")


def test_the_pipeline_takes_a_folder_of_pictures_of_another_size_and_other_classes(tmp_path: Path) -> None:
    names = ["blouse", "boots", "cape", "gown", "jeans", "parka", "slippers"]
    clone = Clone.new(tmp_path / "project")
    changes = {
        "data.source": "folder",
        "data.height": 24,
        "data.width": 20,
        "data.channels": 3,
        "split.val_size": 35,
        "model.architecture": "blocks",
        "model.options.blocks.widths": [8, 8, 16],
        "train.batch_size": 16,
    }
    write_params(clone.folder, TINY | changes)
    draw_pictures(clone.folder / "data/input/train", names, 20)
    draw_pictures(clone.folder / "data/input/test", names, 10)
    clone.commit("start")
    clone.dvc("repro")
    predictions = pd.read_csv(clone.folder / "metrics/predictions/test.csv")
    assert len(predictions) == 70
    assert set(predictions["label"]) == set(names)
    assert set(predictions["predicted"]) <= set(names)
    assert list(pd.read_csv(clone.folder / "metrics/classes/val.csv")["class"]) == names
    shapes = from_scratch(clone, tmp_path, "print(model.input_shape, model.output_shape)")
    assert shapes == "(None, 24, 20, 3) (None, 7)"
    said = json.loads(clone.run("python", "src/predict.py", "--json", "data/input/test/gown"))
    expected = predictions[predictions["label"] == "gown"]
    assert [entry["classes"][0]["name"] for entry in said] == [*expected["predicted"]]
    shown = [entry["classes"][0]["probability"] for entry in said]
    np.testing.assert_allclose(shown, expected["confidence"], atol=1.01e-4)


@pytest.mark.slow
def test_tracked_pictures_may_change_but_not_their_object_in_the_cache(tmp_path: Path) -> None:
    clone = Clone.new(tmp_path / "project")
    write_params(clone.folder, TINY | {"data.source": "folder", "data.height": 20, "data.width": 20})
    pictures = clone.folder / "data/input/train"
    draw_pictures(pictures, ["coat", "gown"], 20)
    draw_pictures(clone.folder / "data/input/test", ["coat", "gown"], 5)
    clone.dvc("config", "cache.type", "copy")
    clone.dvc("add", "data/input/train")
    clone.commit("start")
    clone.dvc("repro", "prepare")
    first, other = sorted((pictures / "coat").iterdir())[:2]
    shutil.copy(other, first)
    clone.dvc("repro", "prepare")  # DVC writes the new hash into train.dvc first
    md5 = files.md5(first)
    assert md5
    cached = clone.folder / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}"
    cached.chmod(0o644)
    shutil.copy(sorted((pictures / "gown").iterdir())[0], cached)
    shutil.rmtree(pictures)
    clone.dvc("checkout", "data/input/train.dvc")
    write_params(clone.folder, TINY | {"data.source": "folder", "data.height": 24, "data.width": 24})
    said = clone.run("sh", "-c", "! dvc repro prepare 2>&1")
    assert "error: data/input/train must have the bytes that data/input/train.dvc says (MD5 " in said


@pytest.mark.slow
def test_a_queued_grid(reproduced: Clone, tmp_path: Path) -> None:
    clone = reproduced.copied(tmp_path / "project")
    grid = ("-S", "train.learning_rate=0.03", "-S", "model.architecture=plain,blocks")
    clone.dvc("exp", "run", "--queue", *grid, "train")
    clone.dvc("exp", "run", "--run-all")
    assert len(clone.dvc("exp", "list", "--name-only").split()) == 2  # `exp show` has those that wait, too
    shown = [entry["params"]["params.yaml"]["data"] for entry in clone.experiments().values()]
    tried = {(entry["train"]["learning_rate"], entry["model"]["architecture"]) for entry in shown}
    assert tried >= {(0.05, "plain"), (0.03, "plain"), (0.03, "blocks")}
