"""lstmx.LSTM: what it gives, beside other implementations and by invariants."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from lstm_cases import LENGTHS, SIZES, assert_close, assert_equal, dtypes, everything, inputs, kinds, make
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tolerances import ONNXRUNTIME, PEER

import lstmx
from lstmx import LSTM, functional

# Peers


@pytest.mark.parametrize(
    "case",
    ["plain", "stacked", "bidirectional", "stacked_bidirectional", "ragged", "ragged_stacked_bidirectional", "one_step",
     "float32", "projected", "projected_ragged", "projected_float32"],
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
    assert_close(found, wanted, **PEER[config["dtype"]])


def onnx_lstm(lstm, *, lengths):
    """The one-layer model as an ONNX graph X, [lengths,] h0, c0 -> Y, h_n, c_n; gates in ONNX's order i, o, f, g."""
    hidden, kind = lstm.hidden_size, helper.np_dtype_to_tensor_dtype(lstm.dtype)
    rows = np.concatenate([np.arange(k * hidden, (k + 1) * hidden) for k in (0, 3, 1, 2)])
    weights = [lstm._weights(0, direction).arrays.values() for direction in range(lstm.directions)]
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
            assert_close(found, wanted, **PEER["float64"])
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
            np.testing.assert_allclose(s[:, :3], other[:, :3], **ONNXRUNTIME, err_msg=name)
            np.testing.assert_array_equal(s[:, 3], initial[:, 3], err_msg=name)
        np.testing.assert_allclose(y, batch_first(Y), **ONNXRUNTIME)


# Invariants, which need no oracle


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
        np.testing.assert_allclose(found[name], value, **PEER[dtype], err_msg=name)


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
    np.testing.assert_allclose(both["y"][..., 8:], flip(one["y"]), **PEER[dtype])
    np.testing.assert_allclose(both["dx"], flip(one["dx"]), **PEER[dtype])
    for name in ("h_n", "c_n", "dh0", "dc0"):
        np.testing.assert_allclose(both[name][1:], one[name], **PEER[dtype], err_msg=name)
    for name in forward.parameters():
        np.testing.assert_allclose(both[f"d{name}_reverse"], one[f"d{name}"], **PEER[dtype], err_msg=name)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=str)
@dtypes
def test_bidirectional_is_the_concatenation_of_its_directions(dtype, lengths):
    lstm = make(3, 8, bidirectional=True, dtype=dtype)
    x, (h0, c0), dy, (dh, dc) = inputs(lstm, 5, 7)
    both = everything(lstm, x, (h0, c0), dy, (dh, dc), lengths=lengths)
    halves = []
    for d in range(2):
        y, states, tape = functional.lstm_forward(
            x, *lstm._weights(0, d).arrays.values(), (h0[d], c0[d]), lengths=lengths, reverse=d == 1
        )
        halves.append((y, states, functional.lstm_backward(tape, dy[..., 8 * d : 8 * d + 8], (dh[d], dc[d]))))
    np.testing.assert_allclose(both["y"], np.concatenate([y for y, _, _ in halves], axis=2), **PEER[dtype])
    np.testing.assert_allclose(both["dx"], sum(grads.x for _, _, grads in halves), **PEER[dtype])
    for d, (_, (h_n, c_n), grads) in enumerate(halves):
        for name, value in {"h_n": h_n, "c_n": c_n, "dh0": grads.state[0], "dc0": grads.state[1]}.items():
            np.testing.assert_allclose(both[name][d], value, **PEER[dtype], err_msg=name)
        for name, value in grads.params.items():
            found = both[f"d{name}_l0" + "_reverse" * d]
            np.testing.assert_allclose(found, value, **PEER[dtype], err_msg=name)


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
        np.testing.assert_allclose(y[others], clean["y"][others], **PEER[dtype])


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
