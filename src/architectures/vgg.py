"""Two pairs of convolutions, each pair followed by max-pooling, then dense layers.

The pattern of VGG (https://arxiv.org/abs/1409.1556, section 2.1), with batch normalisation and with
as few layers as 28 × 28 pixels carry.
"""

import keras
from keras import layers


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    widths: tuple[int, ...] = (64, 128),
    dense: int = 256,
) -> keras.Model:
    """Two 3 × 3 convolutions for each of `widths`; each pair halves height and width."""
    inputs = x = layers.Input(input_shape)
    for width in widths:
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9)(x)
            x = layers.Activation("relu")(x)
        x = layers.MaxPooling2D(2)(x)  # (N, H, W, width) -> (N, H/2, W/2, width)
    x = layers.Flatten()(x)
    x = layers.Dense(dense, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
