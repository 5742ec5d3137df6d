"""One-dimensional k-means, deterministic, from a start that is nearly optimal.

In one dimension a cluster is a run of neighbours among the sorted values, and the best division of
the first j values into k runs ends with the best division of some first i values into k − 1. This
dynamic programme (Bellman 1973) is exact. It runs on blocks of neighbouring values, which are
single values if there are few. Lloyd's algorithm (1982) then moves the ends of the clusters from
ends of blocks to where single values belong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_BLOCKS = 4096  # up to as many distinct values are blocks of their own

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Inertia = Callable[[Indices, Indices], Floats]


def kmeans_1d(values: Tensor, clusters: int, iterations: int = 300) -> Tensor:
    """Return the centres of one-dimensional k-means. Deterministic.

    The sum of squared distances to the nearest centre is the least possible for up to 4,096
    distinct values. For more it is within 1 % of it, but for extremely heavy tails.

    Args:
        values: Floating-point tensor of any shape; the computation is in float64.
        clusters: Number of centres.
        iterations: Largest number of steps of Lloyd's algorithm from the start, which is close to
            the optimum; fewer are taken if no centre moves.

    Returns:
        Centres in ascending order, (clusters,), float64. If there are fewer distinct values than
        clusters, they are these values and others evenly spaced between the least and the largest.

    Example:
        >>> kmeans_1d(torch.tensor([0.0, 1.0, 9.0, 11.0]), clusters=2).tolist()
        [0.5, 10.0]
    """
    ordered = values.detach().double().flatten().sort().values
    sums = _running_sums(ordered)
    ends = _block_ends(ordered, max(_BLOCKS, 8 * clusters))
    ends = _merge_blocks(ordered, ends, clusters)
    centres = sums[ends].diff() / ends.diff()
    missing = clusters - len(centres)
    between = torch.arange(1, missing + 1).to(ordered) / (missing + 1)
    centres = torch.cat([centres, ordered[0].lerp(ordered[-1], between)]).sort().values
    for _ in range(iterations):
        inner = torch.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        ends = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(ordered))])
        count = ends.diff()
        moved = torch.where(count > 0, sums[ends].diff() / count.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _running_sums(x: Tensor) -> Tensor:
    """Return the sums of the first 0, 1, … numbers."""
    return torch.cat([x.new_zeros(1), x.cumsum(0)])


def _block_ends(ordered: Tensor, blocks: int) -> Tensor:
    """Divide sorted values into blocks of neighbours, so small that clusters may end with them.

    Up to ``blocks`` distinct values are blocks of their own. Otherwise, of c values on an interval
    of length w, the best quantizer has a share of centres there in proportion to c^⅓ w^⅔ (Panter
    and Dite 1951). Most blocks are shared out by this rule; the others have equal numbers of
    values.

    Returns:
        Numbers of values up to the ends of blocks, ascending, from 0.
    """
    first = torch.cat([ordered.new_ones(1, dtype=torch.bool), ordered.diff() > 0])
    distinct = first.nonzero().flatten()
    last = distinct.new_full((1,), len(ordered))
    if len(distinct) <= blocks:
        return torch.cat([distinct, last])
    steps = torch.arange(1, blocks, device=ordered.device)
    even = torch.searchsorted(ordered, ordered[steps * len(ordered) // blocks])
    width = (ordered[-1] - ordered[0]) / blocks
    fine = torch.cat([even, torch.searchsorted(ordered, ordered[0] + width * steps)])
    fine = torch.cat([fine.new_zeros(1), fine, last]).unique()
    edges = torch.cat([ordered[fine[:-1]], ordered[-1:]])
    needed = (fine.diff() * edges.diff().square()).pow(1 / 3).cumsum(0)
    chosen = fine[1:][torch.searchsorted(needed, needed[-1] * steps / blocks)]
    return torch.cat([fine[:1], chosen, even[::4], last]).unique()


def _merge_blocks(ordered: Tensor, ends: Tensor, clusters: int) -> Tensor:
    """Merge blocks of sorted values into clusters of least inertia.

    Returns:
        Numbers of values up to the ends of clusters, ascending, from 0. There are fewer clusters
        if there are fewer blocks.
    """
    if len(ends) - 1 <= clusters:
        return ends
    centred = ordered - ordered.mean()  # so that differences of sums keep their digits
    count: Floats = ends.double().cpu().numpy()
    total: Floats = _running_sums(centred)[ends].cpu().numpy()
    square: Floats = _running_sums(centred.square())[ends].cpu().numpy()

    def inertia(i: Indices, j: Indices) -> Floats:
        """Return that of blocks i to j − 1."""
        values = np.maximum(count[j] - count[i], 1)
        found: Floats = square[j] - square[i] - (total[j] - total[i]) ** 2 / values
        return found

    every = np.arange(len(count))
    best, splits = inertia(np.zeros_like(every), every), []
    for _ in range(clusters - 1):
        best, split = _with_one_cluster_more(best, inertia)
        splits.append(split)
    chosen = [len(count) - 1]
    for split in reversed(splits):
        chosen.append(int(split[chosen[-1]]))
    return ends[torch.tensor([0, *chosen], device=ends.device).unique()]


def _with_one_cluster_more(best: Floats, inertia: Inertia) -> tuple[Floats, Indices]:
    """Divide the first j blocks, for every j, into a number of clusters that is one larger.

    The start of the last cluster never moves left as j grows. It is therefore found for the middle
    j first, and then for the middles of both halves, between the starts of their neighbours.

    Args:
        best: Least inertia of the first j blocks in the smaller number of clusters, (blocks + 1,).
        inertia: Returns the inertia of blocks i to j − 1 in one cluster.

    Returns:
        Least inertia of the first j blocks, and the first block of their last cluster.
    """
    size = len(best)
    found, start = np.empty_like(best), np.zeros(size + 2, dtype=np.int64)
    start[-1] = size - 1  # start[j + 1] is that of j; neighbours of the first and the last j
    stride = 1 << size.bit_length()
    while stride > 1:
        stride, j = stride // 2, np.arange(stride // 2 - 1, size, stride)
        low, high = start[j - stride + 1], start[np.minimum(j + stride, size) + 1]
        tried = np.minimum(high, j) - low + 1
        offset = tried.cumsum() - tried
        i = np.arange(tried.sum()) - np.repeat(offset - low, tried)
        sums = best[i] + inertia(i, np.repeat(j, tried))
        found[j] = np.minimum.reduceat(sums, offset)
        hits = np.flatnonzero(sums == np.repeat(found[j], tried))
        start[j + 1] = i[hits[np.searchsorted(hits, offset)]]
    return found, start[1:-1]
