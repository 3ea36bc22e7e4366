import os
from pathlib import Path

from common.errors import InputError

import pytest
from jinja2 import UndefinedError

import pages


def test_html_is_escaped_and_markdown_is_not() -> None:
    decide = pages.ENVIRONMENT.autoescape
    assert callable(decide)
    assert decide("report.html.j2")
    assert not decide("review.md.j2")


def test_what_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        pages.write("review.md.j2", {}, None)


def test_a_page_is_written_through_a_link_and_to_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "link.md").symlink_to("page.md")
    for text in ("new", "over the old"):
        shown = {"known": False, "before": "main", "after": text, "figures": ""}
        pages.write("data_diff.md.j2", shown, pages.file_name(str(tmp_path / "link.md")))
        assert (tmp_path / "link.md").is_symlink()
        assert f"main or {text} has no hashes" in (tmp_path / "page.md").read_text()
    (tmp_path / "loop").symlink_to("loop")
    pages.file_name(str(tmp_path / "loop"))  # the system refuses to write to it
    os.mkfifo(tmp_path / "pipe")
    ends = os.pipe()
    for path in (tmp_path / "pipe", f"/dev/fd/{ends[1]}", os.devnull):
        with pytest.raises(
            InputError, match=rf"^{path} must be a regular file; received a pipe, a device or a socket$"
        ):
            pages.file_name(str(path))
    for end in ends:
        os.close(end)
