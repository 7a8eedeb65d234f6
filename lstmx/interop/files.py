"""Model files: safetensors, with the configuration as JSON in the metadata.

Tensors have PyTorch-like names ("weight_ih_l0"; in a Sequential "0.weight_ih_l0"). The metadata hold the format
"lstmx", the ``schema`` number of this layout, the ``version`` that wrote it, and ``model``, a JSON object with
``class`` and the configuration. Reading a file never runs code from it: no pickle, no class but those registered
here, and every name, type and shape is compared with what the configuration asks for before a parameter is read.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from lstmx._version import __version__
from lstmx.layers import REGISTRY
from lstmx.model import Sequential

SCHEMA = 1
LARGEST_CONFIG = 2**20  # characters of JSON


class ModelFileError(ValueError):
    """A file that is not a model that this version can read."""


def save(model, path):
    """Write a model to `path`: the whole file, or, if anything fails, nothing.

    Parameters
    ----------
    model : LSTM, another layer, or Sequential
    path : str or path-like
    """
    from safetensors.numpy import save as serialise

    config = {"class": type(model).__name__} | model.config()
    metadata = {"format": "lstmx", "schema": str(SCHEMA), "version": __version__, "model": json.dumps(config)}
    tensors = {name: np.ascontiguousarray(value) for name, value in model.parameters().items()}
    data = serialise(tensors, metadata)
    path = Path(os.fspath(path)).absolute()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {str(path.parent)!r}; make it first")
    # A file beside the old one, flushed to disk and then renamed: a reader sees the old model or the new one.
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder):
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path):
    """Read what `save` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    LSTM, another layer, or Sequential

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is not such a model, saying what is wrong with it.

    Examples
    --------
    >>> import os, tempfile, numpy as np, lstmx
    >>> lstm = lstmx.LSTM(3, 4, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lstm.save(os.path.join(folder, "lstm.safetensors"))
    ...     again = lstmx.load(os.path.join(folder, "lstm.safetensors"))
    >>> x = np.ones((2, 5, 3))
    >>> bool((lstm(x)[0] == again(x)[0]).all())
    True
    """
    from safetensors import SafetensorError, safe_open

    path = Path(os.fspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            config = _read_config(path, file.metadata())
            return _build(path, config, file)
    except SafetensorError as error:
        raise ModelFileError(f"{path}: not a safetensors file ({error})") from error


def _read_config(path, metadata):
    metadata = metadata or {}
    if metadata.get("format") != "lstmx":
        raise ModelFileError(
            f"{path}: a safetensors file, but not a model saved by lstmx (its metadata lack format=lstmx)"
        )
    schema = metadata.get("schema", "")
    if not schema.isdecimal() or len(schema) > 6 or not 1 <= int(schema) <= SCHEMA:
        raise ModelFileError(
            f"{path}: written by lstmx {metadata.get('version')} with schema {schema[:20]!r}; lstmx {__version__} "
            f"reads up to {SCHEMA}: upgrade lstmx"
        )
    text = metadata.get("model", "")
    if len(text) > LARGEST_CONFIG:
        raise ModelFileError(
            f"{path}: a configuration of {len(text)} characters; the largest allowed is {LARGEST_CONFIG}"
        )
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: the configuration is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: the configuration is not a JSON object")
    return config


def _build(path, config, file):
    sequential = config.get("class") == "Sequential"
    configs = config.get("layers") if sequential else [config]
    if not isinstance(configs, list) or not all(isinstance(layer, dict) for layer in configs):
        raise ModelFileError(f"{path}: layers is not a list of JSON objects")
    names = set(file.keys())
    layers, tensors = [], []
    for k, layer_config in enumerate(configs):
        layers.append(_empty_layer(path, layer_config))
        tensors.append(_check_tensors(path, layers[-1], f"{k}." if sequential else "", file, names))
    if names:
        raise ModelFileError(f"{path}: tensors that no layer has: {sorted(names)[:5]}")
    for layer, full_names in zip(layers, tensors, strict=True):
        layer.fill({name: file.get_tensor(full) for name, full in full_names.items()})
    try:
        return Sequential(layers) if sequential else layers[0]
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def _empty_layer(path, config):
    """A layer of a configuration, without parameters; its constructor validates."""
    config = dict(config)
    kind = config.pop("class", None)
    if not isinstance(kind, str) or kind not in REGISTRY:
        raise ModelFileError(f"{path}: there is no layer class {kind!r} in lstmx {__version__}")
    try:
        return REGISTRY[kind].without_parameters(config)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: the configuration of {kind} is not valid ({error})") from error


def _check_tensors(path, layer, prefix, file, names):
    """Compare the file's header with what a layer needs; returns {name: full name} and takes those from `names`."""
    tensors = {}
    wanted = {"float32": "F32", "float64": "F64"}[layer.dtype.name]
    for name, shape in layer.parameter_shapes(layer.config()):
        full = prefix + name
        if full not in names:  # also what ends a configuration of a billion layers
            raise ModelFileError(f"{path}: the tensor {full!r} is missing")
        found = file.get_slice(full)
        dtype, found_shape = found.get_dtype(), tuple(found.get_shape())
        if found_shape != shape or dtype != wanted:
            raise ModelFileError(f"{path}: the tensor {full!r} is {dtype} {found_shape}, must be {wanted} {shape}")
        names.discard(full)
        tensors[name] = full
    return tensors
