"""Stage 6: exports the model as an ONNX file, which runs without Keras and PyTorch.

The file has everything that src/predict.py needs: the model, its class names, the form that it takes pictures in, and a
limit for the energy of an image (src/inference/onnx_file.py). An image above the limit counts as out of distribution;
so do one in a hundred training images. metrics/unlikeness.json has the limit, and the share of the val images above it.
"""

import json
from pathlib import Path

from common import arrays, files, inputs, locks, params
from common.backend import keras

import numpy as np
import torch

from inference import onnx_file
from training import model_file

MODEL = Path("models/model.keras")
SAMPLE = 10_000  # training images, which decide the limit
SHARE = 0.01  # of the sample above the limit


def energies(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """(N,) float32 of images (N, H, W, C) uint8.

    In PyTorch, since ONNX Runtime's last bits depend on the processor.
    """
    logits = model_file.predict(onnx_file.before_temperature(model), images)  # (N, classes)
    torch.set_num_threads(1)
    return -torch.from_numpy(logits).logsumexp(-1).numpy()


@locks.exclusive()
def main() -> None:
    chosen = params.load()
    # images of these sources were fitted by src/prepare.py, or in a way that only their authors know
    form = "fitted" if chosen.data.source in ("folder", "idx") else "fashion-mnist"
    images, _ = arrays.load("train")
    train_rows, val_rows = (arrays.load_rows(name, len(images)) for name in ("train", "val"))
    with keras.device("cpu"):
        model, class_names = model_file.load(MODEL, images.shape[1:])
        converted = onnx_file.convert(model)
        sample = train_rows[:: -(-len(train_rows) // SAMPLE)]  # evenly spaced
        limit = round(float(np.quantile(energies(model, images[sample]), 1 - SHARE)), 4)
        result: dict[str, float | int] = {"energy_limit": limit, "train_images": len(sample)}
        if len(val_rows):
            unlike = energies(model, images[val_rows]) > limit
            result |= {"val_images": len(val_rows), "val_unlike": round(float(unlike.mean()), 4)}

    metadata = {"class_names": json.dumps(class_names, ensure_ascii=False), "form": form, "energy_limit": str(limit)}
    onnx_file.save(converted, metadata, MODEL.with_suffix(".onnx"))
    files.write_json(Path("metrics/unlikeness.json"), result)
    print(f"{MODEL.with_suffix('.onnx')}: opset {onnx_file.OPSET}, {len(class_names)} classes")


if __name__ == "__main__":
    inputs.declare("data/prepared/train", "data/split", "models/model.keras")
    main()
