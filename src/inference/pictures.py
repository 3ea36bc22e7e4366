"""Any picture as the model wants it: (H, W, C) uint8, in the form of its training images.

There are two forms. `fitted` is what src/common/image_folder.py makes of pictures for training.
`fashion-mnist` does with a picture what the dataset's authors did with the shop's photographs
(https://arxiv.org/abs/1708.07747, section 2):

| authors | here |
| --- | --- |
| a photograph of 762 × 1000 pixels on #fdfdfd | any size, reduced to 1000 pixels; any plain background |
| | transparency is laid on white or black, whichever differs more from what is visible |
| 2. trim edges within 5 % of the corners' colour | the same; the corners' colour is their median |
| | what is within 5 % of that colour becomes white or black, as #fdfdfd nearly is |
| the shop's thumbnail, 51 × 73 | the longest edge is reduced to 73, by Lanczos |
| 3. longest edge to 28, by leaving out rows and columns | the same; a smaller picture is enlarged, bicubic |
| 4. sharpen, standard deviation 1, more near outlines | an unsharp mask of radius 1, everywhere alike |
| 5. extend the shortest edge to 28, centred | the same |
| 6. negate | only where the background is light |
| 7. 8-bit grey | the same, before step 3: ITU-R 601 |
"""

from pathlib import Path
from typing import BinaryIO

from common import image_folder
from common.errors import InputError

import numpy as np
from PIL import Image, ImageFilter

Source = str | Path | BinaryIO | Image.Image
FORMS = ("fashion-mnist", "fitted")
SIDE = 28  # pixels; the longest edge, as all below
PHOTOGRAPH, THUMBNAIL = 1000, 73
TOLERANCE = 0.05 * 255 * 3**0.5  # 5 % of the distance from black to white in RGB
LIGHT = 127  # background above this is light
WHITE, BLACK = 255, 0


def read(source: Source, form: str, shape: image_folder.Shape, name: str = "") -> np.ndarray:
    """One picture as (H, W, C) uint8.

    Args:
        source: its path, an open file, or a picture of Pillow.
        form: one of FORMS; fashion-mnist makes (28, 28, 1) alone.
        shape: height, width and channels that the model takes.
        name: what is said about it begins so; the path, if it is left out.

    Raises:
        InputError: as from `image_folder.opened`, or there is nothing but background.
    """
    with image_folder.opened(source, name) as original:
        if form == "fitted":
            return image_folder.fit(original, shape)
        picture = original.convert("RGBA")
    image = to_fashion_mnist(picture)
    if image is None:
        raise InputError(f"{name or source} must show something on its background; received one colour")
    return image


def to_fashion_mnist(picture: Image.Image) -> np.ndarray | None:
    """An RGBA picture as (28, 28, 1) uint8; None where nothing differs from the background.

    What has that form already comes back as it is: 28 × 28, grey, on dark.
    """
    picture = _on_white_or_black(_reduced(picture, PHOTOGRAPH))
    colours = np.asarray(picture)  # (H, W, 3)
    background = np.median(colours[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)  # (3,), of the corners
    light = background @ (0.299, 0.587, 0.114) > LIGHT
    if picture.size == (SIDE, SIDE) and not light and not np.ptp(colours, axis=-1).any():
        return colours[..., :1]
    canvas_value = WHITE if light else BLACK
    shown = ((colours - background) ** 2).sum(-1) > TOLERANCE**2  # (H, W)
    grey = np.where(shown, np.asarray(picture.convert("L")), canvas_value).astype(np.uint8)
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    if not rows.size:
        return None
    garment = Image.fromarray(grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])

    garment = _reduced(garment, THUMBNAIL)
    scale = SIDE / max(garment.size)
    resampling = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.NEAREST
    garment = image_folder.scaled(garment, scale, resampling)
    garment = garment.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    canvas = Image.new("L", (SIDE, SIDE), canvas_value)
    canvas.paste(garment, ((SIDE - garment.width) // 2, (SIDE - garment.height) // 2))
    image = np.asarray(canvas)[..., None]  # (28, 28) -> (28, 28, 1)
    return WHITE - image if light else image


def _on_white_or_black(picture: Image.Image) -> Image.Image:
    """RGBA to RGB."""
    pixels = np.asarray(picture)  # (H, W, 4)
    alpha = pixels[..., 3].astype(np.float32)
    grey = np.asarray(picture.convert("L"))
    dark = (grey * alpha).sum() < LIGHT * alpha.sum()  # what is visible, on the average
    backdrop = Image.new("RGBA", picture.size, (*[WHITE if dark else BLACK] * 3, 255))
    return Image.alpha_composite(backdrop, picture).convert("RGB")


def _reduced(picture: Image.Image, longest: int) -> Image.Image:
    """The longest edge to so many pixels at most, the other in proportion."""
    scale = longest / max(picture.size)
    return image_folder.scaled(picture, scale, Image.Resampling.LANCZOS) if scale < 1 else picture
