"""A repository of results whose trainings with other seeds are stand-ins: commits with figures of their own."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.revisions import Revision

FIRST = 7  # train.seed


@dataclass(frozen=True)
class Written(Revision):
    """A revision whose files are given."""

    commit: str | None = None
    files: dict[str, str] = field(default_factory=dict, compare=False)

    def content(self, path: str) -> bytes | None:
        return self.files[path].encode() if path in self.files else None


def git(*words: str, **variables: str) -> str:
    environment = os.environ | variables
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True, env=environment).stdout.strip()


def lock(seed: int, epochs: int = 2) -> str:
    train = {"params": {"params.yaml": {"train": {"seed": seed, "epochs": epochs}}}}
    return json.dumps({"stages": {"train": train, "evaluate": {}}})  # which is YAML too


def figures(part: str, seed: int) -> dict[str, Any]:
    """Figures that differ in every part, seed and measure; with what the real files have besides."""
    value = (37 * seed) % 100 / 10_000 + (0.001 if part == "test" else 0)
    return {
        "source": "idx",
        "accuracy": round(0.9 + value, 4),
        "accuracy_low": 0.8,
        "accuracy_high": 0.95,
        "loss": round(0.3 - 2 * value, 4),
        "macro_f1": round(0.8 + value, 4),
        "calibration_error": round(0.02 + value / 3, 4),
        "images": 50,
    }


def recalls(part: str, seed: int) -> list[float]:
    return [round(figures(part, seed)["accuracy"] - x, 4) for x in (0.05, -0.05)]  # whose mean it is


def results(seed: int, epochs: int = 2, parts: tuple[str, ...] = ("val", "test")) -> dict[str, str]:
    """The files of a finished training."""
    found = {"dvc.lock": lock(seed, epochs)}
    for part in ("val", "test"):
        found[f"metrics/{part}.json"] = json.dumps(figures(part, seed) if part in parts else {})
    for part in parts:
        table = pd.DataFrame({"class": ["1", "b"], "images": 25, "recall": recalls(part, seed)})
        found[f"metrics/classes/{part}.csv"] = table.to_csv(index=False)
        found[f"metrics/predictions/{part}.csv"] = f"id,label,predicted,confidence\n0,1,{seed % 2},0.5\n1,b,b,0.5\n"
    return found


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def repository(**kinds: Any) -> None:
    """In the working directory, with results as from `results`."""
    git("init", "--quiet", "--initial-branch=main")
    git("config", "user.name", "Test")
    git("config", "user.email", "test@example.invalid")
    write(results(FIRST, **kinds))
    git("add", "--all")
    git("commit", "--quiet", "--message", "results")


def experiment(name: str, content: str, baseline: str, files: dict[str, str]) -> Revision:
    """An experiment that has other files than `content`."""
    with tempfile.TemporaryDirectory() as folder:
        index = str(Path(folder, "index"))
        git("read-tree", content, GIT_INDEX_FILE=index)
        if any(path.startswith("metrics/predictions/") for path in files):  # a folder that evaluate writes anew
            git("rm", "-r", "--cached", "--quiet", "--", "metrics/predictions", GIT_INDEX_FILE=index)
        for path, text in files.items():
            written = Path(folder, "written")
            written.write_text(text)
            blob = git("hash-object", "-w", str(written))
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", GIT_INDEX_FILE=index)
        tree = git("write-tree", GIT_INDEX_FILE=index)
    commit = git("commit-tree", tree, "-p", baseline, "-m", name)
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", commit)
    return Revision(name, commit)


class Trainings:
    """Stands for dvc_experiments.run: notes each seed, and makes its experiment or ends as `ends` says."""

    def __init__(self, **kinds: Any) -> None:
        self.kinds = kinds
        self.seeds: list[int] = []
        self.names: list[str] = []
        self.ends: dict[int, BaseException] = {}

    async def run(self, name: str, content: str, baseline: str, changes: dict[str, Any], label: str) -> Revision:
        assert changes.keys() == {"train.seed"}
        seed = changes["train.seed"]
        self.seeds.append(seed)
        self.names.append(name)
        if seed in self.ends:
            raise self.ends.pop(seed)
        return experiment(name, content, baseline, results(seed, **self.kinds))
