"""Lets `dvc plots show` write a page that needs no network.

DVC's own page loads Vega from a content delivery network. This command writes a page template with
the same libraries inlined, taken from the installed vl-convert, and tells this clone's DVC to use
it (`plots.html_template` in .dvc/config.local). `make` runs it when it installs.
"""

import argparse
import subprocess
from pathlib import Path

import pages

TEMPLATE = Path(".dvc/tmp/plots.html")
VEGA_LITE = "5.21"  # DVC's templates are written for version 5


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    pages.write("plots.html.j2", {"bundle": pages.vega(VEGA_LITE)}, TEMPLATE)
    subprocess.run(["dvc", "config", "--local", "plots.html_template", str(TEMPLATE.relative_to(".dvc"))], check=True)


if __name__ == "__main__":
    main()
