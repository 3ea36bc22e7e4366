import subprocess
import sys
from pathlib import Path

from common import arrays, kaggle_csv
from common.errors import InputError

import numpy as np
import pytest

import write_csv
from conftest import ROOT

NAMES = {"train": "fashion-mnist_train.csv", "test": "fashion-mnist_test.csv"}


def prepare(part: str, count: int, shape: tuple[int, ...] = (28, 28, 1)) -> None:
    generator = np.random.default_rng(count)
    folder = arrays.PREPARED / part
    folder.mkdir(parents=True)
    images = generator.integers(0, 256, (count, *shape), np.uint8)
    arrays.save(folder, images, generator.integers(0, 10, count).astype(np.uint8))


def test_what_is_written_reads_back(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("train", 23)
    prepare("test", 7)
    write_csv.main()
    folder = Path("data/input")
    for part, name in NAMES.items():
        for read, expected in zip(kaggle_csv.read(folder / name), arrays.load(part), strict=True):
            np.testing.assert_array_equal(read, expected, strict=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES.values())
    assert capsys.readouterr().out == (f"{folder / NAMES['train']}: 23 rows\n{folder / NAMES['test']}: 7 rows\n")


def test_the_same_bytes_twice(workspace: Path) -> None:
    prepare("train", 5)
    prepare("test", 5)
    contents = []
    for _ in range(2):
        write_csv.main()
        contents.append([Path("data/input", name).read_bytes() for name in NAMES.values()])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("shape", [(28, 28, 3), (28, 20, 1)])
def test_other_images_are_refused(workspace: Path, shape: tuple[int, ...]) -> None:
    prepare("train", 4, shape)
    prepare("test", 4, shape)
    done = subprocess.run(
        [sys.executable, ROOT / "published/images/write_csv.py"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    received = " x ".join(map(str, (4, *shape)))
    rule = "train must hold at least one image, of 28 x 28 x 1, for this form"
    assert done.stderr == f"error: {rule}; received {received}\n"
    assert not Path("data/input").exists()


def test_without_prepared_arrays_nothing_is_written(workspace: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_csv.main()
    assert str(caught.value).startswith("data/prepared/train/images.npy must exist")
    assert not Path("data/input").exists()


def test_an_old_file_stays_when_the_new_one_fails(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("train", 4)
    old = Path("data/input", NAMES["train"])
    old.parent.mkdir()
    old.write_text("old")

    def half(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
        path.write_text("label,pix")
        raise KeyboardInterrupt

    monkeypatch.setattr(kaggle_csv, "write", half)
    with pytest.raises(KeyboardInterrupt):
        write_csv.main()
    assert old.read_text() == "old"
    assert [path.name for path in old.parent.iterdir()] == [old.name]


def test_a_test_part_without_images_is_not_written_as_a_file_that_cannot_be_read(workspace: Path) -> None:
    """One tree of pictures has no test part (evaluate.parts: [val]); the csv source needs both."""
    prepare("train", 4)
    prepare("test", 0)
    try:
        write_csv.main()
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    for path in Path("data").glob("input/*.csv"):
        kaggle_csv.read(path)
