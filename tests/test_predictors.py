"""What `save` writes and `lstmx.load` gives: the same bits without scikit-learn, and an error for every bad file."""

import contextlib
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn")
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import lstmx
from lstmx import LSTMAnomalyDetector, LSTMClassifier, LSTMForecaster, LSTMRegressor, LSTMTransformer, storage
from lstmx.storage import ModelFileError

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

PYTHONPATH = os.path.dirname(os.path.dirname(lstmx.__file__))  # children import what is tested here
CHILD = os.environ | {"PYTHONPATH": PYTHONPATH}

RNG = np.random.default_rng(0)
EVEN = RNG.normal(size=(20, 6, 2))
RAGGED = [RNG.normal(size=(n, 2)) for n in RNG.integers(1, 8, 20)]
PADDED = np.where(np.arange(6)[:, None] < RNG.integers(1, 7, 20)[:, None, None], EVEN, np.nan)
GAPS = np.where(np.random.default_rng(1).random(EVEN.shape) < 0.2, np.nan, EVEN)
FLAT = EVEN[:, :, 0]
PLACE = np.arange(20) % 3
STEPS = np.digitize(FLAT, (-0.5, 0.5))
SERIES = np.sin(np.arange(60) / 3) + 0.1 * RNG.normal(size=60)
EXOGENOUS = RNG.normal(size=(60, 2))
COMMON = {"hidden_size": 4, "max_iter": 2, "random_state": 0, "batch_size": 8}

LABELS = {
    "str": np.array(["b", "a", "ünï 'quoted\""]),
    "int": np.array([7, -(2**62), 3]),
    "uint64": np.array([2**64 - 1, 0, 5], np.uint64),
    "int8": np.array([-1, 0, 1], np.int8),
    "float": np.array([0.0, 1.0, 2.0]),
    "float32": np.array([0.0, 1.0, 2.0], np.float32),
    "bool": np.array([True, False, True]),
    "object": np.array(["long", "s", ""], dtype=object),
    "big-endian": np.array([3, 2, 1], ">i4"),
}


def _fit(estimator, *data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(*data)


def classifier(name="str", **more):
    return _fit(LSTMClassifier(**COMMON | more), EVEN, LABELS[name][PLACE])


SEVERAL = [np.stack([SERIES, SERIES**2], axis=1), np.stack([SERIES + 1, SERIES - 1], axis=1)[:50]]

# name: (estimator, [(method, arguments)]); every method of a predictor with every form of X.
FORMS = [EVEN, RAGGED, PADDED]
SEQUENCES = ["predict", "predict_proba", "predict_log_proba"]
FORECASTS = [
    ("forecast", {}),
    ("predict", {"horizon": 7}),
    ("predict_interval", {"coverage": 0.5}),
    ("predict_interval", {"horizon": 5, "coverage": 0.5, "method": "paths", "n_paths": 20, "random_state": 3}),
    ("sample", {"n_paths": 5, "random_state": 3}),
]
CASES = {
    **{
        f"classifier of {name}": (
            lambda name=name: classifier(name, num_layers=2, bidirectional=True, dropout=0.1, pooling="final"),
            [(method, {"X": X}) for method in SEQUENCES for X in FORMS],
        )
        for name in LABELS
    },
    "binary float32": (
        lambda: _fit(LSTMClassifier(**COMMON, pooling="mean"), np.float32(EVEN), EVEN[:, 0, 0] > 0),
        [(method, {"X": X}) for method in SEQUENCES for X in [np.float32(EVEN), EVEN]],
    ),
    "multi-label": (
        lambda: _fit(LSTMClassifier(**COMMON), EVEN, (EVEN[:, :3, 0] > 0).astype(int)),
        [(method, {"X": X}) for method in SEQUENCES for X in FORMS],
    ),
    "one label": (
        lambda: _fit(LSTMClassifier(**COMMON, standardize=False), EVEN, (EVEN[:, :2, 0] > 0).astype(int)),
        [(method, {"X": X}) for method in SEQUENCES for X in FORMS],
    ),
    "classifier of steps": (
        lambda: _fit(LSTMClassifier(**COMMON, target="step", bidirectional=True), EVEN, LABELS["str"][STEPS]),
        [(method, {"X": X}) for method in SEQUENCES for X in FORMS],
    ),
    "binary classifier of steps": (
        lambda: _fit(LSTMClassifier(**COMMON, target="step"), FLAT, FLAT > 0),
        [(method, {"X": X}) for method in SEQUENCES for X in [FLAT, [a[:, 0] for a in RAGGED]]],
    ),
    "multi-label of steps": (
        lambda: _fit(LSTMClassifier(**COMMON, target="step"), EVEN, (EVEN > 0).astype(int)),
        [(method, {"X": X}) for method in SEQUENCES for X in FORMS],
    ),
    "regressor": (lambda: _fit(LSTMRegressor(**COMMON), EVEN, FLAT[:, 0]), [("predict", {"X": X}) for X in FORMS]),
    "regressor of rows": (
        lambda: _fit(LSTMRegressor(**COMMON, standardize=False), EVEN, FLAT[:, :3]),
        [("predict", {"X": X}) for X in FORMS],
    ),
    "regressor of steps": (
        lambda: _fit(LSTMRegressor(**COMMON, target="step"), EVEN, FLAT),
        [("predict", {"X": X}) for X in FORMS],
    ),
    "regressor of rows of steps": (
        lambda: _fit(LSTMRegressor(**COMMON, target="step"), EVEN, EVEN),
        [("predict", {"X": X}) for X in FORMS],
    ),
    "regressor of (n, T)": (lambda: _fit(LSTMRegressor(**COMMON), FLAT, FLAT[:, 0]), [("predict", {"X": FLAT})]),
    "regressor of (n, F, T)": (
        lambda: _fit(LSTMRegressor(**COMMON, layout="NCT"), EVEN.swapaxes(1, 2), FLAT[:, 0]),
        [("predict", {"X": EVEN.swapaxes(1, 2)}), ("predict", {"X": [x.T for x in RAGGED]})],
    ),
    **{
        f"detector by {aggregate}": (
            lambda aggregate=aggregate: _fit(LSTMAnomalyDetector(**COMMON, aggregate=aggregate), EVEN),
            [(method, {"X": X}) for X in FORMS
             for method in ("predict", "score_samples", "decision_function", "score_steps", "predict_steps")],
        )
        for aggregate in ("mean", "max")
    },
    "detector of gaps": (
        lambda: _fit(LSTMAnomalyDetector(**COMMON, missing="impute"), GAPS),
        [(method, {"X": X}) for X in [GAPS, list(GAPS), *FORMS]
         for method in ("predict", "score_samples", "decision_function", "score_steps", "predict_steps")],
    ),
    **{
        f"transformer by {pooling}": (
            lambda pooling=pooling: _fit(LSTMTransformer(**COMMON, pooling=pooling, num_layers=2), EVEN),
            [("transform", {"X": X}) for X in FORMS],
        )
        for pooling in ("last", "mean")
    },
    "forecaster": (
        lambda: _fit(LSTMForecaster(8, 5, differences=(3, 1), **COMMON), SERIES),
        [*FORECASTS, ("update", {"y": SERIES[:3]}), *FORECASTS, ("update", {"y": SERIES[:30]}), *FORECASTS],
    ),
    "recursive forecaster": (
        lambda: _fit(LSTMForecaster(8, 5, strategy="recursive", **COMMON), np.float32(SERIES)),
        [*FORECASTS, ("update", {"y": SERIES[:3]}), *FORECASTS],
    ),
    "forecaster of several": (
        lambda: _fit(LSTMForecaster(8, 5, **COMMON), SEVERAL),
        [*FORECASTS, ("update", {"y": [a[:4] for a in SEVERAL]}), *FORECASTS],
    ),
    "forecaster with X": (
        lambda: _fit(LSTMForecaster(8, 5, standardize=False, **COMMON), SERIES, EXOGENOUS),
        [*((m, more | {"X": EXOGENOUS[:10]}) for m, more in FORECASTS),
         ("update", {"y": SERIES[:4], "X": EXOGENOUS[:4]}),
         *((m, more | {"X": EXOGENOUS[:10]}) for m, more in FORECASTS)],
    ),
    "forecaster of powers": (
        lambda: _fit(LSTMForecaster(8, 5, transform="boxcox", **COMMON), [np.exp(a) for a in SEVERAL]),
        [*FORECASTS, ("update", {"y": [np.exp(a[:4]) for a in SEVERAL]}), *FORECASTS],
    ),
}  # fmt: skip

_fitted = {}


def fitted(name):
    """An estimator of CASES. Those that are updated are made anew each time."""
    if name not in _fitted:
        _fitted[name] = CASES[name][0]()
    return pickle.loads(pickle.dumps(_fitted[name]))


def flat(value):
    """Something that equals another if and only if all types, shapes and bits do."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.ndarray):
        return "object", value.shape, [(type(v).__name__, v) for v in value.ravel().tolist()]
    if isinstance(value, list | tuple):
        return [flat(v) for v in value]
    return type(value).__name__  # self, of update


def answers(model, calls):
    """What each call gives; forecasts of an estimator are its `predict`."""
    found = []
    for method, arguments in calls:
        method = "predict" if method == "forecast" and not hasattr(model, method) else method
        with np.errstate(divide="ignore"):
            value = getattr(model, method)(**arguments)
        found.append(None if method == "update" else flat(value))
    return found


# The same bits.


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_predicts_the_same_bits(name, path):
    estimator, calls = fitted(name), CASES[name][1]
    estimator.save(path)
    loaded = lstmx.load(path)
    assert type(loaded).__module__.startswith("lstmx.predictors") and type(loaded).__name__ in repr(loaded)
    thawed = pickle.loads(pickle.dumps(loaded))
    loaded.save(path.with_name("again"))
    again = lstmx.load(path.with_name("again"))
    thawed.save(path.with_name("thawed"))
    assert path.read_bytes() == path.with_name("again").read_bytes() == path.with_name("thawed").read_bytes()
    wanted = answers(estimator, calls)
    for one in (loaded, thawed, again):
        for call, found, want in zip(calls, answers(one, calls), wanted, strict=True):
            assert found == want, call[0]


def test_without_scikit_learn_and_scipy_the_bits_are_the_same(tmp_path):
    """All of them in one child, which has numpy and safetensors alone."""
    wanted = {}
    for number, name in enumerate(CASES):
        estimator, calls = fitted(name), CASES[name][1]
        estimator.save(tmp_path / str(number))
        wanted[name] = number, calls, answers(estimator, calls)
    (tmp_path / "calls").write_bytes(pickle.dumps({name: (n, calls) for name, (n, calls, _) in wanted.items()}))
    code = f"""
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("sklearn", "scipy", "joblib", "pandas", "matplotlib", "tqdm"):
                    raise ImportError(name)
        sys.meta_path.insert(0, Block())
        import pathlib, pickle
        import numpy as np
        import lstmx
        folder = pathlib.Path({str(tmp_path)!r})
        {{}}
        found = {{{{}}}}
        for name, (number, calls) in pickle.loads((folder / "calls").read_bytes()).items():
            found[name] = answers(lstmx.load(folder / str(number)), calls)
        assert "lstmx.estimators" not in sys.modules
        (folder / "found").write_bytes(pickle.dumps(found))
        """
    helpers = inspect.getsource(flat) + "\n" + inspect.getsource(answers)
    whole = textwrap.dedent(code).format(helpers)
    done = subprocess.run([sys.executable, "-P", "-W", "error", "-c", whole], capture_output=True, text=True,
                          timeout=120, env=CHILD)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = pickle.loads((tmp_path / "found").read_bytes())
    for name, (_, calls, want) in wanted.items():
        for k, (method, _) in enumerate(calls):
            assert found[name][k] == want[k], (name, method)


@pytest.mark.parametrize("name", LABELS)
def test_classes_come_back_as_they_were(name, path):
    estimator = fitted(f"classifier of {name}")
    estimator.save(path)
    assert flat(lstmx.load(path).classes_) == flat(estimator.classes_)
    assert set(lstmx.load(path).predict(EVEN).tolist()) <= set(LABELS[name].tolist())


def test_an_update_of_the_loaded_leaves_the_file_alone(path):
    estimator = fitted("forecaster")
    estimator.save(path)
    before = path.read_bytes(), estimator.predict()
    lstmx.load(path).update(SERIES[:5])
    assert path.read_bytes() == before[0]
    np.testing.assert_array_equal(lstmx.load(path).forecast(), before[1])
    estimator.update(SERIES[:5]).save(path)
    np.testing.assert_array_equal(lstmx.load(path).forecast(), estimator.predict())
    assert (estimator.predict() != before[1]).any()


def test_a_trace_is_that_of_the_estimator(path):
    estimator = fitted("regressor")
    estimator.save(path)
    one, two = estimator.trace(EVEN), lstmx.load(path).trace(EVEN)
    assert one.keys() == two.keys() == {0} and flat(one[0].i) == flat(two[0].i) and one[0].c.shape == (20, 6, 4)


def test_predictors_say_what_is_wrong_with_x(path):
    fitted("regressor").save(path)
    loaded = lstmx.load(path)
    with pytest.raises(ValueError, match="got 3 features"):
        loaded.predict(np.zeros((2, 6, 3)))
    with pytest.raises(ValueError, match="contains NaN inside sequence 0"):
        loaded.predict(np.where(np.arange(6)[:, None] == 2, np.nan, EVEN))


# Labels that a file cannot hold.

DAYS = np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "M8[D]")


@pytest.mark.parametrize(
    "labels", [DAYS, DAYS - DAYS[0], np.array([0, 1, 2], np.longdouble)], ids=["dates", "times", "longdouble"]
)
def test_labels_that_cannot_be_saved_are_an_error_before_training(labels, monkeypatch):
    """At `save` it would be too late, and after training too."""
    monkeypatch.setattr("lstmx.training.Trainer.run", lambda *_: pytest.fail("trained before it raised"))
    with pytest.raises(ValueError, match=r"y: got labels of dtype .*; convert them to strings or integers"):
        LSTMClassifier(**COMMON).fit(EVEN, labels[PLACE])
    with pytest.raises(ValueError, match="y: got labels of dtype"):
        LSTMClassifier(**COMMON).partial_fit(EVEN, PLACE, classes=labels)


@pytest.mark.parametrize("labels", [DAYS.tolist(), [(1, 2), (3, 4), (5, 6)], [b"a", b"b", b"c"], [None, 1, "a"]],
                         ids=["dates", "tuples", "bytes", "mixed"])  # fmt: skip
def test_objects_that_cannot_be_saved_are_no_labels(labels, monkeypatch):
    """scikit-learn refuses them."""
    monkeypatch.setattr("lstmx.training.Trainer.run", lambda *_: pytest.fail("trained before it raised"))
    y = np.empty(20, object)
    y[:] = [labels[k] for k in PLACE]
    with pytest.raises((ValueError, TypeError)):
        LSTMClassifier(**COMMON).fit(EVEN, y)


def test_a_save_that_fails_loses_nothing(path):
    """Should ever something that is not JSON come so far."""
    estimator = fitted("classifier of str")
    estimator.save(path)
    before, wanted = path.read_bytes(), estimator.predict(EVEN)
    vars(estimator._predictor)["config"] = estimator._predictor.config | {"classes": [object()] * 3}
    with pytest.raises(TypeError, match="JSON"):
        estimator.save(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
    np.testing.assert_array_equal(lstmx.load(path).predict(EVEN), wanted)


def test_what_is_not_fitted_is_not_saved(path):
    for kind in (LSTMClassifier, LSTMRegressor, LSTMForecaster, LSTMAnomalyDetector, LSTMTransformer):
        with pytest.raises(NotFittedError):
            kind().save(path)
    assert not path.exists()


# Whole or not at all.


@pytest.mark.parametrize("where", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_failing_write_keeps_the_old_file(where, error, path, monkeypatch):
    fitted("regressor").save(path)
    before = path.read_bytes()

    def fail(*args, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises(type(error)):
            fitted("classifier of str").save(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


KILLED = """
    import os, random, signal, sys, time
    import numpy as np
    import lstmx
    path, kills = sys.argv[1], int(sys.argv[2])
    one, two = (lstmx.load(path + name) for name in ("-one", "-two"))
    kinds = [type(one).__name__, type(two).__name__]
    one.save(path)
    rng = random.Random(0)
    class Slow:                    # where a save can be cut: after the file is made, written, flushed, renamed
        def __init__(self, name):
            self.call = getattr(os, name)
        def __call__(self, *args, **options):
            time.sleep(rng.random() * 0.002)
            return self.call(*args, **options)
    seen = set()
    for k in range(20 * kills):
        if k >= kills and len(seen) == 2:
            break                  # on a busy machine it takes more to see both
        child = os.fork()
        if child == 0:
            for name in ("fsync", "chmod", "replace"):
                setattr(os, name, Slow(name))
            while True:
                two.save(path)
                one.save(path)
        time.sleep(0.005 + rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        seen.add(kinds.index(type(lstmx.load(path)).__name__))
    print(sorted(seen))
    """


def kill(path, times):
    names = ("classifier of str", "forecaster of several")
    for name, end in zip(names, ("-one", "-two"), strict=True):
        fitted(name).save(f"{path}{end}")
    command = [sys.executable, "-P", "-c", textwrap.dedent(KILLED), str(path), str(times)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=CHILD)
    assert done.stdout.strip() == "[0, 1]", done.stdout + done.stderr  # both were found, never anything else


def test_kill_9_in_a_save_loop_leaves_one_file_or_the_other(path):
    kill(path, 25)


@pytest.mark.long
def test_kill_9_in_a_save_loop_many_times(path):
    kill(path, 300)


# Bad storage.

KINDS = ["classifier of str", "classifier of object", "multi-label", "classifier of steps", "regressor",
         "regressor of steps", "detector by mean", "transformer by last", "forecaster", "recursive forecaster",
         "forecaster with X", "forecaster of several", "forecaster of powers"]  # fmt: skip
JUNK = [None, -1, 0, 1e300, 2**60, 2**70, 10**400, 1.5, float("nan"), float("inf"), "x", "", True, [], [[1, [2]]], {},
        {"a": 1}, [None] * 3, "V1000000000"]  # fmt: skip


def contents(name):
    """(configuration, arrays) as `save` would write them; to be spoilt."""
    predictor = fitted(name)._predictor
    config, arrays = predictor.state()
    return {"class": type(predictor).__name__} | json.loads(json.dumps(config)), dict(arrays)


def ask(loaded):
    """Predict, with what each kind takes."""
    if isinstance(loaded, lstmx.predictors.Forecaster):
        need = 2 * loaded.config["block"]
        x = np.zeros((need, loaded.config["exogenous"]))
        several = [x] * loaded.config["series"] if loaded.config["many"] else x
        return loaded.forecast(need, several if loaded.config["exogenous"] else None)
    data = EVEN if loaded.config["layout"] == "NTC" else EVEN.swapaxes(1, 2)
    if hasattr(loaded, "transform"):
        return loaded.transform(data)
    return loaded.predict_steps(data) if hasattr(loaded, "predict_steps") else loaded.predict(data)


def load_or_refuse(path, config, arrays):
    """Load a file: the one error there may be is ModelFileError, and what is loaded must predict. True if refused."""
    storage.write(path, config, arrays)
    tracemalloc.start()
    try:
        loaded = lstmx.load(path)
        ask(loaded)
    except ModelFileError as error:
        assert str(path) in str(error) and len(str(error)) < 3000
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2e7
    return False


@pytest.mark.parametrize("name", KINDS)
def test_the_files_to_be_spoilt_are_good(name, path):
    assert not load_or_refuse(path, *contents(name))


@pytest.mark.parametrize("name", KINDS)
def test_every_field_is_needed(name, path):
    config = contents(name)[0]
    for key in set(config) - set(storage.registered(config["class"]).defaults):
        spoilt, arrays = contents(name)
        del spoilt[key]
        assert load_or_refuse(path, spoilt, arrays), key
    for k, layer in enumerate(config["model"]["layers"]):
        spoilt, arrays = contents(name)
        del spoilt["model"]["layers"][k]
        assert load_or_refuse(path, spoilt, arrays) or layer["class"] == "Dropout", k


def is_sound(name, key, value):
    """Whether a field may have this value where all else is the same: another predictor, but one that predicts."""
    config = contents(name)[0]
    if key in ("steps", "layout", "offset", "step_offset", "aggregate", "pooling", "many"):
        return True
    if key == "columns":
        return isinstance(value, list) and len(value) == config["exogenous"] > 0
    if key == "horizon":  # of a recursive forecaster that knows no errors there is no trace of it
        return config["calibrated"] == 0
    if key == "single":
        return value is True and config.get("outputs", config["features"]) == 1
    return key == "standardize" and value is True and "forecaster" in name


@pytest.mark.parametrize("name", KINDS)
def test_junk_in_any_field_is_refused(name, path):
    config = contents(name)[0]
    for key, old in config.items():
        for junk in JUNK:
            spoilt, arrays = contents(name)
            spoilt[key] = junk
            refused = load_or_refuse(path, spoilt, arrays)
            same = type(junk) is type(old) and junk == old
            assert refused or same or is_sound(name, key, junk), (key, junk)


@pytest.mark.parametrize("name", ["classifier of str", "transformer by last", "forecaster"])
def test_junk_in_any_field_of_a_layer_is_refused(name, path):
    config = contents(name)[0]
    for k, layer in enumerate(config["model"]["layers"]):
        for key, old in layer.items():
            for junk in JUNK:
                spoilt, arrays = contents(name)
                spoilt["model"]["layers"][k][key] = junk
                refused = load_or_refuse(path, spoilt, arrays)
                harmless = key in ("dropout", "p") and not isinstance(junk, bool) and junk == 0
                linear = (key, junk, old) == ("activation", None, "linear")
                assert refused or junk == old or harmless or linear, (k, key, junk)


@pytest.mark.parametrize("name", KINDS)
def test_every_tensor_is_needed_as_it_is(name, path):
    for tensor in contents(name)[1]:
        for spoil in (
            lambda a: None,
            lambda a: a[None],
            lambda a: a.reshape(-1, 1) if a.ndim == 1 else a.reshape(-1),
            lambda a: np.concatenate([a, a]) if a.size else np.zeros((1, *a.shape[1:]), a.dtype),
            lambda a: a[:0] if a.size else np.zeros((2, 3, 5, 7)),
            lambda a: a.astype(np.float32 if a.dtype == np.float64 else np.float64),
            lambda a: a.astype(np.int64),
            lambda a: a.astype(np.float16),
        ):
            config, arrays = contents(name)
            spoilt = spoil(arrays.pop(tensor))
            arrays |= {} if spoilt is None else {tensor: spoilt}
            if spoilt is not None and spoilt.shape == contents(name)[1][tensor].shape and not spoilt.size:
                continue  # no numbers, so none of another type
            assert load_or_refuse(path, config, arrays), (tensor, spoil)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("more", ["other", "model.9.weight", "x_mean2", "model.0.weight_ih_l7", "0.weight_ih_l0"])
def test_a_tensor_too_many_is_refused(name, more, path):
    config, arrays = contents(name)
    assert load_or_refuse(path, config, arrays | {more: np.zeros(3)})


@pytest.mark.parametrize("value", [2**20, 2**31, 2**60, 2**64, 10**30])
@pytest.mark.parametrize("key", ["features", "steps", "window", "block", "horizon", "series", "exogenous", "calibrated",
                                 "lags", "outputs"])  # fmt: skip
def test_huge_numbers_allocate_nothing(key, value, path):
    """`load_or_refuse` watches the memory."""
    for name in KINDS:
        config, arrays = contents(name)
        if key in config:
            config[key] = [value] if key == "lags" else value
            assert load_or_refuse(path, config, arrays) or key == "steps", name


@pytest.mark.parametrize(
    "dtype",
    ["V1000000000", "O", "<i8", "i4,i4", "(1000000,)i8", "<U1000000000", "<U9999999", "U", "S", "M8[s]", "c16", "<f16",
     "<U٣", "|b1", "", None, 3, ["<U3"], [["a", "<i4"]], {"names": ["a"], "formats": ["<i4"]}],
)  # fmt: skip
def test_odd_types_of_classes_are_refused(dtype, path):
    """NumPy would take most of them; some would need gigabytes for three labels."""
    for name in ("classifier of int", "classifier of str"):
        config, arrays = contents(name)
        if dtype == "<i8" and name == "classifier of int":
            continue
        config["classes_dtype"] = dtype
        assert load_or_refuse(path, config, arrays), name


@pytest.mark.parametrize(
    ("classes", "dtype"),
    [
        (["a", "b", "b"], "<U1"),
        (["a", "b", 3], "<U1"),
        (["a", "b", "too long"], "<U1"),
        (["a", "b", "x" * 100_000], "<U100000"),
        (["a", "b", None], "|O"),
        (["a", "b", ["c"]], "|O"),
        ([["a"], ["b"], ["c"]], "|O"),
        ([{}, {}, {}], "|O"),
        ([["a", "b"], ["c", "d"], ["e", "f"]], "|O"),
        ([1.5, 2, 3], "<i8"),
        ([1, 2, 2**63], "<i8"),
        ([1, 2, 300], "|i1"),
        ([-1, 2, 3], "<u8"),
        ([0, 1, 1e300], "<f4"),
        ([0, 1, 10**400], "<f8"),
        ([0, 1, float("nan")], "<f8"),
        ([0.5, float("nan"), 2.5], "|O"),
        ([0.5, float("inf"), 2.5], "<f8"),
        ([0, 1, 2], "|b1"),
        ("abc", "<U1"),
        ({"a": 1, "b": 2, "c": 3}, "<U1"),
        (["a", "b"], "<U1"),
        (["a", "b", "c", "d"], "<U1"),
        ([], "<U1"),
    ],
)
def test_odd_classes_are_refused(classes, dtype, path):
    config, arrays = contents("classifier of str")
    long = isinstance(classes, list) and any(isinstance(c, str) and len(c) > 1000 for c in classes)
    assert load_or_refuse(path, config | {"classes": classes, "classes_dtype": dtype}, arrays) or long


def test_many_classes_are_read_or_refused_quickly(path):
    """Labels of one long and many short strings would be an array of hundreds of gigabytes."""
    config, arrays = contents("classifier of str")
    short = [f"{k:x}" for k in range(50_000)]
    for classes, dtype in ((short, "<U4"), (["y" * 400_000, *short], "<U400000"), ([0] * 300_000, "<i8")):
        assert load_or_refuse(path, config | {"classes": classes, "classes_dtype": dtype}, arrays)
    with pytest.raises(ValueError, match="characters of JSON"):
        storage.write(path, config | {"classes": list(range(10**6))}, arrays)


def test_a_detector_from_before_missing_values_refuses_them(path):
    config, arrays = contents("detector by mean")
    assert "missing" not in config  # so that files are what they were, and older versions read them
    storage.write(path, config, arrays)
    assert lstmx.load(path).config["missing"] == "error"
    with pytest.raises(ValueError, match="contains NaN inside"):
        lstmx.load(path).predict(GAPS)
    for change, message in (
        ({"missing": "impute"}, "'x_fill' is missing"),
        ({"missing": "drop"}, "^.*missing: got 'drop'"),
    ):
        storage.write(path, config | change, arrays)
        with pytest.raises(ModelFileError, match=message):
            lstmx.load(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("regressor", {"target": "step"}),
        ("regressor of steps", {"target": "sequence"}),
        ("classifier of steps", {"target": "sequence"}),
        ("classifier of str", {"target": "step"}),
        ("regressor of rows", {"single": True}),
        ("forecaster of several", {"single": True}),
        ("forecaster of several", {"many": False}),
        ("regressor", {"class": "Transformer", "pooling": "last"}),
        ("regressor of steps", {"class": "Classifier", "multilabel": True, "classes": [0], "classes_dtype": "<i8"}),
        ("multi-label", {"class": "Forecaster"}),
        ("multi-label", {"class": "Sequential"}),
        ("multi-label", {"class": "Predictor"}),
        ("multi-label", {"class": "_NextStepPredictor"}),
        ("multi-label", {"class": "Checkpoint"}),
        ("multi-label", {"class": "LSTMClassifier"}),
        ("multi-label", {"class": None}),
        ("multi-label", {"multilabel": False, "classes": [0, 1]}),
        ("regressor", {"model": {"layers": []}}),
        ("regressor", {"model": [{"class": "LSTM"}]}),
        ("regressor", {"model": {"layers": [{"class": "Last"}] * 1000}}),
    ],
)
def test_what_does_not_belong_together_is_refused(name, change, path):
    config, arrays = contents(name)
    assert load_or_refuse(path, config | change, arrays)


def layers(*configs):
    return {"layers": list(configs)}


def test_models_that_a_predictor_cannot_use_are_refused(path):
    """They are sound by themselves, and take and give as many numbers as they should."""
    lstm = {"class": "LSTM"} | lstmx.LSTM(2, 4).config()
    dense = {"class": "Dense"} | lstmx.Dense(4, 2).config()
    weights = {f"model.0.{n}": p for n, p in lstmx.LSTM(2, 4).parameters().items()}
    weights |= {f"model.1.{n}": p for n, p in lstmx.Dense(4, 2).parameters().items()}
    plain = {"class": "Transformer", "features": 2, "steps": None, "layout": "NTC", "standardize": False,
             "pooling": "last"}  # fmt: skip
    assert not load_or_refuse(path, plain | {"model": layers(lstm, dense)}, weights)
    # Inputs are numbers, not indices.
    embedding = {"class": "Embedding"} | lstmx.Embedding(2, 2).config()
    shifted = {n.replace(".1.", ".2.").replace(".0.", ".1."): p for n, p in weights.items()}
    shifted["model.0.weight"] = np.zeros((2, 2), np.float32)
    assert load_or_refuse(path, plain | {"model": layers(embedding, lstm, dense)}, shifted)
    # The features of a transformer are those of its first layer.
    first = {"class": "Dense"} | lstmx.Dense(2, 2).config()
    shifted |= {"model.0.weight": np.zeros((2, 2), np.float32), "model.0.bias": np.zeros(2, np.float32)}
    assert load_or_refuse(path, plain | {"model": layers(first, lstm, dense)}, shifted)


SCALES = {"x_scale", "y_scale"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0])
@pytest.mark.parametrize("name", KINDS)
def test_numbers_that_give_no_predictions_are_refused(bad, name, path):
    """In a file and in a pickle; such predictions were NaN."""
    for tensor in [n for n in contents(name)[1] if not n.startswith("model.")]:
        config, arrays = contents(name)
        if not arrays[tensor].size or (np.isfinite(bad) and tensor not in SCALES):
            continue
        arrays[tensor] = arrays[tensor].copy()
        arrays[tensor].flat[-1] = bad
        assert load_or_refuse(path, config, arrays), tensor
        what = rf"{tensor}: 1 of \d+ values, the first {bad}, are not (finite|above 0).*; fit again, or"
        with pytest.raises(ModelFileError, match=what):
            lstmx.load(path, allow_nonfinite=True)  # which is about parameters
        del config["class"]
        with pytest.raises(ValueError, match=f"^{what}"):
            type(fitted(name)._predictor).from_state(config, arrays)


@pytest.mark.parametrize(("tensor", "bad"), [("x_mean", 1e39), ("x_scale", 1e-39), ("x_scale", 1e39)])
def test_numbers_that_the_type_of_the_model_does_not_hold_are_refused(tensor, bad, path):
    for name in ("detector by mean", "regressor"):
        config, arrays = contents(name)
        arrays[tensor] = np.full_like(arrays[tensor], bad)
        assert not load_or_refuse(path, config, arrays)  # in float64
        layers = config["model"]["layers"]
        config["model"] = {"layers": [c | ({"dtype": "float32"} if "dtype" in c else {}) for c in layers]}
        arrays = {n: a.astype(np.float32) if n.startswith("model.") else a for n, a in arrays.items()}
        storage.write(path, config, arrays)
        with pytest.raises(ModelFileError, match=f"{tensor}: 2 of 2 values, .*finite in the model's type"):
            lstmx.load(path)


@pytest.mark.parametrize("name", KINDS)
def test_parameters_that_are_not_finite_are_refused_unless_allowed(name, path):
    config, arrays = contents(name)
    tensor = next(n for n in arrays if n.startswith("model."))
    arrays[tensor] = arrays[tensor].copy()
    arrays[tensor].flat[0] = np.nan
    storage.write(path, config, arrays)
    with pytest.raises(ModelFileError, match=rf"{tensor}: 1 of \d+ values are NaN .*allow_nonfinite=True"):
        lstmx.load(path)
    found = lstmx.load(path, allow_nonfinite=True)
    assert np.isnan(found.model.parameters()[tensor[len("model.") :]].flat[0])
    pickle.loads(pickle.dumps(found))  # what is there may be copied
    found.save(path)


@pytest.mark.parametrize("name", KINDS)
def test_keys_that_are_unknown_or_missing_are_named_at_every_level(name, path):
    def refused(change, message):
        config, arrays = contents(name)
        change(config)
        storage.write(path, config, arrays)
        with pytest.raises(ModelFileError, match=message) as error:
            lstmx.load(path)
        assert str(path) in str(error.value)

    config = contents(name)[0]
    refused(lambda c: c.update(extra=1), f"the configuration of {config['class']}: 'extra' is unknown; leave it out")
    refused(lambda c: c["model"].update(extra=1), "the configuration of Sequential: 'extra' is unknown; leave it out")
    refused(lambda c: c["model"].pop("layers"), "the configuration of Sequential: 'layers' is missing")
    for key in set(config) - set(storage.registered(config["class"]).defaults):
        if key != "class":
            refused(lambda c, key=key: c.pop(key), f"the configuration of {config['class']}: '{key}' is missing")
    for k, layer in enumerate(config["model"]["layers"]):
        refused(lambda c, k=k: c["model"]["layers"][k].update(extra=1), f"{layer['class']} is not valid .*'extra'")
        for key in layer:
            refused(lambda c, k=k, key=key: c["model"]["layers"][k].pop(key), f"'{key}'|no layer class None")


@pytest.mark.parametrize("spoil", [
    lambda arrays: arrays.pop("x_mean"), lambda arrays: arrays.update(other=np.zeros(2)),
    lambda arrays: arrays.update(x_mean=np.zeros(3)), lambda arrays: arrays.update(x_mean=np.zeros(2, np.float32)),
    lambda arrays: arrays.update(x_mean=[0.0, 0.0]),
])  # fmt: skip
def test_a_predictor_checks_its_arrays_wherever_they_come_from(spoil):
    config, arrays = fitted("regressor")._predictor.state()
    spoil(arrays)
    with pytest.raises((ValueError, TypeError), match=r"^(arrays: '(x_mean|other)'|x_mean: got)"):
        lstmx.predictors.Regressor.from_state(config, arrays)
    with pytest.raises(ValueError, match=r"^config: 'extra' is unknown"):
        lstmx.predictors.Regressor.from_state(config | {"extra": 1}, arrays)


def fuzz(examples):
    checks = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=checks)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["Classifier", "Regressor", "NTC", "last", "<i8", "|O", 2, 3, 10**12]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)  # fmt: skip


@fuzz(200)
@given(name=st.sampled_from(KINDS), changes=st.lists(st.tuples(st.integers(0, 30), JSON), min_size=1, max_size=3))
def test_random_fields_are_refused_or_harmless(name, changes, tmp_path):
    config, arrays = contents(name)
    keys = list(config)
    for k, value in changes:
        config[keys[k % len(keys)]] = value
    try:
        load_or_refuse(tmp_path / "model", config, arrays)
    except RuntimeWarning:
        assert {"offset", "step_offset"} & {keys[k % len(keys)] for k, _ in changes}  # a huge number, overflowing


@fuzz(150)
@given(name=st.sampled_from(KINDS), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_flipped_bytes_of_the_header_give_an_error_or_a_predictor(name, place, flip, tmp_path):
    path = tmp_path / "model"
    storage.write(path, *contents(name))
    data = bytearray(path.read_bytes())
    size = 8 + int.from_bytes(data[:8], "little")
    data[int(place * size)] ^= flip
    path.write_bytes(data)
    with contextlib.suppress(ModelFileError):
        assert isinstance(lstmx.load(path), lstmx.predictors.Predictor)


def test_a_child_that_loads_a_hostile_file_needs_little_memory(path):
    """The address space is limited, so that what `tracemalloc` does not see would fail."""
    config, arrays = contents("classifier of str")
    storage.write(path, config | {"classes_dtype": "V1000000000"}, arrays)
    code = f"""
        import resource
        import lstmx, numpy, safetensors
        from lstmx.storage import ModelFileError
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
        try:
            lstmx.load({str(path)!r})
        except ModelFileError as error:
            print("refused", "classes" in str(error))
        """
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], capture_output=True, text=True,
                          timeout=60, env=CHILD)  # fmt: skip
    assert done.returncode != -signal.SIGKILL and done.stdout == "refused True\n", done.stderr


def test_frames_have_the_columns_of_fit(tmp_path):
    pandas = pytest.importorskip("pandas")
    frames = [pandas.DataFrame(np.random.default_rng(n).normal(size=(n, 2)), columns=["a", "b"]) for n in (4, 5, 6, 7)]
    table = pandas.DataFrame(np.random.default_rng(0).normal(size=(4, 3)), columns=["t0", "t1", "t2"])
    for X, swapped in ((frames, [x[["b", "a"]] for x in frames]), (table, table[["t1", "t0", "t2"]])):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clf = lstmx.LSTMClassifier(2, max_iter=1, random_state=0).fit(X, [0, 1, 0, 1])
        clf.save(tmp_path / "clf")
        for again in (lstmx.load(tmp_path / "clf"), pickle.loads(pickle.dumps(lstmx.load(tmp_path / "clf")))):
            assert (again.predict_proba(X) == clf.predict_proba(X)).all()
            with pytest.raises(ValueError, match=r"^X(\[0\])?: has the columns .* must have those of fit, in order: "):
                again.predict(swapped)
            again.predict([x.to_numpy() for x in swapped] if X is frames else swapped.to_numpy())  # no names


def test_a_detector_names_its_own_remedy_for_gaps():
    X = np.random.default_rng(0).normal(size=(4, 6, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = lstmx.LSTMAnomalyDetector(2, max_iter=1, random_state=0).fit(X)
    X[1, 2] = np.nan
    for call in (detector.fit, detector.predict, detector._predictor.predict, lambda X: detector.predict(list(X))):
        with pytest.raises(ValueError, match=r'contains NaN inside .*Set missing="impute" and fit, by which'):
            call(X)
    with pytest.raises(ValueError, match=r"is padding\. Fill it with lstmx"):
        lstmx.LSTMTransformer(2).fit(X)
