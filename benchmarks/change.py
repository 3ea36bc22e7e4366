"""Runs docs/change.md: every command of that page, in a scratch clone of the last commit.

`python benchmarks/change.py` (after `make repro`) writes benchmarks/change.json, unless that has today's commands for
this training. It trains twice: for half of the epochs, and on a tenth of the rows. `make readme` then writes the blocks
of the page: each command, and those lines of its output that its rule shows, with `…` for the lines between them.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from common import files
from common.errors import InputError

import benchmark_files
from analysis import dvc_lock
from analysis.git import git
from conditions import LEFT_OUT

RESULTS = benchmark_files.BENCHMARKS / "change.json"
REVIEW = "page.md"


class Command(NamedTuple):
    line: str
    shown: str = "."  # a regular expression, for the start of a line of the output
    status: int = 0


NOTHING, RAN, VERDICT = "(?!)", "val: |Ran experiment", "main .*->|better|worse|within noise|not decided|accuracy "
BLOCKS = {
    "half": [Command("dvc exp run --name half -S train.epochs=13", f"{RAN}|Experiment results")],
    "fewer rows": [
        Command("git restore . && dvc checkout", NOTHING),
        Command("dvc exp run --name fewer-rows -S split.train_size=6000", RAN),
        Command("make experiments"),
    ],
    "half compared": [Command("make compare A=main B=half", rf"{VERDICT}|\d+ seeds")],
    "fewer rows compared": [Command("make compare A=main B=fewer-rows", VERDICT)],
    "branch": [
        Command("git restore . && dvc checkout", NOTHING),
        Command("git switch --create half-the-epochs"),
        Command("dvc exp apply half", "Changes"),
        Command('git commit --all --message "Train for half of the epochs"', r"\["),
    ],
    "figures": [Command("make readme", "error: ", status=2)],
    "review": [Command(f"make review BASE=main OUT={REVIEW}", REVIEW)],
    "merge": [
        Command("git switch main", "Switched"),
        Command("git merge --no-ff --no-edit half-the-epochs", "Merge"),
        Command("dvc checkout", NOTHING),
        Command("make repro", "Data and pipelines|Reproduced"),
        Command("dvc exp remove half fewer-rows", "Removed"),
    ],
}


def block(name: str) -> str:
    """Markdown: a block of docs/change.md; errors are those of `recorded`."""
    shown = recorded().get(name, ["…"] * len(BLOCKS[name]))
    lines = (f"$ {command.line}\n{output}".strip() for command, output in zip(BLOCKS[name], shown, strict=True))
    return "\n".join(["```console", *lines, "```"])


def review() -> str:
    """Markdown: the start of the page that `make review` wrote, quoted; errors are those of `recorded`."""
    page = recorded().get(REVIEW, "Not run with this recipe (`python benchmarks/change.py`).")
    return "\n".join(f"> {line}".rstrip() for line in page.splitlines())


def recorded() -> dict[str, Any]:
    """By block what is shown of each output, and the start of the page; empty where nothing was run.

    Raises:
        InputError: as from `benchmark_files.results`, or the results are of other commands.
    """
    found = benchmark_files.results("change", of_this_training=True)
    if found and found["commands"] != commands():
        raise InputError(f"{RESULTS} must be of the commands in benchmarks/change.py (run it again); received others")
    return found


def commands() -> list[list[str | int]]:
    """What the results depend on beside the training."""
    return [list(command) for block in BLOCKS.values() for command in block]


def let_through(output: str, rule: str) -> str:
    """The lines that the rule shows, with `…` for those between them; empty lines do not count."""
    lines = [line.rstrip() if re.match(rule, line) else "…" for line in output.splitlines() if line.strip()]
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if {line, before} != {"…"})


def run(command: Command, folder: Path) -> str:
    """Runs a command there, and gives what is shown of its output.

    Raises:
        InputError: it ends with another exit status than it should.
    """
    print(f"$ {command.line}", flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    done = subprocess.run(
        ["bash", "-c", command.line], cwd=folder, check=False, encoding="utf-8", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment | {"PATH": f"{folder / '.venv/bin'}{os.pathsep}{environment['PATH']}"},
    )  # fmt: skip
    if done.returncode != command.status:
        print(done.stdout, file=sys.stderr)
        raise InputError(f"{command.line} must end with {command.status}; received {done.returncode}")
    return let_through(done.stdout, command.shown)


def make_clone(folder: Path) -> None:
    """The last commit as main, with its data, this environment, and no earlier run of a stage to take results from."""
    git("clone", "--quiet", ".", str(folder))
    (folder / ".venv").symlink_to(sys.prefix)
    for path in [*(folder / "locks").iterdir(), folder / "tools/offline_plots.py"]:
        os.utime(path, (0, 0))  # older than the environment, which make then takes as it is
    cache = shlex.quote(run(Command("dvc cache dir"), Path.cwd()))
    for line in (
        "git switch --quiet --force-create main",
        "git config user.name Somebody && git config user.email somebody@example.invalid",
        f"dvc remote add --local here {cache}",
        "dvc pull --remote here",
    ):
        run(Command(line), folder)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    key = {"training": benchmark_files.training_key(), "commands": commands()}
    if benchmark_files.earlier(RESULTS, **key):
        return
    if not Path(sys.prefix, "run").exists():
        raise InputError(f"python must be that of .venv as make made it (make .venv/run); received {sys.executable}")
    if git("status", "--porcelain", "--", str(dvc_lock.LOCK)):
        raise InputError("dvc.lock must be committed, since the clone has the last commit; received an edited one")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clone"
        make_clone(folder)
        shown = {name: [run(command, folder) for command in block] for name, block in BLOCKS.items()}
        sections = re.split("^(?=### )", (folder / REVIEW).read_text("utf-8"), flags=re.MULTILINE)
    files.write_json(RESULTS, key | shown | {REVIEW: "".join(sections[:2]).strip()})


if __name__ == "__main__":
    main()
