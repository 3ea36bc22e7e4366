"""docs/change.md and what wrote it: the rules of what is shown, whose results count, and the story itself in small."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import pytest

import benchmark_files
import change
from change import Command
from conftest import ROOT, Clone, call, with_forks

PAGE = (ROOT / "docs/change.md").read_text("utf-8")
MARKED = re.compile(r"^<!-- ([^:\n]+): written by make readme -->\n(.*?)^<!-- end of \1 -->$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose clone is a folder with the start of a review, and whose commands are short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    for name in ("run", "dvc.lock"):
        (tmp_path / name).touch()
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(benchmark_files, "training_key", lambda: "this training")
    monkeypatch.setattr(change, "git", lambda *words: "")
    monkeypatch.setattr(change, "make_clone", Path.mkdir)
    page = "printf '## Worse\\n\\nwhy\\n\\n### One\\n\\n| a |\\n\\n### Two\\n' >page.md"
    blocks = {"one": [Command("seq 9", "[3469]"), Command("seq 2")], "two": [Command(page)]}
    monkeypatch.setattr(change, "BLOCKS", blocks)
    return tmp_path


def test_a_block_has_commands_with_the_lines_that_their_rules_show(folder: Path) -> None:
    call(change)
    one = "$ seq 9\n…\n3\n4\n…\n6\n…\n9\n$ seq 2\n1\n2"
    assert change.block("one") == f"```console\n{one}\n```"
    assert change.review() == "> ## Worse\n>\n> why\n>\n> ### One\n>\n> | a |"


def test_it_runs_once_for_a_training_and_its_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clones: list[Path] = []

    def make_clone(folder: Path) -> None:
        folder.mkdir()
        clones.append(folder)

    monkeypatch.setattr(change, "make_clone", make_clone)
    for _ in range(2):
        call(change)
        assert len(clones) == 1
    monkeypatch.setattr(change, "BLOCKS", {"one": [Command("true"), *change.BLOCKS["two"]]})
    with pytest.raises(InputError, match=r"^benchmarks/change\.json must be of the commands in .*; received others$"):
        change.block("one")
    call(change)
    assert len(clones) == 2
    monkeypatch.setattr(benchmark_files, "training_key", lambda: "another training")
    with pytest.raises(InputError, match=r"^benchmarks/change\.json must be of the training in dvc\.lock"):
        change.review()


def test_without_results_the_page_has_the_commands(folder: Path) -> None:
    assert change.block("one").splitlines()[1:3] == ["$ seq 9", "…"]
    assert "python benchmarks/change.py" in change.review()


@pytest.mark.parametrize(("status", "line"), [(0, "exit 3"), (2, "true")])
def test_another_exit_status_than_the_page_tells_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, line: str
) -> None:
    monkeypatch.setattr(change, "BLOCKS", {"one": [Command(line, status=status)]})
    with pytest.raises(InputError, match=rf"^{line} must end with {status}; received [03]$"):
        call(change)
    assert not change.RESULTS.exists()


def test_half_of_the_epochs_is_half() -> None:
    (found,) = re.findall(r"train\.epochs=(\d+)", str(change.BLOCKS))
    assert 2 * int(found) == params.load(ROOT / "params.yaml").train.epochs


def test_the_page_has_every_command_and_its_prose_has_no_figure() -> None:
    lines = [command.line for block in change.BLOCKS.values() for command in block]
    assert re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE) == lines
    assert [name for name, _ in MARKED.findall(PAGE)] == [*list(change.BLOCKS)[:-1], change.REVIEW, "merge"]
    prose = MARKED.sub("", PAGE)
    assert "```" not in prose
    assert not re.search(r"\d\.\d|\d ?%|[0-9a-f]{7}", prose)


def environment_with_forks(folder: Path) -> Path:
    """This environment, in which `python` and `dvc` are forks."""
    (folder / "bin").mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.name != "bin":
            (folder / path.name).symlink_to(path)
    for path in Path(sys.prefix, "bin").iterdir():
        (folder / "bin" / path.name).symlink_to(shutil.which(path.name, path=with_forks()["PATH"]) or path)
    return folder


@pytest.mark.slow
def test_every_command_does_what_the_page_tells(
    reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path(sys.prefix, "run").exists():
        pytest.skip("needs the environment that make makes")
    monkeypatch.setattr(sys, "prefix", str(environment_with_forks(tmp_path / "environment")))
    small = {"train.epochs=13": "train.epochs=1", "train_size=6000": "train_size=150"}

    def shorter(line: str) -> str:
        for long, short in small.items():
            line = line.replace(long, short)
        return line

    blocks = {
        name: [command._replace(line=shorter(command.line)) for command in block]
        for name, block in change.BLOCKS.items()
    }
    clone = reproduced.copied(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    monkeypatch.setattr(change, "BLOCKS", blocks)
    call(change)
    found: dict[str, Any] = json.loads(change.RESULTS.read_text("utf-8"))
    assert "Ran experiment(s): half" in found["half"][0]
    assert [line.split()[0] for line in found["fewer rows"][-1].splitlines()] == ["name", "HEAD", "half", "fewer-rows"]
    assert found["half compared"][0].startswith("main (")
    assert found["review"] == ["page.md: not decided"]
    assert "| `train.epochs` | 2" in found[change.REVIEW]
    assert "Reproduced" in found["merge"][3]
    assert clone.git("status", "--porcelain").split()[1:] == ["benchmarks/change.json"]
