"""Models of RTNeural, which its exporters write from Keras as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx import formats
from lstmx.functional import validate
from lstmx.interop.imported import Imported, Part, finish
from lstmx.interop.torch.files import source_path
from lstmx.layers import LSTM, Activation, Dense
from lstmx.model import Sequential
from lstmx.storage import ModelFileError

if TYPE_CHECKING:
    from lstmx._types import Array, PathLike
    from lstmx.layers import LSTM, Dense
    from lstmx.layers.base import Layer

__all__ = ["from_rtneural", "read"]


DENSE = ("dense", "time-distributed-dense")
ACTIVATIONS = ("tanh", "relu", "sigmoid", "softmax", "elu")  # those that RTNeural has


def from_rtneural(path: PathLike, *, check: bool = False) -> Sequential:
    """A model of RTNeural.

    Parameters
    ----------
    path : str or path-like
        Its JSON: ``{"in_shape": ..., "layers": [...]}`` with layers of type lstm, dense, time-distributed-dense and
        activation.
    check : bool
        Not possible: a file alone does not say what RTNeural computes. True is an error.

    Returns
    -------
    Sequential
        float32, one output a step, as RTNeural has; ``step`` runs it one sample at a time.

    Raises
    ------
    ModelFileError, OSError
        If the path does not lead to such a model.
    """
    return finish(read(path), check)


def read(path: PathLike) -> Imported:
    """As `from_rtneural`.

    Returns
    -------
    Imported
    """
    path = source_path(path)
    try:
        with open(path, "rb") as file:
            content = json.load(file)
        return _imported(content)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        known = formats.identify(path) or formats.Kind("of another format, or damaged", "take another copy of it")
        known = formats.Kind("JSON that is damaged", "take another copy of it") if known.what == "JSON" else known
        raise ModelFileError(f"{path}: not JSON of RTNeural but {known.what}; {known.remedy}") from error
    except (ValueError, OverflowError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def _imported(content: Any) -> Imported:
    content = content if isinstance(content, dict) else {}
    if "state_dict" in content or any(name.endswith("weight_ih_l0") for name in content):
        raise ValueError("a state dict of PyTorch as JSON; make arrays of its lists, and give these to "
                         'lstmx.from_torch({name: numpy.array(values), ...}, head="step")')  # fmt: skip
    shape, entries = content.get("in_shape"), content.get("layers")
    if not isinstance(shape, list) or not isinstance(entries, list) or not shape:
        raise ValueError('not a model of RTNeural, which has "in_shape" and "layers"; give the JSON that its exporter '
                         "wrote")  # fmt: skip
    layers: list[Layer] = []
    parts: list[Part] = []
    notes: list[str] = []
    size = shape[-1]
    for k, entry in enumerate(entries):
        made, found = _layers(entry, f"layers[{k}]", size)
        parts.append(Part(f"layers[{k}]", found, ", ".join(f"{len(layers) + n}: {type(layer).__name__}"
                                                           for n, layer in enumerate(made))))  # fmt: skip
        layers += made
        size = next((layer.output_size() for layer in made if layer.input_size is not None), size)  # type: ignore[call-arg]
        if entry["type"] == "lstm" and len(entry.get("shape", ())) == 2:
            notes.append(f"layers[{k}]: the Keras model gave the output of the last step alone; RTNeural, and this "
                         "model, give one at each step")  # fmt: skip
        if not made:
            notes.append(f"layers[{k}]: of type {entry['type']!r:.40}, which RTNeural skips")
    if content.get("in_skip"):
        notes.append("in_skip: a player adds the input to the output; this model does not")
    if not layers:
        raise ValueError("there are no layers in it; give the JSON of a whole model")
    return Imported("RTNeural model", Sequential(layers), tuple(parts), tuple(notes))


def _layers(entry: dict[str, Any], name: str, size: int) -> tuple[list[Layer], str]:
    """(layers here, what it is there) of one entry, which is given `size` features."""
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise ValueError(f'{name}: not a layer, which has a "type"')
    kind, weights, activation = entry["type"], entry.get("weights", []), entry.get("activation", "")
    if not isinstance(weights, list):
        raise ValueError(f"{name}: its weights are no list")
    if activation not in (*ACTIVATIONS, "") or (kind == "lstm" and activation not in ("tanh", "")):
        raise ValueError(f"{name}: its activation is {activation!r:.40}, which RTNeural has not for a layer of type "
                         f"{kind!r:.40}, and would leave out")  # fmt: skip
    if kind == "activation":
        return ([Activation(activation)] if activation else []), f"activation {activation}"
    if kind == "unknown" and not weights:
        return [], "unknown"
    if kind not in ("lstm", *DENSE):
        raise ValueError(f"{name}: of type {kind!r:.40}; only lstm, {', '.join(DENSE)} and activation have a place in "
                         "an lstmx.Sequential")  # fmt: skip
    layer: Any = _lstm(weights, name) if kind == "lstm" else _dense(weights, name, activation)
    units = layer.hidden_size if kind == "lstm" else layer.output_size()
    if layer.input_size != size:
        raise ValueError(f"{name}: takes {layer.input_size} features, but what is before it gives {size!r:.40}")
    stated = entry.get("shape")
    if not isinstance(stated, list) or not stated or stated[-1] != units:
        raise ValueError(f"{name}: its shape is {stated!r:.60}, but its weights are those of {units} units")
    after = [Activation("elu")] if kind != "lstm" and activation == "elu" else []
    return [layer, *after], f"{kind} {size} -> {units}" + f", {activation}" * (kind != "lstm" and bool(activation))


def _lstm(weights: Any, name: str) -> LSTM:
    if len(weights) not in (2, 3):
        raise ValueError(f"{name}: has {len(weights)} weights, must have kernel, recurrent kernel and bias")
    kernel, recurrent = (_array(weights[k], 2, f"{name}, weights[{k}]") for k in (0, 1))
    hidden = len(recurrent)
    if kernel.shape[1] != 4 * hidden or recurrent.shape[1] != 4 * hidden:
        raise ValueError(f"{name}: kernels {kernel.shape} and {recurrent.shape}, must be (I, 4H) and (H, 4H)")
    lstm = LSTM(len(kernel), hidden, bias=len(weights) == 3)
    arrays = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T}
    if lstm.bias:
        arrays["bias_l0"] = _array(weights[2], 1, f"{name}, weights[2]")
    lstm.set_parameters(arrays)
    return lstm


def _dense(weights: Any, name: str, activation: Any) -> Dense:
    if len(weights) not in (1, 2):
        raise ValueError(f"{name}: has {len(weights)} weights, must have a kernel and a bias")
    kernel = _array(weights[0], 2, f"{name}, weights[0]")
    bias = _array(weights[1], 1, f"{name}, weights[1]") if len(weights) == 2 else np.zeros(kernel.shape[1])
    dense = Dense(*kernel.shape, None if activation in ("", "elu") else activation)  # type: ignore[arg-type, call-arg]
    dense.set_parameters({"weight": kernel.T, "bias": bias})
    return dense


def _array(value: Any, dimensions: int, name: str) -> Array:
    """Lists of numbers as an array, or an error."""
    rows = value if dimensions == 2 else [value]
    good = type(rows) is list and rows and all(type(row) is list and row and len(row) == len(rows[0]) for row in rows)
    if not good or not all(type(number) in (int, float) for row in rows for number in row):
        raise ValueError(f"{name}: must be {'lists of equal length' if dimensions == 2 else 'a list'} of numbers")
    found = np.array(value, np.float64)
    return validate.finite(name, found, "take another copy of the file")
