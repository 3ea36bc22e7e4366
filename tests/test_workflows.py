"""What workflows and containers do beyond the commands of make."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# GitHub's command line, with the comments of a pull request in comments.json; it notes what it is asked to write
GH = """#!/bin/sh
case "$*" in
  *--paginate*) jq --raw-output "$5" comments.json ;;
  *) echo "$*" >> written ;;
esac
"""
BOT, MARK = "github-actions[bot]", "<!-- make review -->"


def comment(number: int, user: str, body: str) -> dict[str, Any]:
    return {"id": number, "user": {"login": user}, "body": body}


@pytest.mark.parametrize(
    ("comments", "written"),
    [
        ([], "--method POST repos/o/r/issues/7/comments"),
        ([comment(1, "somebody", f"{MARK}\nold")], "--method POST repos/o/r/issues/7/comments"),
        (
            [comment(1, BOT, "coverage"), comment(2, BOT, f"{MARK}\nold"), comment(3, BOT, f"of {MARK}")],
            "--method PATCH repos/o/r/issues/comments/2",
        ),
    ],
    ids=["none", "of another", "own among others"],
)
def test_a_review_edits_its_own_comment_alone(tmp_path: Path, comments: list[dict[str, Any]], written: str) -> None:
    workflow = YAML(typ="safe").load(ROOT / ".github/workflows/review.yml")
    step = workflow["jobs"]["comment"]["steps"][-1]
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    (tmp_path / "comments.json").write_text(json.dumps(comments))
    (tmp_path / "comment.md").write_text("## Better\n")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"MARK": step["env"]["MARK"], "NUMBER": "7", "REPOSITORY": "o/r"}
    words = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "written").read_text() == f"api --silent {written} --field body=@body.md\n"
    assert (tmp_path / "body.md").read_text() == f"{MARK}\n## Better\n"


def test_a_development_container_is_the_image_without_the_repository() -> None:
    folder = ROOT / ".devcontainer"
    build = json.loads((folder / "devcontainer.json").read_text())["build"]
    image = (folder / build["dockerfile"]).read_text().splitlines()
    before = image[: image.index(f"FROM {build['target']} AS project")]
    assert any(line.endswith(f" AS {build['target']}") for line in before)
    assert not any(line.startswith("COPY") for line in before)
