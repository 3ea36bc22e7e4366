"""Faults planted in a scratch clone: `make check` must refuse each, and say why."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from common import files
from common.errors import InputError

import pytest
from ruamel.yaml import YAML

import check
import readme
import reproduction
from analysis import metric_files
from conftest import TINY, Clone, made_once, of_fashion_mnist, write_params
from edits import write_output

MODEL = Path("models/model.keras")


@pytest.fixture(scope="module")
def whole(reproduced: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which everything belongs together."""

    def make(folder: Path) -> None:
        clone = reproduced.copied(folder)
        for results in (folder / "benchmarks").rglob("*.json"):
            results.unlink()  # of the real data
        if (folder / "published/claims.yaml").exists():
            clone.run("python", "published/summary.py")
        clone.run("python", "tools/readme.py")
        clone.run("python", "benchmarks/tables.py")

    return Clone(made_once(tmp_path_factory, "whole", make))


@pytest.fixture
def clone(whole: Clone, tmp_path: Path, forks: None, monkeypatch: pytest.MonkeyPatch) -> Clone:
    clone = whole.copied(tmp_path / "clone")
    monkeypatch.chdir(clone.folder)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    return clone


@pytest.fixture
def without_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes no time for faults that DVC does not see."""
    monkeypatch.setattr(check, "lock_problems", list)


def check_pages() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["readme.py", "--check"])
        readme.main()


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def touch_a_source() -> None:
    edit("src/training/batches.py", "import math", "import math  # touched")


def edit_a_metric() -> None:
    edit("metrics/test.json", '"accuracy": 0.', '"accuracy": 0.9')


def edit_a_published_system() -> None:
    edit("published/basic/params.yaml", "  batch_size: 512", "  batch_size: 511")


def edit_a_published_metric() -> None:
    edit("published/basic/metrics/val.json", '"accuracy": 0.', '"accuracy": 0.9')


def freeze(key: str = "frozen") -> None:
    touch_a_source()
    edit("dvc.yaml", "    cmd: python -EB src/train.py\n", f"    {key}: true\n    cmd: python -EB src/train.py\n")


def freeze_in_other_letters() -> None:
    freeze(r'"fro\x7aen"')


def say_it_is_up_to_date() -> None:
    """In a comment that DVC prints with the command."""
    command = "python -EB src/train.py"
    said = f'"{command} # Data and pipelines are up to date."'
    edit("dvc.yaml", f"    cmd: {command}\n", f"    cmd: {said}\n")


def forge() -> None:
    """Test predictions and all that follows from them, which dvc.yaml no longer has."""
    table, classes = Path("metrics/predictions/test.csv"), Path("metrics/classes/test.csv")
    rows = [line.split(",") for line in table.read_text().splitlines()]
    column = rows[0].index("predicted"), rows[0].index("label")
    table.write_text("".join(",".join(row) + "\n" for row in [rows[0], *(right(row, *column) for row in rows[1:])]))
    figures, by_class = check._follows(table, classes)
    classes.write_text(by_class)
    known = metric_files.read(Path("metrics/test.json"))
    files.write_json(Path("metrics/test.json"), known | {key: figures[key] for key in known.keys() & figures.keys()})
    for name in ("predictions", "classes", "test.json"):
        edit("dvc.yaml", f"      - metrics/{name}:\n          cache: false\n", "")


def right(row: list[str], predicted: int, label: int) -> list[str]:
    return [*row[:predicted], row[label], *row[predicted + 1 :]]


def forge_the_lock() -> None:
    forge()
    yaml = YAML()
    lock = yaml.load(Path("dvc.lock"))
    outs = lock["stages"]["evaluate"]["outs"]
    gone = ("metrics/predictions", "metrics/classes", "metrics/test.json")
    lock["stages"]["evaluate"]["outs"] = [out for out in outs if out["path"] not in gone]
    yaml.dump(lock, Path("dvc.lock"))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_byte_of_the_model() -> None:
    flip_a_byte(MODEL)


def remove_predictions() -> None:
    Path("metrics/predictions/test.csv").unlink()


def remove_classes() -> None:
    Path("metrics/classes/test.csv").unlink()


def repeat_a_class() -> None:
    path = Path("metrics/classes/test.csv")
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def edit_a_class() -> None:
    path = Path("metrics/classes/test.csv")
    first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, second.replace("0.", "0.9", 1), *rest]))
    assert "0." in second


def remove_an_interval() -> None:
    path = Path("metrics/test.json")
    figures = metric_files.read(path)
    del figures["accuracy_low"]
    path.write_text(json.dumps(figures))


ARCHITECTURE = Path("src/architectures/plain.py")


def read_a_file_in_the_architecture() -> None:
    edit(str(ARCHITECTURE), "def build", "open('params.yaml').read()\n\n\ndef build")


def import_a_helper_in_the_architecture() -> None:
    Path("src/architectures/helper.py").touch()
    edit(str(ARCHITECTURE), "def build", "__import__('importlib').import_module('architectures.helper')\n\n\ndef build")


def commit_what_is_large() -> None:
    Path(" more.bin").write_bytes(bytes(check.LARGEST_IN_GIT + 1))
    subprocess.run(["git", "add", " more.bin"], check=True)


def test_a_whole_clone_passes_and_an_edited_page_does_not(clone: Clone) -> None:
    words = ("make", "--silent", "--old-file=.venv/run", "check")
    # neither data nor figures of images that are no system matter
    (clone.folder / "published/images/metrics/data").mkdir(parents=True)
    page = Path("data/input/README.md").read_text()
    for name in ("data", "models", "plots", ".dvc/cache"):
        shutil.rmtree(name)
    clone.git("checkout", "--quiet", "data")
    Path("data/input/README.md").write_text(page)
    said = clone.run(*words)
    assert "belong together" in said
    assert "README.md shows the figures" in said
    edit("README.md", "| test (synthetic) ", "| test (drawn) ")
    said = clone.run("sh", "-c", "! python tools/readme.py --check")
    assert "error: README.md must show the figures" in said
    assert "Traceback" not in said


def assert_named(problems: Iterable[str], reasons: list[str]) -> None:
    text = "\n".join(problems)
    assert [reason for reason in reasons if reason not in text] == []


@of_fashion_mnist
def test_own_images_are_told_what_belongs_to_fashion_mnist(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(Path(), TINY | {"data.source": "folder"})
    with pytest.raises(InputError, match=r"received \d+ faults"):
        check.main()
    pattern = (
        r"^README.md, MODEL_CARD.md, published/.* Fashion-MNIST's; make adopt removes them \(data.source is folder\)$"
    )
    assert re.search(pattern, capsys.readouterr().err, re.M)


def test_images_of_ones_own_need_not_be_there(
    reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: None
) -> None:
    own = reproduced.copied(tmp_path / "own")
    for path in (own.folder / "data/raw").iterdir():
        shutil.copy(path, own.folder / "data/input" / path.name)
    write_params(own.folder, TINY | {"data.source": "idx"})
    own.dvc("repro")
    own.commit("images of one's own")
    assert "data/input/README.md" in own.git("ls-files") and "ubyte" not in own.git("ls-files")
    own.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    assert list(check.lock_problems()) == []
    for file, old, new, reasons in (
        ("src/prepare.py", "\n\n\n", "\n\n\n\n", ["dvc.lock is not up to date (make repro): prepare", "modified: src/prepare.py"]),
        ("src/train.py", "\n\n\n", "\n\n\n\n", ["modified: src/train.py"]),
        ("metrics/data/classes.csv", "test", "text", ["modified: metrics/data"]),
        ("params.yaml", "epochs: 2", "epochs: 3", ["modified: train"]),
        ("dvc.yaml", "src/prepare.py", "src/prepare.py --help", ["changed command"]),
        ("dvc.yaml", "src/evaluate.py", "src/evaluate.py --help", ["changed command"]),
    ):  # fmt: skip
        edit(file, old, new)
        assert_named(check.lock_problems(), reasons)
        own.git("-C", str(tmp_path / "clone"), "checkout", "--quiet", ".")
    Path("data/input/classes.txt").write_text("a\nb\n")
    assert_named(check.lock_problems(), ["dvc.lock is not up to date (make repro): prepare"])


@of_fashion_mnist
@pytest.mark.parametrize("source", ["fashion-mnist", "idx"])
def test_published_systems_count_where_the_images_are_theirs(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    write_params(Path(), {"data.source": source})
    monkeypatch.setattr(reproduction, "would_run", lambda pipeline, *_: [f"a stage of {pipeline}"])
    said = [line for line in check.lock_problems() if "not up to date" in line]
    expected = ["dvc.lock is not up to date (make repro): a stage of dvc.yaml would run"]
    if source == "fashion-mnist":
        stage = "a stage of published/dvc.yaml"
        expected.append(f"published/dvc.lock is not up to date (make published): {stage} would run")
    assert said == expected


@pytest.mark.parametrize(
    ("faults", "reasons"),
    [
        ([touch_a_source],
         ["dvc.lock is not up to date (make repro): train", "modified: src/training/batches.py"]),
        ([freeze], ["dvc.lock is not up to date (make repro): what is frozen"]),
        ([freeze_in_other_letters], ["dvc.lock is not up to date (make repro): what is frozen"]),
        ([say_it_is_up_to_date], ["dvc.lock is not up to date (make repro): train"]),
        ([edit_a_metric, flip_a_byte_of_the_model],
         ["modified: metrics/test.json", "modified: models/model.keras"]),
    ],
)  # fmt: skip
def test_what_dvc_would_run_again_is_named(clone: Clone, faults: list[Callable[[], None]], reasons: list[str]) -> None:
    for plant in faults:
        plant()
    assert_named(check.lock_problems(), reasons)


@pytest.mark.parametrize(
    ("plant", "reasons"),
    [
        (edit_a_metric, ["metrics/test.json has accuracy 0.9", "metrics/predictions/test.csv gives 0."]),
        (edit_a_class, ["metrics/classes/test.csv is not what metrics/predictions/test.csv gives"]),
        (repeat_a_class, ["metrics/classes/test.csv is not what metrics/predictions/test.csv gives"]),
        (remove_an_interval, ["metrics/test.json has accuracy_low None; metrics/predictions/test.csv gives 0."]),
        pytest.param(edit_a_published_metric, ["published/basic/metrics/predictions/val.csv gives 0."],
                     marks=of_fashion_mnist),
        (remove_predictions, ["predictions/test.csv and metrics/classes/test.csv must all have figures"]),
        (remove_classes, ["predictions/test.csv and metrics/classes/test.csv must all have figures"]),
        (commit_what_is_large, [" more.bin is in git with 1,000,001 bytes"]),
        (forge, ["metrics/predictions was changed (make repro)", "metrics/test.json was changed (make repro)"]),
        (forge_the_lock, ["metrics/predictions/test.csv is in git, and no stage writes it"]),
    ],
)  # fmt: skip
def test_a_planted_fault_is_refused_with_its_reasons(
    clone: Clone, without_dvc: None, plant: Callable[[], None], reasons: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plant()
    with pytest.raises(InputError, match=r"^what is committed must belong together; received . faults$"):
        check.main()
    assert_named([capsys.readouterr().err], reasons)


@pytest.mark.parametrize(
    ("plant", "received"),
    [(read_a_file_in_the_architecture, "params.yaml"), (import_a_helper_in_the_architecture, "helper.py")],
)
def test_an_architecture_that_needs_another_file_is_refused(
    clone: Clone, plant: Callable[[], None], received: str
) -> None:
    plant()
    said = clone.run("sh", "-c", "! python tools/check.py", fresh=True)
    rule = "plain.py must need no other file, module of src/ or program; received"
    assert re.search(rf"^{rule} .*{received}$", said, re.M)
    assert "Traceback" not in said


def test_a_module_that_takes_the_place_of_another_is_refused(clone: Clone) -> None:
    Path("src/yaml.py").touch()
    said = clone.run("sh", "-c", "! python tools/check.py", fresh=True)
    rule = "a module in src/ must not have the name of a standard or installed one; received"
    assert said == f"error: {rule} yaml\n"


def test_the_cause_of_other_results_comes_first_and_is_no_fault(
    clone: Clone, without_dvc: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for precision in ("float32", "bfloat16"):
        clone.commit("results")
        figures = metric_files.read(Path("metrics/train.json"))
        write_output("metrics/train.json", json.dumps(figures | {"precision": precision, "device": "cpu"}))
    check.main()
    cause = "the results are not as committed: train computed in bfloat16 on cpu here, in float32 on cpu"
    assert capsys.readouterr().err.startswith(cause)
    edit_a_metric()
    with pytest.raises(InputError, match="received 2 faults"):
        check.main()
    first, second, fault, changed = capsys.readouterr().err.splitlines()
    assert first.startswith("the results are not as committed: metrics/test.json is not as committed, though")
    assert second.startswith(cause)
    assert "gives 0." in fault
    assert changed == "metrics/test.json was changed (make repro)"


def test_a_name_that_begins_like_an_output_s_is_no_output(clone: Clone) -> None:
    Path("models/model.keras.md").write_text("about it")
    clone.git("add", "--force", "models/model.keras.md")
    assert list(check.file_problems()) == []


@pytest.mark.parametrize("page", ["README.md", pytest.param("MODEL_CARD.md", marks=of_fashion_mnist)])
def test_an_edited_page_is_refused(clone: Clone, page: str) -> None:
    check_pages()
    edit(page, "| test (synthetic) ", "| test (drawn) ")
    with pytest.raises(InputError, match=rf"^{page} must show the figures"):
        check_pages()


@pytest.mark.slow
def test_damaged_labels_in_dvcs_cache_are_never_trained_on(clone: Clone) -> None:
    labels = Path("data/prepared/train/labels.npy")
    md5 = files.md5(labels)
    assert md5
    damaged = Path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}")
    content, mode = bytearray(damaged.read_bytes()), damaged.stat().st_mode
    content[-400:] = bytes((label + 1) % 10 for label in content[-400:])
    damaged.chmod(0o644)
    damaged.unlink()  # it may be a link to what other tests read
    damaged.write_bytes(content)
    damaged.chmod(mode)
    shutil.rmtree(labels.parent)
    clone.dvc("checkout")  # without a word
    edit("params.yaml", "  learning_rate: 0.05", "  learning_rate: 0.04")
    said = clone.run("sh", "-c", "! dvc repro 2>&1")
    assert "error: data/prepared/train must have the bytes that dvc.lock says (MD5 " in said
    assert "remove data/prepared/train and what python tools/check.py --data names, then dvc repro" in said
    assert not MODEL.exists()
    said = clone.run("sh", "-c", "! python tools/check.py --data 2>&1")
    assert f"{damaged} is damaged (remove it; dvc pull or dvc repro makes it again)" in said.replace(
        f"{Path.cwd()}/", ""
    )
    damaged.unlink()
    shutil.rmtree(labels.parent)
    clone.dvc("repro")
    assert files.md5(labels) == md5
    assert MODEL.exists()


def test_with_data_every_byte_counts(
    clone: Clone, without_dvc: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["check.py", "--data"])
    check.main()
    images = Path("data/prepared/train/images.npy")
    for path in (MODEL, images):
        flip_a_byte(path)
    with pytest.raises(InputError, match="received 2 faults"):
        check.main()
    assert capsys.readouterr().err.splitlines() == [
        f"{path} was changed (dvc checkout --force {path} brings back what dvc.lock says)"
        for path in (images.parent, MODEL)
    ]
    monkeypatch.setattr(sys, "argv", ["check.py"])
    check.main()


def test_where_dvc_fails_its_own_error_is_said(clone: Clone) -> None:
    edit("dvc.yaml", "stages:\n", "stages: [\n")
    with pytest.raises(InputError, match=r"^dvc must be able to read dvc\.yaml; it said: .*dvc\.yaml"):
        reproduction.would_run("dvc.yaml")
