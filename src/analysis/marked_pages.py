"""Tables that a command writes into Markdown pages, between comments that mark their place.

Between `<!-- NAME: written by make readme -->` and `<!-- end of NAME -->` a page belongs to the command.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from common import files
from common.errors import InputError, one_line

import pandas as pd

Pages = Mapping[Path, Mapping[str, str]]  # Markdown by page and name
# what Markdown, HTML, or GitHub's mentions and links could read in a text
SPECIAL = re.compile(r"[`*\[\]<>&@#\\|~]|\b_|_\b|://|www\.|\bGH-\d")


class Markdown(str):
    """A text that is Markdown already."""


def code(text: str) -> Markdown:
    """The text as code, in which nothing is read, on one line."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    edge = " " * text.startswith("`") or " " * text.endswith("`")
    return Markdown(f"{fence}{edge}{one_line(text)}{edge}{fence}")


def escaped(cell: object) -> str:
    """Its text, as code where Markdown would read something in it."""
    if isinstance(cell, Markdown):
        return cell
    return code(str(cell)) if SPECIAL.search(str(cell)) else one_line(str(cell))


def markdown(table: pd.DataFrame, names: bool = False) -> str:
    """A Markdown table, "" without rows; missing values are empty cells, a `|` in a cell is escaped.

    Args:
        names: whether texts come from data or other people, and are `escaped`.
    """
    if table.empty:
        return ""
    texts = table.astype(object).where(table.notna(), "")
    cells = texts.map(lambda cell: (escaped(cell) if names else str(cell)).replace("|", "\\|"))
    return cells.to_markdown(index=False, disable_numparse=True)


def update(pages: Pages, check: bool) -> None:
    """Writes the tables into their pages; with `check` it writes nothing.

    Raises:
        InputError: a page lacks the marks of a table, or with `check` a table differs from its page.
    """
    for page, tables in pages.items():
        text = old = page.read_text("utf-8") if page.exists() else ""
        for name, table in tables.items():
            begin, end = f"<!-- {name}: written by make readme -->\n", f"<!-- end of {name} -->"
            place = re.search(f"(?<={begin}).*(?={end})", text, re.S)
            if place is None:
                raise InputError(f"{page} must have the two comments that mark the {name}; received none")
            text = f"{text[: place.start()]}{table}\n{text[place.end() :]}"
        if check and text != old:
            raise InputError(f"{page} must show the figures that are committed (make readme); received others")
        if not check:
            with files.atomic_file(page) as part:
                part.write_text(text, "utf-8")
        print(f"{page} shows the figures that are committed")
