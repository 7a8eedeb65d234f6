"""lstmx.interop.onnx: every LSTM of ONNX, the nodes around them, and chains, beside the peers."""

import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from hypothesis import given, settings  # noqa: E402
from onnx import helper  # noqa: E402
from onnx_backend import LstmxBackend, is_for_us, lstm_cases, node_cases  # noqa: E402
from onnx_cases import expected, lstm_model, lstm_nodes, model_of  # noqa: E402
from tolerances import FAMILY, ONNXRUNTIME, PEER  # noqa: E402

import lstmx  # noqa: E402
from lstmx.interop.onnx import from_onnx, lstms, read  # noqa: E402
from lstmx.interop.onnx.export import to_onnx  # noqa: E402


def session(model):
    """A session of onnxruntime with one thread."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def near(ours, wanted, dtype):
    """Whether an array is that of a reference, measured by its largest value, at least 1."""
    assert ours.shape == wanted.shape and ours.dtype == dtype
    return np.abs(ours - wanted).max(initial=0) <= FAMILY[np.dtype(dtype).name] * max(1, np.abs(wanted).max(initial=0))


# LSTM nodes.


@settings(max_examples=150, deadline=None)
@given(lstm_nodes())
def test_any_lstm_is_that_of_the_reference_and_of_onnxruntime(case):
    model, feed = lstm_model(case)
    found = from_onnx(model).run(feed)
    wanted = dict(zip(("Y", "Y_h", "Y_c"), expected(case), strict=True))
    for name, a in found.items():
        assert near(a, wanted[name], case.dtype), name
    zero = "sequence_lens" in case.arrays and (case.arrays["sequence_lens"] == 0).any()
    if case.batch_first or zero:
        return  # onnxruntime has neither layout 1 nor initial states that an empty sequence keeps
    theirs = session(model).run(list(found), feed)
    for a, b in zip(found.values(), theirs, strict=True):
        np.testing.assert_allclose(a, b, **ONNXRUNTIME)


def empty_case(case, **lengths):
    """A model whose weights are inputs, and what to feed it: with other lengths of its axes."""
    sizes = {"T": 3, "N": 2} | lengths
    node = helper.make_node("LSTM", ["X", "W", "R", "", "lens", "h", "c"], ["Y", "Y_h", "Y_c"], hidden_size=4)
    rng = np.random.default_rng(0)
    feed = {"X": (sizes["T"], sizes["N"], 3), "W": (1, 16, 3), "R": (1, 16, 4), "h": (1, sizes["N"], 4),
            "c": (1, sizes["N"], 4)}  # fmt: skip
    feed = {name: rng.normal(size=shape).astype(np.float32) for name, shape in feed.items()}
    feed["lens"] = np.array([0, sizes["T"]][: sizes["N"]], np.int32)
    outputs = dict.fromkeys(("Y", "Y_h", "Y_c"), (None, np.float32))
    return model_of([node], {n: (a.shape, a.dtype) for n, a in feed.items()}, outputs), feed


@pytest.mark.parametrize("lengths", [{}, {"T": 0}, {"N": 0}])
def test_an_empty_sequence_keeps_its_initial_state(lengths):
    model, feed = empty_case(None, **lengths)
    found = from_onnx(model).run(feed)
    T, N = feed["X"].shape[:2]
    assert found["Y"].shape == (T, 1, N, 4)
    empty = feed["lens"] == 0
    for name, start in (("Y_h", "h"), ("Y_c", "c")):
        np.testing.assert_array_equal(found[name][:, empty], feed[start][:, empty])
    assert not found["Y"][:, :, empty].any()


def test_all_lstm_cases_of_onnx_pass():
    cases = lstm_cases()
    assert len(cases) >= 6
    for case in cases:
        check_case(case)


def check_case(case):
    prepared = LstmxBackend.prepare(case.model)
    for inputs, wanted in case.data_sets:
        for ours, a in zip(prepared.run(inputs), wanted, strict=True):
            a = np.asarray(a)
            assert ours.shape == a.shape, case.name
            np.testing.assert_allclose(ours, a, rtol=case.rtol, atol=case.atol, err_msg=case.name)


# Parts of operators that there are not: what recurrent models do not have.
NOT_HERE = (
    "select_last_index",
    "training_dropout",
    "dropout_default_mask",
    "test_selu_example",
    "batch_dim",
)


@pytest.mark.long
def test_all_cases_of_onnx_for_our_operators_pass():
    cases = [case for case in node_cases() if is_for_us(case) and case.name != "test_selu"]
    cases = [case for case in cases if not any(part in case.name for part in NOT_HERE)]
    assert len(cases) > 400
    for case in cases:
        if max(o.version for o in case.model.opset_import) >= 7:
            check_case(case)


# What PyTorch and Keras export.


def test_operators_of_feed_forward_parts():
    """Beside onnxruntime; LayerNormalization over the last two axes, and by constants."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5)).astype("float32")
    constants = {"scale": rng.normal(size=(4, 5)), "bias": rng.normal(size=5)}
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["norm", "mean", "factor"], axis=1, epsilon=0.1),
        helper.make_node("Erf", ["norm"], ["erf"]),
        helper.make_node("HardSwish", ["erf"], ["swish"]),
        helper.make_node("Mish", ["swish"], ["mish"]),
        helper.make_node("IsNaN", ["mish"], ["isnan"]),
    ]
    names = {"norm": "float32", "mean": "float32", "factor": "float32", "mish": "float32", "isnan": "bool"}
    model = model_of(nodes, {"x": (x.shape, x.dtype)}, {name: (None, kind) for name, kind in names.items()},
                     {name: a.astype("float32") for name, a in constants.items()}, opset=18)  # fmt: skip
    wanted = session(model).run(list(names), {"x": x})
    found = from_onnx(model).run({"x": x})
    for name, a in zip(names, wanted, strict=True):
        np.testing.assert_allclose(found[name], a, err_msg=name, **ONNXRUNTIME)


def frozen(which):
    """The cases of a file of tests/data by name: (model, inputs, outputs)."""
    with np.load(DATA / f"onnx_{which}.npz") as file:
        arrays = dict(file)
    cases = {}
    for key, a in arrays.items():
        name, what, *rest = key.split("/", 2)
        model, inputs, outputs = cases.setdefault(f"{which}: {name}", ([], {}, {}))
        if what == "model":
            model.append(a.tobytes())
        else:
            (inputs if what == "in" else outputs)[rest[0]] = a
    return {name: (model[0], inputs, outputs) for name, (model, inputs, outputs) in cases.items()}


DATA = Path(__file__).parent / "data"
FROZEN = frozen("torch") | frozen("keras")
BOTH = [name for name in FROZEN if "quantised" not in name]
LAYERS = {
    "torch: last": "LSTM LSTM Last Dense Dense",
    "torch: steps": "LSTM LSTM Dense Dense",
    "torch: state": "LSTM LSTM Last Dense Dense",
    "torch: both_states": "LSTM LSTM FinalState Dense Dense",
    "torch: time_first": "LSTM Last Dense Dense",
    "torch: mean": "Embedding LSTM MeanPool Dense Dense",
    "torch: with_states": "LSTM LSTM Dense Dense",
    "torch: quantised": "LSTM LSTM Dense Dense",
    "keras: last": "LSTM Last Dense Dense",
    "keras: bidirectional": "LSTM LSTM FinalState Dense",
    "keras: sum": "LSTM Dense",
    "keras: backwards": "Reversed LSTM Last Dense",
    "keras: embedding": "Embedding LSTM Last Dense",
}


@pytest.mark.parametrize("name", BOTH)
def test_exported_models_give_what_they_gave_there(name):
    model, inputs, outputs = FROZEN[name]
    found = from_onnx(model).run(inputs)
    for key, wanted in outputs.items():
        assert found[key].dtype == np.float32
        np.testing.assert_allclose(found[key], wanted, **PEER["float32"])


@pytest.mark.parametrize("name", FROZEN)
def test_chains_become_a_sequential(name):
    model, inputs, _ = FROZEN[name]
    graph = from_onnx(model)
    sequential = graph.to_sequential()
    assert (
        " ".join(type(layer).__name__ for layer in sequential.layers)
        == LAYERS[name.split("_script")[0].split("_dynamo")[0]]
    )
    x = next(iter(inputs.values()))
    wanted = graph.run({graph.inputs[0][0]: x})[graph.outputs[0][0]]
    ours = sequential.predict(x.swapaxes(0, 1) if "time_first" in name else x)
    np.testing.assert_allclose(ours, wanted, **PEER["float32"])


def test_what_is_quantised_is_nearer_to_the_original_than_what_it_became():
    quantised_model, inputs, theirs = FROZEN["torch: quantised"]
    found = read(quantised_model)
    assert "computed in float" in found.notes[0]
    ours, wanted = found.model.run(inputs)["y"], FROZEN["torch: steps_script"][2]["y"]
    assert 0 < np.abs(ours - wanted).max() < np.abs(theirs["y"] - wanted).max() < 0.01
    with pytest.raises(ValueError, match="rounds inputs and states to 8 bits"):
        found.check()


@pytest.mark.parametrize("name", BOTH)
def test_check_runs_a_probe_through_onnxruntime(name, capsys):
    pytest.importorskip("onnxruntime")
    from_onnx(FROZEN[name][0], check=True)
    assert "largest error" in capsys.readouterr().out


# What our own exporter writes.

X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
OURS = {
    "last": ([lstmx.LSTM(3, 5), lstmx.Last(), lstmx.Dense(5, 2, "softmax")], "LSTM Last Dense"),
    "steps": ([lstmx.LSTM(3, 5, 2, bidirectional=True), lstmx.Dense(10, 2, "sigmoid")], "LSTM LSTM Dense"),
    "cell": ([lstmx.LSTM(3, 5, cell=lstmx.Cell(cifg=True, peephole=True, clip=0.5)), lstmx.Dense(5, 2)], "LSTM Dense"),
    "learned": ([lstmx.LSTM(3, 5, cell=lstmx.Cell(learn_state=True)), lstmx.Dense(5, 2)], "LSTM Dense"),
    "average": ([lstmx.LSTM(3, 5, bidirectional=True, merge="average"), lstmx.Dense(5, 2)], "LSTM Dense"),
    "product": ([lstmx.LSTM(3, 5, bidirectional=True, merge="mul"), lstmx.Dense(5, 2)], "LSTM Dense"),
    "silu": ([lstmx.LSTM(3, 5), lstmx.Dense(5, 4), lstmx.Activation("silu"), lstmx.Dense(4, 1)],
             "LSTM Dense Activation Dense"),
    "activations": ([lstmx.LSTM(3, 5), lstmx.Activation(("leaky_relu", 0.3)), lstmx.Dense(5, 4, "tanh")],
                    "LSTM Activation Dense"),
    "reversed": ([lstmx.Reversed(), lstmx.LSTM(3, 5), lstmx.Last(), lstmx.Dense(5, 2)], "Reversed LSTM Last Dense"),
    "masked": ([lstmx.Masking(0.0), lstmx.LSTM(3, 5), lstmx.Unmask("repeat"), lstmx.Dense(5, 2)], None),
    "both ends": ([lstmx.LSTM(3, 5, bidirectional=True), lstmx.FinalState(), lstmx.Dense(10, 2)], None),
}  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_what_we_export_comes_back_with_the_same_bits(name):
    layers, back = OURS[name]
    model = lstmx.Sequential([layer.copy() for layer in layers])
    rng = np.random.default_rng(1)
    model.set_parameters({n: rng.normal(scale=0.5, size=p.shape) for n, p in model.parameters().items()})
    graph = from_onnx(to_onnx(model))
    x = X.copy()
    x[1, 2:4] = x[2, 0] = 0
    np.testing.assert_array_equal(graph.predict(x), model.predict(x))
    if back is None:
        with pytest.raises(ValueError, match=r"to_sequential: .*predict and run work"):
            graph.to_sequential()
    else:
        sequential = graph.to_sequential()
        assert " ".join(type(layer).__name__ for layer in sequential.layers) == back
        np.testing.assert_array_equal(sequential.predict(x), model.predict(x))


def test_lengths_and_states_are_inputs():
    model = lstmx.Sequential([lstmx.LSTM(3, 5, 2), lstmx.Dense(5, 2)], random_state=0)
    graph = from_onnx(to_onnx(model, lengths=True))
    lengths = np.array([6, 2, 0, 3])
    ours = graph.run({"x": X, "lengths": lengths})["y"]
    np.testing.assert_array_equal(ours, model.predict(X, lengths=lengths))
    stream, state = from_onnx(to_onnx(model, states=True)), {}
    for t in range(6):
        found = stream.run({"x": X[:, t : t + 1]} | state)
        state = {"h": found["h_n"], "c": found["c_n"]}
        np.testing.assert_array_equal(found["y"][:, 0], model.predict(X)[:, t])


# LSTMs alone.


def hidden_lstms():
    """A model whose LSTMs are in the branches of an If and behind a convolution; their weights are made."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(20, 3)), "r": rng.normal(size=(20, 5)), "b": rng.normal(size=(40,)),
               "axis": np.array([0]), "half": np.array([10]), "end": np.array([20]), "zero": np.array([0]),
               "kernel": rng.normal(size=(3, 3, 1)), "yes": np.array(True)}  # fmt: skip
    weights = {n: a.astype(np.float32) if a.dtype == float else a for n, a in weights.items()}
    made = [
        helper.make_node("Slice", ["w", "half", "end", "axis"], ["late"]),
        helper.make_node("Slice", ["w", "zero", "half", "axis"], ["early"]),
        helper.make_node("Concat", ["early", "late"], ["whole"], axis=0),
        *(helper.make_node("Unsqueeze", [a, "axis"], [b]) for a, b in (("whole", "W"), ("r", "R"), ("b", "B"))),
    ]
    out = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    branches = []
    for k in range(2):
        own = [onnx.NodeProto.FromString(n.SerializeToString()) for n in made]
        own.append(helper.make_node("LSTM", ["z", "W", "R", "B", "", "h", "c"], ["y"], f"rnn{k}", hidden_size=5,
                                    clip=0.5 + k))  # fmt: skip
        branches.append(helper.make_graph(own, f"branch{k}", [], out))
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["z"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Cast", ["n"], ["n9"], to=9),
        helper.make_node("If", ["n9"], ["y"], "choice", then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("LSTM", ["z", "V", "R2"], ["q"], "open", hidden_size=5),
    ]
    shapes = {"x": ((7, 3, 2), np.float32), "h": ((1, 3, 5), np.float32), "c": ((1, 3, 5), np.float32),
              "V": ((1, 20, 3), np.float32), "R2": ((1, 20, 5), np.float32)}  # fmt: skip
    return model_of(nodes, shapes, {"y": (None, np.float32), "q": (None, np.float32)}, weights), weights


def test_every_lstm_of_a_model_is_listed_and_loaded_alone():
    model, weights = hidden_lstms()
    found = lstms(model)
    assert [one.name for one in found] == ["choice/then_branch/rnn0", "choice/else_branch/rnn1", "open"] or [
        one.name for one in found
    ] == ["choice/else_branch/rnn1", "choice/then_branch/rnn0", "open"]
    assert [(one.input_size, one.hidden_size, one.direction) for one in found[:2]] == [(3, 5, "forward")] * 2
    assert {one.cells[0].clip for one in found[:2]} == {0.5, 1.5}
    assert found[2].problem == "W, R: not constant, but computed or given" and found[2].input_size is None
    one = next(one for one in found if one.name.endswith("rnn1"))
    lstm = from_onnx(model, lstm=one.name)
    assert lstm.cell == lstmx.Cell(clip=1.5)
    i, o, f, g = np.split(weights["w"], 4)
    np.testing.assert_array_equal(lstm.parameters()["weight_ih_l0"], np.concatenate([i, f, g, o]))
    np.testing.assert_array_equal(
        from_onnx(model, lstm=one.index).parameters()["bias_l0"], lstm.parameters()["bias_l0"]
    )
    assert "initial_h is no constant" in read(model, lstm=one.index).report()
    with pytest.raises(ValueError, match="Conv, If"):
        from_onnx(model)
    for wrong in ("nothing", 7):
        with pytest.raises(ValueError, match=r"there are 0: choice/.*\(3 -> 5, forward\)"):
            from_onnx(model, lstm=wrong)
    with pytest.raises(TypeError, match=r"lstm: got 1\.5"):
        from_onnx(model, lstm=1.5)
    with pytest.raises(ValueError, match="open: W, R: not constant"):
        from_onnx(model, lstm="open")


@settings(max_examples=60, deadline=None)
@given(lstm_nodes())
def test_an_lstm_loaded_alone_is_the_node(case):
    model, _ = lstm_model(case)
    [found] = lstms(model)
    if case.as_inputs:
        assert "not constant" in found.problem
        return
    if len(case.cells) == 2 and case.cells[0] != case.cells[1]:
        with pytest.raises(ValueError, match="different activations"):
            from_onnx(model, lstm=0)
        return
    lstm = from_onnx(model, lstm=0)
    a = case.arrays
    x, states = a["X"], [a.get(name) for name in ("initial_h", "initial_c")]
    if not case.batch_first:
        x = x.swapaxes(0, 1)
    else:
        states = [None if s is None else s.swapaxes(0, 1) for s in states]
    D, N, H = lstm.directions, len(x), lstm.hidden_size
    states = [np.zeros((D, N, H), case.dtype) if s is None else s for s in states]
    y, (h, c) = lstm(x, tuple(states), lengths=a.get("sequence_lens"))
    Y, Y_h, Y_c = expected(case)
    Y = Y if case.batch_first else Y.transpose(2, 0, 1, 3)
    Y_h, Y_c = (s.swapaxes(0, 1) if case.batch_first else s for s in (Y_h, Y_c))
    assert near(y, Y.reshape(y.shape), case.dtype) and near(h, Y_h, case.dtype) and near(c, Y_c, case.dtype)


def test_constant_initial_states_are_learned_ones():
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 20, 3), "R": (1, 20, 5), "h": (1, 1, 5)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["h"] = np.repeat(weights["h"], 2, axis=1)
    node = helper.make_node("LSTM", ["x", "W", "R", "", "", "h"], ["y"], hidden_size=5)
    model = model_of([node], {"x": ((4, 2, 3), np.float32)}, {"y": (None, np.float32)}, weights)
    lstm, x = from_onnx(model, lstm=0, check=True), rng.normal(size=(4, 2, 3)).astype(np.float32)
    assert lstm.cell.learn_state
    wanted = from_onnx(model).predict(x)[:, 0].swapaxes(0, 1)
    np.testing.assert_array_equal(lstm(x.swapaxes(0, 1))[0], wanted)
    sequential = from_onnx(model).to_sequential()
    np.testing.assert_array_equal(sequential.predict(x.swapaxes(0, 1)), wanted)


def test_quantised_weights_are_dequantised():
    """Of QuantizeLinear, and one scale for each column of a DynamicQuantizeLSTM."""
    rng = np.random.default_rng(0)
    scale = np.array([0.02, 0.03], np.float32)
    q = {n: rng.integers(-128, 128, shape).astype(np.int8) for n, shape in (("W", (2, 3, 20)), ("R", (2, 5, 20)))}
    zero = {"W": np.zeros(2, np.int8), "R": np.full(2, 3, np.int8)}
    plain = {n: ((a.astype(np.float32) - zero[n][:, None, None]) * scale[:, None, None]).transpose(0, 2, 1)
             for n, a in q.items()}  # fmt: skip
    inputs, outputs = {"x": ((4, 2, 3), np.float32)}, {"y": (None, np.float32)}
    options = {"hidden_size": 5, "direction": "bidirectional"}
    names = ["x", "W", "R", "", "", "", "", "", "s", "Wz", "s", "Rz"]
    node = helper.make_node("DynamicQuantizeLSTM", names, ["y"], domain="com.microsoft", **options)
    constants = q | {"s": scale, "Wz": zero["W"], "Rz": zero["R"]}
    quantised_model = model_of([node], inputs, outputs, constants)
    node = helper.make_node("LSTM", ["x", "W", "R"], ["y"], **options)
    float_model = model_of([node], inputs, outputs, plain)
    x = rng.normal(size=(4, 2, 3)).astype(np.float32)
    wanted = from_onnx(float_model).predict(x)
    np.testing.assert_array_equal(from_onnx(quantised_model).predict(x), wanted)
    assert lstms(quantised_model)[0].quantised
    np.testing.assert_allclose(session(quantised_model).run(None, {"x": x})[0], wanted, atol=0.05, rtol=0)

    turned = {n: a.transpose(0, 2, 1) for n, a in q.items()}
    nodes = [helper.make_node("DequantizeLinear", [n, "s", f"{n}z"], [f"{n}f"], axis=0) for n in "WR"]
    nodes.append(helper.make_node("LSTM", ["x", "Wf", "Rf"], ["y"], **options))
    model = model_of(nodes, inputs, outputs, turned | {"s": scale, "Wz": zero["W"], "Rz": zero["R"]})
    np.testing.assert_array_equal(from_onnx(model).predict(x), wanted)
    nodes = [helper.make_node("QuantizeLinear", [f"{n}p", "s", f"{n}z"], [n], axis=0) for n in "WR"] + nodes
    constants = {f"{n}p": a for n, a in plain.items()} | {"s": scale, "Wz": zero["W"], "Rz": zero["R"]}
    np.testing.assert_array_equal(from_onnx(model_of(nodes, inputs, outputs, constants)).predict(x), wanted)


def test_without_onnx_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install onnx"):
        from_onnx(b"")


def test_check_without_onnxruntime_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        from_onnx(FROZEN["torch: last_script"][0], check=True)


def test_the_report_tells_what_was_found():
    text = read(FROZEN["torch: steps_dynamo"][0]).report()
    assert text.startswith("ONNX model") and "LSTM 3 -> 4, bidirectional" in text and "Dense 8 -> 5" in text
