"""The IDX format of MNIST and its descendants: unsigned bytes behind a big-endian header.

Layout (http://yann.lecun.com/exdb/mnist): two zero bytes, the type (0x08, unsigned byte), the
number of dimensions, then each dimension as a 32-bit big-endian integer, then the data.
"""

import gzip
import os
import struct
import zlib
from pathlib import Path

from common.errors import InputError

import numpy as np

UNSIGNED_BYTE = 0x08
MAX_BYTES = 2**31  # of data; Fashion-MNIST's largest file has 47 million
_PIECE_BYTES = 2**16


def decode(content: bytes, dimensions: int, name: str) -> np.ndarray:
    """IDX bytes to a uint8 array of the shape that their header gives; `name` is for errors.

    Raises:
        InputError: wrong magic number or number of dimensions, or a size other than announced.
    """
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if not content.startswith(magic):
        raise InputError(
            f"{name} must begin with {magic.hex(' ')}: IDX, unsigned bytes in {dimensions} dimensions; "
            f"received {content[:4].hex(' ') or 'an empty file'}"
        )
    header = struct.Struct(f">4x{dimensions}I")
    if len(content) < header.size:
        raise InputError(f"{name} must have a header of {header.size} bytes; received {len(content)}")
    shape = header.unpack_from(content)
    try:
        return np.frombuffer(content, np.uint8, offset=header.size).reshape(shape)
    except ValueError:
        raise InputError(
            f"{name} must hold the {' x '.join(map(str, shape))} bytes that its header announces; "
            f"received {len(content) - header.size:,}"
        ) from None


def encode(array: np.ndarray) -> bytes:
    """A uint8 array to IDX bytes."""
    header = bytes([0, 0, UNSIGNED_BYTE, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def packed_or_not(path: Path) -> Path:
    """`path`, or `path` with .gz behind it where only that exists."""
    packed = path.with_name(f"{path.name}.gz")  # os.path, as pathlib's `exists` raises without permission
    return packed if os.path.exists(packed) and not os.path.exists(path) else path


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a file, unpacked if its name ends in .gz; stops reading after `limit` bytes.

    Raises:
        InputError: unreadable, not gzip, cut short, damaged, or unpacks to more than `limit` bytes.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = bytearray()  # grows with the file, where `read(limit)` would reserve `limit`
            while len(content) <= limit and (piece := file.read(_PIECE_BYTES)):
                content += piece
    except (EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} must be a whole and readable file; received: {reason}") from None
    if len(content) > limit:
        raise InputError(f"{path} must unpack to at most {limit:,} bytes; received more")
    return bytes(content)
