"""Stage 6: exports the model as an ONNX file, which runs without Keras and PyTorch.

The file has everything that src/predict.py needs: the model, its class names, the form that it takes pictures in, and a
limit for the distance of an image (src/inference/onnx_file.py). An image above the limit counts as out of distribution;
so do two in a hundred val images, or training images where there is no val. metrics/unlikeness.json has the limit.
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
SAMPLE = 10_000  # training images, from which distances are measured
SHARE = 0.02  # of the val images above the limit
AT_ONCE = 50_000  # distances between images and classes, each of which takes F values


@locks.exclusive()
def main() -> None:
    # images of these sources were fitted by src/prepare.py, or in a way that only their authors know
    form = "fitted" if params.load().data.source in ("folder", "idx") else "fashion-mnist"
    images, labels = arrays.load("train")
    train_rows, val_rows = (arrays.load_rows(name, len(images)) for name in ("train", "val"))
    with keras.device("cpu"):
        model, class_names = model_file.load(MODEL, images.shape[1:])
        sample = train_rows[:: -(-len(train_rows) // SAMPLE)]  # evenly spaced
        features = keras.Model(model.input, onnx_file.with_features(model).outputs[1])
        of_sample = model_file.predict(features, images[sample])  # (N, F)
        of_val = model_file.predict(features, images[val_rows]) if len(val_rows) else of_sample
        torch.set_num_threads(1)  # and no ONNX Runtime, whose last bits depend on the processor
        distance = onnx_file.Distance(of_sample, labels[sample])
        pieces = torch.from_numpy(of_val).split(AT_ONCE // len(distance.means))
        limit = round(float(np.quantile(torch.cat([distance(piece) for piece in pieces]).numpy(), 1 - SHARE)), 4)
        converted = onnx_file.convert(model, distance)
    result = {"distance_limit": limit, "train_images": len(sample), "val_images": len(val_rows)}
    metadata = {"class_names": json.dumps(class_names, ensure_ascii=False), "form": form, "distance_limit": str(limit)}
    onnx_file.save(converted, metadata, MODEL.with_suffix(".onnx"))
    files.write_json(Path("metrics/unlikeness.json"), result)
    print(f"{MODEL.with_suffix('.onnx')}: opset {onnx_file.OPSET}, {len(class_names)} classes")


if __name__ == "__main__":
    inputs.declare("data/prepared/train", "data/split", "models/model.keras")
    main()
