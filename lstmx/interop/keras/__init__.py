"""Models from Keras, and weights for it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx import storage
from lstmx.functional import validate
from lstmx.functional.cell import suffix
from lstmx.interop.imported import Imported, finish
from lstmx.interop.keras import config as kc
from lstmx.interop.keras import files as keras_files
from lstmx.interop.keras.build import Builder
from lstmx.interop.keras.hdf5 import LARGEST_TEXT, Array
from lstmx.interop.keras.probe import probe
from lstmx.interop.keras.shapes import parts_from_shapes
from lstmx.layers import LSTM, Dense, Embedding
from lstmx.model import Sequential

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lstmx._types import PathLike

__all__ = ["from_keras", "read", "to_keras_weights"]


def from_keras(
    source: Any,
    *,
    config: PathLike | dict[str, Any] | None = None,
    layers: str | Sequence[str] | None = None,
    recurrent_activation: str | tuple[Any, ...] | None = None,
    activation: str | tuple[Any, ...] | None = None,
    dense_activation: str | tuple[Any, ...] | None = None,
    return_sequences: bool | None = None,
    mask_zero: bool | None = None,
    check: bool = False,
) -> Sequential | LSTM:
    """A model of Keras: Sequential, or a graph that is a chain.

    Parameters
    ----------
    source : path, or model or layer of Keras
        A file .keras, .weights.h5, .h5 or .hdf5 of Keras 2 or 3, which h5py reads (``pip install h5py``): neither Keras
        nor TensorFlow is needed.
    config : path or dict, optional
        For a file of weights alone: what ``model.to_json()`` wrote.
    layers : str or list of str, optional
        Takes these layers alone, in this order.
    recurrent_activation, activation : str, or (name, alpha, beta), optional
        For a file of weights alone without `config`: of the gates of its LSTMs, and of candidate and output ("tanh").
    dense_activation : str, or tuple of one for each Dense, optional
        The same, of its Dense layers.
    return_sequences : bool, optional
        The same: whether the last LSTM gives an output for every step.
    mask_zero : bool, optional
        The same, of its Embedding.
    check : bool
        Run a probe through the original too, where Keras is installed, and print the largest error. Of a file the
        original is what Keras itself loads, in safe mode, from a file that names no class but Keras's own.

    Returns
    -------
    Sequential, or LSTM where `source` or `layers` is one LSTM layer

    Raises
    ------
    ModelFileError
        For a file that cannot be read, with layers or options that there are not here (all layers are named), or that
        leaves open what the model computes (the error lists what it holds).

    Notes
    -----
    The model computes what Keras's does in inference, also on masked steps: where Keras repeats an output or gives 0,
    so does it (but for the mean over a sequence without steps: 0 here, NaN there). A model of ``stateful=True`` starts
    each call anew here; `Sequential.step` keeps a state.
    Embedding, LSTM and CuDNNLSTM, Bidirectional, RNN of LSTMCells, Dense, TimeDistributed, activations, dropout of all
    kinds, Masking and GlobalAveragePooling1D can be read.
    """
    told: dict[str, Any] = {"recurrent_activation": recurrent_activation, "activation": activation,
            "dense_activation": dense_activation, "return_sequences": return_sequences,
            "mask_zero": mask_zero}  # fmt: skip
    return finish(read(source, config=config, layers=layers, **told), check)


def read(
    source: Any,
    *,
    config: PathLike | dict[str, Any] | None = None,
    layers: str | Sequence[str] | None = None,
    recurrent_activation: str | tuple[Any, ...] | None = None,
    activation: str | tuple[Any, ...] | None = None,
    dense_activation: str | tuple[Any, ...] | None = None,
    return_sequences: bool | None = None,
    mask_zero: bool | None = None,
) -> Imported:
    """As `from_keras`, giving an `Imported`."""
    told: dict[str, Any] = {"recurrent_activation": recurrent_activation, "activation": activation,
            "dense_activation": dense_activation, "return_sequences": return_sequences,
            "mask_zero": mask_zero}  # fmt: skip
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    names = [layers] if isinstance(layers, str) else layers
    if names is not None and not (isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names)):
        raise TypeError(f"layers: got {layers!r}, must be the name of a layer, or a list of names")
    for name in ("return_sequences", "mask_zero"):
        if told[name] is not None:
            validate.flag(name, told[name])
    given = [name for name, value in {"config": config, **told}.items() if value is not None]
    if not isinstance(source, str | os.PathLike):
        if given:
            raise ValueError(f"{given[0]}: the {type(source).__name__} itself says so; leave it out")
        return _read_object(source, names)
    apart = None if config is None else _configuration(config)
    with keras_files.opened(source) as file:
        if file.config is not None and given:
            raise ValueError(f"{given[0]} was given, but the file itself says so; leave it out")
        if apart is not None and given[1:]:
            raise ValueError(f"{given[1]} was given beside config, which says so; leave it out")
        known = apart if file.config is None else file.config
        if known is None:
            found, ordered = file.weights.layers(), isinstance(file.weights, keras_files.NamedWeights)
            if names is not None:
                found, ordered = {name: _named(found, name) for name in names}, True
            parts = parts_from_shapes(found, told, ordered)
        else:
            every = kc.parts_of(known, names)
            file.weights.check_order(every)
            parts = _chosen(every, names)
        alone = len(parts) == 1 and (names is not None or not kc.is_model(known))
        version = file.version or (known or {}).get("keras_version")
        if version is not None and version.startswith(("0.", "1.")):
            raise ValueError(f"written by Keras {version}, before 2; load it in Keras 2 and save it again")
        builder = Builder(file.weights, version, alone).build(parts)
        original = None if file.config is None else (os.fspath(source), file.config, version, names)
        return _imported(file.kind, builder, original)


def _configuration(config: Any) -> Any:
    """The configuration that stands in another file, or is given itself."""
    if isinstance(config, dict):
        return config
    if not isinstance(config, str | os.PathLike):
        raise TypeError(f"config: got {type(config).__name__}, must be a dict, or the path of a file of JSON")
    path = os.fspath(config)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"config: there is no file {path!r}")
    with keras_files.explained(path), open(path, "rb") as file:
        return keras_files.read_json(file.read(LARGEST_TEXT + 1))


def _named(found: Any, name: str) -> Any:
    if name not in found:
        raise ValueError(f"layers: there is no layer {name!r}; there are {list(found)[:50]}")
    return found[name]


def _chosen(parts: list[Any], names: Any) -> list[Any]:
    """The parts of these names; all where there are none."""
    by_name: dict[str, Any] = {}
    for part in parts:
        by_name.setdefault(part.name, part)
    return parts if names is None else [_named(by_name, name) for name in names]


def _read_object(source: Any, names: Any) -> Imported:
    """Of a model or layer of Keras."""
    own = {base.__module__.partition(".")[0] for base in type(source).__mro__} & set(kc.PACKAGES)
    if not own or not hasattr(source, "get_config"):
        raise TypeError(
            f"source: got {type(source).__name__}, must be a model or layer of Keras, or the path of a file"
        )
    if type(source).__module__.partition(".")[0] not in kc.PACKAGES:
        raise ValueError(f"source: {type(source).__name__} is a class of its own, which may compute anything; give its "
                         "layers, or a keras.Sequential of them")  # fmt: skip
    if not getattr(source, "built", True):
        raise ValueError(f"source: this {type(source).__name__} has no weights yet; build it, or call it once")
    config = _as_in_a_file({"class_name": type(source).__name__, "config": source.get_config()})
    parts = _chosen(kc.parts_of(config, names), names)
    inside = getattr(source, "layers", None)
    lists = {layer.name: _arrays(layer) for layer in ([source] if inside is None else inside)}
    weights = keras_files.NamedWeights(lists)
    alone = len(parts) == 1 and (names is not None or inside is None)
    builder = Builder(weights, _version(source), alone).build(parts)
    return _imported(f"Keras {type(source).__name__}", builder, (source, config, None, names))


def _as_in_a_file(value: Any) -> Any:
    """A configuration with lists where a live model has tuples, as JSON would have it."""
    if isinstance(value, dict):
        return {key: _as_in_a_file(one) for key, one in value.items()}
    return [_as_in_a_file(one) for one in value] if isinstance(value, list | tuple) else value


def _arrays(layer: Any) -> list[Any]:
    """The weights of a layer or model, layer by layer."""
    if getattr(layer, "layers", None) is not None:
        return [array for one in layer.layers for array in _arrays(one)]
    return [Array.of(getattr(v, "path", v.name), a) for v, a in zip(layer.weights, layer.get_weights(),
                                                                              strict=True)]  # fmt: skip


def _version(source: Any) -> str | None:
    """Of the Keras that an object is of."""
    import sys

    package = type(source).__module__.partition(".")[0]
    module = sys.modules.get(package)
    return getattr(getattr(module, "keras", module), "__version__", None) if package == "tensorflow" else (
        getattr(module, "__version__", None))  # fmt: skip


def _imported(kind: str, builder: Builder, original: Any) -> Imported:
    layers = builder.layers()
    alone = builder.alone and isinstance(layers[0], LSTM) and sum(isinstance(one, LSTM) for one in layers) == 1
    whole = Sequential([layer.copy() for layer in layers] if alone else layers)
    compare = None if original is None else lambda: probe(whole, builder.half, *original)
    return Imported(kind, layers[0] if alone else whole, tuple(builder.found), tuple(builder.notes), compare)


def to_keras_weights(model: LSTM | Sequential, path: PathLike | None = None) -> list[NDArray[Any]]:
    """The weights of a model, for a model of the same layers in Keras.

    Parameters
    ----------
    model : LSTM, Sequential
        Each layer of an LSTM is an ``LSTM(return_sequences=True)`` in Keras, with two directions a Bidirectional of it;
        Embedding and Dense have their names. Other layers have no weights. Activations, masks and what is dropped are
        options there.
    path : path, optional
        Also writes a file for ``load_weights`` of Keras 3, which must end with ".weights.h5".

    Returns
    -------
    list of ndarray
        What ``set_weights`` takes.

    Raises
    ------
    ValueError
        For options of a cell that Keras has no layer for.

    Examples
    --------
    >>> import lstmx
    >>> lstm = lstmx.LSTM(3, 8, num_layers=2)
    >>> [array.shape for array in to_keras_weights(lstm)]
    [(3, 32), (8, 32), (32,), (8, 32), (8, 32), (32,)]
    """
    if not isinstance(model, LSTM | Sequential):
        raise TypeError(f"model: got {type(model).__name__}, must be an lstmx.LSTM or lstmx.Sequential")
    found = to_places(model)
    if path is not None:
        _write_weights(path, found)
    return list(found.values())


def to_places(model: LSTM | Sequential) -> dict[str, NDArray[Any]]:
    """The weights of a model by their places in a file of Keras 3."""
    layers = [model] if isinstance(model, LSTM) else model.layers
    found: dict[str, NDArray[Any]] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        for kind, arrays in _for_keras(layer):
            count = counts[kind] = counts.get(kind, -1) + 1
            group = f"layers/{kc.snake(kind)}{f'_{count}' if count else ''}"
            found |= {f"{group}/{place}": np.ascontiguousarray(array) for place, array in arrays.items()}
    return found


def read_places(path: PathLike) -> dict[str, NDArray[Any]]:
    """All arrays of a file that `to_keras_weights` wrote, by their places."""
    with keras_files.opened(path) as file:
        layers = file.weights.layers()
        return {f"{file.weights.root}/{layer}/{place}": array.read() for layer, arrays in layers.items()
                for place, array in arrays.items()}  # fmt: skip


def _for_keras(layer: Any) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """(class in Keras, {place in a file: array}) of each layer that Keras needs for one of ours."""
    parameters = layer.parameters()
    if isinstance(layer, LSTM):
        _check_options(layer)
        for k in range(layer.num_layers):
            sides = [_for_cell(parameters, suffix(k, side)) for side in range(layer.directions)]
            if layer.bidirectional:
                names = "forward_layer", "backward_layer"
                yield "Bidirectional", {f"{name}/{place}": array for name, side in zip(names, sides, strict=True)
                                        for place, array in side.items()}  # fmt: skip
            else:
                yield "LSTM", sides[0]
    elif isinstance(layer, Dense):
        yield "Dense", {"vars/0": parameters["weight"].T, "vars/1": parameters["bias"]}
    elif isinstance(layer, Embedding):
        yield "Embedding", {"vars/0": parameters["weight"]}


def _for_cell(parameters: dict[str, NDArray[Any]], ending: str) -> dict[str, NDArray[Any]]:
    names = [name + ending for name in ("weight_ih", "weight_hh", "bias")]
    return {f"cell/vars/{k}": parameters[name].T for k, name in enumerate(names) if name in parameters}


def _check_options(lstm: LSTM) -> None:
    """An error for options that no LSTM of Keras has."""
    here = {"input_dropout", "recurrent_dropout", "dropout_per_gate", "weight_dropout", "activations"}
    more = [name for name in lstm.cell.config() if name not in here]
    more += ["proj_size"] if lstm.proj_size else []
    if more:
        raise ValueError(f"{more[0]}: Keras has no LSTM with {', '.join(more)}; to_onnx exports every option")
    _, candidate, output = lstm.cell.activations
    if candidate != output:
        raise ValueError(f"activations: Keras has one for candidate and output, but they are {candidate!r} and "
                         f"{output!r}; to_onnx exports every option")  # fmt: skip


def _write_weights(path: PathLike, arrays: dict[str, NDArray[Any]]) -> None:
    """A file of arrays by their places, as Keras 3 writes it."""
    text = os.fspath(path)
    if not str(text).endswith(".weights.h5"):
        raise ValueError(f"path: got {text!r}, must end with .weights.h5, without which Keras does not read it")
    storage.check_target(path)
    data = io.BytesIO()
    with keras_files.import_h5py().File(data, "w") as file:
        for place, array in arrays.items():
            file[place] = array
    storage.write_bytes(path, data.getvalue())
