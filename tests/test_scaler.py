"""SequenceScaler against NumPy on concatenated steps, in every form."""

import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lstmx import LSTMTransformer, SequenceScaler

# Two-pass sums of some hundred numbers, in another order: some 100 roundings.
STATISTICS = {"rtol": 1e-13, "atol": 1e-13}
# A subtraction and a division, in float64 and then rounded to the type of the data; what is subtracted cancels.
SCALED = {"float32": {"rtol": 1e-6, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-12}}

LENGTHS = [4, 1, 9, 9, 3]


def generator(seed=0):
    return np.random.default_rng(seed)


def ragged(features=3, dtype="float64", lengths=LENGTHS):
    """Features of other scales and levels."""
    scale = 10.0 ** np.arange(features)
    return [((generator(n).normal(size=(t, features)) + 5) * scale).astype(dtype) for n, t in enumerate(lengths)]


def padded(arrays):
    out = np.full((len(arrays), max(map(len, arrays)), arrays[0].shape[1]), np.nan, arrays[0].dtype)
    for row, a in zip(out, arrays, strict=True):
        row[: len(a)] = a
    return out


def whole(features=3, dtype="float64"):
    return np.stack(ragged(features, dtype, [7] * 6))


def frozen(X):
    for a in X if isinstance(X, list) else [X]:
        a.flags.writeable = False
    return X


def as_objects(arrays):
    out = np.empty(len(arrays), object)
    out[:] = arrays
    return out


# name -> (X of a type, its sequences (T_i, F) as they should be read, the layout)
FORMS = {
    "array": lambda d: (whole(3, d), list(whole(3, d)), "NTC"),
    "padded": lambda d: (padded(ragged(3, d)), ragged(3, d), "NTC"),
    "list": lambda d: (ragged(3, d), ragged(3, d), "NTC"),
    "table": lambda d: (whole(1, d)[:, :, 0], list(whole(1, d)), "NTC"),
    "padded table": lambda d: (padded(ragged(1, d))[:, :, 0], ragged(1, d), "NTC"),
    "flat list": lambda d: ([a[:, 0] for a in ragged(1, d)], ragged(1, d), "NTC"),
    "channels first": lambda d: (whole(3, d).swapaxes(1, 2), list(whole(3, d)), "NCT"),
    "padded channels first": lambda d: (padded(ragged(3, d)).swapaxes(1, 2), ragged(3, d), "NCT"),
    "list channels first": lambda d: ([a.T for a in ragged(3, d)], ragged(3, d), "NCT"),
    "strided": lambda d: (np.repeat(whole(3, d), 2, axis=1)[:, ::2], list(whole(3, d)), "NTC"),
}


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_scaling_in_every_form(form, dtype, with_std, with_mean):
    X, arrays, layout = FORMS[form](dtype)
    X = frozen(X)  # writing to it would raise
    scaler = SequenceScaler(with_mean=with_mean, with_std=with_std, layout=layout).fit(X)
    rows = np.concatenate(arrays).astype(np.float64)
    for attribute, used, wanted in (("mean_", with_mean, rows.mean(axis=0)), ("scale_", with_std, rows.std(axis=0))):
        value = getattr(scaler, attribute)
        if used:
            assert value.dtype == np.float64
            np.testing.assert_allclose(value, wanted, **STATISTICS)
        else:
            assert value is None
    found = scaler.transform(X)
    shift, scale = rows.mean(axis=0) if with_mean else 0, rows.std(axis=0) if with_std else 1
    assert type(found) is type(X) and len(found) == len(X)
    for a, x, array in zip(found, X, arrays, strict=True):
        assert a.dtype == dtype and a.shape == x.shape
        steps = a.T if layout == "NCT" else a
        steps = steps.reshape(len(steps), -1)
        wanted = (array.astype(np.float64) - shift) / scale
        size = 1 if with_std else np.abs(wanted).max()
        tolerance = SCALED[dtype] | {"atol": SCALED[dtype]["atol"] * size}
        np.testing.assert_allclose(steps[: len(array)], wanted, **tolerance)
        assert np.isnan(steps[len(array) :]).all()  # padding stays
    back = scaler.inverse_transform(found)
    assert type(back) is type(X)
    for a, x in zip(back, X, strict=True):
        assert a.dtype == dtype and a.shape == x.shape
        size = np.nanmax(np.abs(x))
        np.testing.assert_allclose(a, x, rtol=SCALED[dtype]["rtol"], atol=SCALED[dtype]["atol"] * size)
    for result in (found, back):
        for a, x in zip(result, X, strict=True):
            assert not np.shares_memory(a, x)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    level=st.floats(-1e6, 1e6),
    size=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
@example(lengths=[1, 1], level=0.0, size=9.0, seed=39916799)  # two numbers that are close to each other
@settings(max_examples=60, deadline=None)
def test_inverse_of_any_numbers(lengths, level, size, seed):
    X = [level + size * generator(seed + n).normal(size=(t, 2)) for n, t in enumerate(lengths)]
    scaler = SequenceScaler().fit(X)
    rows = np.concatenate(scaler.transform(X))
    if len(rows) > 1:
        # Numbers known to 1e-16 of their size, in units of their deviation.
        error = 1e-14 * (1 + np.abs(np.concatenate(X)).max() / scaler.scale_.min())
        np.testing.assert_allclose(rows.mean(axis=0), 0, rtol=0, atol=error)
        np.testing.assert_allclose(rows.std(axis=0), 1, rtol=0, atol=error)
    for a, x in zip(scaler.inverse_transform(scaler.transform(X)), X, strict=True):
        np.testing.assert_allclose(a, x, rtol=0, atol=1e-15 * (abs(level) + 10 * size))


def test_object_arrays_and_tuples_of_sequences():
    arrays = ragged()
    scaler = SequenceScaler().fit(arrays)
    for form in (as_objects(arrays), tuple(arrays)):
        other = SequenceScaler().fit(form)
        np.testing.assert_array_equal(other.mean_, scaler.mean_)
        for a, b in zip(other.transform(form), scaler.transform(arrays), strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_scaler_takes_every_form_of_the_same_features():
    arrays = ragged()
    scaler = SequenceScaler().fit(padded(arrays))
    wanted = scaler.transform(arrays)
    assert isinstance(wanted, list)
    for row, a in zip(scaler.transform(padded(arrays)), wanted, strict=True):
        np.testing.assert_array_equal(row[: len(a)], a)
    fresh = [a + 1 for a in ragged(3, "float64", [2, 30])]  # longer than any before
    for a, x in zip(scaler.transform(fresh), fresh, strict=True):
        np.testing.assert_allclose(a, (x - scaler.mean_) / scaler.scale_, **SCALED["float64"])
    with pytest.raises(ValueError, match=r"2 features .*fitted with 3"):
        scaler.transform([a[:, :2] for a in arrays])
    with pytest.raises(ValueError, match="features"):
        scaler.inverse_transform(padded(arrays)[:, :, :2])


@pytest.mark.parametrize("dtype", [np.int64, np.float16, bool, ">f8", ">f4"])
def test_other_types(dtype):
    X = np.round(generator().normal(size=(4, 5, 2)).clip(0) * 3).astype(dtype)
    scaler = SequenceScaler().fit(X)
    rows = X.reshape(-1, 2).astype(np.float64)
    found = scaler.transform(X)
    assert found.dtype.name == ("float32" if dtype == ">f4" else "float64")
    np.testing.assert_allclose(found.reshape(-1, 2), (rows - rows.mean(axis=0)) / rows.std(axis=0), **SCALED["float32"])


def test_types_of_a_mixed_list_are_kept():
    X = [a.astype(d) for a, d in zip(ragged(), ["float32", "float64"] * 3, strict=False)]
    assert [a.dtype for a in SequenceScaler().fit(X).transform(X)] == [a.dtype for a in X]


def test_memory_order_does_not_matter():
    X = whole()
    scalers = [SequenceScaler().fit(form) for form in (X, np.asfortranarray(X), list(X), padded(list(X)))]
    scalers.append(SequenceScaler(layout="NCT").fit(np.ascontiguousarray(X.swapaxes(1, 2))))
    for scaler in scalers[1:]:
        np.testing.assert_array_equal(scaler.mean_, scalers[0].mean_)
        np.testing.assert_array_equal(scaler.scale_, scalers[0].scale_)


@pytest.mark.parametrize("form", ["list", "padded"])
def test_weights_count_sequences_as_often(form):
    arrays, weight = ragged(), np.array([2, 0, 1, 3, 1])
    repeated = [a for a, w in zip(arrays, weight, strict=True) for _ in range(w)]
    X, many = (arrays, repeated) if form == "list" else (padded(arrays), padded(repeated))
    found, wanted = SequenceScaler().fit(X, sample_weight=weight), SequenceScaler().fit(many)
    np.testing.assert_allclose(found.mean_, wanted.mean_, **STATISTICS)
    np.testing.assert_allclose(found.scale_, wanted.scale_, **STATISTICS)
    assert np.abs(found.mean_ - SequenceScaler().fit(X).mean_).min() > 1e-3
    same = SequenceScaler().fit(X, sample_weight=np.full(5, 0.3))
    np.testing.assert_allclose(same.scale_, SequenceScaler().fit(X).scale_, **STATISTICS)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(np.zeros(5), "zero"), (-np.ones(5), "at least 0"), (np.ones(4), "inconsistent"), (np.ones((5, 1)), "1D"),
     (np.full(5, np.nan), "NaN")],
)  # fmt: skip
def test_weights_that_are_none(weight, message):
    with pytest.raises(ValueError, match=message):
        SequenceScaler().fit(ragged(), sample_weight=weight)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9, 1e-300])
def test_a_constant_feature_is_shifted_only(value):
    X = np.stack([generator().normal(size=(4, 5)), np.full((4, 5), value)], axis=2)
    scaler = SequenceScaler().fit(X)
    assert scaler.scale_[1] == 1
    # The mean is off by its own rounding.
    np.testing.assert_allclose(scaler.transform(X)[:, :, 1], 0, rtol=0, atol=1e-15 * abs(value))
    np.testing.assert_allclose(scaler.inverse_transform(scaler.transform(X)), X, rtol=1e-14, atol=1e-15)
    assert SequenceScaler().fit(X[:1, :1]).scale_.tolist() == [1, 1]  # a single step


def test_large_levels_are_exact():
    # One pass, mean of squares less square of mean, would give nonsense.
    X = 1e8 + generator().normal(size=(50, 20, 2))
    wanted = (X - 1e8).reshape(-1, 2).std(axis=0)
    np.testing.assert_allclose(SequenceScaler().fit(X).scale_, wanted, rtol=1e-7, atol=0)
    # float32 data are summed in float64.
    X = (1000 + generator().normal(size=(2000, 50, 1))).astype(np.float32)
    scaler = SequenceScaler().fit(X)
    np.testing.assert_allclose(scaler.mean_, X.astype(np.float64).mean(axis=(0, 1)), rtol=1e-13, atol=0)


def test_many_sequences_are_read_in_parts(monkeypatch):
    from lstmx.data import panel

    X = ragged(3, "float64", [3, 8, 1, 5] * 10)
    wanted, padded_wanted = SequenceScaler().fit(X), SequenceScaler().fit(padded(X))
    monkeypatch.setattr(panel, "_BLOCK", 50)
    for found in (SequenceScaler().fit(X), SequenceScaler().fit(padded(X))):
        for other in (wanted, padded_wanted):
            np.testing.assert_allclose(found.mean_, other.mean_, **STATISTICS)
            np.testing.assert_allclose(found.scale_, other.scale_, **STATISTICS)


def test_one_feature_is_standard_scaling_of_all_steps():
    X = whole(1)[:, :, 0]
    wanted = StandardScaler().fit(X.reshape(-1, 1))
    found = SequenceScaler().fit(X)
    np.testing.assert_allclose(found.mean_, wanted.mean_, **STATISTICS)
    scaled = wanted.transform(X.reshape(-1, 1))
    np.testing.assert_allclose(found.transform(X).reshape(-1, 1), scaled, **SCALED["float64"])


def test_frames_and_names():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    X = whole(1)[:, :, 0]
    names = [f"t{k}" for k in range(X.shape[1])]
    frame = pandas.DataFrame(X, columns=names)
    scaler = SequenceScaler().fit(frame)
    wanted = SequenceScaler().fit(X).transform(X)
    np.testing.assert_array_equal(scaler.transform(frame), wanted)
    assert scaler.get_feature_names_out().tolist() == names
    table = scaler.set_output(transform="pandas").transform(frame)
    assert isinstance(table, pandas.DataFrame) and list(table.columns) == names
    np.testing.assert_array_equal(table.to_numpy(), wanted)
    other = polars.DataFrame(X, schema=names, orient="row")
    np.testing.assert_array_equal(SequenceScaler().fit(other).transform(other), wanted)
    three = SequenceScaler().fit(whole())
    assert three.n_features_in_ == 3
    assert three.get_feature_names_out().tolist() == ["x0", "x1", "x2"]
    assert three.get_feature_names_out(["a", "b", "c"]).tolist() == ["a", "b", "c"]
    frames = [pandas.DataFrame(a, columns=["u", "v", "w"]) for a in ragged()]
    for a, b in zip(SequenceScaler().fit_transform(frames), SequenceScaler().fit_transform(ragged()), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([np.zeros((3, 2)), np.zeros((0, 2))], r"^X\[1\]: sequence 1 has no steps"),
        (np.full((2, 3, 1), np.nan), "^X: sequence 0 has no steps, only NaN"),
        (np.array([[[1.0], [np.nan], [2]]]), "^X: contains NaN inside sequence 0, step 1"),
        (np.array([[[1.0], [np.inf], [2]]]), "^X: contains infinity"),
        (np.zeros((2, 3, 4, 5)), r"^X: got shape \(2, 3, 4, 5\)"),
        ([np.zeros((3, 2)), np.zeros((3, 4))], r"^X\[1\]: got 4 features, but X\[0\] has 2"),
    ],
)
def test_data_that_do_not_fit(X, message):
    with pytest.raises(ValueError, match=message):
        SequenceScaler().fit(X)


@pytest.mark.parametrize(
    ("name", "value"), [("with_mean", 1), ("with_std", "yes"), ("layout", "TNC"), ("layout", None)]
)
def test_parameters(name, value):
    with pytest.raises((ValueError, TypeError), match=f"^{name}:"):
        SequenceScaler(**{name: value}).fit(whole())


def test_life():
    for name in ("transform", "inverse_transform"):
        with pytest.raises(NotFittedError):
            getattr(SequenceScaler(), name)(whole())
    scaler = SequenceScaler(with_mean=False).fit(whole(), y="ignored")
    copy = pickle.loads(pickle.dumps(scaler))
    np.testing.assert_array_equal(copy.transform(whole()), scaler.transform(whole()))
    assert clone(scaler).get_params() == scaler.get_params() and not hasattr(clone(scaler), "scale_")
    again = scaler.fit(whole(2))  # what was fitted before is forgotten
    assert again is scaler and scaler.n_features_in_ == 2 and scaler.scale_.shape == (2,)
    np.testing.assert_array_equal(scaler.scale_, SequenceScaler().fit(whole(2)).scale_)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_in_pipelines():
    y = np.array([0, 1] * 20)
    X = [(generator(n).normal(size=(5 + n % 7, 2)) + 3 * k) * [1, 1000] for n, k in enumerate(y)]
    parameters = {"hidden_size": 4, "random_state": 0, "max_iter": 30, "tol": 1e-2}
    pipe = make_pipeline(SequenceScaler(), LSTMTransformer(standardize=False, pooling="mean", **parameters),
                         LogisticRegression())  # fmt: skip
    assert pipe.fit(X, y).score(X, y) > 0.9
    # What the network is given then is what it makes of the data itself.
    alone = make_pipeline(LSTMTransformer(pooling="mean", **parameters), LogisticRegression()).fit(X, y)
    # Rounding of the inputs, grown by 30 epochs of training.
    np.testing.assert_allclose(pipe.predict_proba(X), alone.predict_proba(X), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(pipe[:-1].transform(X[:3]), pipe[:-1].transform(X)[:3])
    two = make_pipeline(SequenceScaler(with_std=False), SequenceScaler(with_mean=False)).fit(X)
    for a, x, one in zip(two.inverse_transform(two.transform(X)), X, SequenceScaler().fit_transform(X), strict=True):
        np.testing.assert_allclose(a, x, rtol=1e-12, atol=1e-9)  # numbers of order 1e4
        assert one.shape == a.shape
    for a, one in zip(two.transform(X), SequenceScaler().fit_transform(X), strict=True):
        np.testing.assert_allclose(a, one, **SCALED["float64"])
