"""What is shown of a training, that nothing else is shown, and that nothing is written."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common import files, locks

import pytest

import watch
from training.callbacks import Curves

NOTHING = "Nothing trains here now (make repro does, where there is a need).\n"


@pytest.fixture
def trainer(workspace: Path) -> Iterator[subprocess.Popen]:
    """A process that is called as the training, and holds the lock as far as the lock's file tells."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "src/train.py"]) as process:
        locks.STAGE.parent.mkdir()
        locks.STAGE.write_text(str(process.pid))
        yield process
        process.kill()


def figures(number: int) -> dict[str, float]:
    return {"accuracy": 0.5 + 0.1 * number, "loss": 1.5, "val_accuracy": 0.6 + 0.1 * number, "val_loss": 1.25}


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *looks: object) -> str:
    """What `make watch` prints when each look is followed by one of these functions."""
    waiting = iter(looks)
    monkeypatch.setattr(sys, "argv", ["watch.py"])
    monkeypatch.setattr(time, "sleep", lambda seconds: next(waiting)())  # type: ignore[operator]
    watch.main()
    assert next(waiting, None) is None
    return capsys.readouterr().out


def test_says_in_one_line_that_nothing_trains(
    trainer: subprocess.Popen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys) == NOTHING  # another stage could hold the lock
    watch.CURVES.mkdir(parents=True)
    assert watch.is_training()
    locks.STAGE.write_text(str(os.getpid()))  # which is no training
    assert run(monkeypatch, capsys) == NOTHING
    locks.STAGE.write_text(str(trainer.pid))
    trainer.kill()
    trainer.wait()
    assert run(monkeypatch, capsys) == NOTHING  # and its curves are still there
    for text in ("", "x"):
        locks.STAGE.write_text(text)
        assert run(monkeypatch, capsys) == NOTHING
    locks.STAGE.unlink()
    assert run(monkeypatch, capsys) == NOTHING


def test_draws_once_an_epoch_what_the_training_writes(
    trainer: subprocess.Popen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with files.atomic_folder(Path("metrics/curves")) as folder:
        assert folder == watch.CURVES.resolve()
        curves = Curves(folder)
        last = folder / "plots/metrics/val/accuracy.tsv"

        def unfinished() -> None:
            with last.open("a") as table:
                table.write("3\t0.")

        def killed() -> None:
            trainer.kill()
            trainer.wait()  # until it has gone

        looks = [
            lambda: curves.on_epoch_end(0, figures(0)),
            lambda: curves.on_epoch_end(1, figures(1)),
            unfinished,
            killed,
        ]
        before = sorted(folder.rglob("*"))
        said = run(monkeypatch, capsys, *looks)
        assert {path.name for path in {*folder.rglob("*")} - {*before}} <= {
            "plots", "metrics", "train", "val", "accuracy.tsv", "loss.tsv", "metrics.json",
        }  # fmt: skip
    assert said.startswith("no accuracy before the end of the first epoch\nno loss before the end of the first epoch\n")
    assert re.findall(r"^train .*", said, re.M) == [
        "train 0.5000, val 0.6000", "train 1.5000, val 1.2500", "train 0.6000, val 0.7000", "train 1.5000, val 1.2500",
    ]  # fmt: skip
    assert "\x1b" not in said  # colours are for terminals
    assert said.endswith("The training has ended.\n")


def test_a_training_without_val_has_one_curve(trainer: subprocess.Popen) -> None:
    with files.atomic_folder(Path("metrics/curves")) as folder:
        Curves(folder).on_epoch_end(0, {"accuracy": 0.5, "loss": 1.5})
        assert watch.plot("accuracy").splitlines()[-1] == "train 0.5000"
        (folder / "plots/metrics/train/accuracy.tsv").write_text("step")  # as it begins
        assert watch.plot("accuracy") == "no accuracy before the end of the first epoch"


def test_it_fits_into_a_terminal(trainer: subprocess.Popen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    with files.atomic_folder(Path("metrics/curves")) as folder:
        curves = Curves(folder)
        for epoch in range(2):
            curves.on_epoch_end(epoch, figures(epoch))
        lines = f"{watch.plot('accuracy')}\n{watch.plot('loss')}".splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80


def test_ctrl_c_ends_it_alone(trainer: subprocess.Popen) -> None:
    watch.CURVES.mkdir(parents=True)
    with subprocess.Popen([sys.executable, watch.__file__], text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("no accuracy")
        process.send_signal(2)
        assert process.wait(timeout=30) != 0
    assert trainer.poll() is None
