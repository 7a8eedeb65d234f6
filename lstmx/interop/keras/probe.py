"""A probe through a model of Keras and the model that was made of it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.interop.keras import config as kc
from lstmx.layers import Embedding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lstmx._types import Array
    from lstmx.model import Sequential


SEQUENCES, STEPS = 3, 11
_OWN = "keras", "keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints", "keras.models"
_OWN_KINDS = {("keras.src.ops.numpy", kind) for kind in kc.MASK_OPERATIONS}
_OWN_BELOW = "keras.src.models.", "keras.src.engine.", "tf_keras.src.engine.", "keras.src.dtype_policies."


def probe(
    ours: Sequential, half: bool, original: Any, config: Any, version: str | None, names: Any
) -> tuple[Array, Array]:
    """(our outputs, theirs) of random sequences.

    Parameters
    ----------
    ours : Sequential
    half : bool
        Whether Keras computes in half precision.
    original : str, or model or layer of Keras
        A path is loaded by Keras.
    config : dict
    version : str or None
        Of the Keras that wrote a file.
    names : list of str or None
        The layers that were taken alone.
    """
    if names is not None:
        raise ValueError("check: it was not the whole model that was read; leave out layers")
    if half:
        raise ValueError("check: Keras computes in half precision here, whose rounding hides what a check could find")
    theirs = _load(original, config, version) if isinstance(original, str) else original
    x = _input(ours, getattr(theirs, "input_shape", None))
    restore = _reset(theirs)
    try:
        found = theirs(x)
        found = found.detach().cpu() if hasattr(found, "detach") else found  # where Keras runs on PyTorch
    finally:
        for variable, value in restore:
            variable.assign(value)
    return ours.predict(x), np.asarray(found)


def _input(ours: Sequential, shape: Any) -> Array:
    """Random sequences, with masked steps where the model has any; of the sizes that the original wants."""
    rng = np.random.default_rng(0)
    wanted = list(shape) if isinstance(shape, tuple) and len(shape) > 1 else [None, None]
    count, steps = wanted[0] or SEQUENCES, wanted[1] or STEPS
    first = ours.layers[0]
    if isinstance(first, Embedding):
        x = rng.integers(first.num_embeddings, size=(count, steps))
        return np.where(rng.random(x.shape) < 0.2, 0, x)
    x = rng.normal(size=(count, steps, ours.input_size)).astype(ours.dtype)  # type: ignore[arg-type]
    if first.masks:
        x[rng.random((count, steps)) < 0.3] = first.value  # type: ignore[attr-defined]
    return x


def _reset(model: Any) -> list[Any]:
    """Begin stateful layers anew; what they held, [(variable, value)]."""
    held = [(variable, variable.numpy()) for layer in _below(model) if getattr(layer, "stateful", False)
            for variable in _flat(getattr(layer, "states", None)) if hasattr(variable, "assign")]  # fmt: skip
    for variable, value in held:
        variable.assign(np.zeros_like(value))
    return held


def _below(layer: Any) -> list[Any]:
    """A layer or model, and the layers in it."""
    inside = [getattr(layer, name, None) for name in ("forward_layer", "backward_layer")]
    inside = [one for one in [*inside, *(getattr(layer, "layers", None) or [])] if one is not None]
    return [layer, *(below for one in inside for below in _below(one))]


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in _flat(part)] if isinstance(value, list | tuple) else [value]


def _load(path: Any, config: Any, version: str | None) -> Any:
    """What Keras loads from a file that names nothing but its own classes."""
    for kind, module in _named(config):
        own = module is None or module in _OWN or module.startswith(_OWN_BELOW)
        own = own or (module, kind) in _OWN_KINDS
        if not own or kind.startswith("?") or kind in ("Lambda", "function"):
            kind = kind.removeprefix("?")
            raise ValueError(f"check: the file names {kind!r:.80} of {module!r:.80}, which is never loaded; load the "
                             "model yourself, and give it in place of the file")  # fmt: skip
    if version is not None and version.startswith("2."):  # Keras 3 would load it, with another hard_sigmoid
        from tf_keras.saving import load_model
    else:
        try:
            from keras.saving import load_model
        except ImportError as error:
            raise ImportError(f"check: Keras cannot be loaded ({error}){_other_backend()}") from error
    return load_model(path, compile=False, safe_mode=True)


def _other_backend() -> str:
    """What to do where Keras is installed, but not what it computes with."""
    there = [name for name in ("torch", "jax") if importlib.util.find_spec("keras") and importlib.util.find_spec(name)]
    return f"; set the environment variable KERAS_BACKEND={there[0]}, which is installed" if there else ""


def _named(config: Any) -> Iterator[tuple[Any, Any]]:
    """(class, module) of everything that a configuration names."""
    if isinstance(config, dict):
        if "class_name" in config:
            kind, module = kc.class_of(config, "check")[0], config.get("module")
            yield kind, module if isinstance(module, str | None) else "?"
        for key, value in config.items():
            if key not in ("compile_config", "build_config"):
                yield from _named(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _named(value)
