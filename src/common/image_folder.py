"""Pictures sorted into folders by class, of any size and colour, as arrays of one shape.

Either `train/CLASS/…` and `test/CLASS/…`, or one tree `CLASS/…`, which has no test part. Names that
begin with a dot are ignored; everything else in a class folder must be a picture.
"""

import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import InputError, first_line

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

# What one picture may cost. A file of a few kilobytes can stand for gigabytes and hours.
MAX_MEMORY = 150_000_000  # bytes that Pillow unpacks it into, and that it reads
MAX_EDGE = 65_535  # pixels; the filter that scales a longer edge takes more than its picture
MAX_SCANS = 100  # of a JPEG: each passes over the whole picture, and takes no more than 30 bytes
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)  # of a JPEG's segment, with a length behind it
MAX_SEGMENTS = 10_000
MAX_SECONDS = 2.0  # of the processor, while Pillow still reads
LARGE = 8_000_000  # pixels, from which a picture is reduced while it is unpacked
BITS, PHOTOMETRIC, ORIENTATION, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 258, 262, 274, 278, 322, 323  # tags of TIFF
MAX_CLASSES = 256  # labels are uint8
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow runs no other program for them
GREY, EXIF = ("1", "L", "LA", "I;16"), ("exif", "Raw profile type exif")  # modes of Pillow, keys of its info
COLOUR = 16  # of 255: channels that are no farther apart are the noise of a JPEG
Shape = tuple[int, int, int]  # height, width, channels (1 grey, 3 colour)


def read(folder: Path, shape: Shape) -> tuple[list[str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Class names, and for train and for test the images (N, H, W, C) and labels (N,), both uint8.

    One tree gives a test part without rows. Rows are in the order of class and file name.

    Raises:
        InputError: there are no classes, a class is empty, test has a class that train lacks, or a file is no picture.
    """
    train, test = folder / "train", folder / "test"
    if not train.is_dir():
        if test.is_dir():
            raise InputError(f"{folder} must hold train/ beside test/; received test/ alone")
        train = folder
    names = sorted(path.name for path in _visible(train) if path.is_dir())
    if not 2 <= len(names) <= MAX_CLASSES:
        raise InputError(f"{train} must hold 2 to {MAX_CLASSES} folders, one a class; received {len(names)}")
    if odd := [name for name in names if "\r" in name or name.encode(errors="ignore").decode() != name]:
        raise InputError(f"{train} must hold folders with names in UTF-8 without \\r; received {odd[0]!r}")
    for part in (train, test) if train != folder else ():
        if unknown := {path.name for path in _visible(part) if path.name not in names or not path.is_dir()}:
            raise InputError(f"{part} must hold folders of the classes in {train} alone; received {min(unknown)}")
    return names, {"train": _read_part(train, names, shape), "test": _read_part(test, names, shape)}


def fit(picture: Image.Image, shape: Shape) -> np.ndarray:
    """A picture as (H, W, C) uint8: on black where it is transparent, scaled to fit without distortion,
    with black bars where its aspect ratio differs.
    """
    height, width, channels = shape
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    picture = picture.convert("L" if channels == 1 else "RGB")
    fitted = scaled(picture, min(height / picture.height, width / picture.width), Image.Resampling.LANCZOS)
    canvas = Image.new(picture.mode, (width, height))
    canvas.paste(fitted, ((width - fitted.width) // 2, (height - fitted.height) // 2))
    return np.asarray(canvas).reshape(shape)


def scaled(picture: Image.Image, scale: float, resampling: Image.Resampling) -> Image.Image:
    """Both edges times `scale`, at least one pixel each."""
    return picture.resize([max(1, round(edge * scale)) for edge in picture.size], resampling)


def to_picture(image: np.ndarray) -> Image.Image:
    """An image (H, W, C) uint8 as a picture, grey where C is 1: the inverse of `fit` at its own size."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


@contextmanager
def opened(source: str | Path | BinaryIO | Image.Image, name: str = "") -> Iterator[Image.Image]:
    """One picture with 8 bits a channel, turned as its EXIF data says.

    A picture of more than LARGE pixels comes at a whole fraction of its size.

    Args:
        source: its path, an open file, or a picture of Pillow.
        name: its name in error messages; the path by default.

    Raises:
        InputError: it is not a picture, is damaged, costs more than a picture may, has more than 16 bits a
            channel, or the block under `with` cannot convert it.
    """
    if isinstance(source, Image.Image):
        yield _to_8_bits(ImageOps.exif_transpose(source))
        return
    source = Path(source) if isinstance(source, str) else source
    name = name or str(source)
    try:
        given = regular(source).open("rb") if isinstance(source, Path) else nullcontext(source)
        with warnings.catch_warnings(), given as file:
            warnings.simplefilter("ignore")  # Pillow's notes on odd but readable files
            with Image.open(_Bounded(file, name), formats=FORMATS) as image:
                _refuse_costly(image, file, name)
                tags = getattr(image, "tag_v2", {})
                form = [image.mode, *(tags[tag] for tag in (BITS, PHOTOMETRIC) if tag in tags)]
                if image.mode in ("I", "F") or (image.mode.startswith("I;16") and form[1:] not in ([], [(16,), 1])):
                    raise InputError(f"{name} must have 8 bits, or in PNG and TIFF 16, 0 black; received {form}")
                if image.mode == "L" and "transparency" in image.info:  # which Pillow leaves as it is in the file
                    image.info["transparency"] *= {"L;2": 85, "L;4": 17}.get(str(image.tile[0][3]), 1)
                image.getexif()  # stays; Pillow would write it anew when it turns the picture, and often cannot
                image.info = {key: value for key, value in image.info.items() if key not in EXIF}
                picture: Image.Image = image
                if (factor := _factor(image)) > 1:
                    picture = _reduced(image, factor)
                    picture.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
                yield _to_8_bits(ImageOps.exif_transpose(picture))
    except InputError:
        raise
    except Image.DecompressionBombError:  # for what Pillow unpacks before it gives a size
        raise InputError(f"{name} must take at most {MAX_MEMORY:,} bytes; received more") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} must be a picture that Pillow reads; received something else") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them
        raise InputError(f"{name} must be a whole picture; received: {first_line(error)}") from error


def regular(path: Path) -> Path:
    """The path, unless a pipe, a device or a socket has it, which may never end.

    Raises:
        InputError: one has.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} must be a regular file; received a pipe, a device or a socket")
    return path


class _Bounded:
    """A file that ends with an InputError where Pillow reads on and on, as over millions of empty parts."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._left, self._end = MAX_MEMORY, time.thread_time() + MAX_SECONDS

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._file, attribute)

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(content)
        if self._left < 0 or time.thread_time() > self._end:
            raise InputError(f"{self._name} must take at most {MAX_MEMORY:,} bytes and {MAX_SECONDS} s; received more")
        return content


def _refuse_costly(image: Image.Image, file: BinaryIO, name: str) -> None:
    """Refuses by its header, before it is unpacked, a picture that costs too much; drafts a large JPEG."""
    width, height = image.size
    if max(image.size) > MAX_EDGE:
        raise InputError(f"{name} must have edges of at most {MAX_EDGE:,} pixels; received {width:,} × {height:,}")
    buffers, place = 0, file.tell()
    is_jpeg = isinstance(image, JpegImageFile)
    if is_jpeg or "jpeg" in str(image.info.get("compression")):
        file.seek(0)
        content = file.read(MAX_MEMORY)
        scans = _scans(content) if is_jpeg else content.count(b"\xff\xda")
        if scans > MAX_SCANS:
            raise InputError(f"{name} must have at most {MAX_SCANS} scans; received {scans:,}")
        buffers = (8 if scans > 1 else 1) * width * height
    elif image.format == "WEBP":  # whose library takes the whole file, and four pictures
        buffers = 16 * width * height + file.seek(0, os.SEEK_END)
    elif isinstance(image, TiffImageFile):
        rows, *tile = (image.tag_v2.get(tag, 0) for tag in (ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH))
        buffers = 8 * max(width * min(rows or height, height), math.prod(tile))
    if (factor := _factor(image)) > 1:
        image.draft(None, (width // factor, height // factor))
    memory = buffers + 4 * image.width * image.height  # as Pillow has colours
    if memory > MAX_MEMORY:
        raise InputError(f"{name} must take at most {MAX_MEMORY:,} bytes; received {memory:,} ({width:,} × {height:,})")
    file.seek(place)


def _scans(jpeg: bytes) -> int:
    """Up to the end of the first picture, behind which cameras put others; thumbnails lie in segments."""
    scans, place = 0, 2
    for _ in range(MAX_SEGMENTS):
        marker = MARKER.search(jpeg, place)
        if not marker or marker[1] == b"\xd9":
            return scans
        scans += marker[1] == b"\xda"
        place = marker.end() + max(2, int.from_bytes(jpeg[marker.end() : marker.end() + 2]))
    return MAX_SEGMENTS


def _factor(image: Image.Image) -> int:
    """By which both edges of a large picture are divided; else 1."""
    return math.ceil(math.sqrt(image.width * image.height / LARGE))


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """A picture with edges of 1 / `factor`, in RGBA; only strips of it are ever converted as a whole."""
    reduced = Image.new("RGBA", [math.ceil(edge / factor) for edge in image.size])
    rows = factor * math.ceil(LARGE / factor / 10 / image.width)
    for top in range(0, image.height, rows):
        strip = _to_8_bits(image.crop((0, top, image.width, min(top + rows, image.height))))
        reduced.paste(strip.convert("RGBA").reduce(factor), (0, top // factor))
    return reduced


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Without this, Pillow would clip 16 bits to white, and refuse to make LAB grey."""
    if not picture.mode.startswith("I;16"):
        return picture.convert("RGB") if picture.mode == "LAB" else picture
    deep = np.asarray(picture)  # (H, W) uint16
    visible = deep != picture.info.get("transparency")
    picture = Image.fromarray((deep // 257).astype(np.uint8))
    picture.putalpha(Image.fromarray(visible))
    return picture


def _read_part(folder: Path, names: list[str], shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of the classes `names`; a class without a folder has none."""
    files, labels = [], []
    for label, name in enumerate(names):
        pictures = sorted(_visible(folder / name))
        if not pictures and (folder / name).is_dir():
            raise InputError(f"{folder / name} must hold at least one picture; received none")
        files += pictures
        labels += [label] * len(pictures)
    images, edges, colourful = np.empty((len(files), *shape), np.uint8), {0}, 0
    for row, path in enumerate(files):
        with opened(path) as picture:
            images[row] = fit(picture, shape)
            edges |= {*picture.size}
            if shape[2] == 1 and picture.mode not in GREY:
                colourful += np.ptp(fit(picture, (*shape[:2], 3)).astype(int), axis=-1).max() > COLOUR
    if files:
        said = f"{len(files):,} pictures with edges of {min(edges - {0})} to {max(edges)} pixels"
        print(f"{folder}: {said}, brought to {shape[0]} × {shape[1]} (data.height, data.width)")
    if colourful:
        print(f"{folder}: {colourful:,} pictures are in colour and become grey (data.channels: 3 keeps the colour)")
    return images, np.array(labels, np.uint8)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
