import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import files

import pytest

from conftest import Clone


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


def test_an_atomic_folder_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to("elsewhere")
    for text in ("one", "two"):
        with files.atomic_folder(tmp_path / "a") as part:
            (part / "file").write_text(text)
        assert (tmp_path / "elsewhere/file").read_text() == text
    assert {path.name for path in tmp_path.iterdir()} == {"a", "elsewhere"}


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


FILES = 8  # of the folder that is replaced


def content(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


def killed(folder: Path, step: int) -> bool:
    """Whether that step of replacing the folder `out` was there, at which a fork of this process is killed."""
    if (child := os.fork()) == 0:
        os.chdir(folder)
        left = step

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event.startswith(("os.", "open", "shutil.")):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            with files.atomic_folder(Path("out")) as part:
                for number in range(FILES):
                    (part / str(number)).write_text("new")
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_the_old_or_the_new_folder_whole(tmp_path: Path) -> None:
    out, step, seen = tmp_path / "out", 1, set()
    out.mkdir()
    for number in range(FILES):
        (out / str(number)).write_text("old")
    shutil.copytree(out, tmp_path / "kept")
    while killed(tmp_path, step):
        if not out.exists():  # between its two steps; the next start takes back the first
            with pytest.raises(Interrupted), files.atomic_folder(out):
                raise Interrupted
        assert content(out) in (FILES * ["old"], FILES * ["new"]), step
        seen.add(content(out)[0])
        with files.atomic_folder(out) as part:
            shutil.copytree(tmp_path / "kept", part, dirs_exist_ok=True)
        assert everything(tmp_path) == {
            "out", "kept", *(f"{folder}/{number}" for folder in ("out", "kept") for number in range(FILES))
        }  # fmt: skip
        step += 1
    assert content(out) == FILES * ["new"]
    assert step > 3 * FILES
    assert seen == {"old", "new"}


def test_ctrl_c_between_the_two_steps_loses_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out := tmp_path / "out").mkdir()
    (out / "file").write_text("old")
    rename = os.replace

    def interrupted(source: Any, target: Any, **options: Any) -> None:
        if Path(source).name == ".out.part":
            raise KeyboardInterrupt
        rename(source, target, **options)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(out) as part:
        (part / "file").write_text("new")
    monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(Interrupted), files.atomic_folder(out):
        raise Interrupted
    assert everything(tmp_path) == {"out", "out/file"}
    assert (out / "file").read_text() == "old"


def test_the_disk_has_all_before_and_after_a_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loss of power may leave the new name with old or no content."""
    steps: list[str] = []

    def note(word: str, function: Callable[..., Any], which: int = 0) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            given = arguments[which]
            path = Path(f"/proc/self/fd/{given}").readlink() if isinstance(given, int) else Path(given)
            steps.append(f"{word} {path.relative_to(tmp_path)}")
            return function(*arguments)

        return noted

    monkeypatch.setattr(os, "fsync", note("sync", os.fsync))
    monkeypatch.setattr(os, "replace", note("name", os.replace, 1))
    with files.atomic_file(tmp_path / "file") as part:
        part.touch()
    assert steps == ["sync .file.part", "name file", "sync ."]
    for old in ([], ["name .folder.old"]):
        steps.clear()
        with files.atomic_folder(tmp_path / "folder") as part:
            (part / "deep").mkdir()
            for name in ("a", "deep/b"):
                (part / name).touch()
        synced = [f"sync .folder.part/{name}".removesuffix("/") for name in ("deep/b", "deep", "a", "")]
        assert steps == [*synced, *old, "name folder", "sync ."]


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


def test_a_folder_has_the_hash_that_dvc_gives_it(
    reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = reproduced.copied(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    folder = Path("data/input/train")
    unseen = (
        ".git/HEAD", "a/.x.part", "a/.cache/x", "__pycache__/x", ".hg/x", "b/.y.part/c", "a/.DS_Store", "c/x",
        "a/x.bak", "heap/x.png", "a/of a folder",
    )  # fmt: skip
    with Path(".dvcignore").open("a") as ignored:
        ignored.write(".DS_Store\n/data/input/train/c\n  *.bak\n!kept.bak\nheap/\n!*.png\n")
    Path("data/.dvcignore").write_text("of a folder\n")
    seen = (".venv/b.part", "a/x.part", "a/c/x", "a/kept.bak", "a/.x", "b/x.git", "b/cache/x", ".gitignore", "ü/x")
    for name in (*seen, *unseen):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    clone.dvc("add", str(folder))
    md5 = files.md5(folder)
    assert f"md5: {md5}\n" in Path(f"{folder}.dvc").read_text()
    monkeypatch.chdir("published/basic")  # whose own project is another, and which has the data as a link
    Path("data").mkdir()
    Path("data/prepared").symlink_to(clone.folder / folder)
    assert files.md5(Path("data/prepared")) == md5
