"""from_rtneural beside the frozen outputs of data/rtneural.json, which data/make_rtneural.py made."""

import contextlib
import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import PEER

import lstmx
from lstmx.interop import rtneural
from lstmx.interop.rtneural import from_rtneural
from lstmx.storage import ModelFileError

FILE = Path(__file__).parent / "data" / "rtneural.json"
CONTENT = json.loads(FILE.read_text(encoding="utf-8"))


def changed(layer=1, **more):
    """The content of the file with something else in a layer; without what is None."""
    content = copy.deepcopy(CONTENT)
    content["layers"][layer] |= more
    content["layers"][layer] = {key: value for key, value in content["layers"][layer].items() if value is not None}
    return content


def read(content, path):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return rtneural.read(path)


def test_outputs_are_those_of_keras():
    x, y = (np.array(CONTENT[key], np.float32) for key in "xy")
    model = from_rtneural(FILE)
    np.testing.assert_allclose(model.predict(x[None, :, None])[0, :, 0], y, **PEER["float32"])
    assert np.ptp(y) > 0.1
    state = None
    for k in range(3):
        output, state = model.step(x[k : k + 1], state)
        np.testing.assert_allclose(output, y[k : k + 1], **PEER["float32"])


def test_what_was_found_is_told():
    found = rtneural.read(FILE)
    assert found.source == "RTNeural model" and found.notes == ()
    assert [(part.found, part.layer) for part in found.parts] == [
        ("time-distributed-dense 1 -> 4, tanh", "0: Dense"), ("lstm 4 -> 5", "1: LSTM"),
        ("dense 5 -> 3, elu", "2: Dense, 3: Activation"), ("activation sigmoid", "4: Activation"),
        ("dense 3 -> 1", "5: Dense"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="check: a RTNeural model alone says not"):
        from_rtneural(FILE, check=True)


def test_what_rtneural_leaves_out_is_noted(path):
    content = changed(1, shape=[None, 5]) | {"in_skip": 1}
    content["layers"].insert(2, {"type": "unknown", "activation": "", "shape": [None, 5], "weights": []})
    found = read(content, path)
    assert len(found.notes) == 3 and [type(layer).__name__ for layer in found.model.layers].count("Dense") == 3
    assert "last step alone" in found.notes[0] and "skips" in found.notes[1] and "in_skip" in found.notes[2]


def test_an_lstm_without_bias(path):
    found = read(changed(1, weights=CONTENT["layers"][1]["weights"][:2]), path)
    assert isinstance(found.model.layers[1], lstmx.LSTM) and not found.model.layers[1].bias


KERNEL, RECURRENT, BIAS = CONTENT["layers"][1]["weights"]
BAD = {
    "no JSON": ("hello", "not JSON of RTNeural but of another format, or damaged"),
    "deep": ("[" * 100_000, "not JSON of RTNeural but JSON that is damaged"),
    "HTML": ("<html></html>", "not JSON of RTNeural but HTML or XML"),
    "a list": ([], 'which has "in_shape" and "layers"'),
    "no layers": ({"in_shape": [None, 1], "layers": []}, "there are no layers"),
    "layers that are none": ({"in_shape": [None, 1], "layers": {}}, 'which has "in_shape"'),
    "a layer that is none": ({"in_shape": [None, 1], "layers": [3]}, r'layers\[0\]: not a layer, which has a "type"'),
    "another size": (CONTENT | {"in_shape": [None, None, 2]}, r"layers\[0\]: takes 1 features, but .* gives 2"),
    "a state dict": ({"lstm.weight_ih_l0": KERNEL}, r"state dict of PyTorch as JSON; .*lstmx.from_torch\("),
    "one inside": ({"model_data": {}, "state_dict": {}}, "state dict of PyTorch as JSON"),
    "gru": (changed(type="gru"), r"layers\[1\]: of type 'gru'; only lstm, dense, time-distributed-dense"),
    "conv1d": (changed(type="conv1d"), "of type 'conv1d'"),
    "unknown with weights": (changed(type="unknown"), "of type 'unknown'"),
    "an activation": (changed(2, activation="gelu"), "its activation is 'gelu'"),
    "that of an LSTM": (changed(activation="relu"), "its activation is 'relu', .* 'lstm', and would leave out"),
    "a shape": (changed(shape=[None, None, 16]), r"its shape is \[None, None, 16\], but its weights .* 5 units"),
    "no shape": (changed(shape=None), "its shape is None"),
    "weights": (changed(weights={}), "its weights are no list"),
    "no weights": (changed(weights=None), "has 0 weights"),
    "many weights": (changed(weights=[KERNEL] * 4), "has 4 weights"),
    "few columns": (changed(weights=[[row[:16] for row in KERNEL], RECURRENT, BIAS]), r"kernels \(4, 16\) and \(5, 20"),
    "ragged": (changed(weights=[[*KERNEL[:-1], [1.0]], RECURRENT, BIAS]), r"weights\[0\]: must be lists of equal le"),
    "text": (changed(weights=[[*KERNEL[:-1], ["1"] * 20], RECURRENT, BIAS]), r"weights\[0\]: must be .*of numbers"),
    "true": (changed(weights=[KERNEL, RECURRENT, [True] * 20]), r"weights\[2\]: must be a list of numbers"),
    "NaN": (changed(weights=[KERNEL, RECURRENT, [float("nan")] * 20]), "20 of 20 values are NaN or infinite"),
    "large": (changed(weights=[KERNEL, RECURRENT, [10**400] * 20]), "too large"),
    "too large for float32": (changed(weights=[KERNEL, RECURRENT, [1e300] * 20]), "too large"),
    "a long bias": (changed(weights=[KERNEL, RECURRENT, [*BIAS, 1.0]]), "bias_l0: got shape"),
    "weights of dense": (changed(2, weights=[]), "has 0 weights, must have a kernel and a bias"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_other_files_are_refused(case, path):
    content, message = BAD[case]
    with pytest.raises(ModelFileError, match=f"{path.name}: .*{message}") as error:
        read(content, path)
    assert len(str(error.value)) < 500


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        from_rtneural(tmp_path / "no.json")
    with pytest.raises(TypeError, match="path: got dict"):
        from_rtneural({})
    with pytest.raises(ModelFileError, match=r"but a PyTorch file; lstmx\.from_torch reads it"):
        from_rtneural(FILE.parent / "torch_models" / "lstm.pt")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
)


@settings(max_examples=200, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(layer=st.integers(0, 4), key=st.sampled_from(["type", "activation", "shape", "weights"]), value=values)
def test_other_values_are_an_error_or_a_model(layer, key, value, path):
    with contextlib.suppress(ModelFileError):
        assert isinstance(read(changed(layer, **{key: value}), path).model, lstmx.Sequential)
