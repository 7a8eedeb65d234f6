"""What an LSTM computes, forward and backward, in plain NumPy: the first page to read, and what the fast code is
tested against.

A plain recurrent network computes ``h_t = tanh(W x_t + R h_{t-1})``. To learn what an early input means for a late
output, the gradient must travel back through every step, and each step multiplies it by ``R^T diag(1 - h_t**2)``: a
factor that is usually below one, so after a few dozen steps nothing is left. The gradient *vanishes*, and the network
cannot learn to remember.

An LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers, Schmidhuber and Cummins 2000) keeps a second state, the
memory cell ``c``, that is changed by multiplying and adding alone. Four products of the concatenated previous output
and input, ``a = W_ih x_t + W_hh h_{t-1} + b``, split into four blocks of H rows, decide what happens to it::

    i = sigmoid(a_i)     input gate:  how much of the candidate enters the memory   (0 nothing, 1 all)
    f = sigmoid(a_f)     forget gate: how much of the old memory stays              (0 forgets, 1 keeps)
    g = tanh(a_g)        the candidate: what could be added
    o = sigmoid(a_o)     output gate: how much of the memory is shown
    c_t = f * c_{t-1} + i * g
    h_t = o * tanh(c_t)

Along the memory the gradient is multiplied by ``f`` alone: where the network chooses f = 1, it travels back
undiminished.

Dimensions: T time, N batch, I input, H hidden. The backward functions apply the chain rule to the lines above, last
line first; a name ``dz`` means dL/dz for a scalar loss L. Everything here works for float32, float64 and complex128
arrays (the tests differentiate it by complex steps), checks nothing, and favours clarity over speed. What the options
of `lstmx.Cell` change is in `lstmx.reference_cells`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, Pair


class Tape(NamedTuple):
    """What `lstm_forward` remembers for `lstm_backward`."""

    x: Array  # (N, T, I), zero on the padding
    gates: Array  # (N, T, 4H): i, f, g, o
    h_prev: Array  # (N, T, H): the output before each step
    c_prev: Array  # (N, T, H): the memory before each step
    running: Array  # (N, T): whether the sequence has a step there
    weight_ih: Array
    weight_hh: Array
    has_bias: bool
    reverse: bool


class Gradients(NamedTuple):
    """Gradients with respect to the input, the initial state, the parameters, and what flows through every step."""

    x: Array  # (N, T, I)
    state: Pair  # (dh0, dc0), each (N, H)
    params: Arrays  # weight_ih, weight_hh, bias
    dh: Array  # (N, T, H): dL/dh_t
    dc: Array  # (N, T, H): dL/dc_t


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), written so that a large negative ``a`` does not overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * a)


def cell_forward(a: Array, c_prev: Array) -> tuple[Array, Array, Array]:
    """One step of the cell.

    Parameters
    ----------
    a : ndarray (N, 4H)
        W_ih x_t + W_hh h_{t-1} + b.
    c_prev : ndarray (N, H)
        The memory before the step.

    Returns
    -------
    gates (N, 4H), c (N, H), h (N, H)

    Examples
    --------
    A forget gate wide open (a_f = 20) and an input gate shut (a_i = -20) keep the memory as it is:

    >>> gates, c, h = cell_forward(np.array([[-20.0, 20.0, 3.0, 20.0]]), np.array([[0.7]]))
    >>> print(c.round(6), h.round(6))
    [[0.7]] [[0.604368]]
    """
    a_i, a_f, a_g, a_o = np.split(a, 4, axis=-1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    c = f * c_prev + i * g
    h = o * np.tanh(c)
    return np.concatenate([i, f, g, o], axis=-1), c, h


def cell_backward(gates: Array, c_prev: Array, dh: Array, dc: Array) -> tuple[Array, Array, Array]:
    """The derivative of `cell_forward`.

    Parameters
    ----------
    gates (N, 4H), c_prev (N, H)
        From the forward step.
    dh : ndarray (N, H)
        dL/dh_t, from the output and from step t + 1.
    dc : ndarray (N, H)
        What reaches c_t from step t + 1.

    Returns
    -------
    da (N, 4H), dc (N, H), dc_prev (N, H)
        dL/da, the whole dL/dc_t, and what the step passes on to c_{t-1}.
    """
    i, f, g, o = np.split(gates, 4, axis=-1)
    tanh_c = np.tanh(f * c_prev + i * g)
    do = dh * tanh_c  # h = o * tanh(c)
    dc = dc + dh * o * (1 - tanh_c**2)
    di, df, dg = dc * g, dc * c_prev, dc * i  # c = f * c_prev + i * g
    da = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], axis=-1)
    return da, dc, dc * f


def lstm_step(
    x_t: Array, state: Pair, weight_ih: Array, weight_hh: Array, bias: Array | None = None
) -> tuple[Array, Pair]:
    """One step on a batch: x_t (N, I) and state (h, c), each (N, H), give h_t and the new state."""
    h, c = state
    a = x_t @ weight_ih.T + h @ weight_hh.T + (0 if bias is None else bias)
    _, c, h = cell_forward(a, c)
    return h, (h, c)


def lstm_forward(
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    state: Pair | None = None,
    *,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
) -> tuple[Array, Pair, Tape]:
    """One layer in one direction.

    Parameters
    ----------
    x : ndarray (N, T, I)
    weight_ih, weight_hh, bias : ndarray (4H, I), (4H, H), (4H,) or None
        Blocks of H rows in the order i, f, g, o.
    state : (h0, c0), each (N, H); zero if None
    lengths : ndarray of int (N,), T for all if None
        Steps past a sequence's length do not exist: its state stays as it was, its output there is 0.
    reverse : bool
        Read each sequence from its last step to its first; outputs stay at the time of their input.

    Returns
    -------
    y (N, T, H), (h_n, c_n) each (N, H), tape
    """
    batch, steps, _ = x.shape
    hidden = weight_hh.shape[1]
    dtype = np.result_type(x, weight_ih)
    running = np.arange(steps) < (np.full(batch, steps) if lengths is None else np.asarray(lengths))[:, None]
    x = np.where(running[..., None], x, 0)
    h, c = (np.zeros((batch, hidden), dtype),) * 2 if state is None else state

    y, h_prev, c_prev = (np.zeros((batch, steps, hidden), dtype) for _ in range(3))
    gates = np.zeros((batch, steps, 4 * hidden), dtype)
    for t in reversed(range(steps)) if reverse else range(steps):
        h_prev[:, t], c_prev[:, t] = h, c
        a = x[:, t] @ weight_ih.T + h @ weight_hh.T + (0 if bias is None else bias)
        gates[:, t], c_t, h_t = cell_forward(a, c)
        on = running[:, t, None]
        y[:, t] = np.where(on, h_t, 0)
        h, c = np.where(on, h_t, h), np.where(on, c_t, c)
    return y, (h, c), Tape(x, gates, h_prev, c_prev, running, weight_ih, weight_hh, bias is not None, reverse)


def lstm_backward(tape: Tape, dy: Array | None, dstate: Pair | None = None) -> Gradients:
    """The derivative of `lstm_forward`: back-propagation through time.

    Parameters
    ----------
    tape : from `lstm_forward`
    dy : ndarray (N, T, H) or None for zero
        dL/dy; what stands on the padding is ignored.
    dstate : (dh_n, dc_n), each (N, H); zero if None

    Returns
    -------
    Gradients
    """
    x, gates, h_prev, c_prev, running, weight_ih, weight_hh, has_bias, reverse = tape
    batch, steps, hidden = h_prev.shape
    dh, dc = (np.zeros((batch, hidden), h_prev.dtype),) * 2 if dstate is None else dstate

    da, dh_all, dc_all = np.zeros_like(gates), np.zeros_like(h_prev), np.zeros_like(h_prev)
    for t in range(steps) if reverse else reversed(range(steps)):
        on = running[:, t, None]
        dh_t = dh if dy is None else dh + dy[:, t]  # h_t is shown as y_t, and used by step t + 1
        da_t, dc_t, dc_prev = cell_backward(gates[:, t], c_prev[:, t], dh_t, dc)
        da[:, t], dh_all[:, t], dc_all[:, t] = np.where(on, da_t, 0), np.where(on, dh_t, 0), np.where(on, dc_t, 0)
        dh, dc = np.where(on, da[:, t] @ weight_hh, dh), np.where(on, dc_prev, dc)

    params = {
        "weight_ih": np.einsum("ntz,nti->zi", da, x),
        "weight_hh": np.einsum("ntz,nth->zh", da, h_prev),
    }
    if has_bias:
        params["bias"] = da.sum(axis=(0, 1))
    return Gradients(da @ weight_ih, (dh, dc), params, dh_all, dc_all)


def product(a: Array, b: Array, out: Array) -> None:
    """out := a b, for the layers without time when this module is the engine."""
    np.matmul(a, b, out=out)
