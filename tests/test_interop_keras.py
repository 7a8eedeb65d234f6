"""from_keras and to_keras_weights beside frozen outputs of Keras 3 and 2; live where Keras is installed."""

import importlib.util
import json
import re
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from keras_cases import frozen, unpack, write_h5
from tolerances import PEER

import lstmx
from lstmx.interop.keras import from_keras, read, to_keras_weights
from lstmx.storage import ModelFileError

h5py = pytest.importorskip("h5py")

LSTM = "lstm", {"class_name": "LSTM", "config": {"name": "lstm", "units": 4, "return_sequences": True}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("keras"))


def written(path, case):
    """A file of a frozen case."""
    config, weights, *_ = frozen()[case]
    return write_h5(path, config, weights)


def model_file(path, *layers, version="3.15.1", given=None):
    """A file of a Sequential of (name, class, options, arrays)."""
    config = {"class_name": "Sequential", "keras_version": version, "config": {"name": "model", "layers": [
        {"class_name": kind, "config": {"name": name, **options}} for name, kind, options, _ in layers]}}  # fmt: skip
    weights = {name: [(f"{name}/{key}:0", value) for key, value in arrays.items()] for name, _, _, arrays in layers}
    return write_h5(path, config if given is None else given, weights)


def arrays_of(inputs, units, seed=0, dtype="float32", bias=4):
    """The arrays of an LSTM."""
    rng = np.random.default_rng(seed)
    sizes = {"kernel": (inputs, 4 * units), "recurrent_kernel": (units, 4 * units), "bias": (bias * units,)}
    return {name: rng.uniform(-1, 1, size).astype(dtype) for name, size in sizes.items() if bias or name != "bias"}


def lstm(name="lstm", inputs=3, units=4, **options):
    """One of `model_file`'s layers."""
    return name, "LSTM", {"units": units, "return_sequences": True, **options}, arrays_of(inputs, units)


# What Keras computes.


@pytest.mark.parametrize("case", frozen())
def test_outputs_are_keras_s(case, tmp_path):
    *_, x, y = frozen()[case]
    model = from_keras(written(tmp_path / "model.h5", case))
    np.testing.assert_allclose(model.predict(x), y, **PEER["float32"])


@pytest.mark.parametrize("case", [case for case in frozen() if "mask" in case or "words" in case])
def test_masked_models_give_the_same_one_sequence_at_a_time_and_after_a_file(case, tmp_path):
    *_, x, y = frozen()[case]
    model = from_keras(written(tmp_path / "model.h5", case))
    model.save(tmp_path / "model.safetensors")
    again = lstmx.load(tmp_path / "model.safetensors")
    for k in range(len(x)):
        np.testing.assert_allclose(again.predict(x[k : k + 1]), y[k : k + 1], **PEER["float32"])


@pytest.mark.parametrize(
    "name", ["keras_3.keras", "keras_3.h5", "keras_3_masking.keras", "keras_2.keras", "keras_2.h5", "keras_2_cudnn.h5"]
)
def test_files_that_keras_wrote(files, name):
    path, x, y = files[name]
    np.testing.assert_allclose(from_keras(path).predict(x), y, **PEER["float32"])


def test_a_model_that_keras_trained_on_real_data_predicts_the_same(files):
    path, _, wanted = files["keras_3_vowels.keras"]
    _, (sequences, labels) = lstmx.datasets.load_japanese_vowels()
    padded = np.full((len(sequences), 29, 12), -9, "float32")
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    model = from_keras(path)
    found = model.predict(padded)
    np.testing.assert_allclose(found, wanted, **PEER["float32"])
    np.testing.assert_array_equal(model.predict(sequences), found)  # padding was for Keras alone
    assert (found.argmax(1) == labels).mean() > 0.9


@pytest.mark.parametrize("name", ["keras_3.weights.h5", "keras_2_weights.h5", "keras_2.weights.h5"])
def test_weights_beside_a_configuration(files, name):
    path, x, y = files[name]
    config = files[f"keras_{name[6]}.json"][0]
    if name == "keras_2_weights.h5":  # it alone says which Keras wrote it
        np.testing.assert_allclose(from_keras(path, config=config).predict(x), y, **PEER["float32"])
        return
    config = json.loads(config.read_text())
    if "keras_version" not in config:
        with pytest.raises(ModelFileError, match=r"hard_sigmoid.*version is not known.*keras_version"):
            from_keras(path, config=config)
    config["keras_version"] = {"3": "3.15.1", "2": "2.21.0"}[name[6]]
    np.testing.assert_allclose(from_keras(path, config=config).predict(x), y, **PEER["float32"])


@pytest.mark.parametrize("name", ["keras_3.weights.h5", "keras_2_weights.h5"])
def test_weights_alone_ask_for_all_that_they_do_not_say(files, name):
    path, x, y = files[name]
    with pytest.raises(ModelFileError) as error:
        from_keras(path)
    for asked in ("recurrent_activation", "return_sequences", "dense_activation", "mask_zero", "config", "(6, 3)"):
        assert asked in str(error.value)
    told = {"return_sequences": False, "dense_activation": "softmax", "mask_zero": True}
    with pytest.raises(ModelFileError, match="recurrent_activation"):
        from_keras(path, **told)
    # Both LSTMs get these gates; the first of this model has others, so its last one is compared alone.
    model = from_keras(path, recurrent_activation=("hard_sigmoid", 0.2, 0.5), **told)
    assert [type(layer).__name__ for layer in model.layers] == ["Embedding", "LSTM", "LSTM", "Last", "Dense"]
    name = model.layers[2].cell.activations[0]
    assert name == "hard_sigmoid"
    assert model.predict(x).shape == y.shape


def test_weights_alone_of_one_kind_of_cell(tmp_path):
    case = "2/masked_last"
    _, weights, x, y = frozen()[case]
    path = write_h5(tmp_path / "weights.h5", None, weights)
    with pytest.raises(ModelFileError, match="masking"):
        from_keras(path)
    names = [name for name, arrays in weights.items() if arrays]
    model = from_keras(path, layers=names, recurrent_activation="sigmoid", return_sequences=False,
                       dense_activation="linear")  # fmt: skip
    np.testing.assert_allclose(model.predict(x, mask=(x != 0).any(-1)), y, **PEER["float32"])


def test_one_layer_of_weights_alone_is_an_lstm(tmp_path):
    _, weights, x, _ = frozen()["2/sequences"]
    path = write_h5(tmp_path / "weights.h5", None, weights)
    name = next(name for name, arrays in weights.items() if arrays)
    found = from_keras(path, layers=name, recurrent_activation="sigmoid")
    whole = from_keras(written(tmp_path / "model.h5", "2/sequences"))
    assert type(found) is lstmx.LSTM
    np.testing.assert_array_equal(found(x)[0], whole.layers[0](x)[0])


def test_the_order_of_weights_alone_is_not_guessed(tmp_path):
    model = lstmx.Sequential([lstmx.LSTM(4, 4), lstmx.Dense(4, 4)])
    to_keras_weights(model, tmp_path / "a.weights.h5")
    told = {"recurrent_activation": "sigmoid", "return_sequences": True, "dense_activation": "linear"}
    with pytest.raises(ModelFileError, match="order"):
        from_keras(tmp_path / "a.weights.h5", **told)
    found = from_keras(tmp_path / "a.weights.h5", layers=["lstm", "dense"], **told)
    assert [type(layer) for layer in found.layers] == [lstmx.LSTM, lstmx.Dense]


def test_cudnn_layout_by_hand(tmp_path):
    own = arrays_of(3, 2, bias=8)
    path = model_file(tmp_path / "a.h5", ("a", "CuDNNLSTM", {"units": 2, "return_sequences": True}, own))
    found = from_keras(path).layers[0].parameters()
    for gate in range(4):
        rows, columns = slice(2 * gate, 2 * gate + 2), slice(2 * gate, 2 * gate + 2)
        np.testing.assert_array_equal(found["weight_ih_l0"][rows].ravel(), own["kernel"][:, columns].ravel())
        np.testing.assert_array_equal(found["weight_hh_l0"][rows], own["recurrent_kernel"][:, columns])
    np.testing.assert_array_equal(found["bias_l0"], (own["bias"][:8].astype(float) + own["bias"][8:]).astype("float32"))


def test_dropout_becomes_the_cell_s(tmp_path):
    layers = from_keras(written(tmp_path / "model.h5", "3/dropped")).layers
    assert layers[0].cell == lstmx.Cell(input_dropout=0.2, recurrent_dropout=0.3, dropout_per_gate=True)
    assert layers[1].cell == lstmx.Cell(input_dropout=0.1)
    layers = from_keras(written(tmp_path / "model.h5", "3/sequences")).layers
    assert layers[1].p == 0.3
    path = model_file(tmp_path / "b.h5", lstm(dropout=0.1, implementation=1), version="2.2.4")
    assert from_keras(path).layers[0].cell == lstmx.Cell(input_dropout=0.1, dropout_per_gate=True)


@pytest.mark.parametrize(("kind", "wanted"), [("float64", "float64"), ("float16", "float32")])
def test_types(kind, wanted, tmp_path):
    name, cls, options, _ = lstm()
    own = arrays_of(3, 4, dtype=kind)
    imported = read(model_file(tmp_path / "a.h5", (name, cls, options | {"dtype": kind}, own)))
    assert imported.model.dtype == wanted
    np.testing.assert_array_equal(imported.model.layers[0].parameters()["weight_ih_l0"], own["kernel"].T)
    assert [kind in note for note in imported.notes] == [True] * (kind == "float16")


def test_bfloat16(tmp_path):
    values = arrays_of(3, 4)
    path = model_file(tmp_path / "a.h5", lstm())
    with h5py.File(path, "a") as file:
        group = file["model_weights/lstm/lstm"]
        for name, value in values.items():
            del group[f"{name}:0"]
            half = (value.view(np.uint32) >> 16).astype(np.uint16)
            group.create_dataset(f"{name}:0", data=half.view("V2")).attrs["dtype"] = "bfloat16"
    found = from_keras(path).layers[0].parameters()["bias_l0"]
    np.testing.assert_array_equal(found.view(np.uint32), values["bias"].view(np.uint32) & 0xFFFF0000)


def test_gelu_is_the_exact_one(tmp_path):
    dense = "dense", "Dense", {"units": 4, "activation": "gelu"}, {"kernel": np.eye(4), "bias": np.zeros(4)}
    *_, last = from_keras(model_file(tmp_path / "a.h5", lstm(), dense)).layers
    assert last.activation == "gelu"


def test_what_the_user_should_know_is_noted(tmp_path):
    path = model_file(tmp_path / "a.h5", lstm(stateful=True))
    assert read(path).notes[0] == "'lstm' is stateful in Keras; here a call starts anew, and step keeps the state"
    assert hasattr(from_keras(path), "step")
    assert "LSTM 3 -> 4" in read(path).report()
    inside = {"class_name": "LSTM", "config": {"name": "in", "units": 4, "return_sequences": True}}
    both = {f"{side}_lstm/{key}": value for side in ("forward", "backward") for key, value in arrays_of(3, 4).items()}
    layers = ("m", "Masking", {}, {}), ("b", "Bidirectional", {"layer": inside}, both)
    assert "repeated" in read(model_file(tmp_path / "b.h5", *layers, version="2.2.4")).notes[0]
    assert not read(model_file(tmp_path / "c.h5", *layers, version="2.2.4-tf")).notes


def test_models_in_models(tmp_path):
    own = lstm("inner")
    outer = {"class_name": "Sequential", "keras_version": "2.4.0", "config": {"name": "outer", "layers": [
        {"class_name": "Sequential", "config": {"name": "model", "layers": [
            {"class_name": own[1], "config": {"name": "inner", **own[2]}},
            {"class_name": "Dense", "config": {"name": "dense", "units": 2, "activation": "relu"}}]}}]}}  # fmt: skip
    kernel = np.ones((4, 2), "float32")
    weights = [*((f"inner/{k}", v) for k, v in own[3].items()), ("dense/kernel", kernel), ("dense/bias", kernel[0])]
    model = from_keras(write_h5(tmp_path / "a.h5", outer, {"model": weights}))
    assert [type(layer).__name__ for layer in model.layers] == ["LSTM", "Dense"]
    np.testing.assert_array_equal(model.layers[1].parameters()["weight"], kernel.T)


def test_frozen_layers_of_models_in_models_are_refused(tmp_path):
    inner = [{"class_name": "LSTM", "config": {"name": name, "units": 4, "return_sequences": True, "trainable": own}}
             for name, own in (("one", False), ("two", True))]  # fmt: skip
    config = {"class_name": "Sequential", "keras_version": "2.4.0", "config": {
        "layers": [{"class_name": "Sequential", "config": {"name": "inner", "layers": inner}}]}}  # fmt: skip
    weights = {"inner": [(f"{name}/{key}", value) for name in ("two", "one") for key, value in arrays_of(4, 4).items()]}
    with pytest.raises(ModelFileError, match=r"some layers in 'inner' are frozen.*model.keras"):
        from_keras(write_h5(tmp_path / "a.h5", config, weights))
    inner[0]["config"]["trainable"] = True
    assert len(from_keras(write_h5(tmp_path / "a.h5", config, weights)).layers) == 2


def test_layers_are_taken_out_of_any_graph(tmp_path):
    def node(*names):
        return [[[name, 0, 0, {}] for name in names]] if names else []

    one = lstm("one")
    layers = [
        {"class_name": "InputLayer", "name": "x", "config": {"name": "x"}, "inbound_nodes": node()},
        {"class_name": "LSTM", "name": "one", "config": {"name": "one", **one[2]}, "inbound_nodes": node("x")},
        {"class_name": "Concatenate", "name": "join", "config": {"name": "join"}, "inbound_nodes": node("x", "one")},
    ]
    graph = {"class_name": "Model", "keras_version": "2.2.4", "config": {
        "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["join", 0, 0]]}}  # fmt: skip
    path = model_file(tmp_path / "a.h5", ("x", "InputLayer", {}, {}), one, ("join", "Concatenate", {}, {}), given=graph)
    with pytest.raises(ModelFileError, match=r"'join' takes 2 inputs.*layers="):
        from_keras(path)
    found = from_keras(path, layers="one")
    np.testing.assert_array_equal(found.parameters()["weight_hh_l0"], one[3]["recurrent_kernel"].T)
    with pytest.raises(ModelFileError, match=r"no layer 'two'; there are \['x', 'one', 'join'\]"):
        from_keras(path, layers="two")
    graph["config"]["output_layers"] = [["one", 0, 0]]
    path = model_file(tmp_path / "b.h5", ("x", "InputLayer", {}, {}), one, ("join", "Concatenate", {}, {}), given=graph)
    with pytest.raises(ModelFileError, match=r"'join' takes 2 inputs|no chain"):
        from_keras(path)


# What is refused.

SEEN = ("m", "Masking", {}, {})
DENSE = ("d", "Dense", {"units": 2}, {"kernel": np.ones((3, 2), "float32"), "bias": np.ones(2, "float32")})
REFUSED = {
    "all layers by name": ([lstm(), ("g", "GRU", {}, {}), ("f", "Flatten", {}, {})], r"g \(GRU\), f \(Flatten\)"),
    "own class": ([lstm(), ("g", "Mine>LSTM", {}, {})], r"g \(own.Mine>LSTM\)"),
    "lambda": ([lstm(), ("g", "Lambda", {"function": ["code"]}, {})], r"g \(Lambda\)"),
    "return_state": ([lstm(return_state=True)], "return_state.*layers='lstm'"),
    "merge None": ([("b", "Bidirectional", {"merge_mode": None, "layer": LSTM[1]}, {})], "merge_mode"),
    "masking later": ([DENSE, SEEN, lstm(inputs=2)], "'m' is a Masking behind"),
    "masking unseen": ([("m", "Masking", {"mask_value": 3.0}, {}), DENSE], "'m' masks the value 3.0"),
    "backwards, mask": ([SEEN, lstm(go_backwards=True), lstm("two", inputs=4)], "goes backwards"),
    "softmax, mask": ([SEEN, lstm(), ("s", "Softmax", {}, {})], "'s' is a Softmax"),
    "gelu": ([lstm(activation="gelu")], "gelu.*there are sigmoid"),
    "softmax in a cell": ([lstm(recurrent_activation="softmax")], "softmax"),
    "silu in a cell": ([lstm(activation="silu")], "silu"),
    "relu6": ([lstm(), ("r", "ReLU", {"max_value": 6.0}, {})], "ceiling"),
    "axis": ([lstm(), ("r", "Softmax", {"axis": 1}, {})], "last axis"),
    "units": ([("l", "LSTM", {"units": -4}, {})], "units = -4"),
    "units huge": ([("l", "LSTM", {"units": 10**9}, arrays_of(3, 4))], "shape"),
    "units text": ([("l", "LSTM", {"units": "os"}, {})], "positive integer"),
    "flag": ([lstm(go_backwards="yes")], "true or false"),
    "rate": ([lstm(dropout=float("nan"))], "must be a number"),
    "int8": ([lstm(dtype={"class_name": "Quantized", "config": {"name": "int8_from_float32"}})], "quantised"),
    "size": ([lstm(), lstm("two", inputs=5)], r"kernel of 'two' has shape \(5, 16\), must be \(4, 16\)"),
    "no bias": ([("l", "LSTM", {"units": 4, "use_bias": True}, arrays_of(3, 4, bias=0))], "bias.*missing"),
    "bias": ([("l", "LSTM", {"units": 4, "use_bias": False}, arrays_of(3, 4))], "more arrays"),
    "nothing": ([("i", "InputLayer", {}, {})], "no layer with weights"),
    "time distributed": ([("t", "TimeDistributed", {"layer": LSTM[1]}, {})], r"TimeDistributed\(LSTM\)"),
    "cells": ([("t", "RNN", {"cell": {"class_name": "GRUCell", "config": {}}}, {})], "RNN of GRUCell"),
    "embedding later": ([lstm(), ("e", "Embedding", {"input_dim": 3, "output_dim": 2}, {})], "Embedding behind"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    layers, message = REFUSED[case]
    path = model_file(tmp_path / "a.h5", *layers, version="3.1.0")
    with pytest.raises(ModelFileError, match=message) as error:
        from_keras(path)
    assert str(error.value).startswith(str(path))


def test_refused_models(tmp_path):
    with pytest.raises(ModelFileError, match=r"Keras 1.2.2, before 2"):
        from_keras(model_file(tmp_path / "a.h5", lstm(), version="1.2.2"))
    one = {"class_name": "LSTM", "config": {"name": "lstm", **lstm()[2]}}
    twice = {"class_name": "Sequential", "keras_version": "3.0.0", "config": {"layers": [one, one]}}
    with pytest.raises(ModelFileError, match="two layers in it have the name 'lstm'"):
        from_keras(model_file(tmp_path / "b.h5", lstm(), given=twice))
    call = [{"args": [], "kwargs": {"training": True}}]
    graph = {"class_name": "Functional", "keras_version": "3.0.0", "config": {
        "layers": [one | {"name": "lstm", "inbound_nodes": call}], "input_layers": ["lstm", 0, 0],
        "output_layers": ["lstm", 0, 0]}}  # fmt: skip
    with pytest.raises(ModelFileError, match="training=True"):
        from_keras(model_file(tmp_path / "c.h5", lstm(), given=graph))


def test_a_mask_of_another_origin_is_refused(files, tmp_path):
    def changed(change):
        with zipfile.ZipFile(files["keras_3.keras"][0]) as archive, zipfile.ZipFile(tmp_path / "a.keras", "w") as out:
            for name in archive.namelist():
                text = archive.read(name)
                out.writestr(name, change(text.decode()) if name == "config.json" else text)
        return tmp_path / "a.keras"

    assert '"dtype": "int32", "keras_history"' in changed(str).read_bytes().decode("latin")
    for change, message in (
        (lambda text: text.replace("}}, 0]", "}}, 1]"), "is called with the mask of '?'"),
        (lambda text: text.replace('"mask_zero": true', '"mask_zero": false'), "with that of 'nothing'"),
        (lambda text: text.replace('"class_name": "NotEqual"', '"class_name": "Equal"'), "Equal"),
    ):
        with pytest.raises(ModelFileError, match=re.escape(message)):
            from_keras(changed(change))


def test_two_directions_with_different_options_are_refused(tmp_path):
    for options in ({"units": 5}, {"activation": "relu"}, {"go_backwards": False}, {"return_sequences": False}):
        back = {"name": "b", "units": 4, "return_sequences": True, "go_backwards": True, **options}
        both = {"layer": LSTM[1], "backward_layer": {"class_name": "LSTM", "config": back}}
        path = model_file(tmp_path / "a.h5", ("b", "Bidirectional", both, {}))
        with pytest.raises(ModelFileError, match=r"different options|backward_layer of 'b'"):
            from_keras(path)


def test_arguments(tmp_path, files):
    path = files["keras_3.keras"][0]
    with pytest.raises(FileNotFoundError, match=r"source: there is no file 'none.keras'"):
        from_keras("none.keras")
    with pytest.raises(IsADirectoryError, match="a folder"):
        from_keras(tmp_path)
    for source in (3, None, np.ones(3), lstmx.LSTM(2, 2)):
        with pytest.raises(TypeError, match="source: got"):
            from_keras(source)
    for layers in (3, [], ["lstm", 3]):
        with pytest.raises(TypeError, match="layers: got"):
            from_keras(path, layers=layers)
    with pytest.raises(ValueError, match="mask_zero was given, but the file itself says so"):
        from_keras(path, mask_zero=True)
    with pytest.raises(TypeError, match="config: got int"):
        from_keras(path, config=3)
    with pytest.raises(FileNotFoundError, match="config: there is no file"):
        from_keras(path, config=tmp_path / "none.json")
    with pytest.raises(ValueError, match="dense_activation is 'relu', must be a tuple of 2"):
        model = lstmx.Sequential([lstmx.LSTM(2, 3), lstmx.Dense(3, 5), lstmx.Dense(5, 4)])
        to_keras_weights(model, tmp_path / "a.weights.h5")
        from_keras(tmp_path / "a.weights.h5", dense_activation="relu", recurrent_activation="sigmoid",
                   return_sequences=True)  # fmt: skip


# Out.


def models():
    """Models of all layers that have weights."""
    yield lstmx.LSTM(3, 5, num_layers=2, random_state=0)
    yield lstmx.LSTM(3, 5, bidirectional=True, bias=False, random_state=0, dtype="float64")
    layers = [lstmx.Embedding(7, 3), lstmx.LSTM(3, 4, bidirectional=True), lstmx.Dropout(0.1), lstmx.LSTM(8, 2)]
    yield lstmx.Sequential([*layers, lstmx.Last(), lstmx.Dense(2, 3, "softmax")], random_state=0)


@pytest.mark.parametrize("model", list(models()), ids=str)
def test_weights_come_back_bit_for_bit(model, tmp_path):
    path = tmp_path / "model.weights.h5"
    given = to_keras_weights(model, path)
    told = {"recurrent_activation": "sigmoid", "return_sequences": False, "dense_activation": "softmax",
            "mask_zero": False}  # fmt: skip
    with h5py.File(path) as file:
        names = list(file["layers"])
    if "bidirectional" in names and len(names) == 1:
        config = {"class_name": "Bidirectional", "config": {"layer": {"class_name": "LSTM", "config": {
            "units": 5, "use_bias": False, "return_sequences": True}}}}  # fmt: skip
        found = from_keras(path, config=config)
    else:
        found = from_keras(path, **told)
    for mine, theirs in zip(given, to_keras_weights(found), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("case", [case for case in frozen() if "cells" not in case])
def test_frozen_weights_come_back(case, tmp_path):
    _, weights, *_ = frozen()[case]
    given = [array for arrays in weights.values() for _, array in arrays]
    found = to_keras_weights(from_keras(written(tmp_path / "model.h5", case)))
    if case.endswith("no_bias"):  # a Dense here always has one
        given.append(np.zeros(2, "float32"))
    for mine, theirs in zip(found, given, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("options", [
    {"peephole": True}, {"cifg": True}, {"clip": 1.0}, {"cell_clip": 1.0}, {"layer_norm": "haste"}, {"zoneout": 0.1},
    {"learn_state": True}, {"slstm": True}])  # fmt: skip
def test_cells_that_keras_does_not_have(options):
    lstm = lstmx.LSTM(2, 3, cell=lstmx.Cell(**options))
    with pytest.raises(ValueError, match=f"{next(iter(options))}: Keras has no LSTM with"):
        to_keras_weights(lstm)


def test_other_things_that_keras_does_not_have(tmp_path):
    with pytest.raises(ValueError, match="proj_size: Keras"):
        to_keras_weights(lstmx.LSTM(2, 3, proj_size=2))
    with pytest.raises(ValueError, match="activations: Keras has one"):
        to_keras_weights(lstmx.LSTM(2, 3, cell=lstmx.Cell(activations=("sigmoid", "relu", "tanh"))))
    with pytest.raises(ValueError, match=r"path: .* must end with .weights.h5"):
        to_keras_weights(lstmx.LSTM(2, 3), tmp_path / "a.h5")
    with pytest.raises(TypeError, match="model: got int"):
        to_keras_weights(3)


def with_tuples(value):
    """A configuration as a live model of Keras gives it."""
    if isinstance(value, dict):
        return {key: with_tuples(one) for key, one in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def test_graphs_with_masks_are_read_live_as_from_files(files, monkeypatch):
    path, x, y = files["keras_3.h5"]
    with h5py.File(path) as file:
        config, group = json.loads(file.attrs["model_config"]), file["model_weights"]
        layers = [
            SimpleNamespace(name=name, weights=[SimpleNamespace(name=n) for n in own.attrs["weight_names"]],
                            get_weights=lambda arrays=[own[n][()] for n in own.attrs["weight_names"]]: arrays)
            for name, own in group.items()
        ]  # fmt: skip
    assert "NotEqual" in json.dumps(config)
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(__version__="3.15.1"))
    methods = {"__module__": "keras.src.models.functional", "layers": layers}
    kind = type("Functional", (), methods | {"get_config": lambda self: with_tuples(config["config"])})
    np.testing.assert_allclose(from_keras(kind()).predict(x), y, **PEER["float32"])


def test_a_missing_backend_is_named_with_one_that_is_there(monkeypatch, files):
    monkeypatch.setitem(sys.modules, "keras.saving", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name == "jax" else name)
    with pytest.raises(ImportError, match=r"check: Keras cannot be loaded .*KERAS_BACKEND=torch, which is installed"):
        read(files["keras_3.keras"][0]).check()


# Live.


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in Keras
def test_live_models(keras, tmp_path):
    L = keras.layers
    model = keras.Sequential([L.Input((None, 3)), L.Masking(), L.Bidirectional(L.LSTM(4, return_sequences=True)),
                              L.LSTM(2), L.Dense(2)])  # fmt: skip
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-1, 1, w.shape) for w in model.get_weights()])
    imported = read(model)
    assert "largest error" in imported.check()
    model.save(tmp_path / "model.keras")
    assert "largest error" in read(tmp_path / "model.keras").check()
    weights = model.get_weights()
    to_keras_weights(imported.model, tmp_path / "out.weights.h5")
    model.set_weights([0 * w for w in weights])
    model.load_weights(tmp_path / "out.weights.h5")
    for mine, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_live_graphs_with_masks(keras):
    L = keras.layers
    for first, shape in ((L.Masking(), (None, 3)), (L.Embedding(9, 3, mask_zero=True), (None,))):
        given = keras.Input(shape)
        inner = keras.Model(given, L.LSTM(2)(L.LSTM(4, return_sequences=True)(first(given))))
        outer = keras.Input(shape)
        for model in (inner, keras.Model(outer, L.Dense(2)(inner(outer)))):
            assert "largest error" in read(model).check()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_probe_notices_another_model(keras):
    layer = keras.layers.LSTM(3, return_sequences=True)
    layer(np.zeros((1, 2, 3), "float32"))
    imported = read(layer)
    assert type(imported.model) is lstmx.LSTM
    layer.set_weights([w + 0.1 for w in layer.get_weights()])
    with pytest.raises(ValueError, match="not the same model"):
        imported.check()


def test_check_never_loads_other_classes(tmp_path, files):
    path = files["keras_3.keras"][0]
    imported = read(path)
    assert imported.compare is not None
    hidden = {"class_name": "get_file", "module": "keras.utils", "config": {}}
    name, kind, options, own = lstm()
    path = model_file(tmp_path / "a.h5", (name, kind, options | {"kernel_initializer": hidden}, own))
    with pytest.raises(ValueError, match=r"check: the file names 'get_file' of 'keras.utils', which is never loaded"):
        read(path).check()
