"""Whitening, then three blocks of two convolutions with batch normalisation: the default.

The network of the CIFAR-10 speed records (airbench, https://arxiv.org/abs/2404.00498, sections 3.1 to 3.3) for smaller
images. Deviations: whitening filters known beforehand, without bias, with 0.01 added to their variances (there 0.0005);
SiLU for GELU; 128 for the second width (256); batch norm with momentum 0.9 and epsilon 1e-5 (0.6, 1e-12); a last bias.
"""

import keras
import numpy as np
from keras import layers

# The principal components of 2 × 2 patches: as on all natural pictures those of Haar, to a few
# hundredths. What they contribute to the variance is Fashion-MNIST's, of normalised pixels.
COMPONENTS = np.array([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 2
VARIANCES = np.array([4.24, 0.45, 0.29, 0.06])
# uniform between ±1 / √(inputs of a filter), as PyTorch starts a convolution
UNIFORM = {"class_name": "VarianceScaling", "config": {"scale": 1 / 3, "distribution": "uniform"}}


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    widths: tuple[int, ...] = (64, 128, 256),
    activation: str = "silu",
    logit_scale: float = 1 / 9,
    depth: int = 2,
) -> keras.Model:
    """One block for each of `widths`; each halves height and width.

    Args:
        depth: convolutions of a block; from three on, a shortcut leads around all but the first (airbench96).
        logit_scale: factor of the logits, so that the rate of the convolutions is not too high for the last layer.
    """
    channels = input_shape[-1]
    inputs = layers.Input(input_shape)
    whitening = layers.Conv2D(8 * channels, 2, use_bias=False, trainable=False)
    x = whitening(inputs)  # (N, H, W, C) -> (N, H - 1, W - 1, 8C)
    x = layers.Activation(activation)(x)
    convolutions = []
    for width in widths:
        first = x
        for place in range(depth):
            convolution = layers.Conv2D(width, 3, padding="same", use_bias=False, kernel_initializer=UNIFORM)
            convolutions.append(convolution)
            x = convolution(x)
            if place == 0 and min(x.shape[1:3]) > 1:  # below 11 × 11 pixels the last blocks have nothing to halve
                x = layers.MaxPooling2D(2)(x)  # (N, H, W, width) -> (N, H // 2, W // 2, width)
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, scale=False)(x)
            if place == depth - 1 > 1:
                x = layers.Add()([x, first])
            x = layers.Activation(activation)(x)
            first = x if place == 0 else first
    x = layers.GlobalMaxPooling2D()(x)  # (N, H // 8, W // 8, width) -> (N, width)
    logits = layers.Rescaling(float(logit_scale))(layers.Dense(classes)(x))
    # not by initialisers of our own, without which plain Keras could not load the model
    whitening.kernel.assign(whitening_kernel(channels))
    for convolution in convolutions:
        start_as_identity(convolution)
    return keras.Model(inputs, logits)


def whitening_kernel(channels: int) -> np.ndarray:
    """(2, 2, C, 8C): of each channel the components, at the same variance, and their negatives."""
    filters = COMPONENTS / np.sqrt(VARIANCES + 0.01)[:, None, None]
    filters = np.concatenate([filters, -filters]).transpose(1, 2, 0)  # (2, 2, 8)
    return np.kron(np.eye(channels), filters[..., None, :])  # a block for each channel


def start_as_identity(convolution: layers.Conv2D) -> None:
    """The first filters pass on one channel each; those beyond the channels stay random."""
    kernel = keras.ops.convert_to_numpy(convolution.kernel).copy()  # (3, 3, in, out)
    same = range(min(kernel.shape[2:]))
    kernel[..., same] = 0
    kernel[1, 1, same, same] = 1
    convolution.kernel.assign(kernel)
