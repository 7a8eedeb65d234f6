"""Models of PyTorch: from modules, state dicts and files, and to state dicts and files."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx import storage, tensors
from lstmx.functional import messages, validate
from lstmx.interop.imported import finish
from lstmx.interop.torch import files as torch_files
from lstmx.interop.torch.chain import HEADS, Chain
from lstmx.interop.torch.modules import is_script
from lstmx.interop.torch.probe import NotRun
from lstmx.layers import LSTM, Dense, Embedding, FinalState, Masking, Reversed
from lstmx.model import Sequential
from lstmx.storage import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from lstmx._types import Array, Arrays, PathLike
    from lstmx.interop.imported import Imported
    from lstmx.layers.base import Layer

__all__ = ["from_torch", "read", "save_state_dict", "to_safetensors", "to_torch_state_dict"]


IN_FORWARD = ("mask", "merge", "reverse")  # what changes results, and no layer of PyTorch does
LARGEST_SHARE = 8  # times the size of a file: what its layers may come to, of half precision and tied weights


def from_torch(
    source: Any,
    *,
    prefix: str = "",
    head: str | None = None,
    activations: str | Sequence[Any] | Mapping[str, Any] | None = None,
    layers: Sequence[str] | Mapping[str, str] | None = None,
    ignore: str | Sequence[str] = (),
    check: bool = False,
) -> LSTM | Sequential:
    """A model of PyTorch: nn.LSTM, nn.LSTMCell, or a chain of them with Embedding, Linear, activations and Dropout.

    Parameters
    ----------
    source : module, state dict, str or path-like
        Of a dict the values are tensors or arrays. A path leads to what torch.save or torch.jit.save wrote (.pt, .pth,
        .ckpt, .bin), or to a safetensors file; PyTorch is not needed to read it, and nothing in it is run
        without `check`.
    prefix : str
        Take the part whose names begin so, such as "encoder.lstm.".
    head : {"step", "last", "mean", "final"}, optional
        What the layers after the LSTM read, which only the code of ``forward`` says: its output ``y`` at every step;
        ``y[:, -1]``, which becomes Last; ``y.mean(1)``, MeanPool; or ``h_n`` of the last layer, both directions
        concatenated, FinalState.
    activations : str, list or dict, optional
        What follows the Linear layers, which a state dict does not say: one for each of them, in order (a single one
        needs no list); or by the names of any layers. Each is None or what `lstmx.Activation` takes. Replaces
        activations that are modules.
    layers : list of str, or dict, optional
        The names of the layers in the order in which ``forward`` calls them, where names and sizes do not tell it.
        A dict has as values "embedding" or "linear", where that is not told by the shape, else None.
    ignore : str, or list of str
        Names of modules or tensors that are not needed; ``*`` stands for anything.
    check : bool
        Run a probe through PyTorch and the model, print the largest error, and raise where it is more than rounding.
        The forward of a module or of TorchScript is run: of a file only if you trust it. Of other files and state
        dicts the layers are rebuilt, which tells nothing about head, activations and order.

    Returns
    -------
    LSTM or Sequential
        An LSTM where the source has one and nothing else, and `head` is not given. float64 where any tensor is.

    Raises
    ------
    ModelFileError, OSError
        For a path that does not lead to such a model.
    ValueError, TypeError
        If there is anything that has no place in such a chain, saying what, and which argument helps.

    Warns
    -----
    UserWarning
        If a module computes something else than the model, which is always compared, on a copy in evaluation mode; or
        if a file or a state dict leaves something to guess.

    Notes
    -----
    Weights are taken as they are; the two biases are added. The padding_idx of an Embedding is taken from a module; a
    state dict does not have it. ``batch_first`` is a matter of the call: here x is always
    (N, T, I).
    """
    options: dict[str, Any] = {
        "prefix": prefix,
        "head": head,
        "activations": activations,
        "layers": layers,
        "ignore": ignore,
    }
    imported = read(source, **options)
    if not check and not isinstance(source, str | os.PathLike | dict):
        _compare(imported, told=imported.compare.ordered and (layers is None or activations is not None))
    model = finish(imported, check)
    if imported.compare.hooked:
        messages.warn(f"hooks of {', '.join(imported.compare.hooked)} were left out, of the model and of what it was "
                      "held against: if they change what layers take or give, it does not")  # fmt: skip
    return model


def read(
    source: Any,
    *,
    prefix: str = "",
    head: str | None = None,
    activations: str | Sequence[Any] | Mapping[str, Any] | None = None,
    layers: Sequence[str] | Mapping[str, str] | None = None,
    ignore: str | Sequence[str] = (),
) -> Imported:
    """As `from_torch`.

    Returns
    -------
    Imported
    """
    if head is not None:
        validate.choice("head", head, HEADS)
    if not isinstance(prefix, str):
        raise TypeError(f'prefix: got {type(prefix).__name__}, must be text, such as "encoder.lstm."')
    if isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read"):
        raise TypeError(f"source: got {type(source).__name__}, must be a path, a module or a state dict; give the path "
                        "of the file")  # fmt: skip
    if not isinstance(source, str | os.PathLike):
        kind = "PyTorch state dict" if isinstance(source, dict) else "PyTorch module"
        live = (lambda: source) if kind == "PyTorch module" else None
        with _file_of(source) if is_script(source) else contextlib.nullcontext(source) as content:
            return Chain(content, kind, prefix, head, activations, layers, ignore, live=live).imported()
    kind, content = torch_files.read(source)
    try:
        largest, live = LARGEST_SHARE * os.path.getsize(source), None
        if kind == "TorchScript archive":
            live = functools.partial(_load_script, os.path.abspath(source))
        return Chain(content, kind, prefix, head, activations, layers, ignore, largest, live).imported()
    except ModelFileError:
        raise
    except ValueError as error:
        raise ModelFileError(f"{os.fspath(source)}: {error}") from error


@contextlib.contextmanager
def _file_of(script: Any) -> Iterator[str]:
    """What the file of a module of TorchScript holds: only that tells the classes of its layers."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        path = os.path.join(folder, "script.pt")
        script.save(path)
        yield torch_files.read(path)[1]


def _load_script(path: PathLike) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path, map_location="cpu")


def _compare(imported: Imported, told: Any) -> None:
    """A warning where a module computes something else than the model, or cannot be asked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the module's forward
            imported.check()
    except NotRun as error:
        if not told and len(imported.parts) > 1:
            messages.warn(f"{str(error).removeprefix('check: ')}; so layers are taken in the order in which they were "
                          "registered, unless layers= says another")  # fmt: skip
    except ValueError as error:
        messages.warn(f"the model does not compute what the module does: {error}")


def to_torch_state_dict(
    model: LSTM | Dense | Embedding | Sequential,
    *,
    prefix: str = "",
    names: Sequence[str] | None = None,
    in_forward: str | Sequence[str] = (),
) -> dict[str, Tensor]:
    """The parameters of a model as a state dict of PyTorch, which ``load_state_dict`` takes.

    Parameters
    ----------
    model : LSTM, Dense, Embedding or Sequential
    prefix : str
        What all names begin with, such as "encoder.".
    names : list of str, optional
        Of a Sequential, the names in PyTorch of the layers that have parameters, in order; by default the numbers
        that they have in the model: "1.weight_ih_l0".
    in_forward : str, or list of str
        What no layer of PyTorch does, and your ``forward`` does itself: "mask" (Masking, or mask_padding of an
        Embedding; pack_padded_sequence), "merge" (the two directions, otherwise than side by side), "reverse" (the
        order of the steps). An error where the model has it and this does not say so.

    Returns
    -------
    dict of str to torch.Tensor
        ``bias_ih`` is the bias, ``bias_hh`` is 0.

    Raises
    ------
    ImportError
        If PyTorch is not installed: `to_safetensors` does without.
    ValueError, TypeError
        If a layer has an option that PyTorch has no layer for, or needs `in_forward`, naming it.

    Notes
    -----
    What has no parameters is a matter of ``forward``: activations, Last (``y[:, -1]``), MeanPool, FinalState, and what
    `in_forward` names.
    """
    found = _named(model, prefix, names, in_forward)
    try:
        import torch
    except ImportError as error:
        raise ImportError("to_torch_state_dict needs PyTorch (pip install torch); to_safetensors writes a file that "
                          "PyTorch reads by safetensors.torch.load_file, without it") from error  # fmt: skip
    return {name: torch.from_numpy(array.copy()) for name, array in found.items()}


def save_state_dict(
    model: LSTM | Dense | Embedding | Sequential,
    path: PathLike,
    *,
    prefix: str = "",
    names: Sequence[str] | None = None,
    in_forward: str | Sequence[str] = (),
) -> None:
    """Write what `to_torch_state_dict` gives by torch.save, which needs PyTorch.

    Parameters
    ----------
    model, prefix, names, in_forward : as in `to_torch_state_dict`
    path : str or path-like
    """
    state, file = to_torch_state_dict(model, prefix=prefix, names=names, in_forward=in_forward), io.BytesIO()
    import torch

    torch.save(state, file)
    storage.write_bytes(path, file.getbuffer())


def to_safetensors(
    model: LSTM | Dense | Embedding | Sequential,
    path: PathLike,
    *,
    prefix: str = "",
    names: Sequence[str] | None = None,
    in_forward: str | Sequence[str] = (),
) -> None:
    """Write the parameters of a model to a safetensors file, with the names and the layout of PyTorch.

    PyTorch reads it by ``module.load_state_dict(safetensors.torch.load_file(path))``, and `from_torch` does.

    Parameters
    ----------
    model, prefix, names, in_forward : as in `to_torch_state_dict`
    path : str or path-like

    Raises
    ------
    ValueError, TypeError, OSError
        As of `to_torch_state_dict` and of ``save``.

    See Also
    --------
    lstmx.save : also keeps what the model computes, for `lstmx.load`.

    Examples
    --------
    >>> import os, tempfile, lstmx
    >>> from lstmx.interop.torch import from_torch, to_safetensors
    >>> lstm = lstmx.LSTM(3, 4, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "lstm.safetensors")
    ...     to_safetensors(lstm, path)
    ...     again = from_torch(path)
    >>> bool((again.parameters()["weight_hh_l0"] == lstm.parameters()["weight_hh_l0"]).all())
    True
    """
    storage.write_bytes(path, *tensors.parts(_named(model, prefix, names, in_forward), {"format": "pt"}))


def _named(
    model: LSTM | Dense | Embedding | Sequential,
    prefix: str,
    names: Sequence[str] | None,
    in_forward: str | Sequence[str],
) -> Arrays:
    """Arrays by PyTorch's names."""
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: got {type(prefix).__name__}, must be text")
    in_forward = (in_forward,) if isinstance(in_forward, str) else tuple(in_forward)
    for word in in_forward:
        validate.choice("in_forward", word, IN_FORWARD)
    if isinstance(model, LSTM | Dense | Embedding):
        if names is not None:
            raise ValueError("names: are of the layers of a Sequential; this is one layer, give prefix=")
        _check_forward(model, "model", in_forward)
        return {prefix + name: array for name, array in _of_layer(model, "model")}
    if not isinstance(model, Sequential):
        raise TypeError(f"model: got {type(model).__name__}, must be an LSTM, Dense, Embedding or Sequential")
    numbers = [k for k, layer in enumerate(model.layers) if layer.store.arrays]
    if names is None:
        names = [str(k) for k in numbers]
    elif isinstance(names, str) or len(names) != len(numbers) or len(set(names)) < len(names):
        kinds = ", ".join(type(model.layers[k]).__name__ for k in numbers)
        raise ValueError(f"names: got {names!r}, must be {len(numbers)} different names, for {kinds}")
    for k, layer in enumerate(model.layers):
        _check_forward(layer, f"layers[{k}]", in_forward)
    return {
        f"{prefix}{name}.{end}": array
        for k, name in zip(numbers, names, strict=True) for end, array in _of_layer(model.layers[k], f"layers[{k}]")
    }  # fmt: skip


def _of_layer(layer: Any, name: str) -> Iterator[tuple[str, Array]]:
    """(end of the name, array) of every parameter, as PyTorch has them."""
    if type(layer) not in (LSTM, Dense, Embedding):
        raise TypeError(f"{name}: PyTorch has no layer like {type(layer).__name__}")
    if isinstance(layer, LSTM):
        _check_options(layer, name)
    for key, array in layer.parameters().items():
        if key.startswith("bias_l"):
            end = key.removeprefix("bias")
            yield "bias_ih" + end, array
            yield "bias_hh" + end, np.zeros_like(array)
        else:
            yield key, array


def _check_forward(layer: Layer, name: str, in_forward: Any) -> None:
    """An error for what changes results, and is neither a layer of PyTorch nor named by `in_forward`."""
    needed = {
        "mask": "Masking" if isinstance(layer, Masking) else
                "mask_padding" if isinstance(layer, Embedding) and layer.mask_padding else "",
        "reverse": "Reversed" if isinstance(layer, Reversed) else
                   "reverse=True" if isinstance(layer, LSTM) and layer.reverse else "",
        "merge": f'merge="{layer.merge}"' if isinstance(layer, LSTM | FinalState) and layer.merge != "concat" else "",
    }  # fmt: skip
    for word, what in needed.items():
        if what and word not in in_forward:
            raise ValueError(f"{name}: {what}, which no layer of PyTorch does; lstmx.save keeps it; if your forward "
                             f'does it itself, give in_forward=["{word}"]')  # fmt: skip


def _check_options(lstm: LSTM, name: str) -> None:
    """An error for an LSTM that computes what torch.nn.LSTM cannot."""
    training = {"input_dropout", "recurrent_dropout", "weight_dropout", "dropout_per_gate"}
    odd = [option for option in lstm.cell.config() if option not in training]
    odd += ["merge between layers"] * (lstm.merge != "concat" and lstm.num_layers > 1)
    if odd:
        raise ValueError(f"{name}: torch.nn.LSTM has no {odd[0]}; to_onnx, or lstmx.save, keep it")
