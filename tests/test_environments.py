"""Machines, clones and environments that are not as usual: docs/environments.md lists them."""

import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT, VARIABLES, Clone, with_forks

HOSTILE_NAMES = ("x;id>file", "a b'\"`id>file`$(id>file)$(shell id>file)$HOME")


def make(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A target that comes no further than to the installation: pip finds nothing there."""
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=folder, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1", "UV_OFFLINE": "1"} | variables,
    )  # fmt: skip


@pytest.fixture
def unpacked(reproduced: Clone, tmp_path: Path) -> Clone:
    """The files of a commit as an archive has them, without .git; with DVC's cache of their outputs."""
    clone = reproduced.copied(tmp_path / "unpacked")
    shutil.rmtree(clone.folder / ".git")
    return clone


def test_line_endings_are_those_of_the_commit_whatever_git_is_set_to(reproduced: Clone, tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    reproduced.git("clone", "--quiet", "--config=core.autocrlf=true", ".", str(clone.folder))
    names = reproduced.git("ls-files", "-z").split("\0")[:-1]
    differ = [name for name in names if (clone.folder / name).read_bytes() != (reproduced.folder / name).read_bytes()]
    assert names and not differ
    clone.run("python", "tools/check.py")
    assert not clone.git("status", "--short")


def test_links_that_git_made_files_are_named_and_gits_setting_suffices(reproduced: Clone, tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone")
    reproduced.git("clone", "--quiet", "--config=core.symlinks=false", ".", str(clone.folder))
    done = make(clone.folder, "repro")
    assert done.returncode == 2
    line, _ = done.stdout.splitlines()
    assert line.startswith("error: links must be links (")
    clone.run("sh", "-c", line.partition("(")[2].partition(")")[0])
    assert make(clone.folder, "repository").stdout == ""
    clone.run("python", "benchmarks/tables.py", "--help")


def test_an_unpacked_archive_gets_a_repository_before_anything_is_installed(unpacked: Clone) -> None:
    done = make(unpacked.folder, "repro", PYTHON="false")
    assert done.stdout.startswith(
        "There is no git repository here: one is made, with these files as its first commit.\n"
    )
    assert not (unpacked.folder / ".venv").exists()
    assert not unpacked.git("status", "--short")
    assert make(unpacked.folder, "repository").stdout == ""  # the next time there is one
    unpacked.dvc("repro")
    assert unpacked.run("python", "tools/verdict.py").startswith("Reproduced: ")


def test_a_repository_without_a_commit_is_named_before_anything_is_installed(unpacked: Clone) -> None:
    unpacked.git("init", "--quiet")
    done = make(unpacked.folder, "repro")
    assert done.returncode == 2
    line, _ = done.stdout.splitlines()  # the other is make's own
    assert line == "error: git must have a commit here (git add --all && git commit); received a repository without one"
    assert not (unpacked.folder / ".venv").exists()


def test_no_git_is_named_before_anything_is_installed(unpacked: Clone, tmp_path: Path) -> None:
    for name in ("cat", "make", "rm", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = make(unpacked.folder, "repro", PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout.startswith("error: git must be installed; received no git in PATH\n")
    assert not (unpacked.folder / ".venv").exists()


def test_a_clone_of_another_user_is_named_with_what_to_do(reproduced: Clone) -> None:
    done = make(reproduced.folder, "repro", GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert done.returncode == 2
    line, _ = done.stdout.splitlines()
    assert line.startswith(
        "error: git must be able to read this repository, but said: fatal: detected dubious ownership"
    )
    assert "git config --global --add safe.directory " in line


def test_after_gits_advice_a_clone_of_another_user_is_as_any(reproduced: Clone, tmp_path: Path) -> None:
    clone = reproduced.copied(tmp_path / "clone")
    if os.geteuid() == 0:  # else git alone takes it for another user's, not DVC's library
        for path in (clone.folder, *clone.folder.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
    environment = with_forks() | {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "HOME": str(tmp_path)}

    def run(*words: str) -> str:
        return subprocess.check_output(words, cwd=clone.folder, env=environment, text=True)

    run("git", "config", "--global", "--add", "safe.directory", str(clone.folder))
    assert run("make", "--no-print-directory", "repository") == ""
    run("dvc", "repro")
    assert run("python", "tools/verdict.py").startswith("Reproduced: ")
    run("python", "tools/compare.py", "HEAD")


TOOLS = (
    "check.py", "compare.py HEAD", "experiments.py", "rebuild.py", "replicate.py", "review.py HEAD", "sweep.py",
    "verdict.py",
)  # fmt: skip


@pytest.mark.parametrize("words", TOOLS)
@pytest.mark.parametrize("state", ["of another user", "no repository", "no commit", "no git"])
def test_tools_say_in_one_line_what_git_cannot_do(
    words: str, state: str, reproduced: Clone, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder, environment = reproduced.folder, with_forks()
    if state == "of another user":
        environment["GIT_TEST_ASSUME_DIFFERENT_OWNER"] = "1"
    elif state == "no git":
        for name in ("dvc", "python"):
            (tmp_path / name).symlink_to(str(shutil.which(name, path=environment["PATH"])))
        environment["PATH"] = str(tmp_path)
    else:
        clone = request.getfixturevalue("unpacked")
        folder = clone.folder
        if state == "no commit":
            clone.git("init", "--quiet")
    python = str(shutil.which("python", path=environment["PATH"]))
    done = subprocess.run(
        [python, *f"tools/{words}".split()], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "git" in line
    assert state != "of another user" or ": git config --global --add safe.directory " in line


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, reproduced: Clone) -> Clone:
    """A clone whose environment has nothing but pip: the installation stops there."""
    clone = reproduced.copied(tmp_path_factory.mktemp("environment") / "clone")
    done = make(clone.folder, ".venv/run", PYTHON=sys.executable)
    assert "No matching distribution found" in done.stdout
    assert (clone.folder / ".venv/state").exists()
    return clone


def pip_of(clone: Clone) -> str:
    return clone.run(str(clone.folder / ".venv/bin/pip"), "--version", fresh=True)


def break_pip(folder: Path) -> None:
    (pip,) = (folder / ".venv/lib").glob("python3*/site-packages/pip")
    shutil.rmtree(pip)


def other_python(folder: Path) -> None:
    state = folder / ".venv/state"
    state.write_text(state.read_text().replace(f"(3, {sys.version_info.minor})", "(3, 10)"))


def no_python(folder: Path) -> None:
    for path in (folder / ".venv/bin").glob("python*"):
        path.unlink()


@pytest.mark.parametrize("damage", [break_pip, other_python, no_python, lambda folder: None])
def test_an_environment_that_was_moved_or_broken_is_made_anew(
    damage: Callable[[Path], None], environment: Clone, tmp_path: Path
) -> None:
    clone = environment.copied(tmp_path / "moved")  # pip's first line names the folder of its Python
    damage(clone.folder)
    (clone.folder / ".venv/run").touch()  # all was installed
    done = make(clone.folder, ".venv/run", PYTHON=sys.executable)
    assert ".venv is of another folder or Python, or has no pip: it is made anew.\n" in done.stdout
    assert str(clone.folder) in pip_of(clone)


def test_a_whole_environment_is_left_alone(environment: Clone) -> None:
    stamp = environment.folder / ".venv/run"
    stamp.touch()
    assert make(environment.folder, ".venv/run", PYTHON=sys.executable).stdout == ""
    stamp.unlink()
    assert "made anew" not in make(environment.folder, ".venv/run", PYTHON=sys.executable).stdout


def test_clones_may_share_an_environment_through_a_link(environment: Clone, tmp_path: Path) -> None:
    first, second = (environment.copied(tmp_path / name) for name in ("first", "second"))
    shutil.rmtree(second.folder / ".venv")
    (second.folder / ".venv").symlink_to(first.folder / ".venv")
    (first.folder / ".venv/state").unlink()  # an environment that make did not make
    for clone in (second, first, second):
        assert "made anew" not in make(clone.folder, ".venv/run", PYTHON=sys.executable).stdout
    assert (second.folder / ".venv").is_symlink()


def test_an_environment_that_is_a_link_is_not_for_git(unpacked: Clone) -> None:
    unpacked.git("init", "--quiet")
    (unpacked.folder / ".venv").symlink_to(sys.prefix)
    assert ".venv" not in unpacked.git("status", "--short").split()


def recipes() -> list[tuple[str, str]]:
    """Each target of the Makefile, with each variable that its recipe hands to the shell."""
    target, found = "", set()
    for line in (ROOT / "Makefile").read_text("utf-8").splitlines():
        if line[:1] in {".", *string.ascii_lowercase}:
            target = line.partition(":")[0]
        found |= {(target, name) for name in re.findall(r'"\$\$(?:\{)?([A-Z_]+)', line)}
    return sorted(found)


@pytest.mark.parametrize("value", HOSTILE_NAMES)
@pytest.mark.parametrize(("target", "name"), recipes())
def test_variables_are_data(target: str, name: str, value: str, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("dvc", "pip-audit", "pytest", "python"):
        (programs / program).write_text("#!/bin/sh\nfor word; do printf '<%s>' \"$word\"; done; echo\n")
        (programs / program).chmod(0o755)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/model.onnx").touch()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/common.py").symlink_to(ROOT / "tools/common.py")
    installed = [f"--assume-old=.venv/{name}" for name in ("run", "dev", "demo", "site") if not target.startswith(".")]
    words = [f"--file={ROOT / 'Makefile'}", *installed, target, f"{name}={value}"]
    done = make(tmp_path, *words, PATH=f"{programs}:{os.environ['PATH']}")
    assert [path.name for path in tmp_path.rglob("file")] == []
    if name not in ("GITHUB_ACTIONS", "PYTHON"):  # one is not shown, the other is the program itself
        assert re.search(f"[<=]{re.escape(value)}>", done.stdout)


@pytest.mark.parametrize("target", ["compare", "data-diff"])
@pytest.mark.parametrize(
    ("words", "given"), [([], ["HEAD"]), (["B=b"], ["HEAD", "b"]), (["A=a"], ["a"]), (["A=a", "B=b"], ["a", "b"])]
)
def test_a_revision_that_is_not_named_is_head_and_none_takes_its_place(
    target: str, words: list[str], given: list[str], tmp_path: Path
) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "python").chmod(0o755)
    words = [f"--file={ROOT / 'Makefile'}", "--assume-old=.venv/run", target, *words]
    said = make(tmp_path, *words, PATH=f"{tmp_path}:{os.environ['PATH']}").stdout.splitlines()
    assert said[said.index("--") + 1 :] == given


def test_variables_that_are_not_set_reach_no_program(tmp_path: Path) -> None:
    words = [f"--file={ROOT / 'Makefile'}", "--eval=list: ; @env", "list"]
    here = {line.partition("=")[0] for line in make(tmp_path, *words).stdout.splitlines()}
    assert here & VARIABLES == {"PYTHON"}  # which has a default


def test_no_variable_of_a_user_reaches_the_shell_otherwise() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    documented = {name for line in re.findall("^.*## (.*):", text, re.M) for name in re.findall("([A-Z_]+)=", line)}
    assert documented <= VARIABLES | {"UPGRADE"}  # which make alone reads
    assert {name for _, name in recipes()} == VARIABLES
    assert not [name for name in re.findall(r"(?<!\$)\$\((\w+)\)", text) if name in VARIABLES]


def test_a_strict_search_path_stops_neither_make_nor_stages(
    reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    clone = reproduced.copied(tmp_path / "clone")
    assert "HEAD" in clone.run("make", "--silent", "--old-file=.venv/run", "experiments", fresh=True)
    clone.run("dvc", "repro", "--force", "--single-item", "split", fresh=True)
    clone.run("python", "-E", "src/predict.py", "--help", fresh=True)
