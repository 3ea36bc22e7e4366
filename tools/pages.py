"""Pages from the templates beside this file."""

from pathlib import Path
from typing import Any

import jinja2
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


def vega(version: str) -> str:
    """The JavaScript that defines `vegaEmbed`, with this version of Vega-Lite, to stand in a page."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)
    return bundle.replace("</script", "<\\/script")


def render(template: str, content: dict[str, Any]) -> str:
    return ENVIRONMENT.get_template(template).render(content)
