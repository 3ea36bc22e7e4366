"""The published system `subset20k`: one convolution, then a dense layer as wide as what it is given.

As published: 20,000 training images, the layers, their shapes and their 29,306,282 parameters.

Left open: which 20,000 (drawn at random, as many of each class), 5,000 others as val, pixels divided by
255, ReLU, Adam with Keras' learning rate, batches of 128, as such notebooks most often have them. Of 5 and
10 epochs, 10 are no better on val.
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
