"""Files held against dvc.lock, in a pipeline that dvc has run."""

import re
import shutil
from pathlib import Path

from common import params
from common.errors import InputError

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from analysis import dvc_lock
from conftest import Clone
from edits import edit

TRAIN = Path("data/prepared/train")
MODEL = Path("models/model.keras")


@pytest.fixture
def project(reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was reproduced; DVC's cache comes with it."""
    folder = reproduced.copied(tmp_path / "project").folder
    monkeypatch.chdir(folder)
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def differences() -> list[str]:
    return [" ".join(found) for found in dvc_lock.differences(("data/", "models/"))]


def test_what_dvc_wrote_is_as_it_says(project: Path) -> None:
    assert differences() == []


@pytest.mark.parametrize(
    ("path", "output"),
    [
        (MODEL, MODEL),
        (TRAIN / "images.npy", TRAIN),
        (Path("data/raw/t10k-labels-idx1-ubyte"), Path("data/raw")),
        (Path("data/split/val.npy"), Path("data/split")),
    ],
)
def test_the_output_with_a_changed_byte_is_named(project: Path, path: Path, output: Path) -> None:
    flip(path)
    assert differences() == [f"{output} was changed"]


def test_what_is_missing_and_what_is_new_is_named(project: Path) -> None:
    MODEL.unlink()
    (TRAIN / "more.npy").write_bytes(b"")
    (TRAIN.parent / "test/labels.npy").unlink()
    shutil.rmtree("data/split")
    assert differences() == [
        "data/prepared/test was changed",
        f"{TRAIN} was changed",
        "data/split is missing",
        f"{MODEL} is missing",
    ]


def test_a_folder_has_dvc_s_hash_whatever_its_files_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/one/a").mkdir(parents=True)
    for name in ("a/b", "a-b", "a.b", "A"):  # by text a-b comes before a/b, by path behind it
        (tmp_path / "data/one" / name).write_text(name)
    with Repo.init(no_scm=True) as repo:
        repo.add("data/one")
    (out,) = YAML(typ="safe").load(Path("data/one.dvc"))["outs"]
    YAML().dump({"stages": {"one": {"cmd": "", "outs": [out | {"path": "data/one"}]}}}, dvc_lock.LOCK)
    assert differences() == []


@pytest.mark.parametrize("content", [None, "{", "[]", "schema: '2.0'\n"])
def test_a_damaged_lock_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        dvc_lock.LOCK.write_text(content)
    with pytest.raises(InputError, match=r"^dvc\.lock must have every stage .*; received: ."):
        differences()


def test_stages_have_outputs_and_inputs_here_and_in_a_commit(project: Path) -> None:
    train = dvc_lock.read()["train"]
    assert list(train.outputs) == ["metrics/curves", "metrics/train.json", "models/model.keras"]
    assert train.inputs["params.yaml", "train.epochs"] == 2
    assert train.inputs["params.yaml", "train.augmentation.flip"] == params.load().train.augmentation.flip
    assert train.inputs["dvc.yaml", "the command of train"].endswith("src/train.py")
    assert re.fullmatch(r"\w{32}\.dir", train.inputs["data/split", ""])
    assert dvc_lock.read("HEAD")["train"] == train
    edit(dvc_lock.LOCK, "epochs: 2", "epochs: 3")
    assert dvc_lock.read()["train"].inputs["params.yaml", "train.epochs"] == 3
    assert dvc_lock.read("HEAD")["train"] == train


@pytest.mark.parametrize("content", ["train: 5", "train: {deps: 5}", "train: {cmd: x, outs: [{md5: 5}]}"])
def test_a_damaged_stage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.chdir(tmp_path)
    dvc_lock.LOCK.write_text(f"stages: {{{content}}}")
    with pytest.raises(InputError, match=r"^dvc\.lock must have every stage .*; received: ."):
        dvc_lock.read()
