"""A plain small CNN: convolution and max-pooling in turn, as in every first tutorial."""

import keras
from keras import layers


def build(input_shape: tuple[int, int, int], classes: int, widths: tuple[int, ...] = (32, 64)) -> keras.Model:
    """A 3 × 3 convolution, ReLU and max-pooling for each of `widths`, then one dense layer."""
    inputs = x = layers.Input(input_shape)
    for width in widths:
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)  # (N, H, W, width) -> (N, H/2, W/2, width)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
