"""Targets and weights in every form that `fit` accepts, given as packed rows.

Arrays stay what they are: they are checked some elements at a time, and converted batch by batch, so that a memory map
is never in memory as a whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import validate
from lstmx.functional.read import Sequences

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lstmx._types import Array, Context, DType, Ints


BLOCK = 2**18  # elements checked at once


def blocks(array: Any, lengths: Any = None) -> Iterator[Any]:
    """An array (N, ...) some elements at a time; with `lengths`, of (N, T, ...) the steps alone that there are."""
    if lengths is None:
        size = max(1, BLOCK // max(math.prod(array.shape[1:]), 1))
        for n in range(0, len(array), size):
            yield array[n : n + size]
        return
    steps = array.shape[1]
    width = max(1, BLOCK // max(math.prod(array.shape[2:]), 1))
    size = max(1, width // max(steps, 1))
    for n in range(0, len(array), size):
        for t in range(0, steps, width):
            part, ends = array[n : n + size, t : t + width], lengths[n : n + size, None]
            yield part[np.arange(t, t + part.shape[1]) < ends]


class Targets:
    """Targets or weights beside sequences: one value per sequence or one per step, given as packed rows.

    Parameters
    ----------
    values : array (N, ...) or, per step, `Sequences`, list of arrays (T_n, ...), or all rows (S, ...) of such a list
    per_step : bool
    lengths : ndarray of int64 (N,), optional
        T_n, where the values per step are all rows.
    dtype : numpy.dtype, optional
        Of the rows; by default that of the values. Integers are labels.
    """

    def __init__(self, values: Any, per_step: bool, lengths: Any = None, dtype: DType | None = None) -> None:
        self.per_step = per_step
        self.values: Any = None
        self.steps: Any = None
        if not per_step:
            self.values = values
        elif isinstance(values, Sequences):
            self.steps = values
        elif lengths is not None:
            self.steps = Sequences(values, lengths, dtype, form="list", starts=np.cumsum(lengths) - lengths)
        else:
            self.steps = Sequences.joined(values, dtype)
        self.dtype = self.steps.dtype if per_step else values.dtype if dtype is None else dtype

    def blocks(self) -> Iterator[Any]:
        """All values but those of padding, of the type of the rows, some at a time."""
        padded = self.per_step and not self.steps.ragged
        for part in blocks(self.steps.x if self.per_step else self.values, self.steps.lengths if padded else None):
            with np.errstate(over="ignore"):
                yield part.astype(self.dtype, copy=False)

    def are_classes(self) -> bool:
        """Whether they are labels, or nothing but 0 and 1."""
        return self.dtype.kind == "i" or all(np.isin(part, (0, 1)).all() for part in self.blocks())

    def of(self, chosen: Ints) -> Any:
        """The values of these sequences (n, ...), of the type of the rows."""
        with np.errstate(over="ignore"):  # beyond float32: infinite, which training reports
            return np.ascontiguousarray(self.values[chosen], self.dtype)

    def rows_of(self, chosen: Ints, context: Context) -> Array:
        """Rows of the batch, in the order of the model's output."""
        return self.steps.rows_of(chosen, context) if self.per_step else self.of(context.sort(chosen))


def read_targets(
    y: Any, inputs: Sequences, outputs: int, loss: str, per_step: bool, dtype: DType, name: str = "y"
) -> Targets:
    """Validated `Targets` (rows, O), or (rows,) of labels for the categorical loss."""
    if y is None:
        raise TypeError(f"{name}: got None, must be the targets")
    labels = loss == "categorical_crossentropy"
    if labels and outputs == 1:
        raise ValueError(
            f"{name}: categorical_crossentropy needs one output per class, the model has 1 output; for two classes use "
            "binary_crossentropy"
        )
    arrays, shapes = _target_arrays(name, y, inputs, per_step)
    lengths = inputs.lengths if per_step and not inputs.ragged else None  # padding is never read: it may be anything
    checked, kind = [], dtype
    for label, array, lead in zip(_labels(name, arrays, inputs.ragged and per_step), arrays, shapes, strict=True):
        if array.dtype.kind not in "fiub":
            hint = ""
            if labels:
                validate.present(label, array)
                hint = f"; encode class names as integers: np.unique({name}, return_inverse=True)[1]"
            raise TypeError(f"{label}: got dtype {array.dtype}, must be numbers{hint}")
        kind = dtype
        if labels and array.shape in (lead, (*lead, 1)):
            array, kind = array.reshape(lead), np.dtype(np.int64)
            _check_labels(label, blocks(array, lengths), outputs)
        elif array.shape == lead and outputs == 1:
            array = array[..., None]
        elif array.shape != (*lead, outputs):
            what = "one per step" if per_step else "one per sequence"
            forms = [str(lead)] if labels or outputs == 1 else []
            forms.append(str((*lead, outputs)))
            classes = array.shape == lead and array.dtype.kind in "iu"
            hint = "; for class labels give loss='categorical_crossentropy'" if classes else ""
            raise ValueError(
                f"{label}: got shape {array.shape}, must be {' or '.join(forms)}: {what}, the model has {outputs} "
                f"output{'s' * (outputs > 1)}{hint}"
            )
        if loss == "binary_crossentropy":
            _check_range(label, array, lengths)
        checked.append(array)
    if not per_step:
        return Targets(checked[0], False, dtype=kind)
    if inputs.ragged:
        return Targets(checked, True, dtype=kind)
    return Targets(Sequences(checked[0], inputs.lengths, kind), True)


def _check_range(name: str, array: Any, lengths: Any) -> None:
    low, high = np.inf, -np.inf
    for part in blocks(array, lengths):
        if part.size:
            low, high = min(low, np.fmin.reduce(part, None)), max(high, np.fmax.reduce(part, None))
    if low < 0 or high > 1:
        signs = all(np.isin(part, (-1, 1)).all() for part in blocks(array, lengths))
        hint = f"; write ({name} + 1) / 2" if signs else ""
        raise ValueError(f"{name}: got values from {low} to {high}, must be between 0 and 1{hint}")


def _labels(name: str, arrays: Any, many: Any) -> Any:
    return [f"{name}[{n}]" for n in range(len(arrays))] if many else [name]


def _target_arrays(name: str, y: Any, inputs: Sequences, per_step: bool) -> Any:
    """The arrays of a target, and the leading shape that each must have."""
    if per_step and inputs.ragged:
        if not isinstance(y, list | tuple) or len(y) != len(inputs):
            raise ValueError(f"{name}: must be a list of {len(inputs)} arrays, one per sequence, with a value per step")
        return [np.asarray(a) for a in y], [(n,) for n in inputs.lengths.tolist()]
    try:
        array = np.asarray(y)
    except ValueError as error:
        raise ValueError(f"{name}: not a rectangular array ({error})") from None
    return [array], [inputs.x.shape[:2] if per_step else (len(inputs),)]


def _check_labels(name: str, parts: Any, outputs: int) -> None:
    for part in parts:
        whole = part.astype(np.int64) if part.dtype.kind != "f" or np.isfinite(part).all() else None
        if whole is None or (whole != part).any():
            raise ValueError(f"{name}: class labels must be integers from 0 to {outputs - 1}")
        if whole.size and (whole.min() < 0 or whole.max() >= outputs):
            bad = whole.min() if whole.min() < 0 else whole.max()
            raise ValueError(
                f"{name}: got the label {bad}, must be between 0 and {outputs - 1}: the model has {outputs} outputs"
            )


def read_weights(
    sample_weight: Any,
    class_weight: Any,
    targets: Targets,
    inputs: Sequences,
    outputs: int,
    dtype: DType,
    prefix: str = "",
) -> RowWeights:
    """`RowWeights` from what fit was given."""
    weights = None
    if sample_weight is not None:
        weights = _read_sample_weight(prefix + "sample_weight", sample_weight, targets, inputs, dtype)
    return RowWeights(weights, read_class_weight(class_weight, targets, outputs), dtype)


def _read_sample_weight(name: str, value: Any, targets: Any, inputs: Sequences, dtype: DType) -> Any:
    count = len(inputs)
    ragged = targets.per_step and inputs.ragged and isinstance(value, list | tuple) and any(np.ndim(w) for w in value)
    if ragged:
        if len(value) != count:
            raise ValueError(f"{name}: got {len(value)} arrays, must be {count}, one per sequence")
        pairs = zip(value, inputs.lengths.tolist(), strict=True)
        arrays = [validate.shaped(f"{name}[{n}]", w, (steps,), dtype, "(T_n,)") for n, (w, steps) in enumerate(pairs)]
        weights = Targets(arrays, True)
    else:
        array = validate.real_array(name, value)
        per_step = targets.per_step and not inputs.ragged and array.shape == inputs.x.shape[:2]
        if not per_step and array.shape != (count,):
            raise ValueError(f"{name}: got shape {array.shape}, must be ({count},), one weight per sequence")
        weights = Targets(Sequences(array, inputs.lengths, dtype) if per_step else array, per_step, dtype=dtype)
    if not all(((part >= 0) & (part < np.inf)).all() for part in weights.blocks()):
        raise ValueError(f"{name}: weights must be finite and at least 0")
    return weights


def read_class_weight(class_weight: Any, targets: Any, outputs: int) -> Any:
    """An array of one weight per class, from a dict or "balanced": N / (classes * count of the class)."""
    if class_weight is None:
        return None
    if targets.dtype.kind != "i" and not (outputs == 1 and targets.are_classes()):
        raise ValueError("class_weight: needs integer class labels, or 0 and 1 for one output")
    classes = max(outputs, 2)
    if isinstance(class_weight, str):
        validate.choice("class_weight", class_weight, ("balanced",))
        count = np.zeros(classes, np.int64)
        for part in targets.blocks():
            count += np.bincount(part.reshape(-1).astype(np.int64), minlength=classes)
        return count.sum() / (np.maximum(count, 1) * max((count > 0).sum(), 1))
    if not isinstance(class_weight, dict):
        raise TypeError(
            f'class_weight: got {type(class_weight).__name__}, must be a dict of label to weight, or "balanced"'
        )
    weights = np.ones(classes)
    for label, weight in class_weight.items():
        if validate.count("class_weight", label, 0) >= classes:
            raise ValueError(f"class_weight: got the label {label}, must be between 0 and {classes - 1}")
        weights[label] = validate.number("class_weight", weight, 0)
    return weights


class RowWeights:
    """One weight per row of a batch: the sample's times its class's."""

    def __init__(self, sample: Any, per_class: Any, dtype: DType) -> None:
        self.sample, self.per_class, self.dtype = sample, per_class, dtype
        self._ones = np.ones(0, dtype)

    @property
    def are_ones(self) -> bool:
        """Whether every row weighs 1."""
        return self.sample is None and self.per_class is None

    def rows_of(self, chosen: Ints, context: Context, targets: Any, per_step: bool) -> Array:
        """Weights (rows,) in the order of the model's output."""
        if self.are_ones:
            if len(self._ones) != len(targets):
                self._ones = np.ones(len(targets), self.dtype)
                self._ones.flags.writeable = False
            return self._ones
        weight = np.ones(len(targets), self.dtype)
        if self.sample is not None and self.sample.per_step == per_step:
            weight *= self.sample.rows_of(chosen, context)
        elif self.sample is not None:  # one per sequence, for every step of it
            weight *= self.sample.of(chosen[context.places[0]])
        if self.per_class is not None:
            weight *= self.per_class[targets.reshape(-1).astype(np.int64)].astype(self.dtype)
        return weight
