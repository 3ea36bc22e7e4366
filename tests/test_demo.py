"""The page and its program: what it answers, and both together in a real browser."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import synthetic

import numpy as np
import pytest
from PIL import Image

import demo
from browser import browser
from conftest import ROOT
from inference.classifier import Classifier

DRAWN = synthetic.draw(np.arange(10), np.random.default_rng(0))  # (10, 28, 28)


@pytest.fixture(scope="module")
def address(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a running demo."""
    with subprocess.Popen(
        [sys.executable, ROOT / "src/demo.py", "--model", exported, "--port", "0"],
        cwd=tmp_path_factory.mktemp("demo"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        yield process.stdout.readline().split()[0]
        process.terminate()


def photograph() -> bytes:
    """A bag on white."""
    picture = Image.new("L", (400, 500), 255)
    picture.paste(Image.fromarray(255 - DRAWN[8]).resize((280, 280)), (60, 100))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def ask(address: str, content: bytes | None, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    request = urllib.request.Request(f"{address}/predict", content, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else text.decode()


def test_it_answers_as_predict_does(address: str, exported: Path) -> None:
    status, answer = ask(address, photograph())
    prediction = Classifier(exported).predict(io.BytesIO(photograph()))
    assert status == 200
    assert answer["classes"] == [
        {"name": name, "probability": probability} for name, probability in prediction.likeliest
    ]
    assert answer["out_of_distribution"] is prediction.out_of_distribution
    np.testing.assert_array_equal(decoded(answer["input"]), prediction.image[..., 0])


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 400, "the picture must be a picture that Pillow reads; received something else"),
        (b"text", 400, "the picture must be a picture that Pillow reads; received something else"),
        (photograph()[:-50], 400, "the picture must be a whole picture; received: "),
        (bytes(demo.MAX_BYTES + 1), 413, "the picture must have at most 20,000,000 bytes; received more"),
    ],
)  # fmt: skip
def test_what_is_no_picture_gets_one_line(address: str, content: bytes, status: int, reason: str) -> None:
    code, answer = ask(address, content)
    assert code == status
    assert answer["error"].startswith(reason)
    assert len(answer["error"].splitlines()) == 1


def test_it_serves_this_machine_alone(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    assert ask(address, photograph(), Host="example.org") == (400, "Invalid host header")
    with urllib.request.urlopen(address) as page:  # noqa: S310
        policy, text = page.headers["Content-Security-Policy"], page.read().decode()
    assert "default-src 'none'" in policy
    assert not re.search(r"https?://", policy + text)


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "src/demo.py", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_what_hinders_it_is_one_line(address: str, exported: Path, tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: models/model.onnx must exist (make export writes it")
    done = run("--model", exported, "--port", address.rpartition(":")[2], cwd=tmp_path)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- in a browser -----------------------------------------------------------------------------------

GIVE = """([bytes, kind]) => {
  const data = new DataTransfer();
  if (bytes) data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
    : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
}"""


WIDTHS = {"desktop": 1200, "phone": 360}
SCHEMES = ("light", "dark")


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=" ".join)
def page(address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, which in the end has asked nobody else for anything and made no error."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # milliseconds; tests beside it may take the cores
    width, scheme = request.param
    requests, messages = [], []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser(), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = chromium.new_context(
            viewport={"width": WIDTHS[width], "height": 740}, color_scheme=scheme
        ).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append((message.type, message.text)))
        page.on("pageerror", lambda error: messages.append(("error", str(error))))
        # Chromium then hands over choosers before the test asks for one, which it may do too late
        page.on("filechooser", lambda chooser: None)
        page.goto(address)
        yield page
        if "SCREENSHOT" in os.environ:  # to look at it
            place = Path(os.environ["SCREENSHOT"])
            name = re.sub(r"\W+", "-", request.node.name)
            page.screenshot(path=place.with_stem(f"{place.stem}-{name}"), full_page=True)
        chromium.close()
    elsewhere = [url for url in requests if not url.startswith(("data:", "blob:", f"{address}/"))]
    assert elsewhere == []
    # the browser itself reports every answer that refuses something
    assert [text for kind, text in messages if kind == "error" and "400" not in text] == []


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def seen(page: Any) -> np.ndarray:
    """The image that is shown, (28, 28), and nothing else is; then the answer is forgotten."""
    from playwright.sync_api import expect

    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#result")).to_be_in_viewport()
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("li")).to_have_count(3)
    image = decoded(page.get_attribute("#input", "src"))
    page.evaluate("show('status')")
    return image


def refused(page: Any, reason: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#error")).to_have_text(re.compile(reason))
    expect(page.locator("#result")).to_be_hidden()


@pytest.mark.slow
def test_a_picture_is_chosen_pasted_or_dropped(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    path = tmp_path / "a.png"
    path.write_bytes(photograph())
    page.keyboard.press("Tab")
    expect(page.locator("#choose")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(path)
    chosen = seen(page)
    assert chosen.shape == (28, 28)
    for kind in ("paste", "drop"):
        page.evaluate(GIVE, [[*photograph()], kind])
        np.testing.assert_array_equal(seen(page), chosen)
        page.evaluate(GIVE, [None, kind])
        refused(page, "must be a picture; received none$")
        page.evaluate(GIVE, [[1, 2, 3], kind])
        refused(page, "must be a picture that Pillow reads; received something else$")
    page.set_input_files("#file", path)
    seen(page)
    page.evaluate("show('result')")  # for the screenshot


@pytest.mark.slow
def test_a_picture_is_drawn_with_keys_alone(page: Any) -> None:
    from playwright.sync_api import expect

    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator("#canvas")).to_be_focused()
    for key in ["Space", *["ArrowDown"] * 9, *["ArrowRight"] * 9]:
        page.keyboard.press(key)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    drawn = seen(page)
    assert drawn[14, 3] > 150 < drawn[24, 14]  # a corner, down and to the right
    assert drawn[5:20, 12:].max() < 50
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # clears it
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    refused(page, "must show something on its background; received one colour$")


@pytest.mark.slow
def test_a_picture_is_drawn_with_the_pointer(page: Any) -> None:
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 60, steps=5)
    page.mouse.up()
    page.mouse.move(box["x"] + 220, box["y"] + 220)  # the pen is up
    page.click("#ask")
    stroke = seen(page)
    assert stroke.any(0).all()  # from left to right
    assert 3 <= stroke.any(1).sum() <= 6
    page.keyboard.press("Shift+Tab")  # shows where the keys' pen is
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    np.testing.assert_array_equal(seen(page), stroke)  # and that is no part of the drawing


@pytest.mark.slow
def test_the_page_fits_and_follows_the_system(page: Any, request: pytest.FixtureRequest) -> None:
    width, scheme = request.node.callspec.params["page"]
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
    heights = page.evaluate("[...document.querySelectorAll('button')].map(b => b.offsetHeight)")
    assert len(heights) == 3
    assert min(heights) >= 44  # for fingers
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
