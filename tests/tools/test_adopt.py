"""make adopt, in a scratch clone whose results count as those of own images."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from common import files

import pandas as pd
import pytest

from analysis import revisions, seeds
from conftest import ROOT, TINY, Clone, write_params


@pytest.fixture
def birds(reproduced: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: None) -> Clone:
    clone = reproduced.copied(tmp_path / "birds")
    monkeypatch.chdir(clone.folder)
    write_params(Path(), TINY | {"data.source": "idx"})
    for path in map(Path, ("metrics/val.json", "metrics/test.json")):
        files.write_json(path, json.loads(path.read_text()) | {"source": "idx"})
    clone.commit("images of birds")
    return clone


def test_what_is_fashion_mnists_goes_and_pages_and_targets_still_work(birds: Clone) -> None:
    accuracy = f"{json.loads((ROOT / 'metrics/test.json').read_text())['accuracy']:.2%}"
    assert accuracy in Path("README.md").read_text()
    birds.run("python", "tools/adopt.py")
    birds.run("python", "tools/readme.py")
    birds.run("python", "benchmarks/tables.py")
    for name in ("published", "tests/published", "MODEL_CARD.md", "CHANGELOG.md", "tools/adopt.py", "docs/change.md"):
        assert not Path(name).exists()
    assert [*Path("benchmarks").rglob("*.json"), *Path("metrics").glob("noise*")] == []
    readme = Path("README.md").read_text()
    assert readme.startswith("# birds\n\nA [DVC]")
    assert "images of 10 classes apart" in readme
    assert "| test (idx)" in readme
    for page in map(Path, [path for path in birds.git("ls-files", "-z", "*.md").split("\0") if path]):
        theirs = r"published |published/|MODEL_CARD|croissant|own_images|adopt|[Ff]ashion-MNIST's|change\.md|LOG\.md|on black|brought to 28"
        assert not re.search(theirs, page.read_text())
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
        assert accuracy not in text
        links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
        assert [link for link in links if not (page.parent / link).exists()] == []
    demo = Path("src/inference/demo.html").read_text()
    assert not re.search("clothes|garment", demo)
    assert 'aria-labelledby="try" hidden' in demo  # drawings of clothes to try
    words = "make", "--dry-run", "--old-file=.venv/run", "--old-file=.venv/dev", "check", "readme", "lint"
    assert "published" not in birds.run(*words)
    birds.git("reset", "--hard", "--quiet")
    assert Path("published/claims.yaml").exists()
    assert birds.git("status", "--porcelain") == ""


def test_ones_own_spread_over_seeds_stays(birds: Clone) -> None:
    pd.DataFrame(seeds.figures(revisions.HERE)).to_csv("metrics/noise.csv", index=False)
    birds.commit("the spread of birds")
    birds.run("python", "tools/adopt.py")
    assert Path("metrics/noise.csv").exists()
    assert not Path("MODEL_CARD.md").exists()


def test_the_network_that_is_used_stays_in_a_folder_of_any_name(
    birds: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(Path(), TINY | {"data.source": "idx", "model.architecture": "basic"})
    birds.commit("another network")
    odd = birds.copied(tmp_path / 'my "birds" \\d [a](b)')
    monkeypatch.chdir(odd.folder)
    odd.run("python", "tools/adopt.py")
    assert tomllib.loads(Path("docs/site/zensical.toml").read_text())["project"]["site_name"] == "my -birds- -d -a--b-"
    networks = {path.name for path in Path("src/architectures").glob("*.py")}
    assert networks == {"__init__.py", "basic.py", "blocks.py", "plain.py"}


def test_ones_own_pages_stay_but_for_links_to_what_is_gone(birds: Clone) -> None:
    own = b"# Birds of my garden\n\n![A robin](docs/robin.png)\n"
    Path("README.md").write_bytes(own + Path("README.md").read_bytes()[2:])  # no heading of ours
    (notes := Path("notes/own.md")).parent.mkdir()
    text = b"""[the list](my%20list.md), [the top](/README.md), [not yet](later.md), caf\xe9\r
```python\r
handlers[name](event)\r
```\r
a ![picture](../benchmarks/recipe.svg), [log](../benchmarks/LOG.md), [theirs](../published/#results)\r
"""
    notes.write_bytes(text)
    birds.git("add", "notes")
    birds.git("rm", "--quiet", "docs/verdicts.md")
    birds.commit("pages of our own")
    birds.run("python", "tools/adopt.py")
    assert Path("README.md").read_bytes().startswith(own)
    assert notes.read_bytes() == text[: text.index(b"a ![")] + b"a picture\r\n"


def test_links_go_below_the_top_of_a_repository_too(
    birds: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "top"
    (below := top / "below").parent.mkdir()
    shutil.copytree(birds.folder, below, symlinks=True)
    shutil.move(below / ".git", top)
    monkeypatch.chdir(below)
    clone = Clone(below)
    clone.commit("one folder down")
    clone.run("python", "tools/adopt.py")
    assert "published/" not in Path("README.md").read_text()


def test_nothing_goes_where_the_classes_are_missing(birds: Clone) -> None:
    Path("data/prepared/classes.json").unlink()
    done = subprocess.run(["python", "tools/adopt.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: data/prepared/classes.json must be")
    assert birds.git("status", "--porcelain", "--untracked-files=no") == ""


@pytest.mark.parametrize(
    ("changes", "commits", "received"),
    [
        ({"data.source": "idx", "split.seed": 3}, False, "received M params.yaml"),
        ({"data.source": "synthetic"}, True, "received synthetic, and metrics of idx"),
        ({"data.source": "folder"}, True, "received folder, and metrics of idx"),
    ],
)
def test_what_git_could_not_bring_back_or_is_not_ones_own_is_refused(
    birds: Clone, changes: dict[str, object], commits: bool, received: str
) -> None:
    write_params(Path(), TINY | changes)
    if commits:
        birds.commit("change")
    done = subprocess.run(["python", "tools/adopt.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"{received}\n")
    assert Path("published").exists()
