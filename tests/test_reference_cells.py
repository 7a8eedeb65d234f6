"""lstmx.reference_cells is the oracle of every option of a cell: complex steps and the formulas of its sources, written
out here in their own layouts, prove it.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from cell_cases import Exact
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from test_reference import complex_step
from tolerances import COMPLEX_STEP, ONNXRUNTIME, PEER

from lstmx import LSTM, Cell, reference
from lstmx import reference_cells as cells
from lstmx.functional.cell import ACTIVATIONS, LAYER_NORMS

quick = settings(deadline=None, max_examples=40, derandomize=True, database=None)
SCALED = [("affine", 0.3, 0.4), ("leaky_relu", 0.2), ("thresholded_relu", 0.3), ("scaled_tanh", 0.7, 1.5),
          ("hard_sigmoid", 0.4, 0.3), ("elu", 0.6)]  # fmt: skip
EVERY_ACTIVATION = [*SCALED, "sigmoid", "tanh", "relu", "leaky_relu", "thresholded_relu", "hard_sigmoid", "elu",
                    "softsign", "softplus"]  # fmt: skip
OF_LSTM = {
    "plain": {},
    "peephole": {"peephole": True},
    "cifg": {"cifg": True},
    "clip": {"clip": 0.6},
    "cell_clip": {"cell_clip": 0.4},
    "cell_clip and peephole": {"cell_clip": 0.4, "peephole": True},
    "haste": {"layer_norm": "haste"},
    "fastrnn": {"layer_norm": "fastrnn"},
    "fastrnn, cut": {"layer_norm": "fastrnn", "cell_clip": 0.9, "clip": 0.9},
    "tflite": {"layer_norm": "tflite"},
    "tflite, peephole and cifg": {"layer_norm": "tflite", "peephole": True, "cifg": True},
    "zoneout": {"zoneout": (0.2, 0.3)},
    "zoneout of c": {"zoneout": (0, 0.3), "peephole": True},
    "activations": {"activations": ("hard_sigmoid", "softsign", "elu")},
}
OF_SLSTM = {"slstm": {"slstm": True}, "heads": {"slstm": True, "heads": 2}}
OPTIONS = OF_LSTM | OF_SLSTM
options = pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)


def problem(cell, batch=3, steps=4, inputs=3, hidden=4, proj=0, bias=True, seed=0, dtype="float64", scale=1.0):
    """Everything that a forward and backward pass take, of order 1, by name; parameters have the names of `Cell`'s."""
    rng = np.random.default_rng(seed)
    width, memory = cell.widths(hidden, proj)
    shapes = {p.name: p.shape for p in cell.parameters(inputs, hidden, bias, proj)}
    p = {name: rng.normal(size=shape, scale=scale) for name, shape in shapes.items()}
    p |= {"x": rng.normal(size=(batch, steps, inputs)), "dy": rng.normal(size=(batch, steps, width))}
    for name, size in (("h0", width), ("c0", memory), ("dh_n", width), ("dc_n", memory)):
        p[name] = rng.normal(size=(batch, size))
    if cell.slstm:  # a normaliser is positive, or 0 where nothing was seen
        n = slice(hidden, 2 * hidden)
        p["c0"][:, n] = np.where(rng.random((batch, hidden)) < 0.3, 0, np.abs(p["c0"][:, n]) + 0.1)
    return {name: array.astype(dtype) for name, array in p.items()}


def masks_of(cell, p, seed=1, per_gate=True):
    """Masks of training for a `problem`."""
    rng = np.random.default_rng(seed)
    (batch, steps, inputs), width, memory = p["x"].shape, p["h0"].shape[1], p["c0"].shape[1]
    gates, dtype = cell.gates if per_gate else 1, p["x"].real.dtype

    def zeros_or(value, *shape):
        return (value * (rng.random(shape) < 0.7)).astype(dtype)

    z_h, z_c = cell.zoneout
    return SimpleNamespace(
        input=zeros_or(1 / 0.7, gates, batch, inputs), recurrent=zeros_or(1 / 0.7, gates, batch, width),
        zoneout_h=zeros_or(1, batch, steps, width) if z_h else None,
        zoneout_c=zeros_or(1, batch, steps, memory) if z_c else None,
    )  # fmt: skip


def params_of(p):
    return {name: array for name, array in p.items() if name not in ("x", "h0", "c0", "dy", "dh_n", "dc_n")}


def forward(p, **given):
    return cells.lstm_forward(p["x"], params_of(p), (p["h0"], p["c0"]), **given)


def loss(p, **given):
    """A linear function of all outputs."""
    y, (h_n, c_n), _ = forward(p, **given)
    return (y * p["dy"]).sum() + (h_n * p["dh_n"]).sum() + (c_n * p["dc_n"]).sum()


def gradients(p, **given):
    """Every gradient by name."""
    grads = cells.lstm_backward(forward(p, **given)[2], p["dy"], (p["dh_n"], p["dc_n"]))
    return {"x": grads.x, "h0": grads.state[0], "c0": grads.state[1], **grads.params}


# Gradients


@pytest.mark.parametrize(
    ("ragged", "training"),
    [({}, False), ({"lengths": [3, 0, 2]}, True), ({"lengths": [3, 0, 2], "reverse": True}, True)],
    ids=["inference", "training, ragged", "training, ragged, reverse"],
)
@options
def test_every_gradient_equals_the_complex_step(option, ragged, training):
    cell = Cell(**option)
    for proj in (0,) if cell.slstm else (0, 2):
        p = problem(cell, steps=3, inputs=2, proj=proj)
        given = {"cell": cell, "masks": masks_of(cell, p, per_gate=not proj) if training else None, **ragged}
        found = gradients(p, **given)
        assert found.keys() == {"x", "h0", "c0", *params_of(p)}
        for name, gradient in found.items():
            wanted = complex_step(lambda q, given=given: loss(q, **given), p, name)
            assert np.abs(wanted).max() > 0.01, f"degenerate test data for {name}"
            assert_allclose(gradient, wanted, **COMPLEX_STEP, err_msg=name)


@st.composite
def any_cell(draw):
    """Any cell with any options that it may have."""
    rate = st.sampled_from([0, 0.1, 0.5])
    if draw(st.booleans()) and draw(st.booleans()):
        return Cell(slstm=True, heads=draw(st.sampled_from([1, 2, 4])))
    layer_norm = draw(st.sampled_from([None, *LAYER_NORMS]))
    return Cell(
        peephole=layer_norm in (None, "tflite") and draw(st.booleans()),
        cifg=draw(st.booleans()),
        clip=draw(st.sampled_from([None, 0.5, 1.5])),
        cell_clip=draw(st.sampled_from([None, 0.3, 1.0])),
        activations=tuple(draw(st.sampled_from(EVERY_ACTIVATION)) for _ in range(3)),
        layer_norm=layer_norm,
        zoneout=(draw(rate), draw(rate)),
    )


@quick
@given(cell=any_cell(), data=st.data())
def test_random_options_have_the_gradients_of_complex_steps(cell, data):
    draw, booleans = data.draw, st.booleans()
    proj = 0 if cell.slstm else draw(st.sampled_from([0, 3]))
    p = problem(cell, hidden=4, proj=proj, bias=draw(booleans), seed=draw(st.integers(0, 99)), scale=0.5)
    given = {
        "cell": cell,
        "lengths": draw(st.none() | st.lists(st.integers(0, 4), min_size=3, max_size=3)),
        "reverse": draw(booleans),
        "masks": masks_of(cell, p, draw(st.integers(0, 99)), draw(booleans)) if draw(booleans) else None,
    }
    rng = np.random.default_rng(0)
    wide = {name: array.astype(complex) for name, array in p.items()}
    for name, gradient in gradients(p, **given).items():
        direction = rng.normal(size=gradient.shape)
        wanted = loss({**wide, name: p[name] + 1e-30j * direction}, **given).imag / 1e-30
        terms = gradient * direction
        size = np.abs(terms).sum() + 1
        assert_allclose(terms.sum() / size, wanted / size, **COMPLEX_STEP, err_msg=name)


@pytest.mark.parametrize("activation", EVERY_ACTIVATION, ids=str)
def test_the_slope_of_an_activation_is_its_derivative(activation):
    x = np.linspace(-3, 3, 61) + 0.013
    y = cells.activate(activation, x)
    assert_allclose(cells.slope(activation, y), cells.activate(activation, x + 1e-30j).imag / 1e-30, **COMPLEX_STEP)


def test_nothing_that_lies_at_a_bound_passes_a_gradient():
    x = np.array([-2.0, -1, -0.5, 0, 1, 2])
    assert_array_equal(cells.cut(x, 1.0), [-1, -1, -0.5, 0, 1, 1])
    assert_array_equal(cells.cut_backward(x, 1.0, np.ones(6)), [0, 0, 1, 1, 0, 0])


@pytest.mark.parametrize("t", [0, 2])
@options
def test_dh_and_dc_are_the_derivatives_by_what_a_step_hands_on(option, t):
    # what is added to h_t reaches y_t and step t + 1; what is added to c_t reaches h_t where it is c_t that h_t shows
    cell = Cell(**option)
    p = problem(cell, seed=3)
    params, drop = params_of(p), cells.masks_at(None, 0, cell, float)
    grads = cells.lstm_backward(forward(p, cell=cell)[2], p["dy"], (p["dh_n"], p["dc_n"]))
    _, (h, c), _ = forward({**p, "x": p["x"][:, :t]}, cell=cell)
    now = cells.step(p["x"][:, t], h, c, params, cell, drop)
    added = {"h": np.zeros_like(h), "c": np.zeros_like(c)}

    def rest(add):
        c = now.c + add["c"]
        if cell.slstm:
            memory, n, _ = np.split(c, 3, axis=-1)
            h = now.o * memory / n
        elif cell.zoneout[1]:
            h = now.h
        else:
            p_o = np.split(params["peephole"], 2 + (not cell.cifg))[-1] if cell.peephole else 0
            o, shown = now.o, c
            if cell.layer_norm == "tflite":
                gain, bias = (np.split(params[name], cell.gates)[-1] for name in ("norm_gain", "bias"))
                o = reference.sigmoid(gain * layer_norm(now.a["o"] + p_o * c, 1e-8) + bias)
            elif cell.peephole:
                o = reference.sigmoid(now.a["o"] + p_o * c)
            if cell.layer_norm == "haste":
                shown = params["norm_c_gain"] * layer_norm(c, 1e-5) + params["norm_c_bias"]
            z = cell.zoneout[0]
            h = z * now.h_prev + (1 - z) * o * cells.activate(cell.activations[2], shown)
        h = h + add["h"]
        after = {**p, "x": p["x"][:, t + 1 :] + 0j, "h0": h, "c0": c, "dy": p["dy"][:, t + 1 :]}
        return loss(after, cell=cell) + (h * p["dy"][:, t]).sum()

    assert_allclose(grads.dh[:, t], complex_step(rest, added, "h"), **COMPLEX_STEP)
    assert_allclose(grads.dc[:, t], complex_step(rest, added, "c"), **COMPLEX_STEP)


# Sequences


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ragged", [{}, {"lengths": [4, 0, 2], "reverse": True}], ids=str)
def test_the_plain_cell_is_that_of_the_reference(ragged, dtype):
    p = problem(Cell(), dtype=dtype)
    y, state, tape = forward(p, cell=Cell(), **ragged)
    names = ("weight_ih", "weight_hh", "bias")
    plain = reference.lstm_forward(p["x"], *(p[name] for name in names), (p["h0"], p["c0"]), **ragged)
    grads, plain_grads = (
        module.lstm_backward(tape, p["dy"], (p["dh_n"], p["dc_n"]))
        for module, tape in ((cells, tape), (reference, plain[2]))
    )
    pairs = [(y, plain[0]), *zip(state, plain[1], strict=True), (tape.c_prev, plain[2].c_prev)]
    pairs += [(getattr(grads, name), getattr(plain_grads, name)) for name in ("x", "dh", "dc")]
    pairs += [(grads.params[name], plain_grads.params[name]) for name in names]
    pairs += zip(grads.state, plain_grads.state, strict=True)
    running = tape.running[..., None]
    for found, wanted in [*pairs, (tape.gates * running, plain[2].gates * running)]:
        assert_allclose(found, wanted, **PEER[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@options
def test_arithmetic_stays_in_the_type_of_the_arrays(option, dtype):
    cell = Cell(**option)
    p = problem(cell, dtype=dtype)
    for masks in (None, masks_of(cell, p)):
        y, state, tape = forward(p, cell=cell, masks=masks)
        grads = cells.lstm_backward(tape, p["dy"])
        for array in (y, *state, tape.gates, grads.x, *grads.state, *grads.params.values(), grads.dh, grads.dc):
            assert array.dtype == dtype
    h, state = cells.lstm_step(p["x"][:, 0], (p["h0"], p["c0"]), params_of(p), cell=cell)
    assert {array.dtype.name for array in (h, *state)} == {dtype}


@pytest.mark.parametrize("activation", EVERY_ACTIVATION, ids=str)
def test_an_activation_stays_in_the_type_of_its_argument_and_does_not_overflow(activation):
    x = np.array([-1e4, -1, 0, 1, 1e4], "f4")
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = cells.activate(activation, x)
        assert y.dtype == "f4" and np.isfinite(y).all() and cells.slope(activation, y).dtype == "f4"


@options
def test_steps_equal_the_whole_and_zero_is_the_default_state(option):
    cell = Cell(**option)
    p = problem(cell, seed=4)
    y, whole, _ = forward(p, cell=cell)
    state = p["h0"], p["c0"]
    for t in range(4):
        h, state = cells.lstm_step(p["x"][:, t], state, params_of(p), cell=cell)
        assert_allclose(h, y[:, t], **PEER["float64"])
    for found, wanted in zip(state, whole, strict=True):
        assert_allclose(found, wanted, **PEER["float64"])
    zero = {**p, "h0": 0 * p["h0"], "c0": 0 * p["c0"]}
    assert_array_equal(cells.lstm_forward(p["x"], params_of(p), cell=cell)[0], forward(zero, cell=cell)[0])


@pytest.mark.parametrize("reverse", [False, True])
@options
def test_padding_and_other_rows_do_not_matter(option, reverse):
    cell = Cell(**option)
    p = problem(cell, seed=5)
    given = {"cell": cell, "lengths": [4, 0, 2], "reverse": reverse}
    masks = masks_of(cell, p)
    dirty = {**p, "x": p["x"].copy(), "dy": p["dy"].copy()}
    for name in ("x", "dy"):
        dirty[name][1], dirty[name][2, 2:] = np.nan, np.inf
    y, (h, c), _ = forward(dirty, masks=masks, **given)
    assert_array_equal(y, forward(p, masks=masks, **given)[0])
    assert not y[1].any() and not y[2, 2:].any()
    assert_array_equal(h[1], p["h0"][1])
    assert_array_equal(c[1], p["c0"][1])
    found, wanted = gradients(dirty, masks=masks, **given), gradients(p, masks=masks, **given)
    for name in wanted:
        assert_array_equal(found[name], wanted[name], err_msg=name)
    assert not found["x"][1].any() and not found["x"][2, 2:].any()
    assert_array_equal(found["c0"][1], p["dc_n"][1])
    alone = {name: p[name][2:] for name in ("x", "h0", "c0")}
    alone["x"] = alone["x"][:, :2]
    alone_masks = SimpleNamespace(
        **{n: m if m is None else m[:, 2:] if n in ("input", "recurrent") else m[2:] for n, m in vars(masks).items()}
    )
    alone_y = forward({**p, **alone}, cell=cell, reverse=reverse, masks=alone_masks)[0]
    assert_allclose(alone_y[0], y[2, :2], **PEER["float64"])


@pytest.mark.parametrize(("batch", "steps"), [(3, 0), (0, 4), (0, 0)])
@options
def test_no_steps_and_no_rows(option, batch, steps):
    cell = Cell(**option)
    p = problem(cell, batch=batch, steps=steps)
    y, (h_n, c_n), _ = forward(p, cell=cell)
    found = gradients(p, cell=cell)
    assert y.shape == (batch, steps, 4)
    assert_array_equal(h_n, p["h0"])
    assert_array_equal(c_n, p["c0"])
    assert_array_equal(found["c0"], p["dc_n"])
    for name in ("x", *params_of(p)):
        assert found[name].shape == p[name].shape and not found[name].any()


@options
def test_inputs_are_not_changed_and_no_gradient_means_zero(option):
    cell = Cell(**option)
    p = problem(cell, seed=6)
    before = {name: array.copy() for name, array in p.items()}
    tape = forward(p, cell=cell, lengths=[4, 0, 2])[2]
    zero = np.zeros_like(p["dc_n"])
    found = cells.lstm_backward(tape, p["dy"], (0 * p["dh_n"], zero))
    for name, gradient in cells.lstm_backward(tape, p["dy"]).params.items():
        assert_array_equal(gradient, found.params[name])
    assert not any(gradient.any() for gradient in cells.lstm_backward(tape, None).params.values())
    for name, array in p.items():
        assert_array_equal(array, before[name])


# The sources, each in its own layout: time first, weights that stand on the right, its own order of gates


def logistic(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, epsilon):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon)


def test_the_epsilons_are_those_that_cell_says():
    assert cells.EPSILON == LAYER_NORMS


def in_order(a, order, ours="ifgo"):
    """Our blocks of rows in another order."""
    blocks = dict(zip(ours, np.split(a, len(ours)), strict=True))
    return np.concatenate([blocks[k] for k in order])


def compare(cell, p, found, masks=None, precision=PEER["float64"], **given):
    """Ours beside a source's (h (T, N, P), c (N, H))."""
    y, (h_n, c_n), _ = forward(p, cell=cell, masks=masks, **given)
    h, c = found
    assert_allclose(y, np.swapaxes(h, 0, 1), **precision)
    assert_allclose(c_n, c, **precision)
    return h_n


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_haste(normed, training):
    """LSTM and LayerNormLSTM: i, g, f, o; zoneout of h alone, whose mask is 1 where a unit takes its new value."""
    rate = 0.3
    cell = Cell(layer_norm="haste" if normed else None, zoneout=(rate, 0))
    p = problem(cell, seed=7)
    kernel, recurrent = (in_order(p[name], "igfo").T for name in ("weight_ih", "weight_hh"))
    bias = in_order(p["bias"], "igfo")
    mask = np.random.default_rng(0).integers(0, 2, (4, 3, 4)).astype(float)
    h, c, hs = p["h0"], p["c0"], []
    for t, x in enumerate(p["x"].swapaxes(0, 1)):
        Wx, Rh = x @ kernel, h @ recurrent
        if normed:
            Wx = in_order(p["norm_ih_gain"], "igfo") * layer_norm(Wx, 1e-5)
            Rh = in_order(p["norm_hh_gain"], "igfo") * layer_norm(Rh, 1e-5)
        i, g, f, o = np.split(Wx + Rh + bias, 4, axis=1)
        c = logistic(f) * c + logistic(i) * np.tanh(g)
        shown = p["norm_c_gain"] * layer_norm(c, 1e-5) + p["norm_c_bias"] if normed else c
        h_new = logistic(o) * np.tanh(shown)
        h = (h_new - h) * mask[t] + h if training else rate * h + (1 - rate) * h_new
        hs.append(h)
    masks = SimpleNamespace(input=None, recurrent=None, zoneout_h=1 - mask.swapaxes(0, 1), zoneout_c=None)
    compare(cell, p, (hs, c), masks if training else None)


@pytest.mark.parametrize("training", [False, True])
def test_zoneout_of_its_paper(training):
    """Krueger et al. 2017, equations 3 and 4: d is 1 where a unit keeps its value, and h shows the memory unzoned."""
    cell = Cell(zoneout=(0.2, 0.4))
    p = problem(cell, seed=8)
    masks = masks_of(cell, p)
    masks.input = masks.recurrent = None
    h, c, hs = p["h0"], p["c0"], []
    for t in range(4):
        d_h, d_c = (masks.zoneout_h[:, t], masks.zoneout_c[:, t]) if training else (0.2, 0.4)
        i, f, g, o = np.split(p["x"][:, t] @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"], 4, axis=1)
        new = logistic(f) * c + logistic(i) * np.tanh(g)
        c = d_c * c + (1 - d_c) * new
        h = d_h * h + (1 - d_h) * logistic(o) * np.tanh(new)
        hs.append(h)
    compare(cell, p, (hs, c), masks if training else None)


def test_layer_norm_of_torch_fastrnns():
    """LayerNormLSTMCell: i, f, g, o; every norm has gain and bias, and the normed memory is carried."""
    cell = Cell(layer_norm="fastrnn")
    p = problem(cell, seed=9)
    assert "bias" not in p
    h, c, hs = p["h0"], p["c0"], []
    for x in p["x"].swapaxes(0, 1):
        igates = layer_norm(x @ p["weight_ih"].T, 1e-5) * p["norm_ih_gain"] + p["norm_ih_bias"]
        hgates = layer_norm(h @ p["weight_hh"].T, 1e-5) * p["norm_hh_gain"] + p["norm_hh_bias"]
        i, f, g, o = np.split(igates + hgates, 4, axis=1)
        c = layer_norm(logistic(f) * c + logistic(i) * np.tanh(g), 1e-5) * p["norm_c_gain"] + p["norm_c_bias"]
        h = logistic(o) * np.tanh(c)
        hs.append(h)
    compare(cell, p, (hs, c))


@pytest.mark.parametrize("cell_clip", [None, 0.5])
@pytest.mark.parametrize("proj", [0, 3])
@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("cifg", [False, True])
def test_tflite(cifg, normed, peephole, proj, cell_clip):
    """The float step of lstm_eval.cc: tensors by gate, and with CIFG no input gate, which is 1 - f."""
    cell = Cell(cifg=cifg, layer_norm="tflite" if normed else None, peephole=peephole, cell_clip=cell_clip)
    p = problem(cell, proj=proj, seed=10)
    tensors = {}
    for name in ("weight_ih", "weight_hh", "bias", "peephole", "norm_gain"):
        if name in p:
            order = ("i" if cifg else "if") + ("o" if name == "peephole" else "go")
            tensors[name] = dict(zip(order, np.split(p[name], len(order)), strict=True))
    if cifg:  # the forget gate of TFLite is our input gate with its sign turned: 1 - sigmoid(s) = sigmoid(-s)
        for name, by_gate in tensors.items():
            i = by_gate.pop("i")
            by_gate["f"] = i if name == "norm_gain" else -i

    def gate(k, x, h, c):
        s = x @ tensors["weight_ih"][k].T + h @ tensors["weight_hh"][k].T
        if not normed:
            s = s + tensors["bias"][k]
        if peephole and k != "g":
            s = s + tensors["peephole"][k] * c
        return layer_norm(s, 1e-8) * tensors["norm_gain"][k] + tensors["bias"][k] if normed else s

    h, c, hs = p["h0"], p["c0"], []
    for x in p["x"].swapaxes(0, 1):
        f = logistic(gate("f", x, h, c))
        i = 1 - f if cifg else logistic(gate("i", x, h, c))
        c = f * c + i * np.tanh(gate("g", x, h, c))
        c = c if cell_clip is None else np.clip(c, -cell_clip, cell_clip)
        h = logistic(gate("o", x, h, c)) * np.tanh(c)
        h = h @ p["weight_hr"].T if proj else h
        hs.append(h)
    compare(cell, p, (hs, c))


@pytest.mark.parametrize("begins", ["empty", "somewhere"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_xlstm(heads, begins):
    """slstm_forward_pointwise: R has a block for each head, and the first step is that where all n are 0."""
    cell = Cell(slstm=True, heads=heads)
    p = problem(cell, steps=6, hidden=8, seed=11, scale=2)
    p["c0"][:, 8:16] = np.abs(p["c0"][:, 8:16]) + 0.1
    if begins == "empty":
        p["h0"], p["c0"] = 0 * p["h0"], 0 * p["c0"]
    R, width = np.zeros((4, 8, 8)), 8 // heads
    for r in range(heads):
        rows = slice(r * width, (r + 1) * width)
        R[:, rows, rows] = p["weight_hh"].reshape(4, 8, width)[:, rows]
    y, (c, n, m), ys = p["h0"], np.split(p["c0"], 3, axis=1), []
    for x in p["x"].swapaxes(0, 1):
        i, f, z, o = np.split(x @ p["weight_ih"].T + y @ R.reshape(32, 8).T + p["bias"], 4, axis=1)
        logfplusm = m + np.log(logistic(f))
        mnew = i if np.all(n == 0) else np.maximum(i, logfplusm)
        igate, fgate = np.exp(i - mnew), np.exp(logfplusm - mnew)
        c, n, m = fgate * c + igate * np.tanh(z), fgate * n + igate, mnew
        y = logistic(o) * c / n
        ys.append(y)
    compare(cell, p, (ys, np.concatenate([c, n, m], axis=1)))


def test_a_fresh_unit_of_an_slstm_does_not_depend_on_its_batch():
    cell = Cell(slstm=True)
    p = problem(cell, seed=12)
    p["c0"][0] = 0
    alone = cells.lstm_forward(p["x"][:1], params_of(p), (p["h0"][:1], p["c0"][:1]), cell=cell)
    assert_allclose(forward(p, cell=cell)[0][:1], alone[0], **PEER["float64"])


def test_an_slstm_of_huge_gates_does_not_overflow():
    cell = Cell(slstm=True)
    p = problem(cell, scale=1e4, seed=13)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(forward(p, cell=cell)[0]).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients(p, cell=cell).values())


def test_dropout_by_gate_is_that_of_keras():
    """LSTMCell with implementation 1: a mask of x and one of h for each gate, the same at every step."""
    cell = Cell()
    p = problem(cell, seed=14)
    masks = masks_of(cell, p)
    K, R, b = (np.split(p[name], 4) for name in ("weight_ih", "weight_hh", "bias"))
    h, c, hs = p["h0"], p["c0"], []
    for x in p["x"].swapaxes(0, 1):
        i, f, g, o = ((x * masks.input[k]) @ K[k].T + (h * masks.recurrent[k]) @ R[k].T + b[k] for k in range(4))
        c = logistic(f) * c + logistic(i) * np.tanh(g)
        h = logistic(o) * np.tanh(c)
        hs.append(h)
    compare(cell, p, (hs, c), masks)
    shared = masks_of(cell, p, per_gate=False)
    four = SimpleNamespace(**{n: m if m is None else np.repeat(m, 4, axis=0) for n, m in vars(shared).items()})
    assert_array_equal(forward(p, cell=cell, masks=shared)[0], forward(p, cell=cell, masks=four)[0])


@pytest.mark.parametrize("case", ["projected", "projected_ragged", "projected_float32"])
def test_projections_are_those_of_pytorch(case):
    with np.load(Path(__file__).parent / "data" / "torch_lstm.npz") as file:
        data = {key.removeprefix(case + "/"): file[key] for key in file.files if key.startswith(case + "/")}
    config = json.loads(str(data["config"]))
    lstm = LSTM(**{name: value for name, value in config.items() if name not in ("N", "T")})
    lstm.set_parameters({key.removeprefix("param/"): a for key, a in data.items() if key.startswith("param/")})
    exact, lengths = Exact(lstm), data.get("lengths")
    y, state = exact.forward(data["x"], (data["h0"], data["c0"]), lengths)
    dy = data["dy"] * (np.arange(config["T"]) < np.where(lengths is None, config["T"], lengths)[..., None])[..., None]
    dx, dstate, params = exact.backward(dy, (data["dh_n"], data["dc_n"]))
    wanted = {key.removeprefix("grad/"): a for key, a in data.items() if key.startswith("grad/")}
    found = {"x": dx, "h0": dstate[0], "c0": dstate[1]} | params
    assert found.keys() == wanted.keys()
    for ours, theirs in (
        (y, data["y"]), *zip(state, (data["h_n"], data["c_n"]), strict=True), *((found[k], wanted[k]) for k in wanted)
    ):  # fmt: skip
        assert_allclose(ours, theirs, **PEER[config["dtype"]])


# ONNX's operator


def onnx_model(cell, p, kind):
    """An LSTM node with the options of a cell, and what it is fed; coupled gates have a forget gate that is unused."""
    hidden = p["h0"].shape[1]
    names = [(a,) if isinstance(a, str) else a for a in cell.activations]
    attributes = {"hidden_size": hidden}
    if cell.clip:
        attributes["clip"] = cell.clip
    if cell.cifg:
        attributes["input_forget"] = 1
    if cell.activations != ("sigmoid", "tanh", "tanh"):
        # defaults are written out: a list of alphas is consumed in order
        numbers = [(*numbers, *ACTIVATIONS[name][len(numbers) :]) for name, *numbers in names]
        attributes["activations"] = [name.title().replace("_", "") for name, *_ in names]
        for k, attribute in enumerate(("activation_alpha", "activation_beta")):
            if values := [pair[k] for pair in numbers if len(pair) > k]:
                attributes[attribute] = values
    inputs, outputs = ["X", "W", "R", "B", "", "h0", "c0", "P"], ["Y", "Y_h", "Y_c"]
    node = helper.make_node("LSTM", inputs, outputs, **attributes)
    infos = [[helper.make_tensor_value_info(n, kind, None) for n in side if n] for side in (inputs, outputs)]
    model = helper.make_model(
        helper.make_graph([node], "lstm", *infos), opset_imports=[helper.make_opsetid("", 14)], ir_version=8
    )

    def iofc(a):
        if cell.cifg:
            i, g, o = np.split(a, 3)
            a = np.concatenate([i, i, g, o])
        return in_order(a, "iofg")

    peephole = p.get("peephole", np.zeros((3 - cell.cifg) * hidden, p["x"].dtype))
    P = np.split(peephole, 3 - cell.cifg)
    feed = {
        "X": p["x"].swapaxes(0, 1),
        "W": iofc(p["weight_ih"])[None],
        "R": iofc(p["weight_hh"])[None],
        "B": np.concatenate([iofc(p["bias"]), np.zeros(4 * hidden, p["x"].dtype)])[None],
        "h0": p["h0"][None],
        "c0": p["c0"][None],
        "P": np.concatenate([P[0], P[-1], P[0] if cell.cifg else P[1]])[None],
    }
    return model, feed


def test_peepholes_are_those_of_the_onnx_reference():
    cell = Cell(peephole=True)
    p = problem(cell, seed=15)
    model, feed = onnx_model(cell, p, TensorProto.DOUBLE)
    Y, h, c = ReferenceEvaluator(model).run(None, feed)
    assert_allclose(compare(cell, p, (Y[:, 0], c[0])), h[0], **PEER["float64"])


OF_ONNX = {
    "peephole": {"peephole": True},
    "clip": {"clip": 0.5},
    "cifg": {"cifg": True},
    "all three": {"peephole": True, "clip": 0.5, "cifg": True},
    **{f"{a}": {"activations": ("sigmoid", a, "tanh")} for a in EVERY_ACTIVATION},
    **{f"{a} of the output": {"activations": ("hard_sigmoid", "softsign", a)} for a in SCALED},
    "hard sigmoid of the gates": {"activations": (("hard_sigmoid", 0.3, 0.4), "tanh", "softsign"), "peephole": True},
}


@pytest.mark.parametrize("option", OF_ONNX.values(), ids=OF_ONNX)
def test_options_are_those_of_onnxruntime(option):
    cell = Cell(**option)
    p = problem(cell, seed=16, dtype="float32")
    model, feed = onnx_model(cell, p, TensorProto.FLOAT)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    Y, h, c = session.run(None, feed)
    assert_allclose(compare(cell, p, (Y[:, 0], c[0]), precision=ONNXRUNTIME), h[0], **ONNXRUNTIME)
