"""Lets `dvc plots show` write a page that needs no network.

DVC's own page loads Vega from a content delivery network. This command writes a page template with
the same libraries inlined, taken from the installed vl-convert, and tells this clone's DVC to use
it (`plots.html_template` in .dvc/config.local). `make` runs it when it installs.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import subprocess
from pathlib import Path

import vl_convert

from common import files

TEMPLATE = Path(".dvc/tmp/plots.html")
VEGA_LITE = "5.21"  # DVC's templates are written for version 5

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
{refresh_tag}
<title>Plots</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 16px sans-serif; display: flex; flex-wrap: wrap; gap: 1rem; background: white; }}
body > div {{ max-width: 100%; overflow-x: auto; }}
img {{ max-width: 100%; height: auto; }}
</style>
<script>{bundle}</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def main() -> None:
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    # refresh_tag and plot_divs stay in braces: DVC fills them in
    page = PAGE.format(
        refresh_tag="{refresh_tag}",
        plot_divs="{plot_divs}",
        bundle=bundle.replace("</script", "<\\/script"),
    )
    with files.whole_file(TEMPLATE) as part:
        part.write_text(page, "utf-8")
    config = ["dvc", "config", "--local", "plots.html_template"]
    subprocess.run([*config, str(TEMPLATE.relative_to(".dvc"))], check=True)


if __name__ == "__main__":
    main()
