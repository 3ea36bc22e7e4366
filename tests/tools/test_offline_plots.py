"""The page of `dvc plots show`, in a real browser with no network."""

import os
from pathlib import Path

import pytest

from browser import browser
from conftest import Clone


@pytest.mark.slow
def test_the_plots_page_draws_everything_and_asks_for_nothing(reproduced: Clone) -> None:
    from playwright.sync_api import sync_playwright

    reproduced.run("python", "tools/offline_plots.py")
    reproduced.dvc("plots", "show")
    page_file = reproduced.folder / "dvc_plots" / "index.html"
    requests, messages = [], []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = chromium.new_context(viewport={"width": 1400, "height": 900}).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append((message.type, message.text)))
        page.on("pageerror", lambda error: messages.append(("error", str(error))))
        page.goto(page_file.as_uri())
        page.wait_for_function("document.querySelectorAll('canvas.marks, svg.marks').length >= 8")
        broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
        images = page.evaluate("document.images.length")
        if "SCREENSHOT" in os.environ:  # to look at it
            page.screenshot(path=Path(os.environ["SCREENSHOT"]), full_page=True)
        chromium.close()
    assert images == 5  # three of the data, the mistakes on val and on test
    assert broken == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert [text for kind, text in messages if kind == "error"] == []
