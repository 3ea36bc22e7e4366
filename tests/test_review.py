"""A branch of a scratch clone that changes two parameters and the architecture."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Clone
from PIL import Image
from ruamel.yaml import YAML


@pytest.fixture(scope="module")
def branch(reproduced: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With its results committed; main has gone on since."""
    clone = reproduced.copied(tmp_path_factory.mktemp("review") / "clone")
    (clone.folder / "NEWS").write_text("main goes on")
    clone.commit("go on")
    clone.git("checkout", "--quiet", "-b", "idea", "HEAD~1")
    path = clone.folder / "params.yaml"
    content = YAML().load(path)
    content["train"]["epochs"] = 1
    content["train"]["batch_size"] = 32
    YAML().dump(content, path)
    architecture = clone.folder / "src/architectures/plain.py"
    text = architecture.read_text()
    assert "relu" in text
    architecture.write_text(text.replace("relu", "tanh"))
    clone.dvc("repro")
    clone.commit("an idea")
    return clone


@pytest.fixture
def clone(branch: Clone, tmp_path: Path) -> Clone:
    return branch.copied(tmp_path / "clone")


def review(clone: Clone, *words: str) -> str:
    return clone.run("make", "--silent", "--old-file=.venv/run", "review", *words)


def section(page: str, title: str) -> str:
    return page.split(f"### {title}\n")[1].split("\n### ", maxsplit=1)[0]


def test_says_what_changed(clone: Clone) -> None:
    page = review(clone, "BASE=main")
    assert re.match(r"## (Better|Worse|Within noise)\n\n\S", page)
    assert "Compared on test, since nothing is chosen" in page
    assert "Before: main (" in page
    assert "After: HEAD (" in page
    assert "dvc.lock is up to date." in page
    parameters = [line for line in section(page, "Parameters").splitlines() if "`" in line]
    assert parameters == ["| `train.batch_size` | 64 | 32 |", "| `train.epochs` | 2 | 1 |"]
    metrics = section(page, "Metrics")
    assert "| train epochs | 2 | 1 | -1 |" in metrics
    assert re.search(r"\| test accuracy \| 0\.\d+ \| 0\.\d+ \| [+-]0\.\d+ \|", metrics)
    assert len(re.findall(r"^  line \[", page, re.M)) == 2
    assert "(2 before, 1 after)" in page
    assert section(page, "Classes").count("\n| ") == 12
    assert "| `src/architectures/plain.py` | changed |" in section(page, "Code")
    assert section(page, "Code").count("`") == 2
    assert "so none counts." in section(page, "Classes")
    assert "**" not in section(page, "Classes")
    assert "The images are not here" not in page
    assert "Raw images, prepared arrays and split are the same." in page


def test_counts_are_those_of_the_predictions(clone: Clone) -> None:
    def right(revision: str) -> set[int]:
        lines = clone.git("show", f"{revision}:metrics/predictions/test.csv").splitlines()[1:]
        rows = [line.split(",") for line in lines]
        return {int(row[0]) for row in rows if row[1] == row[2]}

    before, after = right("main"), right("HEAD")
    page = review(clone, "BASE=main")
    assert f"{len(after - before)} newly right and {len(before - after)} newly wrong" in page
    shown = {int(x) for x in re.findall(r"^\| (\d+) \|", section(page, "Newly wrong"), re.M)}
    assert shown <= before - after
    assert len(shown) == min(10, len(before - after))
    assert f"Accuracy on test: {len(after) - len(before):+d}.00 points" in page  # of 100 images


def test_writes_a_page_with_a_picture_beside_it(clone: Clone) -> None:
    said = review(clone, "BASE=main", "OUT=out/review.md")
    assert said.startswith("out/review.md: ")
    page = (clone.folder / "out/review.md").read_text()
    if "![The newly wrong images](review.png)" in page:
        with Image.open(clone.folder / "out/review.png") as picture:
            assert picture.width > 100
    else:
        assert "\nNone.\n" in section(page, "Newly wrong")


def test_needs_git_alone(branch: Clone, tmp_path: Path) -> None:
    branch.git("clone", "--quiet", ".", str(tmp_path / "fresh"))
    fresh = Clone(tmp_path / "fresh")
    page = review(fresh, "BASE=origin/main", "OUT=review.md")
    text = (fresh.folder / "review.md").read_text()
    assert page.startswith("review.md: ")
    assert "The images are not here; `make repro` or `dvc pull` brings them." in text
    assert "dvc.lock is up to date." in text
    assert "Accuracy on test: " in text
    # and where it was not reproduced: one line, with no path of this machine
    path = fresh.folder / "params.yaml"
    path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 16"))
    text = review(fresh, "BASE=origin/main")
    assert text.startswith("## Not reproduced\n")
    assert "- **dvc.lock is not up to date (make repro): train would run**\n" in text
    assert str(tmp_path) not in text


def test_images_of_another_run_are_not_shown(clone: Clone) -> None:
    labels = clone.folder / "data/prepared/test/labels.npy"
    np.save(labels, np.load(labels)[::-1])
    review(clone, "BASE=main", "OUT=review.md")
    page = (clone.folder / "review.md").read_text()
    assert "The images that are here are not those of the predictions." in page
    assert not (clone.folder / "review.png").exists()


def test_what_was_not_reproduced_is_said_first(clone: Clone) -> None:
    path = clone.folder / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 3"))
    page = review(clone, "BASE=main")
    head = page.split("### ", maxsplit=1)[0]
    assert head.startswith("## Not reproduced\n\nWhat follows is of the results that are committed")
    assert "After: workspace." in head
    assert "- **dvc.lock is not up to date" in head
    assert "train would run" in head


def test_other_data_is_not_compared(clone: Clone) -> None:
    path = clone.folder / "dvc.lock"
    lock = YAML().load(path)
    for out in lock["stages"]["prepare"]["outs"]:
        if out["path"] == "data/prepared/test":
            out["md5"] = "0" * 32 + ".dir"
    YAML().dump(lock, path)
    page = review(clone, "BASE=main")
    assert page.startswith("## Not compared\n\nmain (")
    assert "must name the same test images" in page
    assert "| data/prepared/test |" in section(page, "Data")
    assert "| `train.epochs` | 2 | 1 |" in page


def test_a_branch_that_changes_nothing(clone: Clone) -> None:
    clone.git("checkout", "--quiet", "main")
    clone.dvc("checkout")
    page = review(clone, "BASE=main")
    assert page.startswith("## Within noise\n\nThe same images are right on both sides.")
    assert section(page, "Parameters").strip() == "None has changed."
    assert section(page, "Code").strip() == "No stage depends on anything that has changed."
    assert section(page, "Metrics").startswith("\nNone has changed.")
    assert section(page, "Confusions that changed most").strip() == "None has changed."


def test_an_unknown_base_is_one_line(clone: Clone) -> None:
    said = clone.run("sh", "-c", "! python src/review.py nonsense")
    assert said.startswith("error: git merge-base nonsense HEAD must succeed; it said: ")
    assert len(said.splitlines()) == 1
