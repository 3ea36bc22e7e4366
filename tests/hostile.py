"""Small files that stand for large pictures, or for much work."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 7000  # pixels
MEGABYTES, SECONDS = 300, 3  # that one picture may take, with the program, of memory and of the processor


# in a small process between, since the most memory of a child begins with what its parent has
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.returncode, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, done.stdout + done.stderr)
"""


def cost(*words: str | Path) -> tuple[float, float, str]:
    """Most megabytes of memory, seconds of the processor and all output, one line, of a Python program."""
    command = [sys.executable, "-ISc", MEASURE, sys.executable, *words]
    status, megabytes, seconds, said = subprocess.check_output(command, text=True).split(maxsplit=3)
    assert status in "01", said
    lines = [line for line in said.strip().splitlines() if not line.endswith("(data.height, data.width)")]
    assert len(lines) == 1, said
    return float(megabytes), float(seconds), lines[0]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def zeros(size: int) -> bytes:
    """As many zero bytes, packed by zlib without ever being in memory as a whole."""
    packer = zlib.compressobj()
    packed = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*packed, packer.compress(bytes(size & (1 << 20) - 1)), packer.flush()])


def png(width: int, height: int, depth: int, kind: int, extra: bytes = b"") -> bytes:
    """Black, of any size and kind; `extra` chunks come before the pixels."""
    row = 1 + -(-width * depth * {0: 1, 2: 3, 3: 1, 6: 4}[kind] // 8)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zeros(row * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


def saved(form: str, mode: str = "RGB", side: int = SIDE, **options: object) -> bytes:
    """A plain picture."""
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, form, **options)
    return file.getvalue()


def jpeg_of_many_scans() -> bytes:
    """Each passes over the whole picture, and changes nothing."""
    content = saved("JPEG", "L", 4000, progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + 2000 * scan + content[-2:]


def tiff_of_a_large_tile() -> bytes:
    """10 × 10 pixels in a tile of 16,000 × 16,000."""
    pixels = zeros(16_000**2)
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: 16_000, 323: 16_000, 324: 8, 325: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def gif_of_many_frames() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((40, 40), value, np.uint8)) for value in range(256)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:] * 4)
    return file.getvalue()


def bmp_of_many_runs() -> bytes:
    """Each of one pixel, which Pillow unpacks in Python."""
    width, height = 30_000, 3_000
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 256)
    rows = (b"\x01\x05" * 180_000) + b"\0\1"
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + header + bytes(1024) + rows


PALETTE = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", b"\0\1")
MAKERS: dict[str, Callable[[], bytes]] = {
    "50,000,000 × 1": lambda: png(50_000_000, 1, 8, 0),
    "44,000,000 × 1": lambda: png(44_000_000, 1, 8, 0),
    "1 × 44,000,000": lambda: png(1, 44_000_000, 8, 0),
    "65,535 × 550": lambda: png(65_535, 550, 8, 6),
    "PNG, colour and alpha": lambda: png(6100, 6100, 8, 6),
    "PNG, too large": lambda: png(SIDE, SIDE, 8, 6),
    "PNG, 16 bits": lambda: png(SIDE, SIDE, 16, 0, chunk(b"tRNS", b"\0\0")),
    "PNG, palette": lambda: png(SIDE, SIDE, 8, 3, PALETTE),
    "PNG, 1 bit": lambda: png(12_000, 12_000, 1, 0),
    "PNG of many profiles": lambda: png(8, 8, 8, 0, 3000 * chunk(b"iCCP", b"a\0\0" + zeros(1 << 20))),
    "JPEG": lambda: saved("JPEG", "L", 10_000, quality=1),
    "JPEG, progressive": lambda: saved("JPEG", "L", 6000, quality=1, progressive=True),
    "JPEG of many scans": jpeg_of_many_scans,
    "GIF": lambda: saved("GIF", "L"),
    "GIF of many frames": gif_of_many_frames,
    "BMP of many runs": bmp_of_many_runs,
    "TIFF": lambda: saved("TIFF", compression="tiff_deflate"),
    "TIFF of one strip": lambda: saved("TIFF", side=4500, compression="tiff_deflate", tiffinfo={278: 4500}),
    "TIFF of a large tile": tiff_of_a_large_tile,
    "WebP": lambda: saved("WEBP", side=4000, lossless=True),
    "PPM": lambda: b"P6 7000 7000 255\n",
    "PGM of another white": lambda: b"P5 3000 3000 254\n" + bytes(9_000_000),
    "PGM in words": lambda: b"P2 5000 5000 255\n" + b"0 " * 12_000_000,
}


@cache
def picture(name: str) -> bytes:
    return MAKERS[name]()
