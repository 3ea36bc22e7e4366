"""benchmarks/gpu.py in small: all of its parts on the CPU, and what goes to the other machine."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from common import synthetic
from common.errors import InputError

import numpy as np
import pytest

from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
TRAIN, TEST = 500, 100


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared arrays of drawings."""
    folder = tmp_path_factory.mktemp("prepared")
    for part, count, generator in zip(("train", "test"), (TRAIN, TEST), np.random.default_rng(0).spawn(2), strict=True):
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / part).mkdir()
        np.save(folder / part / "images.npy", synthetic.draw(labels, generator)[..., None])
        np.save(folder / part / "labels.npy", labels)
    np.save(folder / "near_duplicates.npy", np.arange(TRAIN))
    (folder / "classes.json").write_text(json.dumps([f"class {label}" for label in range(10)]))
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The program as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("gpu")
    for name in [name for name in sys.modules if name in ("gpu", "train_step") or name.startswith("on_gpu")]:
        del sys.modules[name]


def accuracy_of_the_file(training: Any, prepared: Path, folder: Path) -> float:
    """Of the predictions that the model file of a training makes for the test images."""
    from training import model_file

    classifier = model_file.with_preprocessing(training.network, training.mean, training.std)
    model_file.save(classifier, training.class_names, folder / "model.keras")
    model, _ = model_file.load(folder / "model.keras", (28, 28, 1))
    predicted = model_file.predict(model, np.load(prepared / "test/images.npy")).argmax(1)
    return float((predicted == np.load(prepared / "test/labels.npy")).mean())


class KilledError(Exception):
    """In place of SIGKILL."""


@pytest.fixture
def in_this_process(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, settings_of_torch: None) -> None:
    """Parts run in this process, which need not start again for each."""
    parts = importlib.import_module("on_gpu.parts")
    trainings = importlib.import_module("on_gpu.trainings")

    class Job:
        def __init__(self, part: str, settings: Any, label: str, environment: Any = None, **more: Any):
            self.found: dict[str, Any] = {}
            try:
                parts.PARTS[part](settings, self.report, **more)
            except KilledError:
                self.found["ended with"] = -9

        def report(self, found: dict[str, Any]) -> None:
            json.dumps(found, allow_nan=False)
            self.found = found

        def wait(self, seconds: float) -> dict[str, Any]:
            return self.found

    def kill(process: int, number: int) -> None:
        assert process == os.getpid()
        raise KilledError

    monkeypatch.setattr(gpu, "Job", Job)
    monkeypatch.setattr(parts, "Job", Job)
    monkeypatch.setattr(trainings.os, "kill", kill)


def test_all_parts_in_small(
    gpu: ModuleType, in_this_process: None, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = importlib.import_module("on_gpu.trainings")
    trained: dict[str, Any] = {}

    def once(settings: Any, name: str, *arguments: Any, train: Callable = trainings.once, **options: Any) -> Any:
        found, trained[name] = train(settings, name, *arguments, **options)
        return found, trained[name]

    monkeypatch.setattr(trainings, "once", once)
    recipes = gpu.read_recipes(gpu.RECIPES, small=True)
    out = tmp_path / "gpu.json"
    found = gpu.run(list(gpu.SHARES), prepared, out, 3600, recipes, small=True)
    assert json.loads(out.read_text()) == found
    parts = found["parts"]
    assert list(parts) == list(gpu.SHARES)
    assert not [name for name, part in parts.items() if "ended with" in part]

    assert parts["probe"]["mode"] == {"graphs": True, "strict": True}
    assert parts["probe"]["machine"].keys() >= {"torch", "keras", "processor", "cores"}
    assert parts["sameness"]["killed"] == {"ended with": -9}
    assert parts["sameness"]["same bytes"] == dict.fromkeys(("second", "without graphs", "killed, then resumed"), True)
    assert parts["sameness"]["killed, then resumed"]["steps"] < parts["sameness"]["first"]["steps"]

    agreement = parts["agreement"]
    assert set(agreement["relative error of a first step in float32"].values()) == {0}
    accuracies = agreement["val accuracy"]
    assert accuracies["gpu"] == accuracies["cpu"]  # the device is the same
    assert len(accuracies["cpu"]) == 2

    results = parts["throughput"]["results"]
    assert [result["precision"] for result in results] == ["bfloat16", "float32"]
    for result in results:
        assert not result["failed"]
        assert result["images a second"].keys() == {"ours", "ours, 4 shards", "by hand"}
        assert result["ratios"]["ours / by hand"] > 0

    for name, finals in (("fast", 3), ("accurate", 3), ("record", 1)):
        part = parts[name]
        assert len(part["candidates"]) == 2
        assert len(part["test accuracy"]) == len(part["final"]) == part["n"] == finals
        limit = part["limit in seconds"] or float("inf")
        in_time = [found for found in part["candidates"] if found["seconds"] <= limit] or part["candidates"]
        best = max(in_time, key=lambda found: found["last epoch"]["val_accuracy"])
        assert part["chosen by val"] == best["changes"]
        assert part["mean"] == pytest.approx(np.mean(part["test accuracy"]), abs=1e-6)
        assert part["reached"] == (part["mean"] >= part["goal"] and part["mean seconds"] <= limit)
    seeds = [result["changes"]["train.seed"] for result in parts["fast"]["final"]]
    assert seeds == recipes["fast"]["seeds"]
    if (ROOT / "published/heinit").exists():  # make adopt removes it
        heinit = parts["heinit"]
        assert heinit["test accuracy"] == accuracy_of_the_file(trained["heinit"], prepared, tmp_path)
        assert heinit["steps"] == 2 * 5  # epochs of 300 rows
        assert trained["heinit"].network.count_params() == 4_583_878


def test_the_test_accuracy_is_that_of_the_model_file(
    gpu: ModuleType, in_this_process: None, prepared: Path, tmp_path: Path
) -> None:
    trainings = importlib.import_module("on_gpu.trainings")
    settings = gpu.Settings(
        prepared, tmp_path, {}, float("inf"), gpu.SMALL | {"train.device": "cpu", "train.epochs": 4}
    )
    _, training = trainings.once(settings, "one", {})
    assert trainings.test_accuracies(settings, [training]) == [accuracy_of_the_file(training, prepared, tmp_path)]


def test_a_part_without_a_mode_that_works_says_why(
    gpu: ModuleType, in_this_process: None, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = importlib.import_module("on_gpu.parts")

    def single(settings: Any, report: Callable, **more: Any) -> None:
        report({"ended with": 1} if settings.graphs else {"md5": "0"})

    monkeypatch.setitem(parts.PARTS, "single", single)
    recipes = gpu.read_recipes(gpu.RECIPES, small=True)
    found = gpu.run(["probe"], prepared, tmp_path / "gpu.json", 3600, recipes, small=True)["parts"]["probe"]
    assert found["mode"] == {"graphs": False, "strict": True}
    assert found["failed"] == [{"mode": {"graphs": True, "strict": True}, "ended with": 1}]


def test_what_is_packed_is_unpacked(
    gpu: ModuleType, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    def run(words: list[str], check: bool) -> Any:
        called.append(words)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / "old-1-py3-none-any.whl").touch()
    gpu.pack(tmp_path, prepared)
    assert [path.name for path in tmp_path.iterdir()] == ["prepared.npz"]
    (words,) = called
    assert words[words.index("--python-version") + 1] == "3.12"
    locked = (ROOT / "requirements.txt").read_text().split()
    wheels = [word for word in words if "==" in word]
    assert len(wheels) == len(gpu.WHEELS)
    assert set(wheels) <= set(locked)
    folder = gpu.unpack(tmp_path / "prepared.npz", tmp_path / "work")
    for part in gpu.PARTS:
        np.testing.assert_array_equal(np.load(folder / f"{part}.npy"), np.load(prepared / f"{part}.npy"))
    assert (folder / "classes.json").read_bytes() == (prepared / "classes.json").read_bytes()


def test_too_much_to_carry_is_refused(
    gpu: ModuleType, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda words, check: SimpleNamespace(returncode=0))
    monkeypatch.setattr(gpu, "LIMIT", 1000)
    with pytest.raises(InputError, match=r"must have at most 0 MiB; received 0\.\d$"):
        gpu.pack(tmp_path, prepared)
    monkeypatch.setattr(subprocess, "run", lambda words, check: SimpleNamespace(returncode=2))
    with pytest.raises(InputError, match=r"^pip must download the wheels; it ended with 2$"):
        gpu.pack(tmp_path, prepared)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--seconds", "5"], r"^--seconds must be between 30 and 3,600; received 5$"),
        (["--data", "nowhere"], r"^nowhere must be there \(make repro writes it\); it is missing$"),
        (["--data", "here.npz"], r"^here\.npz must be as --pack writes it; received: .+"),
        (["--data", "."], r"^train/images\.npy must be there"),
        (["--recipes", "nothing.yaml"], r"^nothing\.yaml must be a file of recipes; received: .+"),
        (["--recipes", "empty.yaml"], r"^empty\.yaml must have base, fast, .+; base, fast, .+ is missing$"),
        (["--recipes", "broken.yaml"], r"^broken\.yaml must be a file of recipes; received: .+"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], rule: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.npz").write_bytes(b"no archive")
    Path("empty.yaml").touch()
    Path("broken.yaml").write_text("base: [")
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    with pytest.raises(InputError, match=rule) as refusal:
        gpu.main()
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_the_program_needs_neither_dvc_nor_git(prepared: Path, tmp_path: Path) -> None:
    """In processes of its own, one of which is killed; that every part runs is the test above."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/dvclive.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "hidden/dvc.py").write_text("raise ImportError('not here')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "hidden"), "PATH": str(tmp_path)}
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--small", "--seconds", "1800", "--data", str(prepared)]
    words += ["--only", "sameness"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == ["probe", "sameness"]
    assert parts["probe"]["start-up seconds"].keys() == {"import", "device"}
    assert parts["sameness"]["killed"] == {"ended with": -9}
    assert all(parts["sameness"]["same bytes"].values())
