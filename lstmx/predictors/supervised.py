"""Classes and numbers from sequences."""

import functools
import re

import numpy as np

from lstmx.functional import validate
from lstmx.predictors.base import FINITE, POSITIVE, Predictor

# By the kind of an array's type, what its labels are in JSON.
_LABELS = {"b": bool, "i": int, "u": int, "f": int | float, "U": str, "O": str | int | float}
_MOST_CHARACTERS = 2**22  # of an array of labels, which has as many for each as the longest needs


class Classifier(Predictor):
    """A class for every sequence.

    Attributes
    ----------
    classes_ : ndarray (K,)
    """

    fields = (*Predictor.fields, "multilabel", "classes", "classes_dtype")

    def __init__(self, config, arrays, model):
        super().__init__(config, arrays, model)
        activation = "softmax" if self.outputs(config) > 1 and not config["multilabel"] else "sigmoid"
        if getattr(model.layers[-1], "activation", None) != activation:
            raise ValueError(f"model: must end with {activation}, got {model!r}")

    @functools.cached_property
    def classes_(self):
        """The classes, in the order of the outputs."""
        return np.array(self.config["classes"], self.config["classes_dtype"])

    @classmethod
    def check(cls, config):
        super().check(config)
        validate.flag("multilabel", config["multilabel"])
        classes, dtype = config["classes"], config["classes_dtype"]
        least = 1 if config["multilabel"] else 2
        if not isinstance(classes, list) or len(classes) < least or not _are_labels(classes, dtype):
            raise ValueError(f"classes: must be a list of at least {least} different labels of the type classes_dtype")
        if config["multilabel"] and classes != list(range(len(classes))):
            raise ValueError("classes: must be 0, 1, 2, .. for multi-label targets")

    @classmethod
    def outputs(cls, config):
        """Outputs that the model must have: one for two classes."""
        count = len(config["classes"])
        return 1 if count == 2 and not config["multilabel"] else count

    def predict_proba(self, X):
        """Probabilities.

        Parameters
        ----------
        X : array (n, T, F), list of arrays (T_i, F), or (n, T) for one feature

        Returns
        -------
        ndarray (n, K)
            One column a class, in the order of ``classes_``; for multi-label models the probability of each label.
        """
        found = self.model.predict_sequences(self.sequences(self.read(X)))
        return np.concatenate([1 - found, found], axis=1) if found.shape[1] < len(self.classes_) else found

    def predict_log_proba(self, X):
        """Logarithms of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X):
        """The most probable class of every sequence (n,); for multi-label models 0 or 1 for every label (n, K)."""
        return self.decide(self.predict_proba(X))

    def decide(self, probabilities):
        """Classes from probabilities (n, K)."""
        if self.config["multilabel"]:
            return (probabilities > 0.5).astype(np.int64)
        return self.classes_[probabilities.argmax(axis=1)]


def _are_labels(classes, dtype):
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


class Regressor(Predictor):
    """One number or several for every sequence, or for every step."""

    fields = (*Predictor.fields, "outputs", "single", "target")

    @classmethod
    def check(cls, config):
        super().check(config)
        validate.count("outputs", config["outputs"])
        validate.flag("single", config["single"])
        validate.choice("target", config["target"], ("sequence", "step"))
        if config["single"] and config["outputs"] != 1:
            raise ValueError("single: must be False for more than one output")

    @classmethod
    def per_step(cls, config):
        """Whether the model must give an output for every step."""
        return config["target"] == "step"

    @classmethod
    def outputs(cls, config):
        """Outputs that the model must have."""
        return config["outputs"]

    @classmethod
    def own_shapes(cls, config):
        yield from super().own_shapes(config)
        if config["standardize"]:
            yield "y_mean", (config["outputs"],), "float64", FINITE
            yield "y_scale", (config["outputs"],), "float64", POSITIVE

    def predict(self, X):
        """Predictions.

        Parameters
        ----------
        X : array (n, T, F), list of arrays (T_i, F), or (n, T) for one feature

        Returns
        -------
        ndarray (n,) or (n, O)
            With per-step targets (n, T) or (n, T, O), NaN where X is padding, or a list of (T_i,) or (T_i, O).
        """
        data = self.read(X)
        found = self.model.predict_sequences(self.sequences(data))
        if self.config["target"] == "step" and data.ragged:
            return [self.finish(a) for a in found]
        found = self.finish(found)
        if self.config["target"] == "step":
            found[np.arange(found.shape[1]) >= data.lengths[:, None]] = np.nan
        return found

    def finish(self, rows):
        """Predictions in the units of the targets, from outputs of the model."""
        if self.config["standardize"]:
            rows = (rows * self.arrays["y_scale"] + self.arrays["y_mean"]).astype(rows.dtype)
        return rows[..., 0] if self.config["single"] else rows
