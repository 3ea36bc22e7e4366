"""What a GPU gives, in one call of at most 8 minutes or in several, on a machine without network, dvc and git.

- probe: start-up, and in which mode a training succeeds: with CUDA graphs or without, and whether all operations
  are ones that PyTorch calls deterministic. All later parts have this mode.
- sameness: the bytes of the same training twice, of one that was killed and resumed, and of one without graphs.
- throughput: training steps beside hand-written PyTorch, in turns (on_gpu/throughput.py).
- agreement: CPU and GPU after one step, and over five seeds.
- fast, accurate, record: trainings of on_gpu/recipes.yaml; val chooses, the chosen one meets the test images once.
- heinit: the published system in float32.

Each part runs in a process of its own, with its share of the time that is left. After it, or when it is stopped, what
it has measured is written. Seconds of training are told apart from those of start-up, warm-up (the first training of a
form of batch, in which libraries prepare themselves) and of recording graphs; bars in seconds are of training alone.

Here, after `make repro`, and there:

    python benchmarks/gpu.py --pack .gpu         # wheels for Python 3.12, and the prepared arrays (make gpu-files)
    python3 -m pip install -q --no-index --no-deps --target /tmp/site .gpu/*.whl
    PYTHONPATH=/tmp/site python3 benchmarks/gpu.py --data .gpu/prepared.npz --out gpu.json

One call has no time for all candidates of `accurate` and `record`. Three have: `--only sameness throughput agreement
fast`, `--only accurate` and `--only record heinit`, each with a file of its own as `--out`.

That machine needs this repository, .gpu, Python 3.12, and PyTorch with CUDA, NumPy, SciPy, scikit-learn, pandas, h5py,
filelock, tqdm, rich, absl-py and ml-dtypes. `--seconds 60 --small` tries all parts on few images anywhere.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from common import files, params
from common.errors import InputError, first_line

import numpy as np

from on_gpu.jobs import Job, Settings, end_with_parent

HERE = Path(__file__).resolve().parent
RECIPES = HERE / "on_gpu/recipes.yaml"
# parts in order, with their shares of the time; what one leaves, later ones have
SHARES = {
    "probe": 120, "sameness": 60, "throughput": 75, "agreement": 45, "fast": 60, "accurate": 200, "record": 120,
    "heinit": 80,
}  # fmt: skip
if not (HERE.parent / "published/heinit/params.yaml").exists():  # make adopt removes it
    del SHARES["heinit"]
MARGIN = 5.0  # seconds kept for the end
STOP = 3.0  # seconds in which a part stops what it has started
UNKNOWN_MODE = {"graphs": False, "strict": False}  # where the probe found none in its time
SMALL = {
    "split.train_size": 300, "split.val_size": 100, "train.epochs": 2, "train.batch_size": 64,
    "train.least_steps": 1,
    "model.options.blocks": {"widths": [8, 8]}, "train.progressive_resizing": {"scale": 0.7, "share": 0.5},
}  # fmt: skip
PARTS = ("train/images", "train/labels", "test/images", "test/labels", "near_duplicates")
WHEELS = (
    "absl-py", "annotated-types", "keras", "namex", "optree", "pydantic", "pydantic-core", "ruamel-yaml",
    "typing-extensions", "typing-inspection",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
LIMIT = 48 * 2**20  # bytes of .gpu


def pack(target: Path, data: Path) -> None:
    """Writes the prepared arrays and the wheels that the other machine lacks into `target`, in the place of those there.

    Args:
        data: as data/prepared.

    Raises:
        InputError: an array or a locked version is missing, or together they are too large.
    """
    target.mkdir(parents=True, exist_ok=True)
    for old in [*target.glob("*.whl"), *target.glob("*.npz")]:
        old.unlink()
    arrays = {part: np.load(_file(data / f"{part}.npy")) for part in PARTS}
    classes = _file(data / "classes.json").read_bytes()
    with files.atomic_file(target / "prepared.npz") as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, classes=np.frombuffer(classes, np.uint8), **arrays)
    locked = (HERE.parent / "requirements.txt").read_text("utf-8")
    found = {name: re.search(rf"^{re.escape(name)}==([^\s;]+)", locked, re.MULTILINE) for name in WHEELS}
    missing = [name for name, version in found.items() if not version]
    if missing:
        raise InputError(f"requirements.txt must lock {', '.join(WHEELS)}; {', '.join(missing)} is missing")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    words += ["--python-version", "3.12", "--implementation", "cp", "--dest", str(target)]
    words += [word for platform in PLATFORMS for word in ("--platform", f"{platform}_x86_64")]
    words += [f"{name}=={version[1]}" for name, version in found.items() if version]
    status = subprocess.run(words, check=False).returncode
    if status:
        raise InputError(f"pip must download the wheels; it ended with {status}")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 2**20:.1f} MiB, {len(WHEELS)} wheels and the prepared arrays")
    if size > LIMIT:
        raise InputError(f"{target} must have at most {LIMIT // 2**20} MiB; received {size / 2**20:.1f}")


def _file(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} must be there (make repro writes it); it is missing")
    return path


def unpack(data: Path, work: Path) -> Path:
    """The folder of prepared arrays: `data` itself, or what `pack` has written to the file `data`.

    Raises:
        InputError: it is neither.
    """
    if data.is_dir():
        _file(data / "train/images.npy")
        return data
    folder = work / "prepared"
    try:
        with np.load(_file(data)) as arrays:
            for part in PARTS:
                (folder / part).parent.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{part}.npy", arrays[part])
            (folder / "classes.json").write_bytes(arrays["classes"].tobytes())
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{data} must be as --pack writes it; received: {first_line(error)}") from None
    return folder


def read_recipes(path: Path, small: bool) -> dict[str, Any]:
    """The content of recipes.yaml; where `small`, each part has two tiny candidates.

    Raises:
        InputError: the file is missing or lacks a part.
    """
    recipes = params.read_yaml(path, dict[str, dict[str, Any]])
    needed = ("base", "fast", "accurate", "record", "sameness", "agreement")
    if missing := [name for name in needed if name not in recipes]:
        raise InputError(f"{path} must have {', '.join(needed)}; {', '.join(missing)} is missing")
    for name in ("fast", "accurate", "record") if small else ():
        recipes[name]["candidates"] = [{}, {"train.learning_rate": 0.1}]
    return recipes


def run(
    parts: list[str], data: Path, out: Path, seconds: float, recipes: dict[str, Any], small: bool
) -> dict[str, Any]:
    """Runs the parts one after the other; results so far are in `out` at any time."""
    begun = time.time()
    results: dict[str, Any] = {"parts": {}}
    more: dict[str, dict[str, Any]] = {}
    if small:
        more = {"throughput": {"steps": 2, "rounds": 2, "batch_sizes": [16]}, "agreement": {"seeds": 2}}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        changes = SMALL | {"train.device": "cpu"} if small else {}
        settings: dict[str, Any] = {"prepared": unpack(data, work), "work": work, "recipes": recipes}
        settings |= {"changes": changes}
        for part in parts:
            left = begun + seconds - MARGIN - time.time()
            share = left * SHARES[part] / sum(SHARES[later] for later in parts[parts.index(part) :])
            start = time.time()
            if share > STOP:
                job = Job(part, Settings(deadline=start + share - STOP, **settings), part, **more.get(part, {}))
                found = job.wait(share)
            else:
                found = {"ended with": "no time was left"}
            if part == "probe":
                settings |= found.get("mode", UNKNOWN_MODE)
            results["parts"][part] = found | {"seconds of the part": round(time.time() - start, 1)}
            results["seconds"] = round(time.time() - begun, 1)
            files.write_json(out, results)
            print(f"{part}: {json.dumps(summary(found), ensure_ascii=False)}", flush=True)
    return results


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Of a part's figures those that one line can show."""
    names = (
        "mode", "same bytes", "within seed noise", "gpu - cpu", "p", "mean", "standard deviation", "n", "mean seconds",
        "reached", "test accuracy", "ended with", "failed",
    )  # fmt: skip
    shown = {name: found[name] for name in names if name in found}
    if "results" in found:
        shown["ratios"] = [result["ratios"] for result in found["results"]]
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/prepared"), help="a folder, or prepared.npz")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), metavar="FILE", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=470.0, help="for all parts (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SHARES, metavar="PART", help=f"of: {', '.join(SHARES)}")
    parser.add_argument("--recipes", type=Path, default=RECIPES, metavar="FILE")
    parser.add_argument("--small", action="store_true", help="tiny trainings on the CPU, to try the program")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="write what the other machine needs, and end")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.job:
        end_with_parent()
        from on_gpu.parts import run_job  # noqa: PLC0415 (what needs PyTorch)

        run_job(chosen.job)
        return
    if chosen.pack:
        pack(chosen.pack, chosen.data)
        return
    if not 30 <= chosen.seconds <= 3600:
        raise InputError(f"--seconds must be between 30 and 3,600; received {chosen.seconds:g}")
    parts = [part for part in SHARES if part in (chosen.only or SHARES)]
    if parts[0] != "probe":
        parts.insert(0, "probe")  # it finds the mode
    recipes = read_recipes(chosen.recipes, chosen.small)
    results = run(parts, chosen.data, chosen.out, chosen.seconds, recipes, chosen.small)
    print(f"{chosen.out}: {', '.join(results['parts'])} in {results['seconds']:.0f} s")


if __name__ == "__main__":
    main()
