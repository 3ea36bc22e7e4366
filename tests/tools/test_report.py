"""The page as text, and in a real browser with no network."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError

import pandas as pd
import pytest

import experiments
import pages
import report
from browser import browser
from conftest import Clone, made_once


@pytest.fixture(scope="module")
def clone(reproduced: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With an experiment, a class whose name is HTML, and the page."""

    def make(folder: Path) -> None:
        clone = reproduced.copied(folder)
        base = clone.git("rev-parse", "HEAD").strip()
        for path in (folder / "params.yaml", folder / "dvc.lock"):
            path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
        clone.commit("an idea")
        clone.git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/idea", "HEAD")
        clone.git("reset", "--quiet", "--hard", base)
        table = folder / "metrics/classes/val.csv"
        table.write_text(table.read_text().replace("Bag", "</script><b>"))
        clone.run("make", "--silent", "--old-file=.venv/run", "report")

    return Clone(made_once(tmp_path_factory, "reported", make)).copied(tmp_path_factory.mktemp("report") / "clone")


@pytest.fixture(scope="module")
def page(clone: Clone) -> Path:
    return clone.folder / "report.html"


def test_has_the_figures_the_experiment_and_how_it_was_made(clone: Clone, page: Path) -> None:
    text = page.read_text()
    for part in ("val", "test"):
        figures = json.loads((clone.folder / f"metrics/{part}.json").read_text())
        row = re.search(rf"<tr><td>{part} \(synthetic\)</td>(.*)</tr>", text)
        assert row
        for figure in (f"{figures['accuracy']:.2%}", f"{figures['loss']:.4f}", "100", "not measured"):
            assert f"<td>{figure}</td>" in row[1]
    idea = re.search(r"<tr><td>idea</td>(.*)</tr>", text)
    assert idea
    assert idea[1].startswith("<td>epochs 3</td><td>")
    assert clone.git("rev-parse", "HEAD").strip() in text
    assert "models/model.keras" in text
    assert "batch_size: 64" in text
    assert "&lt;/script&gt;" not in text  # names of classes stand in charts alone
    assert text.count("</script>") == 2
    assert "report.html" not in clone.git("status", "--porcelain")


def test_says_what_is_not_here(clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone.copied(tmp_path / "clone").folder)
    monkeypatch.setattr(sys, "argv", ["report.py", "--out", "page.html"])
    # neither of them depends on what is missing
    monkeypatch.setattr(experiments, "table", pd.DataFrame)
    monkeypatch.setattr(pages, "vega", lambda version: "")
    missing = "The pictures are not here; make repro or dvc pull brings them."
    report.main()
    assert missing not in Path("page.html").read_text()
    assert 'data-chart="Loss"' in Path("page.html").read_text()
    shutil.rmtree("plots")
    shutil.rmtree("metrics/curves")
    Path("metrics/train.json").unlink()
    report.main()
    assert missing in Path("page.html").read_text()
    assert 'data-chart="Loss"' not in Path("page.html").read_text()
    shutil.rmtree("metrics")
    with pytest.raises(InputError, match=r"^metrics/ must have results \(make repro\); received none$"):
        report.main()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=browser(), args=arguments)
        yield started
        started.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_drawn_and_nothing_is_asked_for(chromium: Any, page: Path, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown = context.new_page()
    requests, messages = [], []
    shown.on("request", lambda request: requests.append(request.url))
    shown.on("console", lambda message: messages.append(message.text))
    shown.on("pageerror", lambda error: messages.append(str(error)))
    shown.goto(page.as_uri())
    shown.wait_for_function("document.querySelectorAll('.chart svg.marks').length == 8")
    assert shown.evaluate("[...document.images].map(image => image.naturalWidth > 0)") == [True] * 2
    drawn = "[...document.querySelectorAll('svg.marks')].map(chart => chart.querySelectorAll(MARKS).length)"
    marks = "'.mark-symbol path, .mark-rect path, .mark-line path'"
    assert min(shown.evaluate(drawn.replace("MARKS", marks))) > 3  # in no chart a frame alone
    # the page itself is never wider than the window
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    # zoom by the wheel redraws
    chart = shown.locator(".chart svg.marks").first
    before = chart.screenshot()
    chart.hover()
    shown.mouse.wheel(0, -300)
    shown.wait_for_timeout(300)
    assert chart.screenshot() != before
    if "SCREENSHOT" in os.environ:  # to look at it
        shown.screenshot(path=Path(os.environ["SCREENSHOT"]), full_page=True)
    context.close()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert messages == []
