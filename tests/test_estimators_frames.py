"""Lists of frames: names of features in every estimator, and frames out of the transformers."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

import lstmx
from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMRegressor,
    LSTMTransformer,
    SequenceImputer,
    SequenceScaler,
)

pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
LENGTHS = (4, 6, 5, 7)
TRANSFORMERS = [SequenceScaler(), SequenceImputer(), SequenceImputer(add_indicator=True)]
QUICK = {"hidden_size": 3, "max_iter": 2, "random_state": 0}


def sequences(holes=False):
    rng = np.random.default_rng(0)
    found = [rng.normal(size=(n, 2)) for n in LENGTHS]
    if holes:
        found[1][2, 1] = np.nan
    return found


def frames(arrays, columns=("u", "v")):
    return [pandas.DataFrame(a, pandas.date_range("2026-01-01", periods=len(a)), columns) for a in arrays]


@pytest.mark.parametrize("kind", [LSTMClassifier, LSTMRegressor, LSTMAnomalyDetector, LSTMTransformer, SequenceScaler,
                                  SequenceImputer])  # fmt: skip
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_names_of_features_of_a_list_of_frames(kind, library):
    estimator = kind(**(QUICK if kind.__name__.startswith("LSTM") else {}))
    X, y = frames(sequences()), [0, 1, 0, 1]
    if library == "polars":
        X = [polars.DataFrame(a, schema=["u", "v"], orient="row") for a in sequences()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = clone(estimator).fit(sequences(), y)
        estimator.fit(X, y)
    assert estimator.feature_names_in_.tolist() == ["u", "v"] and estimator.n_features_in_ == 2
    assert estimator.feature_names_in_.dtype == object
    assert not hasattr(plain, "feature_names_in_")
    method = "predict" if hasattr(estimator, "predict") else "transform"
    for a, b in zip(getattr(estimator, method)(X), getattr(plain, method)(sequences()), strict=True):
        np.testing.assert_array_equal(a, b)
    getattr(estimator, method)(sequences())  # arrays have no names
    with pytest.raises(ValueError, match=r"^X: its frames have the columns \['v', 'u'\], must have those of fit"):
        getattr(estimator, method)(frames(sequences(), ["v", "u"]))
    with pytest.raises(ValueError, match=r"^X\[3\]: has the columns \['u', 'w'\], but X\[0\] has \['u', 'v'\]"):
        getattr(estimator, method)([*frames(sequences())[:3], *frames(sequences()[3:], ["u", "w"])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(sequences(), y)
    assert not hasattr(estimator, "feature_names_in_")


def test_frames_without_names():
    for X in (frames(sequences(), None), [*frames(sequences()[:1]), *sequences()[1:]]):
        assert not hasattr(SequenceScaler().fit(X), "feature_names_in_")
    turned = [a.T for a in frames(sequences())]  # columns are steps there
    assert not hasattr(SequenceScaler(layout="NCT").fit(turned), "feature_names_in_")


@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=str)
@pytest.mark.parametrize("how", ["estimator", "context"])
def test_lists_of_frames_come_as_such(transformer, how):
    holes = isinstance(transformer, SequenceImputer)
    X, plain = frames(sequences(holes)), clone(transformer).fit_transform(sequences(holes))
    names = ["u", "v"] + ["missingindicator_v"] * bool(getattr(transformer, "add_indicator", False))
    transformer = clone(transformer)
    with config_context(transform_output="pandas" if how == "context" else "default"):
        if how == "estimator":
            assert transformer.set_output(transform="pandas") is transformer
        found = transformer.fit_transform(X)
        again = transformer.transform(X)
        bare = transformer.transform(sequences(holes))
    assert transformer.get_feature_names_out().tolist() == names
    for one, other, third, x, a in zip(found, again, bare, X, plain, strict=True):
        assert type(one) is type(third) is pandas.DataFrame and one.equals(other)
        assert list(one.columns) == list(third.columns) == names
        assert one.index.equals(x.index) and list(third.index) == list(range(len(x)))
        assert one.to_numpy().tobytes() == third.to_numpy().tobytes() == a.tobytes()
    if how == "estimator":
        assert type(transformer.set_output(transform="polars").transform(X)[0]) is polars.DataFrame
        assert transformer.transform(X)[0].columns == names
        assert type(transformer.set_output(transform="default").transform(X)[0]) is np.ndarray


def test_other_forms():
    rng = np.random.default_rng(0)
    scaler = SequenceScaler().set_output(transform="pandas")
    whole = rng.normal(size=(3, 5, 2))
    assert scaler.fit_transform(whole).tobytes() == SequenceScaler().fit_transform(whole).tobytes()
    flat = [rng.normal(size=n) for n in LENGTHS]
    found = scaler.fit_transform(flat)
    assert list(found[1].columns) == ["x0"] and found[1].shape == (6, 1)
    assert found[1]["x0"].to_numpy().tobytes() == SequenceScaler().fit_transform(flat)[1].tobytes()
    turned = [a.T for a in sequences()]
    found = SequenceScaler(layout="NCT").set_output(transform="pandas").fit_transform(turned)
    assert list(found[1].index) == ["x0", "x1"] and found[1].shape == (2, 6)


def test_frames_go_through_a_pipeline(tmp_path):
    X, y = frames(sequences(True)), [0, 1, 0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = SequenceImputer(add_indicator=True), SequenceScaler(), LSTMClassifier(**QUICK)
        pipeline = make_pipeline(*steps).set_output(transform="pandas").fit(X, y)
        plain = make_pipeline(*map(clone, steps)).set_output(transform="default").fit(sequences(True), y)
    names = ["u", "v", "missingindicator_v"]
    assert pipeline[-1].feature_names_in_.tolist() == pipeline[:-1].get_feature_names_out().tolist() == names
    assert pipeline.predict_proba(X).tobytes() == plain.predict_proba(sequences(True)).tobytes()
    lstmx.save(plain, tmp_path / "model")
    assert (
        lstmx.load(tmp_path / "model").predict_proba(sequences(True)).tobytes() == pipeline.predict_proba(X).tobytes()
    )
