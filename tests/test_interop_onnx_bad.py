"""ONNX files that are cut short, changed, hostile or of other operators: a clear error, and no large allocation."""

import contextlib
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_cases import model_of  # noqa: E402

import lstmx  # noqa: E402
from lstmx.interop.onnx import from_onnx, lstms  # noqa: E402
from lstmx.interop.onnx.graph import CONVERTERS  # noqa: E402
from lstmx.storage import ModelFileError  # noqa: E402

with np.load(Path(__file__).parent / "data" / "onnx_torch.npz") as file:
    MODELS = [file[key].tobytes() for key in file.files if key.endswith("/model")]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(MODELS) - 1), st.integers(0, 2**32))
def test_changed_files_are_refused_or_still_models(which, seed):
    rng, data = random.Random(seed), bytearray(MODELS[which])
    if rng.random() < 0.2:
        data = data[: rng.randrange(len(data))]
    for _ in range(rng.randrange(1, 5)):
        if data:
            data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    for read in (from_onnx, lstms):
        try:
            found = read(bytes(data))
        except ModelFileError as error:
            assert "the ONNX model" in str(error)
            continue
        if read is from_onnx:
            for call in (found.to_sequential, lambda found=found: found.run({})):
                with contextlib.suppress(ValueError):
                    call()


def lstm_node(**attributes):
    return helper.make_node("LSTM", ["x", "W", "R"], ["y"], **{"hidden_size": 4} | attributes)


def around(nodes=(), constants=(), inputs=None, W=(1, 16, 3), output="y", **options):
    """A model of an LSTM, with more nodes before it."""
    rng = np.random.default_rng(0)
    weights = {"W": rng.normal(size=W).astype(np.float32), "R": rng.normal(size=(1, 16, 4)).astype(np.float32)}
    inputs = {"x": ((5, 2, 3), np.float32)} if inputs is None else inputs
    nodes = [*nodes, lstm_node(**options)]
    return model_of(nodes, inputs, {output: (None, np.float32)}, weights | dict(constants))


def tensor(dims, raw=b"", kind=TensorProto.FLOAT):
    found = TensorProto(name="W", data_type=kind, raw_data=raw)
    found.dims.extend(dims)
    return found


def with_tensor(proto):
    model = around()
    model.graph.initializer[0].CopyFrom(proto)
    return model


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def growing(op):
    """A constant that is to become far larger than the file."""
    shape = np.array([2**31, 2**31] if op != "Concat" else [1], np.int64)
    if op == "Expand":
        made = [node("Expand", ["one", "shape"], ["big"])]
    elif op == "ConstantOfShape":
        made = [node("ConstantOfShape", ["shape"], ["big"])]
    elif op == "Tile":
        made = [node("Tile", ["one", "shape"], ["big"])]
    elif op == "Range":
        made = [node("Range", ["zero", "far", "step"], ["big"])]
    else:
        made = [node("Concat", [f"b{k}", f"b{k}"], [f"b{k + 1}"], axis=0) for k in range(60)]
        made.append(node("Identity", ["b60"], ["big"]))
    constants = {"one": np.ones((1, 1), np.float32), "shape": shape, "b0": np.ones(1, np.float32)}
    constants |= {"zero": np.array(0, np.int64), "far": np.array(2**62, np.int64), "step": np.array(1, np.int64)}
    model = around([*made, node("Shape", ["big"], ["s"])], constants)
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.INT64, [None]))
    return model


def circle():
    return around([node("Add", ["b", "one"], ["a"]), node("Add", ["a", "one"], ["b"]), node("Add", ["b", "x"], ["z"])],
                  {"one": np.ones(1, np.float32)}, output="z")  # fmt: skip


def nested(depth):
    """An If in an If in an If."""
    out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node("Identity", ["x"], ["out"])], "in", [], out)
    for _ in range(depth):
        graph = helper.make_graph([node("If", ["yes"], ["out"], then_branch=graph)], "in", [], out)
    made = [node("If", ["yes"], ["y"], then_branch=graph)]
    return model_of(made, {"x": ((5, 2, 3), np.float32)}, {"y": (None, np.float32)}, {"yes": np.array(True)})


def with_function():
    model = around([node("Twice", ["x"], ["z"], domain="mine")], output="z")
    body = [node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    return model


def loop():
    body = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Identity", ["v"], ["w"])], "body",
        [helper.make_tensor_value_info(n, k, []) for n, k in (("i", 7), ("c", 9), ("v", 1))],
        [helper.make_tensor_value_info(n, k, []) for n, k in (("d", 9), ("w", 1))],
    )  # fmt: skip
    return around([node("Loop", ["", "yes", "x"], ["z"], body=body)], {"yes": np.array(True)}, output="z")


BAD = {
    "numbers are missing": (lambda: with_tensor(tensor([1, 16, 3], b"\0" * 8)), "but numbers for 2 elements"),
    "a huge shape": (lambda: with_tensor(tensor([2**40, 2**20, 3], b"\0" * 8)), "but numbers for 2 elements"),
    "a shape below 0": (lambda: with_tensor(tensor([-1, -16, 3], b"\0" * 192)), "but numbers for 48 elements"),
    "a tensor of text": (lambda: with_tensor(tensor([0], kind=TensorProto.STRING)), "neither real numbers"),
    "weights that do not fit": (lambda: around(W=(1, 12, 3)), "W: has shape"),
    "weights of no features": (lambda: around(W=(1, 16, 0)), "must be at least 1"),
    "two directions with weights of one": (lambda: around(direction="bidirectional"), "the 2 directions"),
    "an unknown direction": (lambda: around(direction="up"), "direction: got 'up'"),
    "another hidden size": (lambda: around(hidden_size=5), "hidden_size: got 5"),
    "clip below 0": (lambda: around(clip=-1.0), "clip: got -1.0"),
    "two activations": (lambda: around(activations=["Tanh", "Tanh"]), "must be three"),
    "an unknown activation": (lambda: around(activations=["Tanh", "Tanh", "Sin"]), "there is no 'Sin'"),
    "alpha that turns back": (
        lambda: around(activations=["Sigmoid", "LeakyRelu", "Tanh"], activation_alpha=[-1.0]),
        "at least 0",
    ),
    "an unknown attribute": (lambda: around(colour=1), "'colour' is unknown"),
    "an input that is not there": (lambda: around([node("Relu", ["nowhere"], ["z"])], output="z"), "'nowhere' is used"),
    "an output that is not there": (lambda: around(output="nowhere"), "'nowhere' is used"),
    "a circle": (circle, "in no circle"),
    "a value twice": (
        lambda: around(
            [node("Relu", ["x"], ["z"]), node("Tanh", ["x"], ["z"]), node("Add", ["z", "z"], ["q"])], output="q"
        ),
        "made twice",
    ),
    "other operators": (
        lambda: around([node("Conv", ["x", "W"], ["a"]), node("GRU", ["a", "W", "R"], ["z"])], output="z"),
        "Conv, GRU; lstmx.interop.onnx.lstms",
    ),
    "another domain": (lambda: around([node("Relu", ["x"], ["z"], domain="mine")], output="z"), "mine.Relu"),
    "a function": (with_function, r"mine.Twice \(a function of the file\)"),
    "a loop": (loop, "not supported here: Loop"),
    "a type of the wrong attribute": (
        lambda: around([node("Gemm", ["x", "W"], ["z"], alpha="no")], output="z"),
        "alpha: got 'no'",
    ),
    "a permutation of nothing": (lambda: around([node("Transpose", ["W"], ["z"], perm=[0, 7])], output="z"), "perm"),
    "an If of several conditions": (lambda: around([node("If", ["W"], ["z"])], output="z"), "must be one value"),
    "Expand": (lambda: growing("Expand"), "more than"),
    "ConstantOfShape": (lambda: growing("ConstantOfShape"), "more than"),
    "Tile": (lambda: growing("Tile"), "more than"),
    "Range": (lambda: growing("Range"), "more than"),
    "Concat": (lambda: growing("Concat"), "more than"),
    "many units": (
        lambda: around(
            [node("Relu", ["w"], ["W2"])],
            inputs={"x": ((5, 2, 3), np.float32), "w": ((1, 16, 3), np.float32)},
            hidden_size=2**60,
            output="y",
        ),
        "hidden_size",
    ),
    "an old operator set": (
        lambda: model_of([lstm_node()], {"x": ((5, 2, 3), np.float32)}, {"y": (None, np.float32)}, opset=6),
        "operator set 6",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_models_say_what_is_wrong(make, message):
    model = make()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=message) as caught:
            from_onnx(model)
        assert tracemalloc.get_traced_memory()[1] < 20 * (model.ByteSize() + 2**20)
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("the ONNX model: ")


def message(number, payload):
    """A field of protobuf that holds a message."""
    size, found = len(payload), bytearray([number * 8 + 2])
    while size > 127:
        found.append(size % 128 + 128)
        size //= 128
    return bytes([*found, size]) + payload


def test_graphs_inside_of_graphs_end_somewhere():
    x = np.ones((5, 2, 3), np.float32)
    np.testing.assert_array_equal(from_onnx(nested(10)).predict(x), x)
    graph = b""
    for _ in range(1000):  # graphs of a node with an attribute that is a graph
        graph = message(1, message(5, message(6, graph)))
    for read in (from_onnx, lstms):
        with pytest.raises(ModelFileError, match="not an ONNX model"):
            read(message(7, graph))


def test_too_little_memory_is_no_fault_of_the_file(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setitem(CONVERTERS, "LSTM", fail)
    with pytest.raises(MemoryError):
        from_onnx(around())


def test_the_error_names_the_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(around().SerializeToString()[:-200])
    with pytest.raises(ModelFileError, match=r"model\.onnx: .*take another"):
        from_onnx(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(ModelFileError, match=r"not an ONNX model but an HDF5 file.*; lstmx.from_keras reads it$"):
        from_onnx(path)
    lstmx.LSTM(1, 1).save(path)
    with pytest.raises(ModelFileError, match=r"not an ONNX model but a model saved by lstmx; lstmx.load reads it$"):
        from_onnx(path)
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file in it"):
        from_onnx(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file"):
        from_onnx(tmp_path / "nothing.onnx")


def test_what_lstmx_wrote_and_does_not_read_says_what_to_load():
    model = lstmx.to_onnx(lstmx.LSTM(2, 3, proj_size=2))
    with pytest.raises(ModelFileError, match=r"not supported here: Scan.*; lstmx wrote this file: load what"):
        from_onnx(model)


@pytest.mark.parametrize("source", [3, None, ["model.onnx"]])
def test_a_source_of_another_type_is_refused(source):
    with pytest.raises(TypeError, match="source: got"):
        from_onnx(source)


# Data in other files.


def external(folder, location="weights.bin", size=None, offset=0):
    model = around()
    weight = model.graph.initializer[0]
    data = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(data)))):
        weight.external_data.add(key=key, value=value)
    (folder / "model").mkdir(exist_ok=True)
    target = (folder / "model" / location).resolve()
    if target.parent.is_dir():
        target.write_bytes(data[:size])
    path = folder / "model" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_data_beside_the_model_are_read(tmp_path):
    path = external(tmp_path)
    x = np.ones((5, 2, 3), np.float32)
    np.testing.assert_array_equal(from_onnx(path).predict(x), from_onnx(around()).predict(x))
    with pytest.raises(ModelFileError, match="give the path of the model"):
        from_onnx(path.read_bytes())


def test_data_outside_the_folder_are_not_read(tmp_path):
    with pytest.raises(ModelFileError, match="outside the folder"):
        from_onnx(external(tmp_path, "../weights.bin"))
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelFileError, match="outside the folder"):
        from_onnx(external(tmp_path, "link.bin"))
    with pytest.raises(ModelFileError, match="outside the folder"):
        from_onnx(external(tmp_path, str(tmp_path / "model" / "weights.bin")))


def test_data_that_are_cut_short_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="larger than the file"):
        from_onnx(external(tmp_path, size=50))
    with pytest.raises(ModelFileError):
        from_onnx(external(tmp_path, offset=64))
    (tmp_path / "model" / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match="no such file"):
        from_onnx(tmp_path / "model" / "model.onnx")


def test_arrays_of_numpy_helper_are_read_as_they_are():
    for kind in (np.float16, np.float64, np.float32):
        weights = {n: np.full(s, 0.1, kind) for n, s in (("W", (1, 16, 3)), ("R", (1, 16, 4)))}
        model = model_of([lstm_node()], {"x": ((5, 2, 3), kind)}, {"y": (None, kind)}, weights)
        y = from_onnx(model).predict(np.ones((5, 2, 3)))
        assert y.dtype == (np.float64 if kind == np.float64 else np.float32)
    bits = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32).view(np.uint32) >> 16
    for k, shape in enumerate(((1, 16, 3), (1, 16, 4))):
        proto = tensor(shape, np.full(shape, bits.flat[0], np.uint16).tobytes(), TensorProto.BFLOAT16)
        proto.name = "WR"[k]
        model.graph.initializer[k].CopyFrom(proto)
    model.graph.input[0].type.tensor_type.elem_type = model.graph.output[0].type.tensor_type.elem_type = 16
    half = from_onnx(model).predict(np.ones((5, 2, 3)))
    np.testing.assert_allclose(half, y, rtol=0.01, atol=0)
