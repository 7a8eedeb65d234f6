"""Files of Keras that are damaged, cut short or made to do harm: a clear error, nothing run, little memory."""

import io
import json
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras_cases import frozen, unpack, write_h5

from lstmx.interop.keras import from_keras, read
from lstmx.storage import ModelFileError

h5py = pytest.importorskip("h5py")

CASE = "3/sequences"
NAMES = "keras_3.keras", "keras_3.h5", "keras_3.weights.h5", "keras_2_weights.h5"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return unpack(tmp_path_factory.mktemp("keras"))


@pytest.fixture
def path(tmp_path):
    """A good file."""
    config, weights, *_ = frozen()[CASE]
    return write_h5(tmp_path / "model.h5", config, weights)


def first(file):
    """The name of an array of the first LSTM in a file, and its group."""
    group = file["model_weights"]
    layer = next(name for name in group.attrs["layer_names"] if "lstm" in str(name))
    own = group[layer]
    name = own.attrs["weight_names"][0]
    return own, name if isinstance(name, str) else name.decode()


def changed(path, change):
    """The file, one of whose arrays is replaced by what `change(group, name, value)` makes."""
    with h5py.File(path, "a") as file:
        own, name = first(file)
        value = own[name][()]
        del own[name]
        change(own, name, value)
    return path


def refused(path, *words):
    """The error that a file gives, which names the path and has these words."""
    with pytest.raises(ModelFileError) as error:
        from_keras(path)
    text = str(error.value)
    assert text.startswith(str(path))
    for word in words:
        assert word in text
    assert len(text) < 5000
    return text


def test_the_good_file_is_read(path):
    from_keras(path)


# HDF5.


def elsewhere(path):
    """A file with a secret of the shape that is wanted."""
    with h5py.File(path, "w") as file:
        file["secret"] = np.ones((3, 16), "float32")
    return str(path)


def test_links_are_not_followed(path, tmp_path):
    other = elsewhere(tmp_path / "other.h5")
    for link in (h5py.ExternalLink(other, "/secret"), h5py.SoftLink("/model_weights")):

        def change(own, name, value, link=link):
            own[name] = link

        refused(changed(path, change), "link to another place or file, which is never followed")
        with h5py.File(path, "a") as file:
            own, name = first(file)
            del own[name]
            own[name] = np.ones((3, 16), "float32")
    with h5py.File(path, "a") as file:
        del file["model_weights"]
        file["model_weights"] = h5py.ExternalLink(other, "/")
    refused(path, "never followed")


def test_datasets_that_lie_elsewhere_are_not_read(path, tmp_path):
    other = tmp_path / "numbers"
    np.ones((3, 16), "float32").tofile(other)

    def external(own, name, value):
        own.create_dataset(name, (3, 16), "float32", external=[(str(other), 0, 192)])

    def virtual(own, name, value):
        layout = h5py.VirtualLayout((3, 16), "float32")
        layout[:] = h5py.VirtualSource(elsewhere(tmp_path / "other.h5"), "secret", (3, 16))
        own.create_virtual_dataset(name, layout)

    for change in (external, virtual):
        refused(changed(path, change), "packed, or its numbers stand in another place")
        with h5py.File(path, "a") as file:
            own, name = first(file)
            del own[name]
            own[name] = np.ones((3, 16), "float32")


def test_packed_arrays_are_not_read(path):
    def change(own, name, value):
        own.create_dataset(name, (2**30, 16), "float32", chunks=(1024, 16), compression="gzip")

    refused(changed(path, change), "is packed")


@pytest.mark.parametrize("shape", [(2**40, 16), (3, 2**33), (2**62,), (2**31, 2**31)])
def test_shapes_larger_than_the_file(path, shape):
    def change(own, name, value):
        dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        h5py.h5d.create(own.id, name.encode().rpartition(b"/")[2], h5py.h5t.IEEE_F32LE,
                        h5py.h5s.create_simple(shape), dcpl)  # fmt: skip
        own.move(name.rpartition("/")[2], name)

    try:
        changed(path, change)
    except (ValueError, OverflowError):
        pytest.skip("HDF5 itself makes no such shape")
    refused(path, "the file is too small for it")


def test_an_array_that_is_not_written_is_not_zero(path):
    refused(changed(path, lambda own, name, value: own.create_dataset(name, value.shape, "float32")), "too small")


@pytest.mark.parametrize("kind", ["int32", "complex64", "S4", "bool", "V2"])
def test_types(path, kind):
    refused(changed(path, lambda own, name, value: own.create_dataset(name, data=np.zeros(value.shape, kind))), "type")


def test_references_and_records(path):
    kinds = h5py.ref_dtype, np.dtype([("a", "f4"), ("b", "f4")]), h5py.vlen_dtype("f4")
    for kind in kinds:

        def change(own, name, value, kind=kind):
            own.create_dataset(name, value.shape, kind)

        refused(changed(path, change))
        with h5py.File(path, "a") as file:
            own, name = first(file)
            del own[name]
            own[name] = np.ones((3, 16), "float32")


def test_a_scalar_an_empty_one_and_a_group_in_place_of_an_array(path):
    refused(changed(path, lambda own, name, value: own.create_dataset(name, data=np.float32(1))), "shape ()")
    refused(changed(path, lambda own, name, value: own.create_dataset(name, data=h5py.Empty("f4"))), "shape is None")
    with h5py.File(path, "a") as file:
        own, name = first(file)
        del own[name]
        own.create_group(name)
    refused(path, "which it does not have")


def test_numbers_that_are_none(path):
    refused(changed(path, lambda own, name, value: own.create_dataset(name, data=value * np.nan)), "NaN")


def test_arrays_over_each_other(tmp_path):
    """Many layers that all have the same large array: reading it each time would take more than the file."""
    kernel, bias = np.ones((1000, 1000), "float32"), np.ones(1000, "float32")
    layers = [{"class_name": "Dense", "config": {"name": f"d{k}", "units": 1000}} for k in range(50)]
    config = {"class_name": "Sequential", "keras_version": "3.0.0", "config": {"layers": layers}}
    path = write_h5(tmp_path / "a.h5", config, {"d0": [("kernel", kernel), ("bias", bias)]})
    with h5py.File(path, "a") as file:
        group = file["model_weights"]
        group.attrs["layer_names"] = [f"d{k}".encode() for k in range(50)]
        for k in range(1, 50):
            group[f"d{k}"] = group["d0"]
    refused(path, "lie over each other")


def test_one_long_text_many_times(path):
    with h5py.File(path, "a") as file:
        text, group = "x" * 2**20, file["model_weights"]
        del group.attrs["layer_names"]
        group.attrs.create("layer_names", [text] * 5, dtype=h5py.string_dtype())
    with open(path, "rb") as file:
        data = bytearray(file.read())
    # Every one of the five refers to a heap of its own; let a longer list refer to the first one again and again.
    with h5py.File(path, "a") as file:
        group = file["model_weights"]
        del group.attrs["layer_names"]
        group.attrs.create("layer_names", ["y"] * 2000, dtype=h5py.string_dtype())
        file["text"] = np.zeros(1)
        file["text"].attrs["long"] = text
    assert len(data) > 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, "one text many times")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("size", [0, 2**64 - 16, 2**64 - 1, 2**63])
@pytest.mark.parametrize("which", ["text", "free"])
def test_heaps_whose_end_hdf5_would_never_reach(which, size, path):
    """HDF5 goes from one text to the next by its size; that of 0 made it go nowhere, for ever."""
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = [str(name) for name in file["model_weights"].attrs["layer_names"]]
    data = bytearray(path.read_bytes())
    at = data.find(b"GCOL") + 16
    while which == "free" and data[at : at + 2] != b"\0\0":
        length = int.from_bytes(data[at + 8 : at + 16], "little")
        at += 16 + length + -length % 8
    data[at + 8 : at + 16] = size.to_bytes(8, "little")
    if which == "text" and size == 0:
        data[at : at + 2] = b"\0\0"
    path.write_bytes(data)
    code = "import sys; from lstmx.interop.keras import read; read(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=20)
    assert "ModelFileError" in done.stderr and str(path) in done.stderr, done.stderr


def test_too_little_memory_is_no_fault_of_the_file(path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("lstmx.interop.keras.hdf5.as_float", fail)
    with pytest.raises(MemoryError):
        from_keras(path)


def test_attributes_of_other_kinds(path):
    for name, value in (("layer_names", 3), ("layer_names", np.ones(3)), ("layer_names", "text")):
        with h5py.File(path, "a") as file:
            old = file["model_weights"].attrs[name]
            file["model_weights"].attrs[name] = value
        refused(path)
        with h5py.File(path, "a") as file:
            file["model_weights"].attrs[name] = old
    for value in (3, ["a", "b"], h5py.Empty("f4"), np.void(b"abc")):
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = value
        refused(path)


def test_lists_of_names(path):
    for names, message in (([b"none"], "which it does not have"), ([b"../x"], "which it does not have"), ([b""], "not"),
                           ([b"."], "not have"), ([b"dropout", b"dropout"], "twice")):  # fmt: skip
        with h5py.File(path, "a") as file:
            group = file["model_weights"]
            if "dropout" not in group:
                group.create_group("dropout")
            group.attrs["layer_names"] = names
        refused(path, message)


def test_groups_that_contain_themselves(files, tmp_path):
    path = tmp_path / "a.weights.h5"
    path.write_bytes(files["keras_3.weights.h5"][0].read_bytes())
    with h5py.File(path, "a") as file:
        for k in range(20):
            file[f"layers/lstm/again{k}"] = file["layers"]
    refused(path)


def test_another_model_s_weights(files, tmp_path):
    config = {"class_name": "Sequential", "config": {"layers": [
        {"class_name": "LSTM", "config": {"units": 5, "return_sequences": True}}]}}  # fmt: skip
    with pytest.raises(ModelFileError, match="shape"):
        from_keras(files["keras_3.weights.h5"][0], config=config)
    config["config"]["layers"] *= 2
    config["config"]["layers"][1] = config["config"]["layers"][0] | {"config": {"units": 4, "name": "two"}}
    with pytest.raises(ModelFileError, match="no group 'layers/lstm_1'"):
        from_keras(files["keras_3.weights.h5"][0], config=config, layers="two")


def test_other_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones(3)
    refused(tmp_path / "a.h5", "not one of Keras")


@pytest.mark.parametrize("place", ["lstm/cell/vars", "dense/vars"])
def test_weights_of_a_class_of_the_user_s_own(tmp_path, place):
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file[f"{place}/0"] = np.ones((3, 4), "float32")
    refused(tmp_path / "a.weights.h5", "a class of your own", "keras.Sequential of its layers")


# The archive.


def archive(path, **parts):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in parts.items():
            file.writestr(
                {"config": "config.json", "weights": "model.weights.h5", "metadata": "metadata.json"}[name], data
            )
    return path


def test_bombs(tmp_path, files):
    with zipfile.ZipFile(files["keras_3.keras"][0]) as file:
        config, weights = file.read("config.json"), file.read("model.weights.h5")
    zeros = b"0" * 2**26
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(archive(tmp_path / "a.keras", config=zeros, weights=weights), "would unpack to 67108864 bytes")
    refused(archive(tmp_path / "b.keras", config=config, weights=zeros), "would unpack to 67108864 bytes")
    refused(archive(tmp_path / "c.keras", config=config, weights=weights, metadata=zeros), "would unpack")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    from_keras(archive(tmp_path / "d.keras", config=config, weights=weights, metadata=b'{"keras_version": "3.15.1"}'))


def test_archives_of_other_kinds(tmp_path, files):
    with zipfile.ZipFile(files["keras_3.keras"][0]) as file:
        config, weights = file.read("config.json"), file.read("model.weights.h5")
    refused(archive(tmp_path / "a.keras", config=config), "without 'model.weights.h5'")
    refused(archive(tmp_path / "b.keras", weights=weights), "without 'config.json'")
    refused(archive(tmp_path / "c.keras", metadata=b"{}"), "a zip archive")
    refused(archive(tmp_path / "d.keras", config=b"[]", weights=weights), "must be an object")
    refused(archive(tmp_path / "e.keras", config=b"{", weights=weights), "not JSON")
    refused(archive(tmp_path / "f.keras", config=b'{"a":' * 100_000, weights=weights), "not JSON")
    refused(archive(tmp_path / "g.keras", config=b"\xff\xfe", weights=weights), "not JSON")
    refused(archive(tmp_path / "h.keras", config=config, weights=b"\x89HDF\r\n\x1a\n" + bytes(100)))
    with zipfile.ZipFile(tmp_path / "i.keras", "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("config.json", "config.json", "model.weights.h5"):
            file.writestr(name, b"{}")
    refused(tmp_path / "i.keras", "2 times")
    with zipfile.ZipFile(tmp_path / "j.keras", "w", zipfile.ZIP_LZMA) as file:
        for name in ("config.json", "model.weights.h5"):
            file.writestr(name, config)
    refused(tmp_path / "j.keras", "in a way that Keras never uses")


def test_files_of_other_formats(tmp_path):
    for data, what in (
        (b"", "an empty file"),
        (b"\x80\x04\x95" + bytes(20), "a Python pickle"),
        (b"abc" * 9, "damaged"),
    ):
        (tmp_path / "a.h5").write_bytes(data)
        refused(tmp_path / "a.h5", "not a file of Keras but", what)


# The configuration.

HOSTILE = [
    {"class_name": "Lambda", "config": {"function": ["bytecode", None, None]}},
    {"class_name": "LSTM", "module": "os", "config": {"units": 4}},
    {"class_name": "LSTM", "module": "__main__", "config": {"units": 4}},
    {"class_name": "LSTM", "module": ["keras"], "config": {"units": 4}},
    {"class_name": "LSTM", "registered_name": "evil>LSTM", "config": {"units": 4}},
    {"class_name": "system", "module": "os", "config": {"command": "touch hacked"}},
    {"class_name": "Sequential", "config": {"layers": []}},
    {"class_name": "Sequential", "config": 3},
    {"class_name": ["LSTM"], "config": {}},
    {"class_name": "LSTM"},
    {"config": {}},
    3,
    None,
]


@pytest.mark.parametrize("layer", HOSTILE, ids=str)
def test_hostile_layers(layer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"class_name": "Sequential", "keras_version": "3.0.0", "config": {"name": "m", "layers": [layer]}}
    refused(write_h5(tmp_path / "a.h5", config, {"lstm": []}))
    refused(write_h5(tmp_path / "b.h5", {"keras_version": "3.0.0", **(layer if isinstance(layer, dict) else {})}, {}))
    assert not (tmp_path / "hacked").exists()


def test_activations_are_names_only(tmp_path):
    for name in ({"class_name": "function", "module": "os", "config": "system"}, ["relu"], 3, "os.system",
                 {"class_name": "Mine>relu", "config": {}}, {"class_name": "Lambda", "config": {}}):  # fmt: skip
        config, weights, *_ = json.loads(json.dumps(frozen()[CASE][0])), frozen()[CASE][1]
        layers = config["config"]["layers"]
        next(one for one in layers if one["class_name"] == "LSTM")["config"]["activation"] = name
        refused(write_h5(tmp_path / "a.h5", config, weights), "there is no such activation here")


def test_models_in_models_in_models(tmp_path):
    config = {"class_name": "LSTM", "config": {"units": 3}}
    for k in range(50):
        config = {"class_name": "Sequential", "config": {"name": f"m{k}", "layers": [config]}}
    refused(write_h5(tmp_path / "a.h5", config | {"keras_version": "3.0.0"}, {}), "deeper than")
    many = [{"class_name": "Dropout", "config": {"name": str(k), "rate": 0.1}} for k in range(1001)]
    many = {"class_name": "Sequential", "keras_version": "3.0.0", "config": {"layers": many}}
    refused(write_h5(tmp_path / "b.h5", many, {}), "at most 1000")


GRAPHS = [
    {"inbound_nodes": 3},
    {"inbound_nodes": [[["a", 0, 0, {}]], [["a", 0, 0, {}]]]},
    {"inbound_nodes": [[["a", 0, 0, {"initial_state": [["b", 0, 1]]}]]]},
    {"inbound_nodes": [[["lstm", 0, 0, {}]]]},
    {"inbound_nodes": [{"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": [1, 2, 3]}}]}]},
    {"inbound_nodes": [{"args": [{"class_name": "__keras_tensor__"}], "kwargs": 3}]},
    {"inbound_nodes": [{"args": [], "kwargs": {"mask": [["a", 0, 0]]}}]},
]


@pytest.mark.parametrize("node", GRAPHS, ids=str)
def test_graphs(node, tmp_path):
    weights = frozen()[CASE][1]
    for ends in (["lstm", 0, 0], [], 3, [["lstm", 0, 0], ["a", 0, 0]]):
        layers = [{"class_name": "LSTM", "name": "lstm", "config": {"name": "lstm", "units": 4}, **node}]
        graph = {"layers": layers, "input_layers": ends, "output_layers": ends}
        refused(
            write_h5(tmp_path / "a.h5", {"class_name": "Functional", "keras_version": "3", "config": graph}, weights)
        )


# Damage of all kinds.


def tried(data, folder, name):
    """Read bytes as a file: a model, or an error that is a ModelFileError."""
    path = folder / name
    path.write_bytes(data)
    told = {} if "weights" not in name else {"recurrent_activation": "sigmoid", "return_sequences": False,
                                             "dense_activation": "linear", "mask_zero": False}  # fmt: skip
    try:
        read(path, **told)
    except ModelFileError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("name", NAMES)
def test_files_cut_short(name, files, tmp_path):
    data = files[name][0].read_bytes()
    for size in range(0, len(data), max(1, len(data) // 60)):
        tried(data[:size], tmp_path, name)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6,
                        min_size=1), seed=st.integers(0, 3))  # fmt: skip
def test_bytes_changed(name, changes, seed, files, tmp_path_factory):
    data = bytearray(files[name][0].read_bytes())
    heads = (data.find(b"TREE"), data.find(b"OHDR"), data.find(b"GCOL"), 0)  # where structure stands, not numbers
    for place, new in changes:
        at = int(place * len(data)) if seed else max(0, heads[len(new) % 4]) + int(place * 600)
        data[at : at + len(new)] = new[: max(0, len(data) - at)]
    tried(bytes(data), tmp_path_factory.getbasetemp(), name)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_configurations_changed(data, files, tmp_path_factory):
    """Any value of the configuration becomes any other."""
    name = data.draw(st.sampled_from(["keras_3.keras", "keras_3_masking.keras", "keras_2.keras"]))
    with zipfile.ZipFile(files[name][0]) as file:
        config, weights = json.loads(file.read("config.json")), file.read("model.weights.h5")
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(config)
    node, key = data.draw(st.sampled_from(places))
    values = [None, True, 0, -1, 3, 10**30, 1e308, "", "x", "LSTM", "Sequential", [], {}, [[]], {"class_name": "LSTM"}]
    node[key] = data.draw(st.sampled_from(values))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", weights)
        file.writestr("metadata.json", b'{"keras_version": "3.0.0"}')
    tried(out.getvalue(), tmp_path_factory.getbasetemp(), "model.keras")
