import io
import struct
from pathlib import Path
from typing import Any

from common import arrays
from common.errors import InputError

import numpy as np
import pytest

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4, 1)
LABELS = np.array([7, 0], np.uint8)
ROWS = np.array([0, 2, 5])


class MakesFile:
    """Unpickling this creates a file: what a pickled array could do to the reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def with_header(text: str, data: bytes = b"\1\2\3") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def with_shape(shape: str) -> bytes:
    return with_header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a prepared train part of two images, and a split."""
    monkeypatch.chdir(tmp_path)
    for path in (arrays.PREPARED / "train", arrays.SPLIT):
        path.mkdir(parents=True)
    arrays.save(arrays.PREPARED / "train", IMAGES, LABELS)
    np.save(arrays.SPLIT / "val.npy", ROWS)
    return tmp_path


def refusal(path: Path, content: bytes) -> str:
    """The message for labels of this content: one line that names the file."""
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        arrays.load_array(path, np.uint8, 1)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path} must ")
    return message


def test_round_trip(folder: Path) -> None:
    images, labels = arrays.load("train")
    np.testing.assert_array_equal(images, IMAGES, strict=True)
    np.testing.assert_array_equal(labels, LABELS, strict=True)
    np.testing.assert_array_equal(arrays.load_labels("train"), LABELS, strict=True)
    np.testing.assert_array_equal(arrays.load_rows("val", 100), ROWS, strict=True)


def test_objects_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        arrays.save(tmp_path, IMAGES, np.array([object()]))


def test_a_missing_file_says_where_it_comes_from(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^data/prepared/test/images.npy must exist .*dvc repro"):
        arrays.load("test")
    with pytest.raises(InputError, match=r"^data/split/train.npy must exist .*dvc repro"):
        arrays.load_rows("train", 100)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (LABELS.astype(np.int64), "uint8 in 1 dimensions; received int64 in 1"),
        (LABELS.astype(np.float32), "received float32 in 1"),
        (LABELS.astype(bool), "received bool in 1"),
        (LABELS.astype(np.int8), "received int8 in 1"),
        (LABELS[:, None], "received uint8 in 2"),
        (LABELS[0], "received uint8 in 0"),
    ],
)
def test_another_type_or_number_of_dimensions_is_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    assert words in refusal(tmp_path / "labels.npy", npy(array))


def test_bytes_in_another_order_are_refused(folder: Path) -> None:
    np.save(arrays.SPLIT / "val.npy", ROWS.astype(">i8"))
    with pytest.raises(InputError, match="int64 in 1 dimensions; received >i8"):
        arrays.load_rows("val", 100)


def test_a_pickled_array_is_refused_and_not_executed(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    content = npy(np.array([MakesFile(proof)]))
    refusal(tmp_path / "labels.npy", content)
    assert not proof.exists()
    np.load(tmp_path / "labels.npy", allow_pickle=True)  # the payload does work
    assert proof.exists()


def test_several_arrays_in_one_file_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, LABELS)
    assert "received NpzFile" in refusal(tmp_path / "labels.npy", file.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"label,0,1\n", id="text"),
        pytest.param(npy(LABELS)[:7], id="magic number cut"),
        pytest.param(npy(LABELS)[:50], id="header cut"),
        pytest.param(npy(LABELS)[:-1], id="data cut"),
        pytest.param(b"PK\x03\x04", id="damaged zip file"),
        pytest.param(with_header(" " * 20_000), id="header too long"),
        pytest.param(with_header("((("), id="header not closed"),
        pytest.param(with_header("-" * 9000 + "1"), id="header nested too deeply"),
        pytest.param(with_header("{[]: 1}"), id="key that cannot be one"),
        pytest.param(with_header("{'descr': ('|S1',), 'fortran_order': False, 'shape': (3,)}"), id="type cut short"),
        pytest.param(with_shape("(True,)"), id="length that is no number"),
        pytest.param(with_shape("(1000000000000000,)"), id="more than fits into memory"),
        pytest.param(with_shape("(99999999999999999999,)"), id="more than 64 bits can count"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "whole .npy file" in refusal(tmp_path / "labels.npy", content)


def test_a_folder_is_refused(folder: Path) -> None:
    (arrays.SPLIT / "train.npy").mkdir()
    with pytest.raises(InputError, match=r"data/split/train.npy must .*Is a directory"):
        arrays.load_rows("train", 100)


@pytest.mark.parametrize("content", [None, b"", b"[", b"\xff", b"{}", b'["a", 1]', b"[" * 100_000])
def test_class_names_are_a_list_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    monkeypatch.chdir(tmp_path)
    arrays.PREPARED.mkdir(parents=True)
    path = arrays.PREPARED / "classes.json"
    path.write_text('["a", "b c"]')
    assert arrays.load_class_names() == ["a", "b c"]
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=r"^data/prepared/classes\.json must be a JSON list") as caught:
        arrays.load_class_names()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "rows", "rule"),
    [
        ("train", [0, 5], "train.npy must have rows below 5, the number of images; received 0 to 5"),
        ("val", [-1, 3], "val.npy must have rows below 5, the number of images; received -1 to 3"),
    ],
)
def test_rows_of_other_arrays_are_refused(folder: Path, name: str, rows: list[int], rule: str) -> None:
    arrays.save_array(arrays.SPLIT / f"{name}.npy", np.array(rows, np.int64))
    with pytest.raises(InputError, match=f"^data/split/{rule}$"):
        arrays.load_rows(name, 5)


def test_val_may_be_empty(folder: Path) -> None:
    arrays.save_array(arrays.SPLIT / "val.npy", np.array([], np.int64))
    assert len(arrays.load_rows("val", 5)) == 0
