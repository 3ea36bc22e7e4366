"""Garment-like drawings in ten classes: data for tests and for machines that have none.

Each class is an outline on the unit square (x to the right, y down). An image is its outline, stretched, turned and
moved at random, filled with a random shade and stripes, with noise on top. Close outlines (T-shirt, shirt, pullover,
coat) overlap, as they do in the real data, so accuracy is neither 10 nor 100 %.
"""

from common import idx

import numpy as np
from PIL import Image, ImageDraw

HEIGHT = WIDTH = 28
_SCALE = 4  # drawn this much larger, then reduced, for smooth edges

_TORSO = [(0.3, 0.1), (0.7, 0.1)]
_OUTLINES = (
    # T-shirt/top: short sleeves
    [*_TORSO, (0.95, 0.3), (0.85, 0.42), (0.72, 0.35), (0.72, 0.9), (0.28, 0.9), (0.28, 0.35), (0.15, 0.42), (0.05, 0.3)],
    # Trouser
    [(0.33, 0.05), (0.67, 0.05), (0.72, 0.95), (0.55, 0.95), (0.5, 0.3), (0.45, 0.95), (0.28, 0.95)],
    # Pullover: long sleeves
    [*_TORSO, (0.9, 0.25), (0.98, 0.85), (0.82, 0.87), (0.72, 0.4), (0.72, 0.92), (0.28, 0.92), (0.28, 0.4), (0.18, 0.87), (0.02, 0.85), (0.1, 0.25)],
    # Dress
    [(0.4, 0.05), (0.6, 0.05), (0.58, 0.4), (0.75, 0.95), (0.25, 0.95), (0.42, 0.4)],
    # Coat: long sleeves, open in front
    [*_TORSO, (0.9, 0.22), (0.96, 0.8), (0.82, 0.82), (0.73, 0.4), (0.75, 0.97), (0.52, 0.97), (0.5, 0.25), (0.48, 0.97), (0.25, 0.97), (0.27, 0.4), (0.18, 0.82), (0.04, 0.8), (0.1, 0.22)],
    # Sandal: sole and straps
    [(0.03, 0.72), (0.3, 0.6), (0.45, 0.35), (0.55, 0.38), (0.45, 0.64), (0.7, 0.6), (0.8, 0.3), (0.9, 0.3), (0.97, 0.75), (0.03, 0.8)],
    # Shirt: half-long sleeves
    [*_TORSO, (0.93, 0.28), (0.95, 0.6), (0.8, 0.62), (0.72, 0.38), (0.72, 0.93), (0.28, 0.93), (0.28, 0.38), (0.2, 0.62), (0.05, 0.6), (0.07, 0.28)],
    # Sneaker
    [(0.03, 0.6), (0.35, 0.5), (0.6, 0.35), (0.92, 0.38), (0.97, 0.72), (0.03, 0.74)],
    # Bag: body and handle
    [(0.08, 0.4), (0.28, 0.4), (0.35, 0.12), (0.65, 0.12), (0.72, 0.4), (0.92, 0.4), (0.92, 0.88), (0.08, 0.88), (0.08, 0.4), (0.35, 0.4), (0.4, 0.2), (0.6, 0.2), (0.65, 0.4), (0.08, 0.4)],
    # Ankle boot
    [(0.05, 0.65), (0.45, 0.5), (0.5, 0.08), (0.88, 0.08), (0.95, 0.85), (0.05, 0.87)],
)  # fmt: skip


def draw(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One image for each label.

    Args:
        labels: (N,) integers 0–9.
        generator: where every random choice comes from.

    Returns:
        (N, 28, 28) uint8, a light garment on black, like the real images.
    """
    images = np.empty((len(labels), HEIGHT, WIDTH), np.uint8)
    for image, label in zip(images, labels, strict=True):
        points = np.array(_OUTLINES[label]) - 0.5  # (points, 2), centred
        angle = generator.normal(0, 0.08)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = points * generator.normal(1, 0.08, 2) @ turn
        points += generator.normal(0, 0.02, points.shape) + generator.normal(0, 0.03, 2) + 0.5
        canvas = Image.new("L", (WIDTH * _SCALE, HEIGHT * _SCALE))
        shade = int(generator.integers(90, 256))
        corners = [(float(x * WIDTH * _SCALE), float(y * HEIGHT * _SCALE)) for x, y in points]
        ImageDraw.Draw(canvas).polygon(corners, fill=shade)
        drawn = np.asarray(canvas.reduce(_SCALE), np.float64)  # (28, 28)
        period, phase = generator.uniform(2, 9), generator.uniform(0, 2 * np.pi)
        axis = generator.integers(2)
        stripes = 1 + 0.25 * np.sin(2 * np.pi * np.arange(WIDTH) / period + phase)  # (28,)
        drawn *= stripes if axis else stripes[:, None]
        drawn += generator.normal(0, 12, drawn.shape) * (drawn > 0)
        image[:] = drawn.clip(0, 255).astype(np.uint8)
    return images


def draw_idx(train_images: int, test_images: int, seed: int) -> dict[str, bytes]:
    """The four IDX files of a synthetic dataset, by their names; classes as even as they go."""
    contents = {}
    for part, count, generator in zip(
        ("train", "t10k"), (train_images, test_images), np.random.default_rng(seed).spawn(2), strict=True
    ):
        labels = generator.permutation((np.arange(count) % len(_OUTLINES)).astype(np.uint8))
        contents[f"{part}-images-idx3-ubyte"] = idx.encode(draw(labels, generator))
        contents[f"{part}-labels-idx1-ubyte"] = idx.encode(labels)
    return contents
