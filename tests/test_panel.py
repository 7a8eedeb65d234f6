"""Panels: one meaning for every form of X, and an error that helps for everything else.

Results of different forms are compared to the bit: a form is how numbers are stored, so nothing may depend on it.
"""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layouts import moved

pytest.importorskip("sklearn")
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMRegressor,
    LSTMTransformer,
    SequenceImputer,
    SequenceScaler,
)
from lstmx.data import panel

QUICK = {"hidden_size": 5, "max_iter": 2, "batch_size": 8, "random_state": 0}
# Sums of some 100 numbers in float64, in another order than NumPy's on the concatenated data: 100 * 1.1e-16.
STATISTICS = {"rtol": 2e-14, "atol": 0}


def data(features=2, count=20, steps=7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, steps, features))
    lengths = rng.integers(2, steps + 1, size=count)
    lengths[0] = steps
    return x, lengths, rng.permutation(np.arange(count) % 3)


def ragged(x, lengths):
    return [a[:n] for a, n in zip(x, lengths, strict=True)]


def padded(x, lengths):
    out = x.copy()
    out[np.arange(x.shape[1]) >= lengths[:, None]] = np.nan
    return out


def fitted(cls, X, y=None, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # two epochs are enough to compare
        return cls(**QUICK | parameters).fit(X, y)


def bits(estimator, X):
    """What the estimator says about X, and its parameters: all as bytes."""
    found = estimator.predict_proba(X)
    return found.dtype.str, found.tobytes(), [p.tobytes() for p in estimator.parameters_.values()]


def objects(arrays):
    out = np.empty(len(arrays), dtype=object)
    out[:] = arrays
    return out


WHOLE = {
    "an equal-length list": list,
    "a tuple": tuple,
    "an object array": lambda x: objects(list(x)),
    "an object array of numbers": lambda x: np.array(list(x), dtype=object),
    "nested lists": lambda x: x.tolist(),
    "a list of nested lists and arrays": lambda x: [a.tolist() if n % 2 else a for n, a in enumerate(x)],
    "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=1), 3, axis=2)[:, ::2, ::3],
    "reversed": lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": moved,
    "windows of a view": lambda x: np.lib.stride_tricks.as_strided(x, x.shape, x.strides),
    "a subclass": lambda x: x.view(type("Own", (np.ndarray,), {})),
    "padded beyond the longest": lambda x: np.concatenate([x, np.full((len(x), 3, x.shape[2]), np.nan)], axis=1),
}


@pytest.mark.parametrize("form", WHOLE)
def test_every_form_of_whole_sequences_has_the_bits_of_the_plain_array(form):
    x, _, y = data()
    want = bits(fitted(LSTMClassifier, x, y), x)
    same = WHOLE[form](x)
    assert bits(fitted(LSTMClassifier, same, y), same) == want
    # Fitted in one form, used in the other.
    assert bits(fitted(LSTMClassifier, same, y), x) == want
    assert bits(fitted(LSTMClassifier, x, y), same) == want


RAGGED = {
    "an object array": objects,
    "nested lists": lambda arrays: [a.tolist() for a in arrays],
    "read-only, strided and byte-swapped": lambda arrays: [
        np.repeat(a, 2, axis=0).astype(">f8")[::2] if n % 2 else np.asfortranarray(a) for n, a in enumerate(arrays)
    ],
    "padded with NaN": lambda arrays: padded(*restore(arrays)),
    "padded with NaN each": lambda arrays: [np.concatenate([a, np.full((n % 3, 2), np.nan)])
                                            for n, a in enumerate(arrays)],
}  # fmt: skip


def restore(arrays):
    x, lengths, _ = data()
    return x, lengths


@pytest.mark.parametrize("form", RAGGED)
def test_every_form_of_ragged_sequences_has_the_bits_of_the_list(form):
    x, lengths, y = data()
    plain = ragged(x, lengths)
    want = bits(fitted(LSTMClassifier, plain, y), plain)
    same = RAGGED[form](plain)
    assert bits(fitted(LSTMClassifier, same, y), same) == want
    assert bits(fitted(LSTMClassifier, plain, y), same) == want


@pytest.mark.parametrize("dtype", ["float16", "int8", "int64", "uint16", "bool"])
def test_other_real_types_have_the_bits_of_their_values_in_float64(dtype):
    x, _, y = data()
    small = (x > 0).astype(dtype) if dtype == "bool" else np.round(x * 8 + 40).astype(dtype)
    assert len(np.unique(small)) > 1
    want = bits(fitted(LSTMClassifier, small.astype(np.float64), y), small.astype(np.float64))
    assert bits(fitted(LSTMClassifier, small, y), small) == want


FLAT = {
    "(n, T)": lambda x: x[:, :, 0],
    "nested lists of numbers": lambda x: x[:, :, 0].tolist(),
    "an object array of numbers": lambda x: x[:, :, 0].astype(object),
    "Fortran": lambda x: np.asfortranarray(x[:, :, 0]),
    "a list of vectors": lambda x: list(x[:, :, 0]),
}


@pytest.mark.parametrize("form", FLAT)
def test_a_matrix_is_sequences_of_one_feature(form):
    x, _, y = data(features=1)
    want = bits(fitted(LSTMClassifier, x, y), x)
    assert bits(fitted(LSTMClassifier, FLAT[form](x), y), FLAT[form](x)) == want
    assert bits(fitted(LSTMClassifier, FLAT[form](x), y), x) == want


def test_a_list_of_vectors_and_a_padded_matrix_are_ragged_sequences_of_one_feature():
    x, lengths, y = data(features=1)
    plain = ragged(x, lengths)
    want = bits(fitted(LSTMClassifier, plain, y), plain)
    vectors, matrix = [a[:, 0] for a in plain], padded(x, lengths)[:, :, 0]
    assert bits(fitted(LSTMClassifier, vectors, y), vectors) == want
    assert bits(fitted(LSTMClassifier, matrix, y), matrix) == want
    lists = [a.tolist() for a in vectors]
    assert bits(fitted(LSTMClassifier, lists, y), lists) == want


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_is_the_matrix_it_holds(library):
    frames = pytest.importorskip(library)
    x, lengths, y = data(features=1)
    names = [f"t{t}" for t in range(x.shape[1])]
    for matrix in (x[:, :, 0], padded(x, lengths)[:, :, 0]):
        columns = dict(zip(names, matrix.T, strict=True))
        frame = frames.DataFrame(columns)
        estimator = fitted(LSTMClassifier, frame, y)
        assert bits(estimator, frame) == bits(fitted(LSTMClassifier, matrix, y), matrix)
        # Names of columns are scikit-learn's affair, which knows those of polars in some versions.
        if library == "polars" and not hasattr(estimator, "feature_names_in_"):
            continue
        assert estimator.feature_names_in_.tolist() == names
        with pytest.raises(ValueError, match="feature names"):
            estimator.predict(frames.DataFrame(dict(zip(names[::-1], matrix.T, strict=True))))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_list_of_frames_is_a_list_of_their_values(library):
    frames = pytest.importorskip(library)
    x, lengths, y = data()
    plain = ragged(x, lengths)
    listed = [frames.DataFrame({"a": a[:, 0], "b": a[:, 1]}) for a in plain]
    want = bits(fitted(LSTMClassifier, plain, y), plain)
    assert bits(fitted(LSTMClassifier, listed, y), listed) == want
    whole = [frames.DataFrame({"a": a[:, 0], "b": a[:, 1]}) for a in x]
    assert bits(fitted(LSTMClassifier, whole, y), whole) == bits(fitted(LSTMClassifier, x, y), x)


def test_nullable_columns_of_pandas_are_padding_at_the_end():
    pandas = pytest.importorskip("pandas")
    x, lengths, y = data(features=1)
    matrix = padded(x, lengths)[:, :, 0]
    frame = pandas.DataFrame(matrix).astype("Float64")
    assert frame.isna().to_numpy().any()
    frame.columns = frame.columns.astype(str)
    assert bits(fitted(LSTMClassifier, frame, y), frame) == bits(fitted(LSTMClassifier, matrix, y), matrix)


def test_features_before_time_are_read_with_layout_nct():
    x, lengths, y = data()
    plain = ragged(x, lengths)
    for ntc, nct in ((x, x.swapaxes(1, 2)), (plain, [a.T for a in plain]),
                     (padded(x, lengths), padded(x, lengths).swapaxes(1, 2).copy())):  # fmt: skip
        want = bits(fitted(LSTMClassifier, ntc, y), ntc)
        assert bits(fitted(LSTMClassifier, nct, y, layout="NCT"), nct) == want
    # One feature has no place to be wrong.
    flat = x[:, :, 0]
    assert bits(fitted(LSTMClassifier, flat, y, layout="NCT"), flat) == bits(fitted(LSTMClassifier, flat, y), flat)


def test_collections_of_aeon_are_read_with_layout_nct():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what aeon imports
        datasets = pytest.importorskip("aeon.datasets")
        X, y = datasets.load_basic_motions(split="train")
        unequal, labels = datasets.load_from_ts_file(_japanese_vowels(datasets))
    assert X.shape[1:] == (6, 100)
    estimator = fitted(LSTMClassifier, X, y, layout="NCT")
    assert estimator.n_features_in_ == 6
    ntc = X.swapaxes(1, 2)
    assert bits(estimator, X) == bits(fitted(LSTMClassifier, ntc, y), ntc)
    assert isinstance(unequal, list) and len({a.shape[1] for a in unequal}) > 1
    estimator = fitted(LSTMClassifier, unequal, labels, layout="NCT")
    assert estimator.n_features_in_ == 12
    ntc = [a.T for a in unequal]
    assert bits(estimator, unequal) == bits(fitted(LSTMClassifier, ntc, labels), ntc)


def _japanese_vowels(datasets):
    import pathlib

    return pathlib.Path(datasets.__file__).parent / "data" / "JapaneseVowels" / "JapaneseVowels_TRAIN.ts"


def test_float32_stays_float32_in_model_predictions_and_features():
    x, lengths, y = data()
    for X in (x, ragged(x, lengths), padded(x, lengths), x[:, :, 0]):
        single = [a.astype(np.float32) for a in X] if isinstance(X, list) else X.astype(np.float32)
        for want, given_ in (("float32", single), ("float64", X)):
            classifier = fitted(LSTMClassifier, given_, y)
            assert {p.dtype.name for p in classifier.parameters_.values()} == {want}
            assert classifier.predict_proba(given_).dtype == want
            assert fitted(LSTMRegressor, given_, y * 1.0).predict(given_).dtype == want
            assert fitted(LSTMTransformer, given_).transform(given_).dtype == want
            scaled = SequenceScaler().fit(given_).transform(given_)
            assert {a.dtype.name for a in scaled} == {want}
    # float16 and integers are not float32: their values need float64's room after scaling no less than they do here.
    assert panel.read(x.astype(np.float16)).dtype == np.float64
    assert panel.read([x[0].astype(np.float32), x[1]]).dtype == np.float64


def test_the_model_computes_in_its_own_type_whatever_is_predicted():
    x, _, y = data()
    single = x.astype(np.float32)
    estimator = fitted(LSTMClassifier, single, y)
    # single in float64 has the same values, so the same bits come out.
    assert np.array_equal(estimator.predict_proba(single.astype(np.float64)), estimator.predict_proba(single))
    assert estimator.predict_proba(x).dtype == np.float32


def test_inputs_are_not_changed():
    x, lengths, y = data()
    plain, holed = ragged(x, lengths), padded(x, lengths)
    before = [a.tobytes() for a in (*plain, holed, x)]
    for X in (plain, holed, x):
        fitted(LSTMClassifier, X, y).predict(X)
        SequenceScaler().fit_transform(X)
        fitted(LSTMAnomalyDetector, X).predict(X)
    assert [a.tobytes() for a in (*plain, holed, x)] == before


# The scaler gives back what it got.


def test_the_scaler_keeps_form_and_padding():
    x, lengths, _ = data()
    holed = padded(x, lengths)
    want = SequenceScaler().fit_transform(ragged(x, lengths))
    found = SequenceScaler().fit_transform(holed)
    assert np.array_equal(np.isnan(found), np.isnan(holed))
    assert all(np.array_equal(a[:n], b) for a, b, n in zip(found, want, lengths, strict=True))
    turned = SequenceScaler(layout="NCT").fit_transform(holed.swapaxes(1, 2))
    assert np.array_equal(turned, found.swapaxes(1, 2), equal_nan=True)
    listed = SequenceScaler(layout="NCT").fit_transform([a.T for a in ragged(x, lengths)])
    assert all(np.array_equal(a.T, b) for a, b in zip(listed, want, strict=True))
    flat = holed[:, :, 0]
    assert SequenceScaler().fit_transform(flat).shape == flat.shape
    vectors = [a[:, 0] for a in ragged(x, lengths)]
    assert [a.shape for a in SequenceScaler().fit_transform(vectors)] == [a.shape for a in vectors]


def test_the_scaler_is_undone_by_its_inverse():
    x, lengths, _ = data()
    for X in (1e3 * x + 5e4, padded(x, lengths), x[:, :, 0]):
        scaler = SequenceScaler().fit(X)
        # Two roundings of numbers up to 1e2 deviations from 0: 1e2 * 2 * 1.1e-16, relative to the offset.
        np.testing.assert_allclose(scaler.inverse_transform(scaler.transform(X)), X, rtol=1e-13, atol=1e-13)


# Statistics.


def on_concatenated_data(X, weight=None):
    rows = np.concatenate(X).astype(np.float64)
    weight = np.ones(len(X)) if weight is None else weight
    w = np.repeat(weight, [len(a) for a in X])
    mean = np.average(rows, axis=0, weights=w)
    return mean, np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=w))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_are_those_of_all_steps(dtype, weighted):
    x, lengths, _ = data(features=3)
    weight = np.random.default_rng(1).uniform(0, 3, size=len(x)) if weighted else None
    x = x.astype(dtype) + np.asarray([0, 5, -3], dtype)
    plain = ragged(x, lengths)
    want = on_concatenated_data(plain, weight)
    for X in (plain, padded(x, lengths)):
        found = panel.statistics(panel.read(X), weight)
        assert [a.dtype.name for a in found] == ["float64", "float64"]
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, **STATISTICS)


def test_a_weight_of_two_is_a_sequence_given_twice_and_of_zero_one_left_out():
    x, lengths, _ = data()
    plain = ragged(x, lengths)
    weight = np.arange(len(plain)) % 3
    repeated = [a for a, w in zip(plain, weight, strict=True) for _ in range(w)]
    for a, b in zip(panel.statistics(panel.read(plain), weight), panel.statistics(panel.read(repeated)), strict=True):
        np.testing.assert_allclose(a, b, **STATISTICS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_of_large_offsets_keep_their_digits(dtype):
    """The deviation of numbers near 1e6 is exact; one pass, E x^2 - (E x)^2, would lose it all."""
    rng = np.random.default_rng(0)
    offset = 1e6 if dtype == "float32" else 1e9
    x = (offset + rng.integers(-4, 5, size=(50, 40, 1))).astype(dtype)  # exact in either type
    mean, deviation = panel.statistics(panel.read(x))
    centred = x.astype(np.float64) - offset  # exact
    # The mean is rounded once: half a ULP of it, which the deviation sees only squared.
    np.testing.assert_allclose(mean, centred.mean() + offset, rtol=1e-15 * 40, atol=0)
    np.testing.assert_allclose(deviation, [centred.std()], rtol=1e-9, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, -1e6 / 3, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_feature_has_deviation_one(value, dtype):
    x = data()[0].astype(dtype)
    x[:, :, 1] = value
    mean, deviation = panel.statistics(panel.read(x), np.random.default_rng(0).uniform(1, 2, len(x)))
    assert deviation[1] == 1
    np.testing.assert_allclose(mean[1], x[0, 0, 1], rtol=1e-14, atol=0)
    assert 0.5 < deviation[0] < 2


def test_a_feature_that_hardly_varies_is_not_constant():
    x = data()[0]
    x[:, :, 1] *= 1e-12
    deviation = panel.statistics(panel.read(x))[1]
    assert 5e-13 < deviation[1] < 2e-12


@pytest.mark.parametrize("large", [1e155, -1e300, 1e308])
def test_values_whose_squares_overflow_are_an_error(large):
    """Not an infinite deviation, by which every value would become 0."""
    x = data()[0]
    x[0, 0, 1], x[1, 0, 1] = large, -large
    for name in ("X", "y"):
        with pytest.raises(ValueError, match=f"^{name}: the values of feature 1 are too large to scale; divide"):
            panel.statistics(panel.read(x), name=name)


def test_statistics_do_not_depend_on_how_many_sequences_are_looked_at_together(monkeypatch):
    x, lengths, _ = data()
    want = panel.statistics(panel.read(ragged(x, lengths)))
    monkeypatch.setattr(panel, "_BLOCK", 20)
    for X in (ragged(x, lengths), padded(x, lengths)):
        for a, b in zip(panel.statistics(panel.read(X)), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-15)  # sums of 100 in another order; means near 0


# Errors.

THREE = np.zeros((4, 5, 3))


def nan_at(*place, shape=(4, 5, 2)):
    x = np.ones(shape)
    x[place] = np.nan
    return x


ERRORS = {
    "one dimension": (np.zeros(6), ValueError,
                      r"^X: got shape \(6,\), .*one sequence of 6 steps is X\[None, :, None\]; 6 sequences of one step "
                      r"are X\[:, None, None\]"),
    "four dimensions": (np.zeros((2, 3, 4, 5)), ValueError, r"^X: got shape \(2, 3, 4, 5\), .*\(n, T, F\)"),
    "a number": (3.0, ValueError, r"^X: got shape \(\)"),
    "nothing": ([], ValueError, r"^X: holds no sequences"),
    "no sequences": (np.zeros((0, 4, 2)), ValueError, r"^X: got shape \(0, 4, 2\), which holds no numbers"),
    "no steps": (np.zeros((3, 0, 2)), ValueError, r"^X: got shape \(3, 0, 2\), which holds no numbers"),
    "no features": (np.zeros((3, 4, 0)), ValueError, r"^X: got shape \(3, 4, 0\), which holds no numbers"),
    "no features in a list": ([np.zeros((3, 0)), np.zeros((2, 0))], ValueError, r"^X\[0\]: .*no features"),
    "NaN inside": (nan_at(2, 3, 1), ValueError, r"^X: contains NaN inside sequence 2, step 3, feature 1"),
    "NaN at the start": (nan_at(1, 0), ValueError, r"^X: contains NaN inside sequence 1, step 0, feature 0"),
    "one feature of the last step": (nan_at(1, 4, 1), ValueError, r"^X: contains NaN inside sequence 1, step 4, feat"),
    "NaN inside before padding": (nan_at(2, [1, 4]), ValueError, r"^X: contains NaN inside sequence 2, step 1"),
    "NaN inside of a list": ([np.ones((3, 2)), nan_at(0, 1, shape=(3, 2))], ValueError,
                             r"^X\[1\]: contains NaN inside sequence 1, step 0, feature 1"),
    "only NaN": (nan_at(2), ValueError, r"^X: sequence 2 has no steps, only NaN; leave it out"),
    "only NaN in a list": ([np.ones((3, 1)), np.full((2, 1), np.nan)], ValueError,
                           r"^X\[1\]: sequence 1 has no steps, only NaN; leave it out"),
    "an empty sequence": ([np.ones((3, 1)), np.ones((2, 1)), np.ones((0, 1))], ValueError,
                          r"^X\[2\]: sequence 2 has no steps; leave it out"),
    "infinity": (np.where(nan_at(1, 2, 1) == 1, 1.0, np.inf), ValueError,
                 r"^X: contains infinity .*in sequence 1, step 2, feature 1"),
    "infinity beside padding": (np.where(nan_at(1, 4, 1) == 1, nan_at(3, 4), -np.inf), ValueError,
                                r"^X: contains infinity .*in sequence 1, step 4, feature 1"),
    "infinity in a list": ([np.ones((3, 1)), np.full((2, 1), np.inf)], ValueError,
                           r"^X\[1\]: contains infinity .*in sequence 1, step 0"),
    "too large for float64": (np.full((2, 3, 1), np.longdouble("1e400") if np.finfo(np.longdouble).maxexp > 1024
                                      else np.inf), ValueError, r"^X: contains infinity or a value too large"),
    "different features": ([np.zeros((3, 2)), np.zeros((3, 3))], ValueError,
                           r"^X\[1\]: got 3 features, but X\[0\] has 2; features come last"),
    "different dimensions": ([np.zeros((3, 2)), np.zeros(3)], ValueError,
                             r"^X\[1\]: got shape \(3,\), must be \(T, F\)"),
    "batches in a list": ([np.zeros((1, 3, 2))], ValueError, r"^X\[0\]: got shape \(1, 3, 2\), must be \(T, F\)"),
    "a jagged sequence": ([[[1.0], [2.0]], [[1.0], [2.0, 3.0]]], ValueError, r"^X\[1\]: not a rectangular array"),
    "strings": (np.full((2, 3, 1), "1.5"), TypeError, r"^X: got dtype <U3, must be real numbers"),
    "strings in a list": ([["a", "b"], ["c"]], TypeError, r"^X\[0\]: got dtype <U1, must be real numbers"),
    "strings as objects": (np.full((2, 3, 1), "1.5", object), TypeError, r"^X: got dtype object, must be real numbers"),
    "None": (None, TypeError, r"^X: got dtype object, must be real numbers"),
    "None in a list": ([np.zeros((2, 1)), None], TypeError, r"^X\[1\]: got dtype object, must be real numbers"),
    "complex numbers": (np.zeros((2, 3, 1), complex), TypeError, r"^X: got dtype complex128, must be real numbers"),
    "dates": (np.zeros((2, 3, 1), "M8[s]"), TypeError, r"^X: got dtype datetime64\[s\], must be real numbers"),
    "integers beyond floats": ([[10**400, 1], [2, 3]], TypeError, r"^X: got dtype object"),
    "a masked array": (np.ma.masked_equal(THREE, 1), TypeError, r"^X: got a masked array"),
    "masked arrays in a list": ([np.ma.masked_equal(THREE[0], 1)], TypeError, r"^X\[0\]: got a masked array"),
    "sparse": (sparse.csr_matrix(THREE[0]), TypeError, r"^X: got dtype object"),
    "a dict": ({"a": [1.0]}, TypeError, r"^X: got dtype object"),
    "a generator": ((k for k in range(3)), TypeError, r"^X: got dtype object"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error_messages_name_the_place_and_the_fix(case):
    X, error, match = ERRORS[case]
    with pytest.raises(error, match=match):
        panel.read(X)


# What scikit-learn's own checks refuse, it refuses in its own words.
OWN_WORDS = {"a number", "nothing", "None", "sparse", "a dict", "a generator", "integers beyond floats",
             "too large for float64", "strings"}  # fmt: skip


@pytest.mark.parametrize("case", sorted(set(ERRORS) - OWN_WORDS))
@pytest.mark.parametrize("cls", [LSTMClassifier, LSTMAnomalyDetector, SequenceScaler])
def test_estimators_give_the_same_messages(case, cls):
    X, error, match = ERRORS[case]
    with pytest.raises(error, match=match):
        cls().fit(X, np.arange(len(X)) % 2)


@pytest.mark.parametrize("case", sorted(OWN_WORDS - {"integers beyond floats"}))  # an OverflowError of scikit-learn's
def test_estimators_refuse_what_is_no_panel(case):
    X, _, _ = ERRORS[case]
    with pytest.raises((TypeError, ValueError)):
        SequenceScaler().fit(X)


@pytest.mark.parametrize("cls", [LSTMClassifier, SequenceScaler])
def test_a_masked_matrix_is_refused_though_scikit_learn_would_drop_the_mask(cls):
    X = np.ma.masked_greater(data()[0][:, :, 0], 1)
    with pytest.raises(TypeError, match=r"^X: got a masked array, whose mask would be lost"):
        cls().fit(X, data()[2])


def test_a_sparse_matrix_is_refused():
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        LSTMClassifier().fit(sparse.csr_matrix(data()[0][:, :, 0]), data()[2])


def test_two_dimensions_for_a_model_of_several_features_show_both_readings():
    x, _, y = data(features=3)
    estimator = fitted(LSTMClassifier, x, y)
    with pytest.raises(ValueError) as caught:
        estimator.predict(np.zeros((9, 3)))  # what people write who mean one sequence
    message = str(caught.value)
    assert message.startswith("X: got shape (9, 3), but the model takes 3 features, so (n, T, 3) is expected")
    assert "one sequence of 9 steps and 3 features, X[None]" in message
    assert "9 sequences of 3 steps and one feature, X[:, :, None]" in message
    # The fix that it shows is one.
    assert estimator.predict(np.zeros((9, 3))[None]).shape == (1,)


@pytest.mark.parametrize("layout, other", [("NTC", "NCT"), ("NCT", "NTC")])
def test_a_swapped_layout_is_named_in_the_error(layout, other):
    x, _, y = data(features=2)
    right = x if layout == "NTC" else x.swapaxes(1, 2)
    estimator = fitted(LSTMClassifier, right, y, layout=layout)
    with pytest.raises(ValueError, match=rf"^X: got 7 features .* fitted with 2; .*set layout=\"{other}\""):
        estimator.predict(right.swapaxes(1, 2))
    with pytest.raises(ValueError, match=r"^X: got 4 features .* fitted with 2$"):
        estimator.predict(np.zeros((3, 4, 4)))


# Features before time, unsaid.


def series(count=12, channels=3, steps=60, seed=0):
    """(n, C, T): noisy waves, and the levels of channels differ."""
    rng = np.random.default_rng(seed)
    waves = np.sin(
        np.arange(steps) * rng.uniform(0.2, 0.6, size=(count, channels, 1)) + rng.uniform(0, 6, (count, 1, 1))
    )
    return waves + 0.3 * rng.normal(size=waves.shape) + 10 * np.arange(channels)[:, None]


SWAPPED = {
    "waves": series,
    "one channel": lambda: series(channels=1),
    "a few sequences": lambda: series(count=2),
    "a list": lambda: list(series()),
    "a random walk": lambda: np.random.default_rng(0).normal(size=(8, 6, 50)).cumsum(axis=2),
    "offsets that all share": lambda: series() + 1000 * np.sin(np.arange(60)),
    "float32": lambda: series().astype(np.float32),
    "padded": lambda: padded(series().swapaxes(1, 2), np.r_[60, 30 + np.arange(11)]).swapaxes(1, 2),
    "padded noise": lambda: padded(np.random.default_rng(0).normal(size=(9, 20, 6)), 12 + np.arange(9)).swapaxes(1, 2),
}


@pytest.mark.parametrize("case", SWAPPED)
def test_features_that_look_like_steps_raise_an_alarm(case):
    X = SWAPPED[case]()
    alarm = r'^X: got \d+ sequences that layout="NTC" reads as \d+ steps of \d+ features, but .*set layout="NCT"'
    if case.startswith("padded"):
        with pytest.raises(
            ValueError, match=r'contains NaN inside .* \(with layout="NCT" all of it would be padding\)'
        ):
            SequenceScaler().fit(X)
    else:
        with pytest.warns(UserWarning, match=alarm) as caught:
            SequenceScaler().fit(X)
        assert len(caught) == 1 and caught[0].filename == __file__
        with pytest.warns(UserWarning, match=alarm):
            fitted(LSTMAnomalyDetector, X) if case != "one channel" else fitted(LSTMClassifier, X, np.arange(12) % 2)
    with pytest.warns(UserWarning, match=alarm):
        SequenceImputer().fit(X)
    for cls in (SequenceScaler, SequenceImputer):
        cls(layout="NCT").fit(X).transform(X)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape)


UNSUSPICIOUS = {
    "the right layout": lambda: series().swapaxes(1, 2),
    "embeddings": lambda: noise(20, 10, 300),
    "embeddings of one step": lambda: noise(30, 1, 100),
    "features of growing scales": lambda: (noise(20, 3, 30) + 5) * 2.0 ** np.arange(30),
    "many sensors of one thing": lambda: noise(20, 10, 1).cumsum(axis=1) + 0.3 * noise(20, 10, 50),
    "short spectrograms": lambda: np.stack([np.convolve(a, np.ones(9), "same") for a in noise(160, 80)]
                                           ).reshape(8, 20, 80).cumsum(axis=1),
    "days of hours": lambda: 0.3 * noise(20, 7, 24) + np.sin(np.arange(24) / 4) * noise(20, 7, 1),
    "constant": lambda: np.ones((4, 2, 30)),
    "one row": lambda: noise(1, 1, 30),
    "huge": lambda: 1e150 * noise(5, 3, 30),
    "a list": lambda: [noise(3, 30), noise(4, 30)],
    "a table": lambda: series(channels=1)[:, 0],
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUSPICIOUS)
def test_features_that_are_features_raise_no_alarm(case):
    SequenceScaler().fit(UNSUSPICIOUS[case]())  # a warning would be an error
    SequenceImputer().fit(UNSUSPICIOUS[case]())


def test_a_last_feature_that_broke_raises_no_alarm():
    X = noise(5, 12, 3)
    X[2, :, 2] = X[3, :, 1:] = np.nan
    SequenceImputer().fit(X)
    with pytest.raises(ValueError, match=r'layout="NCT" all of it would be padding'):
        SequenceScaler().fit(X)  # where it is an error, a hint does no harm


def test_who_says_the_layout_hears_nothing():
    SequenceScaler(layout="NCT").fit(series())
    SequenceScaler(layout="NCT").fit(series().swapaxes(1, 2))
    scaler = SequenceScaler(layout="NCT").fit(series(steps=3, channels=60))
    scaler.transform(series(steps=3, channels=60))


@pytest.mark.parametrize("cls", [LSTMClassifier, SequenceScaler, SequenceImputer])
def test_nested_frames_are_refused_with_a_remedy_that_works(cls):
    pandas = pytest.importorskip("pandas")
    x, lengths, y = data()
    nested = pandas.DataFrame({f"dim_{k}": [pandas.Series(a[:n, k]) for a, n in zip(x, lengths, strict=True)]
                               for k in range(2)})  # fmt: skip
    for X in (nested, nested.to_numpy()):
        with pytest.raises(TypeError, match=r"^X: got a series in each cell \(a nested frame") as caught:
            cls().fit(X, y)
        with pytest.raises(TypeError, match=r"^X: got a series in each cell"):
            panel.read(X)
    X = nested
    remedy = eval(str(caught.value).split("arrays, ")[1], {"np": np, "X": X})
    for a, b in zip(remedy, ragged(x, lengths), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layout_is_one_of_two():
    with pytest.raises(ValueError, match=r"^layout: got 'TNC', must be one of 'NTC', 'NCT'"):
        panel.read(THREE, layout="TNC")


def test_validation_data_are_named_in_errors():
    x, _, y = data()
    bad = x.copy()
    bad[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"^X_val: contains NaN inside sequence 1, step 2, feature 0"):
        LSTMClassifier(**QUICK).fit(x, y, X_val=bad, y_val=y)
    with pytest.raises(ValueError, match=r"^y_val: X_val is given without it"):
        LSTMClassifier(**QUICK).fit(x, y, X_val=x)


# Targets per step are asked for, never guessed.


def test_per_step_targets_need_target_step():
    x, lengths, _ = data(features=1)
    steps = x.cumsum(axis=1)
    for X, y in ((x, steps), (ragged(x, lengths), ragged(steps, lengths)),
                 (ragged(x, lengths), ragged(steps[:, :, 0], lengths))):  # fmt: skip
        with pytest.raises(ValueError, match=r'^y: got .*one value or row per sequence.* set target="step"'):
            LSTMRegressor(**QUICK).fit(X, y)
    # A model of one output per sequence, too: warm_start keeps that.
    estimator = fitted(LSTMRegressor, x, steps[:, -1, 0], warm_start=True)
    with (
        pytest.raises(ValueError, match=r'^y: got shape \(20, 7\), must be \(20,\).* set target="step"'),
        pytest.warns(UserWarning, match=r'^y: has as many columns as X has steps, 7.*set target="step"'),
    ):
        estimator.fit(x, steps[:, :, 0])
    with pytest.warns(UserWarning, match=r'^y: has as many columns as X has steps, 7; .* each step, .* target="step"$'):
        LSTMClassifier(**QUICK | {"tol": 9.0, "n_iter_no_change": 1, "max_iter": 3}).fit(x, (steps[:, :, 0] > 0) * 1)
    for X, y in ((ragged(x, lengths), ragged((steps[:, :, 0] > 0) * 1, lengths)), (x, (steps > 0)[:, :, None] * 1)):
        with pytest.raises(ValueError, match=r'^y: got .*one value or row per sequence.* set target="step"'):
            LSTMClassifier(**QUICK).fit(X, y)
    with pytest.raises(ValueError, match=r'^y: got shape \(20, 3\), must be \(20,\), one class.* set target="step"'):
        LSTMClassifier(**QUICK).fit(x, np.arange(60).reshape(20, 3) % 4)


def test_targets_per_sequence_need_target_sequence():
    x, lengths, _ = data()
    for X in (x, ragged(x, lengths)):
        for y in (x[:, 0, 0], list(x[:, 0, 0])):
            with pytest.raises(ValueError, match=r'^y: got shape .*per step.* set target="sequence"'):
                LSTMRegressor(target="step", **QUICK).fit(X, y)
            with pytest.raises(ValueError, match=r'^y: got shape .*per step.* set target="sequence"'):
                LSTMClassifier(target="step", **QUICK).fit(X, [v > 0 for v in y])


def test_per_step_targets_must_have_the_steps_of_their_sequence():
    x, lengths, _ = data()
    y = ragged(x[:, :, 0], lengths)
    y[3] = np.append(y[3], 0.0)
    n = lengths[3]
    with pytest.raises(ValueError, match=rf"^y\[3\]: got shape \({n + 1},\), must be \({n},\): one value for each"):
        LSTMRegressor(target="step", **QUICK).fit(ragged(x, lengths), y)
    y = x[:, :, 0].copy()
    y[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"^y: contains NaN or infinity in sequence 2, step 1"):
        LSTMRegressor(target="step", **QUICK).fit(x, y)


def test_per_step_targets_on_padding_are_never_read():
    x, lengths, _ = data()
    y = x.cumsum(axis=1)[:, :, 0]
    found = []
    for fill in (np.nan, 0.0, 1e30):
        target = y.copy()
        target[np.arange(7) >= lengths[:, None]] = fill
        estimator = fitted(LSTMRegressor, padded(x, lengths), target, target="step")
        found.append(estimator.predict(padded(x, lengths)))
        assert np.array_equal(np.isnan(found[-1]), np.arange(7) >= lengths[:, None])
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    listed = fitted(LSTMRegressor, ragged(x, lengths), ragged(y, lengths), target="step").predict(ragged(x, lengths))
    assert all(np.array_equal(a, b[:n]) for a, b, n in zip(listed, found[0], lengths, strict=True))


# Anything at all.

numbers = st.one_of(st.integers(-(10**25), 10**25), st.floats(), st.booleans())
leaves = st.one_of(
    numbers, st.none(), st.text(max_size=3), st.binary(max_size=3), st.complex_numbers(), st.dates(), st.fractions(),
    st.decimals(), st.just(object()), st.sets(st.integers(), max_size=2),
    st.dictionaries(st.integers(), st.integers(), max_size=2),
)  # fmt: skip
arrays = hnp.arrays(
    st.one_of(hnp.scalar_dtypes(), st.just(np.dtype(object)), hnp.array_dtypes()),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)  # fmt: skip
junk = st.recursive(st.one_of(leaves, arrays), lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner)))


@given(junk)
@settings(max_examples=300, deadline=None)
def test_anything_is_a_panel_or_a_value_or_type_error(X):
    try:
        found = panel.read(X)
    except (ValueError, TypeError):
        return
    check_panel(found)


def check_panel(found):
    assert found.features >= 1 and len(found) >= 1
    assert len(found) == len(found.x) and found.lengths.min() >= 1
    for row, length in zip(found.each(), found.lengths.tolist(), strict=True):
        assert row.shape == (length, found.features) and row.dtype.name in ("float32", "float64")
        assert np.isfinite(row).all()


@given(junk, junk)
@settings(max_examples=60, deadline=None)
def test_anything_fits_or_is_a_value_or_type_error(X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of some of the junk before it is refused
        for estimator in (LSTMRegressor(2, max_iter=1), SequenceScaler()):
            try:
                estimator.fit(X, y)
            except (ValueError, TypeError, FloatingPointError):  # numbers near 1e300 may well overflow
                continue
            # What is 2-D scikit-learn converts by its own rules, dates for example.
            assert estimator.n_features_in_ >= 1


values = st.one_of(st.floats(-1e3, 1e3, width=32), st.just(np.nan))


@given(hnp.arrays(st.sampled_from([np.float32, np.float64]), hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
                  elements=values))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_nan_is_padding_exactly_where_all_that_follows_is_nan(x):
    real = ~np.isnan(x)
    there = real.any(axis=2)
    lengths = [int(np.flatnonzero(row)[-1]) + 1 if row.any() else 0 for row in there]
    good = all(n > 0 and real[k, :n].all() for k, n in enumerate(lengths))
    try:
        found = panel.read(x)
    except ValueError as error:
        assert not good
        assert "NaN inside" in str(error) or "only NaN" in str(error)
    else:
        assert good and found.lengths.tolist() == lengths
        assert panel.read(list(x)).lengths.tolist() == lengths


def test_dates_are_not_numbers():
    pandas = pytest.importorskip("pandas")
    dates = np.array([["2020-01-01", "2021-01-01"]] * 4, "M8[ns]")
    for X in (dates, pandas.DataFrame(dates), pandas.DataFrame({"a": [1.0] * 4, "b": dates[:, 0]})):
        with pytest.raises(TypeError, match=r"^X: holds dates or durations, must be numbers"):
            SequenceScaler().fit(X)
