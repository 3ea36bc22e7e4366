import pandas as pd

from analysis.marked_pages import markdown
from conftest import squeezed


def test_a_table_keeps_its_columns() -> None:
    table = pd.DataFrame({"a": ["x|y", "<b>"], "n": [1, None]}, dtype=object)
    assert squeezed(markdown(table)).splitlines()[2:] == [r"| x\|y | 1 |", "| <b> | |"]


def test_numbers_are_shown_as_they_are() -> None:
    table = pd.DataFrame({"n": ["1e3", "0.10"]})
    assert squeezed(markdown(table)).splitlines()[2:] == ["| 1e3 |", "| 0.10 |"]


def test_without_rows_there_is_no_table() -> None:
    assert markdown(pd.DataFrame(columns=["a"])) == ""
