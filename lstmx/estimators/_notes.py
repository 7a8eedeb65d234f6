"""What an estimator says of itself in a file: its class, its parameters, its attributes, as JSON."""

from __future__ import annotations

import inspect
import json
import os
import re
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lstmx import predictors, storage
from lstmx.functional.cell import Cell
from lstmx.functional.messages import warn
from lstmx.storage import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lstmx._types import Config, PathLike


_MOST_BYTES = 2**26  # of an array of a note; a file may ask for strings of a billion characters
_ATTRIBUTE = re.compile(r"[a-z](\w*[a-z0-9])?_")  # names of what a fit has found


class FileMixin:
    """`save` and `load` of an estimator, whose ``_stored()`` is what a file holds of it."""

    def save(self, path: PathLike) -> None:
        """Write what was learnt, and the estimator's parameters, to one safetensors file, atomically.

        `lstmx.load` reads it and gives a predictor with the same methods and the same bits, without scikit-learn;
        the `load` of this class gives an estimator. A random_state that is a generator is not saved, but None.

        Parameters
        ----------
        path : str or path-like
        """
        self._stored().with_note(describe(self)).save(path)

    @classmethod
    def load(cls, path: PathLike) -> Self:
        """The fitted estimator that `save` wrote: it predicts the same bits, scores, clones, and can be fitted again.

        What the optimiser remembers is not in the file: with warm_start or `partial_fit` training goes on from the
        weights alone. (`checkpoint` keeps all.)

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        estimator of this class

        Raises
        ------
        OSError
            As `lstmx.load`.
        ValueError
            If the file is none of such an estimator, or damaged, saying what is wrong.

        Examples
        --------
        >>> import os, tempfile, numpy as np
        >>> from lstmx import SequenceScaler
        >>> scaler = SequenceScaler(with_std=False).fit(np.ones((2, 3, 1)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     scaler.save(os.path.join(folder, "scaler.safetensors"))
        ...     SequenceScaler.load(os.path.join(folder, "scaler.safetensors")).mean_
        array([1.])
        """
        stored = storage.load(path, False)
        if not isinstance(stored, predictors.Step) or isinstance(stored, predictors.Pipeline):
            raise ModelFileError(f"{path}: holds a {type(stored).__name__}, not a {cls.__name__}; lstmx.load reads it")
        if stored.note is None:
            raise ModelFileError(f"{path}: holds a {type(stored).__name__} without the parameters of an estimator, as "
                                 "earlier versions write it; lstmx.load reads it")  # fmt: skip
        try:
            return _restored(cls, stored, json.loads(stored.note), path)
        except ModelFileError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ModelFileError(f"{path}: what it says of its estimator cannot be read ({error!r}); take another copy "
                                 "of it, or read what was learnt by lstmx.load") from error  # fmt: skip

    def _private(self) -> Config:
        """What a note holds beside parameters and attributes: plain values by name."""
        return {}

    def _restore(self, stored: Any, private: Config) -> None:
        """Take what a file holds of a fitted estimator, and what `_private` gave."""


def describe(estimator: Any) -> str | None:
    """The note of an estimator; None, with a warning, if it is too long for a file."""
    parameters = estimator.get_params(deep=False)
    if not isinstance(parameters.get("random_state", 0), int | np.integer):
        parameters["random_state"] = None
    attributes = {name: value for name, value in vars(estimator).items()
                  if _ATTRIBUTE.fullmatch(name)}  # fmt: skip
    note = {"class": type(estimator).__name__} | {
        what: {name: encode(value, name) for name, value in sorted(values.items())}
        for what, values in (
            ("parameters", parameters),
            ("attributes", attributes),
            ("private", estimator._private()),
        )
    }
    text = json.dumps(note, sort_keys=True, separators=(",", ":"))
    if len(text) > storage.LARGEST_NOTE:
        warn(f"path: the attributes of the estimator take {len(text)} characters, more than {storage.LARGEST_NOTE}: "
             "the file holds what was learnt, for lstmx.load alone; pickle the estimator to keep all")  # fmt: skip
        return None
    return text


def _restored(cls: type[Any], stored: Any, note: Any, path: PathLike) -> Any:
    if note["class"] != cls.__name__:
        raise ModelFileError(f"{path}: holds a {note['class']}, not a {cls.__name__}; {note['class']}.load reads it")
    unknown = sorted(set(note["parameters"]) - set(inspect.signature(cls).parameters))
    if unknown:
        raise ModelFileError(f"{path}: has the parameters {unknown}, which this version of {cls.__name__} does not "
                             "know: upgrade lstmx")  # fmt: skip
    estimator = cls(**{name: decode(value) for name, value in note["parameters"].items()})
    for name, value in note["attributes"].items():
        if not _ATTRIBUTE.fullmatch(name):
            raise ValueError(name)
        setattr(estimator, name, decode(value))
    estimator._restore(stored, {name: decode(value) for name, value in note["private"].items()})
    return estimator


def encode(value: Any, name: str) -> Any:
    """A value as JSON holds it; what is no plain JSON is a dict with one key, its kind."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and np.isfinite(value)):
        return value
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, list):
        return [encode(v, name) for v in value]
    if isinstance(value, tuple) and value and all(map(callable, value)):
        names = ", ".join(getattr(function, "__name__", repr(function)) for function in value)
        raise TypeError(f"{name}: functions ({names}) cannot be saved to a file, as it holds no code; pickle the "
                        "estimator, or give what has a name")  # fmt: skip
    if isinstance(value, tuple):
        return {"tuple": [encode(v, name) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, name), encode(v, name)] for k, v in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufUO":
        return {"array": encode(value.tolist(), name), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, Cell):
        return {"cell": value.config()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{name}: {value!r} cannot be saved, only what JSON holds, arrays and lstmx.Cell; set it to "
                    "None, or pickle the estimator")  # fmt: skip


def decode(value: Any) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"array", "dtype", "shape"}:
        own, dtype = np.array(decode(value["array"]), object), np.dtype(value["dtype"])
        if dtype.kind not in "biufUO" or own.size * dtype.itemsize > _MOST_BYTES:
            raise ValueError(f"an array of {own.size} x {dtype}")
        return own.reshape(value["shape"]).astype(dtype)
    ((kind, own),) = value.items()
    kinds: dict[str, Callable[[Any], Any]] = {
        "float": float,
        "tuple": lambda own: tuple(decode(own)),
        "dict": lambda own: {decode(k): decode(v) for k, v in own},
        "cell": Cell.from_config,
    }
    return kinds[kind](own)
