"""The published system `heinit`: three convolutions from He's initialisation, and two dense layers.

As published: the CSV files, initialiser, normalisation, pooling, dropout of 0.5, the dense widths, Adam, a
learning rate that falls on plateaus, 50 epochs, batches of 32. Its author trained on all 60,000 images and
watched the test images; here 5,000 rows are val, and val is watched.

Left open: 32, 64 and 128 filters, kernels of 3 × 3, padding (same), ReLU, dropout of 0.5 between the dense
layers too, pixels divided by 255, as such notebooks most often have them. After 3 epochs without a better
val loss the learning rate is halved.
"""

import keras
from keras import layers


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Feature maps of 14 × 14 × 32, 7 × 7 × 64, then 3 × 3 × 128."""
    inputs = x = layers.Input(input_shape)
    for width in (32, 64, 128):
        x = layers.Conv2D(
            width, 3, padding="same", activation="relu", kernel_initializer="he_normal"
        )(x)
        x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(0.5)(x)
    x = layers.Flatten()(x)
    for units in (2048, 1028):
        x = layers.Dense(units, activation="relu")(x)
        x = layers.BatchNormalization()(x)
        x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
