"""Near-duplicates: the same photograph, cut, scaled or retouched a little differently."""

import math

from common import release

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors

LIMIT = 10  # of 255: root mean square difference of the pixels
GRID = 8  # at most so many blocks in each direction, by whose sums pairs are searched
CHUNK = 250  # images at a time
BYTES = 2**23  # of each of two sets of images at a time


def groups(images: np.ndarray) -> np.ndarray:
    """(N,) int64: one number for images within `LIMIT` of each other, directly or through others.

    Sums over blocks of n pixels differ by at most √n times the root of the sum of squares (Cauchy and Schwarz), so
    pairs whose sums are farther apart are left out; the rest is exact in float64, and so the same on any processor.

    Args:
        images: (N, H, W, C) uint8.
    """
    if not len(images):
        return np.empty(0, np.int64)
    _, first, copy_of = np.unique(release.hashes(images), return_index=True, return_inverse=True)
    images, size = images[first], math.prod(images.shape[1:])
    most = LIMIT**2 * size  # of the sum of squares
    block = -(-max(images.shape[1:3]) // GRID)  # rounded up
    parts = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]  # NumPy copies one into int64
    for axis in (1, 2):
        edges = np.arange(0, images.shape[axis], block)
        parts = [np.add.reduceat(part, edges, axis=axis, dtype=np.int64) for part in parts]
    sums, pixels = (array.reshape(len(images), -1) for array in (np.concatenate(parts).astype(np.float32), images))
    search = NearestNeighbors(radius=1.01 * block * most**0.5, algorithm="brute")  # 1 % more, for rounding
    group = np.arange(len(images))
    for start in range(0, len(images), CHUNK):
        near = search.fit(sums[start:]).radius_neighbors_graph(sums[start : start + CHUNK])
        left, right = np.stack(near.nonzero()) + start
        # dark images may all be near each other: what is joined already is not compared
        while (is_open := group[left] != group[right]).any():
            rows = np.unique(left[is_open])[: max(1, BYTES // size)]
            columns = np.unique(right[is_open & np.isin(left, rows)])[: max(1, BYTES // size)]
            i, j = np.nonzero(euclidean_distances(pixels[rows], pixels[columns], squared=True) <= most)
            graph = coo_array((np.ones(len(i)), (group[rows[i]], group[columns[j]])), (len(images), len(images)))
            group = connected_components(graph, directed=False)[1][group]
            is_open &= ~(np.isin(left, rows) & np.isin(right, columns))
            left, right = left[is_open], right[is_open]
    return group.astype(np.int64)[copy_of]
