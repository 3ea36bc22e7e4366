"""The readers of CSV files and pictures get any bytes: the right value, or one line. Nothing else.

About 200 examples; FUZZ_EXAMPLES=10000 tries 4,000. The same in each run.
"""

import csv
import io
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from common import image_folder, kaggle_csv
from common.errors import InputError

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from inference import pictures

TESTS = 6  # in this file, each with its share of the examples
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "500")) * 2 // 5 // TESTS,
    derandomize=True,  # a check that fails by chance is soon ignored
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # speed is the machine's, not the code's
)

# What Pillow prints about odd input is not under test.
pytestmark = pytest.mark.filterwarnings("ignore")

MAX_PIXELS = 1_000_000
MAX_KIB = 300_000  # that all the examples together may add to the peak of the memory
MAX_SECONDS = 60  # for one example; a reader that hangs takes for ever


class Hangs(BaseException):
    """Not an Exception: the readers catch those of the libraries below."""


def value_or_refusal(read: Callable[[], Any]) -> Any:
    """What `read` returns; None if it refuses, properly."""
    signal.alarm(MAX_SECONDS)
    try:
        return read()
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return None
    finally:
        signal.alarm(0)


@pytest.fixture(scope="module", autouse=True)
def limits() -> Iterator[None]:
    """Fails where an example hangs, or where all of them took much memory."""

    def hangs(number: int, frame: FrameType | None) -> None:
        raise Hangs

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, hangs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS // 2)
        yield
    signal.signal(signal.SIGALRM, old)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_KIB


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


# --- csv ----------------------------------------------------------------------------------------

HEADER = ",".join(kaggle_csv.COLUMNS).encode()
ROWS = [[str(label), *(str((label + place) % 256) for place in range(784))] for label in range(3)]


def joined(rows: list[list[str]]) -> bytes:
    return b"\n".join([HEADER, *(",".join(cells).encode() for cells in rows), b""])


def read_csv(path: Path, content: bytes) -> bool:
    """Whether the file is accepted; holds what is read against the standard library."""
    path.write_bytes(content)
    part = value_or_refusal(lambda: kaggle_csv.read(path))
    if part is None:
        return False
    images, labels = part
    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == (len(labels), 28, 28, 1)
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    assert header == kaggle_csv.COLUMNS
    # without blank lines; NumPy takes as a space what Unicode does, `int` less of it
    expected = [[int(cell.strip()) for cell in cells] for cells in rows if cells]
    assert [[label, *image.flat] for image, label in zip(images, labels, strict=True)] == expected
    return True


def test_the_valid_file_is_accepted(path: Path) -> None:
    assert read_csv(path, joined(ROWS))


@fuzz
@given(st.binary())
def test_csv_of_random_bytes(path: Path, content: bytes) -> None:
    assert not read_csv(path, content)


odd = st.text(st.sampled_from("0123456789+-.eE_x \t,;\"'\r\n\0#é\u2028٣"), max_size=30)


@fuzz
@given(st.sampled_from(["", "\n", "\r\n", ",", '"']), odd | st.text())
def test_csv_of_random_text_below_the_header(path: Path, start: str, text: str) -> None:
    accepted = read_csv(path, HEADER + (start + text).encode("utf-8", "surrogatepass"))
    assert accepted <= (not (start + text).strip("\r\n"))  # blank lines hold no image


cells = (
    odd
    | st.integers(-(2**65), 2**65).map(str)
    | st.integers(0, 9).map(lambda number: f'"{number}"')
    | st.floats().map(str)
    | st.sampled_from(["", "nan", "inf", "NA", "True", "1_0", "0x1", "1e1", " 7", "+7", '7"'])
)


@fuzz
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 784), cells), min_size=1, max_size=3), st.booleans())
def test_csv_with_odd_cells(path: Path, changes: list[tuple[int, int, str]], everywhere: bool) -> None:
    rows = [row.copy() for row in ROWS]
    for line, column, cell in changes:
        for number in range(3) if everywhere else [line]:  # pandas may give the column another type
            rows[number][column] = cell
    read_csv(path, joined(rows))


@fuzz
@given(st.integers(0, 1_000_000), st.integers(0, 255) | st.sampled_from(b'0123456789,.-+eE "\r\n'))
def test_csv_with_another_byte(path: Path, place: int, byte: int) -> None:
    content = bytearray(joined(ROWS))
    # As often in the header as in the rows, which are shorter.
    start = 0 if place % 2 else len(HEADER)
    content[start + place // 2 % (len(content) - start)] = byte
    read_csv(path, bytes(content))


# --- pictures -----------------------------------------------------------------------------------


def encoded(form: str, mode: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


PICTURES = {
    f"{form} {mode}": encoded(form, mode)
    for form, modes in {
        "PNG": ("L", "RGB", "RGBA", "P", "1", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "GIF": ("L", "RGB"),
        "BMP": ("1", "P", "RGB"),
        "TIFF": ("L", "RGBA", "I;16"),
        "WEBP": ("RGB", "RGBA"),
    }.items()
    for mode in modes
}
shapes = st.sampled_from([(8, 8, 1), (28, 20, 3)])


def read_picture(path: Path, content: bytes, shape: image_folder.Shape) -> bool:
    path.write_bytes(content)
    array = value_or_refusal(lambda: pictures.read(path, "fitted", shape))
    assert array is None or (array.shape, array.dtype) == (shape, np.uint8)
    return array is not None


@pytest.mark.parametrize("content", PICTURES.values(), ids=PICTURES)
def test_the_valid_pictures_are_accepted(path: Path, content: bytes) -> None:
    assert read_picture(path, content, (8, 8, 3))


starts = st.sampled_from([b"", *(content[:size] for content in PICTURES.values() for size in (8, 40))])


@fuzz
@given(starts, st.binary(), shapes)
def test_pictures_of_random_bytes(path: Path, start: bytes, tail: bytes, shape: image_folder.Shape) -> None:
    read_picture(path, start + tail, shape)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A picture with up to four places cut out, inserted or overwritten, half of them in front."""
    content = bytearray(draw(st.sampled_from(list(PICTURES.values()))))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, 60) | st.integers(0, len(content)))
        end = draw(st.sampled_from([start, start + 1, start + 2, start + 4, len(content)]))
        size = draw(st.sampled_from([0, 1, 2, 4, 8]))
        content[start:end] = draw(st.binary(min_size=size, max_size=size))
    return bytes(content)


@fuzz
@given(mutated(), shapes)
def test_mutated_pictures(path: Path, content: bytes, shape: image_folder.Shape) -> None:
    read_picture(path, content, shape)
