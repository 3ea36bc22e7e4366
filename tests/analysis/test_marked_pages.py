import pandas as pd
import pytest

from analysis.marked_pages import Markdown, markdown
from conftest import squeezed


def test_a_table_keeps_its_columns() -> None:
    table = pd.DataFrame({"a": ["x|y", "<b>"], "n": [1, None]}, dtype=object)
    assert squeezed(markdown(table)).splitlines()[2:] == [r"| x\|y | 1 |", "| <b> | |"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("T-shirt/top", "T-shirt/top"),
        ("a_b 50 % (=1+1)", "a_b 50 % (=1+1)"),
        ("<b>", "`<b>`"),
        ("a|b", r"`a\|b`"),
        ("@all", "`@all`"),
        ("#1", "`#1`"),
        ("[a](http://b)", "`[a](http://b)`"),
        ("`<b>`", "`` `<b>` ``"),
        ("``<b>", "``` ``<b> ```"),
        ("a\nb", "a b"),
        ("a\n<b>", "`a <b>`"),
        ("\x1b[31mred\u202e", "`�[31mred�`"),
        ("_a_", "`_a_`"),
        ("nan", "nan"),
    ],
)
def test_names_are_shown_as_they_are(name: str, shown: str) -> None:
    assert squeezed(markdown(pd.DataFrame({"class": [name]}), names=True)).splitlines()[2:] == [f"| {shown} |"]


def test_what_is_markdown_stays_so() -> None:
    table = pd.DataFrame({"p": [Markdown("**0.01**")]}, dtype=object)
    assert squeezed(markdown(table, names=True)).splitlines()[2:] == ["| **0.01** |"]


def test_numbers_are_shown_as_they_are() -> None:
    table = pd.DataFrame({"n": ["1e3", "0.10"]})
    assert squeezed(markdown(table)).splitlines()[2:] == ["| 1e3 |", "| 0.10 |"]


def test_without_rows_there_is_no_table() -> None:
    assert markdown(pd.DataFrame(columns=["a"])) == ""
