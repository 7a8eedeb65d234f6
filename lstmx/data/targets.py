"""Targets and weights in every form that `fit` accepts, given as packed rows."""

import numpy as np

from lstmx.functional import validate
from lstmx.functional.read import Sequences


class Targets:
    """Targets or weights beside sequences: one value per sequence or one per step, given as packed rows.

    Parameters
    ----------
    values : array (N, ...) or, per step, array (N, T, ...), list of arrays (T_n, ...), or all rows (S, ...) of such
        a list
    per_step : bool
    lengths : ndarray of int64 (N,), optional
        T_n, where the values per step are all rows.
    """

    def __init__(self, values, per_step, lengths=None):
        self.per_step = per_step
        self.values = None if per_step else values
        if not per_step:
            self.steps = None
        elif lengths is not None:
            self.steps = Sequences(values, lengths, form="list", starts=np.cumsum(lengths) - lengths)
        else:
            self.steps = (Sequences.joined if isinstance(values, list) else Sequences)(values)

    def are_classes(self):
        """Whether they are labels, or nothing but 0 and 1."""
        values = self.steps.x if self.per_step else self.values
        return values.dtype.kind == "i" or bool(np.isin(values, (0, 1)).all())

    def rows_of(self, chosen, context):
        """Rows of the batch, in the order of the model's output."""
        if self.per_step:
            return self.steps.rows_of(chosen, context)
        return self.values.take(context.sort(chosen), axis=0)


def read_targets(y, inputs, outputs, loss, per_step, dtype, name="y"):
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
    checked = []
    for label, array, lead in zip(_labels(name, arrays, inputs.ragged and per_step), arrays, shapes, strict=True):
        if array.dtype.kind not in "fiub":
            hint = ""
            if labels:
                validate.present(label, array)
                hint = f"; encode class names as integers: np.unique({name}, return_inverse=True)[1]"
            raise TypeError(f"{label}: got dtype {array.dtype}, must be numbers{hint}")
        if labels and array.shape == lead:
            checked.append(_check_labels(label, array, outputs))
        elif array.shape == lead and outputs == 1:
            checked.append(array.astype(dtype)[..., None])
        elif array.shape == (*lead, outputs):
            checked.append(array.astype(dtype, copy=False))
        elif labels and array.shape == (*lead, 1):
            checked.append(_check_labels(label, array[..., 0], outputs))
        else:
            what = "one per step" if per_step else "one per sequence"
            forms = [str(lead)] if labels or outputs == 1 else []
            forms.append(str((*lead, outputs)))
            classes = array.shape == lead and array.dtype.kind in "iu"
            hint = "; for class labels give loss='categorical_crossentropy'" if classes else ""
            raise ValueError(
                f"{label}: got shape {array.shape}, must be {' or '.join(forms)}: {what}, the model has {outputs} "
                f"output{'s' * (outputs > 1)}{hint}"
            )
        if loss == "binary_crossentropy" and array.size and (array.min() < 0 or array.max() > 1):
            hint = f"; write ({label} + 1) / 2" if set(np.unique(array).tolist()) == {-1, 1} else ""
            raise ValueError(f"{label}: got values from {array.min()} to {array.max()}, must be between 0 and 1" + hint)
    return Targets(checked if inputs.ragged and per_step else checked[0], per_step)


def _labels(name, arrays, many):
    return [f"{name}[{n}]" for n in range(len(arrays))] if many else [name]


def _target_arrays(name, y, inputs, per_step):
    """The arrays of a target, and the leading shape that each must have."""
    if per_step and inputs.ragged:
        if not isinstance(y, list | tuple) or len(y) != len(inputs):
            raise ValueError(f"{name}: must be a list of {len(inputs)} arrays, one per sequence, with a value per step")
        return [np.asarray(a) for a in y], [(n,) for n in inputs.lengths.tolist()]
    try:
        array = np.asarray(y)
    except ValueError as error:
        raise ValueError(f"{name}: not a rectangular array ({error})") from None
    if per_step:
        lead = inputs.x.shape[:2]
        if array.shape[:2] == lead:  # the padding is never read, so it may be anything
            padding = np.arange(lead[1]) >= inputs.lengths[:, None]
            if padding.any():
                array = array.copy()
                array[padding] = 0
        return [array], [lead]
    return [array], [(len(inputs),)]


def _check_labels(name, array, outputs):
    whole = array.astype(np.int64) if array.dtype.kind != "f" or np.isfinite(array).all() else None
    if whole is None or (whole != array).any():
        raise ValueError(f"{name}: class labels must be integers from 0 to {outputs - 1}")
    if whole.size and (whole.min() < 0 or whole.max() >= outputs):
        bad = whole.min() if whole.min() < 0 else whole.max()
        raise ValueError(
            f"{name}: got the label {bad}, must be between 0 and {outputs - 1}: the model has {outputs} outputs"
        )
    return whole


def read_weights(sample_weight, class_weight, targets, inputs, outputs, dtype, prefix=""):
    """`RowWeights` from what fit was given."""
    weights = None
    if sample_weight is not None:
        weights = _read_sample_weight(prefix + "sample_weight", sample_weight, targets, inputs, dtype)
    return RowWeights(weights, read_class_weight(class_weight, targets, inputs, outputs), dtype)


def _read_sample_weight(name, value, targets, inputs, dtype):
    count = len(inputs)
    ragged = targets.per_step and inputs.ragged and isinstance(value, list | tuple) and any(np.ndim(w) for w in value)
    if ragged:
        if len(value) != count:
            raise ValueError(f"{name}: got {len(value)} arrays, must be {count}, one per sequence")
        pairs = zip(value, inputs.lengths.tolist(), strict=True)
        arrays = [validate.shaped(f"{name}[{n}]", w, (steps,), dtype, "(T_n,)") for n, (w, steps) in enumerate(pairs)]
        weights = Targets(arrays, True)
    else:
        array = validate.real_array(name, value, dtype)
        per_step = targets.per_step and not inputs.ragged and array.shape == inputs.x.shape[:2]
        if not per_step and array.shape != (count,):
            raise ValueError(f"{name}: got shape {array.shape}, must be ({count},), one weight per sequence")
        if per_step:  # the padding's weights are never read
            array = np.where(np.arange(array.shape[1]) < inputs.lengths[:, None], array, 0)
        weights = Targets(array, per_step)
    values = weights.steps.x if weights.per_step else weights.values
    if values is not None and not ((values >= 0) & (values < np.inf)).all():
        raise ValueError(f"{name}: weights must be finite and at least 0")
    return weights


def read_class_weight(class_weight, targets, inputs, outputs):
    """An array of one weight per class, from a dict or "balanced": N / (classes * count of the class)."""
    if class_weight is None:
        return None
    values = targets.steps.x if targets.per_step else targets.values
    if values.dtype.kind != "i" and not (values.shape[-1] == 1 and np.isin(values, (0, 1)).all()):
        raise ValueError("class_weight: needs integer class labels, or 0 and 1 for one output")
    if targets.per_step and not inputs.ragged:
        values = values[np.arange(values.shape[1]) < inputs.lengths[:, None]]
    labels, classes = values.reshape(-1).astype(np.int64), max(outputs, 2)
    if isinstance(class_weight, str):
        validate.choice("class_weight", class_weight, ("balanced",))
        count = np.bincount(labels, minlength=classes)
        return len(labels) / (np.maximum(count, 1) * max((count > 0).sum(), 1))
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

    def __init__(self, sample, per_class, dtype):
        self.sample, self.per_class, self.dtype = sample, per_class, dtype
        self._ones = np.ones(0, dtype)

    def rows_of(self, chosen, context, targets, per_step):
        """Weights (rows,) in the order of the model's output."""
        if self.sample is None and self.per_class is None:
            if len(self._ones) != len(targets):
                self._ones = np.ones(len(targets), self.dtype)
                self._ones.flags.writeable = False
            return self._ones
        weight = np.ones(len(targets), self.dtype)
        if self.sample is not None and self.sample.per_step == per_step:
            weight *= self.sample.rows_of(chosen, context)
        elif self.sample is not None:  # one per sequence, for every step of it
            weight *= self.sample.values[chosen[context.places[0]]]
        if self.per_class is not None:
            weight *= self.per_class[targets.reshape(-1).astype(np.int64)].astype(self.dtype)
        return weight
