"""The published system `deep`: two pairs of convolutions, each with dropout, and a dense layer.

As published: the CSV files, layers, widths and dropout, the three callbacks.

Left open: kernels of 3 × 3, padding (same), ReLU, pixels divided by 255, Adam with Keras' learning rate,
batches of 128, 5,000 rows as val, as such notebooks most often have them. After 3 epochs without a better
val loss the learning rate is halved, after 5 training ends, at the latest after 30 epochs; the epoch with
the best val accuracy is kept.
"""

import keras
from keras import layers


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Feature maps of 14 × 14 × 64, then 7 × 7 × 128."""
    inputs = x = layers.Input(input_shape)
    for width, dropout in ((64, 0.25), (128, 0.35)):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(dropout)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(256, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
