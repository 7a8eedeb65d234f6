"""One series of `fit_many`: what a worker does with it. It is read, fitted, scored and written to a file of its own."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import time
from dataclasses import dataclass, replace
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx import estimators
from lstmx.distributed._common import check_times
from lstmx.estimators._frames import DATED
from lstmx.estimators._notes import decode, encode
from lstmx.estimators._training import digest
from lstmx.functional import messages
from lstmx.functional.threads import num_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lstmx._types import Array, Config


ROW = "__lstmx_row"  # a column that remembers the order of rows
_INTERRUPTED = "Training interrupted by user."  # what an estimator says of Ctrl-C, after which it would go on


def mean_absolute_error(true: Array, found: Array) -> float:
    """What a forecast is scored by if nothing else is asked for."""
    return float(np.abs(found - true).mean())


@dataclass(frozen=True)
class Plan:
    """What is done with every series. The arguments are those of `fit_many`, checked.

    Parameters
    ----------
    estimator : LSTMEstimator
        Not fitted, with the random_state from which, and from its key, a series has its own.
    by, target, columns : list
        Names of columns.
    single : bool
        Whether `target` was one name, not a list of them.
    time, freq, sequence : optional
    holdout, season : int, optional
    scores : dict of str to callable or None
        By the names of the table's columns; None is what the estimator's ``score`` gives.
    folder : str, optional
        Absolute.
    resume : bool
    """

    estimator: Any
    by: list[Any]
    target: list[Any]
    columns: list[Any]
    single: bool
    time: Any
    freq: Any
    sequence: Any
    holdout: int | None
    season: int | None
    scores: dict[str, Callable[[Any, Any], float] | None]
    folder: str | None
    resume: bool

    @property
    def forecasts(self) -> bool:
        """Whether a series is to be forecast, or is made of sequences."""
        return isinstance(self.estimator, estimators.LSTMForecaster)

    @property
    def named(self) -> list[Any]:
        """Columns that are neither targets nor features."""
        return [*self.by, *(name for name in (self.time, self.sequence) if name is not None)]

    def for_columns(self, names: Sequence[Any]) -> Plan:
        """This plan with targets and features from a frame of these columns, in which `by` may be or not.

        Raises
        ------
        ValueError
            If a column is not there, or it is not clear which is which.
        """
        for what, wanted in (("time", [self.time]), ("sequence", [self.sequence]), ("target", self.target),
                             ("columns", self.columns)):  # fmt: skip
            for name in wanted:
                if name is not None and name not in names:
                    raise ValueError(f"{what}: there is no column {name!r} in {list(names)}")
        target, columns, kind = self.target, self.columns, type(self.estimator).__name__
        others = [name for name in names if name not in (*self.named, *target, *columns)]
        if self.forecasts and not target:
            if len(others) != 1:
                raise ValueError(f"target: must name the column to forecast, of {others}")
            return replace(self, target=others, single=True)
        if not self.forecasts and not columns:
            columns = others
            if not columns:
                raise ValueError(f"columns: {kind} needs features, but all columns of {list(names)} are something else")
        return replace(self, columns=columns)

    def table(self) -> list[str]:
        """The columns of the result that hold scores."""
        found = list(self.scores)
        return found + [f"{name}_naive" for name in found] if self.season is not None else found


# Keys.


def text_of(key: Any) -> str:
    """A text that no other key has; 1 and 1.0, and numbers and strings of NumPy and of Python, are the same keys."""
    if isinstance(key, tuple):
        return f"({', '.join(map(text_of, key))})"
    key = key.item() if isinstance(key, np.generic) and key.dtype.kind in "biufU" else key
    key = int(key) if isinstance(key, float) and key.is_integer() else key  # integers, where another key is missing
    return repr(key) if isinstance(key, str | bool | int | float) else f"{type(key).__name__} {str(key)!r}"


def seed_of(random_state: int, key: Any) -> int:
    """The random_state of a series, from 0 to 2**32 - 1."""
    text = f"{random_state} {text_of(key)}"
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little")


def file_of(folder: str, key: Any) -> str:
    """The file of a series: a name that all file systems take, and that no other key has, with 1 against 2**80."""
    own = hashlib.blake2b(text_of(key).encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
    parts = key if isinstance(key, tuple) else (key,)
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(map(str, parts)))[:64]
    return os.path.join(folder, f"{readable}-{own}.safetensors")


def _is_missing(key: Any) -> bool:
    return any(k is None or k != k or type(k).__name__ in ("NAType", "NaTType")
               for k in (key if isinstance(key, tuple) else (key,)))  # fmt: skip


# Reading.


def groups(frame: Any, plan: Plan) -> Iterator[tuple[Any, Any]]:
    """(key, its rows) of a pandas.DataFrame, in the order in which keys appear."""
    by = plan.by[0] if len(plan.by) == 1 else plan.by
    if ROW in frame.columns:
        frame = frame.sort_values(ROW).drop(columns=ROW)
    for key, rows in frame.groupby(by, sort=False, dropna=False, observed=True):
        rows = rows.drop(columns=plan.by)
        yield key, rows if type(rows.index).__name__ in DATED else rows.reset_index(drop=True)


def _in_order(data: Any, plan: Plan) -> Any:
    """Rows by their time, if there is one, which is then the index; evenly spaced if they shall be."""
    if plan.time is not None:
        data = data.set_index(plan.time).sort_index(kind="stable")
    index: Any = getattr(data, "index", None)
    if plan.freq is not None and type(index).__name__ != "DatetimeIndex":
        raise TypeError(f"freq: needs dates, not {type(index).__name__}; name the column that holds them as time")
    if plan.freq is None and plan.time is None:
        return data
    wrong = index[index.isna() | index.duplicated()]
    if len(wrong):
        raise ValueError(f"time: {len(wrong)} of {len(index)} rows have none, or one that another row has, the first "
                         f"{wrong[0]}; leave them out, or make one row of those")  # fmt: skip
    if plan.time is not None:
        check_times(index, plan.time)
    if plan.freq is None or not len(data):
        return data
    even = data.asfreq(plan.freq)
    lost = index[~index.isin(even.index)]
    if len(lost):
        raise ValueError(f"freq: {len(lost)} of {len(index)} rows are not a multiple of {plan.freq!r} after the first, "
                         f"{index[0]}, such as {lost[0]}; round their times, or take a smaller one")  # fmt: skip
    return even


def _numeric(data: Any, names: Iterable[Any]) -> Any:
    """A frame whose columns of these names hold numbers: those of mixed types may hold them too, and nothing else."""
    import pandas

    for name in names:
        if pandas.api.types.is_numeric_dtype(data[name]) or data[name].dtype.kind in "mM":
            continue
        values = data[name]
        wrong = np.array([not isinstance(v, Number | np.number) for v in values], bool) & values.notna().to_numpy()
        if wrong.any():
            place = int(wrong.argmax())
            raise TypeError(f"data: column {name!r} holds {values.iloc[place]!r} at {values.index[place]}, must hold "
                            "numbers; correct it, or let pandas.to_numeric(.., errors='coerce') make NaN of "
                            "texts")  # fmt: skip
        data = data.copy(deep=False)
        data[name] = values.astype(np.float64)
    return data


def _as_pandas(data: Any) -> Any:
    return data.to_pandas() if type(data).__module__.partition(".")[0] == "polars" else data


def _series(data: Any, plan: Plan) -> tuple[Any, Any]:
    """(y, X or None) for a forecaster."""
    if not hasattr(data, "columns"):
        if plan.target or plan.columns or plan.time is not None:
            raise TypeError(f"data: got {type(data).__name__}, must be a DataFrame, as columns are named")
        return _in_order(data, plan), None
    data = _as_pandas(data)
    plan = plan.for_columns(list(data.columns))
    data = _numeric(_in_order(data, plan), [*plan.target, *plan.columns])
    y = data[plan.target[0]] if plan.single else data[plan.target]
    return y, data[plan.columns] if plan.columns else None


def _sequences(data: Any, plan: Plan) -> tuple[list[Any], Any]:
    """(X, y or None) for an estimator of sequences."""
    if not hasattr(data, "columns"):
        if plan.target or plan.columns or plan.named:
            raise TypeError(f"data: got {type(data).__name__}, must be a DataFrame, as columns are named")
        return [data], None
    data = _as_pandas(data)
    plan = plan.for_columns(list(data.columns))
    parts = [data]
    if plan.sequence is not None:
        lost = data[plan.sequence].isna().sum()
        if lost:
            raise ValueError(f"sequence: {lost} of {len(data)} rows have none; leave them out")
        parts = [part for _, part in data.groupby(plan.sequence, observed=True)]
    parts = [_numeric(_in_order(part, plan), plan.columns) for part in parts]
    X = [part[plan.columns] for part in parts]
    if not plan.target:
        return X, None
    names = plan.target[0] if plan.single else plan.target
    if plan.estimator.target == "step":
        return X, [part[names].to_numpy() for part in parts]
    for part in parts:
        if len(part[plan.target].drop_duplicates()) > 1:
            raise ValueError(f"target: {names!r} is not the same in all rows of the sequence "
                             f"{part[plan.sequence].iloc[0]}, which has one label; for one at each step set "
                             'target="step" of the estimator')  # fmt: skip
    return X, np.array([part[names].iloc[0] for part in parts])


# Fitting.


def fit_pairs(plan: bytes, pairs: Iterable[bytes]) -> list[dict[str, Any]]:
    """Rows of the table, of pickled (key, data)."""
    return _rows(pickle.loads(plan), map(pickle.loads, pairs))


def fit_partition(plan: bytes, frame: Any) -> list[dict[str, Any]]:
    """Rows of the table, of a pandas.DataFrame that has whole series."""
    own = pickle.loads(plan)
    return _rows(own, groups(frame, own))


def _rows(plan: Plan, pairs: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    with num_threads(1):  # Dask's workers have a thread for every task
        return [fit_one(plan, key, data) for key, data in pairs]


def fit_one(plan: Plan, key: Any, data: Any) -> dict[str, Any]:
    """The row of one series: what was found, or the error."""
    seed, start = seed_of(plan.estimator.random_state, key), time.perf_counter()
    row: dict[str, Any] = {"key": key, "error": None}
    with messages.collected() as told:
        try:
            if _is_missing(key):
                raise ValueError("by: these rows have no key; give them one, or leave them out")
            estimator = plan.estimator.__sklearn_clone__().set_params(random_state=seed)
            row |= _fitted(plan, key, estimator, data() if callable(data) else data, told)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
    row.setdefault("warnings", "\n".join(told))
    row.setdefault("seconds", time.perf_counter() - start)
    return row


def _fitted(plan: Plan, key: Any, estimator: Any, data: Any, told: list[str]) -> dict[str, Any]:
    """What the table says of a fit, whose model is written to a file or goes into the table."""
    given = _series(data, plan) if plan.forecasts else _sequences(data, plan)
    path, identity = None if plan.folder is None else file_of(plan.folder, key), ""
    if path is not None:
        identity = _identity(plan, estimator, given)
        found = _written(path, identity) if plan.resume else None
        if found is not None:
            return found | {"file": path, "seconds": np.nan}
    found = _forecast(plan, estimator, *given) if plan.forecasts else _learn(plan, estimator, *given)
    if _INTERRUPTED in told:
        raise KeyboardInterrupt
    found |= {"epochs": estimator.n_iter_, "warnings": "\n".join(told)}
    if path is None:
        return found | {"model": estimator}
    _write(path, estimator, {"key": text_of(key), "identity": identity, "row": encode(found, "row")})
    return found | {"file": path}


def _forecast(plan: Plan, estimator: Any, y: Any, X: Any) -> dict[str, Any]:
    """Fit a forecaster to all but the steps held out, forecast these, and let it know them."""
    count = plan.holdout
    if count is None:
        estimator.fit(y, X)
        return {}
    (y, held), (X, held_X) = _cut(y, count, "steps"), (None, None) if X is None else _cut(X, count, "steps")
    estimator.fit(y, X)
    true, forecast = np.asarray(held, np.float64), np.asarray(estimator.predict(count, held_X), np.float64)
    found = {name: _score(score or mean_absolute_error, true, forecast) for name, score in plan.scores.items()}
    if all(np.isnan(value) for value in found.values()):
        messages.warn("holdout: no step of it has a value, so there is no score")
    if plan.season is not None:
        naive = _before(np.asarray(y, np.float64), plan.season, count)
        found |= {f"{name}_naive": _score(score or mean_absolute_error, true, naive)
                  for name, score in plan.scores.items()}  # fmt: skip
    estimator.update(held, held_X)
    return found


def _learn(plan: Plan, estimator: Any, X: list[Any], y: Any) -> dict[str, Any]:
    """Fit an estimator of sequences to all but those held out, and score these."""
    more = {} if y is None else {"y": y}
    if plan.holdout is None:
        estimator.fit(X, **more)
        return {}
    if plan.sequence is None:  # one sequence, of which steps are held out
        (X, held_X), (y, held) = (zip(*(_cut(a, plan.holdout, "steps") for a in values), strict=True)
                                  for values in (X, y))  # fmt: skip
        X, held_X, y, held = map(list, (X, held_X, y, held))
    else:
        (X, held_X), (y, held) = (_cut(values, plan.holdout, "sequences") for values in (X, y))
    estimator.fit(X, y)
    true, guess = held, estimator.predict(held_X)
    if estimator.target == "step":
        true, guess = np.concatenate(true), np.concatenate(guess)
    return {name: float(estimator.score(held_X, held) if score is None else score(true, guess))
            for name, score in plan.scores.items()}  # fmt: skip


def _cut(values: Any, count: int, what: str) -> tuple[Any, Any]:
    """(all but the last `count`, these)."""
    if len(values) <= count:
        raise ValueError(f"holdout: got {count}, but the series has {len(values)} {what}; hold out fewer")
    values = getattr(values, "iloc", values)
    return values[:-count], values[-count:]


def _before(y: Array, season: int, count: int) -> Array:
    """The `count` steps after y if every season were as the last."""
    if len(y) < season:
        return np.full((count, *y.shape[1:]), np.nan)
    return y[len(y) - season + np.arange(count) % season]


def _score(score: Callable[[Any, Any], float], true: Array, found: Array) -> float:
    """The score of the steps that have a value in both; NaN if there are none."""
    there = ~np.isnan(true + found)
    there = there if there.ndim == 1 else there.all(axis=1)
    return float(score(true[there], found[there])) if there.any() else np.nan


# Files.


def _identity(plan: Plan, estimator: Any, given: Iterable[Any]) -> str:
    """A fingerprint of all that decides what a file holds: parameters, data, what is held out, and the scores."""
    text = json.dumps([type(estimator).__name__, parameters_of(estimator), plan.holdout, plan.season,
                       {name: getattr(score, "__qualname__", type(score).__name__)
                        for name, score in plan.scores.items()}], sort_keys=True)  # fmt: skip
    return digest(text, *(part for values in given for part in _parts(values)))


def parameters_of(estimator: Any) -> Config:
    """Those of an estimator, as files hold them.

    Raises
    ------
    TypeError
        If one of them cannot be written to a file.
    """
    return {name: encode(value, name) for name, value in sorted(estimator.get_params(deep=False).items())}


def _parts(values: Any) -> Iterator[Any]:
    """Arrays and texts that tell these data from others."""
    if isinstance(values, list):
        for value in values:
            yield from _parts(value)
    elif values is None:
        yield None
    else:
        yield np.asarray(values)
        yield from (np.asarray(getattr(values, name)) for name in ("columns", "index") if hasattr(values, name))
        yield str(getattr(values, "name", ""))


def _written(path: str, identity: str) -> dict[str, Any] | None:
    """What the table said of the file that is there, if it is of the same identity and whole."""
    from lstmx.loading import load

    try:
        entry = json.loads(load(path).note or "{}")["fit_many"]
        return decode(entry["row"]) if entry["identity"] == identity else None
    except (OSError, ValueError, TypeError, LookupError, RecursionError):  # there is none, or that of somebody else
        return None


def _write(path: str, estimator: Any, entry: Config) -> None:
    stored = estimators.to_stored(estimator)
    if stored.note is not None:  # else it was too long for a file, of which there is a warning
        note = json.loads(stored.note) | {"fit_many": entry}
        stored.with_note(json.dumps(note, sort_keys=True, separators=(",", ":")))
    stored.save(path)
