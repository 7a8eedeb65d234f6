"""lstmx.LSTM in time: chunks, steps, and traces of what happened at each."""

import itertools

import numpy as np
import pytest
from lstm_cases import LENGTHS, dtypes, inputs, kinds, make
from tolerances import PEER

from lstmx.layers.trace import PerLayer

# Chunks and steps


@pytest.mark.parametrize("cuts", [[1], [3, 3, 5], [0, 2, 7], [1, 2, 3, 4, 5, 6]], ids=str)
@pytest.mark.parametrize("num_layers", [1, 2])
@dtypes
def test_chunks_with_carried_state_equal_the_whole(dtype, num_layers, cuts):
    lstm = make(3, 8, num_layers, dtype=dtype)
    x, state, _, _ = inputs(lstm, 4, 7)
    y, final = lstm(x, state)
    parts = []
    for chunk in np.split(x, cuts, axis=1):
        part, state = lstm(chunk, state)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), y, **PEER[dtype])
    np.testing.assert_allclose(state, final, **PEER[dtype])


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("N", [1, 3, 17])
@pytest.mark.parametrize("num_layers", [1, 2])
@dtypes
def test_step_by_step_equals_the_whole(dtype, num_layers, N, given):
    lstm = make(3, 9, num_layers, dtype=dtype)
    x, state, _, _ = inputs(lstm, N, 6)
    state = state if given else None
    y, final = lstm(x, state)
    for t in range(6):
        y_t, state = lstm.step(x[:, t], state)
        np.testing.assert_allclose(y_t, y[:, t], **PEER[dtype])
        assert y_t.dtype == state[0].dtype == state[1].dtype == dtype
    np.testing.assert_allclose(state, final, **PEER[dtype])


def test_steps_of_one_sequence_need_no_batch_axis():
    lstm = make(3, 9, 2)
    x, _, _, _ = inputs(lstm, 1, 6)
    y, final = lstm(x[0])
    state = None
    for t in range(6):
        y_t, state = lstm.step(x[0, t], state)
        assert y_t.shape == (9,) and state[0].shape == state[1].shape == (2, 9)
        np.testing.assert_allclose(y_t, y[t], **PEER["float64"])
    np.testing.assert_allclose(state, final, **PEER["float64"])


def test_the_state_that_step_returns_is_nobody_elses():
    lstm = make(3, 8)
    x, _, _, _ = inputs(lstm, 2, 2)
    y_0, first = lstm.step(x[:, 0])
    kept = [y_0.copy(), *(s.copy() for s in first)]
    y_1, second = lstm.step(x[:, 1], first)
    arrays = [y_0, *first, y_1, *second]
    for array, wanted in zip([y_0, *first], kept, strict=True):
        np.testing.assert_array_equal(array, wanted)
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))


# Trace


def check_trace(lstm, x, state, y, final, trace):
    """The equations, for one sequence of the trace: x (T, I), state (L*D, H), arrays (T, H)."""
    close = PEER[lstm.dtype.name]
    for layer in range(lstm.num_layers):
        tops = []
        for direction in range(lstm.directions):
            i, f, g, o, c, h = (getattr(trace, name)[layer, direction] for name in "ifgoch")
            k = layer * lstm.directions + direction
            turn = slice(None, None, -1 if direction else 1)
            h_prev, c_prev = (
                np.concatenate([s[k : k + 1], a[turn]])[:-1][turn] for s, a in zip(state, (h, c), strict=True)
            )
            np.testing.assert_allclose(c, f * c_prev + i * g, **close)
            np.testing.assert_allclose(h, o * np.tanh(c), **close)
            weights = lstm._weights(layer, direction).arrays
            weight_ih, weight_hh, bias = (weights.get(name) for name in ("weight_ih", "weight_hh", "bias"))
            a = x @ weight_ih.T + h_prev @ weight_hh.T + (0 if bias is None else bias)
            a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
            for gate, z in ((i, a_i), (f, a_f), (o, a_o)):
                np.testing.assert_allclose(gate, 1 / (1 + np.exp(-z)), **close)
            np.testing.assert_allclose(g, np.tanh(a_g), **close)
            if len(x):
                np.testing.assert_array_equal(h[turn][-1], final[0][k])
                np.testing.assert_array_equal(c[turn][-1], final[1][k])
            tops.append(h)
        x = np.concatenate(tops, axis=-1)
    np.testing.assert_array_equal(x, y)


class Row:
    """One sequence of a trace."""

    def __init__(self, trace, n, length):
        for name in "ifgoch":
            values = getattr(trace, name)
            setattr(self, name, {key: values[key][n][:length] for key in list(values.keys())})


@pytest.mark.parametrize("form", ["batch", "ragged", "list", "single"])
@pytest.mark.parametrize("bias", [True, False])
@kinds
@dtypes
def test_a_trace_obeys_the_equations_and_ends_where_the_call_ends(dtype, num_layers, bidirectional, bias, form):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional, bias=bias, dtype=dtype)
    x, state, _, _ = inputs(lstm, 5, 7)
    if form == "single":
        state = [s[:, 0] for s in state]
        y, final = lstm(x[0], state)
        check_trace(lstm, x[0], state, y, final, lstm.trace(x[0], state))
        return
    lengths = [7] * 5 if form == "batch" else LENGTHS
    options = {"lengths": lengths} if form == "ragged" else {}
    given = [a[:n] for a, n in zip(x, lengths, strict=True)] if form == "list" else x
    y, final = lstm(given, state, **options)
    trace = lstm.trace(given, state, **options)
    for n, length in enumerate(lengths):
        one = Row(trace, n, length)
        check_trace(lstm, x[n, :length], [s[:, n] for s in state], y[n][:length], [s[:, n] for s in final], one)
        if form == "ragged":
            assert all((getattr(trace, name)[0, 0][n, length:] == 0).all() for name in "ifgoch")


def test_a_single_layer_and_direction_is_plain():
    lstm = make(3, 8)
    x, _, _, _ = inputs(lstm, 2, 5)
    trace, (y, _) = lstm.trace(x), lstm(x)
    np.testing.assert_array_equal(trace.h, y)
    np.testing.assert_array_equal(np.asarray(trace.h, "float32"), y.astype("float32"))
    np.testing.assert_array_equal(trace.h[1], y[1])
    np.testing.assert_array_equal(trace.h[:, 2, 3], y[:, 2, 3])
    assert trace.h.shape == (2, 5, 8) and len(trace.h) == 2 and list(trace.h.keys()) == [(0, 0)]
    assert "h" in repr(trace) and "(2, 5, 8)" in repr(trace.f)


def test_several_layers_must_be_named():
    trace = make(3, 8, 2, bidirectional=True).trace(np.ones((2, 5, 3)))
    assert isinstance(trace.c, PerLayer) and list(trace.c.keys()) == list(itertools.product(range(2), range(2)))
    for plain in (lambda: np.asarray(trace.c), lambda: trace.c[0], lambda: len(trace.c), lambda: trace.c.shape):
        with pytest.raises(ValueError, match=r"^trace: say which layer and direction"):
            plain()
    with pytest.raises(IndexError, match=r"^trace: no layer and direction \(2, 0\)"):
        trace.c[2, 0]


def test_writing_to_a_trace_does_not_reach_the_model():
    lstm = make(3, 8)
    x, _, _, _ = inputs(lstm, 1, 5)
    trace, wanted = lstm.trace(x), lstm.trace(x).c[0, 0].copy()
    for name in "ifgoch":
        getattr(trace, name)[0, 0][...] = 99
    np.testing.assert_array_equal(lstm.trace(x).c[0, 0], wanted)
