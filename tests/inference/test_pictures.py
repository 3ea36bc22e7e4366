"""Pictures in the form of the training images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import image_folder, synthetic
from common.errors import InputError

import numpy as np
import pytest
from PIL import Image, ImageFilter

from inference import pictures

FORM, SHAPE = "fashion-mnist", (28, 28, 1)
GENERATOR = np.random.default_rng(0)
DRAWN = synthetic.draw(np.arange(10), np.random.default_rng(3))  # (10, 28, 28)


def converted(picture: Image.Image) -> np.ndarray:
    """(28, 28) of what the file would give, saved without loss."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    image = pictures.read(file, FORM, SHAPE, "the picture")
    assert image.shape == SHAPE
    assert image.dtype == np.uint8
    return image[..., 0]


def framed(values: Any, margin: int = 10, background: int = 255) -> Image.Image:
    """A grey picture with a plain frame."""
    return Image.fromarray(np.pad(np.array(values, np.uint8), margin, constant_values=background))


# --- already in the form ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_an_image_of_the_dataset_stays_as_it_is(mode: str) -> None:
    noise = GENERATOR.integers(0, 256, (28, 28), np.uint8)
    noise[[0, 0, -1], [0, -1, 0]] = 0, 12, 100  # three dark corners are enough
    for image in (noise, *DRAWN):
        np.testing.assert_array_equal(converted(Image.fromarray(image).convert(mode)), image)


@pytest.mark.parametrize("shade", [0, 90, 255])
def test_one_of_a_single_shade_shows_nothing(shade: int) -> None:
    assert pictures.to_fashion_mnist(Image.new("RGBA", (28, 28), (shade, shade, shade, 255))) is None


def test_what_is_light_coloured_or_of_another_size_does_not() -> None:
    image = DRAWN[0]
    negated = converted(Image.fromarray(255 - image))
    assert not np.array_equal(negated, 255 - image)
    assert negated[0, 0] == 0
    assert np.corrcoef(negated.ravel(), image.ravel())[0, 1] > 0.5
    red = np.stack([image, 0 * image, 0 * image], -1)
    assert not np.array_equal(converted(Image.fromarray(red)), image)
    assert not np.array_equal(converted(framed(image, 1, background=0)), image)


# --- the authors' steps -------------------------------------------------------------------------


def test_edges_in_the_colour_of_the_corners_are_trimmed() -> None:
    garment = GENERATOR.integers(0, 200, (40, 20))
    for margin in (1, 7, 300):
        image = converted(framed(garment, margin))
        assert image.any(1).all()  # its 40 rows have become all 28
        np.testing.assert_array_equal(image.any(0), [False] * 7 + [True] * 14 + [False] * 7)
        np.testing.assert_array_equal(image, converted(framed(garment, 50)))


@pytest.mark.parametrize(("distance", "trimmed"), [(12, True), (13, False)])
def test_within_5_percent_is_background(distance: int, trimmed: bool) -> None:
    """In RGB space: a grey that differs by 12.75 in each channel."""
    picture = np.full((80, 80), 240, np.uint8)
    picture[12:68, 12:68] = 240 - distance  # 56 rows: every second one is kept
    picture[30:50, 30:50] = 0
    black = converted(Image.fromarray(picture)) == 255  # negated
    assert black.all() if trimmed else black.sum() == 10 * 10


def test_rows_and_columns_are_left_out_not_mixed_then_sharpened() -> None:
    garment = GENERATOR.integers(0, 200, (56, 56), np.uint8)
    kept = Image.fromarray(garment[1::2, 1::2])  # (56, 56) -> (28, 28)
    sharpened = kept.filter(ImageFilter.UnsharpMask(1, 100, 0))
    np.testing.assert_array_equal(converted(framed(garment)), 255 - np.asarray(sharpened))


def test_outlines_are_sharpened_and_surfaces_are_not() -> None:
    halves = np.full((56, 56), 100)
    halves[:, 28:] = 160
    row = converted(framed(halves))[14].astype(int)
    assert row[7] == 155
    assert row[21] == 95
    assert row[13] > 155  # overshoots on both sides of the outline
    assert row[14] < 95


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (28, 27), (300, 3), (5000, 1), (3, 2)])
def test_the_form_is_kept_and_centred(size: tuple[int, int]) -> None:
    image = converted(framed(np.zeros(size), 5))
    height, width = (max(1, round(28 * side / max(size))) for side in size)
    rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
    assert (rows[0], len(rows)) == ((28 - height) // 2, height)
    assert (columns[0], len(columns)) == ((28 - width) // 2, width)


@pytest.mark.parametrize(("background", "negated"), [(255, True), (128, True), (127, False), (0, False)])  # fmt: skip
def test_only_a_light_background_is_negated(background: int, negated: bool) -> None:
    garment = np.full((30, 30), 60)
    image = converted(framed(garment, background=background))
    assert image[14, 14] == (195 if negated else 60)
    wide = converted(framed(garment[:10], background=background))
    assert not wide[:8].any()  # above the garment is black, whatever the background was


def test_grey_is_luminance() -> None:
    picture = Image.new("RGB", (60, 60), "white")
    picture.paste((240, 120, 40), (20, 20, 40, 40))
    # 0.299 R + 0.587 G + 0.114 B (ITU-R 601)
    assert converted(picture)[14, 14] == 255 - 147


def test_one_corner_may_be_covered() -> None:
    picture = np.full((60, 60), 255, np.uint8)
    picture[20:, 20:] = 50
    image = converted(Image.fromarray(picture))
    assert (image == 205).mean() > 0.9


def test_the_traces_of_jpeg_around_a_garment_become_black() -> None:
    picture = framed(255 - np.kron(DRAWN[8], np.ones((10, 10))), 40)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    image = pictures.read(file, FORM, SHAPE, "")[..., 0]
    assert np.median(image[0]) == np.median(image[:, 0]) == 0


@pytest.mark.parametrize(("shade", "backdrop_is_white"), [(20, True), (235, False)])
def test_transparency_is_laid_on_what_differs(shade: int, backdrop_is_white: bool) -> None:
    picture = Image.new("RGBA", (80, 80), (0, 255, 0, 0))
    picture.paste((shade, shade, shade, 255), (20, 30, 60, 50))
    image = converted(picture)
    assert image[14, 14] == (255 - shade if backdrop_is_white else shade)
    assert not image[:6].any()


def test_a_picture_of_one_colour_is_refused() -> None:
    for colour in ("white", "black", "orange"):
        with pytest.raises(InputError, match=r"^the picture must show something .* too little contrast$"):
            converted(Image.new("RGB", (50, 50), colour))
    with pytest.raises(InputError, match="must show something"):
        converted(Image.new("RGBA", (50, 50), (0, 0, 0, 0)))


# --- garments as photographs --------------------------------------------------------------------

BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "coloured": (90, 160, 230)}


def silhouette(image: np.ndarray) -> np.ndarray:
    return image > 20


@pytest.mark.parametrize("side", [50, 280, 800])
@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("label", [0, 3, 7, 8])
def test_a_garment_keeps_its_outline_on_any_background(label: int, background: str, side: int) -> None:
    drawn = Image.fromarray(DRAWN[label])
    mask = drawn.point(lambda value: 255 * (value > 20)).resize((side, side))
    colour = (200, 30, 60)
    photograph = Image.new("RGB", (2 * side, 2 * side), BACKGROUNDS[background])
    photograph.paste(colour, (side // 2, side // 3), mask)
    cut_out = Image.new("RGBA", (side, side))
    cut_out.paste(colour, (0, 0), mask)
    seen, wanted = silhouette(converted(photograph)), silhouette(converted(cut_out))
    assert (seen & wanted).sum() / (seen | wanted).sum() > 0.8  # apart from one pixel at its border


def specked(photograph: Image.Image) -> Image.Image:
    """With two specks of 2 × 2 pixels near opposite corners."""
    for left, top in ((9, 12), (photograph.width - 7, photograph.height - 15)):
        photograph.paste((60, 60, 60), (left, top, left + 2, top + 2))
    return photograph


def shaded(photograph: Image.Image) -> Image.Image:
    """Darker by a third from one corner to the other."""
    height, width = photograph.height, photograph.width
    ramp = 1 - np.add.outer(np.arange(height) / height, np.arange(width) / width) / 6
    return Image.fromarray((np.asarray(photograph) * ramp[..., None]).astype(np.uint8))


def dark_in_the_corners(photograph: Image.Image) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : photograph.height * 1j, -1 : 1 : photograph.width * 1j]
    shade = 1 - 0.04 * (x**2 + y**2)
    return Image.fromarray((np.asarray(photograph) * shade[..., None]).astype(np.uint8))


def grained(photograph: Image.Image) -> Image.Image:
    """On a surface with stripes and noise instead of one colour."""
    pixels = np.asarray(photograph).astype(int)
    height, width = pixels.shape[:2]
    grain = 9 * np.sin(np.arange(height) / 3)[:, None] + np.random.default_rng(0).normal(0, 5, (height, width))
    on_background = (pixels == pixels[0, 0]).all(-1)
    return Image.fromarray((pixels + (grain * on_background)[..., None]).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("change", [specked, shaded, dark_in_the_corners, grained])
@pytest.mark.parametrize("label", [0, 3, 7, 8])
def test_dust_shade_and_grain_leave_the_outline(label: int, change: Callable[[Image.Image], Image.Image]) -> None:
    mask = Image.fromarray(DRAWN[label]).point(lambda value: 255 * (value > 20)).resize((280, 280))
    photograph = Image.new("RGB", (560, 560), (235, 235, 230))
    photograph.paste((50, 40, 90), (140, 100), mask)
    wanted = silhouette(converted(photograph.copy()))
    seen = silhouette(converted(change(photograph)))
    assert (seen & wanted).sum() / (seen | wanted).sum() > 0.85


def test_parts_that_are_no_dust_remain() -> None:
    picture = np.full((100, 100), 255, np.uint8)
    picture[20:60, 20:60] = picture[80:84, 80:85] = 40  # 20 of 1,600 pixels
    assert converted(Image.fromarray(picture))[-1, -1] > 0
    picture[82:] = 255  # 10 of them
    image = converted(Image.fromarray(picture))
    np.testing.assert_array_equal(image, np.full((28, 28), 255 - 40))


@pytest.mark.parametrize(("shade", "refused"), [(244, True), (235, False)])
def test_white_on_white_is_refused(shade: int, refused: bool) -> None:
    """The tolerance is 12.75 in each channel; 1.5 times as much must be there."""
    picture = np.full((80, 80), 255, np.uint8)
    picture[20:60, 30:50] = shade - 2 * (np.arange(20) % 2)
    if refused:
        with pytest.raises(InputError, match=r"received too little contrast$"):
            converted(Image.fromarray(picture))
    else:
        assert converted(Image.fromarray(picture)).any()


# --- models of one's own ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 30, 3), (28, 28, 1)])
def test_other_models_see_what_they_were_trained_with(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(GENERATOR.integers(0, 256, (50, 70, 4), np.uint8)).save(path)
    seen = pictures.read(path, "fitted", shape)
    with image_folder.opened(path) as picture:
        np.testing.assert_array_equal(seen, image_folder.fit(picture, shape))


@pytest.mark.parametrize("form", ["fashion-mnist", "fitted"])
def test_what_is_no_picture_is_refused_by_its_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"^{path} must be a picture"):
        pictures.read(path, form, SHAPE)
    with pytest.raises(InputError, match=r"^the upload must be a picture"):
        pictures.read(io.BytesIO(b"no"), form, SHAPE, "the upload")
