"""The kernels of lstmx._core.rows against NumPy's indexing: every type, stride and order of lengths."""

import tracemalloc

import numpy as np
import pytest
from layouts import moved
from numpy.testing import assert_array_equal

from lstmx._core import rows as core_rows
from lstmx.functional.context import SequenceContext, gather
from lstmx.functional.read import Sequences

LENGTHS = {
    "none": [],
    "one": [3],
    "empty": [0, 0],
    "equal": [4, 4, 4],
    "falling": [5, 5, 2, 1, 0],
    "rising": [0, 1, 1, 2, 7],
    "mixed": [2, 6, 0, 6, 2, 1, 6],
    "many": np.random.default_rng(0).integers(0, 40, size=70).tolist(),
}


def by_numpy(lengths):
    """(order, offsets) by sorting."""
    order = np.argsort(-lengths, kind="stable")
    running = [(lengths > t).sum() for t in range(lengths.max(initial=0))]
    return order, np.concatenate([[0], np.cumsum(running)]).astype(np.intp)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_layout_is_a_stable_sort_by_falling_length(lengths):
    lengths = np.array(lengths, np.int64)
    before = lengths.copy()
    order, offsets = core_rows.by_length(lengths)
    want, want_offsets = by_numpy(lengths)
    assert (order is None) == (want.tolist() == list(range(len(lengths))))
    assert_array_equal(np.arange(len(lengths)) if order is None else order, want)
    assert_array_equal(offsets, want_offsets)
    assert offsets.dtype == np.intp and offsets[-1] == lengths.sum()
    assert_array_equal(lengths, before)


FAST = [("f4", "f4"), ("f4", "f8"), ("f8", "f4"), ("f8", "f8"), ("i8", "i8")]
BY_NUMPY = [("i2", "f4"), ("i8", "f8"), ("u1", "f8"), ("f2", "f4"), ("?", "f4")]


def forms(dtype, shape, seed=0):
    """Arrays of one type in every memory layout."""
    x = np.random.default_rng(seed).integers(-100, 100, size=shape).astype(dtype)
    room = np.zeros((shape[0], 2 * shape[1], 3 * shape[2]), dtype)
    room[:, ::2, ::3] = x
    locked = x.copy()
    locked.flags.writeable = False
    yield "plain", x
    yield "strided", room[:, ::2, ::3]
    yield "backwards", x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    yield "fortran", np.asfortranarray(x)
    yield "read-only", locked
    yield "byte-swapped", x.astype(x.dtype.newbyteorder())
    yield "unaligned", moved(x)


@pytest.mark.parametrize("features", [1, 2, 3, 4, 5, 8, 16, 17, 67])
@pytest.mark.parametrize(("dtype", "to"), FAST + BY_NUMPY)
@pytest.mark.parametrize("lengths", [LENGTHS[name] for name in ("equal", "mixed")], ids=["equal", "mixed"])
def test_gathered_rows_are_those_of_indexing(lengths, dtype, to, features):
    lengths = np.array(lengths, np.int64)
    chosen = np.random.default_rng(1).integers(9, size=len(lengths))
    context = SequenceContext(lengths, int(lengths.max()))
    row, time = context.places
    for name, x in forms(dtype, (9, int(lengths.max()), features)):
        before = x.copy()
        found = gather(x, context, context.sort(chosen), dtype=np.dtype(to))
        assert found.dtype == np.dtype(to) and found.flags.c_contiguous
        assert_array_equal(found, x[chosen[row], time].astype(to), err_msg=name)
        assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "i4"])
def test_starts_say_where_each_sequence_begins(dtype):
    lengths = np.array(LENGTHS["mixed"], np.int64)
    x = np.arange(200).reshape(100, 2).astype(dtype)
    start = np.array([90, 3, 0, 20, 50, 99, 94])
    context = SequenceContext(lengths, 6)
    row, time = context.places
    found = gather(x[None], context, start=context.sort(start))
    assert_array_equal(found, x[start[row] + time])


def test_integers_keep_every_bit():
    """They go through the kernel as float64: a NaN among their bits must not change."""
    x = np.array([[2**63 - 1, -(2**63), 0x7FF0000000000001, -1, 0]])
    context = SequenceContext(np.array([5]), 5)
    assert_array_equal(gather(x, context), x[0])


def test_values_beyond_float32_become_infinite_without_a_warning():
    x = np.array([[[1e300], [-1e300], [np.nan], [1e-300]]])
    context = SequenceContext(np.array([4]), 4)
    assert_array_equal(
        gather(x, context, dtype=np.dtype(np.float32))[:, 0], np.array([np.inf, -np.inf, np.nan, 0], np.float32)
    )


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2)])
def test_nothing_gives_no_rows(shape):
    context = SequenceContext(np.full(shape[0], shape[1], np.int64), shape[1])
    assert gather(np.zeros(shape), context, np.arange(shape[0])).shape == (0, 2)


def test_windows_are_read_where_they_are():
    """Of overlapping windows only the batch is copied, however much the whole would take."""
    series = np.random.default_rng(0).normal(size=(60_000, 2)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(series, 1000, axis=0).swapaxes(1, 2)
    assert windows.size * 4 > 4e8
    inputs = Sequences(windows, dtype=np.dtype(np.float32))
    chosen = np.array([5, 40_000, 17])
    tracemalloc.start()
    try:
        rows = inputs.rows_of(chosen, inputs.context(chosen))
        assert tracemalloc.get_traced_memory()[1] < 10 * rows.nbytes
    finally:
        tracemalloc.stop()
    assert_array_equal(rows.reshape(1000, 3, 2).swapaxes(0, 1), windows[chosen])


def test_batches_of_sequences_of_one_length_share_their_context():
    alike, other = Sequences(np.zeros((10, 4, 1))), Sequences(np.zeros((10, 4, 1)), np.array([4] * 9 + [3]))
    three, four = np.arange(3), np.arange(4)
    assert alike.context(three) is alike.context(three + 5) and alike.context(four).batch == 4
    assert alike.context(three).batch == 3
    assert other.context(three) is not other.context(three + 5)


@pytest.mark.parametrize("features", [1, 3, 16, 33])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_sums_over_steps_add_in_the_order_of_time(lengths, dtype, features):
    lengths = np.array(lengths, np.int64)
    context = SequenceContext(lengths, 0)
    rows = np.random.default_rng(2).normal(size=(context.rows, features)).astype(dtype)
    want = np.zeros((len(lengths), features), dtype)
    for n, t in zip(*context.sorted_places, strict=True):
        want[n] += rows[context.offsets[t] + n]
    found = np.full_like(want, np.nan)
    core_rows.sum_steps(rows, context.offsets, found)
    assert_array_equal(found, want)
    back = np.full_like(rows, np.nan)
    core_rows.spread_steps(want, context.offsets, back)
    assert_array_equal(back, want[context.sorted_places[0]])
