import os
import subprocess
import sys
from pathlib import Path

from common import files

import pytest

from conftest import ROOT


class Interrupted(BaseException):
    """Stands for Ctrl-C: not an Exception, so a bare `except Exception` would miss it."""


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_an_atomic_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.txt"
    with files.atomic_file(path) as part:
        part.write_text("whole")
        assert part.parent == path.parent  # the same file system, so that it can be renamed
        assert not path.exists()
    assert path.read_text() == "whole"
    assert everything(tmp_path) == {"new", "new/result.txt"}


def test_an_atomic_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")
    with files.atomic_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("old", [None, "old"])
def test_an_exception_in_an_atomic_file_changes_nothing(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "result.txt"
    if old:
        path.write_text(old)
    with pytest.raises(Interrupted), files.atomic_file(path) as part:
        part.write_text("half")
        raise Interrupted
    assert everything(tmp_path) == ({"result.txt"} if old else set())
    assert not old or path.read_text() == old


def test_an_atomic_folder_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data"
    for name in ("a", "b"):
        with files.atomic_folder(path) as part:
            (part / name).write_text(name)
            assert not (path / name).exists()
        assert everything(path) == {name}
    assert everything(tmp_path) == {"new", "new/data", "new/data/b"}


@pytest.mark.parametrize("old", [None, "old"])
def test_an_exception_in_an_atomic_folder_changes_nothing(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "data"
    if old:
        path.mkdir()
        (path / old).write_text(old)
    with pytest.raises(Interrupted), files.atomic_folder(path) as part:
        (part / "new").write_text("half")
        raise Interrupted
    assert everything(tmp_path) == ({"data", "data/old"} if old else set())
    assert not old or (path / old).read_text() == old


KILLED = """
import os, shutil, sys
from pathlib import Path
from common import files

def remove_and_die(folder, ignore_errors=False):
    names = sorted(folder.iterdir()) if folder.exists() else []
    if names:
        names[0].unlink()
        os._exit(9)

path = Path("out")
with files.atomic_folder(path) as part:
    for name in "xyz":
        (part / name).write_text(name)
    shutil.rmtree = remove_and_die
"""


def test_a_folder_that_is_replaced_is_never_there_in_part(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "out") as part:
        for name in "abc":
            (part / name).write_text(name)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 9
    assert everything(tmp_path / "out") == {"x", "y", "z"}
    with files.atomic_folder(tmp_path / "out") as part:
        (part / "new").touch()
    assert everything(tmp_path) == {"out", "out/new"}


def test_the_remains_of_a_killed_run_are_not_taken_over(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "data") as part:
        name = part.name
    (tmp_path / name).mkdir()
    (tmp_path / name / "stale").write_text("from a run that was killed")
    with files.atomic_folder(tmp_path / "data") as part:
        (part / "fresh").write_text("")
    assert everything(tmp_path) == {"data", "data/fresh"}


def test_json_has_one_key_a_line_in_the_order_given(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"z": 0.5, "a": "é", "m": None})
    assert (tmp_path / "a.json").read_bytes() == ('{\n  "z": 0.5,\n  "a": "é",\n  "m": null\n}\n'.encode())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_what_is_not_json(tmp_path: Path, number: float) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"loss": 0.5})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"loss": number})
    assert path.read_bytes() == before
    assert everything(tmp_path) == {"a.json"}
