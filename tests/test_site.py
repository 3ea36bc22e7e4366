"""The site: its navigation, and where links of its pages lead."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, of_fashion_mnist

sys.path.append(str(ROOT / "docs/site"))
import stage

SETTINGS = tomllib.loads((ROOT / "docs/site/zensical.toml").read_text("utf-8"))["project"]


def leaves(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for page in entry.values():
            if isinstance(page, str):
                yield page
            else:
                yield from leaves(page)


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(leaves(SETTINGS["nav"])) == sorted([*stage.sources(), "report.md", f"{stage.NOTEBOOK}.md"])


def test_the_navigation_follows_the_table_of_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition("| I want to … | here |")[2].partition("\n\n")[0]
    linked = list(dict.fromkeys(re.findall(r"\]\(([^)#]+\.md)\)", table)))
    assert len(linked) > 10
    assert [page for page in leaves(SETTINGS["nav"]) if page in linked] == linked


@pytest.fixture
def staged(tmp_path: Path) -> stage.Stage:
    return stage.Stage(tmp_path)


@of_fashion_mnist
def test_links_lead_to_pages_of_the_site(staged: stage.Stage) -> None:
    text = staged.page("MODEL_CARD.md")
    assert "](src/architectures/blocks.py.md)" in text
    assert "](metrics/data/index.md)" in text
    assert "](https://arxiv.org/abs/1810.03993)" in text
    assert "````py\n" in (staged.folder / "src/architectures/blocks.py.md").read_text("utf-8")
    listing = (staged.folder / "metrics/data/index.md").read_text("utf-8")
    assert "- [classes.csv](classes.csv.md)" in listing
    assert (staged.folder / "metrics/data/classes.csv.md").exists()
    assert "](README.md)" not in text  # nothing is turned that is a page already
    assert "](../README.md#use-the-model)" in staged.page("docs/model.md")


def test_pictures_lie_beside_their_page(staged: stage.Stage) -> None:
    assert "](docs/answers.png)" in staged.page("README.md")
    assert (staged.folder / "docs/answers.png").read_bytes() == (ROOT / "docs/answers.png").read_bytes()


def test_what_is_shown_as_code_is_no_link(staged: stage.Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    code = "`[a](b.md)`\n\n```\n[c](d.py)\n```\n"
    (tmp_path / "README.md").write_text(code, "utf-8")
    assert staged.page("README.md") == code


def test_the_notebook_is_a_page(staged: stage.Stage) -> None:
    assert "](notebooks/tour.ipynb.md)" in staged.page("README.md")
    text = (staged.folder / "notebooks/tour.ipynb.md").read_text("utf-8")
    assert text.startswith("# A tour")
    assert "```bash\ndvc exp run " in text
    assert "```python\nmodel = keras" in text
    assert "](../docs/experiments.md)" in text


def test_a_link_to_nothing_is_refused(staged: stage.Stage) -> None:
    with pytest.raises(SystemExit, match=r"error: a link must lead to a file or folder; received docs/none\.py"):
        staged.add("docs/none.py")


def test_the_published_site_knows_its_address_and_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    stage.lay_out(tmp_path)
    project = tomllib.loads((tmp_path / "zensical.toml").read_text("utf-8"))["project"]
    assert project["site_url"] == "https://owner.github.io/name/"
    assert [entry["link"] for entry in project["extra"]["social"]] == ["https://github.com/owner/name"]


def test_the_site_is_built_without_a_warning_and_asks_no_other_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zensical", reason="make site installs it")
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    stage.lay_out(tmp_path)
    words = ["-m", "zensical", "build", "--strict", "--config-file", str(tmp_path / "zensical.toml")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [path.read_text("utf-8") for path in (tmp_path / "html").rglob("*.html")]
    assert len(pages) > len(stage.sources())
    assert not [asked for page in pages for asked in re.findall(r'(?:\ssrc|<link[^>]*href)="(?:https?:)?//[^"]*', page)]
