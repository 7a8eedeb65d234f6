"""lstmx.reference is the oracle of all other tests; complex steps, PyTorch and ONNX, which do not know it, prove it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tolerances import COMPLEX_STEP, FINITE_DIFFERENCE, PEER

from lstmx import reference
from lstmx.testing import finite_difference

TORCH = np.load(Path(__file__).parent / "data" / "torch_lstm.npz", allow_pickle=False)
TORCH_CASES = sorted({key.split("/")[0] for key in TORCH.files if "projected" not in key})
WEIGHTS = ("weight_ih", "weight_hh", "bias")


def problem(batch=3, steps=4, inputs=3, hidden=4, seed=0, dtype="float64"):
    """Everything that a forward and backward pass take, of order 1 so that no gate is in its linear range only."""
    rng = np.random.default_rng(seed)
    shapes = {
        "x": (batch, steps, inputs),
        "weight_ih": (4 * hidden, inputs),
        "weight_hh": (4 * hidden, hidden),
        "bias": (4 * hidden,),
        "h0": (batch, hidden),
        "c0": (batch, hidden),
        "dy": (batch, steps, hidden),
        "dh_n": (batch, hidden),
        "dc_n": (batch, hidden),
    }
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def forward(p, **options):
    return reference.lstm_forward(p["x"], p["weight_ih"], p["weight_hh"], p.get("bias"), (p["h0"], p["c0"]), **options)


def loss(p, **options):
    """A linear function of all outputs; the padding of y is 0, whatever dy is there."""
    y, (h_n, c_n), _ = forward(p, **options)
    return (y * p["dy"]).sum() + (h_n * p["dh_n"]).sum() + (c_n * p["dc_n"]).sum()


def gradients(p, **options):
    """Every gradient by name."""
    grads = reference.lstm_backward(forward(p, **options)[2], p["dy"], (p["dh_n"], p["dc_n"]))
    return {"x": grads.x, "h0": grads.state[0], "c0": grads.state[1], **grads.params}


def complex_step(function, p, name):
    """d function(p) / d p[name], exact but for rounding: f(x + ih) has imaginary part h f'(x) + O(h^3)."""
    step = 1e-30
    p = {key: value.astype(np.complex128) for key, value in p.items()}
    out = np.zeros(p[name].shape)
    for place in np.ndindex(out.shape):
        p[name][place] += 1j * step
        out[place] = function(p).imag / step
        p[name][place] = p[name][place].real
    return out


CASES = {
    "plain": {},
    "reverse": {"reverse": True},
    "ragged with an empty row": {"lengths": [4, 0, 2]},
    "ragged with an empty row, reverse": {"lengths": [3, 0, 1], "reverse": True},
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_every_gradient_equals_the_complex_step(options, bias):
    p = problem()
    if not bias:
        del p["bias"]
    found = gradients(p, **options)
    assert ("bias" in found) == bias
    for name, gradient in found.items():
        wanted = complex_step(lambda q: loss(q, **options), p, name)
        assert np.abs(wanted).max() > 0.1, f"degenerate test data for {name}"
        assert_allclose(gradient, wanted, **COMPLEX_STEP, err_msg=name)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_gradients_equal_finite_differences(options):
    # real arithmetic end to end, so that nothing rests on complex functions being right
    p = problem(seed=1)
    for name, gradient in gradients(p, **options).items():
        assert_allclose(gradient, finite_difference(lambda: loss(p, **options), p[name]), **FINITE_DIFFERENCE)


def test_cell_backward_is_the_derivative_of_cell_forward():
    rng = np.random.default_rng(2)
    p = {"a": rng.normal(size=(2, 12)), "c_prev": rng.normal(size=(2, 3))}
    dh, dc = rng.normal(size=(2, 2, 3))

    def of_outputs(q):
        _, c, h = reference.cell_forward(q["a"], q["c_prev"])
        return (h * dh).sum() + (c * dc).sum()

    gates, _, _ = reference.cell_forward(p["a"], p["c_prev"])
    da, _, dc_prev = reference.cell_backward(gates, p["c_prev"], dh, dc)
    assert_allclose(da, complex_step(of_outputs, p, "a"), **COMPLEX_STEP)
    assert_allclose(dc_prev, complex_step(of_outputs, p, "c_prev"), **COMPLEX_STEP)


@pytest.mark.parametrize("t", [0, 2, 3])
def test_dh_and_dc_are_the_derivatives_by_the_state_of_every_step(t):
    # the network is cut after step t: what is added to h_t reaches y_t and step t + 1, what is added to c_t also h_t
    p = problem(seed=3)
    grads = reference.lstm_backward(forward(p)[2], p["dy"], (p["dh_n"], p["dc_n"]))
    before = {**p, "x": p["x"][:, :t]}
    added = {"h": np.zeros((3, 4)), "c": np.zeros((3, 4))}

    def rest(add):
        _, (h, c), _ = forward(before)
        a = p["x"][:, t] @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias"]
        gates, c, _ = reference.cell_forward(a, c)
        c = c + add["c"]
        h = gates[:, -4:] * np.tanh(c) + add["h"]
        after = {**p, "x": p["x"][:, t + 1 :] + 0j, "h0": h, "c0": c, "dy": p["dy"][:, t + 1 :]}
        return loss(after) + (h * p["dy"][:, t]).sum()

    assert_allclose(grads.dh[:, t], complex_step(rest, added, "h"), **COMPLEX_STEP)
    assert_allclose(grads.dc[:, t], complex_step(rest, added, "c"), **COMPLEX_STEP)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_backward_is_linear_and_zero_gives_exactly_zero(options):
    p = problem(seed=4)
    other = problem(seed=5)
    tape = forward(p, **options)[2]

    def backward(scale_one, scale_two):
        dy, dh, dc = (scale_one * p[k] + scale_two * other[k] for k in ("dy", "dh_n", "dc_n"))
        grads = reference.lstm_backward(tape, dy, (dh, dc))
        return [grads.x, *grads.state, *grads.params.values(), grads.dh, grads.dc]

    for one, two, both, nothing in zip(backward(1, 0), backward(0, 1), backward(2, -3), backward(0, 0), strict=True):
        assert_allclose(both, 2 * one - 3 * two, **PEER["float64"])
        assert not nothing.any()


def test_no_gradient_given_means_zero():
    p = problem(seed=6)
    tape = forward(p)[2]
    zero = np.zeros((3, 4))
    for given, absent in (
        (reference.lstm_backward(tape, np.zeros_like(p["dy"]), (p["dh_n"], zero)), (None, (p["dh_n"], zero))),
        (reference.lstm_backward(tape, p["dy"], (zero, zero)), (p["dy"], None)),
    ):
        found = reference.lstm_backward(tape, *absent)
        assert_array_equal(found.x, given.x)
        for name in WEIGHTS:
            assert_array_equal(found.params[name], given.params[name])


def stacked(arrays, config, lengths):
    """An LSTM of several layers and directions, forward and backward, made of reference calls; outputs by key."""
    directions = ["", "_reverse"][: 1 + config["bidirectional"]]
    hidden = config["hidden_size"]
    below, tapes, h_n, c_n = arrays["x"], [], [], []
    for layer in range(config["num_layers"]):
        outputs = []
        for d, suffix in enumerate(directions):
            weights = (arrays[f"param/{name}_l{layer}{suffix}"] for name in WEIGHTS)
            at = layer * len(directions) + d
            state = arrays["h0"][at], arrays["c0"][at]
            y, (h, c), tape = reference.lstm_forward(below, *weights, state, lengths=lengths, reverse=bool(d))
            outputs.append(y)
            h_n.append(h)
            c_n.append(c)
            tapes.append(tape)
        below = np.concatenate(outputs, axis=-1)
    out = {"y": below, "h_n": np.stack(h_n), "c_n": np.stack(c_n)}

    dy, dh0, dc0 = arrays["dy"], np.zeros_like(arrays["h0"]), np.zeros_like(arrays["c0"])
    for layer in reversed(range(config["num_layers"])):
        dx = 0
        for d, suffix in enumerate(directions):
            at = layer * len(directions) + d
            part = dy[..., d * hidden : (d + 1) * hidden]
            grads = reference.lstm_backward(tapes[at], part, (arrays["dh_n"][at], arrays["dc_n"][at]))
            dx = dx + grads.x
            dh0[at], dc0[at] = grads.state
            out |= {f"grad/{name}_l{layer}{suffix}": grads.params[name] for name in WEIGHTS}
        dy = dx
    return out | {"grad/x": dy, "grad/h0": dh0, "grad/c0": dc0}


@pytest.mark.parametrize("case", TORCH_CASES)
def test_outputs_and_gradients_equal_those_of_pytorch(case):
    arrays = {key.removeprefix(case + "/"): TORCH[key] for key in TORCH.files if key.startswith(case + "/")}
    config = json.loads(str(arrays.pop("config")))
    found = stacked(arrays, config, arrays.get("lengths"))
    wanted = [key for key in arrays if key.startswith("grad/")]
    assert len(wanted) == 3 + 3 * config["num_layers"] * (1 + config["bidirectional"])
    for key in ["y", "h_n", "c_n", *wanted]:
        assert found[key].dtype == arrays[key].dtype == config["dtype"]
        assert_allclose(found[key], arrays[key], **PEER[config["dtype"]], err_msg=key)


def test_the_pytorch_cases_cover_what_they_must():
    configs = [json.loads(str(TORCH[f"{case}/config"])) for case in TORCH_CASES]
    assert {c["dtype"] for c in configs} == {"float32", "float64"}
    assert any(c["bidirectional"] and c["num_layers"] > 1 and f"{n}/lengths" in TORCH.files
               for n, c in zip(TORCH_CASES, configs, strict=True))  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="onnx is not installed")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_outputs_equal_those_of_the_onnx_reference_evaluator(direction, dtype):
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[dtype]
    inputs, outputs = ["X", "W", "R", "B", "", "h0", "c0"], ["Y", "Y_h", "Y_c"]
    node = helper.make_node("LSTM", inputs, outputs, hidden_size=4, direction=direction)
    graph = helper.make_graph(
        [node], "lstm",
        [helper.make_tensor_value_info(name, kind, None) for name in inputs if name],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])

    def iofg(weight):  # ONNX has the gates in the order i, o, f, g
        i, f, g, o = np.split(weight, 4)
        return np.concatenate([i, o, f, g])

    p = problem(seed=7, dtype=dtype)
    feed = {
        "X": p["x"].swapaxes(0, 1),
        "W": iofg(p["weight_ih"])[None],
        "R": iofg(p["weight_hh"])[None],
        "B": np.concatenate([iofg(p["bias"]), np.zeros_like(p["bias"])])[None],
        "h0": p["h0"][None],
        "c0": p["c0"][None],
    }
    wanted = ReferenceEvaluator(model).run(None, feed)
    y, (h_n, c_n), _ = forward(p, reverse=direction == "reverse")
    assert_allclose(y, wanted[0][:, 0].swapaxes(0, 1), **PEER[dtype])
    assert_allclose(h_n, wanted[1][0], **PEER[dtype])
    assert_allclose(c_n, wanted[2][0], **PEER[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_arithmetic_stays_in_the_type_of_the_arrays(dtype):
    p = problem(dtype=dtype)
    y, state, tape = forward(p)
    grads = reference.lstm_backward(tape, p["dy"])
    for array in (y, *state, grads.x, *grads.state, *grads.params.values()):
        assert array.dtype == dtype


def test_inputs_are_not_changed():
    p = problem(seed=8)
    before = {name: array.copy() for name, array in p.items()}
    gradients(p, lengths=[4, 0, 2])
    for name, array in p.items():
        assert_array_equal(array, before[name])


def test_an_open_forget_gate_and_a_shut_input_gate_keep_the_memory():
    # a_i = -40, a_f = 40: i rounds to about 4e-18 and f to 1
    p = problem(steps=50)
    p["weight_ih"][:], p["weight_hh"][:] = 0, 0
    p["bias"] = np.repeat([-40.0, 40.0, 1.0, 40.0], 4)
    _, (h_n, c_n), _ = forward(p)
    assert_array_equal(c_n, p["c0"])
    assert_allclose(h_n, np.tanh(p["c0"]), **PEER["float64"])
    # ... and the gradient travels back through all 50 steps undiminished
    p["dy"][:], p["dh_n"][:] = 0, 0
    assert_allclose(gradients(p)["c0"], p["dc_n"], **PEER["float64"])


def test_a_shut_forget_gate_forgets():
    p = problem()
    p["weight_ih"][4:8], p["weight_hh"][4:8] = 0, 0
    p["bias"][4:8] = -800
    other = {**p, "c0": p["c0"] + 10}
    assert_array_equal(forward(p)[0], forward(other)[0])


def test_gates_are_read_in_the_order_i_f_g_o():
    a = np.array([[-1.0, 2.0, 0.5, 3.0]])
    gates, c, h = reference.cell_forward(a, np.array([[0.25]]))
    i, f, g, o = 1 / (1 + np.exp(1.0)), 1 / (1 + np.exp(-2.0)), np.tanh(0.5), 1 / (1 + np.exp(-3.0))
    assert_allclose(gates, [[i, f, g, o]], **COMPLEX_STEP)
    assert_allclose(c, [[0.25 * f + i * g]], **COMPLEX_STEP)
    assert_allclose(h, [[o * np.tanh(0.25 * f + i * g)]], **COMPLEX_STEP)


def test_sigmoid_does_not_overflow():
    with np.errstate(all="raise"):
        assert_array_equal(reference.sigmoid(np.array([-1e4, 0.0, 1e4])), [0.0, 0.5, 1.0])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_of_length_zero_passes_state_and_gradient_through(reverse):
    p = problem()
    options = {"lengths": [4, 0, 2], "reverse": reverse}
    y, (h_n, c_n), _ = forward(p, **options)
    found = gradients(p, **options)
    assert_array_equal(h_n[1], p["h0"][1])
    assert_array_equal(c_n[1], p["c0"][1])
    assert_array_equal(found["h0"][1], p["dh_n"][1])
    assert_array_equal(found["c0"][1], p["dc_n"][1])
    assert not y[1].any()
    assert not found["x"][1].any()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("content", [np.nan, np.inf, 1e300])
def test_the_content_of_the_padding_does_not_matter(content, reverse):
    p = problem(seed=9)
    options = {"lengths": [4, 0, 2], "reverse": reverse}
    clean = {**p, "x": p["x"].copy(), "dy": p["dy"].copy()}
    for name in ("x", "dy"):
        p[name][1], p[name][2, 2:] = content, content
        clean[name][1], clean[name][2, 2:] = 0, 0
    y, state, _ = forward(p, **options)
    clean_y, clean_state, _ = forward(clean, **options)
    assert_array_equal(y, clean_y)
    assert not y[1].any() and not y[2, 2:].any()
    assert_array_equal(state, clean_state)
    found, wanted = gradients(p, **options), gradients(clean, **options)
    for name in wanted:
        assert_array_equal(found[name], wanted[name], err_msg=name)


def test_nothing_flows_through_the_padding():
    p = problem(seed=14)
    grads = reference.lstm_backward(forward(p, lengths=[4, 0, 2])[2], p["dy"], (p["dh_n"], p["dc_n"]))
    for flow in (grads.dh, grads.dc):
        assert not flow[1].any() and not flow[2, 2:].any()
        assert flow[0].all() and flow[2, :2].all()


@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
def test_reverse_is_flip_forward_flip_by_length(lengths):
    p = problem(seed=10)

    def flip(a):
        out = np.zeros_like(a)
        for n, length in enumerate([4] * 3 if lengths is None else lengths):
            out[n, :length] = a[n, :length][::-1]
        return out

    flipped = {**p, "x": flip(p["x"]), "dy": flip(p["dy"])}
    y, state, _ = forward(p, lengths=lengths, reverse=True)
    flipped_y, flipped_state, _ = forward(flipped, lengths=lengths)
    assert_allclose(y, flip(flipped_y), **PEER["float64"])
    assert_allclose(state, flipped_state, **PEER["float64"])
    found, wanted = gradients(p, lengths=lengths, reverse=True), gradients(flipped, lengths=lengths)
    wanted["x"] = flip(wanted["x"])
    for name in wanted:
        assert_allclose(found[name], wanted[name], **PEER["float64"], err_msg=name)


def test_a_ragged_row_equals_the_row_alone():
    p = problem(seed=11)
    y, (h_n, c_n), _ = forward(p, lengths=[4, 3, 1])
    for n, length in enumerate([4, 3, 1]):
        alone = {**p, "x": p["x"][n : n + 1, :length], "h0": p["h0"][n : n + 1], "c0": p["c0"][n : n + 1]}
        alone_y, alone_state, _ = forward(alone)
        assert_allclose(y[n, :length], alone_y[0], **PEER["float64"])
        assert_allclose([h_n[n], c_n[n]], [alone_state[0][0], alone_state[1][0]], **PEER["float64"])


def test_steps_and_chunks_equal_the_whole():
    p = problem(steps=5, seed=12)
    y, whole, _ = forward(p)
    state = p["h0"], p["c0"]
    for t in range(5):
        h, state = reference.lstm_step(p["x"][:, t], state, *(p[name] for name in WEIGHTS))
        assert_allclose(h, y[:, t], **PEER["float64"])
    assert_allclose(state, whole, **PEER["float64"])
    first = forward({**p, "x": p["x"][:, :2]})
    second = forward({**p, "x": p["x"][:, 2:], "h0": first[1][0], "c0": first[1][1]})
    assert_allclose(np.concatenate([first[0], second[0]], axis=1), y, **PEER["float64"])
    assert_allclose(second[1], whole, **PEER["float64"])


def test_a_zero_state_is_the_default():
    p = problem()
    weights = [p[name] for name in WEIGHTS]
    zero = np.zeros((3, 4))
    y, state, _ = reference.lstm_forward(p["x"], *weights)
    explicit_y, explicit_state, _ = reference.lstm_forward(p["x"], *weights, (zero, zero))
    assert_array_equal(y, explicit_y)
    assert_array_equal(state, explicit_state)


@pytest.mark.parametrize(("batch", "steps"), [(3, 0), (0, 4), (0, 0)])
def test_no_steps_and_no_rows(batch, steps):
    p = problem(batch=batch, steps=steps)
    y, (h_n, c_n), _ = forward(p)
    found = gradients(p)
    assert y.shape == (batch, steps, 4)
    assert_array_equal(h_n, p["h0"])
    assert_array_equal(c_n, p["c0"])
    assert_array_equal(found["h0"], p["dh_n"])
    for name in ("x", *WEIGHTS):
        assert found[name].shape == p[name].shape
        assert not found[name].any()


@pytest.mark.parametrize("transpose", [False, True])
def test_product_writes_a_matrix_product_into_out(transpose):
    rng = np.random.default_rng(13)
    a, b, out = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), np.full((3, 5), np.nan)
    a, b = (np.asfortranarray(a), np.asfortranarray(b)) if transpose else (a, b)
    reference.product(a, b, out)
    assert_allclose(out, (a[:, :, None] * b[None]).sum(axis=1), **PEER["float64"])
