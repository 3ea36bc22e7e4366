"""Writes the figures of metrics/ into README.md, or says with --check whether they are there.

Between `<!-- results: … -->` and `<!-- end of results -->` the README belongs to this command.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import argparse
import json
import re
from pathlib import Path

from common import files, params
from common.errors import InputError

README = Path("README.md")
METRICS = Path("metrics")
MARKED = re.compile(
    r"(?<=<!-- results: written by make readme -->\n).*(?=<!-- end of results -->)", re.S
)


def table(results: dict[str, dict], architecture: str, epochs: int) -> str:
    """Markdown: one row for each part of metrics/ that has figures."""
    lines = [
        f"`{architecture}`, {epochs} epochs; 95 % intervals are Wilson's, over images.",
        "",
        "| part | images | accuracy | 95 % interval | loss (nats) | macro F1 | calibration error |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for part, result in results.items():
        if result:
            source = "" if result["source"] == "fashion-mnist" else f" ({result['source']})"
            lines.append(
                f"| {part}{source} | {result['images']:,} | {result['accuracy']:.2%} | "
                f"{result['accuracy_low']:.2%} – {result['accuracy_high']:.2%} | {result['loss']:.4f} | "
                f"{result['macro_f1']:.4f} | {result['calibration_error']:.4f} |"
            )
    return "\n".join(lines) + "\n"


def read_metrics(name: str) -> dict:
    path = METRICS / f"{name}.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} must be there and be JSON (make repro writes it); received: {error}"
        ) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if anything differs"
    )
    check = parser.parse_args().check
    text = README.read_text("utf-8") if README.exists() else ""
    if not MARKED.search(text):
        raise InputError(
            f"{README} must have the two comments that mark the results; received none"
        )
    try:
        written = table(
            {part: read_metrics(part) for part in ("val", "test")},
            params.load().model.architecture,
            read_metrics("train")["epochs"],
        )
    except KeyError as error:
        raise InputError(
            f"{METRICS} must have every figure of the table; {error} is missing"
        ) from None
    new = MARKED.sub(lambda _: written, text)
    if check and new != text:
        raise InputError(
            f"{README} must show the figures of {METRICS}/ (make readme writes them); received others"
        )
    if not check:
        with files.whole_file(README) as part:
            part.write_text(new, "utf-8")
    print(f"{README} shows the figures of {METRICS}/")


if __name__ == "__main__":
    main()
