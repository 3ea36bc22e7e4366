"""Three blocks of two convolutions with batch normalisation: the default.

The network of the CIFAR-10 speed records (airbench, https://arxiv.org/abs/2404.00498, section 3)
made smaller. Deviations: no whitening layer in front, no identity initialisation, SiLU for GELU, a
scale in batch normalisation, and no factor on the logits.
"""

import keras
from keras import layers


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    widths: tuple[int, ...] = (32, 64, 128),
    activation: str = "silu",
) -> keras.Model:
    """One block for each of `widths`; each halves height and width."""
    inputs = x = layers.Input(input_shape)
    for width in widths:
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.MaxPooling2D(2)(x)  # (N, H, W, width) -> (N, H/2, W/2, width)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation(activation)(x)
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation(activation)(x)
    x = layers.GlobalMaxPooling2D()(x)  # (N, H/8, W/8, width) -> (N, width)
    return keras.Model(inputs, layers.Dense(classes)(x))
