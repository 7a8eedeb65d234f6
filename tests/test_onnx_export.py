"""Models as ONNX: valid graphs, which give in onnxruntime what lstmx gives, for every layer and option."""

import sys

import numpy as np
import pytest
from cell_cases import CELLS, network, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from onnx_sessions import assert_close, session
from tolerances import PEER

import lstmx
from lstmx.interop.gates import reorder
from lstmx.interop.onnx.export import to_onnx
from lstmx.layers import (
    LSTM,
    Activation,
    Dense,
    Dropout,
    Embedding,
    FinalState,
    Last,
    Masking,
    MeanPool,
    Reversed,
    Unmask,
)
from lstmx.layers.activation import ACTIVATIONS

onnx = pytest.importorskip("onnx")

LENGTHS = np.array([6, 3, 0, 1, 5])
NUMBERS = {"affine": (0.5, -0.2), "scaled_tanh": (1.7, 0.6), "leaky_relu": (0.3,), "elu": (0.7,),
           "hard_sigmoid": (0.3, 0.4), "thresholded_relu": (0.2,)}  # fmt: skip
ALL_ACTIVATIONS = [(name, *NUMBERS[name]) if name in NUMBERS else name for name in ACTIVATIONS]


def sequences(features=3, dtype="float32", lengths=LENGTHS, seed=0):
    """Random x (5, 6, features) whose padding is NaN."""
    x = np.random.default_rng(seed).normal(size=(len(lengths), 6, features)).astype(dtype)
    for row, steps in zip(x, lengths, strict=True):
        row[steps:] = np.nan
    return x


def inputs_of(model):
    return [value.name for value in model.graph.input]


# LSTM


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_cell_with_states_and_lengths(cell, dtype):
    for bidirectional, proj, opset in ((False, 0, 14), (True, 0, 18), (True, 4, 22)):
        lstm = network(cell, 3, 6, 2, proj=proj, bidirectional=bidirectional, dtype=dtype)
        p, x = problem(lstm, len(LENGTHS), 6), sequences(dtype=dtype)
        y, state = lstm(x, (p["h"], p["c"]), lengths=LENGTHS)
        made = to_onnx(lstm, states=True, lengths=True, opset=opset)
        found = session(made).run(["y", "h_n", "c_n"], {"x": x, "lengths": LENGTHS, "h": p["h"], "c": p["c"]})
        for ours, theirs in zip((y, *state), found, strict=True):
            assert_close(theirs, ours, dtype)
        plain = session(to_onnx(lstm)).run(None, {"x": p["x"]})
        assert len(plain) == 1
        assert_close(plain[0], lstm(p["x"])[0], dtype)


@pytest.mark.parametrize("cell", [CELLS["plain"], CELLS["haste"]], ids=["operator", "scan"])
@pytest.mark.parametrize(
    "options",
    [{"reverse": True}, {"bidirectional": True, "merge": "sum"}, {"bidirectional": True, "merge": "mul"},
     {"bidirectional": True, "merge": "average"}, {"bias": False}],
    ids=["reverse", "sum", "mul", "average", "no bias"],
)  # fmt: skip
def test_directions_and_merges(cell, options):
    lstm, x = network(cell, 3, 5, 2, dtype="float32", **options), sequences()
    y, _ = lstm(x, lengths=LENGTHS)
    assert_close(session(to_onnx(lstm, lengths=True)).run(None, {"x": x, "lengths": LENGTHS})[0], y)
    whole = np.nan_to_num(x)
    assert_close(session(to_onnx(lstm)).run(None, {"x": whole})[0], lstm(whole)[0])


def test_which_layers_become_the_operator():
    def operators(model):
        return {node.op_type for node in to_onnx(model).graph.node} & {"LSTM", "Scan"}

    assert operators(LSTM(3, 4, cell=lstmx.Cell(peephole=True, cifg=True, clip=1.0, learn_state=True))) == {"LSTM"}
    assert operators(LSTM(3, 4, cell=lstmx.Cell(recurrent_dropout=0.1))) == {"LSTM"}
    assert operators(LSTM(3, 4, proj_size=2)) == operators(LSTM(3, 4, dtype="float64")) == {"Scan"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stream_step_by_step_is_the_whole_sequence(dtype):
    cell = lstmx.Cell(learn_state=True)
    lstm = network(cell, 3, 6, 2, dtype=dtype)
    x = problem(lstm, 4, 6)["x"]
    running, state = session(to_onnx(lstm, states=True)), lstm(x[:, :1])[1]
    found = []
    for t in range(1, 6):
        y, *state = running.run(None, {"x": x[:, t : t + 1], "h": state[0], "c": state[1]})
        found.append(y)
    assert_close(np.concatenate(found, axis=1), lstm(x)[0][:, 1:], dtype)


@pytest.mark.parametrize("cifg", [False, True])
def test_weights_in_the_file_are_the_bits_of_the_model(cifg):
    lstm = network(lstmx.Cell(cifg=cifg, peephole=True), 3, 5, 2, bidirectional=True, dtype="float32")
    arrays = {c.name: onnx.numpy_helper.to_array(c) for c in to_onnx(lstm).graph.initializer}
    ours, seen = ("igo", "io") if cifg else ("ifgo", "ifo")
    for name, p in lstm.parameters().items():
        kind, _, rest = name.rpartition("_l")
        layer, direction = int(rest[0]), int(rest.endswith("reverse"))
        key, have, want = {"weight_ih": ("W", "iofg", ours), "weight_hh": ("R", "iofg", ours),
                           "bias": ("B", "iofg" * 2, ours), "peephole": ("P", "iof", seen)}[kind]  # fmt: skip
        found = arrays[f"LSTM.l{layer}.{key}"][direction]
        if key == "B":
            found, rest = np.split(found, 2)
            assert not rest.any()
        assert_array_equal(reorder(found, have[:4], want), p)


def test_the_reference_of_onnx_gives_the_same():
    from onnx.reference import ReferenceEvaluator

    lstm = network(lstmx.Cell(peephole=True), 3, 5, bidirectional=True, dtype="float32")
    x = problem(lstm, 4, 6)["x"]
    found = ReferenceEvaluator(to_onnx(lstm)).run(None, {"x": x})[0]
    assert_allclose(found, lstm(x)[0], **PEER["float32"])


# Sequential

CHAINS = {
    "last": lambda: [LSTM(3, 6), Last(), Dense(6, 2, "softmax")],
    "final state": lambda: [LSTM(3, 6, bidirectional=True), Dropout(0.5), FinalState(), Dense(12, 2)],
    "final states, summed": lambda: [LSTM(3, 6, bidirectional=True), FinalState("sum")],
    "final states, multiplied": lambda: [LSTM(3, 6, 2, bidirectional=True), FinalState("mul")],
    "final states, averaged": lambda: [LSTM(3, 6, bidirectional=True), FinalState("average"), Dense(6, 1)],
    "final state of a reversed one": lambda: [LSTM(3, 6, reverse=True), FinalState(), Dense(6, 2)],
    "last of a reversed one": lambda: [LSTM(3, 6, reverse=True), Last(), Dense(6, 2)],
    "mean": lambda: [LSTM(3, 6), MeanPool(), Dense(6, 2, "sigmoid")],
    "every step": lambda: [LSTM(3, 6), Dense(6, 4, "relu"), LSTM(4, 5, 2), Dense(5, 2, "tanh")],
    "dense before pooling": lambda: [LSTM(3, 6), Dense(6, 2, "sigmoid"), Last()],
    "dense before mean": lambda: [Dense(3, 4, "relu"), MeanPool(), Dense(4, 2, "softmax")],
    "reversed": lambda: [Reversed(), LSTM(3, 6), Dense(6, 2), Reversed(), LSTM(2, 3)],
    "activation": lambda: [LSTM(3, 6), Activation("gelu_tanh"), Last(), Activation(("affine", 2.0, 1.0))],
    "masking": lambda: [Masking(0.5), LSTM(3, 6, bidirectional=True), Dense(12, 2)],
    "masking, repeated": lambda: [Masking(0.5), LSTM(3, 6), Unmask(), LSTM(6, 4), Dense(4, 2)],
    "masking, zero": lambda: [Masking(0.5), LSTM(3, 6, 2), Unmask("zero"), Dense(6, 2)],
    "masking, reversed": lambda: [Masking(0.5), Reversed(), LSTM(3, 6), Unmask(), Reversed()],
    "masking, last": lambda: [Masking(0.5), LSTM(3, 6, bidirectional=True), FinalState(), Dense(12, 2)],
    "masking, mean": lambda: [Masking(0.5), LSTM(3, 6), Dense(6, 3), MeanPool()],
    "a cell by Scan": lambda: [Masking(0.5), LSTM(3, 6, cell=lstmx.Cell(layer_norm="haste")), Last(), Dense(6, 2)],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_layers(name, dtype):
    model, x = lstmx.Sequential(CHAINS[name](), random_state=0).astype(dtype), sequences(dtype=dtype)
    x[0, 2] = x[0, 3] = x[1, 0] = x[3, 0] = x[4, 4] = 0.5
    assert_close(session(to_onnx(model, lengths=True)).run(None, {"x": x, "lengths": LENGTHS})[0],
                 model.predict(x, lengths=LENGTHS), dtype)  # fmt: skip
    x = np.nan_to_num(x)
    assert_close(session(to_onnx(model, opset=18)).run(["y"], {"x": x})[0], model.predict(x), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ALL_ACTIVATIONS, ids=str)
def test_activations(activation, dtype):
    model = lstmx.Sequential([Dense(3, 8), Activation(activation)], random_state=0).astype(dtype)
    x = 3 * np.random.default_rng(0).normal(size=(4, 6, 3)).astype(dtype)
    if (activation, dtype) == ("gelu", "float64"):
        with pytest.raises(ValueError, match='onnxruntime has not in float64; export with dtype="float32"'):
            to_onnx(model)
        return
    assert_close(session(to_onnx(model)).run(None, {"x": x})[0], model.predict(x), dtype)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("rest", [lambda: [LSTM(4, 6), Last(), Dense(6, 2)], lambda: [LSTM(4, 6, bidirectional=True)]])
def test_tokens(mask, rest):
    model = lstmx.Sequential([Embedding(9, 4, padding_idx=0, mask_padding=mask), *rest()], random_state=0)
    tokens = np.random.default_rng(0).integers(1, 9, size=(5, 6))
    tokens[0, 2:4] = tokens[4, 0] = 0
    made = to_onnx(model)
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert_close(session(made).run(None, {"x": tokens})[0], model.predict(tokens))
    wanted = model.predict(tokens, lengths=LENGTHS)
    tokens[np.arange(6) >= LENGTHS[:, None]] = 1000  # the content of padding does not matter
    assert_close(session(to_onnx(model, lengths=True)).run(None, {"x": tokens, "lengths": LENGTHS})[0], wanted)


def test_states_of_several_layers():
    model = lstmx.Sequential([LSTM(3, 6), Dense(6, 4, "tanh"), LSTM(4, 5, 2), Last(), Dense(5, 2)], random_state=0)
    made = to_onnx(model, states=True)
    assert inputs_of(made) == ["x", "0.h", "0.c", "2.h", "2.c"]
    assert [value.name for value in made.graph.output] == ["y", "0.h_n", "0.c_n", "2.h_n", "2.c_n"]
    running, x = session(made), sequences(lengths=[6] * 5)
    state = {given.name: np.zeros((given.shape[0], 5, given.shape[2]), "f") for given in running.get_inputs()[1:]}
    ours = None
    for t in range(6):
        wanted, ours = model.step(x[:, t], ours)
        y, *after = running.run(None, {"x": x[:, t : t + 1], **state})
        state = dict(zip(state, after, strict=True))
        assert_close(y, wanted)


layer = st.sampled_from(["lstm", "bidirectional", "reverse", "dense", "activation", "dropout", "reversed", "unmask"])


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.sampled_from([[], ["masking"], ["embedding"], ["masked embedding"]]),
    st.lists(layer, min_size=1, max_size=4),
    st.sampled_from([[], ["last"], ["mean"], ["last", "dense"]]),
    st.booleans(),
)
def test_any_chain(first, middle, end, ragged):
    width, chain, rng = 2, [], np.random.default_rng(0)
    for name in first + middle + end:
        made = {
            "lstm": lambda w: LSTM(w, 3), "bidirectional": lambda w: LSTM(w, 2, 2, bidirectional=True),
            "reverse": lambda w: LSTM(w, 3, reverse=True), "dense": lambda w: Dense(w, 2, "tanh"),
            "activation": lambda w: Activation("softsign"), "dropout": lambda w: Dropout(0.5),
            "reversed": lambda w: Reversed(), "unmask": lambda w: Unmask(), "last": lambda w: Last(),
            "mean": lambda w: MeanPool(), "masking": lambda w: Masking(1.0), "embedding": lambda w: Embedding(5, 2),
            "masked embedding": lambda w: Embedding(5, 2, padding_idx=1, mask_padding=True),
        }[name](width)  # fmt: skip
        chain.append(made)
        width = made.output_size(width)
    if not any(one.store.arrays for one in chain):
        chain.append(Dense(width, 2))
    model = lstmx.Sequential(chain, random_state=1)
    x = rng.integers(0, 3, size=(5, 6)) if model.embedding else rng.integers(0, 2, size=(5, 6, 2)).astype("f")
    more = {"lengths": LENGTHS} if ragged else {}
    found = session(to_onnx(model, lengths=ragged)).run(None, {"x": x, **more})[0]
    assert_close(found, model.predict(x, **more))


# The file


def test_what_a_file_says_of_itself(tmp_path):
    path = tmp_path / "model.onnx"
    model = lstmx.Sequential([LSTM(3, 6, 2), Last(), Dense(6, 2)], random_state=0)
    made = to_onnx(model, path, lengths=True, opset=17)
    assert onnx.load(path) == made and [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert (made.producer_name, made.producer_version) == ("lstmx", lstmx.__version__)
    assert [(one.domain, one.version) for one in made.opset_import] == [("", 17)]
    assert "LSTM(input_size=3" in made.doc_string and all(value.doc_string for value in made.graph.input)
    sizes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
             for v in (*made.graph.input, *made.graph.output)]  # fmt: skip
    assert sizes == [["N", "T", 3], ["N"], ["N", 2]]
    names = [node.name for node in made.graph.node]
    assert len(set(names)) == len(names) and "0.LSTM.l1.LSTM" in " ".join(names)
    assert {"0.LSTM.l0.W", "2.Dense.weight"} <= {c.name for c in made.graph.initializer}


def test_the_same_model_gives_the_same_file():
    model = lstmx.Sequential([Masking(), LSTM(3, 6, 2, proj_size=2), Last(), Dense(2, 2)], random_state=0)
    assert to_onnx(model).SerializeToString() == to_onnx(model.copy()).SerializeToString()


def test_a_failed_export_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    model = lstmx.Sequential([LSTM(3, 6), MeanPool()], random_state=0)
    with pytest.raises(ValueError, match=r"states: layers\[1\] \(MeanPool\) is the mean"):
        to_onnx(model, path, states=True)
    assert path.read_bytes() == b"before"
    with pytest.raises(FileNotFoundError, match="path: there is no folder"):
        to_onnx(model, tmp_path / "nowhere" / "model.onnx")


def test_another_type():
    lstm, x = network(lstmx.Cell(), 3, 5, dtype="float64"), sequences(lengths=[6] * 5)
    made = to_onnx(lstm, dtype="float32")
    assert {node.op_type for node in made.graph.node} >= {"LSTM"}
    assert_close(session(made).run(None, {"x": x})[0], lstm.astype("float32")(x)[0])


@pytest.mark.parametrize("model", [LSTM(3, 4), lstmx.Sequential([Embedding(9, 3), LSTM(3, 4, proj_size=2)])])
@pytest.mark.parametrize("options", [{}, {"lengths": True}, {"lengths": True, "states": True}], ids=str)
def test_check_prints_the_largest_error(model, options, capsys):
    to_onnx(model, check=True, **options)
    assert capsys.readouterr().out.startswith("ONNX model: largest error ")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"opset": 13}, ValueError, "opset: got 13, must be from 14 to"),
        ({"opset": 1000}, ValueError, "opset: got 1000, must be from 14"),
        ({"opset": "14"}, TypeError, "opset"),
        ({"states": 1}, TypeError, "states"),
        ({"lengths": None}, TypeError, "lengths"),
        ({"dtype": "float16"}, (TypeError, ValueError), "dtype"),
        ({"path": 3}, TypeError, "path: got 3"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        to_onnx(LSTM(3, 4), **options)


def test_without_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="to_onnx needs onnx: pip install onnx"):
        to_onnx(LSTM(3, 4))


def test_what_has_no_stream():
    for chain, name in (([Reversed(), LSTM(3, 4)], "Reversed"), ([LSTM(3, 4, reverse=True)], "LSTM")):
        with pytest.raises(ValueError, match=rf"states: layers\[0\] \({name}\) reads from the end"):
            to_onnx(lstmx.Sequential(chain), states=True)
    with pytest.raises(ValueError, match="states: this model has no LSTM"):
        to_onnx(lstmx.Sequential([Dense(3, 4)]), states=True)
    with pytest.raises(TypeError, match="model: got int"):
        to_onnx(3)
    with pytest.raises(TypeError, match=r"model: got Dense, .*; put it into a Sequential"):
        to_onnx(Dense(3, 4))
    with pytest.raises(TypeError, match=r"model: got Graph, .*; export its to_sequential\(\)"):
        to_onnx(type("Graph", (), {"to_sequential": None})())


def test_a_layer_of_someone_else():
    class Doubled(Dropout):
        def forward_rows(self, rows, context, state, run):
            return 2 * rows, context, None, None

    try:
        with pytest.raises(TypeError, match=r"layers\[0\]: Doubled cannot be exported; there can be LSTM, Dense"):
            to_onnx(lstmx.Sequential([Doubled(0.1), LSTM(3, 4)]))
    finally:
        del lstmx.storage.REGISTRY["Doubled"]


def test_more_than_a_file_holds(monkeypatch):
    monkeypatch.setattr("lstmx.interop.onnx.export.LARGEST", 100)
    with pytest.raises(ValueError, match=r"model: has .* bytes of constants, more than the 100"):
        to_onnx(LSTM(3, 4))
