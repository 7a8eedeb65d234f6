"""Batches into packed rows, and sums over their steps; lstmx.functional.context says what packed rows are.

Nothing here computes more than a sum in the order of time, so there is one version for every instruction set. The
arguments are checked by the caller.
"""

import numpy as np

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from lstmx._core.core cimport let_go, LONG, PyThreadState, real, take_back

ctypedef fused source:
    float
    double


def by_length(const int64_t[::1] lengths):
    """(order, offsets) of sequences of these lengths (N,), longest first, equally long ones in the order given.

    order (N,) is None if that is the order given; offsets (max(lengths) + 1,) is the first packed row of each step.
    """
    cdef Py_ssize_t n, t, batch = lengths.shape[0], longest = 0, running, before
    cdef bint sorted = True
    for n in range(batch):
        longest = max(longest, lengths[n])
        sorted = sorted and (n == 0 or lengths[n] <= lengths[n - 1])
    offsets = np.zeros(longest + 1, np.intp)
    cdef Py_ssize_t[::1] at = offsets
    for n in range(batch):
        at[lengths[n]] += 1         # how many have each length
    if sorted:
        order = None
    else:
        order = np.empty(batch, np.intp)
        _sort(lengths, at.copy(), order)
    running, before = batch - at[0], 0
    at[0] = 0
    for t in range(1, longest + 1):
        before += running           # the rows of all steps before t
        running -= at[t]
        at[t] = before
    return order, offsets


cdef int _sort(const int64_t[::1] lengths, Py_ssize_t[::1] place, Py_ssize_t[::1] order) except -1:
    """A stable counting sort; place[length] is how many have it, and becomes where the next of them stands."""
    cdef Py_ssize_t n, longer = 0, count
    for n in range(place.shape[0] - 1, -1, -1):
        count = place[n]
        place[n] = longer
        longer += count
    for n in range(lengths.shape[0]):
        order[place[lengths[n]]] = n
        place[lengths[n]] += 1
    return 0


cdef inline void copy_row(const char *row, Py_ssize_t apart, Py_ssize_t features, source *kind, real *to) noexcept nogil:
    """One row of features that lie `apart` bytes from each other; `kind` only says their type."""
    cdef const source *x = <const source *>row
    cdef Py_ssize_t j
    if apart != sizeof(source):
        for j in range(features):
            to[j] = <real>(<const source *>(row + j * apart))[0]
    elif features == 1:
        to[0] = <real>x[0]
    elif features == 4:     # short rows cost more in the loop than in the copy
        to[0], to[1], to[2], to[3] = <real>x[0], <real>x[1], <real>x[2], <real>x[3]
    else:
        for j in range(features):
            to[j] = <real>x[j]


def gather(const source[:, :, :] x, const Py_ssize_t[::1] sequence, const Py_ssize_t[::1] start,
           const Py_ssize_t[::1] offsets, real[:, ::1] out):
    """Packed rows out (S, F) of sequences in any array, converted on the way. Other types of 8 bytes go through as float64.

    Parameters
    ----------
    x : (N, T, F), any strides  # IN
    sequence : (n,) or None  # IN, in packed order: the index into the first axis of x; None: 0 for all
    start : (n,) or None  # IN, the first step of each in the second axis; None: 0 for all
    offsets : the packed rows of each step
    """
    cdef Py_ssize_t steps = offsets.shape[0] - 1, features = out.shape[1]
    cdef Py_ssize_t along = x.strides[0], step = x.strides[1], apart = x.strides[2], k, t, n
    cdef const char *row
    if steps == 0 or features == 0:
        return
    n = offsets[1]
    cdef PyThreadState *saved = let_go(out.shape[0] * features > LONG)
    for k in range(n):
        row = <const char *>&x[0, 0, 0]
        if sequence is not None:
            row += sequence[k] * along
        if start is not None:
            row += start[k] * step
        while offsets[steps] - offsets[steps - 1] <= k:     # this one, and all that follow, are shorter
            steps -= 1
        for t in range(steps):
            copy_row(row, apart, features, <source *>NULL, &out[offsets[t] + k, 0])
            row += step
    take_back(saved)


def scatter(const real[:, ::1] rows, const Py_ssize_t[::1] sequence, const Py_ssize_t[::1] start,
            const Py_ssize_t[::1] offsets, real[:, :, ::1] out):
    """The way back: packed rows (S, F) to their places in out (N, T, F); what no row comes to stays as it is.

    Parameters
    ----------
    sequence, start, offsets : as in `gather`, for out
    """
    cdef Py_ssize_t steps = offsets.shape[0] - 1, features = rows.shape[1], k, t
    cdef real *to
    if steps == 0 or features == 0:
        return
    cdef PyThreadState *saved = let_go(rows.shape[0] * features > LONG)
    for k in range(offsets[1]):
        to = &out[0 if sequence is None else sequence[k], 0 if start is None else start[k], 0]
        while offsets[steps] - offsets[steps - 1] <= k:
            steps -= 1
        for t in range(steps):
            memcpy(to, &rows[offsets[t] + k, 0], features * sizeof(real))
            to += features
    take_back(saved)


def sum_steps(const real[:, ::1] rows, const Py_ssize_t[::1] offsets, real[:, ::1] out, bint add=False):
    """out (N, F) := [out +] the sum of each sequence's rows, added in the order of time."""
    cdef Py_ssize_t features = out.shape[1], t, j, count
    cdef real *total
    cdef const real *row
    if out.shape[0] == 0 or features == 0 or add and rows.shape[0] == 0:
        return
    total = &out[0, 0]
    cdef PyThreadState *saved = let_go(rows.shape[0] * features > LONG)
    if not add:
        memset(total, 0, out.shape[0] * features * sizeof(real))
    for t in range(offsets.shape[0] - 1):
        row = &rows[0, 0] + offsets[t] * features
        count = (offsets[t + 1] - offsets[t]) * features
        for j in range(count):
            total[j] += row[j]
    take_back(saved)


def spread_steps(const real[:, ::1] per_sequence, const Py_ssize_t[::1] offsets, real[:, ::1] rows):
    """rows (S, F) := at every step the row of its sequence in per_sequence (N, F)."""
    cdef Py_ssize_t features = rows.shape[1], t
    if rows.shape[0] == 0 or features == 0:
        return
    cdef PyThreadState *saved = let_go(rows.shape[0] * features > LONG)
    for t in range(offsets.shape[0] - 1):
        memcpy(&rows[0, 0] + offsets[t] * features, &per_sequence[0, 0],
               (offsets[t + 1] - offsets[t]) * features * sizeof(real))
    take_back(saved)
