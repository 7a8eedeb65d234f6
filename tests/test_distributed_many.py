"""`fit_many`: every series has the bits of a fit of its own, wherever and among whichever others it is fitted."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("polars")
pytest.importorskip("dask.dataframe")
pytest.importorskip("distributed")
import dask
import dask.dataframe as dd
import pandas as pd
import polars as pl
from distributed import Client, LocalCluster
from sklearn.base import clone

import lstmx
from lstmx import LSTMAnomalyDetector, LSTMClassifier, LSTMForecaster, LSTMRegressor, LSTMTransformer
from lstmx.distributed import _many, _one, fit_many
from lstmx.functional import messages

SMALL = {"hidden_size": 3, "max_iter": 2, "random_state": 7}
forecaster = LSTMForecaster(6, 3, differences=(), **SMALL)
KEYS = ["north", "south", "east", "west", "down"]


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def series(n, steps=40):
    rng = np.random.default_rng(n)
    return np.sin(np.arange(steps) / (2 + n)) * (n + 1) + rng.normal(size=steps) / 10


def long_table(keys=KEYS, steps=40, start="2026-01-01"):
    """Rows of all series by time, so that those of one lie far apart."""
    hours = pd.date_range(start, periods=steps, freq="h")
    each = [pd.DataFrame({"meter": key, "hour": hours, "kwh": series(n, steps), "warm": series(n + 9, steps)})
            for n, key in enumerate(keys)]  # fmt: skip
    return pd.concat(each).sort_values("hour", kind="stable", ignore_index=True)


def fitted(model):
    """Parameters of an estimator or a predictor, and what it forecasts, as bytes."""
    parameters = (model.model if hasattr(model, "model") else model.model_).parameters()
    return [(name, a.tobytes()) for name, a in parameters.items()], np.asarray(model.predict()).tobytes()


def scores(table, *names):
    return table[list(names or ["score"])].to_numpy(float).tobytes()


def alone(key, y, estimator=forecaster):
    """Fitted without `fit_many`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(estimator).set_params(random_state=_one.seed_of(7, key)).fit(y)


def test_a_series_has_the_bits_of_a_fit_of_its_own():
    frame = long_table()
    table = fit_many(forecaster, frame, "meter", target="kwh", time="hour")
    assert list(table.index) == KEYS and table.index.name == "meter"
    assert table.error.isna().all() and (table.epochs == 2).all() and (table.seconds > 0).all()
    for key in KEYS:
        y = frame[frame.meter == key].set_index("hour").kwh
        assert table.random_state[key] == _one.seed_of(7, key)
        assert fitted(table.model[key]) == fitted(alone(key, y))
        assert table.model[key].predict().index[0] == y.index[-1] + pd.Timedelta("1h")
    assert len(set(table.random_state)) == len(KEYS)


@pytest.mark.parametrize("form", ["alone", "backwards", "polars", "Dask", "Dask, in many parts", "dict", "functions"])
def test_whatever_it_is_fitted_among_its_bits_are_the_same(form):
    frame, named = long_table(), {"target": "kwh", "time": "hour", "holdout": 4}
    wanted = fit_many(forecaster, frame, "meter", **named)
    each = {key: frame[frame.meter == key].drop(columns="meter") for key in reversed(KEYS)}
    given = {
        "alone": lambda: frame[frame.meter == "south"],
        "backwards": lambda: frame[::-1],
        "polars": lambda: pl.from_pandas(frame),
        "Dask": lambda: dd.from_pandas(frame, npartitions=1),
        "Dask, in many parts": lambda: dd.from_pandas(frame, npartitions=7),
        "dict": lambda: each,
        "functions": lambda: ((key, partial(pd.DataFrame, each[key].to_dict("list"))) for key in KEYS),
    }[form]()
    by = None if form in ("dict", "functions") else "meter"
    table = fit_many(forecaster, given, by, **named)
    for key in ["south"] if form == "alone" else KEYS:
        assert fitted(table.model[key]) == fitted(wanted.model[key])
        assert table.score[key] == wanted.score[key]
    if form.startswith("Dask"):
        assert list(table.index) == sorted(KEYS)
    elif form != "alone":
        assert list(table.index) == (KEYS if form in ("polars", "functions") else KEYS[::-1])


def test_a_fit_has_one_thread(monkeypatch):
    seen, fit = [], LSTMForecaster.fit
    monkeypatch.setattr(LSTMForecaster, "fit", lambda *a: seen.append(lstmx.get_num_threads()) or fit(*a))
    lstmx.set_num_threads(2)
    try:
        fit_many(forecaster, {"a": series(0)})
        fit_many(forecaster, dd.from_pandas(long_table(KEYS[:1])[["meter", "kwh"]], npartitions=1), "meter")
    finally:
        lstmx.set_num_threads(None)
    assert seen == [1, 1]


def test_threads_of_one_process_give_the_same_bits_and_keep_their_warnings():
    estimator = clone(forecaster).set_params(early_stopping=False)
    given = {n: series(n) for n in range(12)}
    wanted = fit_many(estimator, given)
    with dask.config.set(scheduler="threads", num_workers=4):
        table = fit_many(estimator, given)
    assert [fitted(model) for model in table.model] == [fitted(model) for model in wanted.model]
    assert all("Maximum iterations (2) reached" in text for text in table.warnings)


@pytest.mark.parametrize("partitions", [1, 5])
def test_rows_without_a_time_keep_their_order(partitions):
    frame = long_table()[["meter", "kwh"]]
    wanted = fit_many(forecaster, frame, "meter")
    table = fit_many(forecaster, dd.from_pandas(frame, npartitions=partitions), "meter")
    for n, key in enumerate(KEYS):
        assert fitted(table.model[key]) == fitted(wanted.model[key]) == fitted(alone(key, series(n)))
        assert list(table.model[key].predict().index) == [40, 41, 42] and table.warnings[key] == wanted.warnings[key]


def test_an_index_of_dates_is_the_time():
    frame = long_table()[["meter", "hour", "kwh"]]
    wanted = fit_many(forecaster, frame, "meter", time="hour")
    for given in (frame.set_index("hour"), dd.from_pandas(frame.set_index("hour"), npartitions=4)):
        table = fit_many(forecaster, given, "meter")
        assert table.model["east"].predict().equals(wanted.model["east"].predict())
    both = frame.set_index(["meter", "hour"])
    for given in (both, frame.set_index("hour", drop=False), frame.set_index(["meter", "hour"], drop=False),
                  dd.from_pandas(frame.set_index("hour", drop=False), npartitions=2)):  # fmt: skip
        table = fit_many(forecaster, given, "meter", time="hour", target="kwh")
        assert table.model["east"].predict().equals(wanted.model["east"].predict())


def test_what_is_held_out_is_scored_and_then_known():
    frame = long_table()
    table = fit_many(forecaster, frame, by="meter", target="kwh", columns=["warm"], time="hour", holdout=3, season=5)
    for key in KEYS:
        own = frame[frame.meter == key].set_index("hour")
        local = clone(forecaster).set_params(random_state=_one.seed_of(7, key))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            local.fit(own.kwh[:-3], own[["warm"]][:-3])
        forecast = local.predict(3, own[["warm"]][-3:])
        assert table.score[key] == np.abs(forecast.to_numpy() - own.kwh[-3:].to_numpy()).mean()
        naive = own.kwh[-8:-5].to_numpy()
        assert table.score_naive[key] == np.abs(naive - own.kwh[-3:].to_numpy()).mean()
        local.update(own.kwh[-3:], own[["warm"]][-3:])
        X = pd.DataFrame({"warm": [1.0, 2.0, 3.0]}, pd.date_range(own.index[-1], periods=4, freq="h")[1:])
        assert table.model[key].predict(X=X).equals(local.predict(X=X))


def test_scores_of_ones_own_and_seasons_shorter_than_what_is_held_out():
    def worst(true, found):
        return np.abs(true - found).max()

    given = {"kwh": series(0)}
    both = {"worst": worst, "bias": lambda true, found: (found - true).mean()}
    table = fit_many(forecaster, given, holdout=7, season=3, score=both)
    assert list(table.columns[:4]) == ["worst", "bias", "worst_naive", "bias_naive"]
    naive = np.tile(series(0)[-10:-7], 3)[:7]
    assert table.worst_naive["kwh"] == worst(series(0)[-7:], naive)
    short = fit_many(forecaster, given, holdout=7, season=34)
    assert np.isnan(short.score_naive["kwh"]) and short.score["kwh"] > 0


def test_several_variables_are_one_series():
    table = fit_many(forecaster, long_table(), "meter", target=["kwh", "warm"], time="hour", holdout=3)
    assert list(table.model["down"].predict().columns) == ["kwh", "warm"]
    assert table.score.notna().all()


def test_a_series_that_fails_is_reported_and_the_others_go_on():
    frame = long_table()
    frame.loc[(frame.meter == "south") & (frame.hour > "2026-01-02"), "kwh"] = np.nan
    frame = frame[(frame.meter != "west") | (frame.hour < "2026-01-01 04:00")]
    frame.loc[0, "meter"] = None
    table = fit_many(forecaster, frame, "meter", target="kwh", time="hour", holdout=3)
    assert set(table.index[table.error.notna()].dropna()) == {"south", "west"}
    assert table.error.isna().sum() == 3
    assert table.error["south"].startswith("ValueError: y: contains NaN")
    assert "need at least" in table.error["west"]
    assert table[table.index.isna()].error.iloc[0].startswith("ValueError: by: these rows have no key")
    assert table.model["south"] is None and np.isnan(table.score["south"]) and table.epochs["south"] is pd.NA


def test_a_text_among_the_numbers_fails_its_own_series_alone():
    table = long_table()[["meter", "hour", "kwh"]]
    mixed = table.assign(kwh=table.kwh.astype(object))
    mixed.loc[mixed.index[(mixed.meter == "east").argmax()], "kwh"] = "closed"
    found, plain = (fit_many(forecaster, frame, by="meter", time="hour") for frame in (mixed, table))
    assert re.match(r"TypeError: data: column 'kwh' holds 'closed' at 2026-01-01 00:00:00, must", found.error["east"])
    assert found.error.notna().sum() == 1 and "east" not in found.model.dropna()
    for key in KEYS[:2]:
        assert found.model[key].predict().equals(plain.model[key].predict())


def test_a_function_that_fails_is_a_series_that_fails():
    def read():
        raise FileNotFoundError("no such meter")

    table = fit_many(forecaster, {"a": read, "b": series(1)})
    assert table.error["a"] == "FileNotFoundError: no such meter" and table.error["b"] is None


def test_warnings_stand_in_the_table():
    unfinished = clone(forecaster).set_params(early_stopping=False)
    table = fit_many(unfinished, {"a": series(0)})
    assert "Maximum iterations (2) reached" in table.warnings["a"]
    assert fit_many(clone(forecaster).set_params(max_iter=9, tol=10.0), {"a": series(0)}).warnings["a"] == ""


def test_warnings_of_another_thread_are_shown():
    caught = []
    with messages.collected() as told, warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        messages.warn("here")
        thread = threading.Thread(target=lambda: caught.append(messages.warn("there")))
        thread.start()
        thread.join()
        with messages.collected() as inner:
            messages.warn("inner")
        messages.warn("again here")
    assert told == ["here", "again here"] and inner == ["inner"]
    assert [str(w.message) for w in shown] == ["there"]
    with pytest.warns(UserWarning, match="behind"):
        messages.warn("behind")


# Keys and files.

NASTY = ["a/b", "a_b", "A_B", "..", "", "x" * 500, "ä\u0000", "con", "1", 1, 1.5, ("1", 1), ("1", "1"), "('1', 1)",
         True, "nan", pd.Timestamp("2026-01-01"), "2026-01-01 00:00:00", "line\nbreak"]  # fmt: skip


def test_no_key_has_the_file_of_another(tmp_path):
    folder = tmp_path / "models"
    table = fit_many(forecaster, [(key, series(n)) for n, key in enumerate(NASTY)], folder=folder)
    assert table.error.isna().all() and len(set(map(str.lower, table.file))) == len(NASTY)
    assert sorted(folder.iterdir()) == sorted(map(Path, table.file)) and list(tmp_path.iterdir()) == [folder]
    for n, (key, file) in enumerate(zip(NASTY, table.file, strict=True)):
        assert re.fullmatch(r"[\w-]{0,65}-[0-9a-f]{20}\.safetensors", os.path.basename(file), re.ASCII)
        assert fitted(lstmx.load(file)) == fitted(alone(key, series(n)))
        assert json.loads(lstmx.load(file).note)["fit_many"]["key"] == _one.text_of(key)


def test_keys_of_numpy_are_those_of_python():
    assert _one.text_of(np.int32(5)) == _one.text_of(5) != _one.text_of("5")
    assert _one.text_of(np.str_("a")) == _one.text_of("a")
    assert _one.text_of((np.int64(5), "a")) == _one.text_of((5, "a"))
    frame = long_table([1, 2])
    frame.loc[0, "meter"] = np.nan  # which makes the others floats
    frame, whole = frame[frame.hour > frame.hour[0]], long_table([1, 2])
    both = [fit_many(forecaster, f, "meter", target="kwh", time="hour") for f in (frame, whole)]
    assert both[0].random_state[2.0] == both[1].random_state[2] == _one.seed_of(7, 2)


def test_seeds_stay_what_they_are():
    """Of versions to come too: whoever fits again wants the same bits."""
    assert [_one.seed_of(0, key) for key in ("north", 5, ("a", 1))] == SEEDS
    assert _one.seed_of(0, "a") != _one.seed_of(1, "a")


SEEDS = [1455457055, 2240839768, 832289517]


def test_files_load_as_estimators_with_dates(tmp_path):
    table = fit_many(forecaster, long_table(), "meter", target="kwh", time="hour", folder=tmp_path, holdout=3)
    wanted = fit_many(forecaster, long_table(), "meter", target="kwh", time="hour", holdout=3)
    again = LSTMForecaster.load(table.file["east"])
    assert again.predict().equals(wanted.model["east"].predict())
    assert again.random_state == table.random_state["east"]


def test_two_columns_are_one_key(tmp_path):
    frame = long_table().assign(town=lambda f: np.where(f.meter.isin(["north", "south"]), 1, 2))
    table = fit_many(forecaster, frame, ["town", "meter"], target="kwh", time="hour", folder=tmp_path)
    assert table.index.names == ["town", "meter"] and table.error.isna().all()
    assert fitted(lstmx.load(table.file[1, "south"])) == fitted(alone((1, "south"), series(1)))
    dasks = fit_many(forecaster, dd.from_pandas(frame, npartitions=3), ["town", "meter"], target="kwh", time="hour")
    assert dasks.random_state.equals(table.random_state.sort_index())


def test_categories_that_no_row_has_are_no_series():
    frame = long_table(KEYS[:2]).astype({"meter": pd.CategoricalDtype(KEYS)})
    for given in (frame, dd.from_pandas(frame, npartitions=2)):
        table = fit_many(forecaster, given, "meter", target="kwh", time="hour")
        assert sorted(table.index) == sorted(KEYS[:2]) and table.error.isna().all()
        assert table.random_state["north"] == _one.seed_of(7, "north")


def test_keys_of_dask_may_be_of_several_kinds():
    keys = [2, "a", 1.5]
    frame = pd.concat([pd.DataFrame({"key": pd.Series([key] * 40), "y": series(n)}) for n, key in enumerate(keys)],
                      ignore_index=True)  # fmt: skip
    parts = [frame[frame.index % 2 == 0], frame[frame.index % 2 == 1]]
    with dask.config.set({"dataframe.convert-string": False}):
        table = fit_many(forecaster, dd.from_map(lambda k: parts[k], [0, 1], meta=frame[:0]), "key")
    assert list(table.index) == ["a", 1.5, 2] and table.error.isna().all()
    assert list(table.random_state) == [_one.seed_of(7, key) for key in table.index]


def test_a_folder_that_cannot_be_written_to_is_an_error_before_any_fit(tmp_path, no_training, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="folder: no files can be written there"):
        fit_many(forecaster, {"a": series(0)}, folder=tmp_path / "file")

    def refuse(*, dir):
        raise PermissionError(errno.EACCES, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError, match=r"folder: no files can be written there \(Permission denied\)"):
        fit_many(forecaster, {"a": series(0)}, folder=tmp_path)


# Going on.


def test_what_is_there_is_not_fitted_again(tmp_path, monkeypatch):
    how = {"by": "meter", "target": "kwh", "time": "hour", "holdout": 3, "folder": tmp_path}
    first = fit_many(forecaster, long_table(KEYS[:3]), **how)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    fits, fit = [], LSTMForecaster.fit
    monkeypatch.setattr(LSTMForecaster, "fit", lambda self, *a: fits.append(self.random_state) or fit(self, *a))
    again = fit_many(forecaster, long_table(), **how, resume=True)
    assert sorted(fits) == sorted(_one.seed_of(7, key) for key in KEYS[3:])
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert scores(again[:3]) == scores(first) and (again.file[:3] == first.file).all()
    assert again.seconds[:3].isna().all() and (again.epochs == 2).all()
    assert list(again.warnings[:3]) == list(first.warnings)


@pytest.mark.parametrize("change", ["data", "dates", "parameters", "holdout", "damage", "stranger", "note", "no JSON"])
def test_what_was_made_of_something_else_is_fitted_again(tmp_path, change):
    frame, estimator = long_table(KEYS[:1]), forecaster
    how = {"by": "meter", "target": "kwh", "time": "hour", "holdout": 3, "folder": tmp_path}
    file = Path(fit_many(estimator, frame, **how).file["north"])
    if change == "data":
        frame.loc[0, "kwh"] += 1e-9
    elif change == "dates":
        frame["hour"] += pd.Timedelta("1h")
    elif change == "parameters":
        estimator = clone(forecaster).set_params(alpha=0.1)
    elif change == "holdout":
        how["holdout"] = 4
    elif change == "damage":
        file.write_bytes(file.read_bytes()[:-1])
    elif change == "stranger":
        lstmx.LSTM(2, 3).save(file)
    else:
        lstmx.load(file).with_note("[1]" if change == "note" else "of mine").save(file)
    table = fit_many(estimator, frame, **how, resume=True)
    assert table.seconds["north"] > 0
    assert fitted(lstmx.load(file)) == fitted(fit_many(estimator, frame, **how | {"folder": None}).model["north"])


@pytest.mark.parametrize("change", ["season", "score", "name", "columns"])
def test_what_shall_be_in_the_table_or_in_forecasts_is_a_part_of_it(tmp_path, change):
    frame = long_table(KEYS[:1])
    how = {"by": "meter", "target": "kwh", "columns": "warm", "time": "hour", "holdout": 3, "folder": tmp_path}
    fit_many(forecaster, frame, **how, season=4)
    assert fit_many(forecaster, frame, **how, season=4, resume=True).seconds.isna().all()
    new = {"season": 4} | {
        "season": {"season": 5},
        "score": {"score": lambda true, found: 0.5},
        "name": {"target": "power"},
        "columns": {"columns": "outside"},
    }[change]
    frame = frame.rename(columns={"kwh": new.get("target", "kwh"), "warm": new.get("columns", "warm")})
    again = fit_many(forecaster, frame, **how | new, resume=True)
    assert again.seconds.notna().all() and again.error.isna().all()
    assert fit_many(forecaster, frame, **how | new, resume=True).seconds.isna().all()


def test_ctrl_c_leaves_whole_files_only(tmp_path, monkeypatch):
    """An estimator alone would warn and be fitted as far as it came."""
    epoch, seen = lstmx.training.Trainer._one_epoch, []

    def interrupted(self, epochs):
        seen.append(epochs)
        if len(seen) == 5:  # in the third series
            raise KeyboardInterrupt
        epoch(self, epochs)

    monkeypatch.setattr(lstmx.training.Trainer, "_one_epoch", interrupted)
    pairs = {key: series(n) for n, key in enumerate(KEYS)}
    with pytest.raises(KeyboardInterrupt):
        fit_many(forecaster, pairs, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    with dask.config.set(scheduler="synchronous"):
        table = fit_many(forecaster, pairs, folder=tmp_path, resume=True)
    assert table.seconds.isna().sum() == 2 and table.error.isna().all()


# Rows that are missing.


def test_rows_that_are_missing_are_put_in():
    frame = long_table(KEYS[:2])
    gappy = frame[~((frame.meter == "south") & frame.hour.isin(pd.date_range("2026-01-01 10:00", periods=4, freq="h")))]
    imputes = clone(forecaster).set_params(missing="impute")
    table = fit_many(imputes, gappy, "meter", target="kwh", time="hour", freq="h")
    y = gappy[gappy.meter == "south"].set_index("hour").kwh.asfreq("h")
    assert len(y) == 40 and y.isna().sum() == 4
    assert fitted(table.model["south"]) == fitted(alone("south", y, imputes))
    assert "not evenly spaced" in fit_many(imputes, gappy, "meter", target="kwh", time="hour").warnings["south"]


def test_no_row_is_lost_between_even_steps_and_none_is_there_twice():
    frame = long_table(KEYS[:2])
    frame.loc[frame.meter == "south", "hour"] += np.where(np.arange(40) == 20, 1, 0) * pd.Timedelta("5min")
    table = fit_many(forecaster, frame, "meter", target="kwh", time="hour", freq="h")
    assert "freq: 1 of 40 rows are not a multiple of 'h'" in table.error["south"] and table.error["north"] is None
    table = fit_many(forecaster, pd.concat([frame, frame[:1]]), "meter", target="kwh", time="hour")
    assert "time: 1 of 41 rows have none, or one that another row has" in table.error["north"]


def test_times_that_are_strings_are_not_sorted_as_such():
    own = pd.DataFrame({"step": np.arange(40).astype(str), "kwh": series(0)})
    given = {"str": own, "category": own.astype({"step": "category"}), "polars": pl.from_pandas(own)}
    table = fit_many(forecaster, given, target="kwh", time="step")
    assert table.error.str.contains("time: 'step' holds ").all() and table.error.str.contains("to_datetime").all()


def test_a_part_held_out_that_is_missing_has_no_score():
    y = series(0)
    y[-3:] = np.nan
    table = fit_many(clone(forecaster).set_params(missing="impute"), {"a": y}, holdout=3)
    assert np.isnan(table.score["a"]) and table.error["a"] is None and "there is no score" in table.warnings["a"]


def test_steps_with_a_value_of_each_variable_are_scored():
    y = np.column_stack([series(0), series(1)])
    y[-2, 1] = np.nan
    imputes = clone(forecaster).set_params(missing="impute")
    table = fit_many(imputes, {"a": y}, holdout=3, score=lambda true, found: true[:, 1].sum())
    assert table.score["a"] == y[[-3, -1], 1].sum()


def test_a_series_that_fails_keeps_its_warnings():
    own = pd.DataFrame({"hour": pd.date_range("2026-01-01", periods=40, freq="h"), "kwh": series(0)}).drop(index=20)
    own.loc[30, "kwh"] = np.inf
    table = fit_many(forecaster, {"a": own}, target="kwh", time="hour")
    assert "infinity" in table.error["a"] and "not evenly spaced" in table.warnings["a"]


# Estimators of sequences.


def days(keys=("one", "two"), count=12, steps=6):
    """Days of some meters, each of which has a label; sequences of different lengths."""
    rows = []
    for k, key in enumerate(keys):
        rng = np.random.default_rng(k)
        for day in range(count):
            for step in range(steps - day % 2):
                rows.append((key, day, step, rng.normal() + day % 3, "high" if day % 3 else "low", rng.normal()))
    return pd.DataFrame(rows, columns=["meter", "day", "hour", "load", "label", "heat"])


def test_a_classifier_learns_from_the_sequences_of_a_series():
    frame = days()
    clf = LSTMClassifier(**SMALL)
    how = {"target": "label", "columns": ["load", "heat"], "sequence": "day", "time": "hour"}
    table = fit_many(clf, frame.sample(frac=1, random_state=0), "meter", **how, holdout=3)
    for key in ("one", "two"):
        own = frame[frame.meter == key].set_index("hour")
        X = [part[["load", "heat"]] for _, part in own.groupby("day")]
        y = own.groupby("day").label.first().to_numpy(str)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            local = clone(clf).set_params(random_state=_one.seed_of(7, key)).fit(X[:-3], y[:-3])
        assert table.score[key] == local.score(X[-3:], y[-3:])
        assert table.model[key].predict_proba(X).tobytes() == local.predict_proba(X).tobytes()
    frame.loc[80, "day"] = np.nan
    lost = fit_many(clf, frame, "meter", **how)
    assert lost.error["two"] == "ValueError: sequence: 1 of 66 rows have none; leave them out"
    frame.loc[3, "label"] = "odd"
    wrong = fit_many(clf, frame, "meter", **how)
    assert "'label' is not the same in all rows of the sequence 0" in wrong.error["one"] and lost.error["one"] is None


def test_a_regressor_learns_steps_of_one_sequence(tmp_path):
    reg = LSTMRegressor(target="step", **SMALL)
    how = {"target": "heat", "columns": "load", "holdout": 10}
    own = days(("one",)).drop(columns="meter")

    def worst(true, found):
        return np.abs(true - found).max()

    table = fit_many(reg, {"one": own}, **how, score=worst, folder=tmp_path)
    local = clone(reg).set_params(random_state=_one.seed_of(7, "one"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        local.fit([own[["load"]][:-10]], [own.heat.to_numpy()[:-10]])
    found = local.predict([own[["load"]][-10:]])[0]
    assert table.score["one"] == worst(own.heat.to_numpy()[-10:], found)
    again, X = lstmx.load(table.file["one"]), [own[["load"]]]
    assert again.predict(X)[0].tobytes() == local.predict(X)[0].tobytes()


@pytest.mark.parametrize("kind", [LSTMAnomalyDetector, LSTMTransformer])
def test_detectors_and_transformers_need_no_target(kind):
    frame = days().drop(columns="label")
    table = fit_many(kind(**SMALL), frame, "meter", columns=["load", "heat"], sequence="day")
    assert table.error.isna().all() and list(table.columns[:2]) == ["epochs", "seconds"]
    one_sequence = fit_many(kind(**SMALL), {"a": np.column_stack([series(0), series(1)])})
    assert one_sequence.error["a"] is None and one_sequence.model["a"].n_features_in_ == 2


# Arguments.


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [({"estimator": clone(forecaster).set_params(checkpoint="c")}, ValueError, "checkpoint: all series"),
     ({"estimator": "LSTM"}, TypeError, "estimator: got str, must be one of LSTMForecaster"),
     ({"by": None}, ValueError, "by: must name"), ({"by": "town"}, ValueError, "by: there is no column 'town'"),
     ({"target": "kw"}, ValueError, "target: there is no column 'kw' in"),
     ({"target": None}, ValueError, r"target: must name the column to forecast, of \['kwh', 'warm'\]"),
     ({"time": "day"}, ValueError, "time: there is no column"),
     ({"columns": "kwh"}, ValueError, "columns: 'kwh' is named twice"),
     ({"sequence": "warm"}, ValueError, "sequence: LSTMForecaster"), ({"holdout": 0}, ValueError, "holdout"),
     ({"freq": "fortnight"}, ValueError, "freq: got 'fortnight', must be"),
     ({"folder": ""}, TypeError, "folder: got ''"), ({"folder": 3}, TypeError, "folder: got 3"),
     ({"season": 3}, ValueError, "season: needs steps held out"), ({"score": max}, ValueError, "score: needs steps"),
     ({"score": "mae", "holdout": 1}, TypeError, "score: got 'mae', must be a function"),
     ({"score": {"error": max}, "holdout": 1}, ValueError, "score: cannot be named 'error'"),
     ({"score": {"key": max}, "holdout": 1}, ValueError, "score: cannot be named 'key'"),
     ({"frame": long_table().astype({"hour": "string"})}, TypeError, "time: 'hour' holds strings"),
     ({"frame": long_table().set_axis(["meter", "hour", "kwh", "kwh"], axis=1)}, ValueError, "several columns"),
     ({"folder": "x", "target": "kw"}, ValueError, "target: there is no column"),
     ({"folder": "x", "resume": True, "estimator": clone(forecaster).set_params(random_state=None)}, ValueError,
      "integer as random_state"),
     ({"resume": True}, ValueError, "resume: needs the folder"),
     ({"estimator": clone(forecaster).set_params(transform=(np.log1p, np.expm1)), "folder": "x"}, TypeError,
      "functions"),
     ({"estimator": clone(forecaster).set_params(random_state="a")}, TypeError, "random_state"),
     ({"frame": np.zeros((3, 3))}, TypeError, "frame: got ndarray"),
     ({"frame": [1], "by": None}, TypeError, "among pairs"), ({"frame": {}}, ValueError, "by: pairs bring"),
     ({"frame": pl.LazyFrame({"a": [1]})}, TypeError, "collect"),
     ({"frame": [("a", series(0)), ("a", series(0))], "by": None}, ValueError, "the key 'a' comes twice"),
     ({"estimator": LSTMClassifier()}, ValueError, "sequence: LSTMClassifier learns a label for each"),
     ({"estimator": LSTMClassifier(), "target": None}, ValueError, "target: LSTMClassifier needs"),
     ({"estimator": LSTMAnomalyDetector()}, ValueError, "target: LSTMAnomalyDetector learns"),
     ({"estimator": LSTMRegressor(target="step"), "holdout": 1, "season": 1}, ValueError, "season: is for forecasts")],
)  # fmt: skip
def test_what_is_wrong_for_all_is_an_error_at_once(given, error, text, no_training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    how = {"estimator": forecaster, "frame": long_table(), "by": "meter", "target": "kwh", "time": "hour"}
    how |= given
    if isinstance(how["frame"], list):
        how |= {"target": None, "time": None}
    with pytest.raises(error, match=text):
        fit_many(how.pop("estimator"), how.pop("frame"), how.pop("by"), **how)
    assert list(tmp_path.iterdir()) == []


def test_data_without_columns_are_no_place_for_names():
    table = fit_many(forecaster, {"a": series(0)}, target="kwh")
    assert table.error["a"] == "TypeError: data: got ndarray, must be a DataFrame, as columns are named"


def test_without_a_random_state_each_call_draws_one(tmp_path):
    free, given = clone(forecaster).set_params(random_state=None), {"a": series(0)}
    seeds = [fit_many(free, given).random_state["a"] for _ in range(2)]
    assert seeds[0] != seeds[1] and free.random_state is None
    drawn = clone(forecaster).set_params(random_state=np.random.RandomState(0))
    seeds = [fit_many(drawn, given, folder=tmp_path).random_state["a"] for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_no_series_are_an_empty_table(tmp_path):
    table = fit_many(forecaster, long_table()[:0], "meter", target="kwh", holdout=2, folder=tmp_path)
    assert len(table) == 0 and list(table.columns) == ["score", "epochs", "seconds", "random_state", "file", "warnings",
                                                       "error"]  # fmt: skip


def test_the_estimator_stays_as_it_is():
    given = clone(forecaster)
    fit_many(given, {"a": series(0)})
    assert not hasattr(given, "n_iter_") and given.random_state == 7


def test_without_dask_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=r"pip install 'lstmx-cpu\[dask\]'"):
        fit_many(forecaster, {"a": series(0)})


def test_what_travels_at_once_is_bounded():
    most, size = _many._BUNDLE
    small = [len(keys) for keys, _ in _many._bundles(((n, None) for n in range(2 * most + 1)), 10**6)]
    assert small == [2 * most + 1]
    large = [len(keys) for keys, _ in _many._bundles(((n, np.zeros(size // 20)) for n in range(9)), 10**6)]
    assert large == [3, 3, 3]
    assert [len(keys) for keys, _ in _many._bundles(((n, None) for n in range(7)), 3)] == [3, 3, 1]


# Workers that are processes.


@pytest.fixture
def cluster():
    """Two processes of one thread; a task whose worker dies is not tried more than twice."""
    with dask.config.set({"scheduler": None, "distributed.scheduler.allowed-failures": 1}):
        how = {"threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": ":0", "silence_logs": 50}
        with LocalCluster(2, **how) as cluster, Client(cluster):
            yield cluster


def dies_once(marker, y):
    """A series whose first reader is killed."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return y


def dies(y):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.long
def test_two_processes_give_the_bits_of_one(cluster, tmp_path):
    frame = long_table([f"meter {n}" for n in range(40)])
    how = {"by": "meter", "target": "kwh", "time": "hour", "holdout": 3, "season": 4}
    given = {"one": frame, "two": frame, "dask": dd.from_pandas(frame.sample(frac=1, random_state=0), npartitions=5)}
    tables = {}
    for name, data in given.items():
        with dask.config.set(scheduler="synchronous" if name == "one" else None):
            tables[name] = fit_many(forecaster, data, **how, folder=tmp_path / name).sort_index()
    assert tables["one"].error.isna().all()
    same = ["score", "score_naive", "epochs", "random_state", "warnings"]
    for name in ("two", "dask"):
        assert tables[name][same].equals(tables["one"][same])
        for key, file in tables[name].file.items():
            assert Path(file).read_bytes() == Path(tables["one"].file[key]).read_bytes()


@pytest.mark.parametrize("form", ["pairs", "Dask"])
def test_a_task_of_a_worker_may_fit_many_itself(form):
    """Its worker has one thread, which it leaves to them."""
    frame = long_table()[["meter", "kwh"]]

    def task():
        given = {key: series(n) for n, key in enumerate(KEYS)} if form == "pairs" else dd.from_pandas(frame, 2)
        return fit_many(forecaster, given, None if form == "pairs" else "meter")

    how = {"threads_per_worker": 1, "processes": False, "dashboard_address": ":0", "silence_logs": 50}
    with dask.config.set(scheduler=None), LocalCluster(1, **how) as cluster, Client(cluster) as client:
        table = client.submit(task).result(timeout=60)
        assert fit_many(forecaster, {"north": series(0)}).random_state["north"] == table.random_state["north"]
    assert all(fitted(table.model[key]) == fitted(alone(key, series(n))) for n, key in enumerate(KEYS))


@pytest.mark.long
def test_a_worker_that_is_killed_changes_no_bit(cluster, tmp_path):
    each = {key: series(n) for n, key in enumerate(KEYS)}
    given = each | {"down": partial(dies_once, tmp_path / "marker", each["down"])}
    folder = tmp_path / "models"
    table = fit_many(forecaster, given, folder=folder)
    assert (tmp_path / "marker").exists() and table.error.isna().all() and list(table.index) == KEYS
    for key in KEYS:
        assert fitted(lstmx.load(table.file[key])) == fitted(alone(key, each[key]))
    assert len(list(folder.iterdir())) == len(KEYS)


@pytest.mark.long
def test_a_series_that_kills_every_worker_is_reported(cluster):
    given = {key: series(n) for n, key in enumerate(KEYS)} | {"bad": partial(dies, series(0))}
    table = fit_many(forecaster, given | {f"good {n}": series(n) for n in range(4)})
    assert table.error["bad"].startswith("KilledWorker: ") and table.model["bad"] is None
    assert table.random_state["bad"] == _one.seed_of(7, "bad")
    assert table.error["good 3"] is None and table.model["good 3"] is not None


INTERRUPTED = """
import sys, time, numpy as np
from functools import partial
from distributed import Client, LocalCluster
from lstmx import LSTMForecaster
from lstmx.distributed import fit_many

def slow(n):
    time.sleep(0.05)
    return np.sin(np.arange(60) / (n + 2))

if __name__ == "__main__":
    with LocalCluster(2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster, Client(cluster):
        forecaster = LSTMForecaster(6, 3, hidden_size=3, max_iter=2, random_state=7)
        print("begins", flush=True)
        fit_many(forecaster, ((n, partial(slow, n)) for n in range(10_000)), folder=sys.argv[1])
"""


@pytest.mark.long
def test_ctrl_c_on_a_cluster_ends_soon_and_leaves_whole_files_only(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "models"
    script.write_text(INTERRUPTED)
    root = os.path.dirname(os.path.dirname(lstmx.__file__))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen([sys.executable, script, folder], **pipes, env=os.environ | {"PYTHONPATH": root})
    assert child.stdout.readline() == "begins\n"
    until = time.monotonic() + 60
    while not (folder.exists() and len(list(folder.iterdir())) > 5) and time.monotonic() < until:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in said and child.returncode != 0
    files = [path for path in folder.iterdir() if path.suffix != ".lstmx"]  # what a save that is killed may leave
    assert 5 < len(files) < 10_000 and {path.suffix for path in files} == {".safetensors"}
    for path in files:
        lstmx.load(path)
