"""Pages from the templates beside this file."""

from pathlib import Path
from typing import Any

import jinja2

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=jinja2.select_autoescape(["html.j2"]),  # and not Markdown
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters["cell"] = lambda value: str(value).replace("|", "\\|")  # of a Markdown table


def render(template: str, content: dict[str, Any]) -> str:
    return ENVIRONMENT.get_template(template).render(content)
