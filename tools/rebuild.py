"""All stages once more in a fresh copy of a commit, and every hash held against its dvc.lock: `make rebuild`.

The copy has the commit's files alone, without results, in .cache/rebuild. It has its own DVC cache and
checkpoints and DVC's default settings, so every stage runs. It shares this environment, the places that
fetch looks in, and data/input where data.source needs it. The exit status is 1 where an input or an output
differs. A rebuild that was interrupted starts again.
"""

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

from common import locks, params
from common.errors import InputError

import verdict
from analysis import dvc_lock, revisions
from analysis.git import git, is_compiled, names
from reproduction import Results, listed

REBUILDS = Path(".cache/rebuild")
INPUT = Path("data/input")
OWN = f".cache/{secrets.token_hex(8)}"  # for caches of a copy: a commit cannot bring what it cannot name


def copy(commit: str) -> Path:
    """A fresh copy of this project at a commit, without results; removes earlier copies.

    Each has a new name, for a killed rebuild may have left a training that still writes.
    """
    shutil.rmtree(REBUILDS, ignore_errors=True)
    REBUILDS.mkdir(parents=True, exist_ok=True)
    repository = Path(tempfile.mkdtemp(dir=REBUILDS)).resolve()
    project = repository / git("rev-parse", "--show-prefix")
    git("init", "--quiet", str(repository))
    git("-C", str(repository), "fetch", "--quiet", "--depth=1", git("rev-parse", "--show-toplevel"), commit)
    git("-C", str(repository), "checkout", "--quiet", "--detach", "FETCH_HEAD")
    # not by the schema, which may have changed since the commit
    chosen = params.read_yaml(project / "params.yaml", dict[str, dict[str, Any]])
    if chosen.get("data", {}).get("source") not in ("fashion-mnist", "synthetic"):
        shutil.copytree(INPUT, project / INPUT, dirs_exist_ok=True)
        git("-C", str(repository), "checkout", "--quiet", "--force", "HEAD")  # what git has, it has as committed
    with chdir(project):
        for stage in dvc_lock.read(commit).values():
            for path in map(Path, stage.outputs):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        dvc_lock.LOCK.unlink()
        # stronger than the commit's own setting, which could name a shared cache, or one that it brings
        local = Path(".dvc/config.local")
        local.unlink(missing_ok=True)
        local.write_text(f"[cache]\n    dir = ../{OWN}/cache\n", encoding="utf-8")
    return project


def environment(project: Path) -> dict[str, str]:
    """The environment of this process, without what would show earlier results to a stage of the copy."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    if settings.get("FASHION_MNIST_DIR"):
        settings["FASHION_MNIST_DIR"] = str(Path(settings["FASHION_MNIST_DIR"]).resolve())
    own = project / OWN
    return settings | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), settings["PATH"]]),
        "CHECKPOINT_DIR": str(own / "checkpoints"),
        "DVC_NO_ANALYTICS": "1",
        # the user's and the machine's settings may name a shared cache
        **{f"DVC_{name}_DIR": str(own / "dvc") for name in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")},
    }


def run_stages(project: Path) -> None:
    """Runs the pipeline of the copy, with the output on the terminal.

    Raises:
        InputError: a stage fails; its own line stands above.
    """
    status = subprocess.run(["dvc", "repro"], cwd=project, env=environment(project), check=False).returncode
    if status:
        raise InputError(f"every stage must succeed in {project}; dvc repro ended with {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT", nargs="?", default="HEAD", help="default: HEAD")
    commit = revisions.resolve(parser.parse_args().commit).commit
    if commit is None:
        raise InputError(f"COMMIT must be a commit or an experiment; received {revisions.WORKSPACE}")
    dvc_lock.read(commit)  # which must be there
    for name in filter(is_compiled, names(git("ls-tree", "-rz", "--full-tree", "--name-only", commit))):
        raise InputError(f"a commit must not have what Python runs in the place of source; received {name}")
    if git("status", "--porcelain"):
        print("Uncommitted changes are left out.")
    with locks.exclusive(REBUILDS.with_suffix(".lock")):
        project = copy(commit)
        print(f"Rebuilding {commit[:7]} in {project}", flush=True)
        run_stages(project)
        with chdir(project):
            results = Results.read()
            assert results is not None  # the commit has dvc.lock, as read above
            print(verdict.report(results))
            other = results.edited + [f"{path}, which no stage writes," for path in dvc_lock.unwritten()]
    other += [path for differing in results.outputs.values() for path in differing]
    other += [f"input {words}" for differing in results.inputs.values() for words in differing.values()]
    if other:
        raise InputError(
            f"a rebuild of {commit[:7]} must give dvc.lock and every output as committed; "
            f"received another {listed(list(dict.fromkeys(other)))}"
        )


if __name__ == "__main__":
    main()
