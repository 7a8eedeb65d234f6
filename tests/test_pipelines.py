"""`lstmx.save` of pipelines: the same bits without scikit-learn; refusals by name; an error for every bad file."""

import inspect
import json
import os
import pickle
import subprocess
import sys
import textwrap
import tracemalloc
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

import lstmx
from lstmx import (
    LSTMAnomalyDetector,
    LSTMClassifier,
    LSTMForecaster,
    LSTMRegressor,
    LSTMTransformer,
    SequenceImputer,
    SequenceScaler,
    predictors,
    storage,
)
from lstmx.predictors.pipeline import METHODS
from lstmx.storage import ModelFileError

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

PYTHONPATH = os.path.dirname(os.path.dirname(lstmx.__file__))  # children import what is tested here

RNG = np.random.default_rng(0)
EVEN = RNG.normal(size=(12, 5, 2)) * [1, 100] + [3, 0]
RAGGED = [RNG.normal(size=(n, 2)) * [1, 100] + [3, 0] for n in RNG.integers(2, 8, 12)]
PADDED = np.where(np.arange(5)[:, None] < RNG.integers(2, 6, 12)[:, None, None], EVEN, np.nan)
TABLE = RNG.normal(size=(12, 5)) * [1, 10, 100, 0.1, 1e-3] + np.arange(5)
TAILS = np.where(np.arange(5) < RNG.integers(2, 6, 12)[:, None], TABLE, np.nan)  # NaN is padding
CHANNELS = EVEN.swapaxes(1, 2)
LABELS = np.array(["b", "a", "ünï"])[np.arange(12) % 3]
GAPS = np.where(np.arange(EVEN.size).reshape(EVEN.shape) % 7 == 1, np.nan, EVEN)
QUICK = {"hidden_size": 4, "max_iter": 2, "random_state": 0}
SCALERS = [StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler]

# name: (pipeline, data of fit, sequences that it predicts)
CASES = {
    "sequences": (
        lambda: make_pipeline(SequenceScaler(), LSTMClassifier(**QUICK)),
        (EVEN, LABELS),
        [EVEN, RAGGED, PADDED, np.float32(EVEN)],
    ),
    "float32": (
        lambda: make_pipeline(SequenceScaler(), LSTMClassifier(**QUICK)),
        (np.float32(EVEN), LABELS),
        [np.float32(EVEN), EVEN],
    ),
    "channels first": (
        lambda: make_pipeline(SequenceScaler(layout="NCT", with_mean=False), LSTMRegressor(**QUICK, layout="NCT")),
        (CHANNELS, EVEN[:, 0, 0]),
        [CHANNELS, [x.T for x in RAGGED]],
    ),
    "steps": (
        lambda: make_pipeline(SequenceScaler(with_std=False), LSTMRegressor(**QUICK, target="step")),
        (EVEN, EVEN[:, :, 0]),
        [EVEN, RAGGED, PADDED],
    ),
    "detector": (
        lambda: Pipeline([("s", SequenceScaler()), ("nothing", None), ("d", LSTMAnomalyDetector(**QUICK))]),
        (EVEN,),
        [EVEN, RAGGED, PADDED],
    ),
    "features": (
        lambda: Pipeline([("passed", "passthrough"), ("t", LSTMTransformer(**QUICK)), ("s", StandardScaler())]),
        (EVEN,),
        [EVEN, RAGGED, PADDED],
    ),
    "features of features": (
        lambda: make_pipeline(LSTMTransformer(**QUICK), MinMaxScaler(clip=True), LSTMClassifier(**QUICK)),
        (RAGGED, LABELS),
        [EVEN, RAGGED, PADDED],
    ),
    "scalers alone": (
        lambda: make_pipeline(StandardScaler(), SequenceScaler(), MaxAbsScaler(), "passthrough"),
        (TABLE,),
        [TABLE, np.float32(TABLE), TAILS],
    ),
    **{
        f"table by {scaler.__name__}": (
            lambda scaler=scaler: make_pipeline(scaler(), LSTMClassifier(**QUICK)),
            (TABLE, LABELS),
            [TABLE, np.float32(TABLE), TABLE.tolist(), TAILS],
        )
        for scaler in SCALERS
    },
    "nested": (
        lambda: make_pipeline(make_pipeline(RobustScaler(), make_pipeline("passthrough", SequenceScaler())),
                              make_pipeline(StandardScaler(), LSTMRegressor(**QUICK))),
        (np.float32(TABLE), TABLE[:, 0]),
        [TABLE, np.float32(TABLE)],
    ),
    "gaps": (
        lambda: make_pipeline(SequenceImputer(add_indicator=True), LSTMClassifier(**QUICK)),
        (GAPS, LABELS),
        [GAPS, EVEN, np.float32(GAPS), list(GAPS)],
    ),
    "gaps filled": (
        lambda: make_pipeline(SequenceImputer("forward", layout="NCT"), SequenceScaler(layout="NCT")),
        (CHANNELS,),
        [CHANNELS, np.where(CHANNELS > 1, np.nan, CHANNELS)],
    ),
    "one step": (lambda: Pipeline([("only", LSTMClassifier(**QUICK))]), (EVEN, LABELS), [EVEN, RAGGED]),
}  # fmt: skip

_fitted = {}


def fitted(name):
    if name not in _fitted:
        make, data, _ = CASES[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            _fitted[name] = make().fit(*data)
    return _fitted[name]


def flat(value):
    """Something that equals another if and only if all types, shapes and bits do."""
    if isinstance(value, list):
        return [flat(v) for v in value]
    if value.dtype == object:
        return value.tolist()
    return value.dtype.str, value.shape, value.tobytes()


def answers(model, methods, inputs):
    """What the methods say to every input."""
    return {(method, k): flat(getattr(model, method)(X)) for method in methods for k, X in enumerate(inputs)}


def methods(pipeline):
    return [name for name in (*METHODS, "inverse_transform") if name != "trace" and hasattr(pipeline, name)]


# The same bits.


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_gives_the_same_bits(name, path):
    pipeline, inputs = fitted(name), CASES[name][2]
    lstmx.save(pipeline, path)
    loaded = lstmx.load(path)
    assert type(loaded) is predictors.Pipeline
    thawed = pickle.loads(pickle.dumps(loaded))
    for n, one in enumerate((loaded, thawed)):
        lstmx.save(one, path.with_name(f"again{n}"))
        assert path.with_name(f"again{n}").read_bytes() == path.read_bytes()
    wanted = answers(pipeline, methods(pipeline), inputs)
    assert wanted and answers(loaded, methods(pipeline), inputs) == answers(thawed, methods(pipeline), inputs) == wanted


@pytest.mark.parametrize("name", CASES)
def test_what_is_loaded_has_the_methods_of_the_last_step(name, path):
    pipeline = fitted(name)
    lstmx.save(pipeline, path)
    loaded = lstmx.load(path)
    found = [method for method in METHODS if hasattr(loaded, method)]
    last = next(step for _, step in reversed(pipeline.steps) if step != "passthrough")
    last = last.steps[-1][1] if isinstance(last, Pipeline) else last
    assert found == [method for method in METHODS if hasattr(last, method)] and set(found) <= set(dir(loaded))
    for method in ("predict", "predict_proba", "decision_function", "transform", "inverse_transform", "classes_"):
        assert hasattr(loaded, method) == hasattr(pipeline, method) == (method in dir(loaded)), method
    if hasattr(pipeline, "classes_"):
        assert flat(loaded.classes_) == flat(pipeline.classes_)
    with pytest.raises(AttributeError, match=r"<Pipeline: .*> has no 'fit_predict'"):
        _ = loaded.fit_predict
    method = getattr(loaded, found[0])
    assert method.__name__ == found[0] and list(inspect.signature(method).parameters) == ["X"]


def test_a_trace_is_that_of_the_last_step(path):
    pipeline = fitted("sequences")
    lstmx.save(pipeline, path)
    one, two = pipeline[-1].trace(pipeline[:-1].transform(EVEN)), lstmx.load(path).trace(EVEN)
    assert one.keys() == two.keys() == {0} and flat(one[0].i[0, 0]) == flat(two[0].i[0, 0])


def test_without_scikit_learn_the_bits_are_the_same(tmp_path):
    calls, wanted = {}, {}
    for number, name in enumerate(CASES):
        pipeline, inputs = fitted(name), CASES[name][2]
        lstmx.save(pipeline, tmp_path / str(number))
        calls[number] = methods(pipeline), inputs
        wanted[number] = answers(pipeline, *calls[number])
    (tmp_path / "calls").write_bytes(pickle.dumps(calls))
    code = f"""
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("sklearn", "scipy", "joblib", "pandas"):
                    raise ImportError(name)
        sys.meta_path.insert(0, Block())
        import pathlib, pickle
        import lstmx
        folder, found = pathlib.Path({str(tmp_path)!r}), {{}}
        for number, call in pickle.loads((folder / "calls").read_bytes()).items():
            loaded = lstmx.load(folder / str(number))
            lstmx.save(loaded, folder / "again")
            found[number] = answers(lstmx.load(folder / "again"), *call)
        (folder / "found").write_bytes(pickle.dumps(found))
        try:
            lstmx.save(object(), folder / "no")
        except TypeError as error:
            print(error)
        """
    helpers = inspect.getsource(flat) + inspect.getsource(answers)
    done = subprocess.run([sys.executable, "-P", "-W", "error", "-c", helpers + textwrap.dedent(code)], text=True,
                          capture_output=True, timeout=120, env=os.environ | {"PYTHONPATH": PYTHONPATH})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert pickle.loads((tmp_path / "found").read_bytes()) == wanted
    assert done.stdout.startswith("model: got object, must be a layer, Sequential or fitted estimator of lstmx")


def test_what_is_no_pipeline_is_saved_as_by_its_save(tmp_path):
    lstm = lstmx.LSTM(2, 3, random_state=0)
    model = lstmx.Sequential([lstmx.LSTM(2, 3), lstmx.Last()], random_state=0)
    estimators = [fitted("sequences")[-1], fitted("sequences")[0]]
    for k, one in enumerate([lstm, model, *estimators, lstmx.Dense(2, 3)]):
        lstmx.save(one, tmp_path / f"one{k}")
        one.save(tmp_path / f"two{k}")
        assert (tmp_path / f"one{k}").read_bytes() == (tmp_path / f"two{k}").read_bytes()
    scaler = StandardScaler().fit(TABLE)
    lstmx.save(scaler, tmp_path / "scaler")
    assert flat(lstmx.load(tmp_path / "scaler").transform(TABLE)) == flat(scaler.transform(TABLE))


@pytest.mark.parametrize("options", [{}, {"with_mean": False}, {"with_std": False}, {"layout": "NCT"}], ids=str)
def test_a_sequence_scaler_alone(options, path):
    X, inputs = (CHANNELS, [CHANNELS]) if options.get("layout") else (EVEN, [EVEN, RAGGED, PADDED, np.float32(EVEN)])
    scaler = SequenceScaler(**options).fit(X)
    scaler.save(path)
    loaded = lstmx.load(path)
    both = ["transform", "inverse_transform"]
    assert answers(loaded, both, inputs) == answers(scaler, both, inputs)
    with pytest.raises(ValueError, match="but the model was fitted with 2"):
        loaded.transform(np.zeros((2, 3, 4)))


# The scalers of scikit-learn.


def _large(X):
    return np.concatenate([X * [1e3, -7, 1, 1, 3], X[:, :1] * 0 + 0.1], axis=1)  # and a constant


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", ">f8", ">f4", "longdouble", "object"])
@pytest.mark.parametrize("fitted_to", ["float64", "float32", "float16"])
@pytest.mark.parametrize(
    "scaler",
    [
        StandardScaler(), StandardScaler(with_mean=False), StandardScaler(with_std=False, copy=False),
        StandardScaler(with_mean=False, with_std=False), MinMaxScaler(), MinMaxScaler((-3, 7.1)),
        MinMaxScaler((0.1, 1), clip=True), MaxAbsScaler(), RobustScaler(), RobustScaler(with_centering=False),
        RobustScaler(with_scaling=False), RobustScaler(unit_variance=True, quantile_range=(10, 90)),
    ],
    ids=str,
)  # fmt: skip
def test_the_scalers_of_scikit_learn_give_the_same_bits(scaler, fitted_to, dtype, path):
    scaler = clone(scaler).fit(_large(TABLE).astype(fitted_to))
    lstmx.save(scaler, path)
    loaded = lstmx.load(path)
    X = _large(TABLE * 3).astype(dtype)
    before = X.copy()
    tables = [X, np.asfortranarray(X), X[::2], *([np.where(X > 0, X, np.nan)] if X.dtype.kind == "f" else [])]
    for table in tables:
        for method in ("transform", "inverse_transform"):
            with np.errstate(over="ignore"):  # of float16
                found, wanted = getattr(loaded, method)(table), getattr(scaler, method)(table.copy())
            assert flat(found) == flat(wanted), method
    np.testing.assert_array_equal(X, before)  # also where the scaler writes to it


def test_clipped_like_scikit_learn(path):
    if "clip" not in MaxAbsScaler().get_params():
        pytest.skip("a newer option")
    scaler = MaxAbsScaler(clip=True).fit(TABLE)
    lstmx.save(scaler, path)
    found = lstmx.load(path).transform(TABLE * 9)
    assert flat(found) == flat(scaler.transform(TABLE * 9)) and found.max() == 1


def test_both_ways_of_rounding_are_found(path, monkeypatch):
    """scikit-learn before 1.9 rounds the mean to the type of X after the subtraction, and later before it."""
    scaler = StandardScaler().fit(TABLE)
    found = set()
    for rounded in (False, True):

        def transform(self, X, rounded=rounded):
            X = np.array(X)
            X -= self.mean_.astype(X.dtype) if rounded else self.mean_
            X /= self.scale_.astype(X.dtype) if rounded else self.scale_
            return X

        monkeypatch.setattr(StandardScaler, "transform", transform)
        lstmx.save(scaler, path)
        loaded = lstmx.load(path)
        assert loaded.config["rounded"] == rounded
        found.add(loaded.transform(np.float32(TABLE)).tobytes())
        assert flat(loaded.transform(np.float32(TABLE))) == flat(scaler.transform(np.float32(TABLE)))
    assert len(found) == 2
    monkeypatch.setattr(StandardScaler, "transform", lambda self, X: X * 2)
    with pytest.raises(TypeError, match=r"StandardScaler of scikit-learn .* rounds in a way that lstmx does not"):
        lstmx.save(scaler, path)


def test_frames(path):
    pandas = pytest.importorskip("pandas")
    names = list("abcde")
    frame = pandas.DataFrame(TABLE, columns=names)
    pipeline = make_pipeline(StandardScaler(), SequenceScaler()).fit(frame)
    lstmx.save(pipeline, path)
    loaded = lstmx.load(path)
    wanted = flat(pipeline.transform(frame))
    assert flat(loaded.transform(frame)) == flat(loaded.transform(TABLE)) == wanted
    assert flat(loaded.transform(frame.astype(object))) == wanted
    with pytest.raises(ValueError, match=r"X: has the columns \['e', .*must have those of fit, in order: \['a'"):
        loaded.transform(frame[names[::-1]])
    with pytest.raises(TypeError, match="X: holds what is no number"):
        loaded.transform(frame.assign(a="x"))


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (TABLE[0], ValueError, r"X: got shape \(5,\), must be a table \(n, 5\); one row is X\[None\]"),
        (TABLE[:, :4], ValueError, r"X: got shape \(12, 4\), must be a table"),
        (TABLE[:, :, None], ValueError, r"X: got shape \(12, 5, 1\)"),
        (np.where(TABLE > 0, np.inf, TABLE), ValueError, "X: contains infinity"),
        (TABLE * 1j, TypeError, "X: got dtype complex128"),
        (np.ma.masked_array(TABLE), TypeError, "X: got a masked array"),
        (TABLE.astype(str), TypeError, "X: got dtype <U"),
    ],
)
def test_tables_that_do_not_fit_are_an_error(X, error, message, path):
    lstmx.save(StandardScaler().fit(TABLE), path)
    with pytest.raises(error, match=message):
        lstmx.load(path).transform(X)


# What cannot be saved.


class Doubled(StandardScaler):
    def transform(self, X):
        return super().transform(X) * 2


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (make_pipeline(SequenceScaler(), LSTMTransformer(**QUICK), LogisticRegression()),
         r"the step 'logisticregression' \(LogisticRegression\) cannot .*where there can be .*StandardScaler"),
        (make_pipeline(FunctionTransformer(np.abs), LSTMTransformer(**QUICK)), "step 'functiontransformer'"),
        (make_pipeline(make_pipeline(FeatureUnion([("a", StandardScaler())])), SequenceScaler()),
         r"the step 'pipeline__featureunion' \(FeatureUnion\)"),
        (make_pipeline(Doubled(), LSTMTransformer(**QUICK)), r"the step 'doubled' \(Doubled\) cannot"),
    ],
    ids=lambda p: None if isinstance(p, str) else p.steps[0][0] + p.steps[-1][0],
)  # fmt: skip
def test_other_steps_are_refused_by_name(pipeline, message, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(TABLE, LABELS)
    with pytest.raises(TypeError, match=f"^model: .*{message}"):
        lstmx.save(pipeline, path)
    assert not path.exists()


@pytest.mark.parametrize("frames", ["pandas", "polars"])
@pytest.mark.parametrize("whole", [True, False])
def test_steps_that_give_frames_are_refused(frames, whole, path):
    pytest.importorskip(frames)
    pipeline = make_pipeline(StandardScaler(), SequenceScaler()).fit(TABLE)
    (pipeline if whole else pipeline[-1]).set_output(transform=frames)
    name = "standardscaler" if whole else "sequencescaler"
    with pytest.raises(
        TypeError, match=rf"the step '{name}' .* gives frames of {frames}, .*set_output\(transform=\"def"
    ):
        lstmx.save(pipeline, path)
    pipeline.set_output(transform="default")
    lstmx.save(pipeline, path)


def test_a_forecaster_is_no_step(path):
    series = np.sin(np.arange(40) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        forecaster = LSTMForecaster(6, 2, **QUICK).fit(series)
    with pytest.raises(TypeError, match=r"the step 'f' \(LSTMForecaster\) cannot be saved .*; save it by itself"):
        lstmx.save(Pipeline([("f", forecaster)]), path)
    lstmx.save(forecaster, path)
    assert flat(lstmx.load(path).predict()) == flat(forecaster.predict())


def test_what_is_loaded_may_be_a_step(path):
    pipeline = fitted("features")
    lstmx.save(pipeline[1], path)
    lstmx.save(Pipeline([("t", lstmx.load(path)), ("s", pipeline[2])]), path)
    assert flat(lstmx.load(path).transform(EVEN)) == flat(pipeline.transform(EVEN))


@pytest.mark.parametrize(
    "model", [None, 3, "model", StandardScaler, FunctionTransformer(), LogisticRegression()], ids=str
)
def test_other_things_are_refused(model, path):
    with pytest.raises(TypeError, match=f"^model: got {type(model).__name__}, must be a layer, Sequential or"):
        lstmx.save(model, path)


def test_a_search_says_what_to_save(path):
    search = GridSearchCV(make_pipeline(StandardScaler(), SequenceScaler()), {"standardscaler__with_mean": [True]},
                          scoring=lambda *_: 0.0).fit(TABLE)  # fmt: skip
    with pytest.raises(TypeError, match=r"model: got GridSearchCV, .*; save its best_estimator_"):
        lstmx.save(search, path)
    lstmx.save(search.best_estimator_, path)


@pytest.mark.parametrize(
    "pipeline",
    [CASES[name][0]() for name in CASES] + [kind() for kind in SCALERS] + [SequenceScaler(), LSTMClassifier()]
    + [make_pipeline(StandardScaler().fit(TABLE), LSTMClassifier())],
    ids=lambda p: type(p).__name__,
)  # fmt: skip
def test_what_is_not_fitted_is_not_saved(pipeline, path):
    with pytest.raises(NotFittedError):
        lstmx.save(pipeline, path)
    assert not path.exists()


def test_a_pipeline_of_nothing_is_an_error(path):
    with pytest.raises(ValueError, match="every step is passthrough, so there is nothing to save"):
        lstmx.save(make_pipeline("passthrough", None).fit(TABLE), path)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_numbers_that_are_not_finite_are_not_saved(path):
    scaler = StandardScaler().fit(np.where(np.arange(5) == 2, np.nan, TABLE))
    with pytest.raises(ValueError, match=r"subtract: 1 of 5 values, the first nan, are not finite"):
        lstmx.save(make_pipeline(scaler, SequenceScaler().fit(TABLE)), path)


# Bad files.

KINDS = ["sequences", "gaps", "detector", "features", "features of features", "table by StandardScaler"]
JUNK = [None, -1, 0, 1e300, 2**60, 10**400, 1.5, float("nan"), "x", "", True, [], [[1, [2]]], [3, 1], {}, {"a": 1},
        [None] * 3, {"add": "float16"}, {"add": [3]}, ["a"] * 5]  # fmt: skip


def contents(name, path):
    """(configuration, arrays) as `save` writes them; to be spoilt."""
    lstmx.save(fitted(name), path)
    config, arrays = storage.read(path)
    return config, dict(arrays)


def load_or_refuse(path, config, arrays, inputs):
    """Load a file: the one error there may be is ModelFileError, and what is loaded must predict. True if refused."""
    storage.write(path, config, arrays)
    tracemalloc.start()
    try:
        loaded = lstmx.load(path)
        (loaded.transform if hasattr(loaded, "transform") else loaded.predict)(inputs[0])
    except ModelFileError as error:
        assert str(path) in str(error) and len(str(error)) < 3000
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2e7
    return False


def is_sound(step, key, value):
    """Whether a field may have this value where all else is the same: another step, but one that works."""
    if key in ("name", "layout", "steps", "aggregate", "offset", "step_offset", "pooling", "rounded"):
        return True
    if key == "clip":
        return value is None
    return key == "names" and value == ["a"] * 5 == value[: step["columns"]]


@pytest.mark.parametrize("name", KINDS)
def test_junk_in_any_field_is_refused(name, path):
    good, arrays = contents(name, path)
    assert not load_or_refuse(path, good, arrays, CASES[name][2])
    for k, step in enumerate(good["steps"]):
        for key, old in step.items():
            config = json.loads(json.dumps(good))
            del config["steps"][k][key]
            assert load_or_refuse(path, config, arrays, CASES[name][2]), key
            for junk in JUNK:
                config = json.loads(json.dumps(good))
                config["steps"][k][key] = junk
                same = type(junk) is type(old) and junk == old
                refused = load_or_refuse(path, config, arrays, CASES[name][2])
                assert refused or same or is_sound(step, key, junk), (k, key, junk)
    for junk in JUNK:
        assert load_or_refuse(path, good | {"steps": junk}, arrays, CASES[name][2])
        assert load_or_refuse(path, good | {"other": junk}, arrays, CASES[name][2])


@pytest.mark.parametrize("name", KINDS)
def test_every_array_is_needed_as_it_is(name, path):
    config, good = contents(name, path)
    for array, value in good.items():
        own = ".model." not in array
        spoilt = [None, value[None], np.concatenate([value, value]), value.astype(np.int64)]
        spoilt += [np.full_like(value, bad) for bad in (np.nan, np.inf)]
        spoilt += [np.zeros_like(value)] if array.endswith((".divide", ".multiply", ".scale")) else []
        for one in spoilt if own else spoilt[:4]:
            arrays = {n: a for n, a in good.items() if n != array} | ({} if one is None else {array: one})
            assert load_or_refuse(path, config, arrays, CASES[name][2]), array
    for more in ("other", "9.scale", "0.other", "scale", "x.scale", "-1.scale", "00.scale"):
        assert load_or_refuse(path, config, good | {more: np.zeros(2)}, CASES[name][2]), more


def changed(config, *steps):
    return config | {"steps": list(steps)}


def test_steps_that_do_not_belong_together_are_refused(path):
    config, arrays = contents("table by StandardScaler", path)
    scale, net = config["steps"]
    one = {n: a for n, a in arrays.items() if n.startswith("0.")}
    other = {n.replace("1.", "0.", 1): a for n, a in arrays.items() if n.startswith("1.")}

    def again(step, k):
        return {f"{k}.{n[2:]}": a for n, a in (one if step is scale else other).items()}

    def refused(*steps):
        found = [again(net if step["class"] == "Classifier" else scale, k) for k, step in enumerate(steps)]
        given = {n: a for group in found for n, a in group.items()}
        return load_or_refuse(path, changed(config, *steps), given, [TABLE])

    assert not refused(scale, net) and not refused(scale, scale | {"name": "b"}, net) and not refused(net)
    assert refused(scale, net | {"name": scale["name"]})  # two of a name
    assert refused(net, scale)  # a classifier transforms nothing
    assert refused(scale | {"class": "Pipeline"}, net) and refused(scale, net | {"class": "Forecaster"})
    for kind in ("Sequential", "LSTM", "Step", "Predictor", "StandardScaler", "Checkpoint", "_NextStepPredictor"):
        assert refused(scale, net | {"class": kind})
    assert not refused(*(scale | {"name": str(k)} for k in range(100)))
    assert refused(*(scale | {"name": str(k)} for k in range(101)))


def test_steps_of_other_sizes_are_refused(path):
    scaler = StandardScaler().fit(TABLE)
    for steps, message in (
        ([*fitted("features").steps[1:], ("table", scaler)], "'table' takes 5 columns, but .* gives 4"),
        ([("s", SequenceScaler().fit(EVEN)), ("table", scaler)], "'table' takes 1 features, but .* gives 2"),
        ([("table", scaler), *fitted("features").steps[1:]], "'t' takes 2 features, but .* gives 1"),
    ):
        with pytest.raises(ValueError, match=f"steps: {message}"):
            lstmx.save(Pipeline(steps), path)


def test_pipelines_in_pipelines_are_refused_at_any_depth(path):
    config = {"class": "Last"}
    for k in range(200):
        config = {"class": "Pipeline", "steps": [{"name": str(k)} | config]}
    storage.write(path, config, {})
    with pytest.raises(ModelFileError, match=r"steps: '199' is a Pipeline, which stands alone"):
        lstmx.load(path)


@pytest.mark.parametrize("value", [2**20, 2**31, 2**60, 10**30])
@pytest.mark.parametrize("key", ["columns", "features"])
def test_huge_numbers_allocate_nothing(key, value, path):
    for name in KINDS:
        config, arrays = contents(name, path)
        for step in config["steps"]:
            step |= {key: value} if key in step else {}
        assert load_or_refuse(path, config, arrays, CASES[name][2]) or key not in json.dumps(config)


def test_parameters_that_are_not_finite_are_refused_unless_allowed(path):
    config, arrays = contents("sequences", path)
    arrays["1.model.0.bias_l0"] = np.full_like(arrays["1.model.0.bias_l0"], np.nan)
    storage.write(path, config, arrays)
    with pytest.raises(ModelFileError, match=r"1\.model\.0\.bias_l0: 16 of 16 values are NaN .*allow_nonfinite=True"):
        lstmx.load(path)
    assert np.isnan(lstmx.load(path, allow_nonfinite=True).predict_proba(EVEN)).any()
