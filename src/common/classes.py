"""Class names, in the order of the labels."""

# https://github.com/zalandoresearch/fashion-mnist#labels
FASHION_MNIST = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
