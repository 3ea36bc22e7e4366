"""Every way to the raw files, with small files in place of the published ones.

Servers listen on 127.0.0.1, apt is played by shell scripts, and no test may resolve another host.
"""

import gzip
import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from common import idx, synthetic
from common.errors import InputError

import pytest

import fetch
from conftest import write_params

FILES = fetch.FILES
CONTENTS = {name: f"content of {name}".encode() for name in FILES}
PACKED = {name: gzip.compress(content, mtime=0) for name, content in CONTENTS.items()}
PUBLISHED = {name: (hashlib.sha256(content).hexdigest(), len(content)) for name, content in CONTENTS.items()}
FIRST, *_, LAST = CONTENTS


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory on a machine that has the dataset nowhere."""
    write_params(tmp_path, {"data.source": "fashion-mnist"})
    for name in ("bin", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "FILES", PUBLISHED)
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # no apt
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    system = f"/{fetch.PACKAGE_FOLDER}"
    monkeypatch.setitem(fetch.PLACES, system, partial(fetch.read_folder, tmp_path / "no" / "usr"))
    upstream = partial(fetch.from_upstream, ("http://127.0.0.1:9/",), timeout_s=0.1, retries=0)
    monkeypatch.setitem(fetch.PLACES, "upstream", upstream)

    resolve = socket.getaddrinfo

    def only_this_machine(host: Any, *arguments: Any, **named: Any) -> Any:
        assert host == "127.0.0.1"
        return resolve(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", only_this_machine)
    return tmp_path


def fill(folder: Path, packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    for name, content in (PACKED if packed else CONTENTS).items():
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(content)
    return folder


def state(folder: Path) -> dict[str, bytes]:
    """What lies below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def refusal() -> str:
    with pytest.raises(InputError) as caught:
        fetch.main()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_the_published_sizes_are_those_of_the_dataset() -> None:
    counts = {"train": 60_000, "t10k": 10_000}
    assert {name: size for name, (_, size) in FILES.items()} == {
        f"{part}-{kind}": header + count * size
        for part, count in counts.items()
        for kind, header, size in (("images-idx3-ubyte", 16, 784), ("labels-idx1-ubyte", 8, 1))
    }


# --- folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_the_folder_named_by_the_environment_is_used(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(fill(workspace / "mine", packed)))
    fetch.main()
    assert state(fetch.RAW) == CONTENTS


def test_some_files_may_be_packed_and_others_not(workspace: Path) -> None:
    folder = fill(workspace / "mine")
    (folder / FIRST).unlink()
    (folder / f"{FIRST}.gz").write_bytes(PACKED[FIRST])
    assert fetch.read_folder(folder) == CONTENTS


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"x" * len(CONTENTS[LAST]), "SHA-256", id="another content"),
        pytest.param(CONTENTS[LAST][:-1], "SHA-256", id="too short"),
        pytest.param(CONTENTS[LAST] + b"x", "at most", id="too long"),
    ],
)
def test_other_content_in_the_named_folder_is_refused(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, content: bytes, words: str
) -> None:
    folder = fill(workspace / "mine", packed)
    path = folder / f"{LAST}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    monkeypatch.setenv("FASHION_MNIST_DIR", str(folder))
    message = refusal()
    assert message.startswith(f"{path} must ")
    assert words in message
    assert not fetch.RAW.exists()


def test_a_named_folder_without_the_files_is_refused_even_if_another_place_has_them(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = fill(workspace / "usr")
    monkeypatch.setitem(fetch.PLACES, f"/{fetch.PACKAGE_FOLDER}", partial(fetch.read_folder, system))
    monkeypatch.setenv("FASHION_MNIST_DIR", "nowhere")
    assert refusal() == ("FASHION_MNIST_DIR must hold the four files; received nowhere: no folder nowhere")
    (fill(workspace / "mine") / LAST).unlink()
    monkeypatch.setenv("FASHION_MNIST_DIR", "mine")
    assert refusal() == (f"FASHION_MNIST_DIR must hold the four files; received mine: mine has no {LAST} or {LAST}.gz")


def test_a_named_folder_that_cannot_be_looked_into_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands for a folder without permission, which root, as in many containers, never meets.
    folder = "a" * 300  # more than a file system allows
    monkeypatch.setenv("FASHION_MNIST_DIR", folder)
    assert refusal().startswith(f"FASHION_MNIST_DIR must hold the four files; received {folder}")


def test_a_second_run_replaces_the_raw_files_as_a_whole(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_MNIST_DIR", str(fill(workspace / "mine")))
    fetch.main()
    (fetch.RAW / FIRST).write_bytes(b"synthetic")
    (fetch.RAW / "README").write_bytes(b"from another source")
    fetch.main()
    assert state(fetch.RAW) == CONTENTS


# --- upstream -----------------------------------------------------------------------------------

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """The address of a server that calls `answer` for each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}/"
        finally:
            listening.shutdown()
            thread.join()


def send(request: BaseHTTPRequestHandler, body: bytes, length: int | None = None) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)


def requested(request: BaseHTTPRequestHandler) -> str:
    return request.path.strip("/").removesuffix(".gz")


def gives_the_files(request: BaseHTTPRequestHandler) -> None:
    send(request, PACKED[requested(request)])


def gives_other_content(request: BaseHTTPRequestHandler) -> None:
    send(request, gzip.compress(b"another dataset"))


def gives_other_content_last(request: BaseHTTPRequestHandler) -> None:
    (gives_other_content if requested(request) == LAST else gives_the_files)(request)


def not_found(request: BaseHTTPRequestHandler) -> None:
    request.send_error(404)


def closes(request: BaseHTTPRequestHandler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def closes_half_way(request: BaseHTTPRequestHandler) -> None:
    body = PACKED[requested(request)]
    send(request, body[:10], length=len(body))


def still_waits(request: BaseHTTPRequestHandler) -> bool:
    """Whether the client waits for five seconds, many times as long as its timeout."""
    request.connection.settimeout(5)
    try:
        return bool(request.rfile.read(1))
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def hangs(request: BaseHTTPRequestHandler) -> None:
    if still_waits(request):
        gives_the_files(request)


def hangs_half_way(request: BaseHTTPRequestHandler) -> None:
    closes_half_way(request)
    if still_waits(request):
        request.wfile.write(PACKED[requested(request)][10:])


FAILING: dict[Answer, str] = {  # and the reason given
    gives_other_content: "not the published files",
    gives_other_content_last: "not the published files",
    not_found: "HTTPError",
    closes: "ConnectionError",
    closes_half_way: "ChunkedEncodingError",
    hangs: "ReadTimeout",
    hangs_half_way: "ConnectionError",
}
HANGING = (hangs, hangs_half_way)


def test_the_files_are_downloaded(workspace: Path) -> None:
    with server(gives_the_files) as address:
        assert fetch.from_upstream((address,), timeout_s=5, retries=0) == CONTENTS
    assert not state(workspace / "temporary")


@pytest.mark.parametrize("answer", FAILING)
def test_the_second_address_is_used_when_the_first_fails(workspace: Path, answer: Answer) -> None:
    timeout_s = 1 if answer in HANGING else 5  # in which the second address answers, too
    with server(answer) as first, server(gives_the_files) as second:
        assert fetch.from_upstream((first, second), timeout_s, retries=0) == CONTENTS
    assert not state(workspace / "temporary")


@pytest.mark.parametrize("answer", FAILING)
def test_failing_addresses_are_named(workspace: Path, answer: Answer) -> None:
    with server(answer) as address, pytest.raises(fetch.NotThere) as caught:
        fetch.from_upstream((address, "http://127.0.0.1:9/"), timeout_s=0.5 if answer in HANGING else 5, retries=0)
    assert str(caught.value) == (f"{address}: {FAILING[answer]}; http://127.0.0.1:9/: ConnectionError")
    assert not state(workspace / "temporary")


@pytest.mark.parametrize("retries", [0, 1])
def test_an_address_is_tried_again(monkeypatch: pytest.MonkeyPatch, retries: int) -> None:
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    paths = []

    def fails_once(request: BaseHTTPRequestHandler) -> None:
        paths.append(request.path)
        if len(paths) == 1:
            request.send_error(500)
        else:
            gives_the_files(request)

    with server(fails_once) as address:
        if retries:
            assert fetch.from_upstream((address,), timeout_s=5, retries=retries) == CONTENTS
            assert len(paths) == 5
        else:
            with pytest.raises(fetch.NotThere, match="HTTPError"):
                fetch.from_upstream((address,), timeout_s=5, retries=retries)


# --- apt ----------------------------------------------------------------------------------------

# Writes the package into the working directory, as `apt-get download` does.
APT_DOWNLOADS = 'case "$*" in *download*) echo > dataset-fashion-mnist_0.0_all.deb;; esac'
APT_NEEDS_LISTS = f"""
case "$*" in
    *Dir::State::Lists=*update) echo > updated;;
    *Dir::State::Lists=*download*) [ -e updated ] && {APT_DOWNLOADS};;
    *) echo "E: Unable to locate package" >&2; exit 100;;
esac
"""
APT_FAILS = 'echo "W: first"  >&2; echo "E: no network" >&2; exit 100'
APT_FAILS_IN_LATIN_1 = r"printf 'E: unm\366glich\n' >&2; exit 100"
APT_FAILS_SILENTLY = "exit 100"
DPKG_FAILS = 'echo "dpkg-deb: error: not a package" >&2; exit 2'
DPKG_UNPACKS_NOTHING = '[ "$1" = -x ] && mkdir "$3"'


def play(workspace: Path, monkeypatch: pytest.MonkeyPatch, apt: str, dpkg: str) -> Path:
    """Puts both programs on the PATH; returns the file that lists apt's calls."""
    calls = workspace / "calls"
    for name, script in (("apt-get", f'echo "$*" >> "{calls}"\n{apt}'), ("dpkg-deb", dpkg)):
        path = workspace / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(workspace / "bin"), "/usr/bin", "/bin"]))
    return calls


def unpacks(workspace: Path, packed: bool = True) -> str:
    """A dpkg-deb that needs a package and unpacks our files."""
    source = fill(workspace / "package", packed)
    target = f'"$3"/{fetch.PACKAGE_FOLDER}'
    return f'[ "$1" = -x ] && [ -e "$2" ] && mkdir -p {target} && cp "{source}"/* {target}'


@pytest.mark.parametrize("packed", [False, True])
def test_the_package_is_downloaded_and_unpacked(workspace: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    calls = play(workspace, monkeypatch, APT_DOWNLOADS, unpacks(workspace, packed))
    assert fetch.from_package() == CONTENTS
    assert calls.read_text() == "-qq download dataset-fashion-mnist\n"
    assert not state(workspace / "temporary")


def test_lists_of_our_own_are_used_when_the_system_has_none(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = play(workspace, monkeypatch, APT_NEEDS_LISTS, unpacks(workspace))
    assert fetch.from_package() == CONTENTS
    first, update, download = calls.read_text().splitlines()
    assert "-o" not in first
    for line in (update, download):  # nothing is written outside the temporary folder
        assert f"-oDir::State::Lists={workspace}/temporary/" in line
        assert f"-oDir::Cache={workspace}/temporary/" in line
    assert not state(workspace / "temporary")


@pytest.mark.parametrize(
    ("apt", "dpkg", "words"),
    [
        pytest.param(APT_FAILS, "", "E: no network", id="apt"),
        pytest.param(APT_FAILS_IN_LATIN_1, "", "E: unm", id="apt, not in UTF-8"),
        pytest.param(APT_FAILS_SILENTLY, "", "returned non-zero exit status 100", id="apt, silently"),
        pytest.param(APT_DOWNLOADS, DPKG_FAILS, "dpkg-deb: error: not a package", id="dpkg-deb"),
        pytest.param(APT_DOWNLOADS, DPKG_UNPACKS_NOTHING, "no folder", id="no such files"),
    ],
)
def test_a_package_that_cannot_be_had_is_not_there(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, apt: str, dpkg: str, words: str
) -> None:
    play(workspace, monkeypatch, apt, dpkg)
    with pytest.raises(fetch.NotThere) as caught:
        fetch.from_package()
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not state(workspace / "temporary")


def test_a_package_of_other_content_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(workspace, monkeypatch, APT_DOWNLOADS, unpacks(workspace))
    (workspace / "package" / f"{FIRST}.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(InputError, match=f"{FIRST}.gz must unpack to the published {FIRST} "):
        fetch.from_package()


def test_a_machine_without_apt_is_not_asked() -> None:
    with pytest.raises(fetch.NotThere, match="apt-get or dpkg-deb is not installed"):
        fetch.from_package()


# --- the stage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, b"remains"])
def test_when_all_places_fail_one_message_names_each(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    play(workspace, monkeypatch, APT_FAILS, "")
    if before:
        (fill(fetch.RAW) / FIRST).write_bytes(before)
    untouched = state(workspace / "data")
    message = refusal()
    for words in (
        "FASHION_MNIST_DIR (not set)",
        f"/{fetch.PACKAGE_FOLDER} (no folder ",
        "upstream (http://127.0.0.1:9/: ConnectionError)",
        "apt package dataset-fashion-mnist (E: no network)",
        "set FASHION_MNIST_DIR to it, or choose another data.source",
    ):
        assert words in message
    assert state(workspace / "data") == untouched
    assert not state(workspace / "temporary")


def test_a_failure_half_way_leaves_no_part_files(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(workspace / "mine", packed=True)
    path = workspace / "mine" / f"{LAST}.gz"
    path.write_bytes(path.read_bytes()[:-5])
    monkeypatch.setenv("FASHION_MNIST_DIR", "mine")
    assert refusal().startswith(f"mine/{LAST}.gz must be a whole and readable file; received: ")
    assert not state(workspace / "data")


def test_places_are_tried_in_order_until_one_has_the_files(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(gives_the_files) as address:
        monkeypatch.setitem(fetch.PLACES, "upstream", partial(fetch.from_upstream, (address,), 5, 0))
        fetch.main()
    assert state(fetch.RAW) == CONTENTS
    places = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert places == ["FASHION_MNIST_DIR", f"/{fetch.PACKAGE_FOLDER}", "upstream"]


def test_synthetic_images_are_drawn_only_when_asked_for_and_said_to_be_so(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(
        workspace,
        {
            "data.source": "synthetic",
            "data.synthetic.train_images": 30,
            "data.synthetic.test_images": 20,
            "data.synthetic.seed": 5,
        },
    )
    fetch.main()
    assert {
        name: idx.decode(content, 3 if "images" in name else 1, name).shape
        for name, content in state(fetch.RAW).items()
    } == {
        "train-images-idx3-ubyte": (30, 28, 28),
        "train-labels-idx1-ubyte": (30,),
        "t10k-images-idx3-ubyte": (20, 28, 28),
        "t10k-labels-idx1-ubyte": (20,),
    }
    assert state(fetch.RAW) == synthetic.draw_idx(30, 20, seed=5)
    output = capsys.readouterr().out
    assert "seed 5" in output
    assert "not Fashion-MNIST" in output


@pytest.mark.parametrize("source", ["csv", "folder", "idx"])
def test_other_sources_leave_only_a_note(workspace: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    fill(fetch.RAW)  # of the source before: must not stay beside the note
    write_params(workspace, {"data.source": source})
    fetch.main()
    assert list(state(fetch.RAW)) == ["README"]
    assert f"source {source} is read from data/input/" in capsys.readouterr().out
