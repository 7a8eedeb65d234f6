"""LSTMs out of ONNX models that people use, beside onnxruntime on what the rest of the model gives them."""

import numpy as np
import pytest
from real_models import member

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from lstmx.interop.onnx import from_onnx, lstms  # noqa: E402

pytestmark = pytest.mark.long

SILERO = "silero-vad==6.2.3", "silero_vad/data/"
DDDDOCR = "ddddocr==1.6.1", "ddddocr/"
WITHIN = 1e-5  # of numbers of order 1


def file_of(package, name):
    """The path of a file of a package."""
    requirement, folder = package
    return member(requirement, folder + name)


def run(path, more, inputs):
    """Values by name of a model in onnxruntime: its outputs, and `more` that is inside of the main graph."""
    model = onnx.load(path)
    there = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in more if name not in there)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in model.graph.output]
    return dict(zip(names, session.run(names, inputs), strict=True))


def node_of(path):
    """The one LSTM in the main graph of a model."""
    [node] = [node for node in onnx.load(path).graph.node if node.op_type in ("LSTM", "DynamicQuantizeLSTM")]
    return node


def check(lstm, x, states, wanted, within=WITHIN):
    """Our outputs and last states beside Y, Y_h and Y_c."""
    y, (h, c) = lstm(x.swapaxes(0, 1), states)
    T, N = x.shape[:2]
    y = y.reshape(N, T, lstm.directions, -1).transpose(1, 2, 0, 3)
    for ours, theirs in zip((y, h, c), wanted, strict=True):
        if theirs is not None:
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < within


def speech(windows):
    """Something like a voice: (windows, 576) samples."""
    t = np.arange(windows * 576) / 16000
    rng = np.random.default_rng(0)
    wave = sum(np.sin(2 * np.pi * f * t * (1 + 0.1 * np.sin(9 * t))) / f for f in (120, 240, 480, 900)) * 60
    return (wave * (np.sin(4 * t) > 0) + 0.01 * rng.normal(size=len(t))).astype(np.float32).reshape(windows, 576)


def test_silero_sequence():
    path = file_of(SILERO, "silero_vad_16k_sequence.onnx")
    [found], node = lstms(path), node_of(path)
    assert (found.name, found.input_size, found.hidden_size) == ("/recurrent/LSTM", 128, 128)
    rng = np.random.default_rng(1)
    states = [rng.normal(size=(1, 1, 128)).astype(np.float32) * 0.3 for _ in range(2)]
    inputs = {"input": speech(50), "h": states[0], "c": states[1]}
    values = run(path, (node.input[0], node.output[0]), inputs)
    lstm = from_onnx(path, lstm=found.name, check=True)
    check(lstm, values[node.input[0]], states, [values[name] for name in node.output])
    with pytest.raises(ValueError, match="not supported here: Conv, Pad"):
        from_onnx(path)


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("silero_vad_16k_op15.onnx", "/model/encoder/3/activation/Relu_output_0"),
        ("silero_vad_half.onnx", "/encoder/3/activation/Relu_output_0"),
    ],
)
def test_silero_whose_weights_are_made_inside_of_branches(name, encoder):
    path = file_of(SILERO, name)
    found = lstms(path)
    assert len(found) == 2 and not any(one.problem for one in found)
    inputs = {"input": speech(1), "state": np.random.default_rng(1).normal(size=(2, 1, 128)).astype(np.float32) * 0.3}
    if "op15" in name:
        inputs["sr"] = np.array(16000)
    values = run(path, [encoder], inputs)
    x = values[encoder].transpose(2, 0, 1)  # (N, F, 1) of one step
    h, c = values["stateN"][:, None]
    for one in found:
        lstm = from_onnx(path, lstm=one.index)
        check(lstm, x, list(inputs["state"][:, None]), (None, h, c))


def test_silero_has_the_same_weights_however_they_are_made():
    """Whole in one file, of slices in another: bit for bit."""
    whole, made = (
        from_onnx(file_of(SILERO, f"silero_vad_16k_{name}.onnx"), lstm=0).parameters() for name in ("sequence", "op15")
    )
    assert whole.keys() == made.keys()
    for name, a in whole.items():
        np.testing.assert_array_equal(made[name], a)


@pytest.mark.parametrize(("name", "within"), [("common.onnx", WITHIN), ("common_old.onnx", 0.05)])
def test_ddddocr(name, within):
    """The second file is quantised: its LSTM rounds to 8 bits what ours does not."""
    path = file_of(DDDDOCR, name)
    [found], node = lstms(path), node_of(path)
    assert (found.input_size, found.hidden_size, found.direction) == (512, 512, "bidirectional")
    assert found.quantised == (name == "common_old.onnx")
    image = np.random.default_rng(0).uniform(-1, 1, size=(1, 1, 64, 160)).astype(np.float32)
    values = run(path, (node.input[0], *node.output), {onnx.load(path).graph.input[0].name: image})
    lstm = from_onnx(path, lstm=0)
    check(lstm, values[node.input[0]], None, [values[name] for name in node.output], within)
