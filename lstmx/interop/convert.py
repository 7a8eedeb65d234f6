"""From any file of a model to any other: what ``lstmx convert`` does."""

import importlib
import inspect
import os

from lstmx import formats, storage
from lstmx.interop.imported import Imported


def _function(module, name):
    """A function of a module that is loaded only now."""
    return getattr(importlib.import_module(f"lstmx.{module}"), name)


# How the name of a file ends -> what is written to it, and the module and the function that do.
WRITERS = {
    ".safetensors": ("lstmx", "loading", "save"),
    ".onnx": ("ONNX", "interop.onnx.export", "to_onnx"),
    ".weights.h5": ("Keras weights", "interop.keras", "to_keras_weights"),
    ".pt": ("PyTorch state dict", "interop.torch", "save_state_dict"),
    ".pth": ("PyTorch state dict", "interop.torch", "save_state_dict"),
}


def read(path, **options):
    """A model file of any kind, told by what it holds.

    Parameters
    ----------
    path : str or path-like
    options
        What the importer of that kind takes, such as ``prefix`` or ``head``.

    Returns
    -------
    Imported

    Raises
    ------
    OSError
        If there is no such file.
    ModelFileError
        If nobody knows what it is, or it is damaged.
    TypeError
        For an option that its importer does not have.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"path: there is no file {path!r}")
    kind = formats.identify(path)
    if kind is None and storage.is_ours(path):
        _check_options("load", {}, options)
        return Imported(f"{path}: a model saved by lstmx", _function("loading", "load")(path))
    reader = "from_torch" if kind is None else kind.reader  # safetensors
    if not reader:
        raise storage.ModelFileError(f"{path}: {kind.what}; {kind.remedy}")
    read_it = _function(f"interop.{reader.removeprefix('from_')}", "read")
    _check_options(reader, inspect.signature(read_it).parameters, options)
    return read_it(path, **options)


def _check_options(reader, known, options):
    for name in options:
        if name not in known:
            raise TypeError(f"{name}: lstmx.{reader}, which reads this file, has no such argument; leave it out")


def writer(path):
    """(what is written to a file of this name, the function that does it)."""
    path = os.fspath(path)
    for ending, (what, *place) in WRITERS.items():
        if path.lower().endswith(ending):
            return what, _function(*place)
    raise ValueError(f"target: {path!r} must end with one of {', '.join(WRITERS)}: the ending decides what is written")


def convert(source, target, **options):
    """Read a model file and write another.

    Parameters
    ----------
    source, target : str or path-like
        What `source` is, its contents tell; what `target` becomes, its ending.
    options
        As `read` takes them.

    Returns
    -------
    Imported
        What was read.

    Examples
    --------
    >>> import os, tempfile, lstmx
    >>> from lstmx.interop.convert import convert
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a, b = os.path.join(folder, "a.safetensors"), os.path.join(folder, "b.safetensors")
    ...     lstmx.LSTM(3, 8, random_state=0).save(a)
    ...     convert(a, b).model
    LSTM(input_size=3, hidden_size=8, num_layers=1, bias=True, bidirectional=False, dropout=0.0, dtype='float32')
    """
    _, write = writer(target)
    imported = read(source, **options)
    write(imported.model, target)
    return imported
