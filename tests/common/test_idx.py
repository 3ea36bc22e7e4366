import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

from common import idx
from common.errors import InputError

import numpy as np
import pytest

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
ENCODED = idx.encode(IMAGES)
PACKED = gzip.compress(ENCODED, mtime=0)


def header(*shape: int, kind: int = 0x08) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def refusal(path: Path, dimensions: int = 3, **limit: Any) -> str:
    """The message for a file that cannot be read: one line that names the file."""
    with pytest.raises(InputError) as caught:
        idx.decode(idx.read_bytes(path, **limit), dimensions, str(path))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path} must ")
    return message


def test_the_layout_is_that_of_the_specification() -> None:
    assert bytes.fromhex("00000803 00000002 00000003 00000004") + bytes(range(24)) == ENCODED


@pytest.mark.parametrize("shape", [(5,), (0,), (2, 3), (2, 3, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_round_trip(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    content = idx.encode(array)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if path.suffix else content)
    decoded = idx.decode(idx.read_bytes(path), len(shape), name)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, array, strict=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "an empty file", id="empty"),
        pytest.param(b"\0\0\x08", "received 00 00 08", id="magic number cut short"),
        pytest.param(b"\x89PNG" + bytes(20), "received 89 50 4e 47", id="another format"),
        pytest.param(header(3, kind=0x0D) + bytes(12), "received 00 00 0d 01", id="floats"),
        pytest.param(header(1, 1) + bytes(1), "received 00 00 08 02", id="other dimensions"),
        pytest.param(ENCODED[:15], "a header of 16 bytes; received 15", id="header cut"),
        pytest.param(ENCODED[:-1], "the 2 x 3 x 4 bytes that its header announces; received 23", id="a byte too few"),
        pytest.param(ENCODED + b"\0", "received 25", id="a byte too many"),
        pytest.param(header(2**31, 28, 28) + bytes(9), "2147483648 x 28 x 28", id="2^31 images"),
        # Of no bytes in all, and still more than numpy can hold.
        pytest.param(header(0, 2**32 - 1, 2**32 - 1), "", id="none of huge images"),
    ],
)
@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_malformed_content_is_refused(tmp_path: Path, content: bytes, words: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if path.suffix else content)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param(ENCODED, "Not a gzipped file", id="not packed"),
        pytest.param(PACKED[:9], "", id="header cut"),
        pytest.param(PACKED[:20], "", id="data cut"),
        pytest.param(PACKED[:-3], "", id="checksum cut"),
        pytest.param(PACKED[:-8] + bytes(4) + PACKED[-4:], "CRC", id="wrong checksum"),
        pytest.param(PACKED[:12] + b"\xff" + PACKED[13:], "", id="damaged data"),
        pytest.param(PACKED + b"more", "Not a gzipped file", id="something behind"),
    ],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    assert words in refusal(path)


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path, name: str) -> None:
    assert "No such file" in refusal(tmp_path / name)
    (tmp_path / name).mkdir()
    assert "Is a directory" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_a_file_of_just_the_limit_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKED if path.suffix else ENCODED)
    assert idx.read_bytes(path, limit=len(ENCODED)) == ENCODED
    assert f"at most {len(ENCODED) - 1} bytes" in refusal(path, limit=len(ENCODED) - 1)


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_one_byte_behind_a_limit_of_whole_pieces_is_too_much(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = bytes(2**17 + 1)
    path.write_bytes(gzip.compress(content) if path.suffix else content)
    assert "at most 131,072 bytes" in refusal(path, limit=2**17)


def test_of_a_packed_and_an_unpacked_file_the_unpacked_one_is_read(tmp_path: Path) -> None:
    path, packed = tmp_path / "file", tmp_path / "file.gz"
    assert idx.packed_or_not(path) == path
    packed.touch()
    assert idx.packed_or_not(path) == packed
    path.touch()
    assert idx.packed_or_not(path) == path


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    zeros = bytes(50_000_000)
    path.write_bytes(gzip.compress(zeros, compresslevel=1) if path.suffix else zeros)
    del zeros
    tracemalloc.start()
    try:
        assert "at most 1,000 bytes" in refusal(path, limit=1000)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_memory_follows_the_file_and_not_the_limit(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKED if path.suffix else ENCODED)
    tracemalloc.start()
    try:
        idx.read_bytes(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
