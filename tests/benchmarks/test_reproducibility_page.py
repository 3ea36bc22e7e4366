import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import InputError

import pandas as pd
import pytest

import benchmark_files
import reproducibility_page
import sameness
from analysis import dvc_lock, seeds
from conftest import squeezed

PLACE = {
    "processor": "some",
    "vector instructions": "avx2",
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "C library": "glibc 2.36",
}
THE_SAME = {"run": "1 thread", **PLACE, "md5": "0123456789abcdef"}
OTHERS = {
    "run": "train.precision bfloat16",
    **PLACE,
    "md5": "fedcba9876543210",
    "test": {"predictions changed": 1234, "accuracy": -0.0014},
}
NATIVE: dict[str, Any] = {"imitated": "", "by": "", "rows": 6000, "epochs": 2, **PLACE}
NATIVE |= {"outputs": {"models/model.keras": "aaaa", "metrics/val.json": "bbbb"}}
IMITATED = NATIVE | {"imitated": "haswell", "by": "qemu-x86_64 -cpu Haswell-v4"}
SAMENESS = {"training": "this training", "runs": [THE_SAME, OTHERS], "small": [NATIVE, IMITATED]}
STEP = {
    "machine": {"processor": "some", "threads": 2},
    "precisions": {
        "float32": {
            "commit": "abc1234",
            "results": [
                {"batch_size": size, "images_a_second": {"ours": 12 * size}, "ratios": {"ours / OpenMP": size / 100}}
                for size in (128, 256)
            ],
        },
        "bfloat16": {
            "commit": "abc1234",
            "results": [{"batch_size": 256, "images_a_second": {"ours": 9999}, "ratios": {"ours / OpenMP": 1.5}}],
        },
    },
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark_files, "training_key", lambda: "this training")
    committed = dvc_lock.Stage(outputs={dvc_lock.MODEL: THE_SAME["md5"]})
    monkeypatch.setattr(dvc_lock, "read", lambda: {"train": committed})
    (tmp_path / "benchmarks/train_step").mkdir(parents=True)
    (tmp_path / "metrics").mkdir()
    return tmp_path


def write(name: str, content: object) -> None:
    Path(name).write_text(json.dumps(content))


def test_what_was_not_measured_is_said_to_be() -> None:
    for table in (
        reproducibility_page.runs_table,
        reproducibility_page.processors_table,
        reproducibility_page.operations_table,
        reproducibility_page.speed_table,
    ):
        assert table().startswith("Not measured")
    write("benchmarks/sameness.json", SAMENESS | {"small": []})
    assert reproducibility_page.processors_table().startswith("Not measured")
    said = reproducibility_page.runs_table()
    assert not said.startswith("Not measured")
    assert "Not run with this training yet: 2 threads, " in said
    every = [THE_SAME | {"run": name} for name in sameness.RUNS]
    write("benchmarks/sameness.json", SAMENESS | {"runs": every})
    assert "Not run with this training" not in reproducibility_page.runs_table()


def test_each_run_is_held_against_the_committed_bytes() -> None:
    write("benchmarks/sameness.json", SAMENESS)
    text = squeezed(reproducibility_page.runs_table())
    place = "some (avx2) | 3.11.7 | 2.13.0+cpu | glibc 2.36"
    assert f"| 1 thread | {place} | `0123456789ab…` | as committed |" in text
    assert f"| train.precision bfloat16 | {place} | `fedcba987654…` | others |" in text


def test_other_bytes_are_set_against_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    write("benchmarks/sameness.json", SAMENESS)
    change = "bfloat16 on some: 1,234 test predictions changed, test accuracy -0.14 points"
    assert f"{change}; the spread over seeds is not measured" in reproducibility_page.runs_table()
    runs = pd.DataFrame({"part": ["val", "test", "test"], "accuracy": [0.5, 0.900, 0.902]})
    monkeypatch.setattr(seeds, "noise", lambda here: runs)  # one that belongs to the training
    text = reproducibility_page.runs_table()
    assert f"{change}; the standard deviation over 2 seeds is 0.14 points." in text


def test_each_processor_has_the_hash_of_its_outputs_and_what_differs() -> None:
    outputs = {"models/model.keras": "cccc", "metrics/val.json": "bbbb", "models/model.onnx": "dddd"}
    longer, others = IMITATED | {"epochs": 3, "outputs": {}}, IMITATED | {"outputs": outputs}
    write("benchmarks/sameness.json", SAMENESS | {"small": [NATIVE, longer, others, NATIVE]})
    text = squeezed(reproducibility_page.processors_table())
    place = "some (avx2) | 3.11.7 | 2.13.0+cpu | glibc 2.36"
    itself, first, second = (sameness.one_hash(run["outputs"])[:12] for run in (NATIVE, longer, others))
    row = f"| itself | {place} | 6,000 rows, 2 epochs | `{itself}…` |"
    assert [line.removeprefix(row) for line in text.splitlines() if line.startswith(row)] == [" – |", " none |"]
    by = f"| haswell (`qemu-x86_64 -cpu Haswell-v4`) | {place} | 6,000 rows,"
    assert f"{by} 3 epochs | `{first}…` | – |" in text  # no other has as many epochs
    assert f"{by} 2 epochs | `{second}…` | `models/model.keras`, `models/model.onnx` |" in text


def test_each_processor_has_the_operations_whose_bits_differ() -> None:
    hashes = {"exp": "aa", "atan": "bb", "x ** 0.5": "cc"}
    emulated = {"under": "qemu", "hashes": {"atan": "dd", "x ** 0.5": "ee", "not in the first": "ff"}}
    write("benchmarks/arithmetic.json", {"runs": [PLACE | {"under": "", "hashes": hashes}, PLACE | emulated]})
    text = squeezed(reproducibility_page.operations_table())
    place = "some (avx2) | 3.11.7 | 2.13.0+cpu | glibc 2.36"
    assert f"| itself | {place} | 3 | none |" in text
    assert f"| emulated (`qemu`) | {place} | 3 | `atan`, `x ** 0.5` |" in text


def test_a_step_has_a_column_for_each_precision_and_batch() -> None:
    write("benchmarks/train_step/some.json", STEP)
    assert squeezed(reproducibility_page.speed_table()).splitlines() == [
        "| | float32, batch 128 | float32, batch 256 | bfloat16, batch 256 |",
        *squeezed(reproducibility_page.speed_table()).splitlines()[1:2],
        "| images a second | 1,536 | 3,072 | 9,999 |",
        "| ours / OpenMP | 1.28 | 2.56 | 1.50 |",
        "",
        "Measured on 2 cores: some, at abc1234.",
    ]


@pytest.mark.parametrize(
    ("name", "content", "table"),
    [
        ("sameness", SAMENESS | {"training": "another"}, reproducibility_page.runs_table),
        ("sameness", SAMENESS | {"training": "another"}, reproducibility_page.processors_table),
        ("sameness", [], reproducibility_page.runs_table),
        ("train_step/some", [], reproducibility_page.speed_table),
    ],
)
def test_what_others_have_written_is_refused(name: str, content: Any, table: Callable[[], str]) -> None:
    write(f"benchmarks/{name}.json", content)
    with pytest.raises(InputError, match=rf"^benchmarks/{name}\.json must "):
        table()
