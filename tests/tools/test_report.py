"""The page as text, and in a real browser with no network."""

import base64
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import arrays
from common.classes import FASHION_MNIST
from common.errors import InputError

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import experiments
import pages
import report
import verdict
from analysis import revisions
from browser import browser
from conftest import TINY, Clone, made_once, write_params


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
        card = re.search(rf"<h3>Accuracy on {part} \(synthetic\)</h3>(.*?)</section>", text, re.S)
        assert card
        assert f'<p class="large">{figures["accuracy"]:.2%}</p>' in card[1]
        for figure in (f"{figures['loss']:.4f}", "100", "not measured"):
            assert f"<dd>{figure}</dd>" in card[1]
    assert re.search(r'<div class="verdict"><strong>.+</strong>', text)
    assert ">plain, 2 epochs</p>" in text
    assert "full size begins" not in text  # TINY has one size
    idea = re.search(r'<tr><td data-name="name">idea</td>(.*)</tr>', text)
    assert idea
    assert idea[1].startswith('<td data-name="differs in">epochs 3</td><td')
    assert clone.git("rev-parse", "HEAD").strip() in text
    assert "models/model.keras" in text
    assert "batch_size: 64" in text
    assert "&lt;/script&gt;" not in text  # names of classes stand in charts alone
    assert text.count("</script>") == 2
    assert "report.html" not in clone.git("status", "--porcelain")


def write_page(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["report.py"])
    # what no test here looks at
    monkeypatch.setattr(experiments, "table", pd.DataFrame)
    monkeypatch.setattr(pages, "vega", lambda version: "")
    monkeypatch.setattr(verdict, "text", lambda: "Verdict.\nBecause.")
    report.main()
    return report.REPORT.read_text()


@pytest.fixture
def here(clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory is a copy of the clone."""
    monkeypatch.chdir(clone.copied(tmp_path / "clone").folder)
    return Path()


def test_says_what_is_not_here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "The pictures are not here; <code>make repro</code> or <code>dvc pull</code> brings them."
    text = write_page(monkeypatch)
    assert missing not in text
    assert 'data-which="loss"' in text
    shutil.rmtree("data/prepared/test")
    shutil.rmtree("metrics/curves")
    Path("metrics/train.json").unlink()
    text = write_page(monkeypatch)
    assert missing in text
    assert "</b> taken for <b>" in text
    assert "<img" not in text
    assert 'data-which="loss"' not in text
    shutil.rmtree("metrics")
    with pytest.raises(InputError, match=r"^metrics/ must have results \(make repro\); received none$"):
        report.main()


def test_the_commonest_mistakes_come_first_and_their_surest_images(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = arrays.load("test")
    names = arrays.load_class_names()
    bags, coats = (np.flatnonzero(labels == names.index(name)) for name in ("Bag", "Coat"))
    table = pd.DataFrame({"id": range(len(labels)), "label": [names[label] for label in labels], "confidence": 0.5})
    table["predicted"] = table["label"]
    table = table.drop(index=labels.tolist().index(names.index("Dress")))  # else all classes have one size
    table.loc[bags[:1], ["predicted", "confidence"]] = "Shirt", 0.9
    table.loc[coats[:3], "predicted"] = "Dress"
    table.loc[coats[:3], "confidence"] = 0.3, 0.7, 0.3
    table.to_csv("metrics/predictions/test.csv", index=False)
    first, second = report.mistakes(revisions.HERE, "test")
    assert (first["label"], first["predicted"], first["count"], first["size"]) == ("Coat", "Dress", 3, len(coats))
    order = [coats[1], coats[0], coats[2]]
    assert first["shown"] == [
        (pages.data_url(images[row]), share) for row, share in zip(order, (0.7, 0.3, 0.3), strict=True)
    ]
    assert (second["label"], second["predicted"], second["count"]) == ("Bag", "Shirt", 1)
    text = write_page(monkeypatch)
    assert f'alt="Coat, taken for Dress" src="{pages.data_url(images[coats[1]])}"><figcaption>70%' in text
    table["predicted"] = table["label"]
    table.to_csv("metrics/predictions/test.csv", index=False)
    assert report.mistakes(revisions.HERE, "test") == []
    assert "<li>None.</li>" in write_page(monkeypatch)
    arrays.save(arrays.PREPARED / "test", images, np.roll(labels, 1))
    with pytest.raises(InputError, match=r"^data/prepared must have the images of the predictions \(make repro\); "):
        report.main()


@pytest.mark.parametrize("is_changed", [False, True])
def test_uncommitted_changes_are_said(here: Path, monkeypatch: pytest.MonkeyPatch, is_changed: bool) -> None:
    if not is_changed:
        Clone(here).commit("what the fixture has changed")
    text = write_page(monkeypatch)
    assert f"<tr><td>uncommitted changes</td><td><code>{is_changed}</code></td></tr>" in text


def test_an_image_in_the_page_is_the_image() -> None:
    for image in (np.arange(784, dtype=np.uint8).reshape(28, 28, 1), np.arange(120, dtype=np.uint8).reshape(5, 8, 3)):
        kind, _, content = pages.data_url(image).partition(",")
        assert kind == "data:image/png;base64"
        read = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        np.testing.assert_array_equal(read, image.squeeze())


@pytest.mark.parametrize(("epochs", "said"), [(1, "1 epoch"), (10, "10 epochs")])
def test_one_epoch_is_one_and_small_ones_are_explained(
    here: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, said: str
) -> None:
    write_params(here, TINY | {"train.epochs": epochs, "train.progressive_resizing.share": 0.19})
    text = write_page(monkeypatch)
    assert f">plain, {said}</p>" in text
    assert ("the images of the first 1 epoch have\n70% of their height" in text) == (epochs == 10)


def test_every_line_of_the_verdict_is_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "<strong>Verdict.</strong>\n<div>Because.</div>" in write_page(monkeypatch)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=browser(), args=arguments)
        yield started
        started.close()


@pytest.fixture(params=[(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")], ids=str)
def shown(chromium: Any, page: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in a window, with all charts drawn; in the end it has asked for nothing, and has no error."""
    width, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown = context.new_page()
    requests, messages = [], []
    shown.on("request", lambda request: requests.append(request.url))
    shown.on("console", lambda message: messages.append(message.text))
    shown.on("pageerror", lambda error: messages.append(str(error)))
    shown.goto(page.as_uri())
    shown.wait_for_function("document.querySelectorAll('.chart svg.marks').length == 9")
    yield shown
    if "SCREENSHOT" in os.environ:  # to look at it
        path = Path(os.environ["SCREENSHOT"])
        shown.screenshot(path=path.with_stem(f"{path.stem}-{width}-{scheme}"), full_page=True)
    context.close()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert messages == []


@pytest.mark.slow
def test_everything_is_drawn_and_nothing_is_asked_for(shown: Any) -> None:
    loaded = shown.evaluate("[...document.images].map(image => image.naturalWidth > 0)")
    assert len(loaded) > 2
    assert all(loaded)
    drawn = "[...document.querySelectorAll('svg.marks')].map(chart => chart.querySelectorAll(MARKS).length)"
    marks = "'.mark-symbol path, .mark-rect path, .mark-line path'"
    assert min(shown.evaluate(drawn.replace("MARKS", marks))) > 3  # in no chart a frame alone
    # neither the page nor a table is ever wider than the window
    assert shown.evaluate("document.documentElement.scrollWidth") <= shown.viewport_size["width"]
    shown.click("summary")
    wider = "[...document.querySelectorAll('.wide')].filter(table => table.scrollWidth > table.clientWidth + 1).length"
    assert shown.evaluate(wider) == 0
    assert shown.locator("details table").is_visible()


@pytest.mark.slow
def test_the_wheel_zooms_with_ctrl_alone(shown: Any) -> None:
    chart = shown.locator("[data-chart=curves] svg.marks").first
    chart.scroll_into_view_if_needed()
    chart.hover()
    labels = (
        "[...document.querySelectorAll('[data-which=accuracy] .role-axis-label text')].map(label => label.textContent)"
    )
    before, top = shown.evaluate(labels), shown.evaluate("scrollY")
    shown.mouse.wheel(0, -100)
    shown.wait_for_function(f"scrollY < {top}")
    assert shown.evaluate(labels) == before
    chart.scroll_into_view_if_needed()
    chart.hover()
    shown.keyboard.down("Control")
    shown.mouse.wheel(0, -300)
    shown.wait_for_function(f"JSON.stringify({labels}) != {json.dumps(json.dumps(before, separators=(',', ':')))}")


@pytest.mark.slow
def test_a_class_stands_at_its_label_in_every_chart(shown: Any) -> None:
    names = [*FASHION_MNIST]
    labels = """chart => [...chart.querySelectorAll('.role-axis-label')]
        .map(axis => [...axis.querySelectorAll('text')].map(label => label.textContent))"""
    axes = shown.eval_on_selector("[data-chart=confusion][data-which=test]", labels)
    assert len(axes) == 2
    for axis in axes:
        assert [*filter(set(axis).__contains__, names)] == axis  # those that there are
    for _, down in shown.eval_on_selector_all("[data-chart=classes]", f"charts => charts.map({labels})"):
        assert ["Bag" if "<b>" in name else name for name in down] == names


@pytest.mark.slow
def test_no_mark_is_cut_at_the_edge(shown: Any) -> None:
    outside = """charts => charts.flatMap(chart => {
      const frame = chart.querySelector('.root > g > .background').getBoundingClientRect();
      return [...chart.querySelectorAll('.role-mark.mark-symbol path')].map(mark => mark.getBoundingClientRect())
        .filter(mark => mark.left < frame.left || mark.right > frame.right || mark.top < frame.top || mark.bottom > frame.bottom);
    }).length"""
    assert shown.eval_on_selector_all(".chart svg.marks", outside) == 0


def luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`, as WCAG 2 defines it."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (int(number) / 255 for number in re.findall(r"\d+", colour)[:3])
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.slow
def test_data_are_louder_than_the_grid_and_mistakes_than_the_diagonal(shown: Any) -> None:
    paper, ink = shown.evaluate("(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))")
    chart = "[data-which=accuracy] "
    grid = shown.locator(f"{chart}.role-axis-grid line").first.get_attribute("stroke")
    lines = shown.eval_on_selector_all(
        f"{chart}.mark-line path", "lines => lines.map(line => line.getAttribute('stroke'))"
    )
    assert contrast(grid, paper) < 1.3
    assert len(set(lines)) == 2
    assert min(contrast(line, paper) for line in lines) > 4
    cells = shown.eval_on_selector_all(
        "[data-chart=confusion][data-which=test] .mark-rect path",
        "cells => cells.map(cell => [cell.getAttribute('fill'), cell.getAttribute('aria-label')])",
    )
    shares = {float(re.findall(r"wrong: ([\d.e-]+)", said)[0]): fill for fill, said in cells}
    by_share = [fill for _, fill in sorted(shares.items())]
    assert contrast(by_share[0], paper) == 1  # of the diagonal
    assert contrast(by_share[-1], paper) == max(contrast(fill, paper) for fill in by_share) > 2
    assert min(contrast(ink, fill) for fill in by_share) > 4.5  # numbers stand on all of them
