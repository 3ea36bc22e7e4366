"""The published system `subset20k`: one convolution, then a dense layer as wide as what it is given.

As in its author's code: rows 10,000 to 29,999 for training (`train_slice: [10000, 30000]`), the layers with their
29,306,282 weights, Adam with 0.001, batches of 32, 10 epochs, pixels divided by 255. Its author had no val rows; here
5,000 of the other rows are val, and decide nothing.
"""

import keras
from keras import layers


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """26 × 26 × 32, 13 × 13 × 32, 5,408, 5,408 and `classes` values an image of 28 × 28."""
    inputs = x = layers.Input(input_shape)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(x.shape[-1], activation="relu")(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
