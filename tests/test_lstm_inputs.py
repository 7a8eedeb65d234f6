"""lstmx.LSTM: inputs of every type and memory layout."""

import numpy as np
import pytest
from layouts import moved
from lstm_cases import (
    BATCHES,
    DTYPES,
    LENGTHS,
    assert_close,
    assert_equal,
    assert_same,
    dtypes,
    everything,
    inputs,
    kinds,
    make,
)
from tolerances import PRECISION

from lstmx import LSTM

# Types


@pytest.mark.parametrize("given", DTYPES)
@kinds
@dtypes
def test_a_model_computes_in_its_own_type_whatever_it_is_given(dtype, num_layers, bidirectional, given):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional, dtype=dtype)
    x, state, dy, dstate = inputs(lstm.astype(given), 5, 7)
    found = everything(lstm, x, state, dy, dstate, lengths=LENGTHS)
    assert {value.dtype.name for value in found.values()} == {dtype}
    y, (h_n, c_n) = lstm(x, state, lengths=LENGTHS)
    assert y.dtype == h_n.dtype == c_n.dtype == dtype
    trace = lstm.trace(x, state, lengths=LENGTHS)
    assert {getattr(trace, name)[num_layers - 1, 0].dtype.name for name in "ifgoch"} == {dtype}
    if not bidirectional:
        y_t, (h, c) = lstm.step(x[:, 0], state)
        assert y_t.dtype == h.dtype == c.dtype == dtype
    assert {p.dtype.name for p in lstm.parameters().values()} == {dtype}


@kinds
def test_float32_and_float64_models_agree(num_layers, bidirectional):
    double = make(3, 8, num_layers, bidirectional=bidirectional)
    arrays = inputs(double, 5, 7)
    wanted = everything(double, *arrays, lengths=LENGTHS)
    found = everything(double.astype("float32"), *arrays, lengths=LENGTHS)
    assert_close(found, wanted, **PRECISION)
    assert (found["y"] != wanted["y"]).any()


# Inputs of every kind


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def every_second(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 99, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def every_second_row(a):
    wide = np.full((2 * len(a), *a.shape[1:]), 99, a.dtype)
    wide[::2] = a
    return wide[::2]


def backwards(a):
    flipped = (slice(None, None, -1),) * a.ndim
    return a[flipped].copy()[flipped]


def byte_swapped(a):
    return a.astype(a.dtype.newbyteorder())


def subclassed(a):
    return a.view(type("Sub", (np.ndarray,), {}))


VIEWS = [read_only, every_second, every_second_row, backwards, np.asfortranarray, byte_swapped, moved, subclassed]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("N", "T"), BATCHES)
@dtypes
def test_any_view_gives_the_bits_of_the_plain_array(dtype, N, T, view):
    lstm = make(3, 8, 2, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, N, T)
    seen = [view(x), tuple(map(view, state)), view(dy), tuple(map(view, dstate))]
    assert_equal(everything(lstm, *seen), everything(lstm, x, state, dy, dstate))
    assert_same(lstm(seen[0], seen[1])[0], lstm(x, state)[0])
    assert_same(lstm.step(view(x[:, 0]), seen[1])[0], lstm.step(x[:, 0], state)[0])
    if N > 1:
        lengths = view(np.array([T, 0, 1]))
        ragged, plain = (everything(lstm, *a, lengths=lengths) for a in (seen, (x, state, dy, dstate)))
        assert_equal(ragged, plain)
        listed = lstm([view(a) for a in x])[0]
        assert_same(np.stack(listed), np.stack(lstm(list(x))[0]))
    assert_same(lstm(view(x[0]))[0], lstm(x[0].copy())[0])
    assert_same(lstm.trace(view(x)).c[1, 0], lstm.trace(x).c[1, 0])
    copied = LSTM(3, 8, 2, dtype=dtype)
    copied.set_parameters({name: view(p) for name, p in lstm.parameters().items()})
    assert_equal(copied.parameters(), lstm.parameters())


@pytest.mark.parametrize(("N", "T"), BATCHES)
@dtypes
def test_a_read_only_memory_map_is_an_input(tmp_path, dtype, N, T):
    lstm = make(3, 8, dtype=dtype)
    x, _, dy, _ = inputs(lstm, N, T)
    maps = []
    for name, array in (("x", x), ("dy", dy)):
        np.save(tmp_path / f"{name}.npy", array)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    found = everything(lstm, maps[0], None, maps[1])
    assert_equal(found, everything(lstm, x, None, dy))
    assert not any(isinstance(value, np.memmap) for value in found.values())


@dtypes
def test_a_broadcast_array_of_zero_strides_is_an_input(dtype):
    lstm = make(3, 8, 2, dtype=dtype)
    x, (h0, c0), dy, (dh, dc) = inputs(lstm, 4, 5)
    x, dy = np.broadcast_to(x[:1, :1], x.shape), np.broadcast_to(dy[:1, :1, :1], dy.shape)
    state, dstate = ([np.broadcast_to(s[:, :1], s.shape) for s in pair] for pair in ((h0, c0), (dh, dc)))
    wanted = everything(lstm, x.copy(), [s.copy() for s in state], dy.copy(), [s.copy() for s in dstate])
    assert_equal(everything(lstm, x, state, dy, dstate), wanted)


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "i2", ">i4", "u8", "i8", "f2", ">f2", "f4", "f8", np.longdouble])
@dtypes
def test_any_real_type_is_converted_once(dtype, kind):
    lstm = make(3, 8, dtype=dtype)
    arrays = [np.abs(np.round(a)) for a in (inputs(lstm, 4, 5)[k] for k in (0, 2))]
    h0, c0 = (np.abs(np.round(s)) for s in inputs(lstm, 4, 5)[1])
    x, dy, h0, c0 = (a.astype(kind) for a in (*arrays, h0, c0))
    wanted = everything(lstm, x.astype(dtype), (h0.astype(dtype), c0.astype(dtype)), dy.astype(dtype))
    assert_equal(everything(lstm, x, (h0, c0), dy), wanted)
    assert_same(lstm.step(x[:, 0])[0], lstm.step(x[:, 0].astype(dtype))[0])


def test_nested_lists_are_sequences_written_out():
    lstm = make(3, 8)
    x, state, dy, _ = inputs(lstm, 2, 4)
    assert_same(lstm(x[0].tolist())[0], lstm(x[0].copy())[0])
    assert_same(np.array(lstm(x.tolist())[0]), lstm(x)[0])
    found = everything(lstm, x.tolist(), [s.tolist() for s in state], dy.tolist())
    assert_equal({k: np.array(v) for k, v in found.items()}, everything(lstm, x, state, dy))
    assert_same(lstm.step(x[:, 0].tolist())[0], lstm.step(x[:, 0])[0])


@pytest.mark.parametrize(("N", "T"), BATCHES)
@dtypes
def test_no_call_changes_its_inputs_or_the_parameters(dtype, N, T):
    lstm = make(3, 8, 2, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, N, T)
    lengths = np.full(N, T)
    arrays = [x, *state, dy, *dstate, lengths]
    before = [a.copy() for a in arrays]
    parameters = {name: p.copy() for name, p in lstm.parameters().items()}
    everything(lstm, x, state, dy, dstate)
    everything(lstm, x, state, dy, dstate, lengths=lengths)
    everything(lstm, list(x), state, list(dy), dstate)
    everything(lstm, x[0], [s[:, 0] for s in state], dy[0], [s[:, 0] for s in dstate])
    lstm(x, state)
    lstm.trace(x, state)
    lstm.step(x[:, 0], state)
    lstm.step(x[0, 0], [s[:, 0] for s in state])
    for array, wanted in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, wanted)
    assert_equal(lstm.parameters(), parameters)
