"""Processes of gpu.py, and what they are told."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[1] / "gpu.py"
LINES = 12  # the last ones of a process that failed
PR_SET_PDEATHSIG = 1  # option of prctl(2): the signal that a process receives when its parent dies


def end_with_parent() -> None:
    """Kills this process when its parent ends, so that nothing computes beside the next part."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True)
class Settings:
    """How a part of gpu.py runs.

    Attributes:
        prepared: the folder of prepared arrays.
        work: where trainings have their folders.
        recipes: the content of recipes.yaml.
        deadline: of `time.time()`; no training is begun that would end later.
        changes: to the parameters of every training.
        graphs: whether steps are recorded as CUDA graphs; otherwise each operation is started by itself.
        strict: whether an operation that PyTorch does not call deterministic ends a training.
    """

    prepared: Path
    work: Path
    recipes: dict[str, Any]
    deadline: float
    changes: dict[str, Any] = field(default_factory=dict)
    graphs: bool = True
    strict: bool = True

    def left(self) -> float:
        """Seconds to the deadline."""
        return self.deadline - time.time()


class Job:
    """A part in a process of its own."""

    def __init__(
        self, part: str, settings: Settings, label: str, environment: dict[str, str] | None = None, **more: Any
    ):
        self.path = settings.work / f"{label}.job.json"
        self.result = self.path.with_suffix(".result.json")
        self.result.unlink(missing_ok=True)
        content = {"part": part, "settings": asdict(settings), "more": more, "started": time.time()}
        self.path.write_text(json.dumps(content, default=str))
        self.log = self.path.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, "--job", self.path],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}),
            )

    def wait(self, seconds: float) -> dict[str, Any]:
        """What it reported, and how it ended. It is killed after `seconds`. NaN and infinity become text."""
        try:
            status: Any = self.process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = f"stopped after {seconds:.0f} s"
        found = json.loads(self.result.read_text(), parse_constant=str) if self.result.exists() else {}
        if status:
            found |= {"ended with": status, "last lines": self.log.read_text("utf-8", "replace").splitlines()[-LINES:]}
        return found
