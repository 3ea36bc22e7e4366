"""Any picture as the model wants it: (H, W, C) uint8, in the form of its training images.

There are two forms. `fitted` is what src/common/image_folder.py makes of pictures for training. `fashion-mnist` does
with a picture what the dataset's authors did with the shop's photographs (https://arxiv.org/abs/1708.07747, section 2):

| authors | here |
| --- | --- |
| a photograph of 762 × 1000 pixels on #fdfdfd | any size, reduced to 1000 pixels; any plain background |
| | transparency is laid on white or black, whichever differs more from what is visible |
| 2. trim edges within 5 % of the corners' colour | of a plane of colour fitted to the picture's edge; 10 % if it is rough |
| | background and dust (parts with less than 1 % of the largest one's area) become white or black, as #fdfdfd nearly is |
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
SIDE = 28  # pixels; the longest edge, as all below
PHOTOGRAPH, THUMBNAIL = 1000, 73
TOLERANCE = 0.05 * 255 * 3**0.5  # 5 % of the distance from black to white in RGB
ROUGH = 4  # median distances of the edge from its plane are still background, up to twice the tolerance
DUST = 0.01  # of the area of the largest part
CONTRAST, VISIBLE = 1.5, 0.1  # tolerances that so much of what is shown must differ from the background
LIGHT = 127  # background above this is light
WHITE, BLACK = 255, 0


def read(source: Source, form: str, shape: image_folder.Shape, name: str = "") -> np.ndarray:
    """One picture as (H, W, C) uint8.

    Args:
        source: its path, an open file, or a picture of Pillow.
        form: fashion-mnist, which makes (28, 28, 1) alone, or fitted.
        shape: height, width and channels that the model takes.
        name: what is said about it begins so; the path, if it is left out.

    Raises:
        InputError: as from `image_folder.opened`, or nothing stands out from the background.
    """
    with image_folder.opened(source, name) as original:
        if form == "fitted":
            return image_folder.fit(original, shape)
        picture = original.convert("RGBA")
    image = to_fashion_mnist(picture)
    if image is None:
        raise InputError(f"{name or source} must show something that stands out; received too little contrast")
    return image


def to_fashion_mnist(picture: Image.Image) -> np.ndarray | None:
    """An RGBA picture as (28, 28, 1) uint8; None where nothing stands out from the background.

    What has that form already comes back as it is: 28 × 28, grey, on dark.
    """
    picture = _on_white_or_black(_reduced(picture, PHOTOGRAPH))
    colours = np.asarray(picture)  # (H, W, 3)
    light = np.median(colours[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0) @ (0.299, 0.587, 0.114) > LIGHT  # the corners
    if picture.size == (SIDE, SIDE) and not light and not np.ptp(colours, axis=-1).any() and np.ptp(colours):
        return colours[..., :1]
    canvas_value = WHITE if light else BLACK
    shown = _without_dust((contrast := _contrast(colours)) > 1)  # (H, W)
    if (shown & (contrast > CONTRAST)).sum() <= VISIBLE * shown.sum():
        return None
    grey = np.where(shown, np.asarray(picture.convert("L")), canvas_value).astype(np.uint8)
    garment = Image.fromarray(grey).crop(Image.fromarray(shown).getbbox())

    garment = _reduced(garment, THUMBNAIL)
    scale = SIDE / max(garment.size)
    resampling = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.NEAREST
    garment = image_folder.scaled(garment, scale, resampling)
    garment = garment.filter(ImageFilter.UnsharpMask(radius=1, percent=100, threshold=0))
    canvas = Image.new("L", (SIDE, SIDE), canvas_value)
    canvas.paste(garment, ((SIDE - garment.width) // 2, (SIDE - garment.height) // 2))
    image = np.asarray(canvas)[..., None]  # (28, 28) -> (28, 28, 1)
    return WHITE - image if light else image


def _contrast(colours: np.ndarray) -> np.ndarray:
    """How far the pixels of a picture (H, W, 3) are from its background: (H, W), in tolerances.

    The background is a plane of colour. It is fitted to those pixels of the picture's edge that agree with the corner
    with which most of them agree, and again to those that agree with the plane.
    """
    at_edge = np.ones(colours.shape[:2], bool)
    at_edge[1:-1, 1:-1] = False
    terms = np.insert(np.argwhere(at_edge), 0, 1, axis=1)  # (n, 3): 1, row, column
    edge = colours[at_edge].astype(float)  # (n, 3)
    corners = colours[[0, 0, -1, -1], [0, -1, 0, -1], None].astype(float)  # (4, 1, 3)
    near = max(np.linalg.norm(edge - corners, axis=-1) <= TOLERANCE, key=np.count_nonzero)  # (n,)
    for _ in range(4):
        plane = np.linalg.lstsq(terms[near], edge[near])[0]  # (3 terms, 3 channels)
        far = np.linalg.norm(edge - terms @ plane, axis=-1)
        near = far <= TOLERANCE
    tolerance = min(max(TOLERANCE, ROUGH * float(np.median(far[near]))), 2 * TOLERANCE)
    rows, columns = np.ogrid[: colours.shape[0], : colours.shape[1]]
    background = plane[0] + rows[..., None] * plane[1] + columns[..., None] * plane[2]  # (H, W, 3)
    return np.linalg.norm(colours - background, axis=-1) / tolerance


def _without_dust(shown: np.ndarray) -> np.ndarray:
    """(H, W) without connected parts that are small beside the largest."""
    from scipy import ndimage

    parts, _ = ndimage.label(shown, np.ones((3, 3)))  # 0: background
    areas = np.bincount(parts[shown], minlength=1)
    return shown & (areas >= DUST * areas.max())[parts]


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
