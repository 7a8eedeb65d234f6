"""Ragged batches without padding: the packed form that everything inside works on.

A batch is sorted by length, longest first. At step t the sequences still running are the first n_t, and their rows
stand together: rows offsets[t] to offsets[t + 1] of an (S, features) array, S = sum of lengths. Layers without time
(Dense, Dropout, Embedding) see rows; an LSTM sees one contiguous block a step; padding does not exist, so its
content cannot matter.
"""

import itertools

import numpy as np

from lstmx._core import rows as core_rows
from lstmx.functional import allocate


class SequenceContext:
    """The shape of a batch, passed along with packed rows from layer to layer.

    Attributes
    ----------
    batch, steps : int
        N, and the T that padded results get; by default that of the longest.
    lengths : ndarray of int64 (N,)
        In the caller's order.
    order : ndarray of int64 (N,) or None
        order[k] is the caller's index of the k-th longest sequence; None if that is k.
    offsets : ndarray of intp (max(lengths) + 1,)
        First packed row of each step.
    form : {"array", "list", "single"}
        What the caller gave, and gets back: (N, T, F), a list of (T_n, F), or (T, F).
    directions : int
        Of the LSTM whose outputs the rows are; `FinalState` asks.
    """

    directions = 1

    def __init__(self, lengths, steps=None, form="array"):
        self.lengths = lengths
        self.batch = len(lengths)
        self.form = form
        self.order, self.offsets = core_rows.by_length(np.ascontiguousarray(lengths, np.int64))
        self.steps = len(self.offsets) - 1 if steps is None else steps
        self.uniform = int(self.offsets[-1]) == self.batch * (len(self.offsets) - 1)
        self._found, self._twin = {}, None  # what was asked for once, by name; the same with other directions

    @classmethod
    def step(cls, batch):
        """One step of so many sequences."""
        return cls(np.ones(batch, np.int64), 1)

    def of(self, directions):
        """The context of the outputs of an LSTM of so many directions: the same batch."""
        if directions == self.directions:
            return self
        if self._twin is None:
            twin = object.__new__(SequenceContext)
            twin.__dict__.update(self.__dict__, directions=directions)
            self._twin = twin
        return self._twin

    @property
    def rows(self):
        """S, the number of packed rows."""
        return int(self.offsets[-1])

    @property
    def widest(self):
        """The most rows of one step."""
        return int(self.offsets[1]) if len(self.offsets) > 1 else 0

    @property
    def places(self):
        """(row, time), each (S,): the caller's sequence and the time step of every packed row."""
        if "places" not in self._found:
            row, time = self.sorted_places
            self._found["places"] = (row if self.order is None else self.order[row].astype(np.intp)), time
        return self._found["places"]

    @property
    def sorted_places(self):
        """As `places`, with the sequence's index in sorted order."""
        running = np.diff(self.offsets)
        time = np.repeat(np.arange(len(running), dtype=np.intp), running)
        return np.arange(self.rows, dtype=np.intp) - self.offsets[time], time

    def after(self, before, final, reverse):
        """State after each step (S, H), from the state `before` each step (S, H) and the `final` one (N, H), sorted."""
        row, time = self.sorted_places
        following = time - 1 if reverse else time + 1
        running = np.append(np.diff(self.offsets), 0)  # running[-1] is 0, before the first and after the last step
        goes_on = row < running[following]
        out = final[row]
        out[goes_on] = before[self.offsets[following[goes_on]] + row[goes_on]]
        return out

    @property
    def last_rows(self):
        """(rows, sequences): the packed row of each non-empty sequence's last step, and its index in sorted order."""
        if "last rows" not in self._found:
            lengths = self.sort(self.lengths)
            sequences = np.flatnonzero(lengths)
            self._found["last rows"] = self.offsets[lengths[sequences] - 1] + sequences, sequences
        return self._found["last rows"]

    def sort(self, per_sequence):
        """Rows of an (N, ...) array from the caller's order to ours."""
        return per_sequence if self.order is None else per_sequence[self.order]

    def pack(self, x, own=False, dtype=None):
        """Packed rows (S, ...) of sequences that have the form of this context.

        `own`: in memory of their own, else perhaps where x is. `dtype`: of the rows, by default that of x.
        """
        if self.form == "list":
            starts = np.cumsum(self.lengths) - self.lengths
            return gather(np.concatenate(x)[None], self, start=self.sort(starts), dtype=dtype)
        if self.form == "single":
            x = x[None]
        if self.batch != 1:
            every = np.arange(self.batch, dtype=np.intp) if self.order is None else self.order
            return gather(x, self, every, dtype=dtype)
        rows = x[0, : len(self.offsets) - 1]
        dtype, own = rows.dtype if dtype is None else dtype, own or not rows.flags.aligned
        if rows.dtype == dtype:
            return rows.astype(dtype, "C", copy=own)
        with np.errstate(over="ignore"):  # beyond float32: infinite, as in `gather`
            return rows.astype(dtype, "C")

    def _scatter(self, rows, sequence, start, out):
        """Packed rows (S, ...) to their places in out (N, T, ...)."""
        if sequence is None and start is None:
            sequence = np.arange(self.batch, dtype=np.intp)
        if (
            rows.dtype.kind == "f"
            and rows.itemsize in (4, 8)
            and rows.ndim == 2
            and out.flags.c_contiguous
            and rows.size
        ):
            core_rows.scatter(np.ascontiguousarray(rows), sequence, start, self.offsets, out)
        else:
            row, time = self.sorted_places
            out[0 if sequence is None else sequence[row], time if start is None else start[row] + time] = rows

    def unpack(self, rows):
        """What the caller gets: (N, T, ...) with 0 past each end, a list, or (T, ...)."""
        if self.form == "list":
            starts = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.intp)
            out = allocate.empty(rows.shape, rows.dtype)
            self._scatter(rows, None, self.sort(starts[:-1]), out[None])
            return [out[a:b] for a, b in itertools.pairwise(starts.tolist())]
        longest = len(self.offsets) - 1
        out = allocate.empty((self.batch, self.steps, *rows.shape[1:]), rows.dtype)
        if self.uniform and longest == self.steps:
            out[:] = rows.reshape(self.steps, self.batch, *rows.shape[1:]).swapaxes(0, 1)
        else:
            out.fill(0)
            self._scatter(rows, self.order, None, out)
        return out[0] if self.form == "single" else out


def gather(x, context, sequence=None, start=None, dtype=None):
    """Packed rows of the batch whose k-th longest sequence is x[sequence[k], start[k]:], by default 0 for all.

    Parameters
    ----------
    x : ndarray (N, T, ...), of any strides: the one copy is made here
    context : SequenceContext
    sequence, start : ndarray of intp (n,), optional
    dtype : numpy.dtype, optional
        Of the rows; by default that of x.
    """
    dtype = x.dtype if dtype is None else dtype
    floats = x.dtype.kind == "f" and x.itemsize in (4, 8) and dtype.kind == "f"
    if x.ndim in (2, 3) and x.dtype.isnative and x.flags.aligned and (floats or (x.dtype == dtype and x.itemsize == 8)):
        rows = allocate.aligned((context.rows, *x.shape[2:]), dtype, reuse=True)
        view, out = (x, rows) if x.ndim == 3 else (x[:, :, None], rows[:, None])
        if not floats:  # the kernel copies any 8 bytes
            view, out = view.view(np.float64), out.view(np.float64)
        core_rows.gather(view, sequence, start, context.offsets, out)
        return rows
    row, time = context.sorted_places
    time = time if start is None else start[row] + time
    with np.errstate(over="ignore"):  # beyond float32: infinite, which training reports
        return np.ascontiguousarray(x[0 if sequence is None else sequence[row], time], dtype)


class PooledContext:
    """The shape of a batch after pooling: one row per sequence, in the order of the sequence context it came from."""

    def __init__(self, sequences):
        self.sequences = sequences
        self.batch = self.rows = sequences.batch

    @property
    def places(self):
        """(row, time), each (N,), as for sequences; the time is 0."""
        order = self.sequences.order
        row = np.arange(self.batch, dtype=np.intp) if order is None else order.astype(np.intp)
        return row, np.zeros(self.batch, np.intp)

    def pack(self, per_sequence, own=False):
        """Rows in our order of an (N, ...) array in the caller's, or of (...) for one sequence; `own` as elsewhere."""
        x = per_sequence[None] if self.sequences.form == "single" else per_sequence
        return self.sequences.sort(x).astype(x.dtype, "C", copy=own)

    def unpack(self, rows):
        """(N, ...) in the caller's order, a copy; without N if the caller gave one sequence."""
        out = np.empty_like(rows)
        out[slice(None) if self.sequences.order is None else self.sequences.order] = rows
        return out[0] if self.sequences.form == "single" else out


class Windows:
    """Packed rows of overlapping windows, left where they lie: row n of step t is row t + n of a series.

    An LSTM of the tile engine sums W_ih x once for every row of the series, not once for every window that has it.

    Parameters
    ----------
    series : ndarray (N + T - 1, I), C-contiguous
    batch, steps : int
        N, T.
    """

    def __init__(self, series, batch, steps):
        self.series = series
        self.dtype, self.itemsize = series.dtype, series.itemsize
        self.shape = batch * steps, series.shape[1]

    def __len__(self):
        return self.shape[0]

    @classmethod
    def of(cls, x, dtype):
        """The windows of which x (N, T, I) is a view, in `dtype`; None if it is something else."""
        if x.ndim != 3 or x.dtype.kind != "f" or not x.dtype.isnative or 0 in x.shape or not x.flags.aligned:
            return None
        row, size = x.shape[2] * x.itemsize, x.itemsize
        if x.strides[0] != row or x.strides[1] != row or (x.shape[2] > 1 and x.strides[2] != size):
            return None
        rows = x.shape[0] + x.shape[1] - 1
        series = np.lib.stride_tricks.as_strided(x, (rows, x.shape[2]), (row, size), writeable=False)
        with np.errstate(over="ignore"):
            return cls(np.ascontiguousarray(series, dtype), *x.shape[:2])
