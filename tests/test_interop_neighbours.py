"""The adapters to sktime and aeon: their own checks, and that nothing is lost between the two sides.

Neither is among the test dependencies: `pip install '.[sktime,aeon]'` first.
"""

import doctest
import importlib

import numpy as np
import pytest

import lstmx
from lstmx.interop.neighbours import unfitted

QUICK = {"hidden_size": 4, "max_iter": 3, "random_state": 0}
RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(20, 2, 9)), np.array(["a", "b"] * 10)  # (n, channels, T), as both have it
pytestmark = [pytest.mark.filterwarnings("ignore::Warning")]  # theirs are many, in every version others


def adapters(neighbour):
    try:
        return importlib.import_module(f"lstmx.interop.{neighbour}")
    except ImportError as error:
        pytest.skip(str(error))


def test_an_estimator_of_another_kind_is_named():
    pytest.importorskip("sklearn")
    with pytest.raises(TypeError, match=r"^estimator: got LSTMRegressor, must be an lstmx\.LSTMClassifier"):
        unfitted(lstmx.LSTMRegressor(), lstmx.LSTMClassifier)
    made = unfitted(lstmx.LSTMClassifier(7), lstmx.LSTMClassifier, layout="NCT")
    assert (made.hidden_size, made.layout) == (7, "NCT")
    assert unfitted(None, lstmx.LSTMForecaster).get_params() == lstmx.LSTMForecaster().get_params()


@pytest.mark.parametrize("neighbour", ["sktime", "aeon"])
def test_examples(neighbour):
    found = doctest.testmod(adapters(neighbour), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 3 and not found.failed


@pytest.mark.long
@pytest.mark.parametrize("name", ["SktimeClassifier", "SktimeForecaster"])
def test_the_checks_of_sktime(name):
    from_sktime = adapters("sktime")
    from sktime.utils.estimator_checks import check_estimator

    assert set(check_estimator(getattr(from_sktime, name), raise_exceptions=True, verbose=False).values()) == {"PASSED"}


@pytest.mark.long
@pytest.mark.parametrize("name", ["AeonClassifier", "AeonForecaster"])
def test_the_checks_of_aeon(name):
    from_aeon = adapters("aeon")
    from aeon.testing.estimator_checking import check_estimator

    assert set(check_estimator(getattr(from_aeon, name), raise_exceptions=True).values()) == {"PASSED"}


def test_a_classifier_of_sktime_says_what_ours_says():
    classifier = adapters("sktime").SktimeClassifier(lstmx.LSTMClassifier(**QUICK)).fit(X, LABELS)
    ours = lstmx.LSTMClassifier(**QUICK, layout="NCT").fit(X, LABELS)
    assert classifier.predict_proba(X).tobytes() == ours.predict_proba(X).tobytes()
    assert classifier.predict(X).tolist() == ours.predict(X).tolist()
    assert classifier.get_params()["estimator__hidden_size"] == 4
    classifier.set_params(estimator__hidden_size=3).fit(X, LABELS)
    assert classifier.estimator_.hidden_size == 3 and not hasattr(classifier.estimator, "n_iter_")


def test_a_classifier_of_aeon_says_what_ours_says():
    classifier = adapters("aeon").AeonClassifier(lstmx.LSTMClassifier(**QUICK))
    ragged = [x[:, : 3 + n % 6] for n, x in enumerate(X)]
    for data in (X, ragged):
        ours = lstmx.LSTMClassifier(**QUICK, layout="NCT").fit(data, LABELS)
        assert classifier.fit(data, LABELS).predict_proba(data).tobytes() == ours.predict_proba(data).tobytes()


def test_a_forecaster_of_sktime_says_what_ours_says():
    forecasters = adapters("sktime")
    import pandas

    y = pandas.DataFrame(RNG.normal(size=(80, 2)).cumsum(axis=0), pandas.period_range("2020-01", periods=80, freq="M"),
                         ["a", "b"])  # fmt: skip
    x = pandas.DataFrame(RNG.normal(size=(90, 1)), pandas.period_range("2020-01", periods=90, freq="M"), ["warm"])
    parameters = {"window": 5, "horizon": 3, **QUICK}
    forecaster = forecasters.SktimeForecaster(lstmx.LSTMForecaster(**parameters)).fit(y[:70], x[:70])
    ours = lstmx.LSTMForecaster(**parameters).fit(y[:70], x[:70])
    for end in (70, 75):
        if end == 75:
            forecaster.update(y[65:75], x[65:75], update_params=False)  # some of which it knows
            ours.update(y[70:75], x[70:75])
        begin = forecaster.cutoff[0] + 1
        future = x[x.index >= begin]
        found = forecaster.predict([1, 3], future[:3])
        wanted = ours.predict(3, future[:3])
        assert found.index.equals(wanted.index[[0, 2]]) and list(found.columns) == ["a", "b"]
        np.testing.assert_array_equal(found, wanted.iloc[[0, 2]])
        bounds = forecaster.predict_interval([1, 3], future[:3], coverage=[0.3, 0.5])
        for share in (0.3, 0.5):
            wanted = ours.predict_interval(3, future[:3], coverage=share)
            for side, bound in zip(("lower", "upper"), wanted, strict=True):
                np.testing.assert_array_equal(bounds["b", share, side], bound["b"].iloc[[0, 2]])
        far = forecaster.predict_interval(list(range(1, 6)), future[:5], coverage=0.5)
        assert far.shape == (5, 4) and np.isfinite(far).all(axis=None)


def test_a_forecaster_of_aeon_takes_other_series():
    forecasters = adapters("aeon")
    y, other = RNG.normal(size=100).cumsum(), 50 * RNG.normal(size=30).cumsum()
    forecaster = forecasters.AeonForecaster(lstmx.LSTMForecaster(5, **QUICK), horizon=3).fit(y)
    ours = lstmx.LSTMForecaster(5, 3, **QUICK).fit(y)
    assert forecaster.forecast_ == ours.predict()[-1]
    assert forecaster.predict(other) == ours.predict(y=other)[-1]
