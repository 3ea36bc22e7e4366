import io
import re
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from common import image_folder
from common.errors import InputError

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from PIL.PngImagePlugin import PngInfo

import hostile
from conftest import ROOT, png

SIDE = 8
GREY, COLOUR = (SIDE, SIDE, 1), (SIDE, SIDE, 3)
BLACK, WHITE, ORANGE = (0, 0, 0), (255, 255, 255), (240, 120, 40)


def image(value: Any, mode: str, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    return Image.new(mode, size, value)


def to_array(path: Path, shape: image_folder.Shape) -> np.ndarray:
    with image_folder.opened(path) as picture:
        return image_folder.fit(picture, shape)


def refusal(path: Path, shape: image_folder.Shape = GREY) -> str:
    """What is said about a picture: one line, without the path that begins it."""
    with pytest.raises(InputError) as caught:
        to_array(path, shape)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path} must ")
    return message.removeprefix(f"{path} ")


def assert_filled(array: np.ndarray, shape: tuple[int, ...], colour: Any, tolerance: int) -> None:
    assert array.shape == shape
    assert array.dtype == np.uint8
    expected = np.broadcast_to(np.array(colour), shape)
    np.testing.assert_allclose(array.astype(int), expected, rtol=0, atol=tolerance)


# --- one picture --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize(
    ("mode", "value", "grey", "colour"),
    [
        ("L", 100, 100, (100, 100, 100)),
        ("RGB", ORANGE, 147, ORANGE),  # 0.299 R + 0.587 G + 0.114 B (ITU-R 601)
    ],
)
def test_formats(tmp_path: Path, suffix: str, mode: str, value: Any, grey: int, colour: tuple[int, int, int]) -> None:
    path = tmp_path / f"file.{suffix}"
    image(value, mode).save(path)
    tolerance = 4 if suffix in ("jpg", "webp") else 1
    assert_filled(to_array(path, GREY), GREY, grey, tolerance)
    assert_filled(to_array(path, COLOUR), COLOUR, colour, tolerance)


@pytest.mark.parametrize(
    ("picture", "suffix", "colour"),
    [
        pytest.param(image((*ORANGE, 128), "RGBA"), "png", (120, 60, 20), id="RGBA"),
        pytest.param(image((*ORANGE, 0), "RGBA"), "png", BLACK, id="RGBA, transparent"),
        pytest.param(image((*ORANGE, 128), "RGBA"), "webp", (120, 60, 20), id="RGBA, WebP"),
        pytest.param(image((200, 128), "LA"), "png", (100, 100, 100), id="LA"),
        pytest.param(image(1, "1"), "png", WHITE, id="1 bit, white"),
        pytest.param(image(0, "1"), "png", BLACK, id="1 bit, black"),
        pytest.param(image(0, "I;16"), "png", BLACK, id="16 bit, black"),
        pytest.param(image(100 * 257, "I;16"), "png", (100, 100, 100), id="16 bit"),
        pytest.param(image(65_535, "I;16"), "png", WHITE, id="16 bit, white"),
        pytest.param(image(100 * 257, "I;16"), "tif", (100, 100, 100), id="16 bit, TIFF"),
        pytest.param(image(100 * 257, "I;16B"), "tif", (100, 100, 100), id="16 bit, big-endian"),
        pytest.param(image(ORANGE, "RGB").convert("CMYK"), "jpg", ORANGE, id="CMYK"),
    ],
)
def test_modes(tmp_path: Path, picture: Image.Image, suffix: str, colour: tuple[int, int, int]) -> None:
    path = tmp_path / f"file.{suffix}"
    picture.save(path, lossless=True, exact=True)  # what WebP must be told; others ignore it
    with Image.open(path) as saved:
        assert picture.mode in (saved.mode, "I;16B")  # it tests what it says
    tolerance = 4 if suffix == "jpg" else 1
    assert_filled(to_array(path, COLOUR), COLOUR, colour, tolerance)


def test_of_16_bits_a_shade_stands_for_257(tmp_path: Path) -> None:
    image(254 * 257 + 100, "I;16").save(tmp_path / "a.png")
    assert_filled(to_array(tmp_path / "a.png", GREY), GREY, 254, 0)


LEFT_ONLY = [0] * 4 + [1] * 4  # the transparent or left half, then the other


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    picture = Image.fromarray(np.tile(np.array(LEFT_ONLY, np.uint8), (SIDE, 1)))
    picture.putpalette([*WHITE, *ORANGE])
    picture.save(tmp_path / "a.png", transparency=0)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "P"
    array = to_array(tmp_path / "a.png", COLOUR)
    assert_filled(array[:, :4], (SIDE, 4, 3), BLACK, 0)
    assert_filled(array[:, 4:], (SIDE, 4, 3), ORANGE, 0)


@pytest.mark.parametrize(("depth", "value"), [(8, 100), (16, 100 * 257)])
def test_a_transparent_shade_of_grey(tmp_path: Path, depth: int, value: int) -> None:
    """A PNG may name one shade as transparent instead of having an alpha channel."""
    form = ">B" if depth == 8 else ">H"
    row = struct.pack(form, value) * 4 + struct.pack(form, 2 * value) * 4
    path = tmp_path / "a.png"
    path.write_bytes(png(SIDE, SIDE, depth, 0, *[row] * SIDE, key=struct.pack(">H", value)))
    array = to_array(path, GREY)
    assert_filled(array[:, :4], (SIDE, 4, 1), 0, 0)
    assert_filled(array[:, 4:], (SIDE, 4, 1), 200, 0)


@pytest.mark.parametrize(("depth", "white"), [(1, 1), (2, 3), (4, 15)])
def test_a_transparent_shade_of_few_bits(tmp_path: Path, depth: int, white: int) -> None:
    row = np.packbits(np.repeat([1, 0], SIDE // 2 * depth)).tobytes()  # white, then black
    for key, left in ((white, 0), (0, 255)):
        (tmp_path / "a.png").write_bytes(png(SIDE, SIDE, depth, 0, *[row] * SIDE, key=struct.pack(">H", key)))
        array = to_array(tmp_path / "a.png", GREY)
        assert_filled(array[:, : SIDE // 2], (SIDE, SIDE // 2, 1), left, 0)
        assert_filled(array[:, SIDE // 2 :], (SIDE, SIDE // 2, 1), 0, 0)


def test_16_bits_in_other_forms_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535\n" + bytes(8))
    with pytest.raises(InputError, match=r"a\.pgm must have 8 bits, or in PNG and TIFF 16, 0 black; received \['I'\]$"):
        to_array(tmp_path / "a.pgm", GREY)


def test_a_picture_in_lab_becomes_grey_too(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), ORANGE).convert("LAB").save(tmp_path / "a.tiff")
    for shape in (COLOUR, GREY):
        grey = np.array([299, 587, 114]) @ ORANGE / 1000
        assert_filled(to_array(tmp_path / "a.tiff", shape), shape, ORANGE if shape == COLOUR else grey, 2)


def test_16_bit_colour(tmp_path: Path) -> None:
    row = struct.pack(">3H", *(257 * value for value in ORANGE)) * SIDE
    (tmp_path / "a.png").write_bytes(png(SIDE, SIDE, 16, 2, *[row] * SIDE))
    assert_filled(to_array(tmp_path / "a.png", COLOUR), COLOUR, ORANGE, 1)


def tiff(bits: int, photometric: int, values: list[int]) -> bytes:
    """One strip of 8 × 8 grey pixels; photometric interpretation 0: 0 is white."""
    packed = "".join(f"{value:0{bits}b}" for value in values)
    if bits == 16:  # the byte order of the file; 12 bits are packed from the highest
        packed = "".join(packed[start + 8 : start + 16] + packed[start : start + 8] for start in range(0, 1024, 16))
    strip = int(packed, 2).to_bytes(len(packed) // 8, "big")
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 8, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.tif", tiff(16, 1, [25_700] * 64), id="TIFF, 16 bit"),
        pytest.param("a.pgm", b"P5 8 8 65535\n" + struct.pack(">H", 25_700) * 64, id="PGM, 16 bit"),
        pytest.param("a.tif", image(25_700, "I"), id="TIFF, 32 bit"),
        pytest.param("a.tif", image(0.4, "F"), id="TIFF, float 0 to 1"),
        pytest.param("a.tif", tiff(16, 0, [65_535 - 25_700] * 64), id="TIFF, 0 is white"),
        pytest.param("a.tif", tiff(12, 1, [25_700 // 16] * 64), id="TIFF, 12 bit"),
    ],
)
def test_more_than_16_bits_are_scaled_or_refused(tmp_path: Path, name: str, content: bytes | Image.Image) -> None:
    """But never clipped to black or white, which is what Pillow's own conversion does."""
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    try:
        array = to_array(path, GREY)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert_filled(array, GREY, 100, 3)


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [image(value, "L") for value in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert_filled(to_array(tmp_path / "a.gif", GREY), GREY, 10, 0)


@pytest.mark.parametrize("mode", ["L", "I;16"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_says(tmp_path: Path, mode: str, turn: int) -> None:
    upright = np.zeros((SIDE, SIDE), np.uint8)
    upright[:2, :4] = 255  # no turn of this shape equals another
    # How the camera held it: https://exiftool.org/TagNames/EXIF.html#Orientation, the other way
    held = [
        upright,
        upright[:, ::-1],
        upright[::-1, ::-1],
        upright[::-1],
        upright.T,
        np.rot90(upright),
        upright[::-1, ::-1].T,
        np.rot90(upright, -1),
    ][turn - 1]
    values = np.ascontiguousarray(held).astype(np.uint16) * 257
    picture = Image.fromarray(values if mode == "I;16" else np.ascontiguousarray(held))
    exif = Image.Exif()
    exif[0x0112] = turn
    picture.save(tmp_path / "a.png", exif=exif)
    array = to_array(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(array[..., 0], upright)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((16, 8), (2, 6), (0, 8)),  # wide: bars above and below
        ((8, 16), (0, 8), (2, 6)),
        ((4, 2), (2, 6), (0, 8)),  # small ones are enlarged
        ((300, 300), (0, 8), (0, 8)),
        ((1, 1), (0, 8), (0, 8)),
        ((800, 200), (3, 5), (0, 8)),
    ],
)
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_the_form_is_kept_between_black_bars(
    tmp_path: Path, size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int], shape: image_folder.Shape
) -> None:
    image(255, "L", size).save(tmp_path / "a.png")
    expected = np.zeros(shape, np.uint8)
    expected[slice(*rows), slice(*columns)] = 255
    np.testing.assert_array_equal(to_array(tmp_path / "a.png", shape), expected)


def test_height_comes_before_width(tmp_path: Path) -> None:
    image(255, "L", (10, 10)).save(tmp_path / "a.png")
    array = to_array(tmp_path / "a.png", (8, 12, 1))  # (H, W, C)
    assert array.shape == (8, 12, 1)
    assert array[..., 0].any(0).tolist() == [False] * 2 + [True] * 8 + [False] * 2


@pytest.mark.parametrize("size", [(100, 1), (1, 100), (3000, 2)])
def test_something_is_left_of_a_very_narrow_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    """Scaled without distortion it is less than a pixel wide."""
    image(255, "L", size).save(tmp_path / "a.png")
    assert to_array(tmp_path / "a.png", GREY).max() > 0


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_an_image_comes_back_from_its_picture(channels: int, mode: str) -> None:
    drawn = NOISE[:8, :12, :channels]
    picture = image_folder.to_picture(drawn)
    assert (picture.mode, picture.size) == (mode, (12, 8))
    np.testing.assert_array_equal(image_folder.fit(picture, drawn.shape), drawn, strict=True)


# --- files that are not pictures ----------------------------------------------------------------


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"hello", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert refusal(path) == "must be a picture that Pillow reads; received something else"


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_truncated_picture_is_refused(tmp_path: Path, form: str, share: float) -> None:
    content = encoded(form)
    path = tmp_path / "a"
    path.write_bytes(content)
    to_array(path, COLOUR)
    path.write_bytes(content[: int(len(content) * share)])
    assert refusal(path).startswith(("must be a whole picture; received: ", "must be a picture that Pillow reads; "))


def test_the_reason_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG")[:-1000])
    assert refusal(path) == "must be a whole picture; received: image file is truncated"


@pytest.mark.parametrize("position", range(0, 300, 7))
def test_a_changed_byte_in_a_png_is_found_or_does_no_harm(tmp_path: Path, position: int) -> None:
    """The format has checksums, so another picture can never come out."""
    content = bytearray(png(8, 8, 8, 2, *(NOISE[row, :8].tobytes() for row in range(8))))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    expected = to_array(path, COLOUR)
    np.testing.assert_array_equal(expected, NOISE[:8, :8])
    content[position % len(content)] ^= 0x20
    path.write_bytes(content)
    try:
        array = to_array(path, COLOUR)
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 100_000), (13_000, 13_000), (75_000, 1), (2**31 - 1, 2**31 - 1)]
)
@pytest.mark.parametrize("kind", [0, 6])  # grey, RGBA
def test_a_huge_picture_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, kind: int
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(width, height, 8, kind, bytes(1000)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("unpacked"))
    assert refusal(path).startswith(("must take at most 150,000,000 bytes; ", "must have edges of at most 65,535 "))


FOLDER = """
import sys
from pathlib import Path
from common import image_folder
print(image_folder.read(Path(sys.argv[1]), (28, 28, 1))[1]["train"][0].max())
"""


@pytest.mark.parametrize("name", ["PNG, colour and alpha", "44,000,000 × 1", "JPEG of many scans"])
def test_a_small_file_has_no_large_bill(tmp_path: Path, name: str) -> None:
    """More of them: tests/test_predict.py."""
    fill(tmp_path / "given", TREE)
    (tmp_path / "given/cat/c.png").write_bytes(hostile.picture(name))
    (tmp_path / "read.py").write_text(f"import sys\nsys.path[0] = {str(ROOT / 'src')!r}{FOLDER}")
    megabytes, seconds, _ = hostile.cost(tmp_path / "read.py", tmp_path / "given")
    assert megabytes < hostile.MEGABYTES
    assert seconds < hostile.SECONDS


@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_what_a_camera_appends_to_a_jpeg_counts_not(tmp_path: Path, form: str) -> None:
    """A video, or a preview with as many scans as one may have."""
    picture, path = Image.fromarray(NOISE), tmp_path / "a.jpg"
    picture.save(
        path, form, quality=95, **({"save_all": True, "append_images": [picture] * 2} if form == "MPO" else {})
    )
    expected = to_array(path, COLOUR)
    with path.open("ab") as file:
        file.write(image_folder.MAX_SCANS * b"\xff\xda\x00\x02")
    np.testing.assert_array_equal(to_array(path, COLOUR), expected)


@pytest.mark.parametrize("hidden", [b"\xff\xfe\x00\x04\xff\xd9", b"\xff\x01", b"\xff\xd0"])
def test_scans_are_counted_up_to_the_end_that_the_decoder_sees(tmp_path: Path, hidden: bytes) -> None:
    """Behind a comment that holds an end, and behind markers without a length."""
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, quality=95)
    scan = hidden + b"\xff\xda\x00\x02"
    path.write_bytes(path.read_bytes()[:-2] + image_folder.MAX_SCANS * scan + b"\xff\xd9")
    assert refusal(path) == "must have at most 100 scans; received 101"


def test_a_jpeg_of_many_segments_is_refused_soon(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-2] + 1_000_000 * b"\xff\xfe\x00\x02")
    assert refusal(path) == f"must have at most 100 scans; received {image_folder.MAX_SEGMENTS:,}"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16", "CMYK", "1"])
def test_a_large_picture_is_the_same_as_a_smaller_one(tmp_path: Path, mode: str) -> None:
    """Reduced a strip at a time, and turned as its EXIF data says."""
    small = Image.fromarray(np.kron(NOISE[:7, :9], np.ones((10, 10, 1), np.uint8)))
    if mode == "I;16":
        pictures = [Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)]
    else:
        pictures = [small.convert(mode)]
    pictures.append(pictures[0].resize((3600, 2800), Image.Resampling.NEAREST))
    exif = Image.Exif()
    exif[0x0112] = 6
    seen = []
    for number, picture in enumerate(pictures):
        path = tmp_path / f"{number}.{'tif' if mode == 'CMYK' else 'png'}"
        picture.save(path, exif=exif)
        with image_folder.opened(path) as turned:
            assert turned.width < turned.height < 3000
        seen.append(to_array(path, (36, 28, 3)).astype(int))
    assert np.abs(seen[0] - seen[1]).mean() < 2


WIDTH, RESOLUTION, SIDEWAYS = 0x0100, 0x011A, struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
ODD = {  # entries that Pillow reads, and cannot write
    "a fraction for a whole number": struct.pack("<HHIIII", WIDTH, 5, 1, 38, 7, 2),
    "text for a number": struct.pack("<HHI4s", RESOLUTION, 2, 3, b"72"),
    "below 0": struct.pack("<HHIIiI", RESOLUTION, 10, 1, 38, -72, 1),
}


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.png", "text.png"])
@pytest.mark.parametrize("entry", ODD)
def test_a_picture_is_turned_whatever_else_its_exif_data_say(tmp_path: Path, name: str, entry: str) -> None:
    entries = sorted([ODD[entry][:12], SIDEWAYS])
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + b"".join(entries) + bytes(4) + ODD[entry][12:]
    picture, path = Image.fromarray(NOISE[:20, :30]), tmp_path / name
    if name == "text.png":  # as ImageMagick writes it
        (text := PngInfo()).add_text("Raw profile type exif", f"\nexif\n{len(exif)}\n{exif.hex()}\n")
        picture.save(path, pnginfo=text)
    else:
        picture.save(path, exif=exif)
    with Image.open(path) as read, pytest.raises((ValueError, TypeError, struct.error)):
        ImageOps.exif_transpose(read)
    with image_folder.opened(path) as turned:
        assert turned.size == (20, 30)


def test_a_large_jpeg_is_reduced_while_it_is_unpacked(tmp_path: Path) -> None:
    small = Image.fromarray(np.kron(NOISE[:7, :9], np.ones((10, 10, 1), np.uint8)))
    small.save(tmp_path / "a.png")
    small.resize((3600, 2800), Image.Resampling.NEAREST).save(tmp_path / "b.jpg")
    seen = [to_array(tmp_path / name, (28, 36, 3)).astype(int) for name in ("a.png", "b.jpg")]
    assert np.abs(seen[0] - seen[1]).mean() < 5


@pytest.mark.parametrize("name", ["folder", "missing.png"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path / name).startswith("must be a whole picture; received: [Errno")


# --- folders of pictures ------------------------------------------------------------------------


def fill(folder: Path, content: dict[str, int]) -> None:
    """Grey pictures by path, each of one value."""
    for name, value in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image(value, "L").save(path)


def values(images: np.ndarray) -> list[int]:
    """The one value of each image."""
    assert (images == images[:, :1, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


TREE = {"cat/a.png": 10, "cat/b.jpg": 20, "dog/A.png": 30}


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_one_tree_has_no_test_part(tmp_path: Path, shape: image_folder.Shape) -> None:
    fill(tmp_path, TREE)
    names, parts = image_folder.read(tmp_path, shape)
    assert names == ["cat", "dog"]
    assert list(parts) == ["train", "test"]
    images, labels = parts["train"]
    assert images.shape == (3, *shape)
    assert images.dtype == labels.dtype == np.uint8
    assert values(images) == [10, 20, 30]
    assert labels.tolist() == [0, 0, 1]
    images, labels = parts["test"]
    assert images.shape == (0, *shape)
    assert labels.shape == (0,)
    assert images.dtype == labels.dtype == np.uint8


def test_train_and_test(tmp_path: Path) -> None:
    fill(tmp_path / "train", TREE)
    fill(tmp_path / "test", {"cat/z.png": 40, "dog/y.png": 50})
    names, parts = image_folder.read(tmp_path, GREY)
    assert names == ["cat", "dog"]
    assert values(parts["train"][0]) == [10, 20, 30]
    assert values(parts["test"][0]) == [40, 50]
    assert parts["test"][1].tolist() == [0, 1]


def test_a_class_without_test_pictures_keeps_the_labels_of_the_others(tmp_path: Path) -> None:
    fill(tmp_path / "train", {f"{name}/1.png": 10 for name in "abc"})
    fill(tmp_path / "test", {"b/1.png": 20, "c/1.png": 30})
    assert image_folder.read(tmp_path, GREY)[1]["test"][1].tolist() == [1, 2]


def test_train_without_test(tmp_path: Path) -> None:
    fill(tmp_path / "train", TREE)
    assert len(image_folder.read(tmp_path, GREY)[1]["test"][0]) == 0
    (tmp_path / "test").mkdir()
    assert len(image_folder.read(tmp_path, GREY)[1]["test"][0]) == 0


def test_a_name_that_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    for name, said in (("b\udcff", r"'b\\udcff'"), ("b\r", r"'b\\r'")):  # the byte 255; what Windows ends lines with
        for folder in ("a", name):
            (tmp_path / folder).mkdir(exist_ok=True)
        rule = "must hold folders with names in UTF-8 without \\\\r"
        with pytest.raises(InputError, match=f"{rule}; received {said}$"):
            image_folder.read(tmp_path, (8, 8, 1))
        (tmp_path / name).rmdir()


def test_rows_are_in_the_order_of_class_and_file_name(tmp_path: Path) -> None:
    """Whatever order they were written in, and the file system lists them in."""
    expected = [
        (label, name)
        for label in ("B", "a", "b", "ä")  # by code point: the same in every language
        for name in ("1.png", "10.png", "2.png", "Z.png", "a.png")
    ]
    order = np.random.default_rng(0).permutation(len(expected))
    fill(tmp_path, {"/".join(expected[place]): 10 * int(place) for place in order})
    names, parts = image_folder.read(tmp_path, GREY)
    assert names == ["B", "a", "b", "ä"]
    assert values(parts["train"][0]) == [10 * place for place in range(len(expected))]
    assert parts["train"][1].tolist() == [label for label in range(4) for _ in range(5)]


def test_hidden_names_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path / "train", TREE)
    fill(tmp_path / "test", {"cat/a.png": 40})
    for part in ("train", "test"):
        (tmp_path / part / ".cache").mkdir()
        (tmp_path / part / ".DS_Store").write_text("no picture")
        (tmp_path / part / "cat" / ".DS_Store").write_text("no picture")
        (tmp_path / part / "cat" / ".thumbnails").mkdir()
    names, parts = image_folder.read(tmp_path, GREY)
    assert names == ["cat", "dog"]
    assert values(parts["train"][0]) == [10, 20, 30]
    assert values(parts["test"][0]) == [40]


def test_files_beside_the_classes_are_no_classes(tmp_path: Path) -> None:
    """data/input/README.md is always there; DVC writes NAME.dvc beside what it tracks."""
    fill(tmp_path, TREE)
    (tmp_path / "README.md").write_text("")
    (tmp_path / "cat.dvc").write_text("")
    assert image_folder.read(tmp_path, GREY)[0] == ["cat", "dog"]


def test_labels_are_bytes(tmp_path: Path) -> None:
    fill(tmp_path, {f"{number:03}/1.png": 10 for number in range(256)})
    assert image_folder.read(tmp_path, GREY)[1]["train"][1].tolist() == list(range(256))
    fill(tmp_path, {"256/1.png": 10})
    assert folder_refusal(tmp_path) == "must hold 2 to 256 folders, one a class; received 257"


def folder_refusal(folder: Path, where: str = "") -> str:
    with pytest.raises(InputError) as caught:
        image_folder.read(folder, GREY)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{folder / where} must ")
    return message.removeprefix(f"{folder / where} ")


@pytest.mark.parametrize(
    ("files", "folders", "where", "message"),
    [
        pytest.param(
            {"test/cat/1.png": 1, "test/dog/1.png": 1},
            (),
            "",
            "must hold train/ beside test/; received test/ alone",
            id="test alone",
        ),
        pytest.param({}, (), "", "must hold 2 to 256 folders, one a class; received 0", id="no classes"),
        pytest.param({"cat/1.png": 1}, (), "", "must hold 2 to 256 folders, one a class; received 1", id="one class"),
        pytest.param(
            {"a.png": 1, "b.png": 2},
            (),
            "",
            "must hold 2 to 256 folders, one a class; received 0",
            id="pictures without classes",
        ),
        pytest.param(
            {"test/cat/1.png": 1},
            ("train",),
            "train",
            "must hold 2 to 256 folders, one a class; received 0",
            id="no classes in train",
        ),
        pytest.param(TREE, ("owl",), "owl", "must hold at least one picture; received none", id="empty class"),
        pytest.param(
            {f"train/{name}": 1 for name in TREE},
            ("test/dog",),
            "test/dog",
            "must hold at least one picture; received none",
            id="empty class in test",
        ),
        pytest.param(
            {f"train/{name}": 1 for name in TREE},
            ("test/pig", "test/owl", "test/cat"),
            "test",
            "must hold folders of the classes in {folder}/train alone; received owl",
            id="class in test alone",
        ),
        pytest.param(
            TREE,
            ("cat/kitten",),
            "cat/kitten",
            "must be a whole picture; received: [Errno 21] Is a directory: '{folder}/cat/kitten'",
            id="folder in a class",
        ),
    ],
)
def test_a_wrong_tree_is_refused(
    tmp_path: Path, files: dict[str, int], folders: tuple[str, ...], where: str, message: str
) -> None:
    fill(tmp_path, files)
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    assert folder_refusal(tmp_path, where) == message.format(folder=tmp_path)


def test_a_file_of_test_with_the_name_of_a_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {f"train/{name}": 1 for name in TREE} | {"test/cat/a.png": 1})
    (tmp_path / "test/dog").write_text("no folder")
    assert folder_refusal(tmp_path, "test").endswith("; received dog")


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_wrong_file_among_others_is_named(tmp_path: Path, part: str) -> None:
    fill(tmp_path / "train", TREE)
    fill(tmp_path / "test", TREE)
    (tmp_path / part / "dog" / "notes.txt").write_text("no picture")
    assert folder_refusal(tmp_path, f"{part}/dog/notes.txt") == (
        "must be a picture that Pillow reads; received something else"
    )


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    folder_refusal(tmp_path / "missing")


@pytest.mark.parametrize(
    ("form", "options", "limit"),
    [
        ("PNG", {}, r"up to (\d+) million pixels"),
        ("JPEG", {}, r"JPEG (\d+) million"),
        ("JPEG", {"progressive": True}, r"progressive (\d+)"),
        ("TIFF", {}, r"TIFF in one strip (\d+)"),
        ("WEBP", {}, r"WebP (\d+)"),
    ],
)
def test_the_largest_pictures_are_those_of_the_page(form: str, options: dict[str, Any], limit: str) -> None:
    found = re.search(limit, (ROOT / "docs/model.md").read_text("utf-8"))
    assert found
    for millions, is_read in ((int(found[1]), True), (int(found[1]) + 1, False)):
        image((0, 0, 0), "RGB", (4000, 250 * millions)).save(file := io.BytesIO(), form, **options)
        end = nullcontext() if is_read else pytest.raises(InputError, match=r"must take at most 150,000,000 bytes")
        with end, image_folder.opened(file, "a picture"):
            pass
