"""Images that hardly differ: the same photograph, cut, scaled or retouched a little differently."""

import math

from common import release

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

LIMIT = 10  # of 255: root mean square difference of the pixels
GRID = 8  # at most so many blocks in each direction, by whose sums pairs are searched
CHUNK = 250  # images at a time
BYTES = 2**26  # of pairs of images at a time


def groups(images: np.ndarray) -> np.ndarray:
    """(N,) int64: one number for images within `LIMIT` of each other, directly or through others.

    Sums over blocks of n pixels differ by at most √n times the root of the sum of squares (Cauchy and Schwarz), so
    pairs whose sums are farther apart are left out; the rest is computed in integers, the same on any processor.

    Args:
        images: (N, H, W, C) uint8.
    """
    if not len(images):
        return np.empty(0, np.int64)
    _, first, copy_of = np.unique(release.hashes(images), return_index=True, return_inverse=True)
    images, size = images[first], math.prod(images.shape[1:])
    most = LIMIT**2 * size  # of the sum of squares
    block = -(-max(images.shape[1:3]) // GRID)  # rounded up
    sums: np.ndarray = images
    for axis in (1, 2):
        sums = np.add.reduceat(sums, np.arange(0, images.shape[axis], block), axis=axis, dtype=np.int64)
    sums = sums.reshape(len(images), -1).astype(np.float32)
    search = NearestNeighbors(radius=1.01 * block * most**0.5, algorithm="brute")  # 1 % more, for rounding
    group = np.arange(len(images))
    for start in range(0, len(images), CHUNK):
        near = search.fit(sums[start:]).radius_neighbors_graph(sums[start : start + CHUNK])
        candidates = np.stack(near.nonzero(), axis=1) + start
        # dark images may all be near each other: what is joined already is not compared, nor kept
        while len(candidates := candidates[np.diff(group[candidates])[:, 0] != 0]):
            pairs, candidates = np.split(candidates, [max(1, BYTES // size)])
            differences = images[pairs[:, 0]].astype(np.int32) - images[pairs[:, 1]]
            joined = group[pairs[(differences**2).sum((1, 2, 3), dtype=np.int64) <= most]]
            graph = coo_array((np.ones(len(joined)), joined.T), (len(images), len(images)))
            group = connected_components(graph, directed=False)[1][group]
    return group.astype(np.int64)[copy_of]
