"""What a file or folder that is no model of ours is instead, told by its first bytes, and what to do with it."""

import os
import zipfile

_SET = "set_parameters of an lstmx.LSTM"
_TORCH = (
    f"read it with PyTorch and give the arrays to {_SET}: weight_ih_l0 and weight_hh_l0 as they are, bias_l0 is "
    "bias_ih_l0 + bias_hh_l0"
)
_KERAS = (
    f"read it with Keras and give the arrays to {_SET}: weight_ih_l0 is kernel.T, weight_hh_l0 is recurrent_kernel.T, "
    "bias_l0 is bias"
)
_ONNX = (
    f"read W, R and B with onnx.numpy_helper and give them to {_SET}, gates in the order i, f, c, o (ONNX has i, o, f, "
    "c); bias_l0 is the sum of the two halves of B"
)
_PICKLE = (
    "it runs code when it is read: if you trust it, read it with what wrote it (pickle, joblib, torch.load), and save "
    "the model again by lstmx.save"
)
_ARRAYS = f"read it with numpy.load and give the arrays to {_SET}"
_UNPACK = "unpack it first"
_AGAIN = "give the file that save wrote, or take another copy of it"

# (first bytes, what it is, what to do)
_BINARY = [
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes (.h5)", _KERAS),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file", _TORCH),
    (b"\x93NUMPY", "a NumPy array (.npy)", _ARRAYS),
    (b"\x08\x01\x12", "the saved_model.pb of a TensorFlow SavedModel", _KERAS),
    (b"\x1f\x8b\x08", "a file compressed by gzip", _UNPACK),
    (b"\xfd7zXZ\0", "a file compressed by xz", _UNPACK),
    (b"BZh", "a file compressed by bzip2", _UNPACK),
]
_TEXT = [
    (b"version https://git-lfs", "a pointer of Git LFS", "get the file itself by git lfs pull"),
    (b"<", "HTML or XML", _AGAIN),
    (b"{", "JSON", _AGAIN),
    (b"[", "JSON", _AGAIN),
]
_ZLIB = b"\x01\x5e\x9c\xda"  # what follows an "x"
# An ONNX model begins with the number of its format, then comes one of these tags of other fields.
_ONNX_TAGS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"


def identify(path):
    """What a file or folder is that is not in the safetensors format, and what to do.

    Returns
    -------
    (str, str) or None
        Two phrases; None of what nobody knows, and of safetensors files that are damaged.
    """
    if os.path.isdir(path):
        return ("a TensorFlow SavedModel", _KERAS) if os.path.isfile(os.path.join(path, "saved_model.pb")) else None
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        return "an empty file", _AGAIN
    if len(head) < 3 or (head[8:9] == b"{" and not any(head[4:8])):  # safetensors: a size in 8 bytes, then JSON
        return None
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head[0] == 8 and 3 <= head[1] < 32 and head[2] in _ONNX_TAGS:
        return "an ONNX model", _ONNX
    found = [kind for kind in _BINARY + _TEXT * (0 not in head) if head.startswith(kind[0])]
    if found:
        return found[0][1:]
    if head[0] == 128 and 2 <= head[1] <= 5 and head[2]:
        return "a Python pickle", _PICKLE
    if head[0] == ord("x") and head[1] in _ZLIB and any(head[4:8]):
        return "a file compressed by zlib, as joblib does", _PICKLE
    return None


def _archive(path):
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return "a zip archive that is damaged", _AGAIN
    if any(name.endswith(("/data.pkl", "/archive_format")) for name in names):
        return "a PyTorch file", _TORCH
    if "model.weights.h5" in names:
        return "a Keras model (.keras)", _KERAS
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz)", _ARRAYS
    if "schema.json" in names:
        return "a skops file", "read it with skops.io.load, and save the model again by lstmx.save"
    return "a zip archive", _UNPACK
