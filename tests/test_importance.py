"""permutation_importance: against a plain definition, in every form of X, with all kinds of estimators."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import lstmx
from lstmx.inspect import permutation_importance

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6, 3))
LENGTHS = RNG.integers(3, 7, size=40)
RAGGED = [x[:n] for x, n in zip(X, LENGTHS, strict=True)]
PADDED = np.where(np.arange(6)[:, None] < LENGTHS[:, None, None], X, np.nan)


class Linear:
    """Predicts a weighted sum of a sequence; its score is minus the mean square error."""

    def __init__(self, weights, layout="NTC"):
        self.weights, self.layout, self.seen = np.asarray(weights, float), layout, []

    def predict(self, X):
        self.seen.append(X)
        rows = [np.asarray(x) for x in (X.to_numpy() if hasattr(X, "iloc") else X)]
        rows = [x[:, None] if x.ndim == 1 else x.T if self.layout == "NCT" else x for x in rows]
        return np.array([np.nansum(x * self.weights[: len(x)]) for x in rows])

    def score(self, X, y, sample_weight=None):
        return -np.average((self.predict(X) - y) ** 2, weights=sample_weight)


def by_definition(model, x, y, by, permutations):
    """Of an array (n, T, F)."""
    base, found = model.score(x, y), []
    for k in range(x.shape[2 if by == "feature" else 1]):
        where = (slice(None), slice(None), k) if by == "feature" else (slice(None), k)
        found.append([])
        for p in permutations:
            other = x.copy()
            other[where] = x[p][where]
            found[-1].append(base - model.score(other, y))
    return np.array(found)


def permutations(n, repeats, seed):
    rng = np.random.default_rng(seed)
    return [rng.permutation(n) for _ in range(repeats)]


WEIGHTS = RNG.normal(size=(6, 3))


@pytest.mark.parametrize("by", ["feature", "step"])
def test_importances_are_what_the_definition_says(by):
    model = Linear(WEIGHTS)
    y = model.predict(X) + RNG.normal(size=40)
    found = permutation_importance(model, X, y, by=by, n_repeats=4, random_state=3)
    wanted = by_definition(model, X, y, by, permutations(40, 4, 3))
    assert wanted.shape == ((3, 4) if by == "feature" else (6, 4)) and wanted.std() > 0.1
    np.testing.assert_array_equal(found.importances, wanted)
    np.testing.assert_array_equal(found.importances_mean, wanted.mean(axis=1))
    np.testing.assert_array_equal(found.importances_std, wanted.std(axis=1))
    assert found.baseline_score == model.score(X, y) and found.names is None


@pytest.mark.parametrize("by", ["feature", "step"])
@pytest.mark.parametrize("form", ["list", "tuple", "objects", "nested", "NCT", "NCT list", "strided", "float32"])
def test_every_form_gives_the_same(form, by):
    model, y = Linear(WEIGHTS), RNG.normal(size=40)
    wanted = permutation_importance(model, X, y, by=by, random_state=0)
    objects = np.empty(40, object)
    objects[:] = list(X)
    given = {
        "list": list(X), "tuple": tuple(X), "objects": objects, "nested": X.tolist(), "NCT": X.swapaxes(1, 2).copy(),
        "NCT list": [x.T for x in X], "strided": X[::-1, ::-1].copy()[::-1, ::-1], "float32": X.astype(np.float32),
    }[form]  # fmt: skip
    model = Linear(WEIGHTS, "NCT" if "NCT" in form else "NTC")
    found = permutation_importance(model, given, y, by=by, random_state=0)
    np.testing.assert_allclose(found.importances, wanted.importances, rtol=1e-5 if form == "float32" else 1e-12)
    if form == "float32":
        assert all(x.dtype == np.float32 for x in model.seen)


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("by", ["feature", "step"])
def test_tables_are_sequences_of_one_feature(frame, by):
    table, y = X[:, :, 0].copy(), RNG.normal(size=40)
    columns = [f"day {t}" for t in range(6)]
    given = pd.DataFrame(table, index=RNG.permutation(40), columns=columns) if frame else table
    model, single = Linear(WEIGHTS[:, :1]), Linear(WEIGHTS[:, :1])
    found = permutation_importance(model, given, y, by=by, random_state=0)
    wanted = permutation_importance(single, table[:, :, None], y, by=by, random_state=0)
    np.testing.assert_array_equal(found.importances, wanted.importances)
    assert all(isinstance(x, pd.DataFrame) == frame and x.shape == (40, 6) for x in model.seen)
    if frame:
        assert all((x.columns == columns).all() and (x.dtypes == given.dtypes).all() for x in model.seen)
    assert found.names == (columns if frame and by == "step" else None)


def test_integers_stay_integers():
    tokens = RNG.integers(0, 5, size=(20, 7))
    model = Linear(np.ones((7, 1)))
    permutation_importance(model, tokens, np.zeros(20), by="step", random_state=0)
    assert all(x.dtype == tokens.dtype for x in model.seen)


def ragged_by_definition(p, lengths):
    """For every sequence the steps of its donor at the same relative time."""
    return [[int(np.floor((t + 0.5) / n * lengths[p[k]])) for t in range(n)] for k, n in enumerate(np.asarray(lengths))]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("by", ["feature", "step"])
def test_ragged_sequences_meet_at_the_same_relative_time(by, padded):
    model, y = Linear(WEIGHTS), RNG.normal(size=40)
    found = permutation_importance(model, PADDED if padded else RAGGED, y, by=by, n_repeats=1, random_state=5,
                                   n_bins=None if by == "feature" else 3)  # fmt: skip
    (p,) = permutations(40, 1, 5)
    places = ragged_by_definition(p, LENGTHS)
    assert any(max(place) < LENGTHS[p[k]] - 1 or len(set(place)) < len(place) for k, place in enumerate(places))
    for k in range(3):
        other = [x.copy() for x in RAGGED]
        for n, x in enumerate(other):
            donor = RAGGED[p[n]][places[n]]
            if by == "feature":
                x[:, k] = donor[:, k]
            else:
                inside = np.floor((np.arange(len(x)) + 0.5) / len(x) * 3) == k
                x[inside] = donor[inside]
        np.testing.assert_allclose(
            found.importances[k, 0], model.score(RAGGED, y) - model.score(other, y), rtol=1e-10, atol=1e-12
        )
    for x in model.seen:
        if padded and isinstance(x, np.ndarray):
            np.testing.assert_array_equal(np.isnan(x), np.isnan(PADDED))
    assert found.names == (None if by == "feature" else ["0-33.3%", "33.3-66.7%", "66.7-100%"])


@pytest.mark.parametrize("longest", [4, 30])
def test_ragged_sequences_have_ten_parts_or_as_many_as_steps(longest):
    given = [RNG.normal(size=(longest, 1)), *(RNG.normal(size=(3, 1)) for _ in range(5))]
    found = permutation_importance(Linear(np.ones((30, 1))), given, np.zeros(6), by="step", random_state=0)
    assert len(found.importances) == len(found.names) == min(10, longest)


def test_parts_of_sequences_of_one_length():
    model, y = Linear(WEIGHTS), RNG.normal(size=40)
    found = permutation_importance(model, X, y, by="step", n_bins=6, random_state=0)
    wanted = permutation_importance(model, X, y, by="step", random_state=0)
    np.testing.assert_array_equal(found.importances, wanted.importances)
    (p,) = permutations(40, 1, 0)
    other = X.copy()
    other[:, 3:] = X[p][:, 3:]
    halves = permutation_importance(model, X, y, by="step", n_bins=2, n_repeats=1, random_state=0)
    assert halves.importances[1, 0] == model.score(X, y) - model.score(other, y)
    assert halves.names == ["0-50%", "50-100%"]


@pytest.mark.parametrize("form", [X, RAGGED, PADDED, X[:, :, 0], pd.DataFrame(X[:, :, 0])],
                         ids=["array", "list", "padded", "table", "frame"])  # fmt: skip
@pytest.mark.parametrize("by", ["feature", "step"])
def test_what_is_given_is_not_changed(form, by):
    class Greedy(Linear):
        def score(self, X, y, sample_weight=None):
            found = super().score(X, y)
            if not hasattr(X, "iloc") and X is not form:
                for x in X:
                    x[:] = 1e9
            return found

    before = [np.array(x) for x in (form.to_numpy() if hasattr(form, "iloc") else form)]
    y = RNG.normal(size=40)
    greedy, modest = (
        permutation_importance(
            cls(WEIGHTS if np.ndim(before[0]) == 2 else WEIGHTS[:, :1]), form, y, by=by, random_state=0
        )
        for cls in (Greedy, Linear)
    )
    np.testing.assert_array_equal(greedy.importances, modest.importances)
    for x, old in zip(form.to_numpy() if hasattr(form, "iloc") else form, before, strict=True):
        np.testing.assert_array_equal(x, old)


@pytest.mark.parametrize("kind", [int, np.random.SeedSequence, np.random.default_rng, np.random.RandomState])
def test_the_random_state_decides(kind):
    model, y = Linear(WEIGHTS), RNG.normal(size=40)
    one, two, three = (permutation_importance(model, X, y, random_state=kind(seed)).importances for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()


def test_weights_and_scoring_are_handed_on():
    model, y, weight = Linear(WEIGHTS), RNG.normal(size=40), RNG.uniform(size=40)
    found = permutation_importance(model, X, y, sample_weight=weight, random_state=0)
    same = permutation_importance(model, X, y, sample_weight=weight, random_state=0,
                                  scoring=lambda m, X, y, sample_weight: m.score(X, y, sample_weight))  # fmt: skip
    np.testing.assert_array_equal(found.importances, same.importances)
    assert found.baseline_score == -np.average((model.predict(X) - y) ** 2, weights=weight)


# With networks.


def fit(estimator, *data):
    with warnings.catch_warnings(action="ignore"):
        return estimator.fit(*data)


FAST = {"learning_rate_init": 0.02, "max_iter": 25, "random_state": 0}
MANY = np.random.default_rng(1).normal(size=(150, 6, 3))
ABOVE = MANY[:, 4, 1] > 0


@pytest.fixture(scope="module")
def classifier():
    return fit(lstmx.LSTMClassifier(8, **FAST), MANY, ABOVE)


@pytest.mark.parametrize("scoring", [None, "accuracy", "neg_log_loss"])
def test_the_feature_and_the_step_that_matter_are_found(scoring, classifier):
    for by, place in (("feature", 1), ("step", 4)):
        found = permutation_importance(classifier, MANY, ABOVE, by=by, scoring=scoring, random_state=0)
        rest = np.delete(found.importances_mean, place)
        assert found.importances_mean[place] > 0.3 > 3 * np.abs(rest).max()


def test_pipelines_searches_and_files_give_the_same(classifier, tmp_path):
    wanted = permutation_importance(classifier, MANY, ABOVE, random_state=0).importances
    pipe = make_pipeline("passthrough", classifier)
    np.testing.assert_array_equal(permutation_importance(pipe, MANY, ABOVE, random_state=0).importances, wanted)
    classifier.save(tmp_path / "m.safetensors")
    loaded = lstmx.load(tmp_path / "m.safetensors")
    found = permutation_importance(
        loaded, MANY, ABOVE, scoring=lambda m, X, y: np.mean(m.predict(X) == y), random_state=0
    )
    np.testing.assert_array_equal(found.importances, wanted)
    with pytest.raises(TypeError, match=r"^estimator: got Classifier, which has no score; give scoring=, a callable"):
        permutation_importance(loaded, MANY, ABOVE)
    with pytest.raises(TypeError, match=r"^scoring: got 'accuracy', .* not for Classifier; give scoring="):
        permutation_importance(loaded, MANY, ABOVE, scoring="accuracy")


def test_features_that_come_first_are_known_from_the_estimator(tmp_path):
    swapped = MANY.swapaxes(1, 2)
    estimator = fit(lstmx.LSTMClassifier(8, layout="NCT", **FAST), swapped, ABOVE)
    estimator.save(tmp_path / "m.safetensors")
    search = GridSearchCV(estimator, {"max_iter": [2]}, cv=2)
    outer = make_pipeline(fit(search, swapped, ABOVE))
    score = {"scoring": lambda m, X, y: np.mean(m.predict(X) == y)}
    for given, options in ((estimator, {}), (outer, {}), (lstmx.load(tmp_path / "m.safetensors"), score)):
        found = permutation_importance(given, swapped, ABOVE, random_state=0, **options)
        assert found.importances.shape == (3, 5)
        assert permutation_importance(
            given, swapped, ABOVE, by="step", random_state=0, **options
        ).importances.shape == (6, 5)
    wrong = permutation_importance(estimator, swapped, ABOVE, layout="NTC", random_state=0)
    assert wrong.importances.shape == (6, 5)


@pytest.mark.parametrize("ragged", [False, True])
def test_targets_of_every_step(ragged):
    x = [a[: 3 + n % 4] for n, a in enumerate(MANY)] if ragged else MANY
    y = [a[:, 2].cumsum() for a in x] if ragged else MANY[:, :, 2].cumsum(axis=1)
    reg = fit(lstmx.LSTMRegressor(8, target="step", **FAST), x, y)
    found = permutation_importance(reg, x, y, random_state=0)
    assert found.importances_mean[2] > 0.5 > np.abs(found.importances_mean[:2]).max()


def test_a_sequential_with_a_score_of_its_own():
    tokens = np.random.default_rng(0).integers(0, 3, size=(60, 5))
    model = lstmx.Sequential([lstmx.Embedding(3, 4), lstmx.LSTM(4, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
    y = tokens[:, 3].astype(np.float32)
    model.fit(tokens, y, epochs=20, optimizer=lstmx.Adam(0.02), verbose=0)
    found = permutation_importance(model, tokens, y, by="step", random_state=0,
                                   scoring=lambda m, X, y: -np.mean((m.predict(X)[:, 0] - y) ** 2))  # fmt: skip
    assert found.importances_mean.argmax() == 3


def test_an_anomaly_detector_has_a_score_by_name():
    detector = fit(lstmx.LSTMAnomalyDetector(4, max_iter=2, random_state=0), MANY)
    y = np.where(np.arange(150) < 140, 1, -1)
    found = permutation_importance(detector, MANY, y, scoring="roc_auc", random_state=0)
    assert found.importances.shape == (3, 5)
    with pytest.raises(TypeError, match="estimator: got LSTMAnomalyDetector, which has no score"):
        permutation_importance(detector, MANY, y)


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: GridSearchCV(f, {"hidden_size": [2]})])
def test_a_forecaster_reads_no_sequences(wrap):
    with pytest.raises(TypeError, match=r"^estimator: got .*, which forecasts series and reads no sequences X"):
        permutation_importance(wrap(lstmx.LSTMForecaster()), X, X[:, 0])


def test_a_transformer_before_a_classifier():
    with pytest.raises(TypeError, match="estimator: got LSTMTransformer, which has no score"):
        permutation_importance(lstmx.LSTMTransformer(), X, X[:, 0])
    pipe = fit(make_pipeline(lstmx.LSTMTransformer(4, max_iter=2, random_state=0), LogisticRegression()), MANY, ABOVE)
    assert permutation_importance(pipe, MANY, ABOVE, random_state=0).importances.shape == (3, 5)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (X, {"by": "time"}, ValueError, "^by: got 'time', must be one of 'feature', 'step'"),
        (X, {"n_repeats": 0}, ValueError, "^n_repeats: got 0, must be at least 1"),
        (X, {"n_bins": 2}, ValueError, "^n_bins: .*leave it out"),
        (X, {"by": "step", "n_bins": 7}, ValueError, "^n_bins: got 7, must be at most .* the longest sequence, 6"),
        (X, {"layout": "CNT"}, ValueError, "^layout: got 'CNT'"),
        (X, {"scoring": ["r2"]}, TypeError, r"^scoring: got \['r2'\], must be None"),
        (X, {"scoring": lambda m, X, y: {"a": 1}}, TypeError, "^scoring: gave dict, must give one number"),
        (X, {"scoring": lambda m, X, y: np.zeros(3)}, TypeError, "^scoring: gave ndarray, must give one number"),
        (X, {"random_state": "a"}, TypeError, "^random_state: got 'a'"),
        (X[:1], {}, ValueError, "^X: got 1 sequence, must be at least 2"),
        (X[:, :0], {}, ValueError, "^X: sequence 0 has no steps; leave it out"),
        ([X[0], X[1, :0]], {}, ValueError, "^X: sequence 1 has no steps"),
        (np.where(np.arange(40)[:, None, None] == 2, np.nan, X), {}, ValueError, "^X: sequence 2 has no steps"),
        (X[..., None], {}, ValueError, r"^X: got shape \(40, 6, 3, 1\), must be \(n, T, F\)"),
        (X.astype("U5"), {}, TypeError, "^X: got dtype <U5, must be real numbers"),
    ],
)
def test_wrong_arguments_are_explained(given, options, error, message):
    options = {"scoring": lambda m, X, y: 0.0} | options
    with pytest.raises(error, match=message):
        permutation_importance(Linear(WEIGHTS), given, np.zeros(len(given)), **options)


def test_a_score_of_an_unknown_name(classifier):
    with pytest.raises(ValueError, match=r"^scoring: 'acc' is not a valid scoring value"):
        permutation_importance(classifier, MANY, ABOVE, scoring="acc")
