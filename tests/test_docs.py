"""Pages: each case in a table names the test that holds it, each named test exists, each link leads somewhere."""

import ast
import re
from pathlib import Path

import pytest

from conftest import ROOT

PAGES = ("security.md", "environments.md")
ROOT_PAGES = ("README.md", "MODEL_CARD.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
WRITTEN = [ROOT / name for name in (*ROOT_PAGES, "published/README.md", "data/input/README.md", "benchmarks/LOG.md")]
ALL = [*(page for page in WRITTEN if page.exists()), *sorted((ROOT / "docs").glob("*.md"))]


def rows(page: Path) -> list[list[str]]:
    """The cells of every row of the tables `case | what happens | test`, without their heads."""
    lines = (line.replace(r"\|", "") for line in page.read_text("utf-8").splitlines() if line.startswith("| "))
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "case" and set(row[0]) != {"-"}]


def definition(named: str) -> ast.FunctionDef | None:
    file, _, name = named.partition("::")
    path = ROOT / file
    tree = ast.parse(path.read_text("utf-8") if path.is_file() else "")
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found[0] if found and name.startswith("test_") else None


@pytest.mark.parametrize("name", PAGES)
def test_every_case_names_a_test_that_exists(name: str) -> None:
    page = ROOT / "docs" / name
    if not page.exists():
        pytest.skip("not written yet")
    found = rows(page)
    assert found
    assert [row for row in found if len(row) != 3 or not all(row)] == []
    tests = [named for row in found for named in row[2].replace("`", "").replace(" (slow)", "").split(", ")]
    assert [named for named in tests if not definition(named)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_test_that_a_page_names_exists(path: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py::\w+)(?:` \((slow))?", path.read_text("utf-8"))
    assert [name for name, _ in named if not definition(name)] == []
    assert named or path.name not in (*PAGES, "libraries.md")
    for name, mark in named:
        decorators = [ast.unparse(each) for each in getattr(definition(name), "decorator_list", [])]
        assert not mark or any("slow" in each for each in decorators), name
        assert mark or "pytest.mark.slow" not in decorators, name


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_within_a_line_can_be_copied_whole(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S)
    assert [line for line in text.splitlines() if line.count("`") % 2] == []


def anchors(path: Path) -> set[str]:
    """Those that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
