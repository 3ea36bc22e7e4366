"""The tables of benchmarks/ on the pages, from results that are easy to count."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import pytest

import benchmark_files
import readme
import tables
from conftest import ROOT, Clone, call, squeezed, write_params

PAGES_HERE = {
    "README.md": ("README.md", "clone"),
    "experiments.md": ("docs/experiments.md", "recipes", "operations", "search"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has README alone; the other pages are tested by their tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark_files, "training_key", lambda: "this training")
    monkeypatch.setattr(
        tables,
        "PAGES",
        {path: made for path, made in tables.PAGES.items() if str(path) in ("README.md", "docs/experiments.md")},
    )
    write_params(tmp_path, {})
    for name in ("metrics", "benchmarks"):
        (tmp_path / name).mkdir()
    (tmp_path / "docs").mkdir()
    for page, *marks in PAGES_HERE.values():
        text = [f"<!-- {name}: written by make readme -->\n<!-- end of {name} -->\n" for name in marks]
        (tmp_path / page).write_text("".join(text))
    write("metrics/unlikeness.json", {"distance_limit": 1.5, "train_images": 9000, "val_images": 5000})
    return tmp_path


def write(path: str, content: Any) -> None:
    Path(path).write_text(json.dumps(content))


def page(folder: Path) -> str:
    return squeezed("".join((folder / page).read_text() for page, *_ in PAGES_HERE.values()))


def test_own_images_are_means_over_seeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PAGES", {Path("README.md"): {"clone": tables.own_images_table}})
    call(tables)
    assert "Not measured with this recipe (`python benchmarks/own_images.py`)." in page(folder)
    run = {"set": "digits", "train rows": 1200, "seconds": 70.4, "boosting": 0.9, "logistic": 0.8}
    runs = [
        run
        | {"ours": 0.9 + 0.02 * seed, "seconds": 70.4 + seed, "machine": {"processor": "some processor", "threads": 2}}
        for seed in range(3)
    ]
    recipe = params.load().train.model_dump(mode="json")
    write("benchmarks/own_images.json", {"training": "this training", "recipe": recipe, "runs": runs})
    call(tables)
    assert "| digits | 1,200 | 3 | 72 | 92.0% ± 2.0% | 90.0% ± 0.0% | 80.0% ± 0.0% |" in page(folder)
    assert "on 2 cores: some processor." in page(folder)
    write_params(folder, {"train.least_steps": 1})  # of which the training's results may say nothing
    with pytest.raises(InputError, match=r"own_images\.json must be of the recipe in params\.yaml; received results"):
        call(tables)


def test_a_random_split_counts_for_the_model_it_is_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_files, "models", lambda: {"default": "a", "deep": "b"})
    (folder / "published").mkdir()
    write("published/results.json", {"default": {"test_accuracy": 0.9}, "deep": {"test_accuracy": 0.9}})
    runs = [("a", 0.91, "default"), ("a", 0.93, "default"), ("b", 0.92, "deep"), ("c", 0.5, "default")]
    common = {"precision": "float32"}
    found = [common | {"system": name, "model": model, "accuracy": accuracy} for model, accuracy, name in runs]
    write("benchmarks/resplits.json", {"runs": found})
    assert squeezed(tables.resplits_table()).splitlines()[2:] == [
        "| default | 90.00% | float32 | 91.00%, 93.00% | +2.00 ± 1.41 (n = 2) |",
        "| deep | 90.00% | float32 | 92.00% | +2.00 (n = 1) |",
    ]
    write("benchmarks/resplits.json", {"runs": found[3:]})
    assert tables.resplits_table() == "Not measured with these models (`python benchmarks/resplits.py`)."


def test_verdicts_are_the_most_that_is_wrong_and_the_range_that_is_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PAGES", {Path("README.md"): {"clone": tables.verdicts_sentences}})
    call(tables)
    assert "Not simulated (`python benchmarks/verdicts.py`)." in page(folder)
    wrong = [(0.01, 0.02), (0.03, 0.049), (0.04, 0.01)]
    cases = [
        {
            "part": part,
            "spread": "committed",
            "std": 0.001,
            "wrong of equal": equal,
            "wrong of equal, one training": single,
            f"right at {gain}": right,
        }
        for (equal, single), part, gain, right in zip(
            wrong,
            ("test", "test", "val"),
            ("0.30 points", "0.30 points", "0.50 points"),
            (0.42, 0.98, 0.7),
            strict=True,
        )
    ]
    write("benchmarks/verdicts.json", {"pairs": 2000, "seeds": 5, "cases": cases})
    refusal = r"^benchmarks/verdicts.json must be of the spread in .*; received 0.001 on "
    for noise, part in ((None, "test"), ({"test": 0.001}, "val"), ({"test": 0.001, "val": 0.002}, "val")):
        if noise is not None:
            write("metrics/noise.json", {name: {"accuracy": {"std": std}} for name, std in noise.items()})
        with pytest.raises(InputError, match=f"{refusal}{part}$"):
            call(tables)
    write("metrics/noise.json", {part: {"accuracy": {"std": 0.001}} for part in ("val", "test")})
    call(tables)
    said = page(folder)
    assert "In each of 3 cases, 2,000 pairs" in said
    assert "at most 4.9% were called" in said
    assert "0.30 points on test in 42% to 98% of the pairs, 0.50 points on val in 70% to 70% of the pairs," in said


def test_limits_are_wrong_verdicts_by_seeds_and_spread(folder: Path) -> None:
    assert tables.limits_table() == "Not simulated (`python benchmarks/verdicts.py`)."
    shares = {("two seeds", 1.0): 0.05, ("two seeds", 2.0): 0.1, ("one", 1.0): 0.07, ("one", 2.0): 0.413}
    limits = [{"seeds": seeds, "ratio of spreads": ratio, "wrong of equal": x} for (seeds, ratio), x in shares.items()]
    write("benchmarks/verdicts.json", {"pairs": 2000, "seeds": 5, "cases": [], "limits": limits})
    write("metrics/noise.json", {})
    heading, _, *rows = squeezed(tables.limits_table()).splitlines()
    assert heading == "| seeds | spread × 1 | spread × 2 |"
    assert rows == ["| two seeds | 5.0% | 10.0% |", "| one | 7.0% | 41.3% |"]


def test_the_best_trial_of_each_sampler_is_a_mean_over_sweeps(folder: Path) -> None:
    assert tables.search_sentence() == "Not measured (`python benchmarks/search.py`)."
    values = {"TPE": [(0.5, 0.7), (0.8, 0.6)], "random": [(0.6, 0.5), (0.5, 0.62)]}
    runs = [
        {"sampler": name, "seed": seed, "trials": [{"value": value} for value in trials]}
        for name, sweeps in values.items()
        for seed, trials in enumerate(sweeps)
    ]
    runs.append({"sampler": "random", "seed": 2, "trials": [{"value": 0.1}]})  # still runs
    write("benchmarks/search.json", {"search": {"trials": 2}, "runs": runs[-1:]})
    assert tables.search_sentence() == "Not measured (`python benchmarks/search.py`)."
    write("benchmarks/search.json", {"search": {"trials": 2}, "runs": runs})
    assert tables.search_sentence() == (
        "Best val accuracy of 2 short trainings, over sweeps with different seeds: "
        "TPE 75.0% ± 7.1% (n = 2), random 61.0% ± 1.4% (n = 2)."
    )


# --- accuracy against time ------------------------------------------------------------------------


LONGER = {"train.epochs": 28, "model.options.blocks.widths": [80, 160, 320]}


def run_of(recipe: str, precision: str, seed: int, seconds: float, processor: str = "some processor") -> dict:
    return {
        "recipe": recipe,
        "precision": precision,
        "seed": seed,
        "changes": {"params.yaml": {}, "longer": LONGER}[recipe],
        "accuracy": 0.9 + 0.01 * seed,
        "seconds": seconds,
        "fixed_step_ms": seconds / 10,
        "machine": {"processor": processor, "threads": 2},
    }


def recipe_of(*runs: dict) -> dict:
    return {"training": "this training", "runs": list(runs)}


def write_recipe(folder: Path, content: object) -> None:
    (folder / "benchmarks/recipe.json").write_text(json.dumps(content))


def test_accuracies_are_means_over_seeds_and_seconds_the_fewest(folder: Path) -> None:
    runs = [run_of("params.yaml", "float32", seed, 90 + 10 * seed) for seed in range(3)]
    write_recipe(folder, recipe_of(*runs, run_of("longer", "bfloat16", 1, 200)))
    call(tables)
    text = page(folder)
    longer = "`train.epochs=28` `model.options.blocks.widths=[80, 160, 320]` `train.precision=bfloat16`"
    assert (
        "| none | 90 (2 cores: some processor) | 10,000 | 91.00% ± 1.00% (n = 3) |\n"
        f"| {longer} | 200 (2 cores: some processor) | 10,000 | 91.00% (one seed) |\n"
    ) in text
    assert "(../benchmarks/recipe.svg)" in text
    call(tables, "--check")


def test_seconds_are_those_of_each_processor(folder: Path) -> None:
    runs = [run_of("params.yaml", "float32", seed, 100 * seed, f"processor {seed}") for seed in (1, 2)]
    write_recipe(folder, recipe_of(*runs))
    call(tables)
    row = "| none | 100 (2 cores: processor 1)<br>200 (2 cores: processor 2) | 10,000<br>10,000 | 91.50% ± 0.71% (n = 2) |\n"
    assert row in page(folder)


def test_operations_are_those_of_the_fastest_run_on_their_machine(folder: Path) -> None:
    assert tables.operations_table().startswith("Not measured with this recipe")
    runs = [run_of("longer", "float32", seed, seconds) for seed, seconds in enumerate((300, 200))]
    write_recipe(folder, recipe_of(*runs, run_of("longer", "float32", 2, 10, "a faster processor")))
    here, elsewhere = (
        {"machine": {"processor": name, "threads": 2}, "most a second": {"float32": most, "bfloat16": 9e12}}
        for name, most in (("some processor", 400e9), ("an idle processor", 1e9))
    )
    found = {"training": "this training", "operations": {"longer": 20e12}, "machines": [elsewhere, here]}
    write("benchmarks/speed.json", found)
    assert squeezed(tables.operations_table()).splitlines()[2:] == [
        "| longer, float32 | 2 cores: some processor | 20 | 100 | 400 | 25% |"
    ]
    write_recipe(folder, recipe_of(run_of("longer", "float32", 2, 10, "a faster processor")))
    assert tables.operations_table().startswith("Not measured with this recipe")


def test_recipes_that_were_not_measured_are_said_to_be(folder: Path) -> None:
    call(tables)
    assert "Not measured with this recipe" in page(folder)


@pytest.mark.parametrize("content", [recipe_of(run_of("longer", "float32", 0, 9)) | {"training": "another"}, {}, []])
def test_recipes_of_another_training_are_refused(folder: Path, content: object) -> None:
    write_recipe(folder, content)
    with pytest.raises(InputError, match=r"^benchmarks/recipe\.json must "):
        call(tables)


# --- a fresh clone --------------------------------------------------------------------------------


def measured(folder: Path) -> None:
    content = {
        "training": "this training",
        "machine": {"processor": "some processor", "threads": 2},
        "seconds": {"environment": 95, "pipeline": 610, "train": 590},
        "megabytes": {"environment": 1500, "all": 2345},
    }
    (folder / "benchmarks/clone.json").write_text(json.dumps(content))


TAKES = (
    "1.6 minutes for the environment (more where downloads are slow), 10.2 minutes for the stages (9.8 minutes of training) and 2.3 GB of disk, on 2 "
    "cores: some processor."
)


def test_a_fresh_clone_in_one_sentence(folder: Path) -> None:
    call(tables)
    assert "How long it takes is not measured" in page(folder)
    measured(folder)
    call(tables)
    assert f"In a fresh clone it takes {TAKES}" in page(folder)


def test_the_first_make_repro_begins_with_it(folder: Path) -> None:
    for name in ("dvc", "python"):
        program = folder / "programs" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(0o755)
    (folder / "benchmarks/common.py").symlink_to(ROOT / "tools/common.py")
    clone = Clone(folder)
    clone.git("init", "--quiet")
    clone.git("-c", "user.name=a", "-c", "user.email=a@localhost", "commit", "--quiet", "--allow-empty", "--message=a")

    def said() -> list[str]:
        words = ["make", "--silent", f"--file={ROOT / 'Makefile'}", "--assume-old=.venv/run", "repro"]
        environment = os.environ | {"PATH": f"{folder / 'programs'}:{os.environ['PATH']}"}
        done = subprocess.run(words, cwd=folder, env=environment, check=True, text=True, capture_output=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    call(tables)
    assert said() == ["dvc", "python"]  # nothing was measured
    measured(folder)
    call(tables)
    assert said() == [f"make repro takes, in a fresh clone, {TAKES}", "dvc", "python"]
    (folder / "models").mkdir()
    (folder / "models/model.keras").touch()
    assert said() == ["dvc", "python"]  # it is not the first
    (folder / "models/model.keras").unlink()
    (folder / "README.md").unlink()
    assert said() == ["dvc", "python"]


# --- the model card ---


PICTURES = {
    "training": "this training",
    "out of distribution": {
        "letters": {"pictures": 1234, "out of distribution": 0.456, "too little contrast": 0},
        "gradients": {"pictures": 100, "out of distribution": 0.8, "too little contrast": 25},
    },
    "val": {"images": 5000, "accuracy": 0.9, "accuracy as photographs": 0.8, "out of distribution as photographs": 0.1},
    "altered": {"images": 1000, "shares": {"one speck": {"corners' colour": 0.85, "here": 0.94}}},
    "areas": {"energy": {"letters": 0.75, "noise": 0.85}, "distance": {"letters": 0.95, "noise": 1.0}},
}


def test_what_is_called_out_of_distribution(folder: Path) -> None:
    before = squeezed(tables.out_of_distribution_table())
    assert "| val images, which set the limit (5,000) | 2 in 100, by definition |" in before
    assert "Others: not measured with this model" in before
    write("benchmarks/pictures.json", PICTURES)
    text = squeezed(tables.out_of_distribution_table())
    assert "| val images turned into photographs (5,000) | 10.0% |" in text
    assert "| letters (1,234) | 45.6% |\n| gradients (100) | 80.0% (25.0%: too little contrast) |" in text
    assert "80.00% are classified correctly, 90.00% of the 28 × 28 images themselves." in text
    write("metrics/unlikeness.json", {"distance_limit": 0.0, "train_images": 9, "val_images": 0})
    assert "| training images, which set the limit (9) |" in squeezed(tables.out_of_distribution_table())


def test_scores_and_altered_pictures(folder: Path) -> None:
    for table in (tables.scores_table, tables.altered_table):
        assert table().startswith("Not measured with this model")
    write("benchmarks/pictures.json", PICTURES)
    assert "| energy | 0.800 | 0.750 | 0.850 |\n| distance | 0.975 | 0.950 | 1.000 |" in squeezed(tables.scores_table())
    assert squeezed(tables.altered_table()).endswith("| one speck | 85.0% | 94.0% |")


SPEED = {
    "training": "this training",
    "milliseconds": {"1 at once": {"keras": 10.0, "onnx": 0.25}, "1000 at once": {"keras": 700.0, "onnx": 250.0}},
    "seconds from start to answer": {"keras": 4.0},
    "machine": {"threads": 2, "processor": "some"},
}


def test_speed(folder: Path) -> None:
    assert tables.speed_table().startswith("Not measured with this model")
    write("benchmarks/latency.json", SPEED)
    text = squeezed(tables.speed_table())
    assert "| keras | 10 ms | 700 ms | 4.0 s |\n| onnx | 0.25 ms | 250 ms | |" in text
    assert "2 cores: some." in text


@pytest.mark.parametrize(
    ("path", "content", "table"),
    [
        ("benchmarks/pictures.json", PICTURES | {"training": "another"}, tables.out_of_distribution_table),
        ("metrics/unlikeness.json", {}, tables.out_of_distribution_table),
        ("benchmarks/latency.json", [], tables.speed_table),
        ("benchmarks/latency.json", SPEED | {"training": "another"}, tables.speed_table),
    ],
)
def test_what_others_have_written_is_refused(folder: Path, path: str, content: Any, table: Any) -> None:
    write(path, content)
    with pytest.raises(InputError, match=rf"^{path} must "):
        table()


PAGES = [
    (path, name)
    for made in (readme.PAGES, tables.PAGES)
    for path, names in made.items()
    if (ROOT / path).exists() or (ROOT / "published/claims.yaml").exists()  # make adopt removes both
    for name in names
]


@pytest.mark.parametrize(("path", "name"), PAGES)
def test_the_committed_pages_have_every_mark(path: Path, name: str) -> None:
    text = (ROOT / path).read_text()
    assert text.count(f"<!-- {name}: written by make readme -->") == 1
    assert text.count(f"<!-- end of {name} -->") == 1
