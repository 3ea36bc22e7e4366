"""Stage 6: the model as an ONNX file, which runs without Keras and PyTorch.

The file has all that src/predict.py needs: class names, the form that pictures are brought to, and the
energy (src/inference/onnx_file.py) above which an image is called unlike those of the training: that of
one in a hundred of them. metrics/unlikeness.json says how many val images are called so.
"""

from common import errors  # first: from here on an interruption is one line

# isort: split
import json
import zipfile
from pathlib import Path

import numpy as np

from common import arrays, backend, files, locks, params
from common.errors import InputError

# isort: split
import keras

from inference import onnx_file

MODEL = Path("models/model.keras")
SAMPLE = 10_000  # training images that the limit is taken from
SHARE = 0.01  # of them above it


def load(path: Path) -> tuple[keras.Model, list[str]]:
    """The model, in safe mode, and its class names.

    Raises:
        InputError: no such file, or not one that train has written.
    """
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        with zipfile.ZipFile(path) as file:
            return model, json.loads(file.read("metadata.json"))["class_names"]
    except Exception as error:  # zip, HDF5, JSON and Keras each raise their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} must be a model as train writes it; received: {reason}"
        ) from error


@locks.alone()
def main() -> None:
    chosen = params.load()
    # these were fitted by src/prepare.py, or in a way that only their authors know
    form = "fitted" if chosen.data.source in ("folder", "idx") else "fashion-mnist"
    images, _ = arrays.load("train")
    train_rows, val_rows = arrays.load_rows("train"), arrays.load_rows("val")
    with keras.device("cpu"):
        model, class_names = load(MODEL)
        converted = onnx_file.convert(model)

    sample = train_rows[:: -(-len(train_rows) // SAMPLE)]  # evenly spaced
    limit = round(float(np.quantile(onnx_file.energies(converted, images[sample]), 1 - SHARE)), 4)
    result: dict[str, float | int] = {"energy_limit": limit, "train_images": len(sample)}
    if len(val_rows):
        unlike = onnx_file.energies(converted, images[val_rows]) > limit
        result |= {"val_images": len(val_rows), "val_unlike": round(float(unlike.mean()), 4)}

    metadata = {
        "class_names": json.dumps(class_names, ensure_ascii=False),
        "form": form,
        "energy_limit": str(limit),
    }
    onnx_file.save(converted, metadata, MODEL.with_suffix(".onnx"))
    files.write_json(Path("metrics/unlikeness.json"), result)
    print(f"{MODEL.with_suffix('.onnx')}: opset {onnx_file.OPSET}, {len(class_names)} classes")


if __name__ == "__main__":
    arrays.forbid_test_images()
    main()
