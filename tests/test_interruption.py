"""Whatever ends a run, the next run completes it with the bytes of an uninterrupted run.

Programs are forks, but where a single one of several is killed, or Ctrl-C comes.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from conftest import ROOT, TINY, Clone, kill_all_of, made_once, with_forks, write_params

SETTING = TINY | {"train.epochs": 12}
AN_EPOCH_IS_SAVED = "epoch 2/"  # an epoch is saved just after its line
# executed again even if dvc remembers the results
AGAIN = ("dvc", "repro", "--no-run-cache")
STAGE_OF_PART = {".raw.part": "fetch", ".split.part": "split"}
OUTPUTS = ("data/raw", "data/prepared", "data/split", "models", "metrics", "plots")


def outputs(folder: Path) -> dict[str, bytes]:
    paths = [path for name in OUTPUTS for path in (folder / name).rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def start(clone: Clone, *words: str, threads: int = 1, fresh: bool = False) -> subprocess.Popen[str]:
    """In a process group of its own, as a terminal does it.

    Args:
        fresh: with interpreters of its own, not forks.
    """
    return subprocess.Popen(
        words,
        cwd=clone.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=(os.environ if fresh else with_forks()) | {"PYTHONUNBUFFERED": "1", "TRAIN_THREADS": str(threads)},
        # background jobs of a shell ignore Ctrl-C, and so would all that they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"{text!r} never came")


def training_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The process of src/train.py itself, whatever shell stands between."""
    children = psutil.Process(process.pid).children(recursive=True)
    (found,) = [child for child in children if "python" in child.name()]
    return found


@pytest.fixture(scope="session")
def uninterrupted(reproduced: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing has interrupted the first run; tests change a copy."""

    def make(folder: Path) -> None:
        clone = reproduced.copied(folder)
        write_params(folder, SETTING)
        clone.dvc("repro")
        # no state is left
        assert {path.suffix for path in (folder / ".cache/checkpoints").iterdir()} == {".lock", ".csv"}
        clone.commit("reproduce")

    return Clone(made_once(tmp_path_factory, "uninterrupted", make))


@pytest.fixture
def expected(uninterrupted: Clone) -> dict[str, bytes]:
    return outputs(uninterrupted.folder)


@pytest.fixture
def clone(uninterrupted: Clone, tmp_path: Path) -> Iterator[Clone]:
    """Where runs are interrupted; complete before the test. Nothing in it outlives the test."""
    clone = uninterrupted.copied(tmp_path / "project")
    yield clone
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()) == clone.folder:
                process.kill()


def train_again(clone: Clone) -> subprocess.Popen[str]:
    """As if it had never run, by real programs."""
    return start(clone, *AGAIN, "--force", "--single-item", "train", fresh=True)


def assert_the_next_run_finishes(clone: Clone, expected: dict[str, bytes]) -> str:
    tried = subprocess.run(AGAIN, cwd=clone.folder, env=with_forks(), check=False, capture_output=True, text=True)
    said = tried.stdout + tried.stderr
    if tried.returncode:  # a file was cut off while DVC wrote it: as docs/interruption.md says
        if "'./dvc.lock'" in said:
            clone.git("restore", "dvc.lock")
        else:
            assert "Unable to read RWLock-file" in said, said
            (clone.folder / ".dvc/tmp/rwlock").unlink()
        said = clone.run(*AGAIN)
    assert outputs(clone.folder) == expected
    assert "up to date" in clone.dvc("status", "dvc.yaml")
    parts = {path.name for path in clone.folder.rglob(".*.part")}
    # only of a stage whose outputs DVC takes from its cache, so that it does not run
    assert all(f"Stage '{stage}' is cached - skipping run" in said for stage in map(STAGE_OF_PART.get, parts)), parts
    left = [path.name for path in (clone.folder / ".cache/checkpoints").iterdir()]
    # a state stays where all outputs were there when the kill came, so that the stage did not run again
    assert all(name.endswith((".lock", "seconds.csv")) for name in left) or "Stage 'train' didn't change" in said, left
    return said


@pytest.mark.slow
def test_kill_9_of_all_at_ten_random_moments(clone: Clone, expected: dict[str, bytes]) -> None:
    """Six in the stage as a whole, four after an epoch of its training; each time with other threads."""
    began = time.perf_counter()
    clone.run(*AGAIN, "--force", "--single-item", "train")
    whole = time.perf_counter() - began
    generator = np.random.default_rng(0)
    moments = [("", moment) for moment in generator.uniform(0, whole, 6)]
    moments += [(f"epoch {epoch}/", 0.1) for epoch in generator.choice(range(1, 9), 4, False)]
    went_on = 0
    for number, (text, moment) in enumerate(moments):
        process = start(clone, *AGAIN, "--force", "--single-item", "train", threads=1 + number % 4)
        if text:
            wait_for(process, text)
        time.sleep(moment)
        kill_all_of(clone.folder)
        process.communicate()
        went_on += "goes on after epoch" in assert_the_next_run_finishes(clone, expected)
    assert went_on >= 2


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fetch", "prepare", "split", "evaluate"])
def test_kill_9_in_every_other_stage(clone: Clone, expected: dict[str, bytes], stage: str) -> None:
    for moment in (0.1, 0.6) if stage in ("prepare", "evaluate") else (0.1,):  # the others have ended by then
        process = start(clone, *AGAIN, "--force", "--single-item", stage)
        wait_for(process, f"python -EB src/{stage}.py")
        time.sleep(moment)
        kill_all_of(clone.folder)
        process.communicate()
        assert_the_next_run_finishes(clone, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "output"), [("fetch", "raw"), ("split", "split")])
def test_what_a_kill_left_beside_an_output_of_the_cache_goes_later(
    clone: Clone, expected: dict[str, bytes], stage: str, output: str
) -> None:
    """As docs/interruption.md says: with the next run of the stage, or with `make clean`."""

    def kill_while_it_writes() -> None:
        remains.mkdir()
        (remains / "half").write_text("")
        shutil.rmtree(remains.with_name(output))

    remains = clone.folder / f"data/.{output}.part"
    kill_while_it_writes()
    assert f"Stage '{stage}' is cached - skipping run" in assert_the_next_run_finishes(clone, expected)
    assert remains.exists()
    clone.run(*AGAIN, "--force", "--single-item", stage)
    assert not remains.exists()
    kill_while_it_writes()
    clone.run("make", "clean")
    assert not remains.exists()


@pytest.mark.slow
def test_a_killed_process_whose_number_is_not_free_yet(clone: Clone, expected: dict[str, bytes]) -> None:
    """DVC looks at the number alone; docs/interruption.md names the way out."""
    lock = clone.folder / ".dvc/tmp/rwlock"
    with subprocess.Popen(["true"]) as ended:
        while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        writer = {"pid": ended.pid, "cmd": "dvc repro"}
        lock.write_text(json.dumps({"read": {}, "write": {str(clone.folder / "models"): writer}}))
        with pytest.raises(AssertionError, match="is busy"):
            clone.run(*AGAIN, "--force", "--single-item", "train")
        lock.unlink()
        clone.run(*AGAIN, "--force", "--single-item", "train")
    assert_the_next_run_finishes(clone, expected)


def interrupt(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def kill_training(process: subprocess.Popen[str]) -> None:
    training_of(process).kill()


@pytest.mark.slow
@pytest.mark.parametrize("end", [interrupt, kill_training])
def test_ctrl_c_or_the_end_of_training_alone(
    clone: Clone, expected: dict[str, bytes], end: Callable[[subprocess.Popen[str]], None]
) -> None:
    process = train_again(clone)
    wait_for(process, AN_EPOCH_IS_SAVED)
    end(process)
    said, _ = process.communicate(timeout=60)
    assert process.returncode
    assert "Traceback" not in said
    assert ("interrupted; to get back" in said) == (end is interrupt)
    assert "goes on after epoch" in assert_the_next_run_finishes(clone, expected)


def kill_dvc_alone(clone: Clone) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Gives dvc, whose pipe stays open as a terminal would, and the training that it leaves behind,
    which is held so that it lasts until the next one.
    """
    process = train_again(clone)
    wait_for(process, AN_EPOCH_IS_SAVED)
    training = training_of(process)
    training.suspend()
    process.kill()
    process.wait()
    return process, training


def run_beside(clone: Clone, training: psutil.Process, *stages: str) -> str:
    """Runs dvc again, and lets the training go on as soon as it is noticed; what dvc says from then on."""
    process = start(clone, *AGAIN, *stages)
    wait_for(process, f"waiting until process {training.pid} ends")
    assert training.is_running()
    training.resume()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
def test_the_end_of_dvc_alone(clone: Clone, expected: dict[str, bytes]) -> None:
    _dvc, training = kill_dvc_alone(clone)
    said = run_beside(clone, training)
    assert f"goes on after epoch {SETTING['train.epochs']}" in said  # nothing was done twice
    assert_the_next_run_finishes(clone, expected)


@pytest.mark.slow
def test_another_training_waits_for_the_one_that_dvc_left_behind(clone: Clone, expected: dict[str, bytes]) -> None:
    _dvc, training = kill_dvc_alone(clone)
    write_params(clone.folder, SETTING | {"train.seed": 1})
    assert "goes on" not in run_beside(clone, training, "train")
    assert "up to date" in clone.dvc("status", "train")
    write_params(clone.folder, SETTING)
    assert_the_next_run_finishes(clone, expected)


@pytest.mark.slow
def test_kill_9_of_a_queue_loses_no_experiment_and_makes_none_twice(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the commands of docs/interruption.md."""
    undisturbed = clone.copied(tmp_path / "undisturbed")
    states = tmp_path / "checkpoints"
    monkeypatch.setenv("CHECKPOINT_DIR", str(states))
    seeds = {f"seed-{seed}": ("--name", f"seed-{seed}", "-S", f"train.seed={seed}", "train") for seed in (1, 2)}
    for words in seeds.values():
        clone.dvc("exp", "run", "--queue", *words)
    queue = start(clone, "dvc", "exp", "run", "--run-all")
    # not by its output, which comes late
    while not any(path.suffix == "" for path in states.glob("*")):
        assert queue.poll() is None
        time.sleep(0.01)
    time.sleep(np.random.default_rng(0).uniform(0, 0.3))
    kill_all_of(clone.folder)
    queue.communicate()
    status = clone.dvc("queue", "status")
    assert "0 active" in status
    (killed,) = [name for name in seeds if f"{name} " in status and "Running" in status.split(name)[1].split("\n")[0]]
    clone.dvc("queue", "kill", killed)
    clone.dvc("queue", "remove", killed)
    clone.dvc("exp", "run", "--queue", *seeds[killed])
    assert "goes on after epoch" in clone.dvc("exp", "run", "--run-all")
    assert {*clone.dvc("exp", "list", "--name-only").split()} == {*seeds}
    undisturbed.dvc("exp", "run", *seeds[killed])
    trees = [each.git("for-each-ref", "--format=%(tree)", f"refs/exps/*/*/{killed}") for each in (clone, undisturbed)]
    assert trees[0] == trees[1] != ""


WITH_A_FULL_DISK = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.path[0], script = sys.argv[1:]
del sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("stage", ["fetch", "prepare", "split", "train", "evaluate", "export"])
def test_a_full_disk_is_one_line_and_changes_nothing(reproduced: Clone, tmp_path: Path, stage: str) -> None:
    """The limit of a file's size stands for the disk: the system refuses to write in the same way."""
    (tmp_path / "script.py").write_text(WITH_A_FULL_DISK)
    before = outputs(reproduced.folder)
    assert before
    done = subprocess.run(
        ["python", tmp_path / "script.py", ROOT / "src", ROOT / "src" / f"{stage}.py"],
        cwd=reproduced.folder,
        capture_output=True,
        text=True,
        check=False,
        env=with_forks(),
    )
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ")
    assert outputs(reproduced.folder) == before
    assert not [*reproduced.folder.rglob(".*.part")]
