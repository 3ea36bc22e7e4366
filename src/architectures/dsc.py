"""The published system `dsc`: "our custom CNN".

As in its author's code (AM1CODES/DSC-FMNIST, commit 3a9faaa): layers, Adam with 0.001, batches of 164, 50 epochs,
pixels divided by 255, 30 % of the rows as val, and augmentation by mirror images, a zoom of up to 20 % and a rotation
of up to 0.2 degrees, which is next to none. One-hot labels are class numbers here, with which cross-entropy is the
same. Its author had the images of the dataset's first release, and never evaluated the test images.
"""

import keras
from keras import layers


def build(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """14 × 14 × 32, 7 × 7 × 64, 3 × 3 × 128, then 256 and `classes` values for an image of 28 × 28."""
    inputs = x = layers.Input(input_shape)
    for width in (32, 64, 128):
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Dropout(0.25)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(256, activation="relu")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(classes)(x))
