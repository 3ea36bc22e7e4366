"""The published system `basic`: "a convolutional layer, a max-pooling layer, and an output layer".

Its author's code is not known. The description has the phrases of a much-copied notebook, whose network this is: 32
filters of 3 × 3, ReLU, max-pooling, dropout of 0.2, 32 dense units, Adam with 0.001, batches of 512, a fifth of the
rows as val. The description speaks of three layers, so dropout and dense units may have been missing (`dropout: 0.0`,
`units: null`).
"""

import keras
from keras import layers


def build(input_shape: tuple[int, int, int], classes: int, dropout: float = 0.2, units: int | None = 32) -> keras.Model:
    """13 × 13 × 32, then `units` (None: no such layer) and `classes` values for an image of 28 × 28."""
    inputs = x = layers.Input(input_shape)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(dropout)(x)
    x = layers.Flatten()(x)
    if units:
        x = layers.Dense(units, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
