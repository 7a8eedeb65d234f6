"""lstmx.LSTM: gradients, peers, invariants, inputs of every kind, tapes, traces, parameters."""

import copy
import itertools
import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import lstmx
from lstmx import LSTM, functional
from lstmx.functional.engine import NAME as ENGINE
from lstmx.layers.trace import PerLayer
from lstmx.testing import gradcheck

DTYPES = ["float32", "float64"]
SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33]  # around every vector width
# Central differences with a step of 1e-6 are good to about 1e-9 for losses of order 10.
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-7}
# The same sums in another order: some tens of roundings of values of order 1 (float32: 6e-8, float64: 1e-16).
SAME = {"float32": {"rtol": 1e-5, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}
# PyTorch's kernels beside ours; gradients of weights are sums over all steps and rows.
TORCH = {"float32": {"rtol": 1e-5, "atol": 1e-5}, "float64": {"rtol": 1e-11, "atol": 1e-12}}
# onnxruntime computes in float32 with approximate activations; measured: up to 3e-6.
RUNTIME = {"rtol": 1e-4, "atol": 1e-5}
# float32 beside float64 from the same parameters: rounding of the inputs (6e-8) through a few steps.
SINGLE = {"rtol": 1e-3, "atol": 1e-4}


def make(*sizes, dtype="float64", seed=0, **options):
    """An LSTM whose every parameter, bias included, is far from 0 and from the others."""
    lstm = LSTM(*sizes, dtype=dtype, random_state=seed, **options)
    rng = np.random.default_rng(seed + 1)
    lstm.set_parameters({name: rng.uniform(-0.8, 0.8, p.shape) for name, p in lstm.parameters().items()})
    return lstm


def inputs(lstm, N, T, seed=2):
    """x, state, dy and dstate of order 1, in the type of the model."""
    rng = np.random.default_rng(seed)
    states = (lstm.num_layers * lstm.directions, N, lstm.hidden_size)

    def draw(*shape):
        return rng.normal(size=shape).astype(lstm.dtype)

    x, dy = draw(N, T, lstm.input_size), draw(N, T, lstm.output_size())
    return x, (draw(*states), draw(*states)), dy, (draw(*states), draw(*states))


def everything(lstm, x, state=None, dy=None, dstate=None, **options):
    """All results of a forward and a backward pass, by name."""
    y, (h_n, c_n), tape = lstm.forward(x, state, **options)
    grads = lstm.backward(tape, dy, dstate)
    out = {"y": y, "h_n": h_n, "c_n": c_n, "dx": grads.x, "dh0": grads.state[0], "dc0": grads.state[1]}
    return out | {f"d{name}": value for name, value in grads.params.items()}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_close(found, wanted, *, rtol, atol):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)


# Gradients


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_gradients_equal_finite_differences(T, N, num_layers, bidirectional):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional)
    x, state, _, _ = inputs(lstm, N, T)
    gradcheck(lstm, x, state, **DIFFERENCES)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_gradients_from_a_zero_state(num_layers, bidirectional):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional)
    gradcheck(lstm, inputs(lstm, 3, 4)[0], **DIFFERENCES)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_gradients_without_bias(num_layers, bidirectional):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional, bias=False)
    assert not any("bias" in name for name in lstm.parameters())
    x, state, _, _ = inputs(lstm, 3, 4)
    gradcheck(lstm, x, state, **DIFFERENCES)


@pytest.mark.parametrize("lengths", [[2, 0, 4, 1], [0, 0, 3, 5], [5, 4, 2, 0]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_gradients_of_ragged_batches(num_layers, bidirectional, lengths):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional)
    x, state, _, _ = inputs(lstm, 4, 5)
    gradcheck(lstm, x, state, lengths=lengths, **DIFFERENCES)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_of_a_list(bidirectional):
    lstm = make(2, 3, 2, bidirectional=bidirectional)
    x, state, _, _ = inputs(lstm, 4, 5)
    gradcheck(lstm, [x[0, :3], x[1, :0], x[2, :1], x[3]], state, **DIFFERENCES)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_of_a_single_sequence(bidirectional):
    lstm = make(2, 3, 2, bidirectional=bidirectional)
    x, (h0, c0), _, _ = inputs(lstm, 1, 4)
    gradcheck(lstm, x[0], (h0[:, 0], c0[:, 0]), **DIFFERENCES)


@pytest.mark.parametrize("lengths", [None, [2, 0, 5]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_with_dropout_of_a_fixed_generator(bidirectional, lengths):
    lstm = make(1, 3, 2 if bidirectional else 3, bidirectional=bidirectional, dropout=0.4)
    x, state, _, _ = inputs(lstm, 3, 5)
    assert (lstm.forward(x, state, lengths=lengths, rng=0)[0] != lstm(x, state, lengths=lengths)[0]).any()
    gradcheck(lstm, x, state, lengths=lengths, **DIFFERENCES)


def test_the_data_of_the_gradient_tests_are_not_degenerate():
    lstm = make(2, 3, 2, bidirectional=True)
    for name, value in everything(lstm, *inputs(lstm, 3, 5)).items():
        assert np.median(np.abs(value)) > 1e-2, name
        assert np.unique(value).size == value.size, name


@pytest.mark.parametrize("name", ["x", "h0", "c0", "weight_ih_l0", "weight_hh_l1_reverse", "bias_l1"])
def test_gradcheck_sees_one_wrong_element(monkeypatch, name):
    right = LSTM.backward

    def wrong(self, *arguments, **options):
        grads = right(self, *arguments, **options)
        arrays = {"x": grads.x, "h0": grads.state[0], "c0": grads.state[1]} | grads.params
        arrays[name].flat[-1] *= 1.001
        return grads

    monkeypatch.setattr(LSTM, "backward", wrong)
    lstm = make(1, 2, 2, bidirectional=True)
    x, state, _, _ = inputs(lstm, 2, 2)
    with pytest.raises(AssertionError, match=f"gradient of {name}"):
        gradcheck(lstm, x, state, **DIFFERENCES)


# Peers


@pytest.mark.parametrize(
    "case",
    ["plain", "stacked", "bidirectional", "stacked_bidirectional", "ragged", "ragged_stacked_bidirectional", "one_step",
     "float32"],
)  # fmt: skip
def test_forward_and_backward_equal_torch(case):
    with np.load(Path(__file__).parent / "data" / "torch_lstm.npz") as file:
        data = {key.removeprefix(case + "/"): file[key] for key in file.files if key.startswith(case + "/")}
    config = json.loads(str(data["config"]))
    del config["N"], config["T"]
    lstm = LSTM(**config)
    params = {key.removeprefix("param/"): value for key, value in data.items() if key.startswith("param/")}
    assert params.keys() == lstm.parameters().keys()
    lstm.set_parameters(params)
    found = everything(
        lstm, data["x"], (data["h0"], data["c0"]), data["dy"], (data["dh_n"], data["dc_n"]), lengths=data.get("lengths")
    )
    wanted = {name: data[name] for name in ("y", "h_n", "c_n")}
    wanted |= {"d" + key.removeprefix("grad/"): value for key, value in data.items() if key.startswith("grad/")}
    assert {value.dtype.name for value in found.values()} == {config["dtype"]}
    assert_close(found, wanted, **TORCH[config["dtype"]])


def onnx_lstm(lstm, *, lengths):
    """The one-layer model as an ONNX graph X, [lengths,] h0, c0 -> Y, h_n, c_n; gates in ONNX's order i, o, f, g."""
    hidden, kind = lstm.hidden_size, helper.np_dtype_to_tensor_dtype(lstm.dtype)
    rows = np.concatenate([np.arange(k * hidden, (k + 1) * hidden) for k in (0, 3, 1, 2)])
    weights = [lstm._weights(0, direction) for direction in range(lstm.directions)]
    stacks = {
        "W": np.stack([w_ih[rows] for w_ih, _, _ in weights]),
        "R": np.stack([w_hh[rows] for _, w_hh, _ in weights]),
        "B": np.stack([np.concatenate([b[rows] / 4, b[rows] * 3 / 4]) for _, _, b in weights]),
    }
    names = ["X", "W", "R", "B", "lengths" if lengths else "", "h0", "c0"]
    outputs = ["Y", "h_n", "c_n"]
    direction = "bidirectional" if lstm.bidirectional else "forward"
    node = helper.make_node("LSTM", names, outputs, hidden_size=hidden, direction=direction)
    values = [helper.make_tensor_value_info(name, kind, [None] * 3) for name in ("X", "h0", "c0")]
    if lengths:
        values.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [None]))
    graph = helper.make_graph(
        [node], "lstm", values, [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in stacks.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def batch_first(Y):
    """ONNX's (T, D, N, H) as (N, T, D*H)."""
    return Y.transpose(2, 0, 1, 3).reshape(Y.shape[2], Y.shape[0], -1)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("hidden", SIZES)
def test_forward_equals_the_onnx_reference(hidden, bidirectional):
    # The evaluator ignores sequence_lens, so that each row goes in by itself, cut to its length.
    for size in SIZES:
        lstm = make(size, hidden, bidirectional=bidirectional, seed=size)
        x, state, _, _ = inputs(lstm, 3, 4)
        lengths = [3, 4, 1]
        y, states = lstm(x, state, lengths=lengths)
        evaluator = ReferenceEvaluator(onnx_lstm(lstm, lengths=False))
        for n, length in enumerate(lengths):
            one = slice(n, n + 1)
            feeds = {"X": x[one, :length].swapaxes(0, 1), "h0": state[0][:, one], "c0": state[1][:, one]}
            Y, h_n, c_n = evaluator.run(None, feeds)
            wanted = {"y": batch_first(Y)[0], "h_n": h_n[:, 0], "c_n": c_n[:, 0]}
            found = {"y": y[n, :length], "h_n": states[0][:, n], "c_n": states[1][:, n]}
            assert_close(found, wanted, **SAME["float64"])
            assert (y[n, length:] == 0).all()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("hidden", SIZES)
def test_forward_equals_onnxruntime(hidden, bidirectional):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for size in SIZES:
        lstm = make(size, hidden, bidirectional=bidirectional, dtype="float32", seed=size)
        x, state, _, _ = inputs(lstm, 4, 5)
        lengths = np.array([3, 5, 1, 0])
        model = onnx_lstm(lstm, lengths=True).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        feeds = {"X": x.swapaxes(0, 1), "lengths": lengths.astype(np.int32), "h0": state[0], "c0": state[1]}
        Y, h_n, c_n = session.run(None, feeds)
        y, states = lstm(x, state, lengths=lengths)
        # onnxruntime forgets the initial state of the empty row; ours keeps it.
        for name, s, other, initial in zip(("h_n", "c_n"), states, (h_n, c_n), state, strict=True):
            np.testing.assert_allclose(s[:, :3], other[:, :3], **RUNTIME, err_msg=name)
            np.testing.assert_array_equal(s[:, 3], initial[:, 3], err_msg=name)
        np.testing.assert_allclose(y, batch_first(Y), **RUNTIME)


# Invariants, which need no oracle

LENGTHS = [4, 0, 7, 2, 7]
KINDS = [(1, False), (2, True)]  # layers, bidirectional
kinds = pytest.mark.parametrize(("num_layers", "bidirectional"), KINDS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@kinds
@dtypes
def test_permuting_the_batch_permutes_the_results(dtype, num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, 5, 7)
    p = np.array([3, 1, 4, 0, 2])
    wanted = everything(lstm, x, state, dy, dstate, lengths=LENGTHS)
    found = everything(
        lstm, x[p], [s[:, p] for s in state], dy[p], [s[:, p] for s in dstate], lengths=np.array(LENGTHS)[p]
    )
    for name, value in wanted.items():
        axis = {"y": 0, "dx": 0, "h_n": 1, "c_n": 1, "dh0": 1, "dc0": 1}.get(name)
        value = value if axis is None else value.take(p, axis)
        np.testing.assert_allclose(found[name], value, **SAME[dtype], err_msg=name)


@pytest.mark.parametrize("content", [0.0, 1e30, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lengths", [LENGTHS, [5, 5, 5, 5, 5], [1, 2, 3, 4, 5]], ids=str)
@kinds
def test_the_content_of_the_padding_never_matters(num_layers, bidirectional, lengths, content):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional)
    x, state, dy, dstate = inputs(lstm, 5, 7)
    padding = np.arange(7) >= np.array(lengths)[:, None]
    wanted = everything(lstm, x, state, dy, dstate, lengths=lengths)
    x, dy = x.copy(), dy.copy()
    x[padding] = dy[padding] = content
    assert_equal(everything(lstm, x, state, dy, dstate, lengths=lengths), wanted)
    np.testing.assert_array_equal(lstm(x, state, lengths=lengths)[0], wanted["y"])
    assert (wanted["y"][padding] == 0).all() and (wanted["dx"][padding] == 0).all()


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
    np.testing.assert_allclose(np.concatenate(parts, axis=1), y, **SAME[dtype])
    np.testing.assert_allclose(state, final, **SAME[dtype])


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
        np.testing.assert_allclose(y_t, y[:, t], **SAME[dtype])
        assert y_t.dtype == state[0].dtype == state[1].dtype == dtype
    np.testing.assert_allclose(state, final, **SAME[dtype])


def test_steps_of_one_sequence_need_no_batch_axis():
    lstm = make(3, 9, 2)
    x, _, _, _ = inputs(lstm, 1, 6)
    y, final = lstm(x[0])
    state = None
    for t in range(6):
        y_t, state = lstm.step(x[0, t], state)
        assert y_t.shape == (9,) and state[0].shape == state[1].shape == (2, 9)
        np.testing.assert_allclose(y_t, y[t], **SAME["float64"])
    np.testing.assert_allclose(state, final, **SAME["float64"])


@dtypes
def test_the_reverse_direction_reads_each_row_from_its_own_end(dtype):
    lstm = make(3, 8, bidirectional=True, dtype=dtype)
    forward = LSTM(3, 8, dtype=dtype)
    forward.set_parameters(
        {name.removesuffix("_reverse"): p for name, p in lstm.parameters().items() if name.endswith("_reverse")}
    )
    x, (h0, c0), dy, (dh, dc) = inputs(lstm, 5, 7)
    h0[0] = c0[0] = dy[..., :8] = dh[0] = dc[0] = 0

    def flip(a):
        out = a.copy()
        for n, length in enumerate(LENGTHS):
            out[n, :length] = a[n, :length][::-1]
        return out

    both = everything(lstm, x, (h0, c0), dy, (dh, dc), lengths=LENGTHS)
    one = everything(forward, flip(x), (h0[1:], c0[1:]), flip(dy)[..., 8:], (dh[1:], dc[1:]), lengths=LENGTHS)
    np.testing.assert_allclose(both["y"][..., 8:], flip(one["y"]), **SAME[dtype])
    np.testing.assert_allclose(both["dx"], flip(one["dx"]), **SAME[dtype])
    for name in ("h_n", "c_n", "dh0", "dc0"):
        np.testing.assert_allclose(both[name][1:], one[name], **SAME[dtype], err_msg=name)
    for name in forward.parameters():
        np.testing.assert_allclose(both[f"d{name}_reverse"], one[f"d{name}"], **SAME[dtype], err_msg=name)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=str)
@dtypes
def test_bidirectional_is_the_concatenation_of_its_directions(dtype, lengths):
    lstm = make(3, 8, bidirectional=True, dtype=dtype)
    x, (h0, c0), dy, (dh, dc) = inputs(lstm, 5, 7)
    both = everything(lstm, x, (h0, c0), dy, (dh, dc), lengths=lengths)
    halves = []
    for d in range(2):
        y, states, tape = functional.lstm_forward(
            x, *lstm._weights(0, d), (h0[d], c0[d]), lengths=lengths, reverse=d == 1
        )
        halves.append((y, states, functional.lstm_backward(tape, dy[..., 8 * d : 8 * d + 8], (dh[d], dc[d]))))
    np.testing.assert_allclose(both["y"], np.concatenate([y for y, _, _ in halves], axis=2), **SAME[dtype])
    np.testing.assert_allclose(both["dx"], sum(grads.x for _, _, grads in halves), **SAME[dtype])
    for d, (_, (h_n, c_n), grads) in enumerate(halves):
        for name, value in {"h_n": h_n, "c_n": c_n, "dh0": grads.state[0], "dc0": grads.state[1]}.items():
            np.testing.assert_allclose(both[name][d], value, **SAME[dtype], err_msg=name)
        for name, value in grads.params.items():
            found = both[f"d{name}_l0" + "_reverse" * d]
            np.testing.assert_allclose(found, value, **SAME[dtype], err_msg=name)


@kinds
@dtypes
def test_a_list_gives_what_the_padded_batch_gives(dtype, num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, 5, 7)
    wanted = everything(lstm, x, state, dy, dstate, lengths=LENGTHS)
    found = everything(
        lstm, [a[:n] for a, n in zip(x, LENGTHS, strict=True)], state,
        [a[:n] for a, n in zip(dy, LENGTHS, strict=True)], dstate,
    )  # fmt: skip
    for name in ("y", "dx"):
        assert [len(a) for a in found[name]] == LENGTHS
        for n, (array, length) in enumerate(zip(found.pop(name), LENGTHS, strict=True)):
            np.testing.assert_array_equal(array, wanted[name][n, :length], err_msg=f"{name}[{n}]")
        del wanted[name]
    assert_equal(found, wanted)


@kinds
def test_a_tuple_is_a_list_and_an_empty_list_an_empty_batch(num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional)
    x, _, _, _ = inputs(lstm, 2, 4)
    for a, b in zip(lstm(tuple(x))[0], lstm(list(x))[0], strict=True):
        np.testing.assert_array_equal(a, b)
    y, (h_n, _), tape = lstm.forward([])
    grads = lstm.backward(tape, [])
    assert y == grads.x == [] and h_n.shape == (num_layers * lstm.directions, 0, 8)
    assert all((g == 0).all() for g in grads.params.values())


@kinds
@dtypes
def test_a_single_sequence_is_a_batch_of_one_without_its_axis(dtype, num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, 1, 7)
    wanted = everything(lstm, x, state, dy, dstate)
    found = everything(lstm, x[0], [s[:, 0] for s in state], dy[0], [s[:, 0] for s in dstate])
    for name in ("y", "dx"):
        wanted[name] = wanted[name][0]
    for name in ("h_n", "c_n", "dh0", "dc0"):
        wanted[name] = wanted[name][:, 0]
    assert_equal(found, wanted)


@pytest.mark.parametrize("zero", ["None", "zeros"])
@kinds
def test_without_a_gradient_of_the_loss_all_gradients_are_exactly_zero(num_layers, bidirectional, zero):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional)
    x, state, dy, dstate = inputs(lstm, 5, 7)
    dy, dstate = (None, None) if zero == "None" else (0 * dy, tuple(0 * s for s in dstate))
    found = everything(lstm, x, state, dy, dstate, lengths=LENGTHS)
    assert all((value == 0).all() for name, value in found.items() if name.startswith("d"))


@kinds
def test_backward_is_linear(num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional)
    x, state, dy_1, dstate_1 = inputs(lstm, 5, 7, seed=2)
    _, _, dy_2, dstate_2 = inputs(lstm, 5, 7, seed=3)
    _, _, tape = lstm.forward(x, state, lengths=LENGTHS)

    def gradients(dy, dstate):
        grads = lstm.backward(tape, dy, dstate, retain=True)
        return {"x": grads.x, "h0": grads.state[0], "c0": grads.state[1]} | grads.params

    one, two = gradients(dy_1, dstate_1), gradients(dy_2, dstate_2)
    found = gradients(2 * dy_1 - 3 * dy_2, [2 * a - 3 * b for a, b in zip(dstate_1, dstate_2, strict=True)])
    assert_close(found, {name: 2 * one[name] - 3 * two[name] for name in one}, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("hidden", [1, 7, 8, 17])
@dtypes
def test_nan_and_inf_in_one_row_reach_no_other(dtype, hidden, value):
    lstm = make(3, hidden, 2, bidirectional=True, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, 6, 4)
    clean = everything(lstm, x, state, dy, dstate)
    for row in range(6):
        dirty, others = x.copy(), [n for n in range(6) if n != row]
        dirty[row, 2, 1] = value
        with np.errstate(invalid="ignore"):  # the NumPy engine warns
            found = everything(lstm, dirty, state, dy, dstate)
            y, _ = lstm(dirty, state)
        assert np.isnan(found["y"][row]).any() == np.isnan(value)
        assert (y[row] != clean["y"][row]).any()
        for name in ("y", "dx"):
            np.testing.assert_array_equal(found[name][others], clean[name][others], err_msg=name)
        for name in ("h_n", "c_n", "dh0", "dc0"):
            np.testing.assert_array_equal(found[name][:, others], clean[name][:, others], err_msg=name)
        np.testing.assert_allclose(y[others], clean["y"][others], **SAME[dtype])


@pytest.mark.parametrize("hidden", SIZES)
@dtypes
def test_nan_in_one_unit_of_the_memory_reaches_that_unit_in_every_lane(dtype, hidden):
    lstm = make(3, hidden, dtype=dtype)
    x, (h0, c0), _, _ = inputs(lstm, 2, 1)
    for unit in range(hidden):
        c = c0.copy()
        c[0, 1, unit] = np.nan
        _, (h_n, c_n) = lstm(x, (h0, c))
        wanted = np.zeros((1, 2, hidden), bool)
        wanted[0, 1, unit] = True
        np.testing.assert_array_equal(np.isnan(h_n), wanted)
        np.testing.assert_array_equal(np.isnan(c_n), wanted)


def test_the_number_of_threads_does_not_change_a_bit():
    lstm = make(4, 128, 2, bidirectional=True, dtype="float32")
    x, state, dy, dstate = inputs(lstm, 160, 3)
    lengths = np.arange(160) % 4
    results = []
    for n in (1, 2, 3):
        with lstmx.num_threads(n):
            results.append(everything(lstm, x, state, dy, dstate, lengths=lengths))
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


# Zero sizes


@pytest.mark.parametrize(("N", "T", "lengths"), [(3, 0, None), (0, 4, None), (0, 0, None), (3, 4, [0, 0, 0]),
                                                 (3, 0, [0, 0, 0]), (0, 4, [])], ids=str)  # fmt: skip
@kinds
def test_without_a_step_the_state_passes_through(num_layers, bidirectional, N, T, lengths):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional)
    x, state, dy, dstate = inputs(lstm, N, T)
    found = everything(lstm, x, state, dy, dstate, lengths=lengths)
    assert found["y"].shape == (N, T, 8 * lstm.directions) and found["dx"].shape == (N, T, 3)
    assert (found["y"] == 0).all() and (found["dx"] == 0).all()
    y, final = lstm(x, state, lengths=lengths)
    np.testing.assert_array_equal(y, found["y"])
    np.testing.assert_array_equal(final, state)
    for name, value in zip(("h_n", "c_n", "dh0", "dc0"), (*state, *dstate), strict=True):
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    for name, p in lstm.parameters().items():
        assert found["d" + name].shape == p.shape and (found["d" + name] == 0).all()


def test_a_single_sequence_of_no_steps():
    lstm = make(3, 8)
    y, (h_n, c_n) = lstm(np.zeros((0, 3)))
    assert y.shape == (0, 8) and h_n.shape == c_n.shape == (1, 8) and not h_n.any()


def test_a_step_of_no_rows():
    y, (h, c) = make(3, 8, 2).step(np.zeros((0, 3)))
    assert y.shape == (0, 8) and h.shape == c.shape == (2, 0, 8)


def test_a_trace_of_nothing():
    lstm = make(3, 8, 2, bidirectional=True)
    assert lstm.trace(np.zeros((0, 5, 3))).c[1, 1].shape == (0, 5, 8)
    assert lstm.trace(np.zeros((2, 0, 3))).i[0, 0].shape == (2, 0, 8)
    assert lstm.trace([]).h[1, 0] == []
    np.testing.assert_array_equal(lstm.trace(np.ones((2, 4, 3)), lengths=[0, 0]).f[0, 1], np.zeros((2, 4, 8)))


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
    assert_close(found, wanted, **SINGLE)
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


def one_byte_off(a):
    buffer = np.zeros(a.nbytes + 1, np.uint8)
    out = buffer[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    assert not out.flags.aligned
    return out


def subclassed(a):
    return a.view(type("Sub", (np.ndarray,), {}))


VIEWS = [read_only, every_second, every_second_row, backwards, np.asfortranarray, byte_swapped, one_byte_off,
         subclassed]  # fmt: skip
BATCHES = [(3, 4), (1, 4), (3, 1), (1, 1)]  # with N or T of 1 a batch is its own transpose


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("N", "T"), BATCHES)
@dtypes
def test_any_view_gives_the_bits_of_the_plain_array(dtype, N, T, view):
    lstm = make(3, 8, 2, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, N, T)
    seen = [view(x), tuple(map(view, state)), view(dy), tuple(map(view, dstate))]
    assert_equal(everything(lstm, *seen), everything(lstm, x, state, dy, dstate))
    np.testing.assert_array_equal(lstm(seen[0], seen[1])[0], lstm(x, state)[0])
    np.testing.assert_array_equal(lstm.step(view(x[:, 0]), seen[1])[0], lstm.step(x[:, 0], state)[0])
    if N > 1:
        lengths = view(np.array([T, 0, 1]))
        ragged, plain = (everything(lstm, *a, lengths=lengths) for a in (seen, (x, state, dy, dstate)))
        assert_equal(ragged, plain)
        listed = lstm([view(a) for a in x])[0]
        np.testing.assert_array_equal(np.stack(listed), np.stack(lstm(list(x))[0]))
    np.testing.assert_array_equal(lstm(view(x[0]))[0], lstm(x[0].copy())[0])
    np.testing.assert_array_equal(lstm.trace(view(x)).c[1, 0], lstm.trace(x).c[1, 0])
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
    np.testing.assert_array_equal(lstm.step(x[:, 0])[0], lstm.step(x[:, 0].astype(dtype))[0])


def test_nested_lists_are_sequences_written_out():
    lstm = make(3, 8)
    x, state, dy, _ = inputs(lstm, 2, 4)
    np.testing.assert_array_equal(lstm(x[0].tolist())[0], lstm(x[0].copy())[0])
    np.testing.assert_array_equal(np.array(lstm(x.tolist())[0]), lstm(x)[0])
    found = everything(lstm, x.tolist(), [s.tolist() for s in state], dy.tolist())
    assert_equal({k: np.array(v) for k, v in found.items()}, everything(lstm, x, state, dy))
    np.testing.assert_array_equal(lstm.step(x[:, 0].tolist())[0], lstm.step(x[:, 0])[0])


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


# Tapes


def test_a_tape_is_used_once_and_the_error_names_the_remedy():
    lstm = make(3, 8)
    x, _, dy, _ = inputs(lstm, 2, 4)
    tape = lstm.forward(x)[2]
    lstm.backward(tape, dy)
    for retain in (False, True):
        with pytest.raises(RuntimeError, match=r"^tape: .*retain=True"):
            lstm.backward(tape, dy, retain=retain)


@kinds
def test_retaining_a_tape_gives_equal_gradients_again(num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional, dropout=0.3)
    x, state, dy, dstate = inputs(lstm, 5, 7)
    tape = lstm.forward(x, state, lengths=LENGTHS, rng=3)[2]
    grads = [lstm.backward(tape, dy, dstate, retain=retain) for retain in (True, True, False)]
    for other in grads[1:]:
        np.testing.assert_array_equal(other.x, grads[0].x)
        np.testing.assert_array_equal(other.state, grads[0].state)
        assert_equal(other.params, grads[0].params)


def test_setting_parameters_ends_a_tape():
    lstm = make(3, 8)
    x, _, dy, _ = inputs(lstm, 2, 4)
    tape = lstm.forward(x)[2]
    lstm.set_parameters({"bias_l0": np.ones(32)})
    with pytest.raises(RuntimeError, match=r"^tape: the parameters"):
        lstm.backward(tape, dy)


@pytest.mark.parametrize("owner", ["twin", "copy", "wider", "deeper", "bidirectional", "float32"])
def test_the_tape_of_another_model_is_refused(owner):
    lstm = make(3, 4)
    other = {
        "twin": lambda: make(3, 4, seed=5),
        "copy": lstm.copy,
        "wider": lambda: make(3, 8),
        "deeper": lambda: make(3, 4, 2),
        "bidirectional": lambda: make(3, 4, bidirectional=True),
        "float32": lambda: make(3, 4, dtype="float32"),
    }[owner]()
    x, _, dy, _ = inputs(lstm, 2, 4)
    with pytest.raises(TypeError, match=r"^tape"):
        lstm.backward(other.forward(x)[2], dy)


@pytest.mark.parametrize("tape", [None, 3, "tape", (), np.zeros(3), LSTM(2, 2)], ids=lambda a: type(a).__name__)
def test_what_is_no_tape_is_refused(tape):
    with pytest.raises(TypeError, match=r"^tape: got \w+, must be the tape that this model's forward returned"):
        make(3, 4).backward(tape, None)


def test_the_tape_of_a_functional_call_is_refused():
    lstm = make(3, 4)
    tape = functional.lstm_forward(np.zeros((2, 4, 3)), *lstm._weights(0, 0))[2]
    with pytest.raises(TypeError, match=r"^tape"):
        lstm.backward(tape, None)


def test_an_error_in_backward_leaves_the_tape_as_it_was():
    lstm = make(3, 4)
    x, state, dy, dstate = inputs(lstm, 2, 4)
    wanted = everything(lstm, x, state, dy, dstate)
    tape = lstm.forward(x, state)[2]
    for wrong in ({"dy": dy[:1]}, {"dy": "dy"}, {"dstate": dstate[0]}, {"retain": 1}):
        with pytest.raises((ValueError, TypeError)):
            lstm.backward(tape, **({"dy": dy, "dstate": dstate} | wrong))
    np.testing.assert_array_equal(lstm.backward(tape, dy, dstate).x, wanted["dx"])


@pytest.mark.parametrize("changed", ["x", "state", "y"])
@pytest.mark.parametrize(("N", "T"), BATCHES)
def test_the_tape_remembers_the_pass_and_not_the_arrays_of_the_caller(N, T, changed):
    # A caller may reuse its buffers between forward and backward.
    lstm = make(3, 4)
    x, state, dy, dstate = inputs(lstm, N, T)
    wanted = everything(lstm, x, state, dy, dstate)
    y, final, tape = lstm.forward(x, state)
    for array in {"x": (x,), "state": state, "y": (y, *final)}[changed]:
        array[...] = 77
    grads = lstm.backward(tape, dy, dstate)
    np.testing.assert_array_equal(grads.x, wanted["dx"])
    for name, value in grads.params.items():
        np.testing.assert_array_equal(value, wanted["d" + name], err_msg=name)


# Dropout


def test_dropout_works_between_layers_in_training_alone():
    lstm, plain = (make(3, 8, 2, dropout=rate) for rate in (0.5, 0.0))
    x, _, _, _ = inputs(lstm, 4, 5)
    np.testing.assert_array_equal(lstm(x)[0], plain(x)[0])
    np.testing.assert_array_equal(lstm.trace(x).h[1, 0], plain(x)[0])
    assert (lstm.forward(x)[0] != plain(x)[0]).any()
    single = make(3, 8, 1, dropout=0.5)
    np.testing.assert_array_equal(single.forward(x)[0], single(x)[0])


def test_dropout_depends_on_the_generator_and_the_place_alone():
    lstm = make(3, 8, 3, bidirectional=True, dropout=0.5)
    x, _, _, _ = inputs(lstm, 5, 7)
    y = lstm.forward(x, lengths=LENGTHS, rng=7)[0]
    np.testing.assert_array_equal(lstm.forward(x, lengths=LENGTHS, rng=np.random.default_rng(7))[0], y)
    assert (lstm.forward(x, lengths=LENGTHS, rng=8)[0] != y).any()
    listed = lstm.forward([a[:n] for a, n in zip(x, LENGTHS, strict=True)], rng=7)[0]
    for n, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(listed[n], y[n, :length])
    np.testing.assert_allclose(lstm.forward(x[0, :4], rng=7)[0], y[0, :4], **SAME["float64"])


def test_every_layer_drops_other_units():
    lstm = make(3, 8, 4, dropout=0.5)
    tape = lstm.forward(inputs(lstm, 4, 5)[0], rng=7)[2]
    masks = [rows == 0 for rows, *_ in tape.parts["layers"][1:]]  # what each layer reads
    assert len(masks) == 3 and all(0 < mask.sum() < mask.size for mask in masks)
    assert all((a != b).any() for a, b in itertools.combinations(masks, 2))


@pytest.mark.parametrize("seed", [3, np.int64(3), np.random.SeedSequence(3)], ids=lambda s: type(s).__name__)
def test_one_random_state_gives_the_same_sequence_of_dropouts(seed):
    one, two = (LSTM(3, 8, 2, dropout=0.5, random_state=copy.deepcopy(seed)) for _ in range(2))
    x, _, _, _ = inputs(one, 4, 5)
    first, second = one.forward(x)[0], one.forward(x)[0]
    assert (first != second).any()
    np.testing.assert_array_equal(two.forward(x)[0], first)
    np.testing.assert_array_equal(two.forward(x)[0], second)


# Trace


def check_trace(lstm, x, state, y, final, trace):
    """The equations, for one sequence of the trace: x (T, I), state (L*D, H), arrays (T, H)."""
    close = SAME[lstm.dtype.name]
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
            weight_ih, weight_hh, bias = lstm._weights(layer, direction)
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


# Parameters


def test_parameters_have_the_names_and_shapes_of_torch():
    lstm = LSTM(3, 4, 2, bidirectional=True)
    assert {name: p.shape for name, p in lstm.parameters().items()} == {
        f"{name}_l{layer}{suffix}": shape
        for layer, inputs_ in ((0, 3), (1, 8))
        for suffix in ("", "_reverse")
        for name, shape in (("weight_ih", (16, inputs_)), ("weight_hh", (16, 4)), ("bias", (16,)))
    }
    assert lstm.size == sum(p.size for p in lstm.parameters().values())


def test_parameters_are_read_only_and_so_is_what_they_view():
    for p in make(3, 4, 2).parameters().values():
        assert p.flags.c_contiguous and p.flags.aligned and not p.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            p[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            p.flags.writeable = True
        base = p.base
        while base is not None:
            assert not base.flags.writeable
            base = base.base


def test_writing_to_the_dict_of_parameters_does_not_reach_the_model():
    lstm = make(3, 4)
    wanted = lstm(np.ones((1, 2, 3)))[0]
    lstm.parameters().clear()
    np.testing.assert_array_equal(lstm(np.ones((1, 2, 3)))[0], wanted)


def test_set_parameters_copies_any_subset():
    lstm = make(3, 4)
    before = lstm.parameters()
    value = np.arange(16.0)
    lstm.set_parameters({"bias_l0": value})
    value[:] = -1
    np.testing.assert_array_equal(lstm.parameters()["bias_l0"], np.arange(16.0))
    np.testing.assert_array_equal(lstm.parameters()["weight_hh_l0"], before["weight_hh_l0"])
    assert (before["bias_l0"] != np.arange(16.0)).all()  # what was handed out before stays
    lstm.set_parameters({})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"weight_ih_l9": np.zeros(3)}, KeyError), ({"bias_l0": np.zeros(15)}, ValueError),
     ({"bias_l0": np.zeros(16) * 1j}, TypeError), ({"bias_l0": None}, TypeError)],
)  # fmt: skip
def test_set_parameters_checks_all_before_it_sets_any(wrong, error):
    lstm = make(3, 4)
    before = lstm.parameters()
    tape = lstm.forward(np.zeros((1, 2, 3)))[2]
    with pytest.raises(error, match=next(iter(wrong))):
        lstm.set_parameters({"weight_ih_l0": np.ones((16, 3))} | wrong)
    assert_equal(lstm.parameters(), before)
    lstm.backward(tape, None)  # nothing was set, so the tape still holds


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@dtypes
def test_values_that_are_not_finite_are_refused_unless_allowed(dtype, bad):
    lstm = make(3, 4, dtype=dtype)
    before, value = lstm.parameters(), np.ones((16, 3))
    value[2, 1] = value[5, 0] = bad
    what = r"^weight_ih_l0: 2 of 48 values are NaN or infinite, the first at index \(2, 1\) .*allow_nonfinite=True"
    with pytest.raises(ValueError, match=what):
        lstm.set_parameters({"bias_l0": np.zeros(16), "weight_ih_l0": value})
    assert_equal(lstm.parameters(), before)
    lstm.set_parameters({"weight_ih_l0": value}, allow_nonfinite=True)
    np.testing.assert_array_equal(lstm.parameters()["weight_ih_l0"], value.astype(dtype))
    for clone in CLONES.values():  # what is there may be copied
        assert_equal(clone(lstm).parameters(), lstm.parameters())
    with pytest.raises(TypeError, match=r"^allow_nonfinite: got 1, must be True or False"):
        lstm.set_parameters({"weight_ih_l0": value}, allow_nonfinite=1)


def test_values_too_large_for_float32_are_refused_as_that():
    lstm, value = make(3, 4, dtype="float32"), np.ones(16)
    value[[3, 4]] = -1e39
    what = r"^bias_l0: 2 of 16 values are too large for float32, the first at index \(3,\) \(-1e\+39\);.*float64"
    with pytest.raises(ValueError, match=what):
        lstm.set_parameters({"bias_l0": value})
    make(3, 4, dtype="float64").set_parameters({"bias_l0": value})
    lstm.set_parameters({"bias_l0": value}, allow_nonfinite=True)  # and no warning, which would be an error here
    assert lstm.parameters()["bias_l0"][3] == -np.inf


CLONES = {"copy": LSTM.copy, "copy.copy": copy.copy, "deepcopy": copy.deepcopy, "astype": lambda a: a.astype(a.dtype),
          "pickle": lambda a: pickle.loads(pickle.dumps(a))}  # fmt: skip


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES.keys())
@dtypes
def test_a_copy_is_equal_and_independent(dtype, clone):
    lstm = make(3, 4, 2, bidirectional=True, dropout=0.25, dtype=dtype)
    other = clone(lstm)
    x, state, dy, dstate = inputs(lstm, 3, 5)
    assert type(other) is LSTM and other.config() == lstm.config() and repr(other) == repr(lstm)
    assert_equal(other.parameters(), lstm.parameters())
    assert_equal(everything(other, x, state, dy, dstate, rng=1), everything(lstm, x, state, dy, dstate, rng=1))
    for p in other.parameters().values():
        assert not p.flags.writeable and not p.base.flags.writeable
    before = lstm.parameters()
    other.set_parameters({"bias_l0": np.zeros(16)})
    assert_equal(lstm.parameters(), before)


def test_astype_converts_there_and_rounds_back():
    lstm = make(3, 4)
    single = lstm.astype("float32")
    assert single.dtype == np.float32 and lstm.dtype == np.float64
    for name, p in single.parameters().items():
        np.testing.assert_array_equal(p, lstm.parameters()[name].astype(np.float32))
    assert single.astype("float64").dtype == np.float64


def test_repr_is_the_constructor():
    lstm = LSTM(3, 4, 2, bidirectional=True, dropout=0.5, bias=False, dtype="float64")
    again = eval(repr(lstm), {"LSTM": LSTM})
    assert again.config() == lstm.config()


def test_summary_lists_every_parameter_and_the_total():
    lstm = LSTM(30, 40, 2)
    text = lstm.summary()
    assert f"{lstm.size:,}" in text.splitlines()[0]
    for name, p in lstm.parameters().items():
        assert any(name in line and str(p.shape) in line and f"{p.size:,}" in line for line in text.splitlines())


# Initial values


def test_one_random_state_gives_the_same_bits():
    one, two = (LSTM(3, 8, 2, bidirectional=True, random_state=5) for _ in range(2))
    assert_equal(one.parameters(), two.parameters())
    wanted = LSTM(3, 8, random_state=5).parameters()
    for state in (np.int64(5), np.random.SeedSequence(5), np.random.default_rng(5)):
        assert_equal(LSTM(3, 8, random_state=state).parameters(), wanted)
    other = LSTM(3, 8, 2, bidirectional=True, random_state=6).parameters()
    assert (other["weight_ih_l0"] != one.parameters()["weight_ih_l0"]).all()
    assert (LSTM(3, 8).parameters()["weight_ih_l0"] != LSTM(3, 8).parameters()["weight_ih_l0"]).all()


def test_float32_and_float64_models_of_one_seed_start_from_the_same_numbers():
    single, double = (LSTM(3, 8, random_state=5, dtype=dtype).parameters() for dtype in DTYPES)
    for name, p in double.items():
        np.testing.assert_array_equal(single[name], p.astype(np.float32))


@pytest.mark.parametrize("hidden", [1, 2, 8, 33])
def test_recurrent_weights_are_orthogonal_gate_by_gate(hidden):
    lstm = LSTM(5, hidden, 2, bidirectional=True, dtype="float64", random_state=0)
    gates = [g for k in range(4) for g in np.split(lstm._weights(*divmod(k, 2)).weight_hh, 4)]
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(hidden), rtol=0, atol=1e-13)
    if hidden > 1:
        assert all((a != b).any() for a, b in itertools.combinations(gates, 2))


@pytest.mark.parametrize(("size", "hidden"), [(1, 64), (100, 64), (300, 16)])
def test_input_weights_are_glorot_gate_by_gate(size, hidden):
    weight = LSTM(size, hidden, dtype="float64", random_state=0).parameters()["weight_ih_l0"]
    bound = np.sqrt(6 / (size + hidden))
    assert np.abs(weight).max() <= bound
    for gate in np.split(weight, 4):
        assert np.abs(gate).max() > 0.9 * bound and abs(gate.mean()) < 0.25 * bound


def test_bias_is_one_for_the_forget_gate_and_zero_elsewhere():
    for layer, direction in itertools.product(range(2), range(2)):
        bias = LSTM(3, 8, 2, bidirectional=True)._weights(layer, direction).bias
        np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 8))


# Memory


def peak(function):
    """Bytes that a call allocates at its peak, as tracemalloc sees them."""
    function()  # imports and caches
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


# What memory() says must cover the peak, with 2 % and 24 kB for small objects of Python, and be at most twice as much.
# The NumPy engine pads and copies: it may take three times what the compiled ones do.
SMALL = 24_000
OVER, UNDER = (3.0 if ENGINE == "reference" else 1.02), 0.5


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("sizes", "bidirectional", "dropout", "N", "T"),
    [((8, 32), False, 0.0, 16, 60), ((8, 32), True, 0.0, 16, 60), ((8, 32, 3), False, 0.0, 16, 60),
     ((8, 32, 3), True, 0.0, 16, 60), ((8, 32, 3), True, 0.5, 16, 60), ((64, 8, 2), False, 0.0, 8, 200),
     ((200, 8), False, 0.0, 8, 100), ((8, 128, 2), False, 0.0, 1, 300), ((3, 200), False, 0.0, 64, 2),
     ((8, 64), False, 0.0, 512, 1), ((1, 8), False, 0.0, 2, 4000)],
    ids=str,
)  # fmt: skip
@dtypes
def test_memory_says_what_a_call_takes(dtype, sizes, bidirectional, dropout, N, T, training):
    lstm = make(*sizes, bidirectional=bidirectional, dropout=dropout, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, N, T)
    found = peak(lambda: everything(lstm, x, state, dy, dstate) if training else lstm(x, state))
    said = lstm.memory(N, T, training=training)
    assert UNDER * said - SMALL <= found <= OVER * said + SMALL, f"said {said:,}, took {found:,}"
