import re
import subprocess
import warnings
from pathlib import Path

from common import kaggle_csv
from common.errors import InputError

import numpy as np
import pytest

from conftest import ROOT, write_csv

HEADER = ",".join(kaggle_csv.COLUMNS)
ROW = ["3", *["1"] * 784]


def row(label: str = "3", cell: str = "1", last: str = "1") -> str:
    cells = ROW.copy()
    cells[0], cells[400], cells[784] = label, cell, last
    return ",".join(cells)


def csv(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def refusal(path: Path, content: str | bytes) -> str:
    """What is said about a file of this content: one line, without the path that begins it."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # parsers may only warn where they leave something out
        with pytest.raises(InputError) as caught:
            kaggle_csv.read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path} must ")
    return message.removeprefix(f"{path} ")


def refused_at(message: str) -> int:
    """The line that a message about the form of a row names."""
    assert message.startswith("must hold 785 integers 0 to 255 a row; received in line ")
    found = re.search(r"\bline (\d+)\b", message)
    assert found, message
    return int(found[1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.csv"


def random_part(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 28, 28, 1), np.uint8)
    return images, generator.integers(0, 10, count).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2])
def test_round_trip(path: Path, count: int) -> None:
    images, labels = random_part(count)
    write_csv(path, images, labels)
    read_images, read_labels = kaggle_csv.read(path)
    np.testing.assert_array_equal(read_images, images, strict=True)
    np.testing.assert_array_equal(read_labels, labels, strict=True)


def test_the_form_is_kaggles(path: Path) -> None:
    image = np.arange(784).reshape(1, 28, 28, 1) % 256  # row by row from the top left
    write_csv(path, image.astype(np.uint8), np.array([9], np.uint8))
    header, line, end = path.read_text().split("\n")
    assert header == "label," + ",".join(f"pixel{number}" for number in range(1, 785))
    assert line == "9," + ",".join(str(number % 256) for number in range(784))
    assert end == ""


PLAIN = csv(row("0", "255", "7"), row("9", "0", "0"))
QUOTED_HEADER = re.sub(r"[^,]+", r'"\g<0>"', HEADER)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PLAIN.encode(), id="plain"),
        pytest.param(PLAIN.encode("utf-8-sig"), id="byte order mark"),
        pytest.param(PLAIN.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(PLAIN.removesuffix("\n").encode(), id="no final newline"),
        pytest.param(PLAIN.replace(HEADER, QUOTED_HEADER).encode(), id="quoted header, as R writes it"),
        pytest.param(re.sub(r"[^,\n]+", r'"\g<0>"', PLAIN).encode(), id="all quoted"),
        pytest.param(re.sub(r"[^,\n]+", r'"\g<0>"', PLAIN).replace("\n", "\r\n").encode(), id="all quoted, CRLF"),
        pytest.param(
            PLAIN.replace(HEADER, QUOTED_HEADER).replace("\n", "\r\n").encode("utf-8-sig"),
            id="quoted header, CRLF, byte order mark",
        ),
        pytest.param(PLAIN.replace("\n", "\r").encode(), id="CR"),
        pytest.param(PLAIN.replace("\n", "\n\n").encode(), id="blank lines"),
        # Signs, zeros and spaces around an integer leave no doubt about its value.
        pytest.param(csv(row("0", " +255 ", "007"), row("9", "+0", "00")).encode(), id="odd digits"),
    ],
)
def test_other_ways_to_write_the_same(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    images, labels = kaggle_csv.read(path)
    expected = np.ones((2, 28, 28, 1), np.uint8)
    expected[0].flat[[399, 783]] = 255, 7
    expected[1].flat[[399, 783]] = 0, 0
    np.testing.assert_array_equal(images, expected, strict=True)
    np.testing.assert_array_equal(labels, np.array([0, 9], np.uint8), strict=True)


COLUMNS = kaggle_csv.COLUMNS


@pytest.mark.parametrize(
    ("header", "received"),
    [
        pytest.param(",".join(COLUMNS[:-1]), "None as column 785 of 784", id="column missing"),
        pytest.param(f"{HEADER},pixel785", "'pixel785' as column 786 of 786", id="column too many"),
        pytest.param(f",{HEADER}", "'' as column 1 of 786", id="index column of pandas"),
        pytest.param(",".join([*COLUMNS[:-1], "pixel783"]), "'pixel783' as column 785 of 785", id="column doubled"),
        pytest.param(HEADER.replace("pixel5,", "pix5,"), "'pix5' as column 6 of 785", id="column renamed"),
        pytest.param(",".join([*COLUMNS[1:], "label"]), "'pixel1' as column 1 of 785", id="columns reordered"),
        pytest.param(HEADER.upper(), "'LABEL' as column 1 of 785", id="capitals"),
        pytest.param(
            HEADER.replace(",", ";"), "'label;pixel1;pixel2;pixel3;pixel4;pixel… as column 1 of 1", id="semicolons"
        ),
        pytest.param("", "None as column 1 of 0", id="blank first line"),
        pytest.param(row(), "'3' as column 1 of 785", id="no header"),
        pytest.param("x" * 1_000_000, f"'{'x' * 39}… as column 1 of 1", id="one long word"),
        pytest.param("la\0bel", r"'la\x00bel' as column 1 of 1", id="NUL"),
    ],
)
def test_a_wrong_header_is_refused(path: Path, header: str, received: str) -> None:
    assert refusal(path, csv(row(), header=header)) == (
        f"must begin with the header label,pixel1,…,pixel784, separated by commas; received {received}"
    )


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xef\xbb\xbf", id="byte order mark alone"),
        pytest.param(PLAIN.encode("utf-16"), id="UTF-16"),
        pytest.param(PLAIN.replace("label", "läbel").encode("latin-1"), id="Latin-1"),
        pytest.param(b"\x1f\x8b\x08\0", id="gzip"),
    ],
)
def test_a_file_without_a_header_in_utf8_is_refused(path: Path, content: bytes) -> None:
    assert refusal(path, content).startswith("must begin with the header label,pixel1,…,pixel784")


def test_a_latin1_byte_in_a_cell_is_refused_with_its_line(path: Path) -> None:
    message = refusal(path, csv(row(), row(cell="é"), row()).encode("latin-1"))
    assert refused_at(message) == 3


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_header_alone_is_a_file_without_rows(path: Path, end: str) -> None:
    path.write_text(HEADER + end)
    images, labels = kaggle_csv.read(path)
    assert (images.shape, labels.shape) == ((0, 28, 28, 1), (0,))


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError) as caught:
        kaggle_csv.read(path)
    why = "Is a directory" if name == "." else "No such file or directory"
    assert str(caught.value) == f"{path} must be a readable file; received: {why}"


@pytest.mark.parametrize("label", ["-1", "256", "259"])  # the last two: 0 and 3 as uint8
def test_a_label_that_is_no_byte_is_refused(path: Path, label: str) -> None:
    assert refused_at(refusal(path, csv(row(), row(label), row()))) == 3


WRONG_CELLS = [
    *("256", "-1", str(2**63 - 1), str(-(2**63))),
    *("text", "", '""', "  ", "3.5", ".5", "3.0", "5.", "1e2", "1E2", "1e-400", "0x1f", "1_000"),
    *("nan", "NaN", "NA", "None", "inf", "-inf", "True", "false", "+", "-", "1 2", "1;2", "1|2"),
    *("'5'", '""', '"5""', '1"2', '1"2"', "1L", "#", "٣", "１", "é", "\0", "12\0", "\x001", "\x1a"),
    *(str(10**30), str(-(10**30)), str(2**63), str(2**64), "9" * 400),
]


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("cell", WRONG_CELLS)
def test_a_cell_that_is_no_integer_from_0_to_255_is_refused(path: Path, cell: str, everywhere: bool) -> None:
    other = row(cell=cell) if everywhere else row()
    line = 2 if everywhere else 3
    message = refusal(path, csv(other, row(cell=cell), other))
    assert refused_at(message) == line
    assert message.endswith(" to uint8, column 401.")


@pytest.mark.parametrize("value", ["text", "3.5", "3.0", "", "True"])
def test_the_first_wrong_cell_is_named(path: Path, value: str) -> None:
    """In the order of reading: by line, then by column; and labels are cells too."""
    message = refusal(path, csv(row(), row(), row(value, value), row(value, "x", "x")))
    assert refused_at(message) == 4
    assert message.endswith(", column 1.")


@pytest.mark.parametrize(
    ("cell", "received"),
    [
        ("text", "'text'"),
        ("3.5", "'3.5'"),
        ("256", "'256'"),
        ("", "''"),
        ("x" * 1000, f"'{'x' * 99}"),
        ("\0", r"'\x00'"),
        (str(10**30), f"'{10**30}'"),
    ],
)
def test_the_cell_is_shown(path: Path, cell: str, received: str) -> None:
    assert refusal(path, csv(row(), row(cell=cell), row())) == (
        "must hold 785 integers 0 to 255 a row; "
        f"received in line 3: could not convert string {received} to uint8, column 401."
    )


SHORT = ",".join(ROW[:-1])


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        pytest.param((SHORT, row(), row()), 2, id="short, first"),
        pytest.param((row(), SHORT, row()), 3, id="short, middle"),
        pytest.param((row(), row(), SHORT), 4, id="short, last"),
        pytest.param((SHORT, SHORT), 2, id="short, all"),
        pytest.param((row(), "", SHORT), 4, id="short, below a blank line"),
        pytest.param((row(), "  ", row()), 3, id="spaces"),
        pytest.param((row(), row().replace(",", ";"), row()), 3, id="semicolons"),
        pytest.param((row(), HEADER, row()), 3, id="header once more"),
    ],
)
def test_a_row_without_785_values_is_refused(path: Path, rows: tuple[str, ...], line: int) -> None:
    assert refused_at(refusal(path, csv(*rows))) == line


@pytest.mark.parametrize("more", [",5", ",", ",x,,"])
@pytest.mark.parametrize(
    ("lengths", "line"),
    [
        pytest.param((True, False, False, False), 2, id="first"),
        pytest.param((False, True, False, False), 3, id="second"),
        pytest.param((False, False, True, False), 4, id="third"),
        pytest.param((False, False, False, True), 5, id="last"),
        pytest.param((True, True, True, True), 2, id="all"),
        pytest.param((True,), 2, id="only"),
    ],
)
def test_a_row_that_is_too_long_is_refused(path: Path, more: str, lengths: tuple[bool, ...], line: int) -> None:
    message = refusal(path, csv(*(row() + more * too_long for too_long in lengths)))
    assert refused_at(message) == line


@pytest.mark.parametrize("changes", [{"cell": "x"}, {"cell": ""}, {"cell": "256"}, {"last": "-1"}])
@pytest.mark.parametrize("line", [2, 4, 5, 8])
def test_the_line_is_right_everywhere(path: Path, changes: dict[str, str], line: int) -> None:
    rows = [row() for _ in range(7)]
    rows[line - 2] = row(**changes)
    assert refused_at(refusal(path, csv(*rows))) == line


@pytest.mark.parametrize("line", [2, 3, 4, 5])
def test_an_unbalanced_quote_is_refused_with_its_line(path: Path, line: int) -> None:
    rows = [row() for _ in range(4)]
    rows[line - 2] = row(cell='"1')
    assert refused_at(refusal(path, csv(*rows))) == line


def test_an_unbalanced_quote_in_the_header_swallows_no_rows(path: Path) -> None:
    header = HEADER.replace("pixel784", '"pixel784')
    quoted = re.sub(r"[^,]+", r'"\g<0>"', row())
    message = refusal(path, csv(row(), quoted, row(), header=header))
    assert message.startswith("must begin with the header label,pixel1,…,pixel784")


@pytest.mark.parametrize("count", [1, 1000, 1_000_000])
def test_nul_bytes_are_refused(path: Path, count: int) -> None:
    assert refusal(path, bytes(count)).startswith("must begin with the header ")
    message = refusal(path, csv(row()).encode() + bytes(count))
    assert refused_at(message) == 3
    assert len(message) < 1000


READ_ALL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from common import kaggle_csv
for part, rows in (("train", 60_000), ("test", 10_000)):
    images, labels = kaggle_csv.read(Path(f"{part}.csv"))
    saved = np.load(f"{part}.npz")
    assert (images == saved["images"]).all() and (labels == saved["labels"]).all()
    assert images.shape == (rows, 28, 28, 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # in KiB
"""


@pytest.mark.slow
def test_as_many_rows_as_kaggle_has_are_read_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for part, rows in (("train", 60_000), ("test", 10_000)):
        images, labels = random_part(rows // 10)
        write_csv(path := Path(f"{part}.csv"), images, labels)
        rows_of_it = path.read_text().partition("\n")[2]
        with path.open("a") as file:  # bit by bit: the memory of this process would count as the reader's
            for _ in range(9):
                file.write(rows_of_it)
        np.savez(f"{part}.npz", images=np.tile(images, (10, 1, 1, 1)), labels=np.tile(labels, 10))
    command = ["python", "-c", READ_ALL, str(ROOT / "src")]
    peak = int(subprocess.check_output(command, text=True))
    assert peak < 1_500_000
