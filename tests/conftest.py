"""What many tests start from: the committed parameters with a few keys changed, never a copy of them."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from common import kaggle_csv
from common.backend import keras

import numpy as np
import onnx
import psutil
import pytest
import torch
from filelock import FileLock

import architectures
import fetch
import fork_server
import prepare
import rerun
from inference import onnx_file
from training import machine, model_file

FORKED_PROGRAMS = "TESTS_FORKED_PROGRAMS"  # names the folder of the fork server's programs
ROOT = Path(__file__).resolve().parents[1]

# for all that tests start; other tests have the other cores
os.environ |= {"DVC_NO_ANALYTICS": "1", "PYTHONDONTWRITEBYTECODE": "1", "TRAIN_THREADS": "1"}
# neither a signature nor a hook that the user has for every repository, nor a remote for every project
of_git = {"commit.gpgSign": "false", "tag.gpgSign": "false", "core.hooksPath": os.devnull}
start = int(os.environ.get("GIT_CONFIG_COUNT") or 0)  # of settings that the environment has
for number, (name, value) in enumerate(of_git.items(), start):
    os.environ |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
os.environ |= {"GIT_CONFIG_COUNT": str(start + len(of_git))}
os.environ |= {f"DVC_{whose}_CONFIG_DIR": "/nonexistent" for whose in ("GLOBAL", "SYSTEM")}
if "PYTEST_XDIST_WORKER" not in os.environ:  # removed at the end, with what killed programs have left in it
    temporary = tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True)
    Path(temporary.name).chmod(0o711)  # PostgreSQL has a user of its own
    os.environ["TMPDIR"] = temporary.name
# what `make test` was given is not for the calls of make under test
VARIABLES = set(re.findall("^VARIABLES := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.M)[0].split())
for name in (VARIABLES - {"PYTHON"}) | {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}:
    os.environ.pop(name, None)
torch.set_num_threads(1)
READ_AT_START = fork_server.read_at_start()
machine.is_portable()  # the first operation of the process fixes its instructions: no test may choose them for others

DEFAULT = {
    "data.source": "fashion-mnist",
    "data.height": 28,
    "data.width": 28,
    "data.channels": 1,
    "model.architecture": "blocks",
}

# As small as a pipeline can be and still use every stage.
TINY = {
    "data.source": "synthetic",
    "data.synthetic.train_images": 400,
    "data.synthetic.test_images": 100,
    "split.val_size": 100,
    "model.architecture": "plain",
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.least_steps": 1,
    "train.learning_rate": 0.05,
    "train.data_pruning": 0.0,
    "train.progressive_resizing.share": 0.0,  # plain takes one size only
    "train.shards": 2,
    "train.precision": "float32",
}


def write_csv(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The inverse of `kaggle_csv.read`."""
    values = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    np.savetxt(path, values, "%d", ",", header=",".join(kaggle_csv.COLUMNS), comments="")


of_fashion_mnist = pytest.mark.skipif(not (ROOT / "published/claims.yaml").exists(), reason="make adopt removed it")

# Variables that would change the results of stages, if stages let them, and that dvc itself can take.
HOSTILE = {
    "ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA",
    "KERAS_BACKEND": "none", "KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "1", "LANG": "de_DE.ISO-8859-1",
    "LANGUAGE": "de", "LC_ALL": "POSIX", "LD_PRELOAD": "libm.so.6", "MKL_CBWR": "SSE4_2", "MKL_NUM_THREADS": "2", "MPLBACKEND": "module://none",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3", "OMP_NUM_THREADS": "3", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem", "PYTHONHASHSEED": "5", "PYTHONSAFEPATH": "1",
    "PYTHONUTF8": "0", "PYTORCH_JIT": "0", "TORCH_CPP_LOG_LEVEL": "INFO", "TORCH_LOGS": "+dynamo", "TZ": "Asia/Kolkata",
}  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """One fork server for all processes that run tests; it does nothing before the first request."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    if "PYTEST_XDIST_WORKER" not in os.environ and sys.platform == "linux":
        server, folder = fork_server.start()
        os.environ[FORKED_PROGRAMS] = str(folder)

        def end() -> None:
            assert server.stdin
            server.stdin.close()
            server.wait()
            shutil.rmtree(folder)

        config.add_cleanup(end)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """No test leaves a variable that would keep the later ones from forks: they would be slow, and nothing else."""
    yield
    assert fork_server.read_at_start() == READ_AT_START


def with_forks() -> dict[str, str]:
    """The environment in which `python SCRIPT` and `dvc` are forks, see fork_server.py."""
    folders = [os.environ[FORKED_PROGRAMS]] if FORKED_PROGRAMS in os.environ else []
    return os.environ | {"PATH": os.pathsep.join([*folders, os.environ["PATH"]])}


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that the code under test starts are forks, as in `with_forks`."""
    for name, value in with_forks().items():
        monkeypatch.setenv(name, value)


def works_in(process: psutil.Process, folder: Path) -> bool:
    """False too for a process that is ending."""
    with suppress(psutil.Error):
        return Path(process.cwd()).is_relative_to(folder)
    return False


def kill_all_of(folder: Path) -> None:
    """Whatever works in a folder or below it, as a power cut would: forks too, and what they have just started.

    Then none of their numbers is a process any more. All are found before the first is killed: forks end with the
    program that waits for them, and one that is ending could not be found.
    """
    while found := [process for process in psutil.process_iter() if works_in(process, folder)]:
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _, left = psutil.wait_procs(found, timeout=60)
        assert not left


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that the cores end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def write_params(folder: Path, changes: dict[str, Any]) -> Path:
    """Writes params.yaml into `folder`: the committed one with `changes`, keyed like `train.epochs`.

    The images are Fashion-MNIST's, and the network is the default, whatever a team has made of them.
    """
    path = (folder / "params.yaml").absolute()
    with chdir(ROOT):
        rerun.write_params(path, DEFAULT | changes)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the TINY parameters."""
    write_params(tmp_path, TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def settings_of_torch() -> Iterator[None]:
    """What training sets for its process is put back, but for glibc's memory."""
    threads, memory = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    deterministic = torch.are_deterministic_algorithms_enabled()
    environment = dict(os.environ)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = memory  # type: ignore[attr-defined]
    os.environ.clear()
    os.environ.update(environment)


def call(program: ModuleType, *words: str) -> None:
    """Runs a script, with these words on its command line."""
    with mock.patch("sys.argv", [f"{program.__name__}.py", *words]):
        program.main()


def squeezed(text: str) -> str:
    """Without the spaces that pad the cells of a Markdown table."""
    return re.sub(" +", " ", text)


def png(width: int, height: int, depth: int, kind: int, *rows: bytes, key: bytes = b"") -> bytes:
    """A PNG file by hand, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        + (chunk(b"tRNS", key) if key else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


@dataclass(frozen=True)
class Clone:
    """A scratch git repository."""

    folder: Path

    @classmethod
    def new(cls, folder: Path) -> "Clone":
        """One with this project's files as they are here, and no results."""
        folder.mkdir(exist_ok=True)
        clone = cls(folder)
        listed = clone._git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in listed.split("\0"):
            source = ROOT / name
            if source.is_file() and not name.startswith(("metrics/", "plots/", "dvc.lock")):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target, follow_symlinks=False)
        clone.git("init", "--quiet", "--initial-branch=main")
        clone.git("config", "user.name", "Test")
        clone.git("config", "user.email", "test@example.invalid")
        return clone

    def copied(self, folder: Path) -> "Clone":
        """The same with all that it holds, git's history and DVC's cache too, in a new folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Clone(folder)

    def _git(self, cwd: Path, *words: str) -> str:
        return subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True, text=True).stdout

    def git(self, *words: str) -> str:
        return self._git(self.folder, *words)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def dvc(self, *words: str, fresh: bool = False) -> str:
        return self.run("dvc", *words, fresh=fresh)

    def run(self, *words: str, fresh: bool = False) -> str:
        """Standard output and error of a command that must succeed.

        Args:
            fresh: with interpreters of its own, not forks.
        """
        done = subprocess.run(
            words,
            cwd=self.folder,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if fresh else with_forks(),
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}"
        return done.stdout

    def experiments(self) -> dict[str, dict]:
        """Parameters and metrics of the workspace, the commits and the experiments, by name."""
        found = {}
        for baseline in json.loads(self.dvc("exp", "show", "--json")):
            for entry in [baseline, *(r for e in baseline["experiments"] or [] for r in e["revs"])]:
                found[entry["name"] or entry["rev"]] = entry["data"]
        return found


def untrained(shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, name: str = "plain") -> keras.Model:
    """From pixels to probabilities, with random weights, the same each time."""
    keras.utils.set_random_seed(0)
    network = architectures.build(name, shape, classes, {"widths": [8, 16]})
    channels = np.ones(shape[-1])
    return model_file.with_preprocessing(network, 70 * channels, 90 * channels)


def converted(model: keras.Model) -> onnx.ModelProto:
    """As export does, after noise of any strength in two classes."""
    images = np.random.default_rng(0).integers(0, 256, (100, *model.input_shape[1:]), np.uint8)
    images //= np.arange(1, 101, dtype=np.uint8)[:, None, None, None]
    _, features = onnx_file.with_features(model).predict(images, verbose=0)
    return onnx_file.convert(model, onnx_file.Distance(features, np.arange(100) % 2))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A file or folder that tests only read: one for all processes that run tests side by side.

    Args:
        make: writes it to the path that it is given.
    """
    here = factory.getbasetemp()
    made = (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / name
    with FileLock(f"{made}.lock"):
        if not made.exists():
            unfinished = factory.mktemp("unfinished") / name
            make(unfinished)
            unfinished.rename(made)
    return made


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prepared images of the real dataset."""

    def make(folder: Path) -> None:
        (folder / "data").mkdir(parents=True)
        write_params(folder, {})
        with chdir(folder), pytest.MonkeyPatch.context() as patch:
            if (ROOT / "data/raw/train-images-idx3-ubyte").exists():
                patch.setenv("FASHION_MNIST_DIR", str(ROOT / "data/raw"))
            fetch.main()
            prepare.main()

    return made_once(tmp_path_factory, "real", make) / "data/prepared"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What export writes, of an untrained model for Fashion-MNIST's form."""
    names = [f"class {label}" for label in range(10)]
    metadata = {"class_names": json.dumps(names), "form": "fashion-mnist", "distance_limit": "10"}

    def make(path: Path) -> None:
        onnx_file.save(converted(untrained()), metadata, path)

    return made_once(tmp_path_factory, "model.onnx", make)


def changed(exported: Path, folder: Path, **metadata: str | None) -> Path:
    """The model with other metadata; None leaves a key out."""
    model = onnx.load(exported)
    before = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: text for key, text in (before | metadata).items() if text is not None})
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the whole pipeline has run with the TINY parameters.

    Tests leave it as it is, and change a copy, which takes 0.1 s.
    """

    def make(folder: Path) -> None:
        clone = Clone.new(folder)
        write_params(folder, TINY)
        clone.commit("start")
        clone.dvc("repro")
        clone.commit("reproduce")

    made = Clone(made_once(tmp_path_factory, "reproduced", make))
    # one for each process, since dvc locks the folder that it looks at
    return made.copied(tmp_path_factory.getbasetemp() / "copy of reproduced")


@pytest.fixture(params=["reproduced", pytest.param("committed", marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest) -> Path:
    """A folder with a trained model and all that the pipeline makes: the small one that tests reproduce,
    and this repository where `make repro` has run.
    """
    if request.param == "reproduced":
        return request.getfixturevalue("reproduced").folder
    if not (ROOT / "models/model.onnx").exists():
        pytest.skip("needs the results of make repro")
    return ROOT
