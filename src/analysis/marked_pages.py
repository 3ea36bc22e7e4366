"""Tables that a command writes into Markdown pages, between comments that mark their place.

Between `<!-- NAME: written by make readme -->` and `<!-- end of NAME -->` a page belongs to the command.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from common import files
from common.errors import InputError

import pandas as pd

Pages = Mapping[Path, Mapping[str, str]]  # Markdown by page and name


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table, "" without rows; missing values are empty cells, a `|` in a cell is escaped."""
    if table.empty:
        return ""
    cells = table.astype(object).where(table.notna(), "").map(lambda cell: str(cell).replace("|", "\\|"))
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
            raise InputError(
                f"{page} must show the figures that are committed (make readme writes them); received others"
            )
        if not check:
            with files.atomic_file(page) as part:
                part.write_text(text, "utf-8")
        print(f"{page} shows the figures that are committed")
