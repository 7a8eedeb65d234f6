"""Training on plain arrays is compiled: the bits, tapes and errors are those of the general way."""

import itertools
import threading

import numpy as np
import pytest
from lstm_cases import assert_equal, dtypes, inputs, make

from lstmx import LSTM, Cell
from lstmx.functional.engine import NAME

pytestmark = pytest.mark.skipif(NAME != "tile", reason="of the tile engine alone")

LAYERS = [
    {},
    {"bias": False},
    {"reverse": True},
    {"bidirectional": True},
    {"num_layers": 3},
    {"num_layers": 2, "bidirectional": True},
]
layers = pytest.mark.parametrize("layer", LAYERS, ids=str)


def general(lstm, x, state, dy, dstate):
    """`train` the general way, which alone gives the outputs of every layer."""
    y, after, tape = lstm.forward(x, state, return_layers=True)
    return named(y[-1], after, lstm.backward(tape, [None] * (lstm.num_layers - 1) + [dy], dstate))


def packed(lstm, x, state, dy, dstate):
    """`train` by way of packed rows, as a generator was given."""
    y, after, tape = lstm.forward(x, state, rng=0)
    assert "passes" not in tape.parts
    return named(y, after, lstm.backward(tape, dy, dstate))


def train(lstm, x, state, dy, dstate):
    y, after, tape = lstm.forward(x, state)
    assert "passes" in tape.parts
    return named(y, after, lstm.backward(tape, dy, dstate))


def named(y, after, grads):
    names = dict(zip(["h", "c", "dh", "dc"], [*after, *grads.state], strict=True))
    return {"y": y, "dx": grads.x} | names | grads.params


@layers
@dtypes
@pytest.mark.parametrize(("N", "T", "H"), [(1, 1, 7), (1, 30, 16), (5, 1, 33), (7, 9, 12), (40, 60, 20), (300, 3, 5)])
def test_the_bits_of_the_general_way(layer, dtype, N, T, H):
    lstm = make(5, H, dtype=dtype, **layer)
    x, state, dy, dstate = inputs(lstm, N, T)
    for given in itertools.product([None, state], [None, dy], [None, dstate]):
        wanted = general(lstm, x, *given)
        assert_equal(train(lstm, x, *given), wanted)
        assert_equal(packed(lstm, x, *given), wanted)
    if N == 1:
        one = x[0], tuple(a[:, 0] for a in state), dy[0], tuple(a[:, 0] for a in dstate)
        assert_equal(train(lstm, *one), general(lstm, *one))
    assert not any(
        np.shares_memory(a, b) for a, b in itertools.combinations(train(lstm, x, state, dy, dstate).values(), 2)
    )


@layers
def test_the_bits_of_ragged_batches(layer):
    lstm = make(5, 12, dtype="float32", **layer)
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 5)).astype("float32") for n in (*rng.integers(1, 90, 40), 0)]
    y, after, tape = lstm.forward(x)
    every, wanted_after, other = lstm.forward(x, return_layers=True)
    grads, wanted = lstm.backward(tape, y), lstm.backward(other, [None] * (lstm.num_layers - 1) + [y])
    for found, expected in zip([*y, *grads.x], [*every[-1], *wanted.x], strict=True):
        np.testing.assert_array_equal(found, expected)
    whole = {"y": after[0], "dx": after[1]}, {"y": wanted_after[0], "dx": wanted_after[1]}
    assert_equal(whole[0] | grads.params, whole[1] | wanted.params)


@pytest.mark.parametrize("H", [12, 200])
def test_strides_and_read_only_arrays(H):
    lstm = make(4, H, 2, dtype="float32", bidirectional=True)
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(31, 6, 9)).astype("float32")
    windows = np.lib.stride_tricks.sliding_window_view(wide[:, 0, :4], 12, axis=0).swapaxes(1, 2)
    dy = rng.normal(size=(12, 20, 4 * H)).astype("float32")
    for x in (windows, wide[::-2, ::2, 2:6], wide.swapaxes(0, 1)[:, :, 1:5], wide[:, :, ::2][:, :, :4]):
        out = dy.swapaxes(0, 1)[: len(x), : x.shape[1], H : 3 * H] if len(x) <= 20 and x.shape[1] <= 12 else None
        x.flags.writeable = False
        y, after, tape = lstm.forward(x)
        found = named(y, after, lstm.backward(tape, out))
        assert_equal(found, general(lstm, np.ascontiguousarray(x), None, None if out is None else out.copy(), None))


def test_a_tape_has_what_others_ask_of_it():
    """Used twice; looked into; with gradients in another form than that of a plain array."""
    lstm = make(3, 8, 2, dtype="float32")
    x, state, dy, dstate = inputs(lstm, 6, 5)
    wanted = train(lstm, x, state, dy, dstate)
    y, after, tape = lstm.forward(x, state)
    for k in range(2):
        assert_equal(named(y, after, lstm.backward(tape, dy, dstate, retain=k == 0)), wanted)
    with pytest.raises(RuntimeError, match="already used"):
        lstm.backward(tape, dy)
    for other in (dy.astype("float64"), dy.tolist(), np.asfortranarray(dy)):
        y, after, tape = lstm.forward(x, state)
        assert_equal(named(y, after, lstm.backward(tape, other, list(dstate))), wanted)
    tape = lstm.forward(x, state)[2]
    with pytest.raises(ValueError, match="dy: got shape"):
        lstm.backward(tape, dy[:, :-1])
    lstm.backward(tape, dy)  # nothing was lost
    assert tape.context.batch == 6 and tape.context.steps == 5
    tape = lstm.forward(x, state)[2]
    lstm.set_parameters({"bias_l0": lstm.parameters()["bias_l0"]})
    with pytest.raises(RuntimeError, match="have been set"):
        lstm.backward(tape, dy)


def test_the_callers_arrays_may_change_between_the_passes():
    lstm = make(3, 8, dtype="float32")
    x, state, dy, _ = inputs(lstm, 4, 5)
    wanted = train(lstm, x, state, dy, None)
    kept = [a.copy() for a in (x, *state, dy)]
    y, after, tape = lstm.forward(x, state)
    for array, before in zip((x, *state, dy), kept, strict=True):
        np.testing.assert_array_equal(array, before)
    x[:] = np.nan
    for array in state:
        array[:] = np.nan
    y[:] = np.nan
    for array in after:
        array[:] = np.nan
    grads = lstm.backward(tape, dy)
    np.testing.assert_array_equal(dy, kept[3])
    np.testing.assert_array_equal(grads.x, wanted["dx"])
    for name, gradient in grads.params.items():
        np.testing.assert_array_equal(gradient, wanted[name])


GENERAL = [
    {"dropout": 0.5, "num_layers": 2},
    {"proj_size": 2},
    {"cell": Cell(peephole=True)},
    {"cell": Cell(zoneout=(0.1, 0.0))},
    {"cell": Cell(learn_state=True)},
    {"bidirectional": True, "merge": "sum"},
]


@pytest.mark.parametrize("layer", GENERAL, ids=str)
def test_other_layers_go_the_general_way(layer):
    lstm = LSTM(3, 4, random_state=0, **layer)
    tape = lstm.forward(np.ones((2, 3, 3), "float32"))[2]
    assert "passes" not in tape.parts


class Sub(np.ndarray):
    pass


OTHERS = {
    "no sequences": np.ones((0, 4, 3)),
    "no steps": np.ones((2, 0, 3)),
    "another type": np.ones((2, 4, 3), "float32"),
    "lists": np.ones((2, 4, 3)).tolist(),
    "a subclass": np.ones((2, 4, 3)).view(Sub),
    "ragged": [np.ones((4, 3)), np.ones((2, 3))],
}


@pytest.mark.parametrize("x", OTHERS.values(), ids=OTHERS)
def test_other_arrays_go_the_general_way(x):
    lstm = make(3, 4)
    y, _, tape = lstm.forward(x)
    assert "passes" not in tape.parts
    lstm.backward(tape, y)


def test_threads_train_one_layer_at_once():
    lstm = make(3, 24, 2, dtype="float32")
    cases = [inputs(lstm, N, 40, seed=N) for N in (1, 9, 33)]
    wanted = [train(lstm, *case) for case in cases]
    fresh, failed = make(3, 24, 2, dtype="float32"), []

    def work(k):
        try:
            for _ in range(50):
                assert_equal(train(fresh, *cases[k % 3]), wanted[k % 3])
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed
