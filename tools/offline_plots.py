"""Lets `dvc plots show` write a page that needs no network.

DVC's own page loads Vega from a content delivery network. The template that this writes, and names in .dvc/config.local
(`plots.html_template`), has it from the installed vl-convert. `make` runs it when it installs.
"""

import argparse
import subprocess
from pathlib import Path

from common import files

import pages

TEMPLATE = Path(".dvc/tmp/plots.html")
VEGA_LITE = "5.21"  # DVC's templates are written for version 5


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with files.atomic_file(TEMPLATE) as part:
        part.write_text(pages.ENVIRONMENT.get_template("plots.html.j2").render(bundle=pages.vega(VEGA_LITE)), "utf-8")
    subprocess.run(["dvc", "config", "--local", "plots.html_template", TEMPLATE.relative_to(".dvc")], check=True)


if __name__ == "__main__":
    main()
