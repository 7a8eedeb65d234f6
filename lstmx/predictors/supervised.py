"""Classes and numbers from sequences."""

from __future__ import annotations

import functools
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lstmx.functional import validate
from lstmx.predictors.base import FINITE, POSITIVE, Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, ArrayShape, Config
    from lstmx.data import panel
    from lstmx.model import Sequential


# By the kind of an array's type, what its labels are in JSON.
_LABELS = {"b": bool, "i": int, "u": int, "f": int | float, "U": str, "O": str | int | float}
_MOST_CHARACTERS = 2**22  # of an array of labels, which has as many for each as the longest needs


class _Supervised(Predictor):
    """One output for every sequence, or with the target "step" for every step."""

    fields: ClassVar[tuple[str, ...]] = (*Predictor.fields, "target")

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        validate.choice("target", config["target"], ("sequence", "step"))

    @classmethod
    def per_step(cls, config: Config) -> bool:
        """Whether the model must give an output for every step."""
        return config["target"] == "step"

    def _apply(self, X: ArrayLike | panel.Panel, finish: Callable[[Array], Array]) -> Array | Any:
        """``finish`` of what the model gives: an array, in which padding is NaN, or a list."""
        data = self.read(X)
        found = self.model.predict_sequences(self.sequences(data))
        if isinstance(found, list):
            return [finish(a) for a in found]
        found = finish(found)
        if self.config["target"] == "step":
            found[np.arange(found.shape[1]) >= data.lengths[:, None]] = np.nan
        return found


class Classifier(_Supervised):
    """A class for every sequence, or for every step.

    Attributes
    ----------
    classes_ : ndarray (K,)
    """

    fields: ClassVar[tuple[str, ...]] = (*_Supervised.fields, "multilabel", "classes", "classes_dtype")
    defaults = MappingProxyType({"target": "sequence"})

    def __init__(self, config: Config, arrays: Arrays, model: Sequential) -> None:
        super().__init__(config, arrays, model)
        activation = "softmax" if self.outputs(config) > 1 and not config["multilabel"] else "sigmoid"
        if getattr(model.layers[-1], "activation", None) != activation:
            raise ValueError(f"model: must end with {activation}, got {model!r}")

    @functools.cached_property
    def classes_(self) -> Array:
        """The classes, in the order of the outputs."""
        return np.array(self.config["classes"], self.config["classes_dtype"])

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        validate.flag("multilabel", config["multilabel"])
        classes, dtype = config["classes"], config["classes_dtype"]
        least = 1 if config["multilabel"] else 2
        if not isinstance(classes, list) or len(classes) < least or not _are_labels(classes, dtype):
            raise ValueError(f"classes: must be a list of at least {least} different labels of the type classes_dtype")
        if config["multilabel"] and classes != list(range(len(classes))):
            raise ValueError("classes: must be 0, 1, 2, .. for multi-label targets")

    @classmethod
    def outputs(cls, config: Config) -> int:
        """Outputs that the model must have: one for two classes."""
        count = len(config["classes"])
        return 1 if count == 2 and not config["multilabel"] else count

    def predict_proba(self, X: ArrayLike | panel.Panel) -> Array | Any:
        """Probabilities.

        Parameters
        ----------
        X : array (n, T, F), list of arrays (T_i, F), or (n, T) for one feature

        Returns
        -------
        ndarray (n, K)
            One column a class, in the order of ``classes_``; for multi-label models the probability of each label.
            With labels per step (n, T, K), NaN where X is padding, or for a list a list of (T_i, K).
        """
        return self._apply(X, self._probabilities)

    def _probabilities(self, outputs: Array) -> Array:
        several = outputs.shape[-1] == len(self.classes_)
        return outputs if several else np.concatenate([1 - outputs, outputs], axis=-1)

    def predict_log_proba(self, X: ArrayLike) -> Array | Any:
        """Logarithms of `predict_proba`, in its form."""
        found = self.predict_proba(X)
        with np.errstate(divide="ignore"):
            return [np.log(a) for a in found] if isinstance(found, list) else np.log(found)

    def predict(self, X: ArrayLike) -> Array | Any:
        """The most probable class.

        Parameters
        ----------
        X : array (n, T, F), list of arrays (T_i, F), or (n, T) for one feature

        Returns
        -------
        ndarray (n,), or for multi-label models 0 or 1 for every label (n, K)
            With labels per step (n, T) or (n, T, K) if X is an array without padding, else a list of (T_i,) or
            (T_i, K): there is no label for padding.
        """
        data = self.read(X)
        found = self.predict_proba(data)
        if self.config["target"] == "step" and (data.ragged or data.lengths.min() < found.shape[1]):
            return [self.decide(a[:n]) for a, n in zip(found, data.lengths.tolist(), strict=True)]
        return self.decide(found)

    def decide(self, probabilities: Array) -> Array:
        """Classes from probabilities (.., K)."""
        if self.config["multilabel"]:
            return (probabilities > 0.5).astype(np.int64)
        return self.classes_[probabilities.argmax(axis=-1)]


def _are_labels(classes: list[Any], dtype: str) -> bool:
    """Whether an array of `dtype`, such as "<i8", holds these labels exactly; and not much else: a file may ask for
    strings of a billion characters.
    """
    if not isinstance(dtype, str) or not re.fullmatch(r"\|b1|\|[iu]1|[<>]([iu][248]|f[248]|U[0-9]{1,6})|\|O", dtype):
        return False
    if not all(isinstance(c, _LABELS[dtype[1]]) for c in classes) or len(set(classes)) < len(classes):
        return False
    if not all(np.isfinite(c) for c in classes if isinstance(c, float)):
        return False
    if dtype[1] == "U" and len(classes) * int(dtype[2:]) > _MOST_CHARACTERS:
        return False
    with np.errstate(over="ignore"):
        return np.array(classes, dtype).tolist() == classes


class Regressor(_Supervised):
    """One number or several for every sequence, or for every step."""

    fields: ClassVar[tuple[str, ...]] = (*_Supervised.fields, "outputs", "single")

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        validate.count("outputs", config["outputs"])
        validate.flag("single", config["single"])
        if config["single"] and config["outputs"] != 1:
            raise ValueError("single: must be False for more than one output")

    @classmethod
    def outputs(cls, config: Config) -> int:
        """Outputs that the model must have."""
        return config["outputs"]

    @classmethod
    def own_shapes(cls, config: Config) -> Iterable[ArrayShape]:
        yield from super().own_shapes(config)
        if config["standardize"]:
            yield "y_mean", (config["outputs"],), "float64", FINITE
            yield "y_scale", (config["outputs"],), "float64", POSITIVE

    def predict(self, X: ArrayLike) -> Array | Any:
        """Predictions.

        Parameters
        ----------
        X : array (n, T, F), list of arrays (T_i, F), or (n, T) for one feature

        Returns
        -------
        ndarray (n,) or (n, O)
            With per-step targets (n, T) or (n, T, O), NaN where X is padding, or a list of (T_i,) or (T_i, O).
        """
        return self._apply(X, self.finish)

    def finish(self, rows: Array) -> Array:
        """Predictions in the units of the targets, from outputs of the model."""
        if self.config["standardize"]:
            rows = (rows * self.arrays["y_scale"] + self.arrays["y_mean"]).astype(rows.dtype)
        return rows[..., 0] if self.config["single"] else rows
