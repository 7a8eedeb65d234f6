"""Files of others are called by their names: real ones where their libraries are here, and their first bytes."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import lstmx
from lstmx import formats
from lstmx.storage import ModelFileError


def archive(*names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, b"0")
    return data.getvalue()


def arrays(**found):
    data = io.BytesIO()
    (np.savez_compressed if len(found) > 1 else np.savez)(data, **found)
    return data.getvalue()


def numbers():
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    return data.getvalue()


TORCH, KERAS = "a PyTorch file; lstmx.from_torch reads it", "lstmx.from_keras"
JSON = json.dumps({"class_name": "Sequential", "config": {"layers": []}}, indent=1).encode()
FILES = {
    "torch.save": (archive("m/data.pkl", "m/version"), TORCH),
    "TorchScript": (archive("m/code/__torch__.py", "m/data.pkl", "m/constants.pkl"), TORCH),
    "torch.export": (archive("m/models/model.json", "m/archive_format"), TORCH),
    "old torch.save": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00", TORCH),
    "Keras": (archive("metadata.json", "config.json", "model.weights.h5"), rf"a Keras model \(.keras\); .*{KERAS}"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(90), f"HDF5 .*{KERAS}"),
    "SavedModel": (b"\x08\x01\x12\x9e\x07\n" + bytes(90), f"saved_model.pb of a TensorFlow SavedModel; .*{KERAS}"),
    "ONNX of PyTorch": (b"\x08\t\x12\x07pytorch\x1a\x062.13.0:\xe7\x11\nM", "an ONNX model; lstmx.from_onnx reads it"),
    "ONNX of nobody": (b"\x08\x0e:\x03\x12\x01gB\x02\x10\x1c", "an ONNX model"),
    **{f"pickle {k}": (pickle.dumps({"a": np.ones(3)}, k), "a Python pickle; it runs code") for k in range(2, 6)},
    "npz": (arrays(a=np.zeros(3)), r"NumPy arrays \(.npz\); read it with numpy.load"),
    "compressed npz": (arrays(a=np.zeros(3), b=np.ones(2)), r"NumPy arrays \(.npz\)"),
    "npy": (numbers(), r"a NumPy array \(.npy\)"),
    "skops": (archive("schema.json", "1.npy"), "a skops file; read it with skops.io.load"),
    "zip": (archive("readme.txt"), "a zip archive; unpack it"),
    "empty zip": (archive("a")[:4] + bytes(60), "a zip archive that is damaged"),
    "cut zip": (archive("m/data.pkl")[:-9], "a zip archive that is damaged"),
    "gzip": (gzip.compress(b"x" * 90), "compressed by gzip; unpack"),
    "xz": (lzma.compress(b"x" * 90), "compressed by xz"),
    "bzip2": (bz2.compress(b"x" * 90), "compressed by bzip2"),
    **{f"zlib {k}": (zlib.compress(np.arange(90).tobytes(), k), "compressed by zlib, as joblib") for k in (1, 3, 6, 9)},
    "JSON": (JSON, "JSON; if RTNeural wrote it, lstmx.from_rtneural"),
    "a list in JSON": (b'["a", 3]', "JSON; "),
    "HTML": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "HTML or XML; give"),
    "XML": (b'<?xml version="1.0"?><net name="m" version="11">', "HTML or XML"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "Git LFS; .*git lfs pull"),
    "empty": (b"", "an empty file; give the file that save wrote, or take another copy"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("name", ["model.safetensors", "m.pt"])
def test_files_of_others_are_called_by_their_names(name, content, message, tmp_path):
    """By what they hold: a name can be anything."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"{name}: not a safetensors file but .*{message}") as error:
        lstmx.load(path)
    assert len(str(error.value)) < 500 and "HeaderTooLarge" not in str(error.value)


def test_folders_of_others_are_called_by_their_names(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a saved model"):
        lstmx.load(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    with pytest.raises(IsADirectoryError, match=f"is a TensorFlow SavedModel; .*{KERAS}"):
        lstmx.load(tmp_path)


def test_safetensors_files_of_others_are_told_what_to_do(path):
    from safetensors.numpy import save_file

    save_file({"weight_ih_l0": np.zeros((4, 3))}, path, {"format": "pt"})
    with pytest.raises(ModelFileError, match=r"not a model saved by lstmx .*lstmx.from_torch reads it"):
        lstmx.load(path)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(2, 2**20), end=st.integers(1, 100))
@example(size=0x9C78, end=8)  # as zlib begins
@example(size=0x0480, end=8)  # as a pickle begins
@example(size=0x03 << 8 | 8, end=8)  # as ONNX begins
@example(size=ord("{"), end=8)
def test_damaged_safetensors_are_no_files_of_others(size, end, tmp_path):
    """Whatever the size that they begin with."""
    path = tmp_path / "model"
    path.write_bytes((size.to_bytes(8, "little") + b'{"__metadata__":' + b" " * 90)[:end])
    assert formats.identify(path) is None
    with pytest.raises(ModelFileError, match="damaged or cut short"):
        lstmx.load(path)


@settings(max_examples=100, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(kind=st.sampled_from(list(FILES)), end=st.integers(0, 80), more=st.binary(max_size=20))
def test_pieces_of_files_are_an_error_too(kind, end, more, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(FILES[kind][0][:end] + more)
    with pytest.raises(ModelFileError):
        lstmx.load(path)


def test_what_joblib_and_skops_write(path):
    joblib, skops = pytest.importorskip("joblib"), pytest.importorskip("skops.io")
    scaler = pytest.importorskip("sklearn.preprocessing").StandardScaler().fit(np.random.default_rng(0).random((9, 40)))
    for compress, message in ((0, "a Python pickle"), (3, "zlib, as joblib"), (("gzip", 3), "by gzip")):
        joblib.dump(scaler, path, compress=compress)
        with pytest.raises(ModelFileError, match=message):
            lstmx.load(path)
    skops.dump(scaler, path)
    with pytest.raises(ModelFileError, match="a skops file"):
        lstmx.load(path)
