"""benchmarks/gpu.py in small: all of its parts on the CPU, and what goes to the other machine."""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from common import synthetic
from common.errors import InputError

import numpy as np
import psutil
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
def gpu(monkeypatch: pytest.MonkeyPatch, settings_of_torch: None) -> Iterator[ModuleType]:
    """The program as a module; the environment variables that its parts set would keep later tests from forking."""
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
def in_this_process(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert trained["heinit"].network.count_params() == 7_995_654


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


class Time:
    """In place of the module `time`; `wait` lets it pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("used", [1.0, 0.1])
def test_each_part_has_its_share_of_the_time_that_is_left(
    gpu: ModuleType, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: float
) -> None:
    clock, given = Time(), {}

    class Job:
        def __init__(self, part: str, settings: Any, label: str, **more: Any):
            self.part, self.settings = part, settings

        def wait(self, seconds: float) -> dict[str, Any]:
            assert clock.now < self.settings.deadline <= clock.now + seconds - gpu.STOP
            given[self.part] = seconds, (self.settings.graphs, self.settings.strict)
            clock.wait(used * seconds)
            return {}

    monkeypatch.setattr(gpu, "Job", Job)
    monkeypatch.setattr(gpu, "time", clock)
    gpu.run(list(gpu.SHARES), prepared, tmp_path / "gpu.json", 470, {}, small=False)
    seconds = [share for share, _ in given.values()]
    assert sum(used * share for share in seconds) < 470 - gpu.MARGIN + 1e-6
    if used == 1:
        whole = sum(gpu.SHARES.values()) / (470 - gpu.MARGIN)
        assert seconds == pytest.approx([share / whole for share in gpu.SHARES.values()])
    else:
        assert seconds[-1] > 300
    modes = [mode for _, mode in given.values()]
    assert modes == [(True, True), *[(False, False)] * (len(modes) - 1)]  # the probe found none


@pytest.mark.parametrize(
    ("seconds", "tried", "left_out", "finals"),
    [(1000, 3, 0, 3), (110, 2, 1, 3), (100, 1, 2, 1), (70, 1, 2, 0), (40, 0, 3, 0)],
)
def test_each_final_is_reported_when_it_ends_and_none_is_begun_that_has_no_time(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, seconds: float, tried: int, left_out: int, finals: int
) -> None:
    jobs, parts = importlib.import_module("on_gpu.jobs"), importlib.import_module("on_gpu.parts")
    clock, reports = Time(), list[dict[str, Any]]()
    monkeypatch.setattr(jobs, "time", clock)
    candidates = [{"train.epochs": 10, "train.batch_size": 55, "train.learning_rate": rate} for rate in (0.1, 0.3, 0.2)]
    plan = {"goal": 0.9, "seconds": 60.0, "candidates": candidates, "final": {"split.val_size": 0}, "seeds": [0, 1, 2]}
    slow = 2.0 if seconds == 100 else 1.0  # on all rows

    def once(settings: Any, name: str, changes: dict[str, Any]) -> tuple[dict[str, Any], str]:
        took = 1.0 if "warm-up" in name else 45.0 if seconds == 70 else 20.0 * (slow if "final" in name else 1)
        clock.wait(took)
        rate = changes["train.learning_rate"]
        return {
            "changes": changes,
            "seconds": took,
            "seconds a step in the last epoch": 0.002,
            "last epoch": {"val_accuracy": rate},
        }, name

    monkeypatch.setattr(parts.trainings, "once", once)
    monkeypatch.setattr(parts.trainings, "test_accuracies", lambda settings, models: [0.95] * len(models))
    settings = gpu.Settings(Path(), Path(), {"fast": plan, "base": {}}, clock.now + seconds)
    parts.recipe(settings, reports.append, "fast")
    last = reports[-1]
    assert len(last["candidates"]) == tried
    assert len(last.get("left out", ())) == left_out
    assert len(last.get("final", ())) == last.get("n", 0) == len(last.get("test accuracy", ())) == finals
    if tried:
        best = max(candidates[:tried], key=lambda candidate: candidate["train.learning_rate"])
        assert last["chosen by val"] == best
        assert [found["changes"] for found in last["final"]] == [
            best | {"split.val_size": 0, "train.seed": seed} for seed in range(finals)
        ]
        assert last.get("reached", False) == (finals > 0)
    assert clock.now <= settings.deadline


def test_figures_that_are_no_numbers_end_no_other_part(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = importlib.import_module("on_gpu.jobs")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; open(sys.argv[2].replace('.json', '.result.json'), 'w').write('{\"loss\": [NaN, -Infinity]}')"
    )
    monkeypatch.setattr(jobs, "PROGRAM", program)
    settings = gpu.Settings(tmp_path, tmp_path, {}, 0)
    found = gpu.Job("fast", settings, "fast").wait(60)
    json.dumps(found, allow_nan=False)
    assert found == {"loss": ["NaN", "-Infinity"]}


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
        (["--recipes", "nothing.yaml"], r"^nothing\.yaml must be a file in the working directory; received: .+"),
        (["--recipes", "few.yaml"], r"^few\.yaml must have base, fast, .+; fast, .+ is missing$"),
        (["--recipes", "broken.yaml"], r"^broken\.yaml must be valid YAML in UTF-8; received .+"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], rule: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here.npz").write_bytes(b"no archive")
    Path("few.yaml").write_text("base: {}")
    Path("broken.yaml").write_text("base: [")
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    with pytest.raises(InputError, match=rule) as refusal:
        gpu.main()
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2)")
def test_what_a_stopped_part_has_started_ends_with_it(gpu: ModuleType, prepared: Path, tmp_path: Path) -> None:
    recipes = gpu.read_recipes(gpu.RECIPES, small=True)
    settings = gpu.Settings(prepared, tmp_path, recipes, float("inf"), gpu.SMALL | {"train.epochs": 1000})
    job = gpu.Job("probe", settings, "probe")
    part = psutil.Process(job.process.pid)
    while not (started := part.children()):
        assert job.process.poll() is None, job.log.read_text()
        time.sleep(0.1)
    while not (tmp_path / "probe 0.job.result.json").exists():  # it trains
        assert started[0].is_running()
        time.sleep(0.1)
    assert job.wait(0)["ended with"] == "stopped after 0 s"
    assert not psutil.wait_procs(started, timeout=60)[1]


@pytest.mark.slow
def test_the_program_needs_neither_dvc_nor_git(gpu: ModuleType, prepared: Path, tmp_path: Path) -> None:
    """In processes of its own, one of which is killed; that every part runs is a test above."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/dvclive.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "hidden/dvc.py").write_text("raise ImportError('not here')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "hidden"), "PATH": str(tmp_path)}
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--small", "--seconds", "1800", "--data", str(prepared)]
    words += ["--only", "probe"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == ["probe"]
    assert parts["probe"]["start-up seconds"].keys() == {"import", "device"}
    assert parts["probe"]["training"]["steps"] > 0
    recipes = gpu.read_recipes(gpu.RECIPES, small=True)
    settings = gpu.Settings(prepared, tmp_path, recipes, float("inf"), gpu.SMALL | {"train.device": "cpu"})
    changes = recipes["base"] | recipes["sameness"]
    job = gpu.Job("single", settings, "killed", environment, name="killed", changes=changes, kill_in_epoch=1)
    assert job.wait(600)["ended with"] == -9
