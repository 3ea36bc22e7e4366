"""How fast the trained model predicts: predict.py beside the alternatives.

- keras: `predict` of models/model.keras, in batches of 1,000;
- native: the same layers as PyTorch operations, by src/training/native_model.py;
- onnx: models/model.onnx in ONNX Runtime with one thread, as in src/inference/classifier.py;
- onnx, all threads: the same with a thread for each core, as keras and native have.

Variants take turns, round by round, so that other load on the machine affects all of them; a figure is
the median over the rounds. Start-up time is that of a whole program that predicts one picture.

`python benchmarks/latency.py` (after `make repro`) prints a table and writes benchmarks/latency.json.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import arrays, files
from common.backend import keras

import numpy as np
import onnxruntime
import torch
from PIL import Image

import benchmark_files
import export
from conditions import machine
from training import model_file
from training.machine import cores, set_up
from training.native_model import NativeModel
from training.shards import Adder

RESULTS = Path("benchmarks/latency.json")
BATCHES = {1: 200, 1000: 1}  # images at once: how often in a round
WITH_KERAS = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
from PIL import Image
model = keras.saving.load_model("models/model.keras", compile=False)
print(model.predict(np.asarray(Image.open(sys.argv[1]))[None, ..., None], verbose=0))
"""
Answer = Callable[[np.ndarray], np.ndarray]


def native(model: keras.Model) -> Answer:
    """All layers as PyTorch operations."""
    _, rescaling, network, temperature, _ = model.layers
    step = NativeModel(network.inputs, network.outputs[0])
    step.prepare(keras.optimizers.SGD(), 0.0, "float32", Adder(1, 1, "cpu"), [])

    @torch.inference_mode()
    def answer(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).float() * rescaling.scale + rescaling.offset
        return (step.logits(pixels) * temperature.scale).softmax(-1).numpy()

    return answer


def onnx(threads: int) -> Answer:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        export.MODEL.with_suffix(".onnx"), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(["probabilities"], {"pixels": images})[0]


def medians(
    calls: dict[str, Callable[[], object]], rounds: int, repeats: int = 1, unit: float = 1.0
) -> dict[str, float]:
    """The time that one call takes, by variant, in a unit of so many seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):  # the first warms up and does not count
        order = list(calls.items())
        for name, call in order if turn % 2 else reversed(order):
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            if turn:
                times[name].append((time.perf_counter() - start) / repeats / unit)
    return {name: round(statistics.median(each), 3) for name, each in times.items()}


def start_up(image: np.ndarray) -> dict[str, float]:
    """Seconds that a program takes from start to end to predict one image, by variant."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        Image.fromarray(image[..., 0]).save(picture)
        programs = {"keras": ("-c", WITH_KERAS), "onnx": ("src/predict.py",)}
        run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
        return medians({name: partial(run, [sys.executable, *words, picture]) for name, words in programs.items()}, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=benchmark_files.positive, default=11)
    parser.add_argument("--again", action="store_true", help="measure this model once more")
    chosen = parser.parse_args()
    if benchmark_files.is_measured("latency", chosen.again):
        return
    rounds = chosen.rounds
    threads, here = cores(), machine()
    set_up("float32")
    torch.set_num_threads(threads)
    images, _ = arrays.load("train")
    with keras.device("cpu"):
        model, _ = model_file.load(export.MODEL, images.shape[1:])
        variants: dict[str, Answer] = {
            "keras": lambda batch: model.predict(batch, batch_size=1000, verbose=0),
            "native": native(model),
            "onnx": onnx(1),
            "onnx, all threads": onnx(threads),
        }
        measured = {
            f"{count} at once": medians(
                {name: partial(answer, images[:count]) for name, answer in variants.items()},
                rounds,
                repeats,
                unit=0.001,
            )
            for count, repeats in BATCHES.items()
        }
    start = start_up(images[0])
    result = {
        "machine": here | {"onnxruntime": onnxruntime.__version__},
        "training": benchmark_files.training_key(),
        "rounds": rounds,
        "milliseconds": measured,
        "seconds from start to answer": start,
    }
    files.write_json(RESULTS, result)
    for what, each in measured.items():
        for name, value in each.items():
            print(f"{what:<14} {name:<18} {value:>10.3f} ms {each['keras'] / value:>8.2f} ×")
    for name, value in start.items():
        print(f"{'start-up':<14} {name:<18} {value:>10.3f} s")


if __name__ == "__main__":
    main()
