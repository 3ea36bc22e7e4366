"""Readers get any bytes: they return the right value, or refuse with one line. Nothing else.

About 500 examples; FUZZ_EXAMPLES=10000 tries so many. The same in each run.
"""

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import arrays, idx, params
from common.errors import InputError

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from conftest import ROOT

TESTS = 9  # in this file, each with its share of the examples
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "500")) // TESTS,
    derandomize=True,  # a check that fails by chance is soon ignored
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # speed is the machine's, not the code's
)

# What the libraries below print about odd input is not under test.
pytestmark = pytest.mark.filterwarnings("ignore")

ENCODED = idx.encode(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
PACKED = gzip.compress(ENCODED, mtime=0)
PARAMS = (ROOT / "params.yaml").read_bytes()
LABELS = np.arange(12, dtype=np.uint8)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# Reach what single bytes rarely do: another length in a header, another number.
digits = st.from_regex(rb"-?[0-9]{1,20}", fullmatch=True)


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Up to four places cut out, inserted or overwritten."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(start + 8, len(content))) | st.just(len(content)))
        content[start:end] = draw(st.binary(max_size=8) | digits)
    return bytes(content)


def value_or_refusal(read: Callable[[], Any]) -> Any:
    """What `read` returns; None if it refuses, properly."""
    try:
        return read()
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readers")


# --- idx ----------------------------------------------------------------------------------------

headers = st.builds(
    lambda lengths, data: bytes([0, 0, 8, len(lengths)]) + b"".join(n.to_bytes(4, "big") for n in lengths) + data,
    st.lists(st.sampled_from([0, 1, 3, 2**31, 2**32 - 1]), max_size=5),
    st.just(b"") | st.binary(max_size=9),
)


@fuzz
@given(st.binary() | headers | mutated(ENCODED))
def test_idx_decode(content: bytes) -> None:
    dimensions = content[3] if len(content) > 3 else 0
    array = value_or_refusal(lambda: idx.decode(content, dimensions, "file"))
    assert array is None or idx.encode(array) == content


@fuzz
@given(st.binary() | st.binary().map(lambda tail: PACKED[:3] + tail))
def test_idx_read_bytes_of_random_gzip(folder: Path, content: bytes) -> None:
    path = folder / "random.gz"
    path.write_bytes(content)
    unpacked = value_or_refusal(lambda: idx.read_bytes(path, limit=1000))
    assert unpacked is None or unpacked == gzip.decompress(content)


@fuzz
@given(mutated(PACKED))
def test_idx_read_bytes_of_mutated_gzip(folder: Path, content: bytes) -> None:
    path = folder / "mutated.gz"
    path.write_bytes(content)
    unpacked = value_or_refusal(lambda: idx.read_bytes(path, limit=1000))
    assert unpacked is None or unpacked == gzip.decompress(content)


# --- params -------------------------------------------------------------------------------------


def load_params(folder: Path, content: bytes) -> params.Params | None:
    path = folder / "params.yaml"
    path.write_bytes(content)
    loaded = value_or_refusal(lambda: params.load(path))
    assert loaded is None or type(loaded) is params.Params
    return loaded


@fuzz
@given(st.binary())
def test_params_of_random_bytes(folder: Path, content: bytes) -> None:
    assert load_params(folder, content) is None


fragments = st.sampled_from(
    [
        *("train", "epochs", "a", "1e-3", "0x1", "0o8", "1_000", ".nan", "~", "true", "2026-13-45"),
        *(": ", ":", "- ", "? ", ", ", "\n", "\n  ", "\n\t", " ", "#", "[", "]", "{", "}"),
        *("'", '"', "|", ">", "|+1\n", "\\x", "\\U00110000", "\\n", "é", "\0", "\u2028", "\ufeff"),
        *("&a ", "*a", "<<: ", "!", "!!int ", "!!float ", "!!bool ", "!!null ", "!!str ", "!!set "),
        *("!!binary ", "!!timestamp ", "!!omap ", "!!pairs ", "!!map ", "!!seq ", "!!python/name:"),
        *("%YAML 1.1\n---\n", "%YAML 9", "%TAG ! a\n", "---\n", "...\n"),
    ]
)


@fuzz
@given(st.lists(fragments, max_size=20).map("".join) | st.text())
def test_params_of_what_looks_like_yaml(folder: Path, text: str) -> None:
    assert load_params(folder, text.encode()) is None


@fuzz
@given(mutated(PARAMS))
def test_params_of_the_mutated_file(folder: Path, content: bytes) -> None:
    load_params(folder, content)


def paths(section: Any) -> list[list[str]]:
    """The way to every value, and to every section."""
    below = section.items() if isinstance(section, dict) else []
    return [[], *([name, *path] for name, value in below for path in paths(value))]


# Without what JSON and YAML do not share: odd line ends, which YAML folds, and names of infinity.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


@fuzz
@given(st.sampled_from(paths(YAML(typ="safe").load(PARAMS))), values)
def test_params_with_another_value(folder: Path, way: list[str], value: Any) -> None:
    content: Any = {"": YAML(typ="safe").load(PARAMS)}
    *sections, name = ["", *way]
    section = content
    for part in sections:
        section = section[part]
    section[name] = value
    # JSON is YAML, and this writes every character as it is.
    text = json.dumps(content[""], ensure_ascii=False)
    loaded = load_params(folder, text.encode())
    assert loaded is None or loaded.model_dump(mode="json") == content[""]


# --- arrays -------------------------------------------------------------------------------------


def load_labels(folder: Path, content: bytes) -> None:
    path = folder / "labels.npy"
    path.write_bytes(content)
    array = value_or_refusal(lambda: arrays.load_array(path, np.uint8, 1))
    if array is not None:
        assert (array.dtype, array.ndim) == (np.uint8, 1)
        assert content.find(array.tobytes()) >= 0


@fuzz
@given(
    st.binary()
    | st.sampled_from([npy(LABELS)[:8], b"PK\3\4"]).flatmap(lambda start: st.binary().map(lambda tail: start + tail))
)
def test_arrays_of_random_bytes(folder: Path, content: bytes) -> None:
    load_labels(folder, content)


@fuzz
@given(mutated(npy(LABELS)) | mutated(npy(LABELS.astype(np.int64))))
def test_arrays_of_mutated_files(folder: Path, content: bytes) -> None:
    load_labels(folder, content)
