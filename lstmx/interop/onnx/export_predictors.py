"""What estimators have learnt, as ONNX graphs: one function for each kind of `lstmx.predictors.Step`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstmx import predictors
from lstmx.data import panel
from lstmx.interop.onnx import export as onnx_export
from lstmx.interop.onnx import export_lstm as onnx_export_lstm
from lstmx.interop.onnx.export import Flow
from lstmx.interop.onnx.writer import integer, integers
from lstmx.layers import Last, MeanPool
from lstmx.predictors.transforms import FUNCTIONS

if TYPE_CHECKING:
    from lstmx._types import Array
    from lstmx.interop.onnx.writer import Graph


class Output(NamedTuple):
    """A value that a graph gives, its type and its shape, in which a str is a free size."""

    value: str
    dtype: Any
    shape: tuple[Any, ...]


def add(g: Graph, step: Any, x: str, flat: bool) -> dict[str, Output]:
    """Nodes that do what a step does.

    Parameters
    ----------
    g : Graph
    step : predictors.Step
    x : str
        In the form that the step was fitted with.
    flat : bool
        Whether it has no axis of features: (n, T).

    Returns
    -------
    dict of str to Output
    """
    if type(step) not in _STEPS:
        reason = _REFUSED.get(type(step), "it is none of lstmx; save it in another way")
        raise TypeError(f"model: {type(step).__name__} cannot be exported: {reason}")
    return _STEPS[type(step)](g, step, x, flat)


# Scaling. As in lstmx it is done in float64, or in the type of the arrays, and rounded once.


def _scaler(g: Graph, step: Any, x: str, flat: bool) -> dict[str, Output]:
    arrays, shape = step.arrays, (-1, 1) if step.config["layout"] == "NCT" and not flat else (-1,)
    y = g.cast(x, np.float64)
    for name, op in (("mean", "Sub"), ("scale", "Div")):
        if name in arrays:
            y = g.add(op, y, g.constant(arrays[name].reshape(shape), name))
    sizes = ("N", "T") if flat else _sizes(step)
    return {"y": Output(g.cast(y, g.dtype), g.dtype, sizes)}


def _column_scaler(g: Graph, step: Any, x: str, flat: bool) -> dict[str, Output]:
    y = x
    for name, op in (("subtract", "Sub"), ("divide", "Div"), ("multiply", "Mul"), ("add", "Add")):
        if name in step.config["operations"]:
            array = step.arrays[name]
            array = array.astype(g.dtype) if step.config["rounded"] else array
            wide = np.promote_types(array.dtype, g.dtype)
            y = g.add(op, g.cast(y, wide), g.constant(array.astype(wide), name))
            y = g.cast(y, g.dtype)
    if step.config["clip"] is not None:
        y = g.add("Clip", y, *map(g.number, step.config["clip"]))
    return {"y": Output(y, g.dtype, ("N", step.config["columns"]))}


# Networks


def _sizes(step: Any) -> tuple[Any, ...]:
    features = step.config["features"]
    return ("N", features, "T") if step.config["layout"] == "NCT" else ("N", "T", features)


def _read(g: Graph, step: Any, x: str, flat: bool) -> Flow:
    """The `Flow` of standardised sequences; NaN at the end is padding."""
    if step.config.get("missing") == "impute":
        raise ValueError("missing: a graph does not fill missing values; fit with missing=\"error\" to sequences "
                         "without them, such as SequenceImputer gives")  # fmt: skip
    x = g.unsqueeze(x, 2) if flat else x
    x = g.add("Transpose", x, perm=[2, 0, 1] if step.config["layout"] == "NCT" and not flat else [1, 0, 2])
    there = g.reduce("ReduceMax", g.cast(g.add("Not", g.add("IsNaN", x)), np.int64), 2)
    numbers = g.unsqueeze(g.add("Add", g.arange(g.size(x, 0)), integer(1)), 1)
    lengths = g.reduce("ReduceMax", g.add("Mul", there, numbers), 0)
    affine = panel.affine(step.arrays, g.dtype)
    if affine is not None:
        x = g.add("Sub", x, g.constant(affine[0], "x_mean"))
        x = g.add("Mul", x, g.constant(affine[1], "x_scale_inverse"))
    return onnx_export.cleaned(g, Flow(x, lengths, clean=False))


def _network(g: Graph, model: Any, flow: Flow) -> tuple[str, Flow]:
    """(outputs (N, O) or (N, T, O), the flow that they are of)."""
    outer, g.scope = g.scope, f"{g.scope}{'.' * bool(g.scope)}model"
    after, _ = onnx_export.run(g, model.layers, flow)
    g.scope = outer
    after = replace(after, value=_with_nan_of(g, after, flow))
    return (after.value if after.pooled else g.add("Transpose", after.value, perm=[1, 0, 2])), after


def _with_nan_of(g: Graph, after: Flow, flow: Flow) -> str:
    """What came after a flow, NaN in the sequences in which that has one: the operator LSTM of onnxruntime has none."""
    zero = g.reduce("ReduceSum", g.reduce("ReduceSum", g.scaled(flow.value, 0), 2), 0, keep=True)
    return g.add("Add", after.value, g.add("Transpose", zero, perm=[1, 0]) if after.pooled else g.unsqueeze(zero, 2))


def _padded(g: Graph, flow: Flow, value: Any, axes: int) -> str:
    """value (N, T, ..), of so many axes, with NaN at the padding."""
    there = g.add("Transpose", onnx_export_lstm.running(g, flow.value, flow.lengths), perm=[1, 0])
    there = g.unsqueeze(there, *range(2, axes)) if axes > 2 else there
    return g.add("Where", there, value, g.number(np.nan))


def _model(g: Graph, step: Any) -> Any:
    return step.model.astype(g.dtype)


def _labels(step: Any) -> Array:
    """The classes as a constant can hold them: strings, or int64 as skl2onnx has all numbers."""
    labels = step.classes_.tolist()
    if all(isinstance(label, str) for label in labels):
        return np.array(labels, object)
    if not all(isinstance(label, int | float) and label == int(label) and abs(label) < 2**63 for label in labels):
        raise ValueError(f"classes: {labels} are neither strings nor whole numbers of int64, which labels of a graph "
                         "must be; fit with other labels, such as strings: y.astype(str)")  # fmt: skip
    return np.array(labels, np.int64)


def _classifier(g: Graph, step: Any, x: str, flat: bool) -> dict[str, Output]:
    classes, config = _labels(step), step.config
    found, flow = _network(g, _model(g, step), _read(g, step, x, flat))
    lead = ("N", "T") if config["target"] == "step" else ("N",)
    if config["multilabel"]:
        label = g.cast(g.add("Greater", found, g.number(0.5)), np.int64)
        shape = (*lead, len(classes))
    else:
        if len(classes) == 2:
            found = g.add("Concat", g.add("Sub", g.number(1), found), found, axis=-1)
        label = g.add("Gather", g.constant(classes, "classes"), g.add("ArgMax", found, axis=-1, keepdims=0))
        shape = lead
    if config["target"] == "step":
        found = _padded(g, flow, found, 3)
    return {"label": Output(label, classes.dtype if not config["multilabel"] else np.int64, shape),
            "probabilities": Output(found, g.dtype, (*lead, len(classes)))}  # fmt: skip


def _regressor(g: Graph, step: Any, x: str, flat: bool) -> dict[str, Output]:
    config = step.config
    y, flow = _network(g, _model(g, step), _read(g, step, x, flat))
    if config["standardize"]:
        y = g.add("Mul", g.cast(y, np.float64), g.constant(step.arrays["y_scale"], "y_scale"))
        y = g.cast(g.add("Add", y, g.constant(step.arrays["y_mean"], "y_mean")), g.dtype)
    shape = ("N", "T") if config["target"] == "step" else ("N",)
    if config["target"] == "step":
        y = _padded(g, flow, y, 3)
    if config["single"]:
        return {"y": Output(g.add("Squeeze", y, integers(-1)), g.dtype, shape)}
    return {"y": Output(y, g.dtype, (*shape, config["outputs"]))}


def _zeros_before(g: Graph, value: str) -> str:
    """A step of zeros, and then the value (T, N, F)."""
    sizes = g.shape(1, g.size(value, 1), g.size(value, 2))
    return g.add("Concat", g.add("Expand", g.number(0), sizes), value, axis=0)


def _transformer(g: Graph, step: Any, x: str, flat: bool) -> dict[str, Output]:
    flow, lstm = _read(g, step, x, flat), _model(g, step).layers[0]
    longer = replace(flow, value=_zeros_before(g, flow.value), lengths=g.add("Add", flow.lengths, integer(1)))
    after, _ = onnx_export.run(g, [lstm], longer)
    seen = replace(flow, value=g.cut(after.value, 1, np.iinfo(np.int64).max, 0), clean=True)
    pooling = Last() if step.config["pooling"] == "last" else MeanPool()
    after, _ = onnx_export.run(g, [pooling], seen)
    return {"y": Output(_with_nan_of(g, after, flow), g.dtype, ("N", lstm.output_size()))}


def _anomaly_detector(g: Graph, step: Any, x: str, flat: bool) -> dict[str, Output]:
    arrays, config = step.arrays, step.config
    flow = _read(g, step, x, flat)
    behind = replace(flow, value=_zeros_before(g, g.cut(flow.value, 0, -1, 0)))
    predicted = _network(g, _model(g, step), behind)[1].value
    errors = g.cast(g.add("Sub", predicted, flow.value), np.float64)
    d = g.add("Sub", errors, g.constant(arrays["location"], "location"))
    weighed = g.add("MatMul", d, g.constant(arrays["precision"], "precision"))
    score = g.add("Neg", g.reduce("ReduceSum", g.add("Mul", weighed, d), 2))  # (T, N)
    there = onnx_export_lstm.running(g, flow.value, flow.lengths)

    def padded(value: Any) -> str:
        return g.add("Where", there, score, np.array(value, np.float64))

    if config["aggregate"] == "mean":
        sample = g.add("Div", g.reduce("ReduceSum", padded(0.0), 0), g.cast(flow.lengths, np.float64))
    else:
        sample = g.reduce("ReduceMin", padded(np.inf), 0)
    decision = g.add("Sub", sample, np.array(config["offset"], np.float64))
    label = g.add("Where", g.add("GreaterOrEqual", decision, np.array(0.0)), integer(1), integer(-1))
    steps = g.add("Transpose", padded(np.nan), perm=[1, 0])
    return {"label": Output(label, np.int64, ("N",)), "scores": Output(decision, np.float64, ("N",)),
            "step_scores": Output(steps, np.float64, ("N", "T"))}  # fmt: skip


def _pipeline(g: Graph, step: Any, x: str, flat: bool) -> dict[str, Output]:
    outer = g.scope
    for name, one in step.steps:
        g.scope = f"{outer}{'.' * bool(outer)}{name}"
        found = add(g, one, x, flat)
        if "y" in found:
            x, flat = found["y"].value, len(found["y"].shape) == 2
    g.scope = outer
    return found


# Forecasts, in float64 but for the network


def forecast(g: Graph, step: Any, history: str, exogenous: str | None) -> Output:
    """Nodes that do what `Forecaster.predict` does for the horizon of `fit`.

    Parameters
    ----------
    g : Graph
    step : predictors.Forecaster
    history : str
        (n, K, O), float64.
    exogenous : str or None
        (n, K + horizon, E), float64.

    Returns
    -------
    Output
    """
    config, arrays, block = step.config, step.arrays, step.config["block"]
    if config["horizon"] > block:
        raise ValueError(f'horizon: a recursive forecast of {config["horizon"]} steps feeds its results back, which a '
                         'graph cannot; fit with strategy="direct", or horizon=1')  # fmt: skip
    if config["transform"] == FUNCTIONS:
        raise ValueError('transform: functions of Python cannot be exported; fit with transform "log" or "boxcox"')
    if config["missing"] == "impute":
        raise ValueError("missing: a graph does not fill missing values; fit with missing=\"error\" to series without "
                         "them")  # fmt: skip
    power = arrays.get("y_lambda")
    levels = [_transformed(g, config["transform"], power, history)]
    for lag in config["lags"]:
        last = levels[-1]
        levels.append(g.add("Sub", g.cut(last, lag, np.iinfo(np.int64).max, 1), g.cut(last, 0, -lag, 1)))
    mean, scale = (g.constant(arrays[name][:, None], name) for name in ("y_mean", "y_scale"))
    rows = g.add("Div", g.add("Sub", levels[-1], mean), scale)
    if config["exogenous"]:
        rows = g.add("Concat", rows, _ahead(g, step, exogenous), axis=2)
    rows = g.add("Transpose", g.cast(rows, g.dtype), perm=[1, 0, 2])
    found, _ = _network(g, _model(g, step), Flow(rows))
    steps = g.reshape(g.cast(found, np.float64), (0, block, config["features"]))
    steps = g.add("Add", g.add("Mul", steps, scale), mean)
    for lag, level in zip(reversed(config["lags"]), reversed(levels[:-1]), strict=True):
        steps = _integrated(g, steps, level, lag, block, config["features"])
    steps = g.cut(steps, 0, config["horizon"], 1)
    y = g.cast(_restored(g, config["transform"], power, steps), g.dtype)
    lead = "N" if config["series"] == 1 else config["series"]
    return Output(y, g.dtype, (lead, config["horizon"], config["features"]))


def _transformed(g: Graph, name: str | None, power: Any, y: Any) -> str:
    if name is None:
        return y
    logarithm = g.add("Log", y)
    if name == "log":
        return logarithm
    return g.add("Where", power[:, None] == 0, logarithm, g.add("Pow", y, power[:, None]))


def _restored(g: Graph, name: str | None, power: Any, z: Any) -> str:
    if name is None:
        return z
    grown = g.add("Exp", z)
    if name == "log":
        return grown
    power = power[:, None]
    root = g.add("Pow", g.add("Max", z, np.array(0.0)), 1 / np.where(power == 0, 1, power))
    return g.add("Where", power == 0, grown, root)


def _ahead(g: Graph, step: Any, exogenous: str | None) -> str:
    """In the row of each step the scaled variables (n, window, B * E) of the next B steps."""
    arrays, window, block = step.arrays, step.config["window"], step.config["block"]
    x = g.add("Sub", exogenous, g.constant(arrays["x_mean"], "x_mean"))
    x = g.add("Div", x, g.constant(arrays["x_scale"], "x_scale"))
    first = step.kept(step.config) - window  # of the rows that the window has
    return g.add("Concat", *(g.cut(x, first + k, first + k + window, 1) for k in range(1, block + 1)), axis=2)


def _integrated(g: Graph, steps: str, level: Any, lag: int, block: int, features: int) -> str:
    """What `lstmx.predictors.forecaster.integrate` does for one lag: each step is added to that `lag` steps before."""
    ends = g.unsqueeze(g.cut(level, -lag, np.iinfo(np.int64).max, 1), 1)
    rounds = -(-block // lag)
    if rounds * lag > block:
        steps = g.add("Pad", steps, integers(0, 0, 0, 0, rounds * lag - block, 0))
    steps = g.add("CumSum", g.reshape(steps, (0, rounds, lag, features)), integer(1))
    steps = g.reshape(g.add("Add", steps, ends), (0, rounds * lag, features))
    return g.cut(steps, 0, block, 1)


_STEPS = {
    predictors.Scaler: _scaler,
    predictors.ColumnScaler: _column_scaler,
    predictors.Classifier: _classifier,
    predictors.Regressor: _regressor,
    predictors.Transformer: _transformer,
    predictors.AnomalyDetector: _anomaly_detector,
    predictors.Pipeline: _pipeline,
}
_REFUSED = {
    predictors.Imputer: "a graph does not fill missing values; fill them before, and export the steps after it",
    predictors.Forecaster: "it takes series, not sequences; export it by itself",
}
