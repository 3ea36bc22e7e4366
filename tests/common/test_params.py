"""Each test starts from the committed params.yaml and changes one thing, so the schema may grow."""

import json
import operator
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from common import params
from common.errors import InputError

import pydantic
import pytest
from ruamel.yaml import YAML

from conftest import ROOT

COMMITTED = (ROOT / "params.yaml").read_text("utf-8")
CONTENT = YAML(typ="safe").load(COMMITTED)
CONTENT["data"] |= {"source": "fashion-mnist", "height": 28, "width": 28, "channels": 1}  # which a team changes
MISSING = object()  # as a value: the key is removed
# keys that older files lack, and the earlier behaviour
NEWER: dict[str, Any] = {
    "train.data_pruning": 0.0,
    "train.progressive_resizing": params.ProgressiveResizing(scale=1.0, share=0.0),
    "train.least_steps": 1,
    "train.shards": 1,
    "split.group_duplicates": False,
    "split.train_slice": None,
    "train.plateau_factor": 0.5,
    "train.plateau_floor": 0.0,
    "train.rate_falls": (),
    "train.augmentation.rotation": 0.0,
    "train.augmentation.zoom": 0.0,
}


def walk(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key like `train.epochs`, with its value; options are free, so nothing below them."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        yield key, value
        if isinstance(value, dict) and not name.endswith("options"):
            yield from walk(value, f"{key}.")


def changed(folder: Path, changes: dict[str, Any]) -> Path:
    """The committed file with other values for some keys, or without them.

    As JSON, which is YAML too: writing it is many times as fast as conftest's write_params.
    """
    content = deepcopy(CONTENT)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section[part]
        if value is MISSING:
            del section[name]
        else:
            section[name] = value
    text = json.dumps(content).replace("NaN", ".nan").replace("Infinity", ".inf")
    path = folder / "params.yaml"
    path.write_text(text)
    return path


KEYS = dict(walk(CONTENT))
SECTIONS = [key for key, value in KEYS.items() if isinstance(value, dict) and "options" not in key]
LEAVES = {key: value for key, value in KEYS.items() if not isinstance(value, dict)}


def refusal(path: Path) -> str:
    """The message for parameters that cannot be loaded: one line that names the file."""
    with pytest.raises(InputError) as caught:
        params.load(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    return message


def assert_names(message: str, key: str, value: Any) -> None:
    assert f": {key}: " in message
    assert message.endswith(f"received {value!r}")


def test_the_committed_file_loads() -> None:
    loaded = params.load(ROOT / "params.yaml")
    assert loaded.model_dump(mode="json") == YAML(typ="safe").load(COMMITTED)


def test_the_file_of_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(tmp_path, {"train.epochs": 77})
    monkeypatch.chdir(tmp_path)
    assert params.load().train.epochs == 77


def test_the_result_is_frozen() -> None:
    loaded = params.load(ROOT / "params.yaml")
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.train.epochs = 1
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.train = loaded.train


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in KEYS if key not in NEWER])
def test_no_key_may_be_missing(tmp_path: Path, key: str) -> None:
    assert refusal(changed(tmp_path, {key: MISSING})).endswith(f": {key}: field required")


@pytest.mark.parametrize("key", NEWER)
def test_a_file_older_than_a_key_trains_as_it_did(tmp_path: Path, key: str) -> None:
    loaded = params.load(changed(tmp_path, {key: MISSING}))
    assert operator.attrgetter(key)(loaded) == NEWER[key]


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_no_other_key_is_accepted(tmp_path: Path, section: str) -> None:
    key = f"{section}.nonsense".lstrip(".")
    assert_names(refusal(changed(tmp_path, {key: 5})), key, 5)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [None, 1, "text", [1]])
def test_a_section_is_a_mapping(tmp_path: Path, section: str, value: Any) -> None:
    assert_names(refusal(changed(tmp_path, {section: value})), section, value)


# --- types --------------------------------------------------------------------------------------

WRONG_TYPES: dict[type, list[Any]] = {
    bool: ["true", 1, None, [True]],
    int: ["1", True, 1.0, [1]],
    type(None): ["1", True, 1.0, [1]],  # every null of the file may be an integer instead
    float: ["0.1", True, None, [0.1], float("nan"), float("inf"), float("-inf")],
    str: [1, True, None, ["text"]],
    list: [1, True, None, "text"],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key in LEAVES
        for value in WRONG_TYPES[type(LEAVES[key])]
        if (key, value) != ("train.learning_rate", 1.0)  # null there stands for a float
    ],
)
def test_another_type_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    assert_names(refusal(changed(tmp_path, {key: value})), key, value)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".1e-2"])
def test_every_spelling_of_a_number_is_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    spelled, count = re.subn(r"^  learning_rate:.*$", f"  learning_rate: {text}", COMMITTED, flags=re.M)
    assert count == 1
    path.write_text(spelled)
    assert params.load(path).train.learning_rate == 0.001


def test_a_whole_number_may_stand_for_a_float(tmp_path: Path) -> None:
    assert params.load(changed(tmp_path, {"train.learning_rate": 1})).train.learning_rate == 1


# --- ranges -------------------------------------------------------------------------------------

SEED, COUNT = (0, 2**32 - 1), (1, 2**31 - 1)
LIMITS: dict[str, tuple[Any, Any]] = {  # smallest and largest accepted; None: no limit
    "data.height": (8, 512),
    "data.width": (8, 512),
    "data.synthetic.train_images": (10, 1_000_000),
    "data.synthetic.test_images": (10, 1_000_000),
    "data.synthetic.seed": SEED,
    "split.train_size": COUNT,
    "split.seed": SEED,
    "train.seed": SEED,
    "train.epochs": COUNT,
    "train.batch_size": COUNT,
    "train.least_steps": COUNT,
    "train.learning_rate": (1e-9, None),
    "train.warmup": (0.0, 1.0),
    "train.label_smoothing": (0.0, 1 - 1e-9),
    "train.averaging": (0.0, 1 - 1e-9),
    "train.early_stopping": COUNT,
    "train.reduce_on_plateau": COUNT,
    "train.augmentation.shift": (0, 8),
    "train.augmentation.cutout": (0, 28),
    "train.augmentation.rotation": (0.0, 180.0),
    "train.augmentation.zoom": (0.0, 1 - 1e-9),
    "train.plateau_factor": (1e-9, 1 - 1e-9),
    "train.plateau_floor": (0.0, None),
    "train.data_pruning": (0.0, 0.5),
    "train.progressive_resizing.scale": (1e-9, 1.0),
    "train.progressive_resizing.share": (0.0, 1 - 1e-9),
    "train.shards": (1, 1024),
}
FIT = {  # so that no other rule speaks than that of the key under test
    "data.source": "folder",
    "train.schedule": "constant",
    "train.keep": "last",
    "evaluate.parts": ["test"],
}


@pytest.mark.parametrize(("key", "value"), [(key, end) for key in LIMITS for end in LIMITS[key] if end is not None])
def test_the_limits_themselves_are_accepted(tmp_path: Path, key: str, value: Any) -> None:
    loaded: Any = params.load(changed(tmp_path, {**FIT, key: value}))
    for name in key.split("."):
        loaded = getattr(loaded, name)
    assert loaded == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, end + sign * (1e-9 if isinstance(end, float) else 1))
        for key, ends in LIMITS.items()
        for end, sign in zip(ends, (-1, 1), strict=True)
        if end is not None
    ],
)
def test_beyond_the_limits_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    assert_names(refusal(changed(tmp_path, {**FIT, key: value})), key, value)


@pytest.mark.parametrize("value", [0, 1, 5000, 0.1, 1e-9, 1 - 1e-9])
def test_val_is_a_number_of_rows_or_a_share(tmp_path: Path, value: float) -> None:
    assert params.load(changed(tmp_path, FIT | {"split.val_size": value})).split.val_size == value


@pytest.mark.parametrize("value", [-1, -0.1, 0.0, 1.0, 1.5, True, "0.1", None, [1]])
def test_val_is_nothing_else(tmp_path: Path, value: Any) -> None:
    message = refusal(changed(tmp_path, FIT | {"split.val_size": value}))
    assert message.endswith(f"split.val_size: must be a number of rows, or a share between 0 and 1; received {value!r}")


@pytest.mark.parametrize("rows", [None, [0, 10], [10_000, 30_000]])
def test_a_slice_is_two_rows_or_none(tmp_path: Path, rows: list[int] | None) -> None:
    loaded = params.load(changed(tmp_path, {"split.train_slice": rows})).split.train_slice
    assert loaded == (rows and tuple(rows))


@pytest.mark.parametrize("rows", [[1], [1, 2, 3], [-1, 5], 5, [0.5, 2]])
def test_a_slice_is_nothing_else(tmp_path: Path, rows: Any) -> None:
    assert "split.train_slice" in refusal(changed(tmp_path, {"split.train_slice": rows}))


# --- choices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            (f"train.{key}", "nonsense")
            for key in (*("optimizer", "schedule", "keep", "normalisation", "precision", "device"), "augmentation.flip")
        ],
        *[
            ("model.architecture", name)
            for name in ("../plain", "plain.py", "a/b", "", "__init__", "Plain", "plain\n", "é")
        ],
        *[("data.source", name) for name in ("nonsense", "Fashion-MNIST", "", "data/raw")],
        ("train.optimizer", "SGD"),
        ("train.precision", "auto"),  # it was one
    ],
)
def test_what_is_no_choice_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    assert_names(refusal(changed(tmp_path, {key: value})), key, value)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_images_are_grey_or_colour(tmp_path: Path, count: int) -> None:
    message = refusal(changed(tmp_path, {"data.channels": count}))
    assert message.endswith(f": data: channels must be 1 or 3; received {count}")


@pytest.mark.parametrize("key", ["model.options.nonsense", "train.optimizer_options.sgd"])
def test_options_are_keyed_by_the_name_that_they_belong_to(tmp_path: Path, key: str) -> None:
    assert_names(refusal(changed(tmp_path, {key: 5})), key, 5)


@pytest.mark.parametrize("value", ["abc", "0.6", [1]])
def test_an_option_is_a_number_or_a_switch(tmp_path: Path, value: Any) -> None:
    key = "train.optimizer_options.muon.momentum"
    for right in (1, 0.5, True, None):
        momentum = params.load(changed(tmp_path, {key: right})).train.optimizer_options["muon"]["momentum"]
        assert momentum == right
        assert type(momentum) is (float if type(right) is int else type(right))
    assert refusal(changed(tmp_path, {key: value})).endswith(
        f": {key}: input should be a valid number; received {value!r}"
    )


def test_parts_are_a_list(tmp_path: Path) -> None:
    message = refusal(changed(tmp_path, {"evaluate.parts": "val"}))
    assert message.endswith(": evaluate.parts: input should be a valid list; received 'val'")


def test_a_scaled_loss_is_refused(tmp_path: Path) -> None:
    options = {"train.optimizer": "sgd", "train.optimizer_options.sgd": {"loss_scale_factor": 128.0}}
    with pytest.raises(InputError, match=r"loss_scale_factor must be null: no loss is scaled here; received 128.0"):
        params.load(changed(tmp_path, options))


@pytest.mark.parametrize("parts", [["val"], ["test"], ["test", "val"]])
def test_each_choice_of_parts_is_accepted(tmp_path: Path, parts: list[str]) -> None:
    loaded = params.load(changed(tmp_path, {"evaluate.parts": parts}))
    assert loaded.evaluate.parts == tuple(parts)


@pytest.mark.parametrize(
    ("parts", "key", "value"), [([], "evaluate.parts", []), (["val", "train"], "evaluate.parts.1", "train")]
)
def test_other_parts_are_refused(tmp_path: Path, parts: list[str], key: str, value: Any) -> None:
    message = refusal(changed(tmp_path, {"evaluate.parts": parts}))
    assert f": {key}: " in message
    assert str(value) in message.split("received ")[1]


# --- values that do not fit together ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.keep": "best"}, "train.keep: best"),
        ({"train.early_stopping": 3}, "train.early_stopping"),
        ({"train.reduce_on_plateau": 3}, "train.reduce_on_plateau"),
        ({"evaluate.parts": ["val", "test"]}, "evaluate.parts: val"),
    ],
)
def test_what_needs_val_rows_is_refused_without(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    params.load(changed(tmp_path, FIT | changes))  # with val rows
    message = refusal(changed(tmp_path, FIT | {"split.val_size": 0} | changes))
    assert f"{words} must come with val rows; received split.val_size 0" in message


def test_no_val_rows_are_accepted_where_nothing_needs_them(tmp_path: Path) -> None:
    assert params.load(changed(tmp_path, FIT | {"split.val_size": 0})).split.val_size == 0


@pytest.mark.parametrize(
    ("source", "key", "value"),
    [
        *[
            (source, key, value)
            for source in ("fashion-mnist", "csv", "synthetic")
            for key, value in (("height", 32), ("width", 32), ("channels", 3))
        ],
        ("idx", "channels", 3),
    ],
)
def test_a_source_has_its_shape(tmp_path: Path, source: str, key: str, value: int) -> None:
    params.load(changed(tmp_path, {"data.source": source}))
    changes = {"data.source": source, f"data.{key}": value}
    message = refusal(changed(tmp_path, changes))
    assert key in message
    assert f"source {source}; received " in message
    assert str(value) in message.split("received ")[1]
    params.load(changed(tmp_path, changes | {"data.source": "folder"}))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("key", "value"), [("reduce_on_plateau", 3), ("rate_falls", [2, 5])])
def test_a_plateau_needs_a_constant_schedule(tmp_path: Path, schedule: str, key: str, value: Any) -> None:
    params.load(changed(tmp_path, {f"train.{key}": value, "train.schedule": "constant"}))
    message = refusal(changed(tmp_path, {f"train.{key}": value, "train.schedule": schedule}))
    assert f"train.{key} must come with train.schedule: constant; received {schedule}" in message


@pytest.mark.parametrize(
    ("scale", "share", "epochs", "expected"),
    [
        (0.7, 0.7, 26, 18),
        (0.7, 0.7, 90, 63),
        (0.7, 0.29, 100, 29),
        (0.7, 0.999, 10, 9),
        (0.7, 0.0, 26, 0),
        (1.0, 0.7, 26, 0),
    ],
)
def test_a_share_of_the_epochs_has_small_images(scale: float, share: float, epochs: int, expected: int) -> None:
    assert params.small_epochs(params.ProgressiveResizing(scale=scale, share=share), epochs) == expected


# --- files that are no parameters ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "received None", id="empty"),
        pytest.param(b"# nothing\n", "received None", id="only a comment"),
        pytest.param(b"- data\n", "received ['data']", id="list at top"),
        pytest.param(b"text\n", "received 'text'", id="text at top"),
        pytest.param(b"data: [1\n", "must be valid YAML in UTF-8", id="not closed"),
        pytest.param(b"a: 1\na: 2\n", 'duplicate key "a"', id="key twice"),
        pytest.param(b"a: 1\n---\na: 1\n", "must be valid YAML in UTF-8", id="two documents"),
        pytest.param(b"a:\n\t- b\n", "on line 2", id="tab"),
        pytest.param(b"a: *b\n", "undefined alias", id="alias without anchor"),
        pytest.param(b"a: !!python/name:os.system\n", "must be valid YAML in UTF-8", id="Python object"),
        pytest.param(b"a: \0\n", "must be valid YAML in UTF-8", id="control character"),
        pytest.param(b"a: 2026-13-45\n", "must be valid YAML in UTF-8", id="no such day"),
        pytest.param(b"a: !!int b\n", "must be valid YAML in UTF-8", id="tag int on text"),
        pytest.param(b"a: !!int\n", "must be valid YAML in UTF-8", id="tag int on nothing"),
        pytest.param(b"a: !!bool b\n", "must be valid YAML in UTF-8", id="tag bool on text"),
        pytest.param(b"? - : \n", "must be valid YAML in UTF-8", id="key that cannot be one"),
        pytest.param(b'a: "\\U00110000"\n', "must be valid YAML in UTF-8", id="no such character"),
        pytest.param(b"9" * 5000, "must hold sections of keys and values; received 999", id="number of 5000 digits"),
        pytest.param(b"0x" + b"f" * 5000, "must hold sections of keys and values; received ", id="hexadecimal"),
        pytest.param(b"[" * 1000, "must be valid YAML in UTF-8", id="nested too deeply"),
        pytest.param("a: é\n".encode("latin-1"), "UTF-8; received 'utf-8' codec can't decode byte 0xe9", id="Latin-1"),
        pytest.param(b"\xff\xfea\0", "UTF-8; received 'utf-8' codec can't decode byte 0xff", id="UTF-16"),
    ],
)
def test_a_file_that_holds_no_parameters_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert words in refusal(path)


def test_an_integer_of_any_length_is_refused_in_one_line(tmp_path: Path) -> None:
    message = refusal(changed(tmp_path, {"train.seed": 16**5000}))
    assert ": train.seed: " in message
    assert message.endswith(f"; received {str(16**5000)[:200]}…")


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_an_odd_key_is_named(tmp_path: Path, name: str) -> None:
    assert "received 5" in refusal(changed(tmp_path, {name: 5}))


def test_a_missing_file_is_refused_and_says_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(Path("params.yaml"))
    assert message.startswith("params.yaml must ")
    assert "in the working directory" in message


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("optimizer", params.NORMALISING)
def test_an_optimizer_with_the_learning_rate_of_another_is_refused(tmp_path: Path, optimizer: str) -> None:
    params.load(changed(tmp_path, {"train.optimizer": optimizer}))  # with its own
    message = refusal(changed(tmp_path, {"train.optimizer": optimizer, "train.learning_rate": 0.4}))
    assert f"learning_rate must be at most 0.1 for {optimizer} (try 0.001); " in message
    assert message.endswith("received 0.4")
    params.load(changed(tmp_path, {"train.optimizer": optimizer, "train.learning_rate": 0.001}))
    params.load(changed(tmp_path, {"train.optimizer": "sgd", "train.learning_rate": 0.4}))


@pytest.mark.parametrize("optimizer", params.NORMALISING)
def test_a_rate_among_its_options_is_held_to_the_same(tmp_path: Path, optimizer: str) -> None:
    own = {"train.optimizer": optimizer, f"train.optimizer_options.{optimizer}": {"learning_rate": 0.4}}
    message = refusal(changed(tmp_path, {**own, "train.learning_rate": None}))
    assert f"learning_rate must be at most 0.1 for {optimizer} (try 0.001); " in message
    assert message.endswith("received 0.4")
    params.load(changed(tmp_path, {**own, "train.learning_rate": 0.001}))  # which is the one that counts


def test_a_rate_of_0_among_its_options_is_refused(tmp_path: Path) -> None:
    own: dict[str, Any] = {"train.optimizer": "sgd", "train.optimizer_options.sgd": {"learning_rate": 0}}
    params.load(changed(tmp_path, own | {"train.learning_rate": 0.1}))  # which is the one that counts
    own["train.learning_rate"] = None
    assert refusal(changed(tmp_path, own)).endswith("sgd's learning_rate must be above 0; received 0")


def test_options_are_of_an_optimizer_that_there_is(tmp_path: Path) -> None:
    assert "train.optimizer_options.adamm" in refusal(changed(tmp_path, {"train.optimizer_options.adamm": {}}))


@pytest.mark.parametrize("key", ["train.learning_rate", "train.optimizer_options.muon.kernel_rate"])
@pytest.mark.parametrize("value", [1e39, 1e308, -1e300, -0.5])
def test_what_is_beyond_float32_or_below_0_is_refused(tmp_path: Path, key: str, value: float) -> None:
    params.load(changed(tmp_path, {"train.optimizer": "muon", key: 1e6}))
    message = refusal(changed(tmp_path, {"train.optimizer": "muon", key: value}))
    if value < 0 and key == "train.learning_rate":
        assert message.endswith(f"train.learning_rate: input should be greater than 0; received {value}")
    else:
        assert message.endswith(f"learning_rate and muon's options must be from 0 to 1e6; received {value}")
