"""Estimators, pipelines and forecasters as ONNX: in onnxruntime the predictions of lstmx, also by way of skl2onnx."""

import numpy as np
import pytest
from estimators_data import LABELS, RAGGED, fit
from forecasts import fit as fit_series
from forecasts import generator, walk
from forecasts import make as make_forecaster
from numpy.testing import assert_allclose, assert_array_equal
from onnx_sessions import assert_close, session
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from tolerances import PRECISION

import lstmx
from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMRegressor,
    LSTMTransformer,
    SequenceImputer,
    SequenceScaler,
    predictors,
)
from lstmx.interop.onnx.export import to_onnx

onnx = pytest.importorskip("onnx")

SMALL = {"hidden_size": 4, "max_iter": 2, "random_state": 0}
TYPES = {"float32": np.float32, "float64": np.float64}


def padded(dtype, sequences=RAGGED):
    """Sequences of other scales as one array with NaN behind each."""
    x = np.full((len(sequences), max(map(len, sequences)), sequences[0].shape[1]), np.nan, dtype)
    for row, one in zip(x, sequences, strict=True):
        row[: len(one)] = one * [3, 0.2] + [5, -1]
    return x


def run(made, x):
    """Outputs by name."""
    running = session(made)
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, {running.get_inputs()[0].name: x}), strict=True))


# Estimators


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", ["NTC", "NCT"])
@pytest.mark.parametrize("labels", [LABELS, LABELS == "a", np.searchsorted(["a", "b", "c"], LABELS) + 7,
                                    np.where(LABELS == "a", "yes", "no"), LABELS.astype(object)],
                         ids=["strings", "bool", "ints", "two", "objects"])  # fmt: skip
def test_classifiers(labels, layout, dtype):
    x = padded(dtype)
    x = x.swapaxes(1, 2) if layout == "NCT" else x
    clf = fit(LSTMClassifier(layout=layout, bidirectional=True, pooling="final", **SMALL), x, labels)
    found = run(to_onnx(clf), x)
    assert list(found) == ["label", "probabilities"]
    assert_close(found["probabilities"], clf.predict_proba(x), dtype)
    assert_array_equal(found["label"], clf.predict(x))
    assert found["label"].dtype == (object if labels.dtype.kind in "UO" else np.int64)


@pytest.mark.parametrize("pooling", ["last", "mean", "final"])
@pytest.mark.parametrize("standardize", [True, False])
def test_regressors(pooling, standardize):
    x = padded("float32")
    for y in (x[:, 0, 0], np.nan_to_num(x[:, :2, 1]) * [1, 100] + 50):
        model = fit(LSTMRegressor(pooling=pooling, standardize=standardize, **SMALL), x, y)
        assert_close(run(to_onnx(model), x)["y"], model.predict(x))


@pytest.mark.parametrize("dtype", TYPES)
def test_targets_of_steps(dtype):
    x = padded(dtype)
    y = np.nan_to_num(x[:, :, 0])
    there = ~np.isnan(x[:, :, 0])
    regressor = fit(LSTMRegressor(target="step", **SMALL), x, y)
    classifier = fit(LSTMClassifier(target="step", **SMALL), x, np.where(y > 5, "high", "low"))
    several = fit(LSTMClassifier(target="step", **SMALL), x, np.stack([y > 5, y > 6, y > 2], axis=2).astype(int))
    assert_close(run(to_onnx(regressor), x)["y"], regressor.predict(x), dtype)
    for model in (classifier, several):
        found = run(to_onnx(model), x)
        assert_close(found["probabilities"], model.predict_proba(x), dtype)
        for row, keep, wanted in zip(found["label"], there, model.predict(x), strict=True):
            assert_array_equal(row[keep], wanted)


def test_several_labels_of_a_sequence():
    x = padded("float32")
    model = fit(LSTMClassifier(**SMALL), x, np.stack([LABELS == "a", LABELS != "b"], axis=1).astype(int))
    found = run(to_onnx(model), x)
    assert_close(found["probabilities"], model.predict_proba(x))
    assert_array_equal(found["label"], model.predict(x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_transformers(pooling, dtype):
    x = padded(dtype)
    model = fit(LSTMTransformer(pooling=pooling, **SMALL), x)
    assert_close(run(to_onnx(model), x)["y"], model.transform(x), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_anomaly_detectors(aggregate, dtype):
    x = padded(dtype)
    model = fit(LSTMAnomalyDetector(aggregate=aggregate, **SMALL), x)
    found = run(to_onnx(model), x)
    assert list(found) == ["label", "scores", "step_scores"]
    # a score is a square, of float32 errors where these are such
    assert_allclose(found["scores"], model.decision_function(x), **PRECISION)
    assert_allclose(found["step_scores"], model.score_steps(x), **PRECISION)
    assert_array_equal(found["label"], model.predict(x))
    assert (found["label"] == -1).any() and found["scores"].dtype == np.float64


@pytest.mark.parametrize("dtype", TYPES)
def test_tables_of_one_feature(dtype):
    x = padded(dtype)[:, :, 0]
    model = fit(LSTMClassifier(**SMALL), x, LABELS)
    for opset in (14, 17, 20):
        assert_close(run(to_onnx(model, opset=opset), x)["probabilities"], model.predict_proba(x), dtype)


def test_a_model_in_another_type():
    x = padded("float64")
    model = fit(LSTMClassifier(**SMALL), x, LABELS)
    made = to_onnx(model, dtype="float32")
    assert "LSTM" in {node.op_type for node in made.graph.node}
    found = run(made, x.astype("f"))
    assert_allclose(found["probabilities"], model.predict_proba(x), **PRECISION)
    assert_array_equal(found["label"], model.predict(x))


@pytest.mark.parametrize("dtype", TYPES)
def test_nan_inside_a_sequence_reaches_its_results_and_no_other(dtype):
    x = padded(dtype)
    bad = x.copy()
    bad[3, 0, 1] = np.nan
    for model, name, wanted in (
        (fit(LSTMClassifier(**SMALL), x, LABELS), "probabilities", lambda model: model.predict_proba(x)),
        (fit(LSTMRegressor(target="step", **SMALL), x, np.nan_to_num(x[:, :, 0])), "y", lambda model: model.predict(x)),
        (fit(LSTMTransformer(**SMALL), x), "y", lambda model: model.transform(x)),
    ):
        found = run(to_onnx(model), bad)[name]
        assert np.isnan(found[3]).all()
        assert_close(np.delete(found, 3, axis=0), np.delete(wanted(model), 3, axis=0), dtype)
    detector = fit(LSTMAnomalyDetector(**SMALL), x)
    found = run(to_onnx(detector), bad)
    assert np.isnan(found["scores"][3]) and found["label"][3] == -1
    assert_array_equal(np.delete(found["label"], 3), np.delete(detector.predict(x), 3))


def test_what_load_gives_and_what_the_estimator_gives_are_the_same_file(tmp_path):
    model = fit(LSTMRegressor(**SMALL), RAGGED, [x.sum() for x in RAGGED])
    model.save(tmp_path / "model.safetensors")
    again = lstmx.load(tmp_path / "model.safetensors")
    assert to_onnx(again, tmp_path / "model.onnx") == to_onnx(model) == onnx.load(tmp_path / "model.onnx")


# Pipelines


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", ["NTC", "NCT"])
def test_pipelines_of_sequences(layout, dtype):
    x = padded(dtype)
    x = x.swapaxes(1, 2) if layout == "NCT" else x
    for scaler in (SequenceScaler(layout=layout), SequenceScaler(layout=layout, with_mean=False)):
        model = fit(make_pipeline(scaler, LSTMClassifier(layout=layout, **SMALL)), x, LABELS)
        assert_close(run(to_onnx(model), x)["probabilities"], model.predict_proba(x), dtype)
    made = to_onnx(model[0], dtype=dtype)
    assert_array_equal(run(made, x)["y"], model[0].transform(x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scaler", [StandardScaler(), RobustScaler(), MinMaxScaler((-1, 1), clip=True), MaxAbsScaler()],
                         ids=lambda scaler: type(scaler).__name__)  # fmt: skip
def test_pipelines_of_tables(scaler, dtype):
    x = (1000 + generator().normal(size=(26, 6))).astype(dtype)
    model = fit(make_pipeline("passthrough", scaler, LSTMClassifier(**SMALL)), x, LABELS)
    found = run(to_onnx(model), 1.01 * x)
    assert_close(found["probabilities"], model.predict_proba(1.01 * x), dtype)
    step = predictors.Pipeline([("scaler", lstmx.estimators.to_stored(make_pipeline(model[1])).steps[0][1])])
    assert_array_equal(run(to_onnx(step, dtype=dtype), 1.01 * x)["y"], model[1].transform(1.01 * x))


def test_features_of_a_transformer_as_a_sequence():
    x = padded("float32")
    model = fit(make_pipeline(LSTMTransformer(**SMALL), StandardScaler(), LSTMRegressor(**SMALL)), x, x[:, 0, 0])
    assert_close(run(to_onnx(model), x)["y"], model.predict(x))


# Forecasters


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("differences", [(), (1,), (4,), (2, 1)], ids=str)
@pytest.mark.parametrize("transform", [None, "log", "boxcox"])
def test_forecasters(transform, differences, dtype):
    y = np.exp(walk(80, 2, scale=0.05) / [1, 10]).astype(dtype)
    model = fit_series(make_forecaster(horizon=5, differences=differences, transform=transform), y)
    made = to_onnx(model)
    kept = 6 + sum(differences)
    found = session(made).run(["y"], {"history": y[None, -kept:].astype(float)})[0]
    assert_allclose(found[0], model.predict(), **PRECISION)
    assert found.dtype == dtype
    many = np.stack([y[:kept], y[20 : 20 + kept]]).astype(float)  # of any part of the series, and several at once
    both = session(made).run(["y"], {"history": many})[0]
    model.update(y[:kept])
    assert_allclose(both[0], model.predict(), **PRECISION)


def test_forecasters_of_several_series_with_exogenous_variables():
    y = [walk(60, seed=seed) * 10**seed for seed in range(2)]
    x = [generator(seed).normal(size=(70, 2)) for seed in range(2)]
    model = fit_series(make_forecaster(differences=(1,)), y, [a[:60] for a in x])
    feeds = {"history": np.stack([a[-7:, None] for a in y]), "exogenous": np.stack([a[53:63] for a in x])}
    found = session(to_onnx(model)).run(["y"], feeds)[0]
    assert_allclose(found[..., 0], model.predict(X=[a[60:] for a in x]), **PRECISION)


# What cannot be exported


def test_refusals():
    y, log1p = np.exp(walk(60) / 10), (np.log1p, np.expm1)
    for parameters, message in (
        ({"strategy": "recursive"}, "horizon: a recursive forecast of 3 steps feeds its results back"),
        ({"transform": log1p}, "transform: functions of Python cannot be exported"),
        ({"missing": "impute"}, "missing: a graph does not fill missing values"),
    ):
        with pytest.raises(ValueError, match=message):
            to_onnx(fit_series(make_forecaster(**parameters), y))
    detector = fit(LSTMAnomalyDetector(missing="impute", **SMALL), RAGGED)
    with pytest.raises(ValueError, match="missing: a graph does not fill missing values"):
        to_onnx(detector)
    pipeline = fit(make_pipeline(SequenceImputer(), LSTMClassifier(**SMALL)), RAGGED, LABELS)
    with pytest.raises(TypeError, match="model: Imputer cannot be exported: a graph does not fill"):
        to_onnx(pipeline)
    large = fit(LSTMClassifier(**SMALL), RAGGED, np.where(LABELS == "a", 2**63, 1).astype(np.uint64))
    with pytest.raises(ValueError, match=r"classes: \[1, 9223372036854775808\] are neither strings nor whole numbers"):
        to_onnx(large)
    for name in ("states", "lengths"):
        with pytest.raises(ValueError, match=f"{name}: an estimator's graph takes whole sequences"):
            to_onnx(large, **{name: True})
    with pytest.raises(TypeError, match="model: got LogisticRegression, must be"):
        to_onnx(LogisticRegression())


def test_check_prints_the_largest_error(capsys):
    models = [
        fit(LSTMClassifier(**SMALL), RAGGED, LABELS),
        fit(LSTMTransformer(**SMALL), RAGGED),
        fit_series(make_forecaster(), walk(60, 2), generator().normal(size=(60, 1))),
    ]
    for model in models:
        to_onnx(model, check=True)
        assert capsys.readouterr().out.startswith("ONNX model: largest error ")


# skl2onnx


@pytest.fixture
def registered():
    """The types of skl2onnx, which has been told of lstmx."""
    pytest.importorskip("skl2onnx")
    from lstmx.interop.onnx.estimators import register

    register()
    from skl2onnx.common import data_types

    return {"float32": data_types.FloatTensorType, "float64": data_types.DoubleTensorType}


def converted(model, kind, shape, target_opset=18, **options):
    from skl2onnx import convert_sklearn

    return convert_sklearn(model, initial_types=[("X", kind(shape))], target_opset=target_opset, **options)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_pipeline_of_sequences_by_skl2onnx(registered, dtype):
    x = padded(dtype)
    model = fit(make_pipeline(SequenceScaler(), LSTMClassifier(**SMALL)), x, LABELS)
    made = converted(model, registered[dtype], [None, None, 2], options={"zipmap": False})
    found = run(made, x)
    assert list(found) == ["label", "probabilities"]
    assert_close(found["probabilities"], model.predict_proba(x), dtype)
    assert_array_equal(found["label"], model.predict(x))


def test_zipmap(registered):
    x = padded("float32")
    for labels in (LABELS, np.searchsorted(["a", "b", "c"], LABELS), LABELS == "a"):
        model = fit(LSTMClassifier(**SMALL), x, labels)
        found = run(converted(model, registered["float32"], [None, None, 2]), x)
        assert_array_equal(found["output_label"], model.predict(x))
        ours = model.predict_proba(x)
        theirs = np.array([[row[label] for label in model.classes_] for row in found["output_probability"]], "f")
        assert_close(theirs, ours)
        found = run(converted(model, registered["float32"], [None, None, 2], options={"zipmap": "columns"}), x)
        assert_close(np.stack(list(found.values())[1:], axis=-1).reshape(ours.shape), ours)
    model = fit(LSTMClassifier(**SMALL), x, LABELS)
    options = {"zipmap": False, "output_class_labels": True}
    found = run(converted(model, registered["float32"], [None, None, 2], options=options), x)
    assert found["class_labels"].tolist() == model.classes_.tolist()
    several = fit(LSTMClassifier(**SMALL), x, np.stack([LABELS == "a", LABELS != "b"], axis=1).astype(int))
    found = run(converted(several, registered["float32"], [None, None, 2], options={"zipmap": False}), x)
    assert_array_equal(found["label"], several.predict(x))
    with pytest.raises(ValueError, match="zipmap: several labels of a sequence have no dict"):
        converted(several, registered["float32"], [None, None, 2])


@pytest.mark.parametrize("dtype", TYPES)
def test_scalers_of_scikit_learn_before_a_table(registered, dtype):
    x = (10 + generator().normal(size=(26, 6))).astype(dtype)
    model = fit(make_pipeline(StandardScaler(), LSTMClassifier(**SMALL)), x, LABELS)
    found = run(converted(model, registered[dtype], [None, 6], options={"zipmap": False}), x)
    assert_allclose(found["probabilities"], model.predict_proba(x), **PRECISION)
    assert_array_equal(found["label"], model.predict(x))


def test_estimators_of_scikit_learn_after_a_transformer(registered):
    x = padded("float32")
    model = fit(make_pipeline(LSTMTransformer(**SMALL), LogisticRegression()), x, LABELS)
    found = run(converted(model, registered["float32"], [None, None, 2], options={"zipmap": False}), x)
    assert_allclose(found["probabilities"], model.predict_proba(x), **PRECISION)
    assert_array_equal(found["label"], model.predict(x))


def test_regressors_and_detectors_by_skl2onnx(registered):
    x = padded("float32")
    regressor = fit(LSTMRegressor(cell=lstmx.Cell(zoneout=0.1), **SMALL), x, x[:, 0, 0])
    assert_close(run(converted(regressor, registered["float32"], [None, None, 2]), x)["variable"], regressor.predict(x))
    detector = fit(LSTMAnomalyDetector(**SMALL), x)
    found = run(converted(detector, registered["float32"], [None, None, 2]), x)
    assert list(found) == ["label", "scores"]
    assert_array_equal(found["label"], detector.predict(x))


def test_to_onnx_of_skl2onnx_takes_the_form_of_an_array(registered):
    import skl2onnx

    x = padded("float32")
    model = fit(LSTMRegressor(**SMALL), x, x[:, 0, 0])
    found = run(skl2onnx.to_onnx(model, x[:1]), x)
    assert_close(found["variable"], model.predict(x))


def test_wrong_types_for_skl2onnx(registered):
    from skl2onnx.common.data_types import Int64TensorType

    model = fit(LSTMRegressor(**SMALL), padded("float32"), np.arange(26.0))
    with pytest.raises(TypeError, match="X: got Int64TensorType, must be FloatTensorType or DoubleTensorType"):
        converted(model, Int64TensorType, [None, None, 2])
    with pytest.raises(ValueError, match="X: got shape"):
        converted(model, registered["float32"], [None])
    with pytest.raises(ValueError, match="target_opset: got 13, must be at least 14"):
        converted(model, registered["float32"], [None, None, 2], target_opset=13)
