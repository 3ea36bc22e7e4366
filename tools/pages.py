"""Pages from the templates beside this file."""

import base64
import io
import os
from pathlib import Path
from typing import Any

from common import files, image_folder
from common.errors import InputError

import jinja2
import numpy as np
import pandas as pd
import vl_convert

from analysis import marked_pages

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=jinja2.select_autoescape(["html.j2"]),  # and not Markdown
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters["escaped"] = marked_pages.escaped


def data_url(image: np.ndarray) -> str:
    """An image (H, W, C) uint8 as a PNG that stands in the page itself."""
    image_folder.to_picture(image).save(png := io.BytesIO(), "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def vega(version: str) -> str:
    """The JavaScript that defines `vegaEmbed`, with this version of Vega-Lite, to stand in a page."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version).replace("</script", "<\\/script")


def file_name(text: str) -> Path:
    """OUT, from a command line; of a link, what it leads to."""
    if (path := image_folder.regular(Path(text))).is_dir():
        raise InputError(f"OUT must be a file; received the folder {text}")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write(template: str, content: dict[str, Any], page: Path | None) -> None:
    """Writes a page from a template, or prints it where `page` is None."""
    text = ENVIRONMENT.get_template(template).render(content)
    if page is None:
        print(text)
        return
    with files.atomic_file(page) as unfinished:
        unfinished.write_text(text, "utf-8")


def unequal(kind: str, before: dict[str, Any], after: dict[str, Any]) -> pd.DataFrame:
    """The entries of two mappings that differ, by name; `kind` heads the column of names."""
    both = [(name, before.get(name, "–"), after.get(name, "–")) for name in sorted(before | after)]
    rows = [("null" if value is None else value for value in row) for row in both if row[1] != row[2]]
    return pd.DataFrame(rows, columns=[kind, "before", "after"], dtype=object)
