import json
import re
import shutil
from pathlib import Path

from common import arrays
from common.errors import InputError

import numpy as np
import pytest

import readme
from analysis import figures
from conftest import call, squeezed, write_params


def empty(*names: str) -> str:
    marks = [f"<!-- {name}: written by make readme -->\n<!-- end of {name} -->\n" for name in names]
    return "\n".join(["Before.\n", *marks, "After.\n"])


FIGURES = {
    "source": "fashion-mnist",
    "accuracy": 0.91234,
    "accuracy_low": 0.9,
    "accuracy_high": 0.92,
    "loss": 0.3,
    "macro_f1": 0.9,
    "calibration_error": 0.01,
    "images": 5000,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(readme.PAGES, readme.CARD)  # test_model_card.py
    write_params(tmp_path, {})
    (tmp_path / "README.md").write_text(empty("results"))
    (tmp_path / "metrics").mkdir()
    for name, content in {"val": FIGURES, "test": {}, "train": {"epochs": 3}}.items():
        (tmp_path / f"metrics/{name}.json").write_text(json.dumps(content))
    return tmp_path


def page(folder: Path) -> str:
    return squeezed((folder / "README.md").read_text())


def test_writes_the_figures_and_nothing_else(folder: Path) -> None:
    call(readme)
    text = page(folder)
    assert "| val | 5,000 | 91.23% | 90.00% – 92.00% | not measured | 0.3000 | 0.9000 | 0.0100 |" in text
    assert "\n| test" not in text  # it was not evaluated
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    call(readme, "--check")
    call(readme)
    assert page(folder) == text


@pytest.mark.parametrize("file", ["README.md", "metrics/val.json"])
def test_an_edited_figure_is_refused(folder: Path, file: str) -> None:
    call(readme)
    path = folder / file
    text = path.read_text()
    path.write_text(text.replace("91.23", "99.23").replace("0.91234", "0.99234"))
    assert path.read_text() != text
    with pytest.raises(InputError, match="must show the figures"):
        call(readme, "--check")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("README.md", "no marks"),
        ("README.md", None),
        ("metrics/val.json", None),
        ("metrics/val.json", "{"),
        ("metrics/val.json", '{"accuracy": 1}'),
        ("metrics/train.json", "{}"),
    ],
)
def test_what_is_missing_is_named(folder: Path, file: str, content: str | None) -> None:
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(InputError, match=file.split("/", maxsplit=1)[0]):
        call(readme)


# --- over seeds -----------------------------------------------------------------------------------

ACCURACIES = {0: 0.91234, 1: 0.90234, 2: 0.92234}  # mean 0.91234, and √(2 · 0.01² / 2) around it
MEASURES = ("accuracy", "loss", "macro_f1", "calibration_error")


def trained_with(folder: Path, seed: int) -> None:
    (folder / "dvc.lock").write_text(f"stages: {{train: {{params: {{params.yaml: {{train: {{seed: {seed}}}}}}}}}}}")


@pytest.fixture
def measured(folder: Path) -> Path:
    """Noise of val, of three seeds, in the form of metrics/noise.csv and noise.json."""
    trained_with(folder, 0)
    rows = [[seed, "val", accuracy, *(FIGURES[name] for name in MEASURES[1:])] for seed, accuracy in ACCURACIES.items()]
    lines = [",".join(["seed", "part", *MEASURES]), *(",".join(map(str, row)) for row in rows)]
    (folder / "metrics/noise.csv").write_text("\n".join(lines) + "\n")
    spread = {name: {"mean": FIGURES[name], "std": 0.0, "n": 3} for name in MEASURES}
    spread["accuracy"] = {"mean": 0.91234, "std": 0.01, "n": 3}
    (folder / "metrics/noise.json").write_text(json.dumps({"val": spread}))
    (folder / "metrics/classes").mkdir()
    (folder / "metrics/classes/val.csv").write_text("class,images,recall\n1,50,0.86234\n2,50,0.96234\n")
    recalls = [
        f"{seed},val,{name},{accuracy + more:.5f}"
        for seed, accuracy in ACCURACIES.items()
        for name, more in ((1, -0.05), (2, 0.05))
    ]
    (folder / "metrics/noise_classes.csv").write_text("\n".join(["seed,part,class,recall", *recalls]) + "\n")
    return folder


def rows_of(folder: Path) -> dict[str, list[str]]:
    """The cells of the table of results, by part."""
    text = page(folder)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in lines if len(cells) == 8}


def test_without_noise_it_says_that_it_was_not_measured(folder: Path) -> None:
    call(readme)
    rows = rows_of(folder)
    assert rows["val"][rows["part"].index("over seeds")] == "not measured"


def test_noise_is_shown_as_mean_deviation_and_count(measured: Path) -> None:
    # of test there are figures, and no noise
    (measured / "metrics/test.json").write_text(json.dumps(FIGURES))
    table = measured / "metrics/noise.csv"
    table.write_text(table.read_text() + "0,test,0.91234,0.3,0.9,0.01\n1,test,0.91234,0.3,0.9,0.01\n")
    summary = json.loads((measured / "metrics/noise.json").read_text())
    summary["test"] = {name: {"mean": FIGURES[name], "std": 0.0, "n": 2} for name in MEASURES}
    (measured / "metrics/classes/test.csv").write_text("class,images,recall\n1,50,0.91234\n")
    table = measured / "metrics/noise_classes.csv"
    table.write_text(table.read_text() + "0,test,1,0.91234\n1,test,1,0.91234\n")
    (measured / "metrics/noise.json").write_text(json.dumps(summary))
    call(readme)
    rows = rows_of(measured)
    column = rows["part"].index("over seeds")
    assert rows["val"][column] == "91.23% ± 1.00% (n = 3)"
    assert rows["test"][column] == "91.23% ± 0.00% (n = 2)"
    call(readme, "--check")


def test_a_seed_twice_is_one_training(measured: Path) -> None:
    """As after a merge of two branches."""
    call(readme)
    before = (measured / "README.md").read_text()
    table = measured / "metrics/noise.csv"
    table.write_text(table.read_text() + "1,val,0.90234,0.3,0.9,0.01\n")
    call(readme)
    assert (measured / "README.md").read_text() == before


def assert_refused(folder: Path, file: str) -> None:
    before = (folder / "README.md").read_text()
    for words in ([], ["--check"]):
        with pytest.raises(InputError, match=rf"^metrics/{file} must .*; received"):
            call(readme, *words)
    assert (folder / "README.md").read_text() == before


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("noise.csv", "0,val,0.91234", "0,val,0.91235"),
        ("noise.csv", "0,val,0.91234", "3,val,0.91234"),
        ("noise.csv", "0,val,0.91234", "0,test,0.91234"),
        ("noise.csv", "0,val,0.91234,0.3", "0,val,0.91234,0.31"),
        ("val.json", '"accuracy": 0.91234', '"accuracy": 0.91233'),
        ("val.json", '"loss": 0.3', '"loss": 0.30001'),
        ("test.json", "{}", json.dumps(FIGURES)),
    ],
)
def test_noise_of_another_training_is_refused(measured: Path, file: str, old: str, new: str) -> None:
    edit(measured / "metrics" / file, old, new)
    assert_refused(measured, r"noise\.csv")


def test_noise_around_another_seed_is_refused(measured: Path) -> None:
    trained_with(measured, 1)
    assert_refused(measured, r"noise\.csv")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("noise.json", '"mean": 0.91234', '"mean": 0.92234'),
        ("noise.json", '"std": 0.01', '"std": 0.001'),
        ("noise.json", '"std": 0.01, "n": 3', '"std": 0.01, "n": 5'),
        ("noise.csv", "1,val,0.90234", "1,val,0.91234"),
        ("noise.csv", "1,val,0.90234,0.3,0.9,0.01\n", ""),
        ("noise.json", '{"val"', '{"test"'),
        ("noise.json", '{"val"', '"val"'),
    ],
)
def test_noise_that_does_not_follow_from_its_runs_is_refused(measured: Path, file: str, old: str, new: str) -> None:
    edit(measured / "metrics" / file, old, new)
    assert_refused(measured, r"noise\.json")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0,val,1,0.86234", "0,val,1,0.87234"),
        ("0,val,1,0.86234\n", ""),
        ("1,val,1,0.85234\n1,val,2,0.95234\n", ""),
        ("1,val,1,0.85234", "1,val,1,0.86234"),
        ("1,val,1,0.85234\n", ""),
        ("1,val,1,0.85234", "1,val,one,0.85234"),
        ("2,val", "3,val"),
    ],
)
def test_recalls_of_other_seeds_or_another_training_are_refused(measured: Path, old: str, new: str) -> None:
    path = measured / "metrics/noise_classes.csv"
    path.write_text(path.read_text().replace(old, new))
    assert_refused(measured, r"noise_classes\.csv")


def test_runs_and_their_summary_edited_alike_are_refused(measured: Path) -> None:
    """A larger spread would call every difference noise."""
    table, summary = measured / "metrics/noise.csv", measured / "metrics/noise.json"
    table.write_text(table.read_text().replace("0.90234", "0.89234").replace("0.92234", "0.93234"))
    summary.write_text(summary.read_text().replace('"std": 0.01', '"std": 0.02'))
    assert_refused(measured, r"noise_classes\.csv")


@pytest.mark.parametrize("name", readme.NOISE)
def test_noise_without_one_of_its_files_is_refused(measured: Path, name: str) -> None:
    (measured / "metrics" / name).unlink()
    assert_refused(measured, re.escape(name))


@pytest.mark.parametrize("name", readme.NOISE)
def test_one_file_of_noise_alone_is_refused(measured: Path, name: str) -> None:
    for other in {*readme.NOISE} - {name}:
        (measured / "metrics" / other).unlink()
    assert_refused(measured, r"noise\S*")


# --- the picture ----------------------------------------------------------------------------------


@pytest.fixture
def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[str]]]:
    """Calls of the function that draws: brightness of each image, and its title. Each image is as bright as its row."""
    (folder / "metrics/predictions").mkdir()
    for part, count in (("train", 9), ("test", 3)):
        (folder / f"data/prepared/{part}").mkdir(parents=True)
        images = np.full((count, 4, 4, 1), np.arange(count)[:, None, None, None], np.uint8)
        arrays.save(folder / f"data/prepared/{part}", images, (np.arange(count) == 8).astype(np.uint8))
    (folder / "data/prepared/classes.json").write_text('["a", "b"]')
    rows = ["8,b,b,0.91", "6,a,b,0.52", "1,a,a,0.7", "2,a,a,0.8"]
    (folder / "metrics/predictions/val.csv").write_text("\n".join(["id,label,predicted,confidence", *rows]) + "\n")
    calls = []

    def titled(images: np.ndarray, titles: list[str], path: Path, **_: float) -> None:
        calls.append((images[:, 0, 0, 0].tolist(), titles))
        path.write_text(str(titles))

    monkeypatch.setattr(figures, "titled", titled)
    return calls


def test_the_picture_has_right_and_wrong_answers(drawn: list[tuple[list[int], list[str]]]) -> None:
    call(readme)
    assert drawn == [([1, 8, 6], ["a\n70%", "b\n91%", "b\n52%, true: a"])]
    before = readme.ANSWERS.read_bytes()
    call(readme, "--check")
    readme.ANSWERS.write_bytes(b"another")
    with pytest.raises(InputError, match=r"^docs/answers\.png must be of these predictions .*; received another one$"):
        call(readme, "--check")
    assert readme.ANSWERS.read_bytes() == b"another"
    call(readme)
    assert readme.ANSWERS.read_bytes() == before


def test_a_picture_of_other_images_is_refused(drawn: list[tuple[list[int], list[str]]], folder: Path) -> None:
    for labels in (np.zeros(9, np.uint8), np.zeros(5, np.uint8)):
        arrays.save(folder / "data/prepared/train", np.zeros((len(labels), 4, 4, 1), np.uint8), labels)
        with pytest.raises(
            InputError, match=r"^data/prepared must have the images of the predictions .*; received others$"
        ):
            call(readme)
    assert drawn == []


def test_without_the_images_the_picture_stays(drawn: list[tuple[list[int], list[str]]], folder: Path) -> None:
    shutil.rmtree(folder / "data")
    call(readme)
    call(readme, "--check")
    assert drawn == []
    assert not readme.ANSWERS.exists()
