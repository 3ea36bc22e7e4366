"""The page of `dvc plots show`, in a real browser with no network."""

import os
from pathlib import Path

import pytest

from browser import browser
from conftest import Clone

NAMES = {
    "Bag": "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "Coat": "</plaintext>-->",
    "Dress": "nan",
}


@pytest.mark.slow
def test_the_plots_page_draws_everything_and_asks_for_nothing(reproduced: Clone, tmp_path: Path) -> None:
    """A name of a class or a branch is never markup."""
    from playwright.sync_api import Dialog, sync_playwright

    clone = reproduced.copied(tmp_path / "clone")
    for path in (clone.folder / "metrics").rglob("*.csv"):
        text = path.read_text()
        for word, name in NAMES.items():
            text = text.replace(word, name)
        path.write_text(text)
    clone.run("python", "tools/offline_plots.py")
    clone.git("branch", branch := "<img/src=x/onerror=alert(1)>")
    clone.dvc("plots", "diff", "workspace", branch)
    page_file = clone.folder / "dvc_plots" / "index.html"
    requests, messages = [], []
    dialogs: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = chromium.new_context(viewport={"width": 1400, "height": 900}).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append((message.type, message.text)))
        page.on("pageerror", lambda error: messages.append(("error", str(error))))

        def dismiss(dialog: Dialog) -> None:
            dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", dismiss)
        page.goto(page_file.as_uri())
        page.wait_for_function("document.querySelectorAll('canvas.marks, svg.marks').length >= 8")
        broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)")
        images = page.evaluate("document.images.length")
        scripts = page.evaluate("document.scripts.length")
        names = {*page.locator("p").all_inner_texts()} & {"workspace", branch}
        if "SCREENSHOT" in os.environ:  # to look at it
            page.screenshot(path=Path(os.environ["SCREENSHOT"]), full_page=True)
        chromium.close()
    assert (dialogs, scripts) == ([], 2)
    assert names == {"workspace", branch}
    assert images == 10  # of both, three of the data, the mistakes on val and on test
    assert broken == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert [text for kind, text in messages if kind == "error"] == []
