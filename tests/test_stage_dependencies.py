"""What the readers of code find, and that each kind of difference from dvc.yaml is named."""

from pathlib import Path

import pytest

import stage_dependencies
from conftest import write_params
from stage_dependencies import Pipeline

DVC_YAML = """
stages:
  first:
    cmd: python -E src/first.py
    params:
      - split
    deps:
      - src/first.py
      - src/tools/__init__.py
      - src/tools/used.py
      - src/deeper.py
      - data/x
    outs:
      - data/y
      - metrics/z:
          cache: false
  second:
    cmd: python -E src/second.py
    params:
      - train
      - model
      - data
      - evaluate.parts
    deps:
      - src/second.py
      - src/architectures/__init__.py
      - src/architectures/${model.architecture}.py
"""
SOURCES = {
    "first.py": "from tools import used\ninputs.declare('data/x')\n"
    "s = params.load().split\nf(s.seed, s.val_size, s.train_size, s.train_slice, s.group_duplicates)\n",
    "tools/__init__.py": "",
    "tools/used.py": "def f():\n    import deeper\n",
    "tools/other.py": "",
    "deeper.py": "import os, tools.used\n",
    "second.py": "import architectures\n"
    "chosen = params.load()\nt = chosen.train\n"
    "f(t, chosen.model, chosen.data, chosen.evaluate.parts)\n",
    "architectures/__init__.py": "",
    "architectures/plain.py": "",
    "architectures/blocks.py": "import keras\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_params(tmp_path, {"model.architecture": "plain"})
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(DVC_YAML)
    for name, code in SOURCES.items():
        path = Path("src", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return tmp_path


def test_a_pipeline_that_says_what_it_does_has_no_problem(project: Path) -> None:
    assert list(Pipeline().problems()) == []
    assert Pipeline().declared("first", "outs") == ["data/y", "metrics/z"]
    assert "src/architectures/plain.py" in Pipeline().declared("second", "deps")


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("src/first.py", "import used", "import other, used",
         "first imports src/tools/other.py, which dvc.yaml does not list"),
        ("src/deeper.py", "os", "second",  # two imports away
         "first imports src/second.py, which dvc.yaml does not list"),
        ("src/architectures/plain.py", "", "def build():\n    from tools import used\n",
         "second imports src/tools/used.py, which dvc.yaml does not list"),
        ("src/tools/used.py", "import deeper", "return 1",
         "dvc.yaml lists src/deeper.py for first, which does not import it"),
        ("src/first.py", "data/x", "data/x', 'data/w",
         "first declares the input data/w, which dvc.yaml does not list"),
        ("src/first.py", "'data/x'", "", "dvc.yaml lists data/x for first, which does not declare it"),
        ("dvc.yaml", "      - split\n", "      - split.seed\n      - split.val_size\n",
         "first reads the parameter split.train_size, which dvc.yaml does not list"),
        ("src/first.py", "s.seed, ", "",
         "dvc.yaml lists the parameter split.seed for first, which does not read it"),
        ("src/first.py", "s.seed, ", "", "nobody reads the parameter split.seed"),
    ],
)  # fmt: skip
def test_each_difference_is_named(project: Path, file: str, old: str, new: str, problem: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new, 1))
    assert problem in Pipeline().problems()


def test_parameters_are_seen_through_names_and_calls(project: Path) -> None:
    example = Path("src/example.py")
    example.write_text(
        "chosen = params.load()\n"
        "s = chosen.train\n"
        "f(s.epochs, chosen.model.options.get('plain'), list(s.augmentation))\n"
        "g(chosen.split, str(chosen.data), f'{str(s)}')\n"
    )
    pipeline = Pipeline()
    assert pipeline.parameters(example) == {
        "train.epochs",
        "model.options",
        *pipeline.leaves("train.augmentation"),
        *pipeline.leaves("split"),
    }
    assert len(pipeline.leaves("split")) == 5


def test_a_circle_of_imports_ends(project: Path) -> None:
    Path("src/deeper.py").write_text("import first\n")
    found = {str(path) for path in stage_dependencies.all_modules(Path("src/first.py"))}
    assert {"src/first.py", "src/deeper.py", "src/tools/used.py"} <= found
