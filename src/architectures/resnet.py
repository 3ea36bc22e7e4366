"""A small residual network with the activations before the convolutions.

Blocks as in https://arxiv.org/abs/1603.05027, figure 4 (e); where the width changes, a 1 × 1
convolution takes the shortcut along, and max-pooling in front of the block halves height and width.
"""

import keras
from keras import layers


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    widths: tuple[int, ...] = (32, 64, 128),
    blocks: int = 1,
) -> keras.Model:
    """`blocks` residual blocks of two convolutions for each of `widths`."""
    inputs = layers.Input(input_shape)
    x = layers.Conv2D(widths[0], 3, padding="same", use_bias=False)(inputs)
    for stage, width in enumerate(widths):
        if stage:
            x = layers.MaxPooling2D(2)(x)  # (N, H, W, C) -> (N, H/2, W/2, C)
        for _ in range(blocks):
            y = _normalised(x)
            shortcut = x
            if x.shape[-1] != width:
                shortcut = layers.Conv2D(width, 1, use_bias=False)(y)
            y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
            y = _normalised(y)
            y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
            x = layers.Add()([shortcut, y])
    x = layers.GlobalAveragePooling2D()(_normalised(x))  # (N, H/4, W/4, C) -> (N, C)
    return keras.Model(inputs, layers.Dense(classes)(x))


def _normalised(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
