"""Pairs of images that hardly differ: the same photograph, cut, scaled or retouched a little differently."""

import math

import numpy as np
from sklearn.neighbors import NearestNeighbors

LIMIT = 10  # of 255: root mean square difference of the pixels of a pair
GRID = 8  # at most so many blocks in each direction, by whose sums pairs are searched
CHUNK = 5_000  # images, or pairs, at a time, which bounds the memory


def pairs(images: np.ndarray) -> np.ndarray:
    """(P, 2) int64, in ascending order: the rows i < j of all pairs within `LIMIT`, exact copies among them.

    Sums over blocks of n pixels differ by at most √n times the root of the sum of squares (Cauchy and Schwarz), so
    pairs whose sums are farther apart are left out; the rest is computed in integers, the same on any processor.

    Args:
        images: (N, H, W, C) uint8.
    """
    if not len(images):
        return np.empty((0, 2), np.int64)
    most = LIMIT**2 * math.prod(images.shape[1:])  # of the sum of squares
    block = -(-max(images.shape[1:3]) // GRID)  # rounded up
    sums: np.ndarray = images
    for axis in (1, 2):
        sums = np.add.reduceat(sums, np.arange(0, images.shape[axis], block), axis=axis, dtype=np.int64)
    sums = sums.reshape(len(images), -1).astype(np.float32)
    search = NearestNeighbors(radius=1.01 * block * most**0.5, algorithm="brute")  # 1 % more, for rounding
    found = []
    for start in range(0, len(images), CHUNK):
        rows, others = search.fit(sums).radius_neighbors_graph(sums[start : start + CHUNK]).nonzero()
        candidates = np.stack([rows + start, others], axis=1)[rows + start < others]
        for part in np.array_split(candidates, len(candidates) // CHUNK + 1):
            differences = images[part[:, 0]].astype(np.int32) - images[part[:, 1]]
            found.append(part[(differences**2).sum((1, 2, 3), dtype=np.int64) <= most])
    return np.unique(np.concatenate(found).astype(np.int64), axis=0)
