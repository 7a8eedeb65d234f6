"""Estimators and pipelines as ONNX files: by `to_onnx`, and as steps of what skl2onnx converts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx import layers, predictors
from lstmx.interop.onnx import export as onnx_export
from lstmx.interop.onnx import export_predictors as onnx_predictors
from lstmx.interop.onnx.writer import LEAST_OPSET, Graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from lstmx._types import Array
    from lstmx.interop.onnx.writer import Graph


def to_predictor(model: Any) -> Any:
    """The predictor of a fitted estimator or Pipeline, or of what `lstmx.load` gave."""
    found = model if isinstance(model, predictors.Step) else None
    if found is None and "sklearn" in sys.modules:  # else it cannot be an estimator
        from lstmx.estimators import to_stored

        found = to_stored(model, note=False)
    if not isinstance(found, predictors.Step):
        more = "; export its best_estimator_" if hasattr(model, "best_estimator_") else ""
        in_sequential = isinstance(model, layers.Layer) and not isinstance(model, layers.RNN)  # which is not exported
        more = more or "; put it into a Sequential" * in_sequential
        more = more or "; export its to_sequential()" * hasattr(model, "to_sequential")
        raise TypeError(f"model: got {type(model).__name__}, must be an LSTM, a Sequential, a fitted estimator of "
                        f"lstmx or a scikit-learn Pipeline of such estimators and scalers{more}")  # fmt: skip
    return found


def of_predictor(predictor: Any, opset: int, dtype: Any) -> ModelProto:
    """The ONNX model of a predictor, in a type, by default its own."""
    steps = [one for _, one in predictor.steps] if isinstance(predictor, predictors.Pipeline) else [predictor]
    if dtype is None:
        dtype = next((one.dtype for one in reversed(steps) if isinstance(one, predictors.Predictor)), np.float64)
    g = Graph(opset, dtype)
    if isinstance(predictor, predictors.Forecaster):
        inputs, found = _forecaster(g, predictor)
    else:
        shape = _form(steps)
        inputs = [onnx_export.info("x", g.dtype, shape, "sequences; NaN at the end is padding")]
        found = onnx_predictors.add(g, predictor, "x", len(shape) == 2)
    g.scope, outputs = "", []
    for name, output in found.items():
        g.add("Identity", output.value, outputs=[name])
        outputs.append(onnx_export.info(name, output.dtype, output.shape))
    return onnx_export.finished(g, repr(predictor), inputs, outputs)


def _form(steps: Sequence[Any]) -> tuple[Any, ...]:
    """The shape of the input of steps that follow each other."""
    for step in steps:
        if isinstance(step, predictors.ColumnScaler):
            return "N", step.config["columns"]
        if isinstance(step, predictors.Predictor):
            if step.config["steps"] is not None:
                return "N", "T"
            break
    config = steps[0].config
    return ("N", config["features"], "T") if config["layout"] == "NCT" else ("N", "T", config["features"])


def _forecaster(g: Graph, predictor: Any) -> tuple[Any, dict[str, Any]]:
    config, kept = predictor.config, predictor.kept(predictor.config)
    lead = "N" if config["series"] == 1 else config["series"]
    given = {"history": (lead, kept, config["features"])}
    if config["exogenous"]:
        given["exogenous"] = lead, kept + config["horizon"], config["exogenous"]
    inputs = [onnx_export.info(name, np.float64, shape, "float64") for name, shape in given.items()]
    return inputs, {"y": onnx_predictors.forecast(g, predictor, *given, *[None] * (2 - len(given)))}


def probe(predictor: Any, session: Any, rng: np.random.Generator) -> tuple[Any, Any]:  # type: ignore[return]
    """(ours, onnxruntime's) outputs of random sequences, or of the series that a forecaster holds."""
    if isinstance(predictor, predictors.Forecaster):
        return _probe_forecaster(predictor, session, rng)
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 3 if size == "N" else 7 for size in given.shape]
    x = rng.normal(size=shape).astype(np.float64 if "double" in given.type else np.float32)
    methods = {"probabilities": "predict_proba", "scores": "decision_function", "y": "predict"}
    for output in session.get_outputs():
        if output.name in methods:
            method = methods[output.name]
            method = method if hasattr(predictor, method) else "transform"
            return getattr(predictor, method)(x), session.run([output.name], {"x": x})[0]


def _probe_forecaster(predictor: Any, session: Any, rng: np.random.Generator) -> tuple[Array, Array]:
    config, history = predictor.config, predictor.transform.inverse(predictor.arrays["history"])
    feeds = {"history": history}
    future: Any = None
    if config["exogenous"]:
        future = rng.normal(size=(len(history), config["horizon"], config["exogenous"]))
        feeds["exogenous"] = np.concatenate([predictor.arrays["history_x"], future], axis=1)
        future = list(future) if config["many"] else future[0]
    found = np.asarray(predictor.predict(None, future))
    return found.reshape(len(history), config["horizon"], -1), session.run(["y"], feeds)[0]


# skl2onnx


def register() -> None:
    """Tell skl2onnx how to convert the estimators of lstmx, so that ``skl2onnx.to_onnx`` and ``convert_sklearn`` take
    pipelines that hold them beside those of scikit-learn.

    Give the form of X: ``initial_types=[("X", FloatTensorType([None, None, F]))]``. `FloatTensorType` computes in
    float32, `DoubleTensorType` in float64. LSTMClassifier has the options ``zipmap`` and ``output_class_labels`` of
    scikit-learn's classifiers; outputs are those of `lstmx.to_onnx`, but for the scores of steps.

    Raises
    ------
    ImportError
        If skl2onnx or scikit-learn is not installed.

    Examples
    --------
    ::

        lstmx.interop.onnx.estimators.register()
        types = [("X", FloatTensorType([None, None, 3]))]
        model = skl2onnx.to_onnx(make_pipeline(SequenceScaler(), LSTMClassifier()).fit(X, y), initial_types=types,
                                 options={"zipmap": False})
    """
    from skl2onnx import update_registered_converter

    from lstmx import estimators

    for name in ("LSTMClassifier", "LSTMRegressor", "LSTMTransformer", "LSTMAnomalyDetector", "SequenceScaler"):
        options = None
        if name == "LSTMClassifier":
            options = {"zipmap": [True, False, "columns"], "nocl": [False], "output_class_labels": [False, True]}
        update_registered_converter(getattr(estimators, name), f"Lstmx{name}", _shapes, _convert, options=options)


def _built(operator: Any, opset: int, scope: Any = "") -> tuple[Graph, dict[str, Any]]:
    """(graph, outputs) of an operator of skl2onnx."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    (given,), model = operator.inputs, operator.raw_operator
    kinds = {FloatTensorType: np.float32, DoubleTensorType: np.float64}
    if type(given.type) not in kinds:
        raise TypeError(f"{given.onnx_name}: got {type(given.type).__name__}, must be FloatTensorType or "
                        f"DoubleTensorType for a {type(model).__name__}")  # fmt: skip
    if len(given.type.shape) not in (2, 3):
        raise ValueError(f"{given.onnx_name}: got shape {given.type.shape}, must be that of X, such as [None, None, "
                         "features] for sequences")  # fmt: skip
    g = Graph(opset, kinds[type(given.type)], scope)
    found = onnx_predictors.add(g, to_predictor(model), given.onnx_name, len(given.type.shape) == 2)
    return g, found


def _shapes(operator: Any) -> None:
    """Set the types of the outputs."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType

    kinds = {"f4": FloatTensorType, "f8": DoubleTensorType, "i8": Int64TensorType, "O": StringTensorType}
    _, found = _built(operator, LEAST_OPSET)
    for output, one in zip(operator.outputs, found.values(), strict=False):
        shape = [size if isinstance(size, int) else None for size in one.shape]
        output.type = kinds[np.dtype(one.dtype).str[1:]](shape)


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes."""
    from onnx import TensorProto, helper

    opset, model = container.target_opset, operator.raw_operator
    if opset < LEAST_OPSET:
        raise ValueError(f"target_opset: got {opset}, must be at least {LEAST_OPSET} for a {type(model).__name__}")
    g, found = _built(operator, opset, scope.get_unique_operator_name(type(model).__name__))
    zipped = type(model).__name__ == "LSTMClassifier" and container.get_options(model, {"zipmap": True})["zipmap"]
    if zipped and len(found["label"].shape) > 1:
        raise ValueError('zipmap: several labels of a sequence have no dict; set options={"zipmap": False}')
    for constant in g.constants:
        strings = constant.data_type == TensorProto.STRING
        container.add_initializer(constant.name, constant.data_type, list(constant.dims),
                                  list(constant.string_data) if strings else constant)  # fmt: skip
    for output, one in zip(operator.outputs, found.values(), strict=False):
        g.add("Identity", one.value, outputs=[output.onnx_name])
    for node in g.nodes:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        container.add_node(node.op_type, list(node.input), list(node.output), name=node.name, **attributes)
