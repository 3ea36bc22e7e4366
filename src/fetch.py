"""Stage 1: the raw images and labels, as four IDX files in data/raw/.

`data.source: fashion-mnist` takes the dataset from the first of `PLACES` that has it, and accepts only
the published content (SHA-256 of each unpacked file). `data.source: synthetic` draws images in the same
format. The next stage reads all other sources from data/input/; data/raw/ then holds only a README.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import files, idx, inputs, locks, params
from common.errors import InputError

RAW = Path("data/raw")
# SHA-256 and size of each file, unpacked
FILES = {
    "train-images-idx3-ubyte": ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47_040_016),
    "train-labels-idx1-ubyte": ("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008),
    "t10k-images-idx3-ubyte": ("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016),
    "t10k-labels-idx1-ubyte": ("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008),
}
UPSTREAM = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
PACKAGE = "dataset-fashion-mnist"  # Debian and Ubuntu
PACKAGE_FOLDER = Path("usr/share/datasets/fashion-mnist")


class NotThere(Exception):
    """A place does not have the files; `fetch` tries the next one."""


def read_folder(folder: Path) -> dict[str, bytes]:
    """The four files from `folder`, packed or not, each checked against its SHA-256.

    Raises:
        NotThere: the folder or a file is missing.
        InputError: a file is there and is not the published one.
    """
    if not os.path.isdir(folder):  # pathlib's own raises where it may not look
        raise NotThere(f"no folder {folder}")
    contents = {}
    for name, (published, size) in FILES.items():
        path = idx.packed_or_not(folder / name)
        if not os.path.exists(path):
            raise NotThere(f"{folder} has no {name} or {name}.gz")
        content = idx.read_bytes(path, limit=size)
        digest = hashlib.sha256(content).hexdigest()
        if digest != published:
            raise InputError(f"{path} must unpack to the published {name} (SHA-256 {published}); received {digest}")
        contents[name] = content
    return contents


def from_environment() -> dict[str, bytes]:
    if not (folder := os.environ.get("FASHION_MNIST_DIR")):
        raise NotThere("not set")
    try:
        return read_folder(Path(folder))
    except NotThere as error:  # the user named this folder, so no other place may stand in for it
        raise InputError(f"FASHION_MNIST_DIR must hold the four files; received {folder}: {error}") from None


def from_upstream(addresses: tuple[str, ...] = UPSTREAM, timeout_s: float = 20, retries: int = 1) -> dict[str, bytes]:
    """Downloads the four .gz files from the first address that gives all of them."""
    import pooch  # imports requests, so only where something is downloaded
    import requests

    failures = []
    for address in addresses:
        with tempfile.TemporaryDirectory() as folder:
            registry = {f"{name}.gz": None for name in FILES}  # `read_folder` checks the content
            source = pooch.create(path=folder, base_url=address, registry=registry, retry_if_failed=retries)
            download = pooch.HTTPDownloader(progressbar=True, timeout=timeout_s)
            try:
                for name in source.registry:
                    source.fetch(name, downloader=download)
                return read_folder(Path(folder))
            except (requests.RequestException, InputError) as error:
                other = isinstance(error, InputError)
                failures.append(f"{address}: {'not the published files' if other else type(error).__name__}")
    raise NotThere("; ".join(failures))


def from_package() -> dict[str, bytes]:
    """Downloads the package with apt and unpacks it in a temporary folder; installs nothing.

    Works without root: where the system's package lists are missing or old, apt fetches lists into a temporary folder.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NotThere("apt-get or dpkg-deb is not installed")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lists" / "partial").mkdir(parents=True)
        # root may write to the temporary folder, user _apt may not
        own_lists = ["-oAPT::Sandbox::User=root", f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}"]
        try:
            _run(["apt-get", "-qq", "download", PACKAGE], folder)
        except NotThere:
            _run(["apt-get", "-qq", *own_lists, "update"], folder)
            _run(["apt-get", "-qq", *own_lists, "download", PACKAGE], folder)
        for package in Path(folder).glob(f"{PACKAGE}_*.deb"):
            _run(["dpkg-deb", "-x", str(package), f"{folder}/unpacked"], folder)
        return read_folder(Path(folder) / "unpacked" / PACKAGE_FOLDER)


def _run(command: list[str], folder: str) -> None:
    """Runs a command in `folder`; NotThere, with the last line that it printed, if it fails or takes more than 300 s."""
    try:
        subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True, errors="replace", timeout=300)
    except subprocess.SubprocessError as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        raise NotThere((said.strip() or str(error)).splitlines()[-1]) from None


PLACES: dict[str, Callable[[], dict[str, bytes]]] = {
    "FASHION_MNIST_DIR": from_environment,
    f"/{PACKAGE_FOLDER}": lambda: read_folder(Path("/") / PACKAGE_FOLDER),
    "upstream": from_upstream,
    f"apt package {PACKAGE}": from_package,
}


def fetch() -> dict[str, bytes]:
    """The published dataset from the first place that has it; else the InputError names each place and the way out."""
    tried = []
    for place, get in PLACES.items():
        try:
            contents = get()
            print(f"{place}: all four files, checked")
            return contents
        except NotThere as error:
            print(f"{place}: {error}")
            tried.append(f"{place} ({error})")
    way = "Put the four files in a folder and set FASHION_MNIST_DIR to it, or choose another data.source"
    raise InputError(f"Fashion-MNIST must be in one of these places; received nothing from {', '.join(tried)}. {way}")


@locks.exclusive()
def main() -> None:
    data = params.load().data
    if data.source == "fashion-mnist":
        contents = fetch()
    elif data.source == "synthetic":
        from common import synthetic  # imports Pillow

        print(f"drawing synthetic images, seed {data.synthetic.seed}: not Fashion-MNIST")
        contents = synthetic.draw_idx(data.synthetic.train_images, data.synthetic.test_images, data.synthetic.seed)
    else:
        print(f"source {data.source} is read from data/input/ by prepare")
        contents = {"README": b"The images are read from data/input/.\n"}  # DVC drops empty folders
    with files.atomic_folder(RAW) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    inputs.declare()
    main()
