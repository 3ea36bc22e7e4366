"""Stage 1: the raw images and labels, as four IDX files in data/raw/.

`data.source: fashion-mnist` takes the dataset from the first place that has it, in the order of
`PLACES`, and accepts nothing but the published content (SHA-256 of each file, unpacked).
`data.source: synthetic` draws images of our own in the same format. The other sources are read from
data/input/ by the next stage; then data/raw/ says so and holds nothing else.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common import files, idx, locks, params
from common.errors import InputError

RAW = Path("data/raw")


class Published(NamedTuple):
    """What identifies one file of the dataset."""

    sha256: str  # of the unpacked content: the same wherever the file comes from
    bytes: int  # unpacked
    md5_gz: str  # of upstream's .gz file


FILES = {
    "train-images-idx3-ubyte": Published(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        47_040_016,
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    ),
    "train-labels-idx1-ubyte": Published(
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        60_008,
        "25c81989df183df01b3e8a0aad5dffbe",
    ),
    "t10k-images-idx3-ubyte": Published(
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        7_840_016,
        "bef4ecab320f06d8554ea6380940ec79",
    ),
    "t10k-labels-idx1-ubyte": Published(
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        10_008,
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
}
UPSTREAM = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
PACKAGE = "dataset-fashion-mnist"  # Debian and Ubuntu
PACKAGE_FOLDER = Path("usr/share/datasets/fashion-mnist")


class NotThere(Exception):
    """A place does not have the files; the next one is tried."""


def read_folder(folder: Path) -> dict[str, bytes]:
    """The four files from `folder`, packed or not, each checked against its SHA-256.

    Raises:
        NotThere: the folder or a file is missing.
        InputError: a file is there and is not the published one.
    """
    if not os.path.isdir(folder):  # pathlib's own raises where it may not look
        raise NotThere(f"no folder {folder}")
    contents = {}
    for name, published in FILES.items():
        found = [p for p in (folder / name, folder / f"{name}.gz") if os.path.exists(p)]
        if not found:
            raise NotThere(f"{folder} has no {name} or {name}.gz")
        content = idx.read_bytes(found[0], limit=published.bytes)
        digest = hashlib.sha256(content).hexdigest()
        if digest != published.sha256:
            raise InputError(
                f"{found[0]} must unpack to the published {name} (SHA-256 {published.sha256}); received {digest}"
            )
        contents[name] = content
    return contents


def from_raw() -> dict[str, bytes]:
    try:
        return read_folder(RAW)
    except InputError as error:  # remains of something else: replaced as a whole
        raise NotThere(str(error)) from None


def from_environment() -> dict[str, bytes]:
    folder = os.environ.get("FASHION_MNIST_DIR")
    if not folder:
        raise NotThere("FASHION_MNIST_DIR is not set")
    try:
        return read_folder(Path(folder))
    except NotThere as error:  # asked for by name, so silence would be wrong
        raise InputError(
            f"FASHION_MNIST_DIR must hold the four files; received {folder}: {error}"
        ) from None


def from_system() -> dict[str, bytes]:
    return read_folder(Path("/") / PACKAGE_FOLDER)


def from_upstream(
    addresses: tuple[str, ...] = UPSTREAM, timeout_s: float = 20, retries: int = 1
) -> dict[str, bytes]:
    """Downloads the four .gz files from the first address that gives all of them."""
    import pooch  # brings requests: only when something is downloaded
    import requests

    failures = []
    for address in addresses:
        with tempfile.TemporaryDirectory() as folder:
            source = pooch.create(
                path=folder,
                base_url=address,
                registry={
                    f"{name}.gz": f"md5:{published.md5_gz}" for name, published in FILES.items()
                },
                retry_if_failed=retries,
            )
            download = pooch.HTTPDownloader(progressbar=True, timeout=timeout_s)
            try:
                for name in source.registry:
                    source.fetch(name, downloader=download)
            except (requests.RequestException, ValueError) as error:
                wrong_hash = type(error) is ValueError  # how pooch says it
                reason = "not the published file" if wrong_hash else type(error).__name__
                failures.append(f"{address}: {reason}")
                continue
            return read_folder(Path(folder))
    raise NotThere("; ".join(failures))


def from_package() -> dict[str, bytes]:
    """Downloads the package with apt and unpacks it in a temporary folder; installs nothing.

    Works without root: if the system's package lists are missing or too old, lists of our own are
    fetched into the temporary folder.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NotThere("apt-get and dpkg-deb are not both here")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lists" / "partial").mkdir(parents=True)
        own_lists = [
            "-oAPT::Sandbox::User=root",  # root may write to the temporary folder, user _apt may not
            f"-oDir::State::Lists={folder}/lists",
            f"-oDir::Cache={folder}",
        ]
        download = ["download", PACKAGE]

        def apt(*words: str) -> bool:
            return _run(["apt-get", "-qq", *words], folder) == ""

        if not apt(*download):
            failure = _run(["apt-get", "-qq", *own_lists, "update"], folder) or _run(
                ["apt-get", "-qq", *own_lists, *download], folder
            )
            if failure:
                raise NotThere(failure)
        for package in Path(folder).glob(f"{PACKAGE}_*.deb"):
            failure = _run(["dpkg-deb", "-x", str(package), f"{folder}/unpacked"], folder)
            if failure:
                raise NotThere(failure)
        return read_folder(Path(folder) / "unpacked" / PACKAGE_FOLDER)


def _run(command: list[str], folder: str) -> str:
    """Runs a command; returns "" if it succeeded, else the last line that it printed."""
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} took more than 300 s"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return (
        ""
        if done.returncode == 0
        else (lines[-1] if lines else f"{command[0]} exited with {done.returncode}")
    )


PLACES: dict[str, Callable[[], dict[str, bytes]]] = {
    "data/raw": from_raw,
    "FASHION_MNIST_DIR": from_environment,
    f"/{PACKAGE_FOLDER}": from_system,
    "upstream": from_upstream,
    f"apt package {PACKAGE}": from_package,
}


def fetch() -> dict[str, bytes]:
    """The published dataset from the first place that has it.

    Raises:
        InputError: no place has it; the message names each and says what to do.
    """
    tried = []
    for place, get in PLACES.items():
        try:
            contents = get()
        except NotThere as error:
            print(f"{place}: {error}")
            tried.append(f"{place} ({error})")
        else:
            print(f"{place}: all four files, checked")
            return contents
    raise InputError(
        "Fashion-MNIST must be in one of the places tried; received nothing from "
        + ", ".join(tried)
        + ". Put the four files in a folder and set FASHION_MNIST_DIR to it, or choose another data.source"
    )


@locks.alone()
def main() -> None:
    data = params.load().data
    if data.source == "fashion-mnist":
        contents = fetch()
    elif data.source == "synthetic":
        from common import synthetic  # draws with Pillow: only when asked for

        print(f"drawing synthetic images, seed {data.synthetic.seed}: not Fashion-MNIST")
        contents = synthetic.draw_idx(
            data.synthetic.train_images, data.synthetic.test_images, data.synthetic.seed
        )
    else:
        print(f"source {data.source} is read from data/input/ by prepare")
        contents = {"README": b"The images are read from data/input/.\n"}  # DVC drops empty folders
    with files.whole_folder(RAW) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
