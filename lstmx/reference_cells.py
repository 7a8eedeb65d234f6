"""What every option of `lstmx.Cell` computes, forward and backward, in plain NumPy: read `lstmx.reference` first.

One step from (h, c), all options at once; ``[..]`` is there only with the option that it names::

    a = W_ih x + W_hh h + b                                       blocks of H rows i, f, g, o; i, g, o with cifg
    s_i = a_i [+ p_i * c]   s_f = a_f [+ p_f * c]   s_g = a_g     [peephole]
    i = act_gate(s_i)       f = act_gate(s_f)       g = act_candidate(s_g)      [cifg: f = 1 - i]
    m = f * c + i * g                                             the new memory
    s_o = a_o [+ p_o * m]   o = act_gate(s_o)
    h' = o * act_output(m)                                        [projection: h' = W_hr h']
    c_t = m                 h_t = h'                              [zoneout: c_t = z_c * c + (1 - z_c) * m, h_t alike]

clip
    Each s is cut to [-clip, clip]; `cell_clip` cuts m. What was cut, or lies at the bound, passes no gradient on.
Dropout
    x and h are multiplied by a mask first: one for all gates, or one for each.
Zoneout (Krueger et al. 2017)
    z is 0 or 1 in training: a unit with 1 keeps its old value. In inference z is the rate.
activations
    As ONNX's operator LSTM defines them.
layer_norm
    LN(v) = (v - mean(v)) / sqrt(var(v) + epsilon), and three definitions of where it stands:

    - "haste" (LayerNormLSTM of lmnt-com/haste): a = gain_ih * LN(W_ih x) + gain_hh * LN(W_hh h) + b over all 4H;
      h' = o * tanh(gain_c * LN(m) + bias_c) shows a normed memory, but carries m. epsilon 1e-5, from
      lib/layer_norm_forward_gpu.cu.cc.
    - "fastrnn" (LayerNormLSTMCell of benchmarks/fastrnns/custom_lstms.py in pytorch/pytorch):
      a = gain_ih * LN(W_ih x) + bias_ih + gain_hh * LN(W_hh h) + bias_hh over all 4H, without b, and
      m = gain_c * LN(f * c + i * g) + bias_c is carried. epsilon 1e-5, the default of torch.nn.LayerNorm.
    - "tflite" (the float LSTM of TensorFlow Lite, lite/kernels/lstm_eval.cc, after Ba et al. 2016): each gate has
      s = gain * LN(s) + b over its H values, peepholes included, before it is cut; m is not normed. epsilon 1e-8,
      from MeanStddevNormalization. TensorFlow Lite's coupled gates are i = 1 - f; because 1 - sigmoid(s) is
      sigmoid(-s), its forget gate with weights, peepholes and bias negated is the input gate here.
slstm (Beck et al. 2024; slstm_forward_pointwise of NX-AI/xlstm)
    Its blocks are i, f, z, o and its state has a memory c, a normaliser n and a stabiliser m::

        m' = max(a_i, m + log sigmoid(a_f))       a_i where the unit is fresh: n = 0
        i = exp(a_i - m')     f = exp(m + log sigmoid(a_f) - m')     z = tanh(a_z)     o = sigmoid(a_o)
        c' = f * c + i * z    n' = f * n + i      h = o * c' / n'

    With `heads` the rows of W_hh of a head see only the units of that head. The source asks whether the whole batch is
    fresh; here each unit is asked, so that a row does not depend on its batch.

Each step is written twice: `lstm_cell` and its derivative `lstm_cell_backward`, which repeats its lines, last line
first. Everything works for float32, float64 and complex128 arrays, checks nothing and favours clarity over speed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lstmx.reference import Gradients, sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import ArrayLike, DTypeLike

    from lstmx._types import Array, Arrays, Pair


EPSILON = {"haste": 1e-5, "fastrnn": 1e-5, "tflite": 1e-8}


class Tape(NamedTuple):
    """What `lstm_forward` remembers for `lstm_backward`, and the gates, for whoever looks."""

    x: Array  # (N, T, I), zero on the padding
    gates: Array  # (N, T, G*H): activated; of an sLSTM a_i and a_f as they are
    h_prev: Array  # (N, T, P): the output before each step
    c_prev: Array  # (N, T, H or 3H): the memory before each step
    running: Array  # (N, T): whether the sequence has a step there
    params: Arrays
    reverse: bool
    cell: Any
    masks: Any


class Drop(NamedTuple):
    """The masks of one step."""

    x: Any  # (G or 1, N, I), or 1
    h: Any  # (G or 1, N, P), or 1
    z_h: Any  # (N, P), or the rate, or None
    z_c: Any  # (N, H), or the rate, or None


# Functions that follow a complex number as they follow its real part; at a corner x = 0 all take the side x <= 0


def positive(x: Array) -> Array:
    """max(x, 0)."""
    return np.where(x.real <= 0, 0, x)


def magnitude(x: Array) -> Array:
    """The absolute value."""
    return np.where(x.real > 0, x, -x)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return positive(x) + np.log1p(np.exp(-magnitude(x)))


def cut(x: Array, bound: float | None) -> Array:
    """x cut to [-bound, bound]; x itself for None."""
    return x if bound is None else np.where(np.abs(x.real) > bound, np.sign(x.real) * bound, x).astype(x.dtype)


def cut_backward(x: Array, bound: float | None, dcut: Array) -> Array:
    """The derivative of `cut`."""
    return dcut if bound is None else dcut * (np.abs(x.real) < bound)


def zoneout(old: Array, new: Array, z: Any) -> Array:
    """The old value where z is 1, the new one where it is 0; the new one for None."""
    return new if z is None else z * old + (1 - z) * new


def zoneout_backward(z: Any, dout: Array) -> tuple[Array, Array]:
    """The derivative of `zoneout`: dold, dnew."""
    return (np.zeros_like(dout), dout) if z is None else (z * dout, (1 - z) * dout)


# name -> (the function y of x, its derivative as a function of y)
ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "sigmoid": (sigmoid, lambda y: y * (1 - y)),
    "tanh": (np.tanh, lambda y: 1 - y**2),
    "relu": (positive, lambda y: y.real > 0),
    "affine": (lambda x, a, b: a * x + b, lambda y, a, b: a),
    "leaky_relu": (lambda x, a=0.01: np.where(x.real > 0, x, a * x), lambda y, a=0.01: np.where(y.real > 0, 1, a)),
    "thresholded_relu": (lambda x, a=1.0: np.where(x.real <= a, 0, x), lambda y, a=1.0: y.real > 0),
    "scaled_tanh": (lambda x, a, b: a * np.tanh(b * x), lambda y, a, b: b * (a - y**2 / a) if a else 0),
    "hard_sigmoid": (
        lambda x, a=0.2, b=0.5: np.where(a * x.real + b >= 1, 1, positive(a * x + b)),
        lambda y, a=0.2, b=0.5: np.where((y.real > 0) & (y.real < 1), a, 0),
    ),
    "elu": (
        lambda x, a=1.0: np.where(x.real > 0, x, a * np.expm1(np.where(x.real > 0, 0, x))),
        lambda y, a=1.0: np.where(y.real > 0, 1, y + a),
    ),
    "softsign": (lambda x: x / (1 + magnitude(x)), lambda y: (1 - magnitude(y)) ** 2),
    "softplus": (softplus, lambda y: -np.expm1(-y)),
}


def activate(activation: Any, x: Array) -> Array:
    """y of x by a name, or a tuple of it with alpha and beta."""
    name, *numbers = (activation,) if isinstance(activation, str) else activation
    return ACTIVATIONS[name][0](x, *numbers).astype(x.dtype)


def slope(activation: Any, y: Array) -> Array:
    """dy/dx of `activate`."""
    name, *numbers = (activation,) if isinstance(activation, str) else activation
    return np.asarray(ACTIVATIONS[name][1](y, *numbers), y.dtype)


# Products and norms


def product(v: Any, weight: Array, mask: Any, gates: int, heads: int = 1) -> Array:
    """W v by gate and head: the k-th of `gates` blocks of W has the k-th mask, and its r-th rows the r-th part of v.

    v (N, D), weight (gates * H, D / heads) -> (N, gates * H)
    """
    parts, blocks = split(v, weight, mask, gates, heads)
    return np.einsum("knrd,krjd->nkrj", parts, blocks).reshape(len(v), len(weight))


def product_backward(v: Any, weight: Array, mask: Any, gates: int, heads: int, dout: Any) -> tuple[Array, Array]:
    """The derivative of `product`: dv, dweight."""
    parts, blocks = split(v, weight, mask, gates, heads)
    dout = dout.reshape(len(v), *blocks.shape[:3])
    dweight = np.einsum("nkrj,knrd->krjd", dout, parts).reshape(weight.shape)
    dparts = np.einsum("nkrj,krjd->knrd", dout, blocks).reshape(gates, *v.shape)
    return (mask * dparts).sum(axis=0), dweight


def split(v: Any, weight: Array, mask: Any, gates: int, heads: int) -> Any:
    """v as (gates, N, heads, D / heads), masked, and weight as (gates, heads, H / heads, D / heads)."""
    parts = np.broadcast_to(mask * v, (gates, *v.shape)).reshape(gates, len(v), heads, v.shape[1] // heads)
    return parts, weight.reshape(gates, heads, len(weight) // gates // heads, weight.shape[1])


def norm(v: Any, epsilon: float) -> Array:
    """LN(v) over the last axis."""
    centred = v - v.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)


def norm_backward(v: Any, epsilon: float, dnorm: Array) -> Array:
    """The derivative of `norm`: what is common to all values, and what scales them, does not pass."""
    centred = v - v.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    y = centred / deviation
    return (dnorm - dnorm.mean(axis=-1, keepdims=True) - y * (dnorm * y).mean(axis=-1, keepdims=True)) / deviation


def by_gate(a: Any, order: str) -> dict[str, Array]:
    """The blocks of a by gate; a number is that of every gate."""
    return dict.fromkeys(order, a) if np.ndim(a) == 0 else dict(zip(order, np.split(a, len(order), -1), strict=True))


def joined(blocks: Any, order: str) -> Array:
    """The opposite of `by_gate`."""
    return np.concatenate([blocks[k] for k in order], axis=-1)


# One step


def order_of(cell: Any) -> str:
    """The gates in the order of their blocks."""
    return "ifzo" if cell.slstm else "igo" if cell.cifg else "ifgo"


def step(x_t: Array, h: Array, c: Array, params: Arrays, cell: Any, drop: Any) -> Any:
    """One step: all its values by name, of which h and c are the new state, and gates are those of the tape."""
    order, get = order_of(cell), params.get
    v = SimpleNamespace(x=x_t, h_prev=h, c_prev=c)
    v.Wx = product(x_t, params["weight_ih"], drop.x, len(order))
    v.Rh = product(h, params["weight_hh"], drop.h, len(order), cell.heads)
    if cell.layer_norm in ("haste", "fastrnn"):
        epsilon = EPSILON[cell.layer_norm]
        a = get("norm_ih_gain", 0) * norm(v.Wx, epsilon) + get("norm_ih_bias", 0)
        a = a + get("norm_hh_gain", 0) * norm(v.Rh, epsilon) + get("norm_hh_bias", 0)
    else:
        a = v.Wx + v.Rh
    v.a = by_gate(a if cell.layer_norm == "tflite" else a + get("bias", 0), order)
    (slstm_cell if cell.slstm else lstm_cell)(v, params, cell, drop)
    return v


def step_backward(
    v: Any, params: Arrays, cell: Any, drop: Any, dh: Array, dc: Array, add: Callable[[str, Any], None]
) -> Any:
    """The derivative of `step`.

    Parameters
    ----------
    v, params, cell, drop
        Of the step.
    dh, dc : ndarray (N, P), (N, H or 3H)
        dL/dh_t, and what reaches c_t from step t + 1.
    add : callable ``(name, gradient)``
        Takes the gradients of the parameters.

    Returns
    -------
    dx, dh_prev, dc_prev, dc : the last one is the whole dL/dc_t
    """
    gates, get = len(order_of(cell)), params.get
    da, dh_prev, dc_prev, dc = (slstm_cell_backward if cell.slstm else lstm_cell_backward)(
        v, params, cell, drop, dh, dc, add
    )
    if cell.layer_norm != "tflite":
        add("bias", da.sum(axis=0))
    dWx = dRh = da
    if cell.layer_norm in ("haste", "fastrnn"):
        epsilon = EPSILON[cell.layer_norm]
        for side, product_ in (("ih", v.Wx), ("hh", v.Rh)):
            add(f"norm_{side}_bias", da.sum(axis=0))
            add(f"norm_{side}_gain", (da * norm(product_, epsilon)).sum(axis=0))
        dWx = norm_backward(v.Wx, epsilon, get("norm_ih_gain", 0) * da)
        dRh = norm_backward(v.Rh, epsilon, get("norm_hh_gain", 0) * da)
    dh_in, dweight = product_backward(v.h_prev, params["weight_hh"], drop.h, gates, cell.heads, dRh)
    add("weight_hh", dweight)
    dx, dweight = product_backward(v.x, params["weight_ih"], drop.x, gates, 1, dWx)
    add("weight_ih", dweight)
    return dx, dh_prev + dh_in, dc_prev, dc


def lstm_cell(v: Any, params: Arrays, cell: Any, drop: Any) -> Any:
    """From v.a the gates, the memory and the output of an LSTM."""
    get, order = params.get, order_of(cell)
    of_gate, of_candidate, of_output = cell.activations
    peephole = by_gate(get("peephole", 0), order.replace("g", "")) | {"g": 0}
    v.summed, v.entering = {}, {}

    def enter(k: str, memory: Any) -> Any:
        s = v.summed[k] = v.a[k] + peephole[k] * memory
        if cell.layer_norm == "tflite":
            gain, bias = (by_gate(get(name, 0), order)[k] for name in ("norm_gain", "bias"))
            s = gain * norm(s, EPSILON["tflite"]) + bias
        v.entering[k] = s
        return cut(s, cell.clip)

    v.i = activate(of_gate, enter("i", v.c_prev))
    v.f = 1 - v.i if cell.cifg else activate(of_gate, enter("f", v.c_prev))
    v.g = activate(of_candidate, enter("g", v.c_prev))
    v.memory = v.normed = v.f * v.c_prev + v.i * v.g
    if cell.layer_norm == "fastrnn":
        v.normed = get("norm_c_gain", 0) * norm(v.memory, EPSILON["fastrnn"]) + get("norm_c_bias", 0)
    v.m = v.shown = cut(v.normed, cell.cell_clip)
    v.o = activate(of_gate, enter("o", v.m))
    if cell.layer_norm == "haste":
        v.shown = get("norm_c_gain", 0) * norm(v.m, EPSILON["haste"]) + get("norm_c_bias", 0)
    v.active = activate(of_output, v.shown)
    v.out = v.o * v.active
    h = v.out @ params["weight_hr"].T if "weight_hr" in params else v.out
    v.c, v.h = zoneout(v.c_prev, v.m, drop.z_c), zoneout(v.h_prev, h, drop.z_h)
    v.gates = joined(vars(v), order)


def lstm_cell_backward(
    v: Any, params: Arrays, cell: Any, drop: Any, dh: Array, dc: Array, add: Callable[[str, Any], None]
) -> Any:
    """The derivative of `lstm_cell`: da, dh_prev and dc_prev as far as they do not come through a, the whole dc."""
    get, order = params.get, order_of(cell)
    of_gate, of_candidate, of_output = cell.activations
    peephole = by_gate(get("peephole", 0), order.replace("g", "")) | {"g": 0}
    da, dentering = {}, {}

    def leave(k: str, ds: Any) -> Any:
        """Backward through `enter` of gate k: what reaches the memory that the gate sees."""
        ds = dentering[k] = cut_backward(v.entering[k], cell.clip, ds)
        if cell.layer_norm == "tflite":
            ds = norm_backward(v.summed[k], EPSILON["tflite"], by_gate(get("norm_gain", 0), order)[k] * ds)
        da[k] = ds
        return peephole[k] * ds

    def norm_c_backward(memory: Any, dnormed: Array) -> Any:
        """Backward through the norm of the memory."""
        epsilon = EPSILON[cell.layer_norm]
        add("norm_c_bias", dnormed.sum(axis=0))
        add("norm_c_gain", (dnormed * norm(memory, epsilon)).sum(axis=0))
        return norm_backward(memory, epsilon, get("norm_c_gain", 0) * dnormed)

    dh_prev, dout = zoneout_backward(drop.z_h, dh)
    dc_prev, dm = zoneout_backward(drop.z_c, dc)
    if "weight_hr" in params:
        add("weight_hr", dout.T @ v.out)
        dout = dout @ params["weight_hr"]
    do, dshown = dout * v.active, dout * v.o * slope(of_output, v.active)
    if cell.layer_norm == "haste":
        dshown = norm_c_backward(v.m, dshown)
    dm = dm + dshown + leave("o", do * slope(of_gate, v.o))
    if drop.z_c is None:  # then c_t is m
        dc = dm
    dmemory = cut_backward(v.normed, cell.cell_clip, dm)
    if cell.layer_norm == "fastrnn":
        dmemory = norm_c_backward(v.memory, dmemory)
    di, df, dg = dmemory * v.g, dmemory * v.c_prev, dmemory * v.i
    dc_prev = dc_prev + dmemory * v.f
    leave("g", dg * slope(of_candidate, v.g))
    if cell.cifg:
        di = di - df
    else:
        dc_prev = dc_prev + leave("f", df * slope(of_gate, v.f))
    dc_prev = dc_prev + leave("i", di * slope(of_gate, v.i))

    if cell.layer_norm == "tflite":
        normed = {k: norm(v.summed[k], EPSILON["tflite"]) for k in order}
        add("norm_gain", joined({k: dentering[k] * normed[k] for k in order}, order).sum(axis=0))
        add("bias", joined(dentering, order).sum(axis=0))
    seen = {"i": v.c_prev, "f": v.c_prev, "o": v.m}
    with_peephole = order.replace("g", "")
    add("peephole", joined({k: da[k] * seen[k] for k in with_peephole}, with_peephole).sum(axis=0))
    return joined(da, order), dh_prev, dc_prev, dc


def slstm_cell(v: Any, params: Arrays, cell: Any, drop: Any) -> Any:
    """From v.a the gates, the memory and the output of an sLSTM."""
    c, n, m = np.split(v.c_prev, 3, axis=-1)
    v.fresh = n.real == 0
    kept = m - softplus(-v.a["f"])  # log sigmoid(a) is -softplus(-a)
    v.by_input = v.fresh | (v.a["i"].real >= kept.real)
    v.m = np.where(v.by_input, v.a["i"], kept)
    v.i = np.exp(v.a["i"] - v.m)
    v.f = np.where(v.fresh, 0, np.exp(np.where(v.fresh, 0, kept - v.m)))
    v.z, v.o = np.tanh(v.a["z"]), sigmoid(v.a["o"])
    v.memory = v.f * c + v.i * v.z
    v.n = v.f * n + v.i
    v.h = v.o * v.memory / v.n
    v.c = np.concatenate([v.memory, v.n, v.m], axis=-1)
    v.gates = np.concatenate([v.a["i"], v.a["f"], v.z, v.o], axis=-1)


def slstm_cell_backward(
    v: Any, params: Arrays, cell: Any, drop: Any, dh: Array, dc: Array, add: Callable[[str, Any], None]
) -> Any:
    """The derivative of `slstm_cell`, as `lstm_cell_backward`."""
    c, n, _ = np.split(v.c_prev, 3, axis=-1)
    dmemory, dn, dm = np.split(dc, 3, axis=-1)
    do = dh * v.memory / v.n
    dmemory, dn = dmemory + dh * v.o / v.n, dn - dh * v.o * v.memory / v.n**2
    dc = np.concatenate([dmemory, dn, dm], axis=-1)
    di, df = dn + dmemory * v.z, dn * n + dmemory * c
    dz, dn_prev, dmemory_prev = dmemory * v.i, dn * v.f, dmemory * v.f
    dexponent_i, dexponent_f = di * v.i, df * v.f  # i = exp(a_i - m'), f = exp(kept - m')
    dm = dm - dexponent_i - dexponent_f
    da_i = dexponent_i + dm * v.by_input  # m' = a_i or kept
    dkept = dexponent_f + dm * ~v.by_input
    da_f = dkept * sigmoid(-v.a["f"])
    da = np.concatenate([da_i, da_f, dz * (1 - v.z**2), do * v.o * (1 - v.o)], axis=-1)
    return da, np.zeros_like(dh), np.concatenate([dmemory_prev, dn_prev, dkept], axis=-1), dc


# Sequences


def masks_at(masks: Any, t: int, cell: Any, dtype: DTypeLike) -> Drop:
    """The masks of step t; in inference nothing is dropped, and z is the rates."""
    z = tuple(rate or None for rate in cell.zoneout)
    if masks is None:
        return Drop(1, 1, *z)
    given = masks.input, masks.recurrent, *(m if m is None else m[:, t] for m in (masks.zoneout_h, masks.zoneout_c))
    return Drop(*(a if m is None else np.asarray(m, dtype) for m, a in zip(given, (1, 1, *z), strict=True)))


def lstm_step(x_t: Array, state: Pair, params: Arrays, *, cell: Any) -> tuple[Array, Pair]:
    """One step on a batch, in inference: x_t (N, I) and state (h, c) give h_t and the new state."""
    v = step(x_t, *state, params, cell, masks_at(None, 0, cell, x_t.dtype))
    return v.h, (v.h, v.c)


def lstm_forward(
    x: Array,
    params: Arrays,
    state: Pair | None = None,
    *,
    lengths: ArrayLike | None = None,
    reverse: bool = False,
    cell: Any,
    masks: Any = None,
) -> tuple[Array, Pair, Tape]:
    """One layer in one direction.

    Parameters
    ----------
    x : ndarray (N, T, I)
    params : dict name -> ndarray
        As in `Cell.parameters`, without initial_h and initial_c; a vector that is absent is zero, and with weight_hr
        the output is projected.
    state : (h0, c0), (N, P) and (N, H), or (N, 3H) of an sLSTM; zero if None
    lengths : ndarray of int (N,), T for all if None
        Steps past a sequence's length do not exist: its state stays as it was, its output there is 0.
    reverse : bool
        Read each sequence from its last step to its first; outputs stay at the time of their input.
    cell : Cell
    masks : with the attributes input (1 or G, N, I), recurrent (1 or G, N, P), zoneout_h (N, T, P), zoneout_c (N, T, H)
        Those of training, each None without that option. None is inference.

    Returns
    -------
    y (N, T, P), (h_n, c_n), tape
    """
    batch, steps, _ = x.shape
    dtype = np.result_type(x, params["weight_ih"])
    rows, hidden = len(params["weight_ih"]), len(params["weight_ih"]) // len(order_of(cell))
    running = np.arange(steps) < (np.full(batch, steps) if lengths is None else np.asarray(lengths))[:, None]
    x = np.where(running[..., None], x, 0)
    if state is None:
        widths = len(params["weight_hr"]) if "weight_hr" in params else hidden, hidden * (3 if cell.slstm else 1)
        state = (np.zeros((batch, width), dtype) for width in widths)
    h, c = state

    y, h_prev = (np.zeros((batch, steps, h.shape[1]), dtype) for _ in range(2))
    c_prev, gates = (np.zeros((batch, steps, width), dtype) for width in (c.shape[1], rows))
    for t in reversed(range(steps)) if reverse else range(steps):
        h_prev[:, t], c_prev[:, t] = h, c
        v = step(x[:, t], h, c, params, cell, masks_at(masks, t, cell, dtype))
        on = running[:, t, None]
        y[:, t], gates[:, t] = np.where(on, v.h, 0), v.gates
        h, c = np.where(on, v.h, h), np.where(on, v.c, c)
    return y, (h, c), Tape(x, gates, h_prev, c_prev, running, params, reverse, cell, masks)


def lstm_backward(tape: Tape, dy: Array | None, dstate: Pair | None = None) -> Any:
    """The derivative of `lstm_forward`: back-propagation through time.

    Parameters
    ----------
    tape : from `lstm_forward`
    dy : ndarray (N, T, P) or None for zero
        dL/dy; what stands on the padding is ignored.
    dstate : (dh_n, dc_n), as the state; zero if None

    Returns
    -------
    Gradients
        dc is the gradient by the memory that a step hands on: through h_t too where h_t shows it, which it does not
        with a zoneout of c, and which the stabiliser of an sLSTM is not.
    """
    x, _, h_prev, c_prev, running, params, reverse, cell, masks = tape
    steps = x.shape[1]
    dh, dc = (np.zeros_like(a, shape=(len(a), a.shape[2])) for a in (h_prev, c_prev)) if dstate is None else dstate
    dx, dh_all, dc_all = (np.zeros_like(a) for a in (np.asarray(x, h_prev.dtype), h_prev, c_prev))
    dparams = {name: np.zeros(array.shape, h_prev.dtype) for name, array in params.items()}

    def add(name: str, gradient: Array) -> None:
        if name in dparams:
            dparams[name] += gradient

    for t in range(steps) if reverse else reversed(range(steps)):
        on = running[:, t, None]
        drop = masks_at(masks, t, cell, h_prev.dtype)
        dh_t = np.where(on, dh if dy is None else dh + dy[:, t], 0)  # h_t is shown as y_t, and used by step t + 1
        dc_t = np.where(on, dc, 0)
        v = step(x[:, t], np.where(on, h_prev[:, t], 0), np.where(on, c_prev[:, t], 0), params, cell, drop)
        dx[:, t], dh_before, dc_before, dc_all[:, t] = step_backward(v, params, cell, drop, dh_t, dc_t, add)
        dh_all[:, t] = dh_t
        dh, dc = np.where(on, dh_before, dh), np.where(on, dc_before, dc)
    return Gradients(dx, (dh, dc), dparams, dh_all, dc_all)
