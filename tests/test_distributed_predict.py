"""`lstmx.distributed.predict` on Dask arrays, bags and DataFrames, and searches of scikit-learn on Dask's workers."""

import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lstmx
from lstmx import predictors
from lstmx.distributed import _models, predict

dask, cloudpickle = pytest.importorskip("dask"), pytest.importorskip("cloudpickle")
da, db, dd = (pytest.importorskip(f"dask.{name}") for name in ("array", "bag", "dataframe"))

RNG = np.random.default_rng(0)
N, T = 23, 6
X = RNG.normal(size=(N, T, 2))
LENGTHS = RNG.integers(3, T + 1, N)
RAGGED = [x[:n] for x, n in zip(X, LENGTHS, strict=True)]
LABELS = np.array(["no", "yes", "perhaps"])[np.arange(N) % 3]
WORDS = RNG.integers(0, 9, (N, T))
LSTM, DENSE = lstmx.LSTM(2, 3, random_state=0), lstmx.Dense(3, 2, random_state=1)
QUICK = {"hidden_size": 3, "max_iter": 5, "tol": 10.0, "n_iter_no_change": 1, "random_state": 0}
# Chunks along N.
CHUNKS = [(N,), (1,) * N, (7, 1, 15), (0, 10, 0, 13)]


def embedding():
    layers = [lstmx.Embedding(9, 2, random_state=0), lstmx.LSTM(2, 3, random_state=0), lstmx.Last()]
    return lstmx.Sequential(layers)


# Model and method -> what makes the model, and arrays that it takes.
MODELS = {
    "one output a sequence": (lambda: lstmx.Sequential([LSTM.copy(), lstmx.Last(), DENSE.copy()]), X, "predict"),
    "one output a step": (lambda: lstmx.Sequential([LSTM.copy(), DENSE.copy()]), X.astype("f4"), "predict"),
    "embedding": (embedding, WORDS, "predict"),
    "classes": (lambda: lstmx.LSTMClassifier(**QUICK).fit(X, LABELS), X, "predict"),
    "probabilities": (lambda: lstmx.LSTMClassifier(**QUICK).fit(X, LABELS), X, "predict_proba"),
    "classes of steps": (lambda: lstmx.LSTMClassifier(target="step", **QUICK).fit(X, X[:, :, 0] > 0), X, "predict"),
    "numbers": (lambda: lstmx.LSTMRegressor(**QUICK).fit(X, X[:, 0]), X, "predict"),
    "a table": (lambda: lstmx.LSTMRegressor(**QUICK).fit(X[:, :, 0], X[:, 0, 1]), X[:, :, 0], "predict"),
    "outliers": (lambda: lstmx.LSTMAnomalyDetector(**QUICK).fit(X), X, "predict"),
    "scores of steps": (lambda: lstmx.LSTMAnomalyDetector(**QUICK).fit(X), X, "score_steps"),
    "states": (lambda: lstmx.LSTMTransformer(**QUICK).fit(X), X, "transform"),
    "scaled, features first": (
        lambda: lstmx.SequenceScaler(layout="NCT").fit(X.swapaxes(1, 2)),
        np.ascontiguousarray(X.swapaxes(1, 2)),
        "transform",
    ),
    "a pipeline": (
        lambda: make_pipeline(lstmx.SequenceScaler(), lstmx.LSTMClassifier(**QUICK)).fit(X, LABELS),
        X,
        "predict_proba",
    ),
    "a scaled table": (
        lambda: make_pipeline(StandardScaler(), lstmx.LSTMClassifier(**QUICK)).fit(X[:, :, 0], LABELS),
        X[:, :, 0],
        "predict",
    ),
}


@pytest.fixture(scope="module")
def models():
    """Each model once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = MODELS[name][0]()
        return made[name], *MODELS[name][1:]

    return get


@pytest.fixture(scope="module")
def forecaster():
    return lstmx.LSTMForecaster(3, 2, differences=(), **QUICK).fit(np.sin(np.arange(60.0)))


@pytest.fixture(autouse=True)
def here():
    """Tasks run here, one after the other, unless a test says otherwise."""
    with dask.config.set(scheduler="synchronous"):
        yield


def same(found, want):
    found, want = np.asarray(found), np.asarray(want)
    return found.dtype == want.dtype and found.shape == want.shape and found.tobytes() == want.tobytes()


def frame_of(sequences, columns=("a", "b")):
    """A row for each step, sequences told apart by "who", steps ordered by "when"."""
    each = [
        pd.DataFrame(dict(zip(columns, np.asarray(x).T, strict=True))).assign(who=f"m{k:02d}", when=np.arange(len(x)))
        for k, x in enumerate(sequences)
    ]
    return pd.concat(each, ignore_index=True)


FRAME = frame_of(RAGGED)
MIXED = FRAME.sample(frac=1, random_state=0)
SUM = MODELS["one output a sequence"][0]()
STEPS = MODELS["one output a step"][0]()


# Arrays.


@pytest.mark.parametrize("name", MODELS)
def test_arrays_have_the_bits_of_a_local_call_in_any_chunks(models, name):
    model, x, method = models(name)
    want = getattr(model, method)(x)
    for chunks in CHUNKS:
        y = predict(model, da.from_array(x, chunks=(chunks, *x.shape[1:])), method=method)
        assert y.chunks == (chunks, *((size,) for size in want.shape[1:])) and y.dtype == want.dtype
        assert same(y.compute(), want)
        assert y.name == predict(model, da.from_array(x, chunks=(chunks, *x.shape[1:])), method=method).name


@pytest.mark.parametrize("scheduler", ["threads", pytest.param("processes", marks=pytest.mark.long)])
def test_other_schedulers_give_the_same(models, scheduler):
    model, x, method = models("probabilities")
    y = predict(model, da.from_array(x, chunks=(5, T, 2)), method=method)
    bag = predict(model, db.from_sequence(RAGGED, npartitions=3), method=method)
    table = predict(model, dd.from_pandas(MIXED, npartitions=3), method=method, by="who", time="when")
    with dask.config.set(scheduler=scheduler):
        assert same(y.compute(), model.predict_proba(x))
        assert same(bag.compute(), model.predict_proba(RAGGED))
        assert same(table.compute().sort_index(), model.predict_proba(RAGGED))


def test_sizes_of_chunks_may_be_unknown():
    x = da.from_array(X, chunks=(5, T, 2))
    some = X[:, 0, 0] > 0
    chosen, lengths = x[da.from_array(some, chunks=5)], da.from_array(LENGTHS, chunks=5)
    assert np.isnan(chosen.shape[0])
    assert same(predict(SUM, chosen).compute(), SUM.predict(X[some]))
    y = predict(STEPS, chosen, lengths=lengths[da.from_array(some, chunks=5)])
    assert same(y.compute(), STEPS.predict(X[some], lengths=LENGTHS[some]))


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS.tolist(), da.from_array(LENGTHS, chunks=4)])
def test_lengths_come_beside(lengths):
    y = predict(STEPS, da.from_array(X, chunks=(5, T, 2)), lengths=lengths)
    assert same(y.compute(), STEPS.predict(X, lengths=LENGTHS))
    words = MODELS["embedding"][0]()
    y = predict(words, da.from_array(WORDS, chunks=(5, T)), lengths=lengths)
    assert same(y.compute(), words.predict(WORDS, lengths=LENGTHS))


def test_padding_is_nan_where_the_method_has_that(models):
    padded = np.where((np.arange(T) < LENGTHS[:, None])[:, :, None], X, np.nan)
    x = da.from_array(padded, chunks=(5, T, 2))
    model = models("classes of steps")[0]
    assert same(predict(model, x, method="predict_proba").compute(), model.predict_proba(padded))
    with pytest.raises(ValueError, match=r"^partition \d: X: holds padding.*predict_proba"):
        predict(model, x).compute()


def other_chunks(*shapes):
    """An array (.., T, 2) as Dask takes it to be, with chunks of these shapes."""
    chunks = [da.from_delayed(dask.delayed(np.zeros)(shape), (2, T, 2), float) for shape in shapes]
    return da.concatenate(chunks)


@pytest.mark.parametrize("shape", [(2, T, 3), (2, T - 1, 2), (0, T, 3)])
def test_a_chunk_of_another_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"^partition 1: X: got shape .*, must be \(n, 6, 2\), as the Dask array says"):
        predict(STEPS, other_chunks((2, T, 2), shape)).compute()


def test_what_is_wrong_in_a_chunk_is_named(models):
    bad = X.copy()
    bad[12, 2, 0] = np.inf
    with pytest.raises(ValueError, match=r"^partition 2: X: contains infinity .* in sequence 2"):
        predict(models("classes")[0], da.from_array(bad, chunks=(5, T, 2))).compute()


# Bags.


@pytest.mark.parametrize("name", ["one output a sequence", "one output a step", "classes", "classes of steps",
                                  "scores of steps", "states"])  # fmt: skip
def test_bags_have_the_bits_of_a_local_call(models, name):
    model, _, method = models(name)
    want = getattr(model, method)(RAGGED)
    for parts in (1, 4, N):
        found = predict(model, db.from_sequence(RAGGED, npartitions=parts), method=method).compute()
        assert len(found) == N and all(map(same, found, want))


def test_bags_with_empty_partitions_and_lists():
    bag = db.from_sequence([*range(N)], npartitions=5).filter(lambda n: n > 6).map(lambda n: RAGGED[n].tolist())
    assert same(predict(SUM, bag).compute(), SUM.predict(RAGGED[7:]))
    words = MODELS["embedding"][0]()
    assert same(predict(words, db.from_sequence(list(WORDS), npartitions=3)).compute(), words.predict(WORDS))


def test_a_sequence_of_other_features_is_named():
    bag = db.from_sequence([*RAGGED[:4], np.zeros((3, 5)), *RAGGED[5:8]], npartitions=4)
    with pytest.raises(ValueError, match=r"^partition 2: X\[0\]: got shape \(3, 5\), must be \(T_n, 2\)"):
        predict(SUM, bag).compute()


# DataFrames.


def test_rows_are_brought_together_and_ordered(models):
    frame = dd.from_pandas(MIXED.assign(junk="x"), npartitions=4)
    given = {"by": "who", "time": "when", "columns": ["a", "b"]}
    y = predict(SUM, frame, **given)
    found = y.compute()
    assert list(y.columns) == ["predict_0", "predict_1"] and found.index.name == "who"
    assert (found.dtypes == y.dtypes).all() and found.index.dtype == y.index.dtype
    assert same(found.sort_index(), SUM.predict(RAGGED))
    lazy = predict(STEPS, frame, **given)
    steps = lazy.compute().sort_index()
    assert list(lazy.columns) == ["who", "when", "predict_0", "predict_1"] and (steps.dtypes == lazy.dtypes).all()
    assert same(steps.iloc[:, 2:], np.concatenate(STEPS.predict(RAGGED))) and steps.index.equals(FRAME.index)
    assert all(steps[name].tolist() == FRAME[name].tolist() for name in ("who", "when"))  # what to join the results by
    model, _, method = models("probabilities")
    proba = predict(model, frame, method=method, **given)
    assert list(proba.columns) == ["no", "perhaps", "yes"]
    assert same(proba.compute().sort_index(), model.predict_proba(RAGGED))
    numbers = lstmx.LSTMClassifier(**QUICK).fit(RAGGED, [n % 2 for n in range(len(RAGGED))])
    assert list(predict(numbers, frame, method=method, **given).columns) == ["0", "1"]  # as Parquet wants them
    labels = predict(model, frame, **given)
    assert labels.name == "predict" and labels.compute().sort_index().tolist() == model.predict(RAGGED).tolist()


@pytest.mark.parametrize("divisions", [True, False])
def test_an_index_of_keys_is_read_partition_by_partition(divisions):
    frame = dd.from_pandas(FRAME.set_index("who"), npartitions=4)
    frame = frame if divisions else frame.clear_divisions()
    given = {"by": "who", "columns": ["a", "b"]} | ({} if divisions else {"shuffle": False})
    y = predict(SUM, frame, **given)
    assert y.divisions == frame.divisions and y.npartitions == 4
    found = y.compute()
    assert same(found, SUM.predict(RAGGED)) and found.index.tolist() == sorted(set(FRAME["who"]))
    assert same(y.partitions[2].compute(), found.loc[y.partitions[2].compute().index])
    steps = predict(STEPS, frame, **given)
    beside = ["predict_0", "predict_1"]
    assert same(steps[beside].compute(), np.concatenate(STEPS.predict(RAGGED)))
    assert steps.compute().index.tolist() == FRAME["who"].tolist() and steps.divisions == frame.divisions


def test_the_index_may_be_the_time():
    frame = dd.from_pandas(MIXED.set_index("when"), npartitions=4)
    assert same(predict(SUM, frame, by="who", time="when").compute().sort_index(), SUM.predict(RAGGED))
    steps = predict(STEPS, frame, by="who", time="when").compute()
    values = steps.drop(columns="who")
    assert same(np.sort(values, axis=0), np.sort(np.concatenate(STEPS.predict(RAGGED)), axis=0))
    assert steps.index.name == "when" and sorted(steps.index) == sorted(FRAME["when"])


def test_divisions_of_rows_are_none_of_keys():
    y = predict(SUM, dd.from_pandas(FRAME, npartitions=1), by="who", time="when")
    assert not y.known_divisions and same(y.loc["m03":"m04"].compute(), SUM.predict(RAGGED[3:5]))
    assert predict(STEPS, dd.from_pandas(FRAME, npartitions=1), by="who", time="when").known_divisions


def test_columns_that_are_scaled_keep_their_names(models):
    scaler = lstmx.SequenceScaler().fit(RAGGED)
    y = predict(scaler, dd.from_pandas(MIXED, npartitions=3), by="who", time="when", method="transform")
    assert list(y.columns) == ["who", "when", "a", "b"]
    assert same(y[["a", "b"]].compute().sort_index(), np.concatenate(scaler.transform(RAGGED)))


def test_an_index_of_keys_that_is_not_sorted_is_shuffled():
    frame = dd.from_pandas(MIXED.set_index("who"), npartitions=4, sort=False)
    found = predict(SUM, frame, by="who", time="when").compute()
    assert same(found.sort_index(), SUM.predict(RAGGED))


def test_a_sequence_in_two_partitions_is_never_taken_for_two():
    frame = dd.from_pandas(FRAME, npartitions=4)
    for model in (SUM, STEPS):
        y = predict(model, frame, by="who", columns=["a", "b"], shuffle=False)
        with pytest.raises(ValueError, match=r"by: who 'm\d\d' lies in the partitions 0, 1, must lie in one"):
            y.compute()
        with pytest.raises(ValueError, match="lies in the partitions 0, 1"):
            y.partitions[3].compute()
    with pytest.raises(ValueError, match=r"time: must name what orders the steps .* shuffle=False"):
        predict(SUM, frame, by="who", columns=["a", "b"])
    one = predict(SUM, dd.from_pandas(FRAME, npartitions=1), by="who", columns=["a", "b"])
    assert same(one.compute(), SUM.predict(RAGGED))


@pytest.mark.filterwarnings("ignore:The inplace keyword in")  # Dask 2026.8 reads Parquet so, with pandas 3.1
def test_divisions_that_parquet_has_wrong_are_found(tmp_path):
    """Dask takes files whose keys meet for divided: the last of one may be the first of the next."""
    frame = FRAME[["who", "a", "b"]].set_index("who")
    cut = int(FRAME.index[FRAME["who"] == "m05"][1])
    for k, part in enumerate([frame[:cut], frame[cut:]]):
        part.to_parquet(tmp_path / f"part.{k}.parquet")
    read = dd.read_parquet(tmp_path, calculate_divisions=True)
    assert read.divisions == ("m00", "m05", "m22")
    with pytest.raises(ValueError, match="by: who 'm05' lies in the partitions 0, 1"):
        predict(SUM, read, by="who").compute()
    found = predict(SUM, read, by="who", columns=["b", "a"], shuffle=False)
    with pytest.raises(ValueError, match="by: who 'm05' lies in the partitions 0, 1"):
        found.compute()


@pytest.mark.filterwarnings("ignore:The inplace keyword in")
def test_columns_that_are_not_asked_for_are_not_read(tmp_path):
    frame = FRAME.assign(**{f"more_{k}": 0.5 for k in range(9)}).set_index("who")
    for k, names in enumerate(np.array_split(frame.index.unique(), 8)):
        frame.loc[names].to_parquet(tmp_path / f"part.{k}.parquet")
    read = dd.read_parquet(tmp_path)
    y = predict(SUM, read, by="who", columns=["a", "b"], shuffle=False)
    assert y.optimize().npartitions < 8 and same(y.compute(), SUM.predict(RAGGED))


def test_empty_partitions_of_a_frame():
    frame = dd.from_pandas(FRAME, npartitions=4)
    frame = frame[frame["who"] < "m03"]
    for model, want in ((SUM, SUM.predict(RAGGED[:3])), (STEPS, np.concatenate(STEPS.predict(RAGGED[:3])))):
        found = predict(model, frame, by="who", time="when").compute().sort_index()
        assert same(found[["predict_0", "predict_1"]], want)
        assert len(predict(model, frame[frame["who"] < "a"], by="who", time="when").compute()) == 0


def test_types_of_pandas_are_numbers():
    typed = FRAME.astype({"a": "Float64", "b": "float64[pyarrow]"})
    found = predict(SUM, dd.from_pandas(typed, npartitions=3), by="who", time="when").compute()
    assert same(found.sort_index(), SUM.predict(RAGGED))
    zoned = FRAME.assign(when=pd.date_range("2024", periods=len(FRAME), freq="h", tz="Europe/Vienna"))
    found = predict(SUM, dd.from_pandas(zoned.sample(frac=1, random_state=0), npartitions=3), by="who", time="when")
    assert same(found.compute().sort_index(), SUM.predict(RAGGED))
    kinds = dd.from_pandas(FRAME.astype({"who": "category"}).set_index("who"), npartitions=3)
    found = predict(SUM, kinds, by="who", time="when").compute()
    assert same(found, SUM.predict(RAGGED)) and found.index.tolist() == sorted(set(FRAME["who"]))
    words = MODELS["embedding"][0]()
    frame = dd.from_pandas(frame_of([w[:, None] for w in WORDS], ["word"]), npartitions=3)
    assert same(predict(words, frame, by="who", time="when").compute().sort_index(), words.predict(WORDS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.assign(when=f["when"].where(f["when"] != 1, 0)),
            "time: who 'm.*' has two steps at 0, must have one",
        ),
        (lambda f: f.assign(when=f["when"].where(f["when"] != 1)), "time: .* values of 'when' are missing"),
        (lambda f: f.assign(when=f["when"].astype(str)), "time: 'when' holds strings"),
        (lambda f: f.assign(who=f["who"].where(f["who"] != "m01")), "by: .* values of 'who' are missing"),
        (
            lambda f: f.drop(columns="who"),
            r"by: must be 'who', as the DataFrame says, but there are \['a', 'b', 'when'\]",
        ),
        (lambda f: f.drop(columns="b"), r"columns: got \['a', 'who', 'when'\], must be \['a', 'b'\]"),
        (lambda f: f.assign(c=0.0), r"columns: got .*'c'\], must be \['a', 'b'\], as the DataFrame says"),
        (lambda f: f.assign(a="x"), "could not convert string"),
    ],
)
def test_what_is_wrong_in_a_partition_of_a_frame_is_named(change, message):
    parts = [FRAME[FRAME["who"] < "m03"], change(FRAME[FRAME["who"] >= "m20"])]
    parts[1] = change(FRAME[FRAME["who"] < "m03"]) if "m01" in message else parts[1]
    frame = dd.from_map(lambda k: parts[k], [0, 1], meta=FRAME[:0])
    if "'who' are missing" in message:
        parts[1] = change(FRAME[FRAME["who"] == "m01"])
    with pytest.raises((ValueError, TypeError), match=f"^partition 1: {message}"):
        predict(SUM, frame, by="who", time="when", shuffle=False).compute()


# Forecasters.


def test_forecasts(forecaster):
    series = [np.sin(np.arange(n) / 3) for n in (20, 31, 26, 44, 27)]
    want = forecaster.predict(4, y=series)
    found = predict(forecaster, db.from_sequence(series, npartitions=3), horizon=4).compute()
    assert all(map(same, found, want)) and len(found) == 5
    ends = np.stack([a[-20:] for a in series])
    for x in (ends, ends[:, :, None]):
        y = predict(forecaster, da.from_array(x, chunks=(2, *x.shape[1:])))
        assert y.shape == (5, 2) and same(y.compute(), np.stack(forecaster.predict(y=list(ends))))
    frame = dd.from_pandas(frame_of([a[:, None] for a in series], ["load"]), npartitions=3)
    y = predict(forecaster, frame, by="who", time="when", horizon=4)
    table = y.compute().sort_values(["who", "step"])
    assert list(y.columns) == ["step", "load"] and table["step"].tolist() == [1, 2, 3, 4] * 5
    assert same(table["load"], np.concatenate(want)) and (table.dtypes == y.dtypes).all()
    assert table.index.tolist() == [f"m{k:02d}" for k in range(5) for _ in range(4)]
    with pytest.raises(ValueError, match=r"^partition 1: y\[1\]: got 2 steps, must be at least 3"):
        predict(forecaster, db.from_sequence([*series[:3], series[0][:2]], npartitions=2)).compute()


def test_variables_of_a_forecaster_have_the_names_and_the_order_of_fit(tmp_path):
    def frame(names):
        return pd.DataFrame({name: np.sin(np.arange(30.0) / (3 + (name == "b"))) for name in names})

    forecaster = lstmx.LSTMForecaster(3, 2, differences=(), **QUICK).fit(frame("ab"))
    forecaster.save(tmp_path / "model.safetensors")
    want = np.asarray(forecaster.predict(y=frame("ab")))
    for model in (forecaster, tmp_path / "model.safetensors"):
        bag = predict(model, db.from_sequence([frame("ab"), frame("ba")], npartitions=2))
        with pytest.raises(ValueError, match=r"^partition 1: y\[0\]: has the columns \['b', 'a'\], must have those"):
            bag.compute()
        table = dd.from_pandas(frame("ba").assign(who=1), npartitions=1)
        with pytest.raises(
            ValueError, match=r"columns: got \['b', 'a'\], must be those of fit, in order: \['a', 'b'\]"
        ):
            predict(model, table, by="who")
        found = predict(model, table, by="who", columns=["a", "b"]).compute()
        assert same(found[["a", "b"]], want)


# What is computed when, and what travels.


def test_nothing_is_computed_before_it_is_asked_for():
    touched = []

    def touch(x):
        touched.append(len(x))
        return x

    x = da.from_array(X, chunks=(5, T, 2)).map_blocks(touch, dtype=float, meta=np.empty((0, 0, 0)))
    bag = db.from_sequence(RAGGED, npartitions=3).map_partitions(touch)
    frame = dd.from_map(lambda k: touch(FRAME[FRAME["who"] == k]), ["m00", "m01"], meta=FRAME[:0])
    results = [predict(SUM, x), predict(STEPS, x), predict(SUM, bag), predict(SUM, frame, by="who", shuffle=False,
               columns=["a", "b"]), predict(SUM, frame, by="who", time="when")]  # fmt: skip
    assert touched == []
    for one in results:  # Dask warns of bags and frames in one call
        one.compute()
    assert len(touched) >= 5 + 3 + 2


def test_the_model_is_in_the_graph_once():
    model = lstmx.Sequential([lstmx.LSTM(2, 64, random_state=0), lstmx.Last()])
    size = len(_models.pack(model).content)
    many = np.tile(X, (10, 1, 1))
    frame = frame_of(many).drop(columns="when")
    for make in (
        lambda parts: predict(model, da.zeros((200, T, 2), chunks=(200 // parts, T, 2))),
        lambda parts: predict(model, db.from_sequence(range(200), npartitions=parts).map(lambda n: X[0])),
        lambda parts: predict(model, dd.from_pandas(frame.set_index("who"), npartitions=parts), by="who"),
    ):
        small, large = (len(cloudpickle.dumps(dict(make(parts).__dask_graph__()))) for parts in (2, 50))
        assert size < small and large - small < size
    assert size > 60_000


def test_the_model_is_taken_as_it_is_when_it_is_given(tmp_path):
    model, x = SUM.copy(), da.from_array(X, chunks=(5, T, 2))
    want, y = model.predict(X), predict(model, x)
    model.save(tmp_path / "model.safetensors")
    by_path = [predict(path, x) for path in (tmp_path / "model.safetensors", str(tmp_path / "model.safetensors"))]
    (tmp_path / "model.safetensors").unlink()
    model.set_parameters({"0.bias_l0": np.zeros(12)})
    assert all(same(one.compute(), want) for one in (y, *by_path))
    assert same(predict(model, x).compute(), model.predict(X)) and not same(want, model.predict(X))


def test_a_process_loads_a_model_once_and_keeps_few(monkeypatch):
    from lstmx import loading

    loaded, load = [], loading.load
    monkeypatch.setattr(loading, "load", lambda path: loaded.append(path) or time.sleep(0.05) or load(path))
    monkeypatch.setattr(_models, "_loaded", type(_models._loaded)())
    x = da.from_array(X, chunks=(1, T, 2))
    both = predict(SUM, x), predict(SUM.copy(), x)
    assert len(loaded) == 1
    loaded.clear()
    _models._loaded.clear()  # as in a worker
    with dask.config.set(scheduler="threads", num_workers=4):
        dask.compute(*both)
    assert len(loaded) == 1
    for seed in range(2 * _models.MOST_LOADED):
        _models.unpack(_models.pack(lstmx.Sequential([lstmx.LSTM(2, 1, random_state=seed)])))
        _models.unpack(_models.pack(SUM))  # which is used all the time
    assert len(_models._loaded) == _models.MOST_LOADED and len(loaded) == 1 + 2 * _models.MOST_LOADED


def test_dask_knows_the_size_of_a_model():
    assert sys.getsizeof(_models.pack(SUM)) > len(_models.pack(SUM).content)


def test_a_task_runs_on_one_thread(monkeypatch):
    seen, own = [], lstmx.Sequential.predict
    monkeypatch.setattr(lstmx.Sequential, "predict", lambda *a: seen.append(lstmx.get_num_threads()) or own(*a))
    results = [predict(SUM, da.from_array(X, chunks=(5, T, 2))), predict(SUM, db.from_sequence(RAGGED, npartitions=2)),
               predict(SUM, dd.from_pandas(FRAME, npartitions=2), by="who", time="when")]  # fmt: skip
    seen.clear()
    lstmx.set_num_threads(2)
    try:
        for one in results:
            one.compute()
    finally:
        lstmx.set_num_threads(None)
    assert set(seen) == {1} and len(seen) > 8


def test_dask_is_imported_by_nobody_else_and_missed_by_name():
    program = (
        "import sys; sys.modules['dask'] = None\nimport lstmx, lstmx.distributed\n"
        "try: lstmx.distributed.predict(lstmx.Sequential([lstmx.LSTM(1, 1)]), [])\n"
        "except ImportError as error: print(error)\n"
        "print('pandas' in sys.modules, 'distributed' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "lstmx.distributed needs Dask: pip install 'lstmx-cpu[dask]' brings it\nFalse False\n"


# Arguments.

ARRAY, BAG = da.from_array(X, chunks=(5, T, 2)), db.from_sequence(RAGGED, npartitions=3)
TABLE = dd.from_pandas(FRAME, npartitions=2)
OWN = {"by": "who", "time": "when"}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (X, {}, "collection: got ndarray, must be a Dask array, bag or DataFrame"),
        (TABLE["a"], {}, "collection: got Series, must be"),
        (ARRAY, {"by": "who"}, "by: got 'who', but only rows of a DataFrame have it, not a Dask Array"),
        (BAG, {"lengths": LENGTHS}, "lengths: a Dask Bag holds sequences of their own lengths"),
        (ARRAY, {"horizon": 3}, "horizon: got 3, but a Sequential forecasts nothing"),
        (ARRAY, {"method": "fit"}, "method: got 'fit', must be one of 'predict', "),
        (BAG, {"method": "predict_proba"}, "method: got 'predict_proba', but of a Sequential it must be"),
        (ARRAY[0], {}, r"collection: got shape \(6, 2\), must be \(N, T, 2\); one sequence is x\[None\]"),
        (ARRAY[0, 0], {}, r"collection: got shape \(2,\), must be \(N, T, I\)"),
        (ARRAY.rechunk((5, 2, 2)), {}, r"\(5, 3, 1\) chunks, .* write x.rechunk\(\{1: -1, 2: -1\}\)"),
        (ARRAY[:, da.from_array(np.arange(T) > 2, chunks=3)], {}, "only the first may be unknown; .*chunk_sizes"),
        (ARRAY[:, :, :1], {}, r"collection: X: got shape \(1, 6, 1\), must be \(N, T, 2\)"),
        (ARRAY, {"lengths": LENGTHS[:4]}, r"lengths: got int64 \(4,\), must be integers \(N,\) = \(23,\)"),
        (ARRAY, {"lengths": LENGTHS / 1}, "lengths: got float64"),
        (TABLE, {}, r"by: got None, must be one of its columns, \['a', 'b', 'who', 'when'\], or its index, once that"),
        (TABLE, {"by": "she"}, "by: got 'she', must be one of its columns"),
        (TABLE, {"by": ["who", "when"]}, "by: got .*, must be one name; make one column of several"),
        (TABLE, {"by": "who", "time": "who"}, "time: got 'who', which is what tells the sequences apart"),
        (TABLE, OWN | {"columns": ["a", "c"]}, r"columns: got \['a', 'c'\], must be different columns"),
        (TABLE, OWN | {"columns": "a"}, r"columns: got \['a'\]: X\[0\]: got shape \(2, 1\), must be \(T_n, 2\)"),
        (dd.concat([TABLE, TABLE[["who"]]], axis=1), OWN, "collection: has several columns of the same name among"),
        (TABLE.rename(columns={"a": 0}), OWN | {"columns": 0}, r"columns: got \[0\]: X\[0\]: got shape \(2, 1\)"),
        (TABLE.assign(when="9"), OWN, "time: 'when' holds strings, .* must be dates or numbers; convert it"),
        (TABLE.astype({"when": "category"}), OWN, "time: 'when' holds categoricals"),
        (TABLE.assign(b="x"), OWN, "columns: 'b' holds .*, must be numbers; convert it, or leave it out"),
    ],
)  # fmt: skip
def test_bad_arguments(given, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        predict(SUM, given, **options)


def test_bad_models(models, forecaster):
    for model, message in (
        (LSTM, "got LSTM, which predicts nothing by itself; put layers into an lstmx.Sequential"),
        (lstmx.LSTMClassifier(), "not fitted"),
        (len, "model: got builtin_function_or_method, must be"),
    ):
        with pytest.raises(Exception, match=message):
            predict(model, ARRAY)
    with pytest.raises(ValueError, match="lengths: a Classifier takes none; fill what is behind each end with NaN"):
        predict(models("classes")[0], ARRAY, lengths=LENGTHS)
    with pytest.raises(ValueError, match="method: got 'transform', but of a Forecaster it must be one of 'predict'"):
        predict(forecaster, BAG, method="transform")
    with pytest.raises(ValueError, match="collection: got 2 variables, must be 1"):
        predict(forecaster, ARRAY)
    with pytest.raises(ValueError, match=r"columns: got .*, must be the 1 variables of fit"):
        predict(forecaster, TABLE, **OWN)
    series, more = np.sin(np.arange(60.0)), np.cos(np.arange(60.0))
    with_more = lstmx.LSTMForecaster(3, 2, differences=(), **QUICK).fit(series, more)
    with pytest.raises(ValueError, match="was fitted with exogenous variables"):
        predict(with_more, BAG)
    assert isinstance(_models.unpack(_models.pack(with_more)), predictors.Forecaster)


# A cluster on this machine.


@pytest.fixture
def client():
    """Of two processes with a thread each."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
        dask.config.set(scheduler=None),
    ):
        yield client


def count_loads():
    """Run by a worker: begins to count what it loads."""
    from lstmx import loading

    load = loading.load
    loading.counted = []
    loading.load = lambda path: loading.counted.append(path) or load(path)


def loads():
    from lstmx import loading

    return len(loading.counted)


@pytest.mark.long
def test_a_cluster_gives_the_same_and_a_worker_gets_a_model_once(client, models):
    client.run(count_loads)
    x = da.from_array(X, chunks=(1, T, 2))
    assert same(predict(SUM, x).compute(), SUM.predict(X))
    came = client.run(
        lambda dask_worker: [str(key) for log in dask_worker.transfer_incoming_log for key in log["keys"]]
    )
    came = [sum("lstmx-model" in key for key in keys) for keys in came.values()]
    assert max(came) == 1  # of 23 tasks
    assert same(predict(SUM, db.from_sequence(RAGGED, npartitions=9)).compute(), SUM.predict(RAGGED))
    y = predict(SUM, dd.from_pandas(MIXED, npartitions=5), **OWN)
    assert same(y.compute().sort_index(), SUM.predict(RAGGED))
    assert list(client.run(loads).values()) == [1, 1]
    model, _, method = models("probabilities")
    y = predict(model, dd.from_pandas(FRAME.set_index("who"), npartitions=5), method=method, by="who", time="when")
    assert same(y.compute(), model.predict_proba(RAGGED))
    assert list(client.run(loads).values()) == [2, 2]
    with pytest.raises(ValueError, match=r"^partition 2: X\[0\]: got shape \(3, 5\)"):
        predict(SUM, db.from_sequence([*RAGGED[:2], np.zeros((3, 5))], npartitions=3)).compute()
    assert set(client.run(lstmx.get_num_threads).values()) == {1}  # what Dask tells OpenMP


@pytest.mark.long
def test_a_worker_that_is_killed_changes_no_bit(client):
    def slow(x):
        time.sleep(0.2)
        return x

    many = np.tile(X, (2, 1, 1))
    x = da.from_array(many, chunks=(1, T, 2)).map_blocks(slow, dtype=float, meta=np.empty((0, 0, 0)))
    future = client.compute(predict(STEPS, x))
    victim = next(iter(client.run(os.getpid).values()))
    time.sleep(1.5)
    assert not future.done()
    os.kill(victim, signal.SIGKILL)
    assert same(future.result(timeout=60), STEPS.predict(many))
    client.wait_for_workers(2, timeout=60)
    assert victim not in client.run(os.getpid).values()


@pytest.mark.long
def test_a_search_on_the_workers_finds_what_one_finds_here(client):
    search = GridSearchCV(lstmx.LSTMClassifier(**QUICK), {"hidden_size": [2, 5]}, cv=2, error_score="raise")
    want = search.fit(RAGGED, LABELS).cv_results_["mean_test_score"], search.best_estimator_.predict_proba(RAGGED)
    with joblib.parallel_config("dask"):
        search.fit(RAGGED, LABELS)
    assert same(search.cv_results_["mean_test_score"], want[0])
    assert same(search.best_estimator_.predict_proba(RAGGED), want[1])
