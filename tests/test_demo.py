"""The page and its program: what it answers, and both together in a real browser."""

import base64
import io
import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common import synthetic

import numpy as np
import psutil
import pytest
from PIL import Image

import demo
import hostile
from browser import browser
from conftest import ROOT
from inference.classifier import Classifier

DRAWN = synthetic.draw(np.arange(10), np.random.default_rng(0))  # (10, 28, 28)


@contextmanager
def started(model: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running demo, and its address."""
    words: list[str | Path] = [sys.executable, ROOT / "src/demo.py", "--model", model, "--port", "0"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process, process.stdout.readline().split()[0]
        process.terminate()


@pytest.fixture(scope="module")
def address(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(exported, tmp_path_factory.mktemp("demo")) as (_, address):
        yield address


def photograph() -> bytes:
    """A bag on white."""
    picture = Image.new("L", (400, 500), 255)
    picture.paste(Image.fromarray(255 - DRAWN[8]).resize((280, 280)), (60, 100))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def ask(address: str, content: bytes | None, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    request = urllib.request.Request(address + ("/" if content is None else "/predict"), content, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else text.decode()


def test_it_answers_as_predict_does(address: str, exported: Path) -> None:
    status, answer = ask(address, photograph())
    prediction = Classifier(exported).predict(io.BytesIO(photograph()), count=10)
    assert status == 200
    assert len(answer["classes"]) == 10
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
    with urllib.request.urlopen(address) as page:  # noqa: S310
        policy, text = page.headers["Content-Security-Policy"], page.read().decode()
    assert "default-src 'none'" in policy
    assert not re.search(r"https?://", policy + text)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},  # another program on this machine
        {"Origin": "null"},
        {"Host": "evil.example"},  # whose name leads to this machine
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("content", [None, photograph()], ids=["page", "predict"])
def test_it_answers_its_own_page_only(address: str, headers: dict[str, str], content: bytes | None) -> None:
    status, answer = ask(address, content, **headers)
    assert status == 403
    assert answer["error"].startswith("requests must come from the page of this program")
    own = {"Origin": address, "Sec-Fetch-Site": "same-origin"}
    assert ask(address, photograph(), **own)[0] == 200


def test_localhost_is_this_machine_too(address: str) -> None:
    port = address.rpartition(":")[2]
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert ask(address, photograph(), **own)[0] == 200


def send(address: str, content: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
    client.sendall(content)
    return client


def to_end(client: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    client.settimeout(3 * demo.SECONDS)
    chunks = []  # those before a reset, too
    with client, suppress(ConnectionResetError):
        while chunk := client.recv(1000):
            chunks.append(chunk)
    return b"".join(chunks)


def head(length: int, host: str = "localhost") -> bytes:
    return f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n".encode()


def drip(address: str) -> bytes:
    """Sends a byte a second, as long as it may; gives the answer."""
    client = send(address, head(1000))
    with suppress(ConnectionError):
        while not select.select([client], [], [], 1)[0]:
            client.sendall(b"\0")
    return to_end(client)


@pytest.mark.parametrize("start", ["GET /x HTTP/1.1", "GET /predict HTTP/1.1", "GET //evil.example/ HTTP/1.1"])
def test_what_it_has_no_page_for_ends_the_connection_too(address: str, start: str) -> None:
    text = to_end(send(address, f"{start}\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode())).decode()
    assert re.match(r"HTTP/1\.1 40[45] ", text)
    for name, value in demo.HEADERS.items():
        assert text.lower().count(f"\r\n{name}: {value}\r\n".lower()) == 1


@pytest.mark.slow
def test_who_is_slow_is_dropped(address: str) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(to_end, send(address, begin)) for begin in (b"", b"POST / ")]
        dripping = pool.submit(drip, address)
        start = time.monotonic()
        assert b"must come within 10 s" in dripping.result()
        assert [each.result() for each in waiting] == [b"", b""]
    assert demo.SECONDS - 1 < time.monotonic() - start < 2 * demo.SECONDS


# --- under load -------------------------------------------------------------------------------------

COSTLY = ("65,535 × 550", "PNG, colour and alpha", "PNG, 1 bit", "PNG of many profiles", "JPEG", "PGM of another white")
CLIENTS, REQUESTS = 20, 10  # of each


def hang_up(address: str, content: bytes) -> None:
    send(address, head(len(content)) + content).close()


def attack(address: str, number: int) -> None:
    """One of many hostile requests, each of which ends."""
    costly = hostile.picture(COSTLY[number % len(COSTLY)])
    attacks: list[Callable[[], object]] = [
        lambda: ask(address, costly),
        lambda: hang_up(address, costly),
        lambda: hang_up(address, costly[:-1000]),
        lambda: drip(address),
        lambda: to_end(send(address, b"")),
        lambda: ask(address, bytes(demo.MAX_BYTES)),
        lambda: ask(address, photograph(), Origin="https://evil.example"),
        lambda: to_end(send(address, b"\0\xff" * 100_000)),
        lambda: to_end(send(address, head(-1) + bytes(100_000))),
        lambda: ask(address, hostile.picture("44,000,000 × 1")),
    ]
    with suppress(ConnectionError, urllib.error.URLError):
        attacks[number % len(attacks)]()


@pytest.mark.slow
def test_good_requests_are_answered_beside_hostile_ones(exported: Path, tmp_path: Path) -> None:
    for name in COSTLY:
        hostile.picture(name)
    with started(exported, tmp_path) as (process, address), ThreadPoolExecutor(CLIENTS + 1) as pool:
        memory = psutil.Process(process.pid).memory_info
        peak, ended = [memory().rss], threading.Event()

        def watch() -> None:
            while not ended.wait(0.01):
                peak.append(memory().rss)

        def client(number: int) -> list[int]:
            if number % 5 == 0:
                for request in range(REQUESTS):
                    attack(address, number + request)
                return []
            return [ask(address, photograph())[0] for _ in range(REQUESTS)]

        pool.submit(watch)
        try:
            answers = [status for statuses in pool.map(client, range(CLIENTS)) for status in statuses]
        finally:
            ended.set()
        assert answers == [200] * (CLIENTS * REQUESTS * 4 // 5)
        time.sleep(1)
        after = memory().rss
    print(f"memory: {max(peak) / 1e6:.0f} MB at most, {after / 1e6:.0f} MB after")
    assert max(peak) < 600e6
    assert after < 300e6


@pytest.mark.slow
def test_six_costly_pictures_at_once_take_the_memory_of_one(exported: Path, tmp_path: Path) -> None:
    content = hostile.picture("PNG, colour and alpha")
    with started(exported, tmp_path) as (process, address):
        with ThreadPoolExecutor(6) as pool:
            answers = [*pool.map(lambda _: ask(address, content)[0], range(6))]
        most = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert answers == [400] * 6
    assert most
    assert int(most[1]) < 300_000


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
    assert done.stderr.startswith("error: models/model.onnx must exist (make export, dvc pull or dvc checkout)")
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
        page = chromium.new_context(viewport={"width": WIDTHS[width], "height": 740}, color_scheme=scheme).new_page()
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
    refusals = ("400", "net::ERR_FAILED")
    assert [text for kind, text in messages if kind == "error" and not any(word in text for word in refusals)] == []


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def settle(page: Any) -> None:
    """Waits until no question is open."""
    for _ in range(300):
        page.wait_for_timeout(100)  # the policy of the page forbids to wait for a function
        if not page.evaluate("Boolean(busy || next || timer)"):
            return
    pytest.fail("the page asks without end")


def seen(page: Any) -> np.ndarray:
    """The image that is shown, (28, 28), and nothing else is; then the answer is forgotten."""
    from playwright.sync_api import expect

    settle(page)
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#best")).to_be_in_viewport()
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("li")).to_have_count(10)
    image = decoded(page.get_attribute("#input", "src"))
    page.evaluate("show('status')")
    return image


def refused(page: Any, reason: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#error")).to_have_text(reason)
    expect(page.locator("#result")).to_be_hidden()


@pytest.mark.slow
def test_a_picture_is_chosen_pasted_or_dropped(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(photograph())
    page.focus("#choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(path)
    chosen = seen(page)
    assert chosen.shape == (28, 28)
    for kind, word in (("paste", "pasted"), ("drop", "dropped")):
        page.evaluate(GIVE, [[*photograph()], kind])
        np.testing.assert_array_equal(seen(page), chosen)
        page.evaluate(GIVE, [None, kind])
        refused(page, f"What you {word} is not a picture.")
        page.evaluate(GIVE, [[1, 2, 3], kind])
        refused(page, "This is not a picture that can be read here. PNG, JPEG and WebP can.")
    page.set_input_files("#file", path)
    seen(page)
    page.evaluate("show('result')")  # for the screenshot
    assert page.evaluate("[given.naturalWidth, given.naturalHeight]") == [400, 500]


@pytest.mark.slow
def test_a_picture_is_drawn_with_keys_alone(page: Any) -> None:
    from playwright.sync_api import expect

    page.keyboard.press("Tab")
    expect(page.locator("#canvas")).to_be_focused()
    for key in ["Space", *["ArrowDown"] * 9, *["ArrowRight"] * 9]:
        page.keyboard.press(key)
    drawn = seen(page)
    assert drawn[14, 3] > 150 < drawn[24, 14]  # a corner, down and to the right
    assert drawn[5:20, 12:].max() < 50
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # clears it
    settle(page)
    expect(page.locator("#status")).to_have_text("Nothing yet.")
    expect(page.locator("#result")).to_be_hidden()
    assert page.evaluate("pen.getImageData(0, 0, 280, 280).data.every(value => value == 255)")


@pytest.mark.slow
def test_a_picture_is_drawn_with_the_pointer(page: Any) -> None:
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 60, steps=5)
    page.mouse.up()
    page.mouse.move(box["x"] + 220, box["y"] + 220)  # the pen is up
    stroke = seen(page)
    assert stroke.any(0).all()  # from left to right
    assert 3 <= stroke.any(1).sum() <= 6
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")  # shows where the keys' pen is
    page.evaluate("askDrawing()")
    np.testing.assert_array_equal(seen(page), stroke)  # and that is no part of the drawing


@pytest.mark.slow
def test_it_answers_while_one_draws_one_question_at_a_time(page: Any) -> None:
    waiting: list[Any] = []

    def hold(route: Any) -> None:
        waiting.append(route)
        if len(waiting) > 2:
            route.continue_()

    page.route("**/predict", hold)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    for step in range(20):
        page.mouse.move(box["x"] + 20 + 10 * step, box["y"] + 100)
        page.wait_for_timeout(50)
    assert len(waiting) == 1  # the others wait for it
    waiting[0].continue_()
    for _ in range(100):
        page.wait_for_timeout(50)
        if len(waiting) == 2:
            break
    assert page.locator("#best").is_visible()  # and the button is still down
    page.mouse.up()
    first, last = (route.request.post_data_buffer for route in waiting[:2])
    marked = [np.asarray(Image.open(io.BytesIO(content)).convert("L")) < 128 for content in (first, last)]
    assert marked[0].sum() < marked[1].sum()
    waiting[1].continue_()
    settle(page)


@pytest.mark.slow
def test_samples_are_put_where_one_can_draw_on_them(page: Any) -> None:
    samples = page.locator("#samples button")
    assert samples.count() == 6
    images = []
    for sample in samples.all():
        assert sample.get_attribute("aria-label")
        sample.click()
        images.append(seen(page))
    assert len({image.tobytes() for image in images}) == 6
    page.locator("#canvas").click(position={"x": 40, "y": 40})
    assert not np.array_equal(seen(page), images[-1])


ANSWER = {
    "input": "data:image/png;base64,",
    "size": "28 × 28",
    "classes": [
        {"name": name, "probability": share} for name, share in (("Dress", 0.62), ("Bag", 0.3), ("Coat", 0.08))
    ],
    "out_of_distribution": False,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({}, "Dress 62 % sure"),
        ({"classes": [{"name": "Bag", "probability": 0.41}]}, "Perhaps Bag 41 % sure"),
        (
            {"out_of_distribution": True},
            "Dress 62 % sure This does not look like anything it has learned, so do not rely on the answer.",
        ),
        ({"error": "the picture must show something that stands out; received too little contrast"},
         "Nothing on this picture stands out from its background."),
        ({"error": "the picture must be a whole picture; received: x"},
         "This picture is damaged: a part of it is missing."),
        ({"error": "the picture must have at most 20,000,000 bytes; received more"},
         "This file is too large: a picture may have 20 MB."),
        ({"error": "something new; received <b>"}, "something new; received <b>"),
        (None, "No answer: the program on this machine has ended, or is busy. make demo starts it."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("page", [("phone", "dark")], indirect=True)
def test_it_says_so_in_plain_words(page: Any, answer: dict[str, Any] | None, said: str) -> None:
    page.route("**/predict", lambda route: route.fulfill(json=ANSWER | answer) if answer is not None else route.abort())
    page.evaluate(GIVE, [[*photograph()], "drop"])
    settle(page)
    assert " ".join(page.inner_text("#headline").split()) == said
    if answer == {}:
        assert page.locator("li.top").inner_text().split() == ["62", "%", "Dress"]
        assert [row.split()[-1] for row in page.locator("li").all_inner_texts()] == ["Bag", "Coat", "Dress"]
        widths = [
            float(width.rstrip("%"))
            for width in page.eval_on_selector_all("li div div", "bars => bars.map(bar => bar.style.width)")
        ]
        assert widths == [30, 8, 62]
    assert "distribution" not in page.inner_text("body").lower()


def test_an_answer_has_as_many_classes_as_were_asked_for(exported: Path) -> None:
    classifier = Classifier(exported)
    names, some = (
        [name for name, _ in classifier.predict(io.BytesIO(photograph()), count=count).likeliest] for count in (20, 4)
    )
    assert sorted(names) == sorted(classifier.class_names)
    assert some == names[:4]


@pytest.mark.slow
def test_the_page_fits_and_follows_the_system(page: Any, request: pytest.FixtureRequest) -> None:
    width, scheme = request.node.callspec.params["page"]
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
    heights = page.evaluate("[...document.querySelectorAll('button')].map(b => b.offsetHeight)")
    assert len(heights) == 8  # six of them are samples
    assert min(heights) >= 44  # for fingers
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
