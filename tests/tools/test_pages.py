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
