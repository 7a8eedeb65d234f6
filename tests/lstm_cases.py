"""What the tests of lstmx.LSTM share: networks, inputs, all results by name."""

import numpy as np
import pytest
from tolerances import ENGINES

from lstmx import LSTM
from lstmx.functional.engine import NAME

DTYPES = ["float32", "float64"]
SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33]  # around every vector width
LENGTHS = [4, 0, 7, 2, 7]
KINDS = [(1, False), (2, True)]  # layers, bidirectional
BATCHES = [(3, 4), (1, 4), (3, 1), (1, 1)]  # with N or T of 1 a batch is its own transpose
kinds = pytest.mark.parametrize(("num_layers", "bidirectional"), KINDS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def make(*sizes, dtype="float64", seed=0, **options):
    """An LSTM whose every parameter, bias included, is far from 0 and from the others."""
    lstm = LSTM(*sizes, dtype=dtype, random_state=seed, **options)
    rng = np.random.default_rng(seed + 1)
    lstm.set_parameters({name: rng.uniform(-0.8, 0.8, p.shape) for name, p in lstm.parameters().items()})
    return lstm


def inputs(lstm, N, T, seed=2):
    """x, state, dy and dstate of order 1, in the type of the model."""
    rng = np.random.default_rng(seed)
    states = lstm._state_shapes(N)

    def draw(*shape):
        return rng.normal(size=shape).astype(lstm.dtype)

    x, dy = draw(N, T, lstm.input_size), draw(N, T, lstm.output_size())
    state, dstate = (tuple(draw(*shape) for shape in states) for _ in range(2))
    if lstm.cell.slstm:  # a normaliser is positive, or 0 where nothing was seen
        n = np.split(state[1], 3, axis=2)[1]
        n[:] = np.where(n < -0.5, 0, np.abs(n) + 0.1)
    return x, state, dy, dstate


def everything(lstm, x, state=None, dy=None, dstate=None, **options):
    """All results of a forward and a backward pass, by name."""
    y, (h_n, c_n), tape = lstm.forward(x, state, **options)
    grads = lstm.backward(tape, dy, dstate)
    out = {"y": y, "h_n": h_n, "c_n": c_n, "dx": grads.x, "dh0": grads.state[0], "dc0": grads.state[1]}
    return out | {f"d{name}": value for name, value in grads.params.items()}


def assert_same(found, wanted, err_msg=""):
    """The same bits; under engines that do not promise them, nearly the same numbers."""
    if NAME != "tile":
        np.testing.assert_allclose(found, wanted, **ENGINES[np.asarray(wanted).dtype.name], err_msg=err_msg)
    else:
        np.testing.assert_array_equal(found, wanted, err_msg=err_msg)


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert_same(found[name], value, err_msg=name)


def assert_close(found, wanted, *, rtol, atol):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)
