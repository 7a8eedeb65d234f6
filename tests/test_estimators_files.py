"""`save`, and `load` as an estimator: what comes back is what was saved."""

import json
import pickle
import warnings

import numpy as np
import pytest
from forecasts import walk

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

import lstmx
from lstmx import (
    Cell,
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    LSTMTransformer,
    SequenceImputer,
    SequenceScaler,
    storage,
)
from lstmx.estimators._notes import decode, encode

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(n, 2)) for n in (4, 6, 5, 7, 3, 5, 6, 4)]
Y = np.array([0, 1] * 4)
QUICK = {"hidden_size": 4, "max_iter": 3, "random_state": 0}
# Estimator, data, and what it says of sequences.
ESTIMATORS = {
    "classifier": (LSTMClassifier(**QUICK, early_stopping=True, validation_fraction=0.3), (X, Y), "predict_proba"),
    "strings": (
        LSTMClassifier(**QUICK, class_weight={"no": 2, "yes": 1.5}, cell=Cell(peephole=True, clip=3.0)),
        (X, np.where(Y, "yes", "no")),
        "predict",
    ),
    "steps": (LSTMClassifier(**QUICK, target="step"), (X, [(x[:, 0] > 0) * 3 for x in X]), "predict_proba"),
    "lbfgs": (LSTMRegressor(**QUICK, solver="lbfgs", n_iter_no_change=np.inf), (X, Y + 0.5), "predict"),
    "table": (LSTMRegressor(**QUICK, dropout=0.2), (RNG.normal(size=(8, 5)).astype("f4"), Y), "predict"),
    "detector": (LSTMAnomalyDetector(**QUICK, window=4), (X,), "score_steps"),
    "transformer": (LSTMTransformer(**QUICK, num_layers=2), (X,), "transform"),
    "scaler": (SequenceScaler(with_mean=False), (X,), "transform"),
    "imputer": (SequenceImputer("constant", fill_value=-1.0, add_indicator=True), (X,), "transform"),
}


def fit(estimator, *data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(*data)


def attributes(estimator):
    return {name: value for name, value in vars(estimator).items() if name.endswith("_") and not name.startswith("_")}


def same(a, b):
    return pickle.dumps(np.asarray(a).tolist() if isinstance(a, np.ndarray) else a) == pickle.dumps(
        np.asarray(b).tolist() if isinstance(b, np.ndarray) else b
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_comes_back(name, tmp_path):
    estimator, data, method = ESTIMATORS[name]
    estimator = fit(clone(estimator), *data)
    estimator.save(tmp_path / "model")
    loaded = type(estimator).load(tmp_path / "model")
    assert type(loaded) is type(estimator) and repr(loaded.get_params()) == repr(estimator.get_params())
    assert {n: type(v) for n, v in attributes(loaded).items()} == {n: type(v) for n, v in attributes(estimator).items()}
    for attribute, value in attributes(estimator).items():
        assert same(getattr(loaded, attribute), value), attribute
        if isinstance(value, np.ndarray):
            assert getattr(loaded, attribute).dtype == value.dtype
    given, learnt = data[0], lstmx.load(tmp_path / "model")
    for one, other, third in zip(*(getattr(f, method)(given) for f in (loaded, estimator, learnt)), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)
    if hasattr(estimator, "score"):
        assert loaded.score(*data) == estimator.score(*data)
    # And as an estimator: it clones, is fitted again to the same, pickles, and is saved to the same file.
    again = fit(clone(loaded), *data)
    for one, other in zip(getattr(again, method)(given), getattr(estimator, method)(given), strict=True):
        np.testing.assert_array_equal(one, other)
    pickle.loads(pickle.dumps(loaded)).save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "model").read_bytes()
    lstmx.load(tmp_path / "model").save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "model").read_bytes()


@pytest.mark.parametrize("more", ["warm_start", "partial_fit"])
def test_training_goes_on_from_the_weights(more, tmp_path):
    estimator = fit(LSTMClassifier(**QUICK, warm_start=more == "warm_start"), X, Y)
    estimator.save(tmp_path / "model")
    loaded = LSTMClassifier.load(tmp_path / "model")
    if more == "warm_start":
        fit(loaded, X, Y)
        assert len(loaded.loss_curve_) == 6 and loaded.loss_curve_[:3] == estimator.loss_curve_
        assert loaded.predict_proba(X).tobytes() == fit(estimator, X, Y).predict_proba(X).tobytes()
    else:
        assert len(loaded.partial_fit(X, Y).loss_curve_) == 4


def test_a_forecaster_of_frames_comes_back_with_its_dates(tmp_path):
    pandas = pytest.importorskip("pandas")
    y = walk(70)
    indexes = [
        pandas.date_range("2026-01-01", periods=70, freq="W", name="week"),
        pandas.date_range("2026-03-01", periods=70, freq="h", tz="Europe/Paris"),
        pandas.period_range("2026-01", periods=70, freq="2M"),
        pandas.timedelta_range("0h", periods=70, freq="90min"),
        pandas.RangeIndex(3, 213, 3),
        pandas.Index(np.arange(70) / 2, name="s"),
        pandas.Index([f"row {k}" for k in range(70)]),
    ]
    series = {f"k{k}": pandas.Series(y, index, name=("a", k)) for k, index in enumerate(indexes)}
    series |= {8: y, "frame": pandas.DataFrame({"v": y})}
    forecaster = fit(LSTMForecaster(6, 3, **QUICK), series)
    forecaster.save(tmp_path / "model")
    loaded = LSTMForecaster.load(tmp_path / "model")
    for f in (lambda f: f.predict(), lambda f: f.update({key: np.zeros(2) for key in series}).predict(2)):
        one, other = f(loaded), f(forecaster)
        assert list(one) == list(other) == list(series)
        for key, found in one.items():
            np.testing.assert_array_equal(found, other[key])
            assert type(found) is type(other[key])
            if key != 8:
                assert found.index.equals(other[key].index) and found.index.name == other[key].index.name
                assert getattr(found, "name", None) == getattr(other[key], "name", None)
    assert type(lstmx.load(tmp_path / "model").predict()) is list
    odd = fit(LSTMForecaster(6, 3, **QUICK), pandas.DataFrame({pandas.Timestamp("2026-01-01"): y}))
    odd.save(tmp_path / "odd")
    assert type(LSTMForecaster.load(tmp_path / "odd").predict()) is np.ndarray


def test_a_generator_is_not_saved(tmp_path):
    fit(LSTMClassifier(**QUICK | {"random_state": np.random.RandomState(0)}), X, Y).save(tmp_path / "model")
    assert LSTMClassifier.load(tmp_path / "model").random_state is None


def test_a_note_that_is_too_long_is_left_out(tmp_path, monkeypatch):
    estimator = fit(LSTMRegressor(**QUICK), X, Y)
    monkeypatch.setattr(storage, "LARGEST_NOTE", 100)
    with pytest.warns(UserWarning, match=r"characters, more than 100: the file holds what was learnt"):
        estimator.save(tmp_path / "model")
    assert lstmx.load(tmp_path / "model").predict(X).tobytes() == estimator.predict(X).tobytes()
    with pytest.raises(ValueError, match="without the parameters of an estimator"):
        LSTMRegressor.load(tmp_path / "model")


def test_many_features_are_no_hindrance(tmp_path):
    detector = fit(LSTMAnomalyDetector(hidden_size=2, max_iter=1, random_state=0), RNG.normal(size=(3, 4, 250)))
    detector.save(tmp_path / "model")  # whose covariance takes more than the configuration of a model may
    assert LSTMAnomalyDetector.load(tmp_path / "model").covariance_.tobytes() == detector.covariance_.tobytes()


def test_lstmx_save_is_the_same(tmp_path):
    estimator = fit(LSTMRegressor(**QUICK), X, Y)
    estimator.save(tmp_path / "one")
    lstmx.save(estimator, tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_what_cannot_be_saved_is_named(tmp_path):
    estimator = fit(LSTMClassifier(**QUICK), X, Y).set_params(verbose=object())
    with pytest.raises(TypeError, match=r"^verbose: <object .* cannot be saved"):
        estimator.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_files_of_something_else(tmp_path):
    fit(LSTMRegressor(**QUICK), X, Y).save(tmp_path / "regressor")
    with pytest.raises(ValueError, match=r"holds a LSTMRegressor, not a LSTMClassifier; LSTMRegressor\.load reads it"):
        LSTMClassifier.load(tmp_path / "regressor")
    lstmx.LSTM(1, 2).save(tmp_path / "layer")
    lstmx.load(tmp_path / "regressor").with_note(None).save(tmp_path / "learnt")
    lstmx.save(make_pipeline(fit(LSTMRegressor(**QUICK), X, Y)), tmp_path / "pipeline")
    for name, kind in (("layer", "LSTM"), ("pipeline", "Pipeline")):
        with pytest.raises(ValueError, match=rf"holds a {kind}, not a LSTMRegressor; lstmx\.load reads it"):
            LSTMRegressor.load(tmp_path / name)
    with pytest.raises(ValueError, match="holds a Regressor without the parameters of an estimator"):
        LSTMRegressor.load(tmp_path / "learnt")
    with pytest.raises(FileNotFoundError):
        LSTMRegressor.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda note: note["parameters"].update(novelty=1), r"has the parameters \['novelty'\].* upgrade lstmx"),
        (lambda note: note["attributes"].update(parameters_=1), "cannot be read"),
        (lambda note: note["attributes"].update(predict=1), r"cannot be read \(ValueError\('predict'\)\)"),
        (lambda note: note["attributes"].update(__class__=1), "cannot be read"),
        (lambda note: note["attributes"].update(_predictor=1), "cannot be read"),
        (lambda note: note["attributes"].update(a_={"evil": 1}), "cannot be read"),
        (
            lambda note: note["attributes"].update(a_={"array": ["a"], "dtype": "<U400000000", "shape": [1]}),
            "an array of",
        ),
        (lambda note: note["attributes"].update(a_={"array": [1], "dtype": "V8", "shape": [1]}), "an array of"),
        (lambda note: note["attributes"].update(a_={"array": [1], "dtype": "<i8", "shape": [2]}), "cannot be read"),
        (lambda note: note["parameters"].update(cell={"cell": {"x": 1}}), "cannot be read"),
        (lambda note: note.pop("attributes"), "cannot be read"),
    ],
)
def test_damaged_notes(change, message, tmp_path):
    fit(LSTMRegressor(**QUICK), X, Y).save(tmp_path / "model")
    stored = lstmx.load(tmp_path / "model")
    note = json.loads(stored.note)
    change(note)
    stored.with_note(json.dumps(note)).save(tmp_path / "model")
    with pytest.raises(storage.ModelFileError, match=message):
        LSTMRegressor.load(tmp_path / "model")
    assert lstmx.load(tmp_path / "model").predict(X).shape == (8,)


def test_a_flipped_bit_is_found(tmp_path):
    fit(LSTMRegressor(**QUICK), X, Y).save(tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    (tmp_path / "model").write_bytes(data.replace(rb"\"alpha\":0.0001", rb"\"alpha\":0.0002", 1))
    assert (tmp_path / "model").read_bytes() != data
    with pytest.raises(storage.ModelFileError, match="damaged: the file does not hold what was written to it"):
        lstmx.load(tmp_path / "model")


@pytest.mark.parametrize("value", [None, True, 1, 0.1, "a", np.inf, (1, (2.5, "b")), [1, [2]], {1: "a", "b": (1,)},
                                   Cell(zoneout=(0.1, 0.2))])  # fmt: skip
def test_values_come_back(value):
    found = decode(json.loads(json.dumps(encode(value, "x"))))
    assert found == value and type(found) is type(value)
    assert np.isnan(decode(encode(float("nan"), "x")))


@pytest.mark.parametrize("array", [np.arange(3), np.zeros((2, 0)), np.array([[0.1, np.nan]]), np.array(["a", "bc"]),
                                   np.array(["a", 1], object), np.array([True])])  # fmt: skip
def test_arrays_come_back(array):
    found = decode(json.loads(json.dumps(encode(array, "x"))))
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)
