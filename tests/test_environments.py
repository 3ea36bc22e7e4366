"""Machines, clones and environments that are not as usual."""

from pathlib import Path

from conftest import Clone


def test_line_endings_are_those_of_the_commit_whatever_git_is_set_to(reproduced: Clone, tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    reproduced.git("clone", "--quiet", "--config=core.autocrlf=true", ".", str(clone.folder))
    names = reproduced.git("ls-files", "-z").split("\0")[:-1]
    differ = [
        name for name in names if (clone.folder / name).read_bytes() != (reproduced.folder / name).read_bytes()
    ]
    assert names and not differ
    clone.run("python", "tools/check.py")
    assert not clone.git("status", "--short")
