"""One CNN a file, one `build(input_shape, classes, **options)` each, found by file name: to add one, add a file.

`build` returns an uncompiled Keras model of stock layers, from normalised float32 images (N, H, W, C) to logits
(N, classes). Of a Sequential the functional model is taken: only there each layer has one output.
"""

import importlib
import re
from pathlib import Path

from common import inputs
from common.backend import keras, slow_imports_hidden
from common.errors import InputError


def build(name: str, input_shape: tuple[int, ...], classes: int, options: dict, device: str = "cpu") -> keras.Model:
    """Builds the architecture in the file called `name`, its weights on `device` (cpu or cuda).

    Layer names do not depend on what the process has built before: Keras' counters start again,
    and with them every `keras.device` around the call, so none should be.

    Raises:
        InputError: no such file, it reads another file, or its `build` has no such option or refuses a value.
    """
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    if name not in names:
        raise InputError(f"model.architecture must be one of {', '.join(names)}; received {name!r}")
    source = str(Path(__file__).with_name(f"{name}.py"))
    with inputs.reading_only(source):
        architecture = importlib.import_module(f"architectures.{name}")
    with slow_imports_hidden():
        keras.utils.clear_session(free_memory=False)
    try:
        with keras.device(device), inputs.reading_only(source):
            model = architecture.build(input_shape, classes, **options)
            if isinstance(model, keras.Sequential):
                model.build((None, *input_shape))
                model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
            model(keras.ops.zeros((1, *input_shape)), training=False)  # Keras' idea of a layer's shape may be wrong
            return model
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # the last for want of memory
        # Keras puts the layer first, then the cause in bold
        lines = re.sub("\x1b\\[[0-9]*m", "", str(error)).split("\n\n")
        reason = " ".join(" ".join(lines[:2]).split()).partition(" Exception raised from")[0]  # PyTorch's stack
        raise InputError(
            f"model.options.{name} must fit src/architectures/{name}.py; received {options}: {reason}"
        ) from error
