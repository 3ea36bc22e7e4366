"""The published system `dsc`: "our custom CNN", which its description does not give.

As published: the CSV files, pixels divided by 255, a split of the training rows, augmentation. Its
one-hot labels are class numbers here, with which cross-entropy is the same.

Left open: the network has what such a notebook most likely has, two convolutions with max-pooling and one
dense layer with dropout, few because its author says that more layers and filters would help. Adam
with Keras' learning rate, batches of 128, a fifth of the rows as val, mirror images and shifts by up to
2 pixels, likewise. Of 10, 20 and 50 epochs, 50 are best on val.
"""

import keras
from keras import layers


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Feature maps of 13 × 13 × 32, then 5 × 5 × 64."""
    inputs = x = layers.Input(input_shape)
    for width in (32, 64):
        x = layers.Conv2D(width, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
