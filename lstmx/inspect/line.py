"""Mean gradients on straight lines, with more points where a function jumps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lstmx._types import Array


NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)
NODES, WEIGHTS = (1 + NODES) / 2, WEIGHTS / 2  # on the line from 0 to 1; the second is its middle
FIRST = 16  # intervals to begin with
TOGETHER = 2**24  # gradients of inputs that are kept at once


def mean_gradients(run: Callable[..., Any], away: Array, ends: Sequence[Array], tolerance: Array, most: int) -> Array:
    """The mean gradients on the lines of N sequences.

    Each line is cut into intervals. What an interval leaves unexplained is known: by how much the function rises from
    one end to the other, less the integral of the gradient. Those that leave most are halved, until what all leave,
    without regard to signs, is within the tolerance.

    Parameters
    ----------
    run : callable ``(chosen (M,), at (M,), keep) -> (values (M,), gradients (M, T, I) or None)``
        The function of sequence ``chosen[k]`` at the share ``at[k]`` of its line; gradients with `keep`.
    away : ndarray (N, T, I)
        From one end of each line to the other.
    ends : pair of ndarray (N,)
        The function there.
    tolerance : ndarray (N,)
        What may stay unexplained.
    most : int
        Points on a line.

    Returns
    -------
    ndarray (N, T, I)
    """
    out = np.zeros(away.shape)
    size = int(np.clip(TOGETHER // max(1, FIRST * away[0].size), 1, 32)) if len(away) else 1
    for first in range(0, len(away), size):
        group = np.arange(first, min(first + size, len(away)))
        _add_means(run, away, ends, tolerance.copy(), most, group, out)
    return out


def _add_means(
    run: Callable[..., Any], away: Array, ends: Sequence[Array], left: Array, most: int, group: Array, out: Array
) -> None:
    """Those of the sequences `group`; `left` (N,) is what may still stay unexplained."""
    edges = np.linspace(0, 1, FIRST + 1)
    inner = run(np.repeat(group, FIRST - 1), np.tile(edges[1:-1], len(group)), False)[0].reshape(len(group), -1)
    values = np.column_stack([ends[0][group], inner, ends[1][group]])
    # Of each interval: the sequence, both ends, and the function at both.
    owner, low, high = np.repeat(group, FIRST), np.tile(edges[:-1], len(group)), np.tile(edges[1:], len(group))
    before, after = values[:, :-1].ravel(), values[:, 1:].ravel()
    points = np.full(len(away), FIRST * len(NODES))
    while len(owner):
        at = low[:, None] + (high - low)[:, None] * NODES
        values, gradients = run(np.repeat(owner, len(NODES)), at.ravel(), True)
        gradients = gradients.reshape(len(owner), len(NODES), *away.shape[1:])
        means = np.einsum("knti,n,k->kti", gradients, WEIGHTS, high - low)
        error = np.abs(after - before - np.einsum("kti,kti->k", means, away[owner]))
        halved = np.zeros(len(owner), bool)
        for n in np.unique(owner):
            own = np.flatnonzero(owner == n)
            own = own[np.argsort(error[own], kind="stable")]
            good = np.searchsorted(np.cumsum(error[own]), left[n] / 2, "right")
            room = max(0, most - points[n]) // (2 * len(NODES))
            worst = own[max(good, len(own) - room) :]
            halved[worst] = True
            left[n] -= error[own[: len(own) - len(worst)]].sum()
            points[n] += 2 * len(NODES) * len(worst)
        np.add.at(out, owner[~halved], means[~halved])
        middle, value = at[halved, 1], values.reshape(at.shape)[halved, 1]
        owner, low, high = np.repeat(owner[halved], 2), _pairs(low[halved], middle), _pairs(middle, high[halved])
        before, after = _pairs(before[halved], value), _pairs(value, after[halved])


def _pairs(first: Array, second: Array) -> Array:
    return np.column_stack([first, second]).ravel()
