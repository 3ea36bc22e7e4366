"""Scripts where a notebook or a server has set what they inherit: encodings, paths, temporary folders, host names."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, TINY, Clone, converted, untrained, with_forks, write_params
from inference import onnx_file

SCRIPTS = [
    str(path.relative_to(ROOT))
    for folder in ("src", "tools", "published", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "\nif __name__ ==" in path.read_text("utf-8")
]
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}


def run(*words: object, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=os.environ | environment, capture_output=True, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_for_help_every_script_says_what_it_does_and_does_nothing(script: str, tmp_path: Path) -> None:
    words = ["python", str(ROOT / script), "--help"]
    done = subprocess.run(words, cwd=tmp_path, env=with_forks(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert said.startswith("usage: ")
    module = ast.parse((ROOT / script).read_text("utf-8"))
    assert " ".join(str(ast.get_docstring(module)).partition("\n")[0].split()) in said
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("script", {script.partition("/")[0]: script for script in SCRIPTS}.values())
def test_scripts_start_in_an_ascii_terminal_of_a_notebook(script: str, tmp_path: Path) -> None:
    """One of each folder: `common`, which all import first, sees to it."""
    done = run(ROOT / script, "--help", cwd=tmp_path, environment=ASCII | NOTEBOOK)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: ")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_imports_common_before_any_library(script: str) -> None:
    body = ast.parse((ROOT / script).read_text("utf-8")).body
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
             for node in body if isinstance(node, ast.Import | ast.ImportFrom)]  # fmt: skip
    first = next(name for name in names if str(name).partition(".")[0] not in sys.stdlib_module_names)
    assert str(first).partition(".")[0] == "common"


@pytest.mark.parametrize("encoding", ["C", "en_US.ISO-8859-1"])
def test_class_names_that_the_terminal_cannot_show(encoding: str, tmp_path: Path) -> None:
    names = [f"类 {label}" for label in range(10)]
    metadata = {"class_names": json.dumps(names), "form": "fashion-mnist", "distance_limit": "100"}
    onnx_file.save(converted(untrained()), metadata, tmp_path / "model.onnx")
    picture = tmp_path / "图.png"
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(picture)
    latin = ASCII | {"LC_ALL": encoding, "PYTHONIOENCODING": "latin-1" if encoding != "C" else "ascii"}
    done = run(ROOT / "src/predict.py", picture, "图", "--model", "model.onnx", cwd=tmp_path, environment=latin)
    assert (done.returncode, done.stdout.decode().count("类 ")) == (1, 3)
    assert done.stderr.decode().startswith("error: 图 ")
    assert done.stderr.count(b"\n") == 1


def test_names_of_branches_and_files_in_an_ascii_terminal(reproduced: Clone, tmp_path: Path) -> None:
    clone = reproduced.copied(tmp_path / "类")
    clone.git("branch", "分支")
    done = run("tools/review.py", "分支", "--out", "页.md", cwd=clone.folder, environment=ASCII)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "分支" in (clone.folder / "页.md").read_text("utf-8")
    done = run("tools/compare.py", "main", "分支", cwd=clone.folder, environment=ASCII)
    assert "分支" in done.stdout.decode()
    done = run("tools/compare.py", "main", "无", cwd=clone.folder, environment=ASCII)
    assert "无" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_without_a_temporary_folder_it_is_one_line(reproduced: Clone) -> None:
    """A limit of a file's size stands for full disks: Python then finds no folder that it could use."""
    code = (
        "import resource, runpy, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\nimport analysis.figures"
    )
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import common\n{code}"
    done = run("-c", code, cwd=reproduced.folder, environment={"TMPDIR": str(reproduced.folder)})
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: No usable temporary directory found in [")
    assert done.stderr.count(b"\n") == 1


def has_namespaces() -> bool:
    """Whether this user may give a process another host name: not on macOS, nor in many containers."""
    words = ["unshare", "-Uru", "hostname", "x"]
    return bool(shutil.which("unshare")) and not subprocess.run(words, capture_output=True, check=False).returncode


@pytest.mark.skipif(not has_namespaces(), reason="needs a namespace for the host name")
def test_processes_meet_where_the_host_name_does_not_resolve(reproduced: Clone, tmp_path: Path) -> None:
    shutil.copytree(reproduced.folder / "data", tmp_path / "data")
    write_params(tmp_path, TINY | {"train.epochs": 1})
    train = f'hostname no-such-host && exec "$0" {ROOT}/src/train.py'
    done = subprocess.run(
        ["unshare", "-Uru", "sh", "-c", train, sys.executable],
        cwd=tmp_path, env=os.environ | {"TRAIN_PROCESSES": "2"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on 2 processes" in done.stdout
