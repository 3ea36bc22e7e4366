"""What changed in the data, from hashes of rows alone; the picture where the images are there."""

import sys
from collections import Counter
from pathlib import Path

from common import arrays, release
from common.errors import InputError

import numpy as np
import pandas as pd
import pytest

import data_diff
from analysis import revisions
from analysis.revisions import Revision
from conftest import squeezed
from replicates import Written

NAMES = ["coat", "hat", "shoe"]
Rows = dict[str, list[tuple[str, int]]]  # by part: the hash of the image, and its label
BEFORE: Rows = {"train": [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("d", 0)], "test": [("x", 0), ("y", 1)]}


def revision(name: str, rows: Rows, **more: str) -> Revision:
    classes = [
        {"part": part, "class": of, "images": count} | ({"pixel_mean": 1.5, "pixel_std": 2.0} if count else {})
        for part, pairs in rows.items()
        for of, count in [
            ("all", len(pairs)),
            *((of, sum(row == label for _, row in pairs)) for label, of in enumerate(NAMES)),
        ]
    ]
    files = {"metrics/data/classes.csv": pd.DataFrame(classes).to_csv(index=False)}
    for part, pairs in rows.items():
        files[f"metrics/data/{part}_rows.csv"] = "image,label\n" + "".join(f"{one},{row}\n" for one, row in pairs)
    copies = sum(len(pairs) - len({one for one, _ in pairs}) for pairs in rows.values())
    files["metrics/data/duplicates.csv"] = f"where,images,label_differs\nwithin train,{copies},0\n"
    return Written(name, files=files | more)


def page(before: Rows, after: Rows, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:  # fmt: skip
    known = {"A": revision("A", before), "B": revision("B", after)}
    monkeypatch.setattr(revisions, "resolve", known.get)
    monkeypatch.setattr(sys, "argv", ["data_diff.py", *words, "A", "B"])
    data_diff.main()
    return squeezed(capsys.readouterr().out)


def test_a_page_must_be_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^OUT must be a file; received the folder \.$"):
        page(BEFORE, BEFORE, monkeypatch, capsys, "--out", ".")


def test_the_same_rows_in_another_order_are_no_change(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after = {part: pairs[::-1] for part, pairs in BEFORE.items()}
    text = page(BEFORE, after, monkeypatch, capsys)
    assert text.strip() == "Every row has the same pixels, label and part in A and in B."


def test_each_kind_of_change_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    after: Rows = {
        # b was moved to test, c relabelled, d lost a copy, e and f are new
        "train": [("a", 0), ("c", 1), ("d", 0), ("e", 2), ("f", 2), ("x", 0)],
        "test": [("x", 0), ("y", 1), ("b", 1)],
    }
    text = page(BEFORE, after, monkeypatch, capsys)
    assert "From A to B, 6 images differ." in text
    sections = {part.split("\n", 1)[0]: part for part in text.split("#### ")[1:]}
    assert "| train | shoe | 2 |\n| train | coat | 1 |" in sections["Added"]
    for one in ("Removed", "Relabelled", "Moved"):
        assert sections[one].count("|\n") == 3  # header, rule and one row
    assert "| train | coat | 1 |" in sections["Removed"]
    assert "| shoe | hat | 1 |" in sections["Relabelled"]
    assert "| train | test | 1 |" in sections["Moved"]
    assert "**1 images of test are in train now, and were not before.**" in text
    figures = sections["Figures that differ"]
    assert "| copies: within train | 1, 0 with another label | 0, 0 with another label |" in figures
    assert "| train | 5 (100.0%), pixels 1.5 ± 2.0 | 6 (100.0%), pixels 1.5 ± 2.0 |" in figures
    assert "| train, shoe | 1 (20.0%), pixels 1.5 ± 2.0 | 2 (33.3%), pixels 1.5 ± 2.0 |" in figures
    assert "| test, coat | 1 (50.0%), " in figures  # another share


def test_counts_follow_from_the_multisets() -> None:
    """Held against a count by hand, on random rows with copies, moves and other labels."""
    generator = np.random.default_rng(0)

    def rows() -> pd.DataFrame:
        count = 200
        return pd.DataFrame(
            {
                "part": generator.choice(["train", "test"], count),
                "label": generator.choice(NAMES, count),
                "image": generator.choice(list("abcdefghijklmnopqrstuvwxyz"), count),
            }
        )

    before, after = sides = rows(), rows()
    changed = data_diff.changes(before, after)
    for image in "abcdefghijklmnopqrstuvwxyz":
        counts = [int((side["image"] == image).sum()) for side in (before, after)]
        mine = changed[changed["image"] == image]
        assert mine["part before"].isna().sum() == max(0, counts[1] - counts[0])
        assert mine["part after"].isna().sum() == max(0, counts[0] - counts[1])
        both = [Counter(side.loc[side["image"] == image, ["part", "label"]].itertuples(index=False)) for side in sides]
        assert len(mine) == max(counts) - (both[0] & both[1]).total()


def test_a_copy_that_comes_or_goes_is_not_another_that_moved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leak: Rows = {"train": BEFORE["train"], "test": [*BEFORE["test"], ("a", 0)]}
    relabelled: Rows = {"train": [*BEFORE["train"], ("a", 2)], "test": BEFORE["test"]}
    for more, row in ((leak, "| test | coat | 1 |"), (relabelled, "| train | shoe | 1 |")):
        for before, after, heading in ((BEFORE, more, "Added"), (more, BEFORE, "Removed")):
            text = page(before, after, monkeypatch, capsys)
            kinds = [part.split("\n", 1)[0] for part in text.split("#### ")[1:]]
            assert kinds == [heading, "Figures that differ"]
            assert row in text
            assert "1 image differs." in text


def test_a_revision_without_hashes_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"A": Written("A"), "B": revision("B", {"train": BEFORE["train"], "test": [*BEFORE["test"], ("a", 0)]})}
    monkeypatch.setattr(revisions, "resolve", known.get)
    monkeypatch.setattr(sys, "argv", ["data_diff.py", "A", "B"])
    data_diff.main()
    said = capsys.readouterr().out
    assert said.startswith("Which rows differ is not known: A or B has no hashes of its rows ")
    assert "are in train now" not in said  # a copy that may have been there before


def test_changed_images_are_drawn_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    for part in ("train", "test"):
        (folder := arrays.PREPARED / part).mkdir(parents=True)
        arrays.save(folder, images, np.zeros(4, np.uint8))
    hashes = release.short(release.hashes(images))
    before: Rows = {"train": [(one, 0) for one in hashes], "test": [("y", 1)]}
    after: Rows = {"train": [(hashes[0], 1), *((one, 0) for one in hashes[1:])], "test": [("y", 1)]}
    page(before, after, monkeypatch, capsys, "--out", "my page.md")
    assert "![Changed images](<my page-data.png>)" in Path("my page.md").read_text()
    assert Path("my page-data.png").stat().st_size > 1000
    after["test"] = [("y", 2)]
    after["train"] = before["train"]
    page(before, after, monkeypatch, capsys, "--out", "page.md")
    assert "None of the changed images is here to be shown." in Path("page.md").read_text()


def test_a_copy_across_the_parts_is_new_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leak: Rows = BEFORE | {"test": [*BEFORE["test"], ("a", 0)]}
    other: Rows = leak | {"test": [*leak["test"], ("z", 0)]}
    more: Rows = leak | {"test": [*leak["test"], ("b", 1)]}
    assert "are in train now" not in page(leak, other, monkeypatch, capsys)
    assert "**1 images of test are in train now, and were not before.**" in page(leak, more, monkeypatch, capsys)


def test_a_class_or_a_part_without_images_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page(BEFORE, BEFORE | {"test": []}, monkeypatch, capsys)
    assert "| test | 2 (100.0%), pixels 1.5 ± 2.0 | 0 (0.0%), pixels – ± – |" in text
    assert "| train, shoe |" not in text  # which stays as it was
    assert "| test, shoe |" not in text
