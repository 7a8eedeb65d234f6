"""What a file or folder that is no model of ours is instead, told by its first bytes, and what to do with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

    from lstmx._types import PathLike


class Kind(NamedTuple):
    """What a file is, what to do with it, and the function of lstmx that reads it, "" where there is none."""

    what: str
    remedy: str
    reader: str = ""


def _of(library: str) -> tuple[str, str]:
    return f"lstmx.from_{library} reads it", f"from_{library}"


_PICKLE = (
    "it runs code when it is read: if you trust it, read it with what wrote it (pickle, joblib), and save the model "
    "again by lstmx.save; a state dict of PyTorch is read by lstmx.from_torch"
)
_ARRAYS = "read it with numpy.load and give the arrays to set_parameters of an lstmx.LSTM"
_SAVED_MODEL = "load it with Keras and give the model to lstmx.from_keras, or save it as .keras"
_UNPACK = "unpack it first"
_AGAIN = "give the file that save wrote, or take another copy of it"

# (first bytes, what it is, what to do, the function that reads it)
_BINARY: list[tuple[Any, ...]] = [
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes (.h5)", *_of("keras")),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file", *_of("torch")),
    (b"\x93NUMPY", "a NumPy array (.npy)", _ARRAYS),
    (b"\x08\x01\x12", "the saved_model.pb of a TensorFlow SavedModel", _SAVED_MODEL),
    (b"\x1f\x8b\x08", "a file compressed by gzip", _UNPACK),
    (b"\xfd7zXZ\0", "a file compressed by xz", _UNPACK),
    (b"BZh", "a file compressed by bzip2", _UNPACK),
]
_TEXT: list[tuple[Any, ...]] = [
    (b"version https://git-lfs", "a pointer of Git LFS", "get the file itself by git lfs pull"),
    (b"<", "HTML or XML", _AGAIN),
    (b"{", "JSON", "if RTNeural wrote it, lstmx.from_rtneural reads it", "from_rtneural"),
    (b"[", "JSON", _AGAIN),
]
_ZLIB = b"\x01\x5e\x9c\xda"  # what follows an "x"
# An ONNX model begins with the number of its format, then comes one of these tags of other fields.
_ONNX_TAGS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"


def identify(path: PathLike) -> Kind | None:
    """What a file or folder is that is not in the safetensors format, and what to do.

    Returns
    -------
    Kind or None
        None of what nobody knows, and of safetensors files, which may be damaged.
    """
    if os.path.isdir(path):
        is_saved_model = os.path.isfile(os.path.join(path, "saved_model.pb"))
        return Kind("a TensorFlow SavedModel", _SAVED_MODEL) if is_saved_model else None
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        return Kind("an empty file", _AGAIN)
    if len(head) < 3 or (head[8:9] == b"{" and not any(head[4:8])):  # safetensors: a size in 8 bytes, then JSON
        return None
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head[0] == 8 and 3 <= head[1] < 32 and head[2] in _ONNX_TAGS:
        return Kind("an ONNX model", *_of("onnx"))
    found = [kind for kind in _BINARY + _TEXT * (0 not in head) if head.startswith(kind[0])]
    if found:
        return Kind(*found[0][1:])
    if head[0] == 128 and 2 <= head[1] <= 5 and head[2]:
        return Kind("a Python pickle", _PICKLE, "from_torch")
    if head[0] == ord("x") and head[1] in _ZLIB and any(head[4:8]):
        return Kind("a file compressed by zlib, as joblib does", _PICKLE)
    return None


def _archive(path: PathLike) -> Kind:
    import zipfile  # four milliseconds that few need

    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return Kind("a zip archive that is damaged", _AGAIN)
    if any(name.endswith(("/data.pkl", "/archive_format")) for name in names):
        return Kind("a PyTorch file", *_of("torch"))
    if "model.weights.h5" in names:
        return Kind("a Keras model (.keras)", *_of("keras"))
    if names and all(name.endswith(".npy") for name in names):
        return Kind("NumPy arrays (.npz)", _ARRAYS)
    if "schema.json" in names:
        return Kind("a skops file", "read it with skops.io.load, and save the model again by lstmx.save")
    return Kind("a zip archive", _UNPACK)
