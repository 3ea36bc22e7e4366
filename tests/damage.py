"""Ways to damage a model file."""

from pathlib import Path


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_format(path: Path) -> None:
    path.write_bytes(b"a page of a web server that has no such file\n" * 100)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])
