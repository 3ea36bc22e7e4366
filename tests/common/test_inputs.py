"""Stages and architectures that read what they do not declare end with one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import files, inputs
from common.backend import keras
from common.errors import InputError

import numpy as np
import pytest

import architectures
from conftest import ROOT, untrained

OPEN_EACH = """
import os, sys
from pathlib import Path
from common import inputs
from common.errors import InputError
Path("before.txt").write_text("")
names = [sys.argv.pop() for _ in sys.argv[1:]][::-1]
inputs.declare("data/prepared/train", "models/model.keras")
Path("plots").mkdir()
Path("plots/new.txt").write_text("")
for name in names:
    for path in (name, Path(name), os.fsencode(name), Path(name).absolute()):
        try:
            open(path).close()
            os.close(os.open(path, os.O_RDONLY))
        except InputError:
            print(name)
        except FileNotFoundError:
            pass
"""


def test_a_stage_reads_what_it_declares_and_has_written(tmp_path: Path) -> None:
    refused = [
        "data/prepared/test/images.npy", "data/prepared/trained.npy", "data/raw/a", "data/input/b/c", "raw/a",
        "data/prepared/train/link.npy", "data/prepared/test/cached.npy", "notes.txt", "src/weights.npy", "before.txt", "models/model.keras.old",
    ]  # fmt: skip
    allowed = [
        "data/prepared/train/images.npy", "data/prepared/train/cached.npy", "models/model.keras", "params.yaml",
        ".cache/stage.lock", ".dvc/config", ".git/HEAD", "sub/.dvc/config", "plots/new.txt", "src/module.py",
        "src/__pycache__/module.cpython-311.pyc",
        "states/state", "missing.txt", str(ROOT / "src/train.py"), np.__file__, "/etc/hostname",
    ]  # fmt: skip
    made_otherwise = ("raw/a", "plots/new.txt", "missing.txt", "before.txt")
    for name in (*refused, *allowed):
        path = tmp_path / name
        if not (name.startswith("/") or name in made_otherwise or path.stem in ("link", "cached")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "raw").symlink_to("data/raw")
    (tmp_path / "data/prepared/train/link.npy").symlink_to("../test/images.npy")
    (tmp_path / ".dvc/cache").mkdir()
    (tmp_path / ".dvc/cache/object").touch()  # as with DVC's cache.type symlink
    for part in ("train", "test"):
        (tmp_path / f"data/prepared/{part}/cached.npy").symlink_to("../../../.dvc/cache/object")
    done = subprocess.run(  # in a process of its own, since a declaration holds until its end
        [sys.executable, "-c", OPEN_EACH, *refused, *allowed],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "CHECKPOINT_DIR": "states"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [name for name in refused for _ in range(4)]


UPDATE_EACH = """
import os, sys
from common import inputs
from common.errors import InputError
names = [sys.argv.pop() for _ in sys.argv[1:]][::-1]
inputs.declare("declared.txt")
for name in names:
    for mode in ("r+", "a", "a+"):
        try:
            open(name, mode).close()
        except InputError:
            print(name)
    open(name).close() if name != "undeclared.txt" else None
open("undeclared.txt", "w").close()
open("undeclared.txt").close()
"""


def test_a_file_that_is_only_added_to_is_read_too(tmp_path: Path) -> None:
    for name in ("declared.txt", "undeclared.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(
        [sys.executable, "-c", UPDATE_EACH, "declared.txt", "undeclared.txt"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["undeclared.txt"] * 3


# --- architectures --------------------------------------------------------------------------------

BUILD = """
import keras
{module}

def build(input_shape, classes):
    {line}
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(classes)])
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., keras.Model]:
    """Builds an architecture of this line in `build`, and of this line before it."""
    monkeypatch.chdir(tmp_path)
    untrained().save_weights("a.weights.h5")
    monkeypatch.setattr(architectures, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(architectures, "__path__", [str(tmp_path)])
    (tmp_path / "helper.py").touch()
    np.save("a.npy", np.zeros(1))

    def build(line: str = "pass", module: str = "") -> keras.Model:
        monkeypatch.delitem(sys.modules, "architectures.mine", raising=False)
        monkeypatch.delitem(sys.modules, "architectures.helper", raising=False)
        (tmp_path / "mine.py").write_text(BUILD.format(line=line, module=module))
        return architectures.build("mine", (28, 28, 1), 10, {})

    return build


@pytest.mark.parametrize(
    ("line", "received"),
    [
        ("open('a.npy')", "a.npy"),
        ("__import__('numpy').load('a.npy')", "a.npy"),
        ("__import__('h5py').File('a.weights.h5')", "a.weights.h5"),
        ("from architectures import helper", "helper.py"),
        ("__import__('subprocess').run(['true'])", "subprocess.Popen"),
        ("__import__('os').system('true')", "os.system"),
    ],
)
@pytest.mark.parametrize("place", ["line", "module"])
def test_an_architecture_needs_no_other_file(
    build: Callable[..., keras.Model], place: str, line: str, received: str
) -> None:
    rule = r"^mine\.py must need no other file, module of src/ or program; received "
    with pytest.raises(InputError, match=rf"{rule}(.*/)?{received}$"):
        build(**{place: line})
    assert not inputs.checks
    assert np.load("a.npy") == 0  # the rule ends with the block


@pytest.mark.parametrize("line", ["open(__file__).close()", "import this_is_no_module", "import wave", "open('no')"])
def test_an_architecture_may_read_itself_and_libraries(build: Callable[..., keras.Model], line: str) -> None:
    if "no" in line:  # as without the rule
        with pytest.raises((ModuleNotFoundError, FileNotFoundError)):
            build(line)
    else:
        sys.modules.pop("wave", None)
        assert build(line).count_params() == 7850


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose dvc.lock says what its two outputs are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "SOURCE", str(tmp_path / "src"))
    (folder := tmp_path / "data/prepared/train").mkdir(parents=True)
    (folder / "labels.npy").write_bytes(b"labels")
    (tmp_path / "data/classes.json").write_text("[]")
    known = ("data/prepared/train", "data/classes.json")
    outs: list[dict[str, Any]] = [{"path": path, "md5": files.md5(Path(path))} for path in known]
    outs.append({"path": "data/in a bucket with versions", "files": []})
    (tmp_path / "dvc.lock").write_text(json.dumps({"stages": {"prepare": {"outs": outs}, "split": {}}}))
    monkeypatch.setenv("DVC_STAGE", "train")
    return tmp_path


PATHS = ("data/prepared/train", "data/classes.json", "data/input", "data/missing")


def test_what_dvc_lock_says_is_read(locked: Path) -> None:
    inputs._refuse_other_bytes(PATHS)


@pytest.mark.parametrize(
    "path", ["data/prepared/train/labels.npy", "data/prepared/train/more.npy", "data/classes.json"]
)
@pytest.mark.parametrize("folder", [".", "below"])
def test_other_bytes_than_dvc_lock_says_are_refused(
    locked: Path, monkeypatch: pytest.MonkeyPatch, path: str, folder: str
) -> None:
    (locked / path).write_bytes(b"others")
    if folder == "below":  # another pipeline, with the data as a link
        (locked / folder).mkdir()
        monkeypatch.chdir(locked / folder)
        Path("data").symlink_to("../data")
    with pytest.raises(InputError, match=r"^data/\S+ must have the bytes that dvc\.lock says \(MD5 \w+(\.dir)?\); "):
        inputs._refuse_other_bytes(PATHS)


@pytest.mark.parametrize("without", ["DVC_STAGE", "dvc.lock"])
def test_a_stage_by_hand_may_read_what_is_there(locked: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    (locked / "data/classes.json").write_text("others")
    if without == "dvc.lock":
        (locked / without).unlink()
    else:
        monkeypatch.delenv(without)
    inputs._refuse_other_bytes(PATHS)


@pytest.mark.parametrize("tracked", ["pictures", "pictures/a/0.png"])
@pytest.mark.parametrize("with_lock", [True, False])
def test_what_a_dvc_file_tracks_has_its_bytes(locked: Path, tracked: str, with_lock: bool) -> None:
    (picture := locked / "data/input/pictures/a/0.png").parent.mkdir(parents=True)
    picture.write_bytes(b"a picture")
    pointer, path = Path("data/input/tracked.dvc"), Path("data/input") / tracked
    out = f"- md5: {files.md5(path)}\n  hash: md5\n  path: {tracked}\n"
    pointer.write_text(f"outs:\n{out}- path: without a hash\n- md5: {32 * '0'}\n  path: not here\n")
    if not with_lock:
        (locked / "dvc.lock").unlink()
    inputs._refuse_other_bytes(PATHS)
    picture.write_bytes(b"another one")
    with pytest.raises(InputError) as caught:
        inputs._refuse_other_bytes(PATHS)
    said = str(caught.value)
    assert said.startswith(f"{path} must have the bytes that {pointer} says (MD5 ")
    remedy = f"remove {path} and what python tools/check.py --data names, then dvc pull"
    assert said.endswith(f"dvc add it, if they are meant; else {remedy}")


@pytest.mark.parametrize(
    ("pointer", "content"),
    [
        ("tracked.dvc", f"outs:\n- md5: {32 * '0'}\n  path: pictures\n"),  # of DVC 2, which hashed text otherwise
        ("tracked.dvc", "outs:\n- hash: md5\n  path: pictures\n  files: []\n"),  # of a bucket with versions
        ("pictures/a/notes.dvc", ""),  # git ignores it there, and so does DVC
    ],
)
def test_what_dvc_does_not_hold_is_not_held(locked: Path, pointer: str, content: str) -> None:
    (locked / "data/input/pictures/a").mkdir(parents=True)
    (locked / "data/input/pictures/a/0.png").write_bytes(b"a picture")
    (locked / "data/input" / pointer).write_text(content)
    inputs._refuse_other_bytes(PATHS)
