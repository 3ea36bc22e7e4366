"""A branch of a scratch clone that changes two parameters and the architecture."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError

import pandas as pd
import pytest
from ruamel.yaml import YAML

import check
import pages
import review
from conftest import Clone, made_once, squeezed
from edits import edit


@pytest.fixture(scope="module")
def branch(reproduced: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With its results committed; main has gone on since."""

    def make(folder: Path) -> None:
        clone = reproduced.copied(folder)
        (folder / "NEWS").write_text("main goes on")
        clone.commit("go on")
        clone.git("checkout", "--quiet", "-b", "idea", "HEAD~1")
        path = folder / "params.yaml"
        content = YAML().load(path)
        content["train"]["epochs"] = 1
        content["train"]["batch_size"] = 32
        YAML().dump(content, path)
        architecture = folder / "src/architectures/plain.py"
        text = architecture.read_text()
        assert "relu" in text
        architecture.write_text(text.replace("relu", "tanh"))
        clone.dvc("repro")
        clone.commit("an idea")

    return Clone(made_once(tmp_path_factory, "reviewed", make)).copied(tmp_path_factory.mktemp("review") / "clone")


@pytest.fixture
def clone(branch: Clone, tmp_path: Path, forks: None, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """A copy of the branch, in which dvc is not asked whether it is reproduced."""
    monkeypatch.setattr(check, "lock_problems", lambda own=False: [])
    return branch.copied(tmp_path / "clone")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(clone: Clone, *words: str) -> str:
        monkeypatch.chdir(clone.folder)
        monkeypatch.setattr(sys, "argv", ["review.py", *words])
        review.main()
        return capsys.readouterr().out

    return call


def section(page: str, title: str) -> str:
    return page.split(f"### {title}\n")[1].split("\n### ", maxsplit=1)[0]


def test_says_what_changed(branch: Clone) -> None:
    said = branch.run("make", "--silent", "--old-file=.venv/run", "review", "BASE=main")
    page = squeezed(said)
    assert re.match(r"## Not decided\n\n\S", page)
    assert "Compared on test, since nothing is chosen" in page
    assert f"Before: main ({branch.git('rev-parse', 'main~1')[:7]})" in page  # where the branch left it
    assert "After: HEAD (" in page
    assert "dvc.lock is up to date." in page
    parameters = [line for line in section(page, "Parameters").splitlines() if "`" in line]
    assert parameters == ["| `train.batch_size` | 64 | 32 |", "| `train.epochs` | 2 | 1 |"]
    metrics = section(page, "Metrics")
    assert "| train epochs | 2 | 1 | -1 |" in metrics
    assert re.search(r"\| test accuracy \| 0\.\d+ \| 0\.\d+ \| [+-]0\.\d+ \|", metrics)
    assert len(re.findall(r"^ line \[", page, re.M)) == 2
    assert "(2 before, 1 after)" in page
    assert section(page, "Classes").count("\n| ") == 11  # with the heads
    assert re.search(r"\| `src/architectures/plain.py` \| [0-9a-f]{7} \| [0-9a-f]{7} \|", section(page, "Code"))
    assert section(page, "Code").count("`") == 2
    assert "so none counts." in section(page, "Classes")
    assert "**" not in section(page, "Classes")
    assert "make replicate EXP=HEAD" in page.split("### ", maxsplit=1)[0]
    assert "Raw images, prepared arrays and split are the same." in page


def test_a_page_has_the_counts_of_the_predictions(clone: Clone, call: Callable[..., str]) -> None:
    def right(revision: str) -> set[int]:
        lines = clone.git("show", f"{revision}:metrics/predictions/test.csv").splitlines()[1:]
        rows = [line.split(",") for line in lines]
        return {int(row[0]) for row in rows if row[1] == row[2]}

    before, after = right("main"), right("HEAD")
    assert before - after
    assert call(clone, "main", "--out", "out/review.md").startswith("out/review.md: ")
    page = squeezed((clone.folder / "out/review.md").read_text())
    assert f"{len(after - before)} newly right, {len(before - after)} newly wrong" in page
    shown = {int(x) for x in re.findall(r"^\| (\d+) \|", section(page, "Newly wrong"), re.M)}
    assert shown <= before - after
    assert len(shown) == min(10, len(before - after))
    assert f"On test: accuracy {len(after) - len(before):+d}.00 points" in page  # of 100 images


def test_the_surest_of_the_newly_right_and_wrong_come_first() -> None:
    rows = [
        (4, "a", "b", "a", 0.6),
        (5, "a", "a", "b", 0.5),
        (6, "a", "a", "b", 0.9),
        (7, "a", "b", "a", 0.8),
        (8, "a", "a", "a", 0.7),
    ]
    table = pd.DataFrame(rows, columns=["id", "label", "before", "after", "confidence"]).set_index("id")
    assert review.newly(table, right=True)["id"].tolist() == [7, 4]
    assert review.newly(table, right=False)["id"].tolist() == [6, 5]


def test_needs_git_alone(
    branch: Clone, tmp_path: Path, forks: None, monkeypatch: pytest.MonkeyPatch, call: Callable[..., str]
) -> None:
    monkeypatch.setattr(check, "PIPELINES", {"dvc.yaml": "make repro"})
    branch.git("clone", "--quiet", ".", str(tmp_path / "fresh"))
    fresh = Clone(tmp_path / "fresh")
    page = call(fresh, "origin/main", "--out", "review.md")
    text = (fresh.folder / "review.md").read_text()
    assert page.startswith("review.md: ")
    assert "dvc.lock is up to date." in text
    assert "On test: accuracy " in text
    # and where it was not reproduced: one line, with no path of this machine
    path = fresh.folder / "params.yaml"
    path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 16"))
    text = call(fresh, "origin/main")
    assert text.startswith("## Not reproduced\n")
    assert "- **dvc.lock is not up to date (make repro): train would run**\n" in text
    assert str(tmp_path) not in text


def test_what_was_not_reproduced_is_said_first(
    branch: Clone, tmp_path: Path, forks: None, monkeypatch: pytest.MonkeyPatch, call: Callable[..., str]
) -> None:
    monkeypatch.setattr(check, "PIPELINES", {"dvc.yaml": "make repro"})
    clone = branch.copied(tmp_path / "clone")
    path = clone.folder / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 3"))
    page = squeezed(call(clone, "main"))
    head = page.split("### ", maxsplit=1)[0]
    assert head.startswith("## Not reproduced\n\nThe committed results below do not belong")
    assert "After: workspace." in head
    assert "- **dvc.lock is not up to date" in head
    assert "train would run" in head


def test_other_data_is_not_compared(clone: Clone, call: Callable[..., str]) -> None:
    path = clone.folder / "dvc.lock"
    lock = YAML().load(path)
    for out in lock["stages"]["prepare"]["outs"]:
        if out["path"] == "data/prepared/test":
            out["md5"] = "0" * 32 + ".dir"
    YAML().dump(lock, path)
    page = squeezed(call(clone, "main"))
    assert page.startswith("## Not compared\n\nmain (")
    assert "must have predictions for the same test images" in page
    assert "| data/prepared/test |" in section(page, "Data")
    assert "| `train.epochs` | 2 | 1 |" in page


def test_a_branch_that_changes_nothing(clone: Clone, call: Callable[..., str]) -> None:
    clone.git("checkout", "--quiet", "main")
    clone.dvc("checkout")
    page = squeezed(call(clone, "main"))
    assert page.startswith("## Within noise\n\nBoth models classify the same images correctly.")
    assert section(page, "Parameters").strip() == "None has changed."
    assert section(page, "Code").strip() == "Nothing that a stage depends on has changed."
    assert section(page, "Metrics").startswith("\nNone has changed.")
    assert section(page, "Confusions that changed most").strip() == "None has changed."


def test_of_another_architecture_only_the_files_in_use_have_a_hash(clone: Clone, call: Callable[..., str]) -> None:
    lock = clone.folder / "dvc.lock"
    lock.write_text(lock.read_text().replace("src/architectures/plain.py", "src/architectures/basic.py"))
    code = section(squeezed(call(clone, "main")), "Code")
    assert re.search(r"\| `src/architectures/basic.py` \| – \| [0-9a-f]{7} \|", code)
    assert re.search(r"\| `src/architectures/plain.py` \| [0-9a-f]{7} \| – \|", code)


def test_commands_and_libraries_are_code_too(clone: Clone, call: Callable[..., str]) -> None:
    clone.git("checkout", "--quiet", "main")
    lock, locked = clone.folder / "dvc.lock", clone.folder / "requirements.txt"
    edit(lock, "cmd: python -EB src/train.py", "cmd: env A=1 python -EB src/train.py")
    version = re.search(r"^torch==(\S+)", locked.read_text(), re.M)
    assert version
    edit(locked, f"torch=={version[1]}", "torch==9.9")
    code = section(squeezed(call(clone, "main")), "Code")
    assert "| `the command of train` | python -EB src/train.py | env A=1 python -EB src/train.py |" in code
    assert f"| `torch` | {version[1]} | 9.9 |" in code
    assert code.count("\n| `") == 2


def test_a_parameter_that_is_null_is_not_one_that_is_missing() -> None:
    table = pages.unequal("parameter", {"a": None, "b": 1, "c": None}, {"b": None, "c": None, "d": None})
    assert table.to_numpy().tolist() == [["a", "null", "–"], ["b", 1, "null"], ["d", "–", "null"]]


def test_in_a_subfolder_of_a_larger_repository_data_and_predictions_are_found(
    clone: Clone, tmp_path: Path, call: Callable[..., str]
) -> None:
    shutil.rmtree(clone.folder / ".git")
    larger = Clone(tmp_path / "larger")
    shutil.copytree(clone.folder, larger.folder / "below")
    larger.git("init", "--quiet", "--initial-branch=main")
    larger.git("config", "user.name", "Test")
    larger.git("config", "user.email", "test@example.invalid")
    larger.commit("as a part")
    below = Clone(larger.folder / "below")
    path = below.folder / "dvc.lock"
    lock = YAML().load(path)
    (split,) = lock["stages"]["split"]["outs"]
    split["md5"] = "0" * 32 + ".dir"
    YAML().dump(lock, path)
    page = squeezed(call(below, "main"))
    assert page.startswith("## Within noise\n\nBoth models classify the same images correctly.")
    assert "| data/split |" in section(page, "Data")


def test_a_shallow_clone_is_said_to_be(
    branch: Clone, tmp_path: Path, call: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    branch.git("clone", "--quiet", "--depth=1", "--no-single-branch", branch.folder.as_uri(), str(tmp_path / "fresh"))
    with pytest.raises(InputError, match=r"^git merge-base origin/main HEAD must succeed; .*this clone is shallow"):
        call(Clone(tmp_path / "fresh"), "origin/main")


def test_without_a_dvc_lock_data_are_not_called_the_same(clone: Clone, call: Callable[..., str]) -> None:
    (clone.folder / "dvc.lock").unlink()
    assert "workspace has no dvc.lock" in section(call(clone, "main"), "Data")


def test_names_are_data(clone: Clone, call: Callable[..., str]) -> None:
    """In none of them is anything read: no markup, no mention, no end of a cell or line."""

    def rename() -> None:
        for path in (clone.folder / "metrics").rglob("*.csv"):
            path.write_text(path.read_text().replace("Bag", '"<b>|`x`\n@all"'))
        clone.commit("rename a class")

    branch = "<img/src=x|@all`"
    clone.git("checkout", "--quiet", "-b", branch, "HEAD~1")
    rename()
    clone.git("checkout", "--quiet", "-b", "renamed")
    clone.git("checkout", "--quiet", "idea", "--", ".")
    rename()
    page = squeezed(call(clone, branch))
    assert "Compared on test" in page
    assert section(page, "Classes").count("\n| ") == 11
    assert r"| ``<b>\|`x` @all`` |" in section(page, "Classes")
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", page)
    assert "<b>" not in outside
    assert "<img" not in outside
    assert "@all" not in outside


MARKUP = "@all <img src=x> [click](http://x) ~a~ GH-1"


@pytest.mark.parametrize("file", ["metrics/val.json", "dvc.lock", "metrics/predictions/test.csv"])
def test_so_is_what_stands_in_the_place_of_a_figure(clone: Clone, call: Callable[..., str], file: str) -> None:
    path = clone.folder / file
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"note": [MARKUP]}))
    elif path.suffix == ".csv":
        header, first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([header, f'{first.rpartition(",")[0]},"{MARKUP}"', *rest]) + "\n")
    else:
        lock = YAML().load(path)
        for out in lock["stages"]["prepare"]["outs"]:
            out["md5"] = MARKUP
        YAML().dump(lock, path)
    page = squeezed(call(clone, "main"))
    assert "<img" in page
    outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", page)
    assert [text for text in ("<img", "@all", "click", "~a", "GH-1") if text in outside] == []


@pytest.mark.parametrize(
    "file", ["metrics/data/classes.csv", "metrics/data/duplicates.csv", "metrics/curves/plots/metrics/val/accuracy.tsv"]
)
def test_the_marks_of_a_conflict_are_one_line(clone: Clone, call: Callable[..., str], file: str) -> None:
    path = clone.folder / file
    header, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, "<<<<<<< HEAD\n", *rest]))
    with pytest.raises(InputError, match=rf"^{file} in workspace must be a table with "):
        call(clone, "main")


def test_a_curve_without_an_epoch_is_none(clone: Clone, call: Callable[..., str]) -> None:
    path = clone.folder / review.VAL_CURVE
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert "One of the two has no curves." in call(clone, "main")


def test_a_folder_is_no_page(clone: Clone, call: Callable[..., str]) -> None:
    with pytest.raises(InputError, match=r"^OUT must be a file; received the folder docs$"):
        call(clone, "main", "--out", "docs")


def test_an_unknown_base_is_one_line(clone: Clone, call: Callable[..., str]) -> None:
    with pytest.raises(InputError, match=r"^git merge-base nonsense HEAD must succeed; ") as refused:
        call(clone, "nonsense")
    assert "\n" not in str(refused.value)
