"""sweep.yaml: what is accepted, what is refused and how, and what is proposed."""

from datetime import date
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import optuna
import pytest
from ruamel.yaml import YAML

import search_space
from analysis import dvc_lock
from conftest import ROOT, TINY, write_params

RATE = "train.learning_rate"
VALID: dict[str, Any] = {
    "metric": "accuracy",
    "trials": 8,
    "seed": 0,
    "epochs": [2, 6, 18],
    "space": {RATE: {"low": 0.01, "high": 1.0, "log": True}},
}


def load(workspace: Path, content: Any, **changes: Any) -> search_space.Search:
    write_params(workspace, TINY | changes)
    YAML().dump(content, workspace / "sweep.yaml")
    return search_space.load(params.load())


def test_the_committed_sweep_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    current = params.load()
    committed = search_space.load(current)
    known = dvc_lock.leaves(current.model_dump())
    assert committed.encoded(known).keys() == committed.space.keys()


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("train.batch_size", {"low": 16, "high": 512, "log": True}),
        ("train.warmup", {"low": 0, "high": 0.5}),
        ("train.early_stopping", {"choices": [None, 3]}),
        ("train.optimizer", {"choices": ["adam", "sgd"]}),
        ("train.optimizer_options.sgd.nesterov", {"choices": [True, False]}),
        ("model.options.plain.widths", {"choices": [[8, 16], [32, 64]]}),
        ("train.augmentation.shift", {"low": 0, "high": 2}),
    ],
)
def test_ranges_and_choices_give_values_of_their_kind(workspace: Path, key: str, values: dict[str, Any]) -> None:
    search = load(workspace, VALID | {"space": {key: values}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask(search.distributions()) for _ in range(30)]
    proposed = [search.decoded(trial.params)[key] for trial in trials]
    assert [search.encoded({key: value}) for value in proposed] == [trial.params for trial in trials]
    if "choices" in values:
        assert all(choice in proposed for choice in values["choices"])
    else:
        whole = isinstance(values["low"], int) and isinstance(values["high"], int)
        assert all(isinstance(value, int if whole else float) for value in proposed)


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        ({"low": 1, "high": 3}, [1, 3], [0, 4, 2.5, None, "x"]),
        ({"low": 0.5, "high": 2}, [0.5, 1, 2], [0.4, 2.1, None, "x"]),
        ({"choices": [None, [8, 16]]}, [None, [8, 16]], [0, [8], "null"]),
    ],
)
def test_what_a_range_or_choice_holds(values: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    search = search_space.Search.model_validate(VALID | {"space": {"x": values}})
    assert all(search.encoded({"x": value}) for value in inside)
    assert not any(search.encoded({"x": value}) for value in outside)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "speed"}, "metric: .*received 'speed'"),
        ({"trials": 0}, "trials: .*received 0"),
        ({"trials": "8"}, "trials: .*received '8'"),
        ({"epochs": []}, "epochs: "),
        ({"epochs": [2, 3]}, r"epochs: must grow by one whole factor.*received \[2, 3\]"),
        ({"epochs": [2, 4, 16]}, "epochs: must grow by one whole factor"),
        ({"epochs": [2, 2]}, "epochs: must grow by one whole factor"),
        ({"epochs": [4, 2]}, "epochs: must grow by one whole factor"),
        ({"epochs": [0]}, "epochs.0: .*received 0"),
        ({"budget": 3}, "budget: .*received 3"),
        ({"space": {}}, "space: "),
        ({"space": {RATE: {}}}, "must have low and high, or choices alone"),
        ({"space": {RATE: {"low": 1.0, "high": 0.1}}}, "`low <= high` must hold"),
        ({"space": {RATE: {"low": 0.1}}}, "must have low and high, or choices alone"),
        ({"space": {RATE: {"low": None, "high": 0.1}}}, "must have low and high"),
        ({"space": {RATE: {"low": 0.0, "high": 1.0, "log": True}}}, "`low > 0` must hold for `log=True`"),
        ({"space": {RATE: {"low": 0, "high": 1, "log": True}}}, "`low >= 1` must hold for `log=True`"),
        ({"space": {RATE: {"choices": []}}}, "`choices` must contain one or more elements"),
        ({"space": {RATE: {"choices": [1.0], "low": 0.1}}}, "must have low and high, or choices alone"),
        ({"space": {RATE: {"choices": [1.0], "log": True}}}, "must have low and high, or choices alone"),
        ({"space": {RATE: {"choices": [date(2020, 1, 1)]}}}, "choices.0: .*received datetime"),
        ({"space": {RATE: {"low": "a", "high": 1}}}, "received 'a'"),
        ({"space": {RATE: {"low": True, "high": 3}}}, "received True"),
        ({"space": {RATE: {"low": float("nan"), "high": 1.0}}}, "space.train.learning_rate.low"),
        ({"space": {"train.rate": {"choices": [1]}}}, "single parameters.*received train.rate$"),
        ({"space": {"train": {"choices": [1]}}}, "single parameters.*received train$"),
        ({"space": {"train.epochs": {"choices": [1]}}}, "other than .*received train.epochs$"),
        ({"space": {"train.seed": {"choices": [1]}}}, "other than .*received train.seed$"),
        ({"space": {"split.seed": {"choices": [1]}}}, "other than .*received split.seed$"),
        ({"space": {"evaluate.parts": {"choices": [["test"]]}}}, "other than .*received evaluate"),
        ({"space": {"data.source": {"choices": ["csv"]}}}, "other than .*received data.source$"),
        ({"space": {RATE: {"low": -0.1, "high": 1.0}}}, "train.learning_rate: .*received -0.1"),
        ({"space": {"train.batch_size": {"low": 0, "high": 8}}}, "train.batch_size: .*received 0"),
        ({"space": {"train.batch_size": {"low": 1.0, "high": 8}}}, "train.batch_size: .*received 1.0"),
        ({"space": {"train.optimizer": {"choices": ["adam", "adan"]}}}, "train.optimizer: .*'adan'"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused_in_one_line(workspace: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"^sweep\.yaml: .*{said}") as refused:
        load(workspace, VALID | change)
    assert "\n" not in str(refused.value)


def test_two_values_that_are_valid_alone_and_not_together_are_refused(workspace: Path) -> None:
    space = {"train.schedule": {"choices": ["constant", "linear"]}, "train.reduce_on_plateau": {"choices": [None, 2]}}
    with pytest.raises(
        InputError, match=r"reduce_on_plateau must come with train\.schedule: constant; received linear"
    ):
        load(workspace, VALID | {"space": space}, **{"train.schedule": "constant"})


def test_so_are_three(workspace: Path) -> None:
    space = {
        "train.optimizer": {"choices": ["muon", "adam"]},
        RATE: {"choices": [0.05, None]},
        "train.optimizer_options.adam.learning_rate": {"choices": [0.05, 0.5]},
    }
    changes = {
        RATE: 0.05,
        "train.optimizer": "muon",
        "train.optimizer_options": {"muon": {}, "adam": {"learning_rate": 0.05}},
    }
    with pytest.raises(InputError, match=r"learning_rate must be at most 0\.1 for adam .*; received 0\.5$"):
        load(workspace, VALID | {"space": space}, **changes)


def test_a_key_that_params_yaml_leaves_out_is_refused_since_dvc_would_refuse_it(workspace: Path) -> None:
    load(workspace, VALID | {"space": {"train.augmentation.zoom": {"choices": [0.0, 0.2]}}})
    text = Path("params.yaml").read_text()
    assert text.count("    zoom: 0.0") == 1
    Path("params.yaml").write_text(text.replace("    zoom: 0.0", "    # zoom"))
    with pytest.raises(InputError, match=r"single parameters of params\.yaml .*; received train\.augmentation\.zoom$"):
        search_space.load(params.load())


@pytest.mark.parametrize("missing", VALID)
def test_every_key_is_needed(workspace: Path, missing: str) -> None:
    content = {key: value for key, value in VALID.items() if key != missing}
    with pytest.raises(InputError, match=rf"^sweep\.yaml: {missing}: field required"):
        load(workspace, content)


@pytest.mark.parametrize("content", [[], None, "text", 3])
def test_something_else_than_keys_is_refused(workspace: Path, content: Any) -> None:
    with pytest.raises(InputError, match=r"^sweep\.yaml must hold sections of keys and values; received "):
        load(workspace, content)


@pytest.mark.parametrize("text", [None, "a: [", "\xff", "a: !!python/object:os.x {}"])
def test_what_is_no_yaml_is_refused_in_one_line(workspace: Path, text: str | None) -> None:
    if text is not None:
        (workspace / "sweep.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"^sweep\.yaml") as refused:
        search_space.load(params.load())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "choices", "current", "stored"),
    [
        ("train.augmentation.rotation", [0, 10], 0.0, "0"),
        ("train.augmentation.rotation", [10, 0.0], 0.0, "0.0"),
        ("train.rate_falls", [[], [3]], [3], "[3]"),
        ("train.reduce_on_plateau", [None, 2], None, "null"),
    ],
)
def test_the_value_of_params_yaml_is_found_however_a_choice_is_written(
    workspace: Path, key: str, choices: list[Any], current: Any, stored: str
) -> None:
    schedule = {"train.schedule": "constant", "train.warmup": 0.0}
    search = load(workspace, VALID | {"space": {key: {"choices": choices}}}, **schedule, **{key: current})
    known = dvc_lock.leaves(params.load().model_dump())
    assert search.encoded(known) == {key: stored}
    assert search.encoded(known | {key: 7}) == {}


def test_without_val_rows_there_is_nothing_to_search_by(workspace: Path) -> None:
    with pytest.raises(InputError, match=r"must come with val rows"):
        load(workspace, VALID, **{"split.val_size": 0})


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("accuracy", "maximize"), ("macro_f1", "maximize"), ("loss", "minimize"), ("calibration_error", "minimize")],
)
def test_what_is_best_depends_on_the_metric(workspace: Path, metric: str, direction: str) -> None:
    assert load(workspace, VALID | {"metric": metric}).direction == direction
