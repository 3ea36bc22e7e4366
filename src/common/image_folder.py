"""Pictures sorted into folders by class, of any size and colour, as arrays of one shape.

Either `train/CLASS/…` and `test/CLASS/…`, or one tree `CLASS/…`, which has no test part. Names that
begin with a dot are ignored; everything else in a class folder must be a picture.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from common.errors import InputError, first_line

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # of one picture, which Pillow checks before it unpacks it: it allows twice its setting
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
MAX_CLASSES = 256  # labels are uint8
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow runs no other program for them
Shape = tuple[int, int, int]  # height, width, channels (1 grey, 3 colour)


def read(folder: Path, shape: Shape) -> tuple[list[str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Class names, and for train and for test the images (N, H, W, C) and labels (N,), both uint8.

    One tree gives a test part without rows. Rows are in the order of class and file name.

    Raises:
        InputError: there are no classes, a class is empty, test has a class that train lacks, or a file
            is not a picture.
    """
    train, test = folder / "train", folder / "test"
    if not train.is_dir():
        if test.is_dir():
            raise InputError(f"{folder} must hold train/ beside test/; received test/ alone")
        train = folder
    names = sorted(path.name for path in _visible(train) if path.is_dir())
    if not 2 <= len(names) <= MAX_CLASSES:
        raise InputError(f"{train} must hold 2 to {MAX_CLASSES} folders, one a class; received {len(names)}")
    for part in (train, test) if train != folder else ():
        if unknown := {path.name for path in _visible(part)} - set(names):
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
    scale = min(height / picture.height, width / picture.width)
    fitted = scaled(picture, scale, Image.Resampling.LANCZOS)
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
def opened(source: Path | BinaryIO, name: str = "") -> Iterator[Image.Image]:
    """One picture with 8 bits a channel, turned as its EXIF data says.

    Args:
        source: its path, or an open file.
        name: its name in error messages; the path by default.

    Raises:
        InputError: it is not a picture, is damaged, has more than 50 million pixels or more than 16 bits
            a channel, or the block under `with` cannot convert it.
    """
    name = name or str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's notes on odd but readable files
            with Image.open(source, formats=FORMATS) as image:
                picture = ImageOps.exif_transpose(image)
                if picture.mode.startswith("I;16"):  # to 8 bits: Pillow would clip instead
                    deep = np.asarray(picture)  # (H, W) uint16
                    visible = deep != picture.info.get("transparency")
                    picture = Image.fromarray((deep // 257).astype(np.uint8))
                    picture.putalpha(Image.fromarray(visible))
                elif picture.mode in ("I", "F"):  # Pillow does not say what their white is
                    raise InputError(f"{name} must have 8 or 16 bits a channel; received mode {picture.mode}")
                yield picture
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{name} must have at most {MAX_PIXELS:,} pixels; received more") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} must be a picture that Pillow reads; received something else") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them
        raise InputError(f"{name} must be a whole picture; received: {first_line(error)}") from error


def _read_part(folder: Path, names: list[str], shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of the classes `names`; a class without a folder has none."""
    files, labels = [], []
    for label, name in enumerate(names):
        pictures = sorted(_visible(folder / name))
        if not pictures and (folder / name).is_dir():
            raise InputError(f"{folder / name} must hold at least one picture; received none")
        files += pictures
        labels += [label] * len(pictures)
    images = np.empty((len(files), *shape), np.uint8)
    for row, path in enumerate(files):
        with opened(path) as picture:
            images[row] = fit(picture, shape)
    return images, np.array(labels, np.uint8)


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
