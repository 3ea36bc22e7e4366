"""Faults planted in a scratch clone: `make check` must refuse each, and say why."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Clone

import check

MODEL = Path("models/model.keras")


@pytest.fixture(scope="module")
def whole(reproduced: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which everything belongs together."""
    clone = reproduced.copied(tmp_path_factory.mktemp("whole") / "clone")
    folder = clone.folder
    for name in ("recipe", "determinism", "pictures"):
        (folder / f"benchmarks/{name}.json").unlink(missing_ok=True)  # of the real data
    for name in ("published", "readme"):
        subprocess.run(["python", f"src/{name}.py"], cwd=folder, check=True, capture_output=True)
    return clone


@pytest.fixture
def clone(whole: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = whole.copied(tmp_path / "clone").folder
    monkeypatch.chdir(folder)
    return folder


def make_check() -> subprocess.CompletedProcess[str]:
    """With the environment that the tests run in."""
    return subprocess.run(
        ["make", "--old-file=.venv/run", "check"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
    )


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def touch_a_source() -> None:
    edit("src/training/batches.py", "import math", "import math  # touched")


def edit_a_metric() -> None:
    edit("metrics/test.json", '"accuracy": 0.', '"accuracy": 0.9')


def edit_a_published_system() -> None:
    edit("published/basic/params.yaml", "  batch_size: 512", "  batch_size: 511")


def edit_a_published_metric() -> None:
    edit("published/basic/metrics/val.json", '"accuracy": 0.', '"accuracy": 0.9')


def edit_the_readme() -> None:
    edit("README.md", "| test (synthetic) | 100 |", "| test (synthetic) | 101 |")


def edit_the_model_card() -> None:
    edit("MODEL_CARD.md", "| test (synthetic) | 100 |", "| test (synthetic) | 101 |")


def import_what_is_not_declared() -> None:
    edit("src/split.py", "from common import arrays", "from common import idx, arrays")


def add_a_parameter() -> None:
    edit("params.yaml", "  batch_size:", "  batch_sise: 3\n  batch_size:")
    edit("src/common/params.py", "    batch_size:", "    batch_sise: Count\n    batch_size:")


def declare_a_parameter_that_is_not_read() -> None:
    edit("dvc.yaml", "      - split\n", "      - split\n      - model\n")


def flip_a_byte_of_the_model() -> None:
    content = bytearray(MODEL.read_bytes())
    content[len(content) // 2] ^= 1
    MODEL.write_bytes(content)


def commit_the_model() -> None:
    subprocess.run(["git", "add", "--force", MODEL], check=True)


def commit_what_is_large() -> None:
    Path("more.bin").write_bytes(bytes(check.LARGEST_IN_GIT + 1))
    subprocess.run(["git", "add", "more.bin"], check=True)


def test_a_whole_clone_passes(clone: Path) -> None:
    done = make_check()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "belong together" in done.stdout
    assert "README.md shows the figures" in done.stdout


def test_figures_of_images_that_are_no_system_do_not_matter(clone: Path) -> None:
    (clone / "published/images/metrics/data").mkdir(parents=True)
    assert make_check().returncode == 0


def test_a_clone_without_data_passes(clone: Path) -> None:
    for name in ("data", "models", "plots", ".dvc/cache"):
        shutil.rmtree(name)
    subprocess.run(["git", "checkout", "--quiet", "data"], check=True)
    assert make_check().returncode == 0


@pytest.mark.parametrize(
    ("plant", "reasons"),
    [
        (touch_a_source, ["dvc.lock is not up to date (make repro): train",
                          "modified: src/training/batches.py"]),
        (edit_a_metric, ["modified: metrics/test.json", "metrics/predictions/test.csv gives 0."]),
        (edit_a_published_system, ["published/dvc.lock is not up to date (make published)"]),
        (edit_a_published_metric, ["published/basic/metrics/predictions/val.csv gives 0."]),
        (edit_the_readme, ["README.md must show the figures"]),
        (edit_the_model_card, ["MODEL_CARD.md must show the figures"]),
        (import_what_is_not_declared, ["split imports src/common/idx.py, which dvc.yaml does not list"]),
        (add_a_parameter, ["nobody reads the parameter train.batch_sise"]),
        (declare_a_parameter_that_is_not_read,
         ["dvc.yaml lists the parameter model.architecture for split, which does not read it"]),
        (flip_a_byte_of_the_model, ["modified: models/model.keras"]),
        (commit_the_model, ["models/model.keras is in git, and belongs to DVC"]),
        (commit_what_is_large, ["more.bin is in git with 1,000,001 bytes"]),
    ],
)  # fmt: skip
def test_a_planted_fault_is_refused_with_its_reasons(
    clone: Path, plant: Callable[[], None], reasons: list[str]
) -> None:
    plant()
    done = make_check()
    assert done.returncode
    assert [reason for reason in reasons if reason not in done.stderr] == []
    assert "Traceback" not in done.stderr
