"""Every snippet of README.md and docs/ runs as printed.

A Python block is run as one program, any other command line by line, in a copy of this repository with its
committed results. `NOT_RUN` lists the lines that are not run, why, and what is run instead.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from dvc.cli import parse_args

from conftest import ROOT, Clone, made_once, of_fashion_mnist, untrained, with_forks

PAGES = [ROOT / "README.md", ROOT / "data/input/README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHER_PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "published/README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SHOWN = {"text", "ini", "mermaid"}  # nothing to run

TRAINS, INSTALLS, NETWORK, NAME, ENDLESS, CACHE, ONE_AFTER_ANOTHER = (
    "it trains", "it installs", "it needs a network", "it names what the reader has", "it does not end",
    "the copy has no cache", "it needs the tag of the line before, or is that line",
)  # fmt: skip
HELP = "dvc exp run --help"
NOT_RUN = {
    "make repro": (TRAINS, "make -n repro"),
    "make test": ("it runs this test", "make -n test"),
    "dvc exp run -S train.learning_rate=0.01": (TRAINS, HELP),
    "dvc exp run -S model.architecture=plain": (TRAINS, HELP),
    "dvc exp run -S train.device=cuda": (TRAINS, HELP),
    "dvc exp run -S data.source=folder -S data.height=64 -S data.width=64 -S data.channels=3": (TRAINS, HELP),
    "dvc exp run -S 'evaluate.parts=[val]'": (TRAINS, HELP),
    "dvc exp run --queue -S train.batch_size=128,512": (TRAINS, HELP),
    "dvc exp run --run-all": (TRAINS, HELP),
    "dvc plots diff main NAME": (NAME, "dvc plots diff main"),
    "make sweep": (TRAINS, "make -n sweep"),
    "make sweep CONFIRM=3": (TRAINS, "make -n sweep CONFIRM=3"),
    "pip install 'psycopg[binary]' -c requirements-dev.txt": (INSTALLS, "grep '^psycopg' requirements-dev.txt"),
    "optuna tell --study-name SWEEP --trial-number N --state fail": (NAME, "optuna tell --help"),
    "make compare A=main B=NAME": (NAME, "make compare A=main B=workspace"),
    "make replicate EXP=NAME SEEDS=5": (TRAINS, "make -n replicate EXP=NAME SEEDS=5"),
    "python src/predict.py PICTURE…": (NAME, "python src/predict.py --help"),
    "make demo": (ENDLESS, "make -n demo && python src/demo.py --help"),
    "make export": (TRAINS, "make -n export"),
    "TRAIN_THREADS=1 make repro": (TRAINS, "TRAIN_THREADS=1 make -n repro"),
    "TRAIN_PROCESSES=2 make repro": (TRAINS, "TRAIN_PROCESSES=2 make -n repro"),
    "PET_NODE_RANK=0 dvc repro": ("it needs two machines", "dvc repro --help"),
    "PET_NODE_RANK=1 python src/train.py": ("it needs two machines", "python src/train.py --help"),
    "python3 -m venv .venv && . .venv/bin/activate && pip install uv -c requirements.txt": (
        INSTALLS, "grep '^uv==' requirements.txt",
    ),
    "uv pip install --torch-backend cpu -r requirements.txt": (INSTALLS, "uv pip install --help"),
    "dvc repro": (TRAINS, "dvc repro --help"),
    "make .venv/run && .venv/bin/pip install --require-hashes --force-reinstall -r locks/cuda.txt": (
        INSTALLS, "make -n .venv/run && grep '^torch==' locks/cuda.txt",
    ),
    "docker build --tag fashion-mnist . && docker run --rm fashion-mnist make test": (NETWORK, "test -s Dockerfile"),
    "docker run --rm --volume results:/project fashion-mnist": (NETWORK, "grep '^CMD.*make.*repro' Dockerfile"),
    "uvx pre-commit install": (NETWORK, "grep 'make lint' .pre-commit-config.yaml"),
    "dvc exp run --name half -S train.epochs=13": (TRAINS, HELP),
    "dvc exp run --name fewer-rows -S split.train_size=6000": (TRAINS, HELP),
    "make compare A=main B=half": (NAME, "make -n compare A=main B=half"),
    "make compare A=main B=fewer-rows": (NAME, "make -n compare A=main B=fewer-rows"),
    "dvc exp apply half": (NAME, "dvc exp apply --help"),
    'git commit --all --message "Train for half of the epochs"': (NAME, "echo >>params.yaml && git commit --all --message x"),
    "make readme": ("it fails there, as the page shows", "make -n readme"),
    "git restore . && dvc checkout": (CACHE, "git restore . && dvc checkout --help"),
    "git merge --no-ff --no-edit half-the-epochs": (NAME, "git merge --no-ff --no-edit main"),
    "dvc checkout": (CACHE, "dvc checkout --help"),
    "dvc exp remove half fewer-rows": (NAME, "dvc exp remove --help"),
    "gto register classifier --version v1.0.0": (ONE_AFTER_ANOTHER, "gto register --help && grep '^  classifier:$' dvc.yaml"),
    "gto assign classifier --version v1.0.0 --stage prod": (ONE_AFTER_ANOTHER, "gto assign --help"),
    "dvc artifacts get . classifier --rev v1.0.0 -o version.keras": ("it needs a remote", "dvc artifacts get --help"),
    "dvc artifacts get . classifier --stage prod -o prod.keras": ("it needs a remote", "dvc artifacts get --help"),
}  # fmt: skip


class Snippet(NamedTuple):
    page: str
    language: str
    code: str


def snippets() -> list[Snippet]:
    found = []
    for page in PAGES:
        for language, code in BLOCK.findall(page.read_text("utf-8")):
            name = page.name
            if language == "python":
                found.append(Snippet(name, language, code))
            elif language == "console":
                found += [Snippet(name, "sh", line[2:]) for line in code.splitlines() if line.startswith("$ ")]
            elif language not in SHOWN:
                found += [Snippet(name, language or "sh", line) for line in code.splitlines() if line]
    return [
        Snippet(page, language, re.sub(r"\s+# .*", "", code) if language == "sh" else code)
        for page, language, code in found
    ]


SNIPPETS = snippets()


def command(snippet: Snippet) -> str:
    """What is run for it."""
    return NOT_RUN.get(snippet.code, ("", snippet.code))[1]


ONCE = {(snippet.language, command(snippet)): snippet for snippet in reversed(SNIPPETS)}  # several pages show some


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Path:
    """This repository with its committed results, whose environment counts as installed."""

    def make(folder: Path) -> None:
        clone = Clone.new(folder)
        listed = clone._git(ROOT, "ls-files", "-z", "metrics", "plots", "dvc.lock")
        for name in filter(None, listed.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        if (model := ROOT / "models/model.keras").exists():
            shutil.copy(model, folder / "models")
        else:
            untrained(name="blocks").save(folder / "models/model.keras")
        shutil.copy(exported, folder / "models/model.onnx")
        clone.commit("start")
        python = folder / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {shutil.which("python", path=with_forks()["PATH"])} "$@"\n')
        python.chmod(0o755)
        python.with_name("activate").touch()
        clone.run("make", "--eval=state:; @$(state) >.venv/state", "state")
        for name in ("run", "demo", "site", "dev"):
            (folder / ".venv" / name).touch()

    return made_once(tmp_path_factory, "copy", make)


def run(folder: Path, environment: dict[str, str], *words: str) -> None:
    done = subprocess.run(
        words, cwd=folder, env=environment, text=True, check=False, timeout=500, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


@of_fashion_mnist
def test_what_is_not_run_is_still_there() -> None:
    assert NOT_RUN.keys() - {snippet.code for snippet in SNIPPETS} == set()


def inline_commands() -> list[str]:
    """Each command of dvc inside a sentence or a table."""
    texts = (BLOCK.sub("", page.read_text("utf-8")) for page in [*PAGES, *OTHER_PAGES])
    found = {code for text in texts for code in re.findall(r"(?<!`)`(dvc [a-z][^`]*)`", text)}
    assert "dvc exp remove --queue" in found
    return sorted(found)


@pytest.mark.parametrize("line", inline_commands())
def test_dvc_knows_commands_inside_sentences(line: str) -> None:
    parse_args([*shlex.split(line)[1:]])


@pytest.mark.parametrize("language", sorted({snippet.language for snippet in SNIPPETS}))
def test_every_block_is_of_a_language_that_is_run(language: str) -> None:
    assert language in {"python", "sh"}


@pytest.mark.parametrize(
    "snippet", ONCE.values(), ids=lambda snippet: f"{snippet.page}: {snippet.code.splitlines()[0]}"
)
def test_it_runs_as_printed(snippet: Snippet, copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, folder := tmp_path / "copy", symlinks=True)
    if snippet.language == "python":
        (tmp_path / "snippet.py").write_text(snippet.code, "utf-8")
        foreign = ("KERAS_", "PYTHON", "DVC_")  # what `import common` has set here
        environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        run(folder, environment, sys.executable, str(tmp_path / "snippet.py"))
    else:
        run(folder, with_forks(), "bash", "-e", "-o", "pipefail", "-c", command(snippet))
