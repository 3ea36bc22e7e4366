"""The pipeline as declared in dvc.yaml, against what its scripts use; and the whole of it, run by dvc."""

import ast
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, TINY, Clone, write_params
from dvc.utils.hydra import apply_overrides
from PIL import Image
from ruamel.yaml import YAML

from common import params, synthetic

PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
COMMITTED = params.load(ROOT / "params.yaml")
STAGES = PIPELINE["stages"]
SRC = ROOT / "src"


def declared(stage: str, kind: str) -> list[str]:
    """Paths or keys under deps, outs, metrics or params of a stage, templates filled in."""
    entries = [next(iter(e)) if isinstance(e, dict) else e for e in STAGES[stage].get(kind, [])]
    return [
        entry.replace("${model.architecture}", COMMITTED.model.architecture) for entry in entries
    ]


def script(stage: str) -> Path:
    return ROOT / STAGES[stage]["cmd"].removeprefix("python ")


# --- modules ------------------------------------------------------------------------------------


def imported_modules(path: Path) -> Iterator[Path]:
    """The files under src/ that the file imports, wherever in it; packages' __init__ included."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                target = SRC.joinpath(*parts[:length])
                for file in (target.with_suffix(".py"), target / "__init__.py"):
                    if file.is_file():
                        yield file


def all_modules(path: Path) -> set[Path]:
    found, left = set(), [path]
    while left:
        if (file := left.pop()) not in found:
            found.add(file)
            left.extend(imported_modules(file))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_exactly_the_modules_that_it_imports(stage: str) -> None:
    used = all_modules(script(stage))
    if SRC / "architectures" / "__init__.py" in used:  # it imports the chosen one by name
        used |= all_modules(SRC / "architectures" / f"{COMMITTED.model.architecture}.py")
    assert {str(file.relative_to(ROOT)) for file in used} == {
        dep for dep in declared(stage, "deps") if dep.startswith("src/")
    }


# --- parameters ---------------------------------------------------------------------------------


def leaves(section: Any, prefix: str = "") -> set[str]:
    """The keys of all values below a section of the schema."""
    if not isinstance(section, params.Section):
        return {prefix}
    return set().union(
        *(
            leaves(getattr(section, name), f"{prefix}.{name}".lstrip("."))
            for name in type(section).model_fields
        )
    )


def value(key: str) -> Any:
    section: Any = COMMITTED
    for name in key.split(".") if key else []:
        section = getattr(section, name)
    return section


def below(key: str) -> set[str]:
    return leaves(value(key), key)


def parameters_read(path: Path) -> set[str]:
    """The keys that a script takes from `params.load()`, through the names that it gives to sections."""
    tree = ast.parse(path.read_text())
    bound: dict[str, str] = {}  # variable: key of the section that it holds, "" for all

    def key_of(node: ast.AST) -> str | None:
        if ast.unparse(node) == "params.load()":
            return ""
        if isinstance(node, ast.Name):
            return bound.get(node.id)
        if isinstance(node, ast.Attribute):
            outer = key_of(node.value)
            if outer is not None and isinstance(value(outer), params.Section):
                return f"{outer}.{node.attr}".lstrip(".")
        return None

    read: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            key = key_of(node.value)
            if key is not None and isinstance(value(key), params.Section):
                bound[node.targets[0].id] = key
                return
        if isinstance(node, ast.Name | ast.Attribute | ast.Call):
            key = key_of(node)
            if key is not None:
                read.update(below(key))
                return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return read


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_exactly_the_parameters_that_it_reads(stage: str) -> None:
    said = set().union(*(below(key) for key in declared(stage, "params")))
    assert parameters_read(script(stage)) == said


def test_every_parameter_is_read_by_a_stage() -> None:
    assert set().union(*(parameters_read(script(stage)) for stage in STAGES)) == leaves(COMMITTED)


def test_the_reader_of_parameters_sees_through_names_and_calls(tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(
        "chosen = params.load()\n"
        "s = chosen.train\n"
        "f(s.epochs, chosen.model.options.get('plain'))\n"
        "g(chosen.split)\n"
    )
    assert parameters_read(example) == {"train.epochs", "model.options", *below("split")}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (f"{key}={json.dumps(value(key))}", value(key))
        for key in sorted(leaves(COMMITTED))
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


# --- the whole, run by dvc ----------------------------------------------------------------------


def test_a_second_repro_has_nothing_to_do(reproduced: Clone) -> None:
    assert "up to date" in reproduced.dvc("repro")
    assert "up to date" in reproduced.dvc("repro", "--allow-missing", "--dry")


def test_running_every_stage_again_gives_the_same_bytes(reproduced: Clone) -> None:
    reproduced.dvc("repro", "--force")
    assert reproduced.git("status", "--porcelain") == ""


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
    reproduced.dvc("checkout")
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
    clone = Clone(tmp_path)
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


@pytest.mark.slow
def test_a_queued_grid_and_other_architectures_and_sources(reproduced: Clone) -> None:
    grid = "train.learning_rate=0.01,0.03"
    reproduced.dvc("exp", "run", "--queue", "-S", grid)
    reproduced.dvc("exp", "run", "--run-all")
    reproduced.dvc("exp", "run", "--name", "blocks", "-S", "model.architecture=blocks")
    reproduced.git("checkout", "--quiet", "--force", "main")
    shown = [entry["params"]["params.yaml"]["data"] for entry in reproduced.experiments().values()]
    assert {0.01, 0.03} <= {entry["train"]["learning_rate"] for entry in shown}
    assert {"plain", "blocks"} == {entry["model"]["architecture"] for entry in shown}
    reproduced.dvc("checkout")
