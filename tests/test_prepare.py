import gzip
import json
import os
import re
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from common import arrays, classes, idx, release
from common.errors import InputError

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

import prepare
from analysis import figures
from conftest import ROOT, TINY, with_forks, write_csv, write_params

COUNTS = {"train": 30, "test": 12}
PREFIX = {"train": "train", "test": "t10k"}
INPUT, RAW = Path("data/input"), Path("data/raw")
Parts = dict[str, tuple[np.ndarray, np.ndarray]]

FOLDER = {"data.source": "folder", "data.height": 40, "data.width": 40, "data.channels": 3}
WITHOUT_TEST = {"evaluate.parts": ["val"]}


def random_parts(height: int = 28, width: int = 28) -> Parts:
    """Images (N, H, W) and labels (N,)."""
    generator = np.random.default_rng(0)
    return {
        part: (
            generator.integers(0, 256, (count, height, width), np.uint8),
            generator.permutation(np.arange(count, dtype=np.uint8) % 10),
        )
        for part, count in COUNTS.items()
    }


def write_idx(folder: Path, parts: Parts, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, pair in parts.items():
        for kind, array in zip(("images-idx3", "labels-idx1"), pair, strict=True):
            content = idx.encode(array)
            name = f"{PREFIX[part]}-{kind}-ubyte{'.gz' * packed}"
            (folder / name).write_bytes(gzip.compress(content) if packed else content)


def write_both_csv(parts: Parts) -> None:
    INPUT.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in parts.items():
        write_csv(INPUT / f"fashion-mnist_{part}.csv", images, labels)


def draw_folder(folder: Path, names: list[str], count: int = 3) -> None:
    """Pictures of all sizes on black, a colour and a number of corners for each class."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            width, height = (int(side) for side in generator.integers(20, 90, 2))
            picture = Image.new("RGB", (width, height))
            ImageDraw.Draw(picture).regular_polygon(
                (width / 2, height / 2, min(width, height) / 2.5),
                3 + label,
                int(generator.integers(360)),
                fill=(255 - 30 * label, 30 * label, 128),
            )
            suffix = "jpg" if number % 2 else "png"
            picture.save(folder / name / f"{number}.{suffix}", quality=95, subsampling=0)


def use(changes: dict[str, Any]) -> None:
    write_params(Path(), {**TINY, **changes})


def everything() -> dict[str, bytes | None]:
    """The working directory by path, without the lock of the stages; None for a folder."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in Path().rglob("*")
        if path.parts[0] != ".cache"
    }


def outputs() -> dict[str, bytes]:
    written = ("data/prepared/", "metrics/", "plots/")
    return {path: content for path, content in everything().items() if path.startswith(written) and content is not None}


def run(changes: dict[str, Any]) -> dict[str, bytes]:
    use(changes)
    prepare.main()
    return outputs()


def refusal(changes: dict[str, Any]) -> str:
    """What prepare says: one line, and nothing in the working directory changes."""
    use(changes)
    before = everything()
    with pytest.raises(InputError) as caught:
        prepare.main()
    assert everything() == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def script(environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = ["python", str(ROOT / "src/prepare.py")]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time; the tests that look at them do without this."""
    for name in ("titled", "class_means", "class_counts"):
        monkeypatch.setattr(figures, name, lambda *_, **__: None)


# --- one result, whatever the source ------------------------------------------------------------


def test_all_sources_of_the_same_images_give_the_same_bytes(workspace: Path) -> None:
    parts = random_parts()
    write_both_csv(parts)
    expected = run({"data.source": "csv"})
    assert sorted(expected) == [
        "data/prepared/classes.json",
        "data/prepared/near_duplicates.npy",
        "data/prepared/source.json",
        "data/prepared/test/images.npy",
        "data/prepared/test/labels.npy",
        "data/prepared/train/images.npy",
        "data/prepared/train/labels.npy",
        "metrics/data/classes.csv",
        "metrics/data/duplicates.csv",
        "metrics/data/test_rows.csv",
        "metrics/data/train_rows.csv",
        "plots/data/class_counts.png",
        "plots/data/class_means.png",
        "plots/data/first_images.png",
    ]
    for part, (images, labels) in parts.items():
        loaded_images, loaded_labels = arrays.load(part)
        np.testing.assert_array_equal(loaded_images, images[..., None], strict=True)
        np.testing.assert_array_equal(loaded_labels, labels, strict=True)
        rows = pd.read_csv(f"metrics/data/{part}_rows.csv", dtype={"image": str})
        assert rows["image"].tolist() == release.short(release.hashes(images))
        assert rows["label"].tolist() == labels.tolist()
    assert json.loads(expected["data/prepared/classes.json"]) == list(classes.FASHION_MNIST)

    write_idx(INPUT, parts)
    (INPUT / "classes.txt").write_text("\n".join(classes.FASHION_MNIST))
    write_idx(RAW, parts, packed=True)
    for source in ("idx", "synthetic"):
        found = run({"data.source": source})
        assert json.loads(found.pop("data/prepared/source.json")) == {"source": source, "release": "unknown"}
        assert found == {path: content for path, content in expected.items() if not path.endswith("source.json")}


def test_images_are_drawn_with_their_own_classes(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titled, means = Mock(), Mock()
    for name, drawn in (("titled", titled), ("class_means", means), ("class_counts", Mock())):
        monkeypatch.setattr(figures, name, drawn)
    write_both_csv(random_parts())
    run({"data.source": "csv"})
    images, labels = arrays.load("train")
    np.testing.assert_array_equal(titled.call_args.args[0], images[:9])
    assert titled.call_args.args[1] == [classes.FASHION_MNIST[label] for label in labels[:9]]
    np.testing.assert_array_equal(means.call_args.args[0], images)
    np.testing.assert_array_equal(means.call_args.args[1], labels)


def test_a_second_run_gives_the_same_bytes_in_another_process(workspace: Path) -> None:
    names = [f"shape {number}" for number in range(3)]
    draw_folder(INPUT / "train", names)
    draw_folder(INPUT / "test", names, count=1)
    expected = run(FOLDER)
    done = script()
    assert (done.returncode, done.stderr) == (0, "")
    assert outputs() == expected
    assert sum(path.endswith(".png") for path in expected) == 3


def test_remains_of_another_run_disappear(workspace: Path, no_figures: None) -> None:
    write_both_csv(random_parts())
    remains = ("data/prepared/train", "data/prepared/test", "metrics/data", "plots/data")
    for folder in map(Path, remains):
        folder.mkdir(parents=True)
        (folder / "old").write_text("old")
    assert not any(path.endswith("old") for path in run({"data.source": "csv"}))
    assert not [path for path in everything() if "/." in path]  # nor a half-written folder


@pytest.mark.parametrize("packed", ["none", "all", "labels", "both"])
def test_idx_files_packed_or_not(workspace: Path, no_figures: None, packed: str) -> None:
    parts = random_parts()
    if packed == "both":  # the unpacked ones count
        write_idx(INPUT, {part: (images * 0, labels) for part, (images, labels) in parts.items()}, True)
    write_idx(INPUT, parts, packed == "all")
    if packed == "labels":
        for path in INPUT.glob("*labels*"):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    run({"data.source": "idx"})
    for part, (images, labels) in parts.items():
        np.testing.assert_array_equal(arrays.load(part)[0], images[..., None], strict=True)
        np.testing.assert_array_equal(arrays.load(part)[1], labels, strict=True)


def test_idx_images_of_another_size(workspace: Path, no_figures: None) -> None:
    write_idx(INPUT, random_parts(12, 20))
    run({"data.source": "idx", "data.height": 12, "data.width": 20})
    assert arrays.load("train")[0].shape == (30, 12, 20, 1)


def test_fashion_mnist_is_read_from_raw_and_has_its_own_class_names(workspace: Path, no_figures: None) -> None:
    write_idx(RAW, random_parts())
    INPUT.mkdir()
    (INPUT / "classes.txt").write_text("a\nb\n")  # for data.source: idx
    written = run({"data.source": "fashion-mnist"})
    assert json.loads(written["data/prepared/classes.json"]) == list(classes.FASHION_MNIST)


def test_a_folder_of_seven_classes_in_colour(workspace: Path) -> None:
    names = [f"{corners} corners" for corners in range(3, 10)]
    draw_folder(INPUT / "train", names, count=4)
    draw_folder(INPUT / "test", names, count=2)
    written = run(FOLDER)
    assert json.loads(written["data/prepared/classes.json"]) == names
    for part, count in (("train", 4), ("test", 2)):
        images, labels = arrays.load(part)
        assert images.shape == (7 * count, 40, 40, 3)
        assert labels.tolist() == [label for label in range(7) for _ in range(count)]
        colours = images[:, 20, 20].astype(int)  # the middle of each: inside the polygon
        drawn = [(255 - 30 * label, 30 * label, 128) for label in labels.tolist()]
        assert abs(colours - drawn).max() < 6  # JPEG
    table = pd.read_csv("metrics/data/classes.csv")
    assert table["class"].tolist() == ["all", *names] * 2
    assert table["images"].tolist() == [28, *[4] * 7, 14, *[2] * 7]


def test_one_tree_goes_without_test(workspace: Path) -> None:
    draw_folder(INPUT, ["a", "b"])
    run({**FOLDER, **WITHOUT_TEST})
    assert arrays.load("train")[0].shape == (6, 40, 40, 3)
    assert arrays.load("test")[0].shape == (0, 40, 40, 3)
    assert arrays.load("test")[1].shape == (0,)
    table = pd.read_csv("metrics/data/classes.csv").set_index(["part", "class"])
    assert table.loc["test", "images"].tolist() == [0, 0, 0]
    assert table.loc["test", "pixel_mean"].isna().all()
    copies = pd.read_csv("metrics/data/duplicates.csv")
    assert copies["images"].tolist() == [0] * 6


def test_sizes_and_lost_colours_are_said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(INPUT, ["a", "b"])
    Image.new("RGB", (30, 500), (90, 90, 90)).save(INPUT / "a/grey.png")
    grey = {"data.height": 28, "data.width": 28, "data.channels": 1}
    run({**FOLDER, **WITHOUT_TEST, **grey})
    said = capsys.readouterr().out
    assert re.search(
        r"data/input: 7 pictures with edges of \d\d to 500 pixels, brought to 28 × 28 \(data\.height, ", said
    )
    assert "data/input: 6 pictures are in colour and become grey (data.channels: 3 keeps the colour)\n" in said
    run({**FOLDER, **WITHOUT_TEST})
    assert "become grey" not in capsys.readouterr().out


def test_unequal_classes_are_counted(workspace: Path, no_figures: None, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(INPUT, ["a"], count=7)
    draw_folder(INPUT, ["b"], count=4)
    run({**FOLDER, **WITHOUT_TEST})
    assert "unequal" not in capsys.readouterr().out
    draw_folder(INPUT, ["c"], count=3)
    run({**FOLDER, **WITHOUT_TEST})
    assert "classes are unequal, from 3 to 7 images: macro figures come first\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "names", "unread"),
    [
        ("folder", ["val/a/0.png", "notes.txt", "train.dvc", "README.md", ".gitignore"], "notes.txt, val/"),
        (
            "folder",
            [".DS_Store", "train/a/._0.png", "train/.x/0.png", "train/.gitignore"],
            ".DS_Store, 2 hidden files in folders",
        ),
        ("idx", ["classes.txt", "extra.png", "train-images-idx3-ubyte.gz"], "extra.png"),
        ("csv", ["fashion-mnist_val.csv", "train/a/0.png"], "fashion-mnist_val.csv, train/"),
        ("csv", ["README.md/0", "x.csv"], "README.md/, x.csv"),
        ("folder", ["test", "x.dvc/0.png", "train.dvc"], "test, x.dvc/"),
        ("csv", [], ""),
    ],
)
def test_what_is_not_read_is_named(
    workspace: Path, no_figures: None, capsys: pytest.CaptureFixture[str], source: str, names: list[str], unread: str
) -> None:
    write = {"folder": lambda: draw_folder(INPUT / "train", list("ab")), "csv": lambda: write_both_csv(random_parts())}
    write.get(source, lambda: write_idx(INPUT, random_parts()))()
    for name in names:
        (INPUT / name).parent.mkdir(parents=True, exist_ok=True)
        (INPUT / name).write_text("\n".join(map(str, range(10))))
    run({**(FOLDER if source == "folder" else {}), "data.source": source})
    warnings = [line for line in capsys.readouterr().err.splitlines() if "not read" in line]
    assert warnings == ([f"warning: not read in data/input: {unread}"] if unread else [])


def test_a_folder_that_dvc_tracks_as_a_whole_is_refused(workspace: Path) -> None:
    draw_folder(INPUT / "train", ["a", "b"])
    Path("data/input.dvc").write_text("outs: []\n")
    rule = "data/input must be tracked by what is in it (dvc add data/input/NAME)"
    assert refusal(FOLDER | WITHOUT_TEST) == f"{rule}; received data/input.dvc"


def test_files_beside_one_tree_are_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(INPUT, ["a", "b"])
    (INPUT / "c.png").write_text("")
    run({**FOLDER, **WITHOUT_TEST})
    assert "warning: not read in data/input: c.png\n" in capsys.readouterr().err


def test_a_class_of_any_name_is_read(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_folder(INPUT, ["a", "two\nlines", "c.d"])
    run({**FOLDER, **WITHOUT_TEST})
    assert "not read" not in capsys.readouterr().err


@pytest.mark.parametrize("source", ["csv", "idx", "folder"])
def test_a_pipe_is_refused_before_it_is_read(workspace: Path, source: str) -> None:
    INPUT.mkdir(parents=True)
    path = {"csv": "fashion-mnist_train.csv", "idx": "classes.txt", "folder": "train/a/0.png"}[source]
    (INPUT / path).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(INPUT / path)
    rule = "must be a regular file; received a pipe, a device or a socket"
    assert refusal({**(FOLDER if source == "folder" else {}), "data.source": source}) == f"data/input/{path} {rule}"


@pytest.mark.parametrize("place", ["train/b", "train/b/more", "elsewhere"])
@pytest.mark.parametrize("hidden", ["link", ".dvc", ".dvcignore"])
def test_what_dvc_does_not_look_into_is_refused(workspace: Path, tmp_path: Path, place: str, hidden: str) -> None:
    draw_folder(tmp_path / "outside", ["b"])
    draw_folder(INPUT / "train", ["a", "c"])
    (path := INPUT / place).parent.mkdir(parents=True, exist_ok=True)
    if hidden == "link":
        path.symlink_to(tmp_path / "outside/b")
    elif hidden == ".dvc":
        (path / hidden).mkdir(parents=True)
    else:
        path.mkdir()
        (path / hidden).write_text("*.png")
    assert refusal(FOLDER) == (
        "data/input must hold no link to a folder, no .dvcignore and no folder with a .dvc, into which DVC does not "
        f"look; received data/input/{place}" + f"/{hidden}" * (hidden == ".dvcignore")
    )


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["$\\frac$", "a$b$c"], id="formulas"),
        pytest.param(["1", "NA", "all", "nan", "null"], id="totals and missing values"),
        pytest.param(["\x1b[31mred", "-x", "<b>", "=1+1", "@all"], id="steer a program"),
        pytest.param(['"', "100 %", "Größe", "_hidden", "a\nb", "a, b"], id="others"),
    ],
)
def test_any_class_name(workspace: Path, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing that draws or writes tables takes it for something else."""
    draw_folder(INPUT, names, count=1)
    written = run({**FOLDER, **WITHOUT_TEST})
    assert json.loads(written["data/prepared/classes.json"]) == names
    table = pd.read_csv("metrics/data/classes.csv", keep_default_na=False)
    assert table["class"].tolist() == ["all", *names] * 2
    assert "\x1b" not in capsys.readouterr().out


# --- class names --------------------------------------------------------------------------------


def test_without_classes_txt_the_classes_are_digits(workspace: Path) -> None:
    assert prepare.class_names() == list("0123456789")


@pytest.mark.parametrize(
    "content",
    [
        b"cat\nbig dog\n\xc3\xa9l\xc3\xa9phant\n",
        b"cat\nbig dog\n\xc3\xa9l\xc3\xa9phant",
        b"cat\r\nbig dog\r\n\xc3\xa9l\xc3\xa9phant\r\n",
        b"\n cat \n\nbig dog\t\n\xc3\xa9l\xc3\xa9phant\n\n",
        pytest.param(b"\xef\xbb\xbfcat\nbig dog\n\xc3\xa9l\xc3\xa9phant\n", id="byte order mark"),
    ],
)
def test_classes_txt(workspace: Path, content: bytes) -> None:
    INPUT.mkdir(parents=True)
    (INPUT / "classes.txt").write_bytes(content)
    assert prepare.class_names() == ["cat", "big dog", "éléphant"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "must hold 2 to 256 different names; received 0", id="empty"),
        pytest.param(b"cat\n", "must hold 2 to 256 different names; received 1", id="one"),
        pytest.param(b"cat\ndog\ncat\n", "must hold 2 to 256 different names; received 3, 2 different", id="twice"),
        pytest.param(
            b"".join(b"%d\n" % number for number in range(257)),
            "must hold 2 to 256 different names; received 257",
            id="257",
        ),
        pytest.param("Größe\nx\n".encode("latin-1"), "must be a readable UTF-8 file; ", id="Latin-1"),
        pytest.param(None, "must be a readable UTF-8 file; ", id="folder"),
        pytest.param("nowhere", "must be a readable UTF-8 file; ", id="link to nothing"),
    ],
)
def test_a_wrong_classes_txt_is_refused(workspace: Path, content: bytes | str | None, words: str) -> None:
    write_idx(INPUT, random_parts())
    if content is None:
        (INPUT / "classes.txt").mkdir()
    elif isinstance(content, str):
        (INPUT / "classes.txt").symlink_to(content)
    else:
        (INPUT / "classes.txt").write_bytes(content)
    assert refusal({"data.source": "idx"}).startswith(f"data/input/classes.txt {words}")


def test_labels_are_held_against_classes_txt(workspace: Path) -> None:
    parts = random_parts()
    write_idx(INPUT, parts)
    (INPUT / "classes.txt").write_text("\n".join("abcdefghi"))
    row = parts["train"][1].tolist().index(9)
    assert refusal({"data.source": "idx"}) == (f"train labels must be from 0 to 8; received 9 in row {row}")


# --- what is refused ----------------------------------------------------------------------------


def label_10(parts: Parts) -> None:
    parts["test"][1][5] = 10


def labels_for_images(parts: Parts) -> None:
    parts["train"] = parts["train"][1], parts["train"][1]


def images_for_labels(parts: Parts) -> None:
    parts["test"] = parts["test"][0], parts["test"][0]


def one_label_less(parts: Parts) -> None:
    parts["train"] = parts["train"][0], parts["train"][1][:-1]


def no_images(parts: Parts) -> None:
    for part, (images, labels) in parts.items():
        parts[part] = images[:0], labels[:0]


def class_in_test_alone(parts: Parts) -> None:
    images, labels = parts["train"]
    parts["train"] = images[labels != 3], labels[labels != 3]
    parts["test"][1][0] = 3


def smaller(parts: Parts) -> None:
    parts.update(random_parts(20, 24))


def smaller_in_test(parts: Parts) -> None:
    parts["test"] = random_parts(20, 24)["test"]


def turned(parts: Parts) -> None:
    parts.update(random_parts(28, 27))


MAGIC = "must begin with 00 00 08 {0:02}: IDX, unsigned bytes in {0} dimensions; received "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (label_10, "test labels must be from 0 to 9; received 10 in row 5"),
        (labels_for_images, f"data/input/train-images-idx3-ubyte {MAGIC.format(3)}00 00 08 01"),
        (images_for_labels, f"data/input/t10k-labels-idx1-ubyte {MAGIC.format(1)}00 00 08 03"),
        (one_label_less, "train must hold one image a label (29); received 30"),
        (no_images, "train must hold at least one image; received none"),
        (class_in_test_alone, "train must hold images of each class in test; received none of 3"),
        (smaller, "train images must be (28, 28, 1) (data.height, data.width, data.channels); received (20, 24, 1)"),
        (
            smaller_in_test,
            "test images must be (28, 28, 1) (data.height, data.width, data.channels); received (20, 24, 1)",
        ),
        (turned, "train images must be (28, 28, 1) (data.height, data.width, data.channels); received (28, 27, 1)"),
    ],
)
def test_wrong_idx_content_is_refused(workspace: Path, change: Callable[[Parts], None], message: str) -> None:
    parts = random_parts()
    change(parts)
    write_idx(INPUT, parts)
    assert refusal({"data.source": "idx"}) == message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", None, "must be a whole and readable file; received: No such file"),
        ("t10k-labels-idx1-ubyte", None, "must be a whole and readable file; received: No such file"),
        ("train-images-idx3-ubyte", b"", MAGIC.format(3) + "an empty file"),
        ("t10k-images-idx3-ubyte", b"\0\0\x0d\x03" + bytes(99), MAGIC.format(3) + "00 00 0d 03"),
        ("train-labels-idx1-ubyte", gzip.compress(b"x", mtime=0), MAGIC.format(1) + "1f 8b 08 00"),
        (
            "train-labels-idx1-ubyte",
            idx.encode(np.zeros(30, np.uint8))[:-1],
            "must hold the 30 bytes that its header announces; received 29",
        ),
        (
            "t10k-images-idx3-ubyte",
            idx.encode(np.zeros((12, 28, 28), np.uint8)) + b"\0",
            "must hold the 12 x 28 x 28 bytes that its header announces; received 9,409",
        ),
    ],
)
def test_a_wrong_idx_file_is_refused(workspace: Path, name: str, content: bytes | None, message: str) -> None:
    write_idx(INPUT, random_parts())
    if content is None:
        (INPUT / name).unlink()
    else:
        (INPUT / name).write_bytes(content)
    assert refusal({"data.source": "idx"}).startswith(f"data/input/{name} {message}")


@pytest.mark.parametrize("source", ["fashion-mnist", "synthetic", "csv", "idx", "folder"])
@pytest.mark.parametrize("there", [False, True])
def test_a_source_without_files_is_refused(workspace: Path, source: str, there: bool) -> None:
    if there:
        INPUT.mkdir(parents=True)
        RAW.mkdir(parents=True)
        (INPUT / "README.md").write_text("")
    message = refusal({"data.source": source})
    assert message.startswith(f"data/{'raw' if source in ('fashion-mnist', 'synthetic') else 'input'}")
    assert " must " in message


@pytest.mark.parametrize("swap", [True, False])
def test_more_test_than_train_images_are_warned_of(
    workspace: Path, no_figures: None, capsys: pytest.CaptureFixture[str], swap: bool
) -> None:
    parts = random_parts()
    write_idx(INPUT, dict(zip(parts, reversed(parts.values()), strict=True)) if swap else parts)
    written = run({"data.source": "idx"})
    warning = "warning: train has fewer images than test (12 and 30); are they swapped?\n"
    assert capsys.readouterr().err == (warning if swap else "")
    assert len(arrays.load("train")[0]) == (12 if swap else 30)
    assert "data/prepared/classes.json" in written


# --- releases of Fashion-MNIST ------------------------------------------------------------------


def released(parts: Parts, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The release that prepare takes images (N, 28, 28) and labels for, and its warnings."""
    rows = {part: (release.hashes(images[..., None]), labels) for part, (images, labels) in parts.items()}
    found, printed = prepare.recognise_release(rows), capsys.readouterr()
    assert printed.out == f"release of Fashion-MNIST: {found}\n"
    return found, printed.err


def test_a_release_is_recognised_by_images_and_labels(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rules on a few images; the real ones are below."""
    today = random_parts()
    rows = {part: (release.hashes(images[..., None]), labels) for part, (images, labels) in today.items()}
    hashes = {part: hashed for part, (hashed, _) in rows.items()}
    np.save("test images.npy", hashes["test"])
    for name, value in {
        "COUNTS": {part: len(labels) for part, (_, labels) in rows.items()},
        "FIRST_LABELS": {"train": [2, 9, 6], "test": [0, 1]},
        "IN_ORDER": {part: release.digest(*each) for part, each in rows.items()},
        "SORTED": {part: release.digest(np.sort(hashed)) for part, hashed in hashes.items()},
        "TEST_IMAGES": "test images.npy",
    }.items():
        monkeypatch.setattr(release, name, value)
    assert released(today, capsys) == (release.TODAY, "")
    turned = {part: (images[::-1], labels[::-1]) for part, (images, labels) in today.items()}
    assert released(turned, capsys) == (release.CHANGED, "")
    relabelled = {part: (images, labels[::-1]) for part, (images, labels) in today.items()}
    assert released(relabelled, capsys) == (release.CHANGED, "")
    first = {part: (images, labels.copy()) for part, (images, labels) in today.items()}
    first["train"][1][:3] = 2, 9, 6
    assert released(first, capsys)[0] != release.FIRST  # test has others
    first["test"][1][:2] = 0, 1
    assert released(first, capsys) == (release.FIRST, "")
    foreign = {part: (255 - images, labels) for part, (images, labels) in today.items()}
    assert released(foreign, capsys) == (release.UNKNOWN, "")
    for part, (images, labels) in first.items():  # the other one is as it was
        assert released(today | {part: relabelled[part]}, capsys) == (release.CHANGED, "")
        assert released(today | {part: foreign[part]}, capsys) == (release.UNKNOWN, "")
        assert released(first | {part: (images[:-1], labels[:-1])}, capsys) == (release.UNKNOWN, "")
    assert (
        released({part: (images[1:], labels[1:]) for part, (images, labels) in today.items()}, capsys)[0] == "unknown"
    )
    (images, labels), (test_images, test_labels) = today["train"], today["test"]
    leaked = today | {"train": (np.concatenate([images, test_images]), np.concatenate([labels, test_labels]))}
    found, warning = released(leaked, capsys)
    assert found == release.UNKNOWN
    count = len(today["test"][1])
    assert warning.startswith(f"warning: {count:,} rows of train are test images of the release of {release.TODAY}: ")


def test_the_release_is_written_beside_the_source(
    workspace: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "recognise", lambda rows: release.FIRST)
    write_both_csv(random_parts())
    written = run({"data.source": "csv"})
    assert json.loads(written["data/prepared/source.json"]) == {"source": "csv", "release": release.FIRST}


@pytest.mark.slow
def test_each_release_of_fashion_mnist_is_recognised(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = ({part: np.load(real / part / f"{kind}.npy") for part in COUNTS} for kind in ("images", "labels"))
    capsys.readouterr()
    today = {part: (images[part][..., 0], labels[part]) for part in COUNTS}
    assert released(today, capsys) == ("31 August 2017", "")

    order = np.random.default_rng(0).permutation(60_000)
    shuffled = today | {"train": (today["train"][0][order], today["train"][1][order])}
    assert released(shuffled, capsys) == ("31 August 2017, in another order or with other labels", "")
    relabelled = today | {"train": (today["train"][0], today["train"][1][order])}
    assert released(relabelled, capsys)[0] == "31 August 2017, in another order or with other labels"

    first: Parts = {}
    for part, begin in {"train": [2, 9, 6, 0, 3], "test": [0, 1, 2, 2, 3, 2, 8, 6, 5, 0]}.items():
        rows = np.arange(len(today[part][1]))
        for place, label in enumerate(begin):
            other = place + np.flatnonzero(today[part][1][rows[place:]] == label)[0]
            rows[[place, other]] = rows[[other, place]]
        first[part] = today[part][0][rows], today[part][1][rows]
    assert released(first, capsys) == ("26 August 2017", "")

    foreign = {part: (255 - images, labels) for part, (images, labels) in today.items()}
    assert released(foreign, capsys) == ("unknown", "")
    fewer = {part: (images[:999], labels[:999]) for part, (images, labels) in today.items()}
    assert released(fewer, capsys) == ("unknown", "")

    pooled = dict.fromkeys(today, (np.concatenate([*images.values()])[..., 0], np.concatenate([*labels.values()])))
    found, warning = released(pooled, capsys)
    assert found == "unknown"
    assert warning.startswith("warning: 10,000 rows of train are test images of the release of 31 August 2017: ")


# --- as a script --------------------------------------------------------------------------------


def wrong_pixel(path: Path) -> None:
    """In the second file of two, so that the first was read well."""
    lines = path.read_text().splitlines()
    lines[7] = lines[7].rsplit(",", 1)[0] + ",256"
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("old", [False, True])
def test_an_error_is_one_line_and_leaves_the_old_result(workspace: Path, old: bool) -> None:
    write_both_csv(random_parts())
    use({"data.source": "csv"})
    for path in ("data/prepared/train/images.npy", "metrics/data/classes.csv") if old else ():
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text("old")
    wrong_pixel(INPUT / "fashion-mnist_test.csv")
    before = everything()
    done = script(with_forks())
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: data/input/fashion-mnist_test.csv must hold 785 integers 0 to 255 a row; "
        "received in line 8: could not convert string '256' to uint8, column 785.\n"
    )
    assert everything() == before


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("b.png", "error: data/input/a/b.png must be a picture that Pillow reads; "),
        ("b\nc.png", "error: data/input/a/b"),  # a line break in a name makes no second line
    ],
)
def test_an_error_in_a_folder_is_one_line(workspace: Path, name: str, error: str) -> None:
    draw_folder(INPUT, ["a", "b"])
    (INPUT / "a" / name).write_text("no picture")
    use({**FOLDER, **WITHOUT_TEST})
    done = script(with_forks())
    assert done.returncode == 1
    assert done.stderr.startswith(error)
    assert len(done.stderr.splitlines()) == 1
    assert not Path("data/prepared").exists()


def test_the_tables_are_printed(workspace: Path, no_figures: None, capsys: pytest.CaptureFixture[str]) -> None:
    write_both_csv(random_parts())
    run({"data.source": "csv"})
    printed = capsys.readouterr().out
    for words in (*classes.FASHION_MNIST, "within train", "test images also in train"):
        assert words in printed


# --- tables -------------------------------------------------------------------------------------


def test_summarise_gives_numpys_numbers() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (50, 5, 4, 3), np.uint8)
    labels = generator.integers(0, 3, 50).astype(np.uint8)  # class d has none
    table = prepare.summarise("train", images, labels, list("abcd"))
    assert list(table.columns) == ["part", "class", "images", "pixel_mean", "pixel_std"]
    assert table["class"].tolist() == ["all", *"abcd"]
    assert (table["part"] == "train").all()
    values = images.astype(np.float64)
    groups = [values, *(values[labels == label] for label in range(3))]
    assert table["images"].tolist() == [*map(len, groups), 0]
    for column, function in (("pixel_mean", np.mean), ("pixel_std", np.std)):
        assert table[column][:4].tolist() == [round(float(function(group)), 2) for group in groups]
        assert pd.isna(table[column][4])


@pytest.mark.parametrize(
    "measure",
    [lambda images: prepare.summarise("train", images, np.zeros(len(images), np.uint8), ["a"]), prepare.groups],
)
def test_large_images_take_little_more_memory_than_they_are(measure: Callable[[np.ndarray], Any]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    tracemalloc.start()
    measure(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * images.nbytes


def part(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images of one value each, and labels, from (value, label)."""
    content = np.array(pairs, np.uint8).reshape(-1, 2)
    return np.tile(content[:, :1, None, None], (1, 2, 2, 1)), content[:, 1]


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        pytest.param(part((1, 0), (2, 0)), part((3, 0)), [(0, 0), (0, 0), (0, 0)], id="none"),
        pytest.param(part((1, 0), (1, 0)), part((3, 0)), [(2, 0), (0, 0), (0, 0)], id="train"),
        pytest.param(part((1, 0), (2, 0), (1, 1)), part((3, 0)), [(2, 2), (0, 0), (0, 0)], id="train, labels"),
        pytest.param(part((1, 0)), part((3, 0), (3, 0), (3, 0)), [(0, 0), (3, 0), (0, 0)], id="test"),
        pytest.param(
            part((1, 0)),
            part((3, 0), (3, 1), (3, 0), (4, 1), (4, 1)),
            [(0, 0), (5, 3), (0, 0)],  # every copy of 3 has one of another label
            id="test, labels",
        ),
        pytest.param(part((1, 0), (2, 0)), part((1, 0)), [(0, 0), (0, 0), (1, 0)], id="across"),
        pytest.param(part((1, 0), (2, 0)), part((1, 1)), [(0, 0), (0, 0), (1, 1)], id="across, labels"),
        pytest.param(
            part((1, 0), (1, 1), (2, 2)),
            part((1, 2), (1, 2), (2, 2)),
            [(2, 2), (2, 0), (3, 2)],  # two, though each differs from two in train
            id="all at once",
        ),
        pytest.param(part((1, 0), (1, 0)), part(), [(2, 0), (0, 0), (0, 0)], id="no test images"),
    ],
)
def test_duplicates(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], expected: list[tuple[int, int]]
) -> None:
    table = prepare.duplicates({"train": keys(*train), "test": keys(*test)}, "image", "")
    assert list(table.columns) == ["where", "images", "label_differs"]
    assert table.to_numpy().tolist() == [
        [where, *counts]
        for where, counts in zip(("within train", "within test", "test images also in train"), expected, strict=True)
    ]


def keys(images: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"image": release.hashes(images), "label": labels})


def test_nearly_equal_images_are_counted_and_known_to_split(workspace: Path, no_figures: None) -> None:
    parts = random_parts()
    images, labels = parts["train"]
    images[5] = images[3].clip(4, 255) - 4
    images[9] = images[3]
    labels[[3, 5, 9]] = 1, 1, 2
    parts["test"][0][0] = images[3]
    parts["test"][1][0] = 1
    write_both_csv(parts)
    run({"data.source": "csv"})
    groups = np.load(arrays.NEAR_DUPLICATES)
    assert groups[3] == groups[5] == groups[9]
    assert len(set(groups)) == len(images) - 2
    assert pd.read_csv("metrics/data/duplicates.csv").to_numpy().tolist() == [
        ["within train", 2, 2],
        ["within test", 0, 0],
        ["test images also in train", 1, 1],
        ["nearly, within train", 3, 3],
        ["nearly, within test", 0, 0],
        ["nearly, test images also in train", 1, 1],
    ]


def test_one_pixel_makes_another_image() -> None:
    images, labels = part((1, 0), (1, 0))
    images[1, 1, 1, 0] = 2
    table = prepare.duplicates({"train": keys(images, labels), "test": keys(*part((2, 0)))}, "image", "")
    assert table["images"].tolist() == [0, 0, 0]
