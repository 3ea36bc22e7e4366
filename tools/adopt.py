"""Makes this a repository of one's own images: `make adopt`. What templates/adopt.yaml lists goes; git has it still."""

import argparse
import os
import re
from pathlib import Path
from typing import Any

from common import arrays, params
from common.errors import InputError

from analysis import metric_files, revisions, seeds
from analysis.git import git, names
from check import OWN

LINK = re.compile(r"(, )?!?\[([^\]]+)\]\((?![a-z]+:)([^)#\s]+)(?:#[^)\s]*)?\)")  # to a file


def unlinked(page: Path, gone: set[str]) -> bytes:
    """A page without links to what is gone; their text stays, but in an enumeration. make readme draws answers.png."""

    def link(found: re.Match[str]) -> str:
        stays = (path := os.path.normpath(page.parent / found[3])) not in gone or os.path.exists(path)
        return found[0] if stays or path.endswith("answers.png") else "" if found[1] else found[2]

    return LINK.sub(link, page.read_bytes().decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if changed := git("status", "--porcelain", "--untracked-files=no").splitlines():
        raise InputError(f"changes must be committed, so that git has all that goes; received {changed[0].strip()}")
    source, results = params.load().data.source, metric_files.by_part(Path("metrics"), ("source",))
    found = {result["source"] for result in results.values()}
    if source not in OWN or found != {source}:
        raise InputError(
            f"data.source must be {' or '.join(OWN)}, and metrics/ of these images (make repro, then commit); "
            f"received {source}, and metrics of {', '.join(found) or 'no images'}"
        )
    chosen = params.read_yaml(Path(__file__).parent / "templates/adopt.yaml", dict[str, Any])
    words = {"name": re.sub(r"[^\w. -]", "-", Path.cwd().name), "classes": len(arrays.load_class_names())}
    own = [f"*/{params.load().model.architecture}.py"] + ["metrics/noise*"] * (seeds.noise(revisions.HERE) is not None)
    git("rm", "-r", "--quiet", "--ignore-unmatch", "--", *chosen["gone"], *(f":!{pattern}" for pattern in own))
    removed = map(Path, names(git("diff", "--cached", "--name-only", "--relative", "-z")))
    for path in filter(os.path.exists, chosen["edits"]):
        text = Path(path).read_text("utf-8")
        for pattern, new in chosen["edits"][path]:
            text = re.sub(pattern, new.format_map(words), text, flags=re.MULTILINE | re.DOTALL)
        Path(path).write_text(text, "utf-8")
    gone = {str(above) for path in removed for above in (path, *path.parents)}
    for page in filter(Path.is_file, map(Path, names(git("ls-files", "-z", "*.md")))):
        page.write_bytes(unlinked(page, gone))
    print("what belonged to Fashion-MNIST is gone: commit what is left, or take it back with git reset --hard")


if __name__ == "__main__":
    main()
