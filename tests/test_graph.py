"""lstmx.predictors.GraphModel: a small graph of layers and operators, without ONNX."""

import copy
import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import PEER

import lstmx
from lstmx.predictors import GraphModel, graph
from lstmx.predictors.operators import OPERATORS, limited

N, T, I, H = 3, 6, 2, 4


def value(name, shape, dtype="float32"):
    return {"name": name, "dtype": dtype, "shape": shape}


def node(op, inputs, outputs, options=None, layers=()):
    """A node of a configuration; options that are left out are as they are by default."""
    defaults = {name: default for name, (_, default) in OPERATORS[op].options.items()} if op in OPERATORS else {}
    layers = [{"class": type(layer).__name__} | layer.config() for layer in layers]
    return {"op": op, "name": outputs[0], "inputs": inputs, "outputs": outputs,
            "options": defaults | (options or {}), "layers": layers}  # fmt: skip


def network(dtype="float32", bidirectional=True):
    """x, h and c to probabilities at every step and the last state; and the layers in it."""
    lstm = lstmx.LSTM(I, H, bidirectional=bidirectional, dtype=dtype, random_state=0)
    dense = lstmx.Dense((1 + bidirectional) * H, 5, dtype=dtype, random_state=1)
    softmax = lstmx.Activation("softmax")
    D = 1 + bidirectional
    nodes = [
        node("LSTM", ["x", "", "h", "c"], ["Y", "Yh", "Yc"], {"batch_first": False}, [lstm]),
        node("Transpose", ["Y"], ["side by side"], {"perm": [0, 2, 1, 3]}),
        node("Reshape", ["side by side", "shape"], ["features"]),
        node("Dense", ["features"], ["logits"], {}, [dense]),
        node("Activation", ["logits"], ["p"], {"axis": -1}, [softmax]),
    ]
    config = {
        "inputs": [value("x", ["T", "N", I], dtype), *(value(n, [D, "N", H], dtype) for n in "hc")],
        "outputs": [value("p", None, dtype), value("Yh", [D, None, H], dtype)],
        "constants": [value("shape", [3], "int64")],
        "nodes": nodes,
    }
    arrays = {"constant.0": np.array([0, 0, -1])}
    for k, layer in ((0, lstm), (3, dense)):
        arrays |= {f"{k}.0.{name}": a for name, a in layer.parameters().items()}
    return GraphModel(config, arrays), lstm, dense


def data(dtype="float32"):
    rng = np.random.default_rng(2)
    return {n: rng.normal(size=s).astype(dtype) for n, s in (("x", (T, N, I)), ("h", (2, N, H)), ("c", (2, N, H)))}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_run_does_what_the_layers_do(dtype):
    model, lstm, dense = network(dtype)
    feed = data(dtype)
    found = model.run(feed)
    y, (h, _) = lstm(feed["x"].swapaxes(0, 1), (feed["h"], feed["c"]))
    rows = lstmx.Sequential([dense.copy(), lstmx.Activation("softmax")]).predict(y)
    np.testing.assert_array_equal(found["p"], rows.swapaxes(0, 1))
    np.testing.assert_array_equal(found["Yh"], h)
    assert {a.dtype for a in found.values()} == {np.dtype(dtype)}


def test_predict_begins_at_zero():
    model, *_ = network()
    feed = data()
    zero = {"h": np.zeros_like(feed["h"]), "c": np.zeros_like(feed["c"])}
    np.testing.assert_array_equal(model.predict(feed["x"]), model.run(feed | zero)["p"])
    assert model.optional == {"h", "c"}


def test_a_row_has_the_same_bits_in_every_batch():
    model, *_ = network()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T, 40, I)).astype(np.float32)
    whole = model.predict(x)
    for batch in ([7], [3, 7, 39], range(20)):
        np.testing.assert_array_equal(model.predict(x[:, list(batch)]), whole[:, list(batch)])


def test_results_belong_to_the_caller():
    model, *_ = network()
    feed = data()
    before = {name: a.copy() for name, a in feed.items()}
    first = model.run(feed)
    kept = {name: a.copy() for name, a in first.items()}
    for a in first.values():
        a[...] = 0
    again = model.run(feed)
    for name, a in kept.items():
        np.testing.assert_array_equal(again[name], a)
    for name, a in before.items():
        np.testing.assert_array_equal(feed[name], a)
    assert not any(a.flags.writeable for a in model.constants.values())


def same(one, other):
    feed = data()
    for name, a in one.run(feed).items():
        np.testing.assert_array_equal(other.run(feed)[name], a)


def test_files_and_pickles_give_the_same_bits(path):
    model, *_ = network()
    model.save(path)
    same(model, lstmx.load(path))
    same(model, pickle.loads(pickle.dumps(model)))
    same(model, copy.deepcopy(model))
    first = path.read_bytes()
    lstmx.load(path).save(path)
    assert path.read_bytes() == first
    assert lstmx.load(path).inputs == model.inputs


def test_a_saved_model_runs_with_numpy_alone(path):
    model, *_ = network()
    model.save(path)
    program = (
        "import sys; from importlib.abc import MetaPathFinder\n"
        "class No(MetaPathFinder):\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('onnx', 'onnxruntime', 'google', 'scipy', 'sklearn', 'torch',\n"
        "                                  'safetensors'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "import lstmx, numpy; model = lstmx.load(sys.argv[1])\n"
        f"print(model.predict(numpy.ones(({T}, {N}, {I}), 'float32')).shape)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"({T}, {N}, 5)"


def test_what_it_shows():
    model, lstm, dense = network()
    assert repr(model) == "<GraphModel: x (T, N, 2), h (2, N, 4), c (2, N, 4) -> p of any shape, Yh (2, ?, 4)>"
    text = model.summary()
    assert "LSTM(input_size=2, hidden_size=4" in text and "Reshape" in text
    assert f"{model.size:,} parameters" in text and model.size == lstm.size + dense.size
    with pytest.raises(AttributeError, match="fixed since"):
        model.config = {}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda feed: 3, TypeError, "inputs: got int"),
        (lambda feed: {"y": feed["x"]}, ValueError, "there is no 'y'"),
        (lambda feed: {"h": feed["h"]}, ValueError, "'x' is missing"),
        (lambda feed: {"x": feed["x"][0]}, ValueError, r"x: got shape \(3, 2\), must be \(T, N, 2\)"),
        (lambda feed: {"x": feed["x"][..., :1]}, ValueError, r"must be \(T, N, 2\)"),
        (lambda feed: {"x": feed["x"].astype(str)}, TypeError, "must be real numbers"),
        (lambda feed: {"x": [np.ones((4, 2)), np.ones((3, 2))]}, ValueError, r"a graph takes one array, \(T, N, 2\)"),
        (lambda feed: feed | {"h": feed["h"][:, :1]}, ValueError, "initial_h, initial_c: got"),
    ],
)
def test_wrong_inputs_say_what_they_must_be(change, error, message):
    model, *_ = network()
    with pytest.raises(error, match=message):
        model.run(change(data()))


def test_predict_needs_one_input():
    config = {
        "inputs": [value("a", [2]), value("b", [2])],
        "outputs": [value("c", [2])],
        "constants": [],
        "nodes": [node("Add", ["a", "b"], ["c"])],
    }
    model = GraphModel(config, {})
    np.testing.assert_array_equal(model.run({"a": [1, 2], "b": [3, 4]})["c"], [4, 6])
    with pytest.raises(ValueError, match=r"takes a, b; call run"):
        model.predict([1, 2])


def test_an_error_at_run_time_names_the_node():
    config = {
        "inputs": [value("a", None), value("b", None)],
        "outputs": [value("c", None)],
        "constants": [],
        "nodes": [node("Add", ["a", "b"], ["c"])],
    }
    with pytest.raises(ValueError, match="Add 'c': shape mismatch"):
        GraphModel(config, {}).run({"a": np.ones(2), "b": np.ones(3)})


# Configurations of hostile files.


def broken(change):
    model, *_ = network()
    config, arrays = model.state()
    config = json.loads(json.dumps(config))
    change(config)
    return config, arrays


def set_at(*path, to):
    def change(config):
        place = config
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


BAD = {
    "an unknown operator": (set_at("nodes", 1, "op", to="Conv"), "no operator 'Conv'"),
    "another class of layer": (set_at("nodes", 0, "layers", 0, "class", to="Dense"), "must be of class LSTM"),
    "a class that is no layer": (set_at("nodes", 0, "layers", 0, "class", to="GraphModel"), "no layer class"),
    "no layer": (set_at("nodes", 0, "layers", to=[]), "must have 1 to 2 layers"),
    "layers of an operator": (
        lambda c: c["nodes"][1].update(layers=c["nodes"][3]["layers"]), "must have 0 to 0 layers"),
    "layers without end": (set_at("nodes", 3, "layers", 0, "output_size", to=2**60), "must be float32"),
    "a stacked LSTM": (set_at("nodes", 0, "layers", 0, "num_layers", to=2), "num_layers=1"),
    "a value twice": (set_at("nodes", 1, "outputs", to=["Y"]), "made twice"),
    "a value from nowhere": (set_at("nodes", 2, "inputs", 0, to="nowhere"), "not there before it runs"),
    "a circle": (set_at("nodes", 1, "inputs", 0, to="p"), "not there before it runs"),
    "an output from nowhere": (set_at("outputs", 0, "name", to="nowhere"), "nothing gives"),
    "no outputs": (set_at("outputs", to=[]), "there are none"),
    "an option that is unknown": (set_at("nodes", 1, "options", "colour", to=1), "colour"),
    "an option of another type": (set_at("nodes", 1, "options", "perm", to=["a"]), "perm"),
    "too few inputs": (set_at("nodes", 2, "inputs", to=["Y"]), "1 inputs"),
    "another type": (set_at("inputs", 0, "dtype", to="object"), "dtype"),
    "a constant of another shape": (set_at("constants", 0, "shape", to=[4]), "must be int64"),
    "a constant of unknown shape": (set_at("constants", 0, "shape", to=[None]), "the shape of"),
    "a shape that is no list": (set_at("inputs", 0, "shape", to=3), "list"),
    "more units": (set_at("nodes", 0, "layers", 0, "hidden_size", to=2**40), "must be float32"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_wrong_configurations_are_refused(change, message):
    config, arrays = broken(change)
    with pytest.raises((ValueError, TypeError), match=message):
        GraphModel(config, arrays)


def leaves(config, path=()):
    """The paths of all values in a configuration."""
    if isinstance(config, dict | list):
        for key, inner in config.items() if isinstance(config, dict) else enumerate(config):
            yield (*path, key)
            yield from leaves(inner, (*path, key))


PATHS = list(leaves(network()[0].config))
ODD = [None, True, -1, 0, 1, 2**31, 2**70, 1.5, "", "x", "LSTM", [], {}, [1, 2, 3], ["x"], {"a": 1}]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_changed_configurations_are_refused_or_still_run(seed):
    rng = random.Random(seed)

    def change(config):
        for _ in range(rng.randrange(1, 3)):
            try:
                set_at(*rng.choice(PATHS), to=copy.deepcopy(rng.choice(ODD)))(config)
            except (TypeError, KeyError, IndexError):  # what was there is not any more
                continue

    config, arrays = broken(change)
    try:
        model = GraphModel(config, arrays)
    except (TypeError, ValueError, KeyError, MemoryError, OverflowError):  # those that storage explains
        return
    for call in (lambda: model.run(data()), model.to_sequential, model.summary, lambda: repr(model)):
        try:
            call()
        except (TypeError, ValueError, MemoryError):
            continue


def test_a_value_cannot_grow_without_end(monkeypatch):
    monkeypatch.setattr(graph, "LARGEST", 2**16)
    nodes = [node("Concat", [f"x{k}", f"x{k}"], [f"x{k + 1}"], {"axis": 0}) for k in range(60)]
    config = {"inputs": [value("x0", [1])], "outputs": [value("x60", None)], "constants": [], "nodes": nodes}
    model = GraphModel(config, {})
    with pytest.raises(ValueError, match="would have more than"):
        model.run({"x0": [1.0]})


# Chains.


def test_a_chain_becomes_a_sequential():
    model, *_ = network()
    x = data()["x"]
    sequential = model.to_sequential()
    assert [type(layer) for layer in sequential.layers] == [lstmx.LSTM, lstmx.Dense]
    assert sequential.layers[1].activation == "softmax"
    wanted = model.predict(x).swapaxes(0, 1)
    np.testing.assert_allclose(sequential.predict(x.swapaxes(0, 1)), wanted, **PEER["float32"])
    sequential.fit(x.swapaxes(0, 1), np.zeros((N, T), int), loss="categorical_crossentropy", epochs=1, verbose=0)
    np.testing.assert_array_equal(model.predict(x).swapaxes(0, 1), wanted)  # it has parameters of its own


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Neg", ["x"], ["p"])], "Neg 'p': there is no such layer"),
        ([node("Transpose", ["x"], ["p"], {"perm": [2, 1, 0]})], "there are no layers"),
        (
            [node("LSTM", ["x"], ["Y", "Yh", "Yc"], {"batch_first": True}, [lstmx.LSTM(I, H)]),
             node("Identity", ["Yc"], ["p"])],
            "reads the memory c",
        ),
        (
            [node("LSTM", ["x"], ["Y", "Yh", "Yc"], {"batch_first": True}, [lstmx.LSTM(I, H, bidirectional=True)]),
             node("Split", ["Yh"], ["a", "p"], {"axis": 1, "parts": 2})],
            "does not read all directions",
        ),
    ],
)  # fmt: skip
def test_what_is_no_chain_says_why(nodes, message):
    config = {"inputs": [value("x", [None, None, I])], "outputs": [value("p", None)], "constants": [], "nodes": nodes}
    arrays = {}
    for k, one in enumerate(nodes):
        for j, layer in enumerate(one["layers"]):
            made = lstmx.LSTM(I, H, bidirectional=layer["bidirectional"], random_state=0)
            arrays |= {f"{k}.{j}.{name}": a for name, a in made.parameters().items()}
    with pytest.raises(ValueError, match=message):
        GraphModel(config, arrays).to_sequential()


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators_do_not_change_what_they_are_given(name):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 1, size=(2, 3)).astype(np.float32)
    more = {"Reshape": [np.array([3, 2])], "Slice": [np.array([0]), np.array([1])], "Gather": [np.array([0])],
            "GatherND": [np.array([[0], [1]])], "CumSum": [np.array(0)], "TopK": [np.array([2])],
            "GatherElements": [np.array([[0, 1, 0]])], "Expand": [np.array([2, 3])], "Tile": [np.array([1, 2])],
            "ReverseSequence": [np.array([2, 1, 2])], "Where": [x, x], "MatMul": [x.T], "Clip": [x[0, 0]]}  # fmt: skip
    options = {key: default for key, (_, default) in OPERATORS[name].options.items()}
    options |= {"Concat": {"axis": 0}, "Cast": {"to": "float64"}, "Split": {"parts": 2},
                "Unsqueeze": {"axes": [0]}}.get(name, {})  # fmt: skip
    given = [x, *more.get(name, [x] * (OPERATORS[name].inputs[0] - 1))]
    if name == "ConstantOfShape":
        given = [np.array([2, 2]), np.array([1.5], np.float32)]
    if name == "Range":
        given = [np.array(0), np.array(5), np.array(2)]
    if name == "Squeeze":
        given = [x[None]]
    before = [a.copy() for a in given]
    found = OPERATORS[name].function(given, options, limited(1000))
    assert all(isinstance(a, np.ndarray | np.generic) for a in (found if isinstance(found, tuple) else (found,)))
    for a, b in zip(given, before, strict=True):
        np.testing.assert_array_equal(a, b)
