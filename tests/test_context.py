"""Packed batches, by brute force: what stands where, and back again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstmx.functional.context import PooledContext, SequenceContext
from lstmx.functional.read import Sequences, sequences

FEATURES = 3
lists_of_lengths = st.lists(st.integers(0, 6), max_size=7)
quick = settings(deadline=None, max_examples=150, derandomize=True, database=None)


def padded_batch(lengths, steps):
    """(N, T, F) whose element [n, t, f] says where it stands; NaN on the padding."""
    n, t, f = np.meshgrid(np.arange(len(lengths)), np.arange(steps), np.arange(FEATURES), indexing="ij")
    x = 10_000.0 + 100 * n + 10 * t + f
    x[np.arange(steps) >= np.array(lengths, int).reshape(-1, 1)] = np.nan
    return x


def context_of(lengths, extra=0):
    return SequenceContext(np.array(lengths, np.int64), max(lengths, default=0) + extra)


def brute_force_places(lengths):
    """(row, time) in packed order: by step, within it the longest first, among equals in the caller's order."""
    order = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    return order, [(n, t) for t in range(max(lengths, default=0)) for n in order if t < lengths[n]]


@quick
@given(lists_of_lengths, st.integers(0, 2))
def test_offsets_order_and_places(lengths, extra):
    context = context_of(lengths, extra)
    order, places = brute_force_places(lengths)
    running = [sum(t < n for n in lengths) for t in range(max(lengths, default=0))]
    assert context.offsets.tolist() == [sum(running[:t]) for t in range(len(running) + 1)]
    assert context.offsets.dtype == np.intp
    assert context.rows == sum(lengths) and context.batch == len(lengths)
    assert context.widest == (running[0] if running else 0)
    assert context.uniform == (len(set(lengths)) <= 1)
    assert (list(range(len(lengths))) if context.order is None else context.order.tolist()) == order
    assert list(zip(*(a.tolist() for a in context.places), strict=True)) == places
    row, time = context.sorted_places
    assert [(order[k], t) for k, t in zip(row.tolist(), time.tolist(), strict=True)] == places
    assert all(a.dtype == np.intp for a in (*context.places, row, time))


@quick
@given(lists_of_lengths)
def test_an_order_is_kept_only_where_it_is_needed(lengths):
    needed = brute_force_places(lengths)[0] != list(range(len(lengths)))
    assert (context_of(lengths).order is not None) == needed


@quick
@given(lists_of_lengths)
def test_last_rows(lengths):
    context = context_of(lengths)
    order, places = brute_force_places(lengths)
    rows, sequences = context.last_rows
    found = {order[k]: places[row] for row, k in zip(rows.tolist(), sequences.tolist(), strict=True)}
    assert found == {n: (n, length - 1) for n, length in enumerate(lengths) if length}


@quick
@given(lists_of_lengths, st.booleans())
def test_the_state_after_each_step(lengths, reverse):
    # State s of sequence n is 100 n + s, s steps after its start in the order of reading.
    context = context_of(lengths)
    order, places = brute_force_places(lengths)
    done = [lengths[n] - 1 - t if reverse else t for n, t in places]
    before = np.array([[100 * n + s] for (n, _), s in zip(places, done, strict=True)], float).reshape(-1, 1)
    final = np.array([[100 * n + lengths[n]] for n in order], float).reshape(-1, 1)
    np.testing.assert_array_equal(context.after(before, final, reverse), before + 1)


@quick
@given(lists_of_lengths)
def test_sort(lengths):
    values = np.arange(2.0 * len(lengths)).reshape(-1, 2)
    np.testing.assert_array_equal(context_of(lengths).sort(values), values[brute_force_places(lengths)[0]])


def check_packed(rows, context, lengths):
    wanted = [[10_000 + 100 * n + 10 * t + f for f in range(FEATURES)] for n, t in brute_force_places(lengths)[1]]
    np.testing.assert_array_equal(rows, np.array(wanted, float).reshape(-1, FEATURES))
    assert rows.flags.c_contiguous and rows.shape == (context.rows, FEATURES)


@quick
@given(lists_of_lengths, st.integers(0, 2))
def test_an_array_is_packed_and_comes_back_with_zeros_on_the_padding(lengths, extra):
    steps = max(lengths, default=0) + extra
    x = padded_batch(lengths, steps)
    rows, context = sequences(x, FEATURES, np.dtype(float), lengths=lengths).all()
    check_packed(rows, context, lengths)
    assert context.form == "array" and context.steps == steps
    np.testing.assert_array_equal(context.unpack(rows), np.nan_to_num(x, nan=0.0))


@quick
@given(lists_of_lengths)
def test_a_list_is_packed_and_comes_back(lengths):
    x = padded_batch(lengths, max(lengths, default=0))
    arrays = [a[:n] for a, n in zip(x, lengths, strict=True)]
    rows, context = sequences(arrays, FEATURES, np.dtype(float), single=True).all()
    assert context.form == "list" and context.lengths.tolist() == lengths
    check_packed(rows, context, lengths)
    back = context.unpack(rows)
    assert isinstance(back, list) and len(back) == len(lengths)
    for found, wanted in zip(back, arrays, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_single_sequence_is_packed_and_comes_back(steps):
    x = padded_batch([steps], steps)[0]
    rows, context = sequences(x, FEATURES, np.dtype(float), single=True).all()
    assert context.form == "single" and context.batch == 1
    np.testing.assert_array_equal(rows, x)
    np.testing.assert_array_equal(context.unpack(rows), x)


@pytest.mark.parametrize("lengths", [[0, 3, 2], [2, 2, 2], [4, 2, 0]], ids=str)
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)], ids=str)
def test_rows_of_any_shape_and_type_are_packed(shape, lengths):
    rng = np.random.default_rng(0)
    for dtype in (np.int64, np.float32, bool):
        x = rng.integers(1, 100, (3, 4, *shape)).astype(dtype)
        rows, context = Sequences(x, np.array(lengths)).all()
        assert rows.shape == (context.rows, *shape) and rows.dtype == dtype
        np.testing.assert_array_equal(rows, [x[place] for place in brute_force_places(lengths)[1]])
        x[np.arange(4) >= np.array(lengths)[:, None]] = 0
        np.testing.assert_array_equal(context.unpack(rows), x)


@quick
@given(lists_of_lengths)
def test_packing_and_unpacking_change_neither_the_input_nor_the_rows(lengths):
    steps = max(lengths, default=0)
    x = np.nan_to_num(padded_batch(lengths, steps))
    kept = x.copy()
    rows, context = sequences(x, FEATURES, x.dtype, lengths=lengths).all(own=True)
    kept_rows = rows.copy()
    context.unpack(rows)[...] = -1
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(rows, kept_rows)


@quick
@given(lists_of_lengths)
def test_pooled_rows_come_back_in_the_order_of_the_caller(lengths):
    pooled = PooledContext(context_of(lengths))
    order, _ = brute_force_places(lengths)
    values = np.arange(2.0 * len(lengths)).reshape(-1, 2)
    rows = pooled.pack(values)
    np.testing.assert_array_equal(rows, values[order])
    np.testing.assert_array_equal(pooled.unpack(rows), values)
    row, time = pooled.places
    assert row.tolist() == order and not time.any() and pooled.rows == pooled.batch == len(lengths)


def test_the_pooled_row_of_a_single_sequence_comes_back_without_its_axis():
    _, context = sequences(np.ones((4, FEATURES)), FEATURES, np.dtype(float), single=True).all()
    np.testing.assert_array_equal(PooledContext(context).unpack(np.array([[1.0, 2.0]])), [1.0, 2.0])


def test_without_lengths_all_rows_run_to_the_end():
    x = padded_batch([4, 4], 4)
    rows, context = sequences(x, FEATURES, np.dtype(float), single=True).all()
    assert context.uniform and context.order is None and context.lengths.tolist() == [4, 4]
    check_packed(rows, context, [4, 4])
