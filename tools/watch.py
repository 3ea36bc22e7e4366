"""The curves of the training that runs here, in the terminal, drawn again after every epoch: `make watch`."""

import argparse
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

from common import locks, params

import plotille
import psutil

CURVES, COLOURS = Path("metrics/.curves.part"), {"train": "cyan", "val": "yellow"}  # as files.atomic_folder names it


def is_training() -> bool:
    """Whether the process that holds the lock of the stages trains; one that was killed leaves its curves."""
    with suppress(OSError, ValueError, psutil.Error):
        return CURVES.exists() and "/train.py'" in str(psutil.Process(int(locks.STAGE.read_text())).cmdline())
    return False


def plot(measure: str) -> str:
    """The curves of train and val, as far as they are written, as text that fills half of the terminal."""
    size, figure, last = shutil.get_terminal_size(), plotille.Figure(), []
    figure.width, figure.height = max(10, size.columns - 24), max(3, size.lines // 2 - 6)
    figure.x_label, figure.y_label, figure.origin, figure.with_colors = "epoch", measure, False, sys.stdout.isatty()
    figure.set_x_limits(0, params.load().train.epochs)
    for path in sorted(CURVES.glob(f"plots/metrics/*/{measure}.tsv")):
        if lines := path.read_text("utf-8").split("\n")[1:-1]:  # the last one may be unfinished
            part, points = path.parent.name, [[*map(float, line.split("\t"))] for line in lines]
            figure.plot(*zip(*points, strict=True), lc=COLOURS[part])
            last.append(plotille.color(f"{part} {points[-1][1]:.4f}", COLOURS[part], no_color=not figure.with_colors))
    return f"{figure.show()}\n{', '.join(last)}" if last else f"no {measure} before the end of the first epoch"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    shown = ""
    while is_training():
        with suppress(FileNotFoundError):  # it has just ended
            if (plots := f"{plot('accuracy')}\n{plot('loss')}") != shown:
                print("\x1b[H\x1b[2J" * sys.stdout.isatty() + plots, flush=True)
                shown = plots
        time.sleep(1)
    print("The training has ended." if shown else "Nothing trains here now (make repro does, where there is a need).")


if __name__ == "__main__":
    main()
