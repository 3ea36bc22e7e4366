"""What a sealed script sees, whatever it is started with; and the bytes that each stage writes then."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import seal

import pytest
import threadpoolctl
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

from conftest import HOSTILE, ROOT, Clone

STAGES = ("fetch", "prepare", "split", "train", "evaluate", "export")
OUTPUTS = ("data/raw", "data/prepared", "data/split", "models", "metrics", "plots")
TELL = """
import os, sys
first = os.getpid(), sys.path[0]
from common import seal
import json, locale, signal, time
print(json.dumps({
    "pid": os.getpid(), "environment": dict(os.environ), "arguments": sys.argv[1:], "path": sys.path,
    "flags": [sys.flags.optimize, sys.flags.hash_randomization, sys.flags.no_user_site, len(sys.warnoptions)],
    "encoding": [sys.stdout.encoding, locale.getpreferredencoding()], "zone": time.tzname[0],
    "ignored": signal.getsignal(signal.SIGINT) == signal.SIG_IGN, "input": sys.stdin.read(),
}))
sys.exit(3)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with src/tell.py and tools/tell.py, and its folder as working directory."""
    shutil.copytree(ROOT / "src/common", tmp_path / "src/common", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/common.py", tmp_path / "tools")
    for folder in ("src", "tools"):
        (tmp_path / folder / "tell.py").write_text(TELL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*words: str, environment: dict[str, str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def tell(*words: str, environment: dict[str, str], **options: Any) -> dict[str, Any]:
    process = start(*words, environment=environment, **options)
    out, error = process.communicate("text")
    assert (process.returncode, error) == (3, "")
    told = json.loads(out)
    assert told["pid"] == process.pid
    assert told["input"] == "text"
    return told


ALLOWED = {"PATH": os.environ["PATH"], "CHECKPOINT_DIR": "states", "RANK": "1", "PET_NNODES": "2", "https_proxy": "p"}


@pytest.mark.parametrize(
    "words", [["-E", "src/tell.py"], ["-E", "-O", "-W", "error", "-B", "src/../src/tell.py"], ["-u", "src/tell.py"]]
)
def test_a_script_sees_the_same_whatever_it_is_started_with(project: Path, words: list[str]) -> None:
    hostile = HOSTILE if "-E" in words else {key: HOSTILE[key] for key in HOSTILE if not key.startswith("PYTHON")}
    bare = tell("src/tell.py", "a", "b c", environment=ALLOWED)
    told = tell(*words, "a", "b c", environment=ALLOWED | hostile | {seal.SEALED: "1", "LD_BIND_NOW": "1"})
    assert told | {"pid": 0} == bare | {"pid": 0}
    assert told["environment"] == ALLOWED | seal.LIBRARIES | seal.INTERPRETER
    assert told["arguments"] == ["a", "b c"]
    assert told["path"][-1] == str(project / "src")  # libraries first
    assert (told["flags"], told["encoding"], told["zone"]) == ([0, 0, 1, 0], ["utf-8", "utf-8"], "UTC")


def test_an_ignored_signal_stays_ignored(project: Path) -> None:
    told = tell("src/tell.py", environment=ALLOWED, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert told["ignored"]
    assert not tell("src/tell.py", environment=ALLOWED)["ignored"]


def test_tools_get_the_settings_of_libraries_alone(project: Path) -> None:
    environment = ALLOWED | {"HOME": "/root", "KERAS_MAX_EPOCHS": "1", "LC_ALL": "C.UTF-8"}
    told = tell("tools/tell.py", environment=environment)
    assert told["environment"] == environment | seal.LIBRARIES


@pytest.mark.parametrize("name", ["json.py", "sqlite3.py", "numpy.py", "tqdm/__init__.py"])
def test_a_module_that_shadows_another_is_refused(project: Path, name: str) -> None:
    (project / "src" / name).parent.mkdir(exist_ok=True)
    (project / "src" / name).write_text("def dumps(*_): return 'shadow'\n")
    process = start("-E", "src/tell.py", environment=ALLOWED)
    out, error = process.communicate()
    rule = "error: a module in src/ must not have the name of a standard or installed one; received"
    assert (process.returncode, out, error) == (1, "", f"{rule} {Path(name).parts[0].removesuffix('.py')}\n")


def test_a_folder_without_modules_shadows_nothing(project: Path) -> None:
    (project / "src/json").mkdir()
    (project / "src/numpy.txt").touch()
    tell("src/tell.py", environment=ALLOWED)


def test_numpy_and_openblas_choose_the_code_of_avx2() -> None:
    features = _multiarray_umath.__cpu_features__
    assert [name for name in _multiarray_umath.__cpu_dispatch__ if features[name]] == ["X86_V3"]
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"]
    assert {(pool["architecture"], pool["num_threads"]) for pool in pools} == {("Haswell", 1)}


# --- the bytes of stages --------------------------------------------------------------------------


def outputs(folder: Path) -> dict[str, bytes]:
    paths = [path for name in OUTPUTS for path in (folder / name).rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def hostile(folder: Path, project: Path) -> dict[str, str]:
    """An environment, and a home folder and settings in the working directory, that all change results."""
    home, modules = folder / "home", folder / "modules"
    for place in (home / ".keras", home / ".config/matplotlib", modules):
        place.mkdir(parents=True)
    keras = {"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first", "max_epochs": 1}
    rc = "font.family: monospace\nfigure.dpi: 50\nimage.cmap: viridis\nsavefig.facecolor: red\nbackend: pdf\n"
    for place in (home / ".keras/keras.json", project / "keras.json"):
        place.write_text(json.dumps(keras))
    for place in (home / ".config/matplotlib/matplotlibrc", project / "matplotlibrc"):
        place.write_text(rc)
    for name in ("json", "numpy", "sitecustomize"):
        (modules / f"{name}.py").write_text("raise SystemExit('a module of PYTHONPATH')\n")
    return HOSTILE | {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "KERAS_HOME": str(home / ".keras"),
        "MATPLOTLIBRC": str(project / "matplotlibrc"),
        "MPLCONFIGDIR": str(home / ".config/matplotlib"),
        "PYTHONPATH": str(modules),
        "PYTHONOPTIMIZE": "2",
        "PYTHONWARNINGS": "error",
        "XDG_CONFIG_HOME": str(home / ".config"),
    }


def run_stages(project: Path, environment: dict[str, str], stages: tuple[str, ...]) -> None:
    for name in stages:
        done = subprocess.run(
            [sys.executable, "-E", f"src/{name}.py"],
            cwd=project,
            env=environment,
            umask=0o077,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"


@pytest.mark.parametrize(
    ("kind", "stages", "removed"),
    [
        ("hostile", ("prepare",), ("plots/data", "metrics/data")),
        pytest.param("hostile", STAGES, OUTPUTS, marks=pytest.mark.slow),
        pytest.param("bare", ("train", "evaluate"), ("metrics/curves", "metrics/predictions"), marks=pytest.mark.slow),
    ],
)
def test_stages_write_the_same_bytes(
    reproduced: Clone, tmp_path: Path, kind: str, stages: tuple[str, ...], removed: tuple[str, ...]
) -> None:
    project = reproduced.copied(tmp_path / "project").folder
    for name in removed:
        shutil.rmtree(project / name)
    environment = hostile(tmp_path, project) if kind == "hostile" else {"PATH": os.environ["PATH"]}
    run_stages(project, environment, stages)
    expected = outputs(reproduced.folder)
    assert [name for name, content in outputs(project).items() if content != expected.pop(name)] == []
    assert {Path(name).name for name in expected} <= {".gitignore"}
