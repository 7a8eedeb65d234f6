"""Model files: safetensors, with the configuration as JSON in the metadata.

Tensors have PyTorch-like names ("weight_ih_l0"; in a Sequential "0.weight_ih_l0"). The metadata hold the format
"lstmx", the ``schema`` number of this layout, the ``version`` that wrote it, and ``model``, a JSON object with
``class`` and the configuration. Reading a file never runs code from it: no pickle, no class but those registered
here, and every name, type and shape is compared with what the configuration asks for before a parameter is read.

Schema 1 holds a layer or a Sequential; schema 2 also what an estimator has learnt: a predictor with its own arrays
beside those of its model ("model.0.weight_ih_l0"); and checkpoints.
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
from lstmx.predictors import PREDICTORS

SCHEMA = 2
LARGEST_CONFIG = 2**20  # characters of JSON
_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}


class ModelFileError(ValueError):
    """A file that is not a model that this version can read."""


def save(model, path):
    """Write a model to `path`: the whole file, or, if anything fails, nothing.

    Parameters
    ----------
    model : LSTM, another layer, or Sequential
    path : str or path-like
    """
    write(path, {"class": type(model).__name__} | model.config(), model.parameters(), schema=1)


def save_predictor(predictor, path):
    """Write a predictor to `path`, as `save` does."""
    config, arrays = predictor.state()
    write(path, {"class": type(predictor).__name__} | config, arrays)


def write(path, config, arrays, schema=SCHEMA):
    """Write a configuration and arrays by name to a safetensors file, atomically."""
    from safetensors.numpy import save as serialise

    metadata = {"format": "lstmx", "schema": str(schema), "version": __version__, "model": json.dumps(config)}
    if len(metadata["model"]) > LARGEST_CONFIG:
        raise ValueError(f"path: the configuration has {len(metadata['model'])} characters of JSON, more than "
                         f"{LARGEST_CONFIG}, which load would refuse")  # fmt: skip
    data = serialise({name: np.ascontiguousarray(value) for name, value in arrays.items()}, metadata)
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
    LSTM, another layer, Sequential, or what an estimator saved
        The latter as a predictor (`lstmx.predictors`), which needs no scikit-learn.

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
    return _read(path, _build)


def read(path):
    """(configuration, arrays) of a file that `write` wrote."""
    return _read(path, lambda path, config, file: (config, {name: file.get_tensor(name) for name in file.keys()}))  # noqa: SIM118


def _read(path, build):
    from safetensors import SafetensorError, safe_open

    path = Path(os.fspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            config = _read_config(path, file.metadata())
            return build(path, config, file)
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
    names = set(file.keys())
    kind = config.pop("class", None)
    if kind == "Checkpoint":
        raise ModelFileError(f"{path}: a checkpoint of a training; fit an estimator with checkpoint=path, resume=True")
    try:
        if isinstance(kind, str) and kind in PREDICTORS:
            return _build_predictor(path, PREDICTORS[kind], config, file, names)
        if kind == "Sequential":
            return _build_sequential(path, config, file, names, "")
        layer = _empty_layer(path, config | {"class": kind})
        tensors = _check_tensors(path, layer, "", file, names)
        _check_nothing_left(path, names)
        return layer.fill({name: file.get_tensor(full) for name, full in tensors.items()})
    except ModelFileError:
        raise
    except (TypeError, ValueError, KeyError, RecursionError, MemoryError, OverflowError) as error:
        raise ModelFileError(f"{path}: {error!r}" if isinstance(error, KeyError) else f"{path}: {error}") from error


def _check_nothing_left(path, names):
    if names:
        raise ModelFileError(f"{path}: tensors that no layer has: {sorted(names)[:5]}")


def _build_sequential(path, config, file, names, prefix):
    configs = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(configs, list) or not all(isinstance(layer, dict) for layer in configs):
        raise ModelFileError(f"{path}: layers is not a list of JSON objects")
    layers, tensors = [], []
    for k, layer_config in enumerate(configs):
        layers.append(_empty_layer(path, layer_config))
        tensors.append(_check_tensors(path, layers[-1], f"{prefix}{k}.", file, names))
    _check_nothing_left(path, names)
    for layer, full_names in zip(layers, tensors, strict=True):
        layer.fill({name: file.get_tensor(full) for name, full in full_names.items()})
    return Sequential(layers)


def _build_predictor(path, kind, config, file, names):
    kind.check(config)
    arrays = {}
    for name, shape, dtype in kind.array_shapes(config):
        _check_tensor(path, name, file, names, shape, dtype)
        arrays[name] = name
    model = _build_sequential(path, config.get("model"), file, names, "model.")
    return kind(config, {name: file.get_tensor(name) for name in arrays}, model)


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
    for name, shape in layer.parameter_shapes(layer.config()):
        tensors[name] = prefix + name
        _check_tensor(path, tensors[name], file, names, shape, layer.dtype.name)
    return tensors


def _check_tensor(path, name, file, names, shape, dtype):
    """Compare the file's header with what is needed, and take the name from `names`."""
    if name not in names:  # also what ends a configuration of a billion layers
        raise ModelFileError(f"{path}: the tensor {name!r} is missing")
    found = file.get_slice(name)
    has, found_shape, wanted = found.get_dtype(), tuple(found.get_shape()), _DTYPES[dtype]
    if found_shape != tuple(shape) or has != wanted:
        raise ModelFileError(f"{path}: the tensor {name!r} is {has} {found_shape}, must be {wanted} {tuple(shape)}")
    names.discard(name)
