"""Predictions for Dask DataFrames, whose rows are steps and whose sequences are told apart by a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lstmx.distributed import _models
from lstmx.distributed._common import as_list, check_times
from lstmx.model import Sequential
from lstmx.predictors import Forecaster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lstmx._types import Array, DType, Ints

SEQUENCES, STEPS, HORIZON = "sequences", "steps", "horizon"  # what a result has a row for


@dataclass(frozen=True)
class _Plan:
    """How a partition is read, and what comes of it."""

    call: _models.Call
    by: str
    time: str | None
    columns: list[Any]
    rows: str  # one of the three above
    names: list[Any]  # of the columns of the result
    single: bool  # whether it is a Series
    beside: list[Any]  # columns of the DataFrame that come first in the result


def predict(
    model: Any, sent: Any, call: _models.Call, frame: Any, *, by: Any, time: Any, columns: Any, shuffle: Any
) -> Any:
    """The results of a DataFrame; `sent` is the `_models.Packed` model, delayed."""
    names, index = list(frame.columns), frame.index.name
    by, time, columns = _read_names(names, index, by, time, columns)
    if shuffle is None:
        shuffle = by in names or not frame.known_divisions
    if shuffle and time is None and frame.npartitions > 1:
        raise ValueError(f"time: must name what orders the steps of a sequence, since rows are shuffled by {by!r} and "
                         "lose their order; or say shuffle=False, if each sequence lies in one partition")  # fmt: skip
    wanted = [name for name in names if name in (by, time, *columns)]
    types, own = {name: frame.dtypes[name] for name in wanted}, frame.index.dtype
    if time is not None:
        check_times(pd.Index([], dtype=types.get(time, own)), time)
    frame = frame if names == wanted else frame[wanted]
    several = frame.npartitions > 1
    if several and shuffle:
        frame = frame.shuffle(on=by) if by in names else frame.shuffle(on_index=True)
    plan, dtype = _outline(model, call, by, time, columns, types)
    meta = _nothing(plan, types, index, own, dtype)
    clear = plan.rows != STEPS and by in names
    if shuffle or not several:
        return frame.map_partitions(predict_rows, sent, plan, meta, meta=meta, clear_divisions=clear)
    found = frame.map_partitions(
        predict_part, sent, plan, meta, meta=meta, clear_divisions=clear, enforce_metadata=False
    )
    keys = found.map_partitions(_keys, meta=pd.DataFrame({"key": [], "partition": []}), enforce_metadata=False)
    verdict = keys.repartition(npartitions=1).map_partitions(_check_whole, by, meta=pd.DataFrame({"key": []}))
    return found.map_partitions(_release, verdict, meta=meta)


def _read_names(names: list[Any], index: Any, by: Any, time: Any, columns: Any) -> tuple[Any, Any, list[Any]]:
    """`by`, `time` and `columns` of a DataFrame that has these names."""
    also = "its index, once that has a name" if index is None else f"its index, {index!r}"
    there = f"must be one of its columns, {names}, or {also}"
    if by is None:
        raise ValueError(f"by: got None, {there}: whose values tell the sequences apart; for a table whose rows are "
                         "sequences give collection.to_dask_array()")  # fmt: skip
    for name, value in (("by", by), ("time", time)):
        if isinstance(value, list | tuple):
            raise TypeError(f"{name}: got {value!r}, must be one name; make one column of several")
        if value is not None and value not in names and (index is None or value != index):
            raise ValueError(f"{name}: got {value!r}, {there}")
    if time is not None and time == by:
        raise ValueError(f"time: got {time!r}, which is what tells the sequences apart")
    if columns is None:
        columns = [name for name in names if name not in (by, time)]
    columns = as_list(columns)
    missing = [name for name in columns if name not in names]
    if any(names.count(name) > 1 for name in (by, time, *columns)):
        raise ValueError(f"collection: has several columns of the same name among {names}; rename them")
    if missing or not columns or len(set(columns)) < len(columns):
        raise ValueError(f"columns: got {columns}, must be different columns of {names}, at least one")
    return by, time, columns


def _outline(
    model: Any, call: _models.Call, by: Any, time: Any, columns: list[Any], types: dict[Any, Any]
) -> tuple[_Plan, DType]:
    """The plan for a model, and the type of its results: found with two tiny sequences."""
    for name in columns:
        if not pd.api.types.is_numeric_dtype(types[name]):
            raise TypeError(f"columns: {name!r} holds {types[name]}, must be numbers; convert it, or leave it out of "
                            "columns=[...]")  # fmt: skip
    if isinstance(model, Forecaster):
        if len(columns) != model.config["features"] or "step" in columns:
            raise ValueError(f"columns: got {columns}, must be the {model.config['features']} variables of fit, in "
                             'order, none of them called "step"')  # fmt: skip
        if model.names not in (None, columns):
            raise ValueError(f"columns: got {columns}, must be those of fit, in order: {model.names}")
        return _Plan(call, by, time, columns, HORIZON, ["step", *columns], False, []), model.dtype
    zeros = [_numbers(pd.DataFrame(0, range(n), columns).astype({c: types[c] for c in columns})) for n in (2, 3)]
    embedding = isinstance(model, Sequential) and model.embedding is not None
    if embedding and len(columns) != 1:
        raise ValueError(f"columns: got {columns}, must be one column of integers, as the model begins with an "
                         "Embedding")  # fmt: skip
    with _models.named(f"columns: got {columns}"):
        found = call(model, [a[:, 0] if embedding else pd.DataFrame(a, columns=columns) for a in zeros])
    rows = STEPS if isinstance(found, list) else SEQUENCES
    shape = found[0].shape[1:] if rows == STEPS else found.shape[1:]
    classes = getattr(model, "classes_", None) if call.method in ("predict_proba", "predict_log_proba") else None
    if len(shape) > 1:
        raise ValueError(f"method: {call.method} gives an array {shape} for each row, must be a number or several, "
                         "which make columns")  # fmt: skip
    names = [call.method] if shape == () else [f"{call.method}_{k}" for k in range(*shape)]
    if shape and classes is not None and len(classes) == shape[0]:
        names = [str(label) for label in classes.tolist()]
    elif call.method == "transform" and rows == STEPS and shape == (len(columns),):
        names = columns
    beside = [name for name in types if rows == STEPS and name in (by, time)]
    return _Plan(call, by, time, columns, rows, names, shape == () and not beside, beside), found[0].dtype


def _nothing(plan: _Plan, types: dict[Any, Any], index: Any, own: Any, dtype: DType) -> Any:
    """The result of no rows of a DataFrame with columns of these types; its index has this name and the type `own`."""
    steps = plan.rows == STEPS
    labels = pd.Index([], dtype=own if steps else types.get(plan.by, own), name=index if steps else plan.by)
    found = pd.DataFrame(np.empty((0, len(plan.names)), dtype), columns=plan.names, index=labels)
    if plan.rows == HORIZON:
        found = found.astype({"step": np.int64})
    for place, name in enumerate(plan.beside):
        found.insert(place, name, pd.Series([], dtype=types[name], index=labels))
    return found[plan.names[0]] if plan.single else found


def predict_rows(part: Any, packed: _models.Packed, plan: _Plan, nothing: Any, partition_info: Any = None) -> Any:
    """The result of a partition that holds whole sequences."""
    return predict_part(part, packed, plan, nothing, partition_info)[0]


def predict_part(
    part: Any, packed: _models.Packed, plan: _Plan, nothing: Any, partition_info: Any = None
) -> tuple[Any, Any, int]:
    """(result, keys, number) of a partition."""
    info = partition_info or {"number": 0, "division": None}  # Dask tries functions without
    start = "" if info["division"] is None else f", which begins at {_shown(info['division'])}"
    with _models.named(f"partition {info['number']}{start}"):
        missing = [name for name in plan.columns if name not in part.columns]
        more = [name for name in part.columns if name not in (*plan.columns, plan.by, plan.time)]
        if missing or more:
            raise ValueError(f"columns: got {list(part.columns)}, must be {plan.columns}, as the DataFrame says")
        if len(part) == 0:
            return nothing, [], info["number"]
        keys, order, ends = _groups(part, plan.by, plan.time)
        model = _models.unpack(packed)
        rows = _numbers(part[plan.columns])[order]
        if isinstance(model, Sequential) and model.embedding is not None:
            rows = rows[:, 0]
        found = plan.call(model, np.split(rows, ends))
        return _table(found, plan, keys, order, part), keys, info["number"]


def _groups(part: Any, by: Any, time: Any) -> tuple[Any, Ints, Ints]:
    """(keys, rows in the order of keys and times, where the keys after the first begin in it) of a partition."""

    def ranks(name: str, label: Any) -> tuple[Any, Any]:
        if label not in part.columns and label != part.index.name:
            raise ValueError(f"{name}: must be {label!r}, as the DataFrame says, but there are {list(part.columns)}")
        codes, values = pd.factorize(part[label] if label in part.columns else part.index, sort=True)
        if (codes < 0).any():
            raise ValueError(f"{name}: {(codes < 0).sum()} of {len(codes)} values of {label!r} are missing; leave "
                             "these rows out")  # fmt: skip
        return codes, values

    codes, keys = ranks("by", by)
    if time is None:
        order = np.argsort(codes, kind="stable")
    else:
        steps, times = ranks("time", time)
        check_times(pd.Index(times), time)
        order = np.lexsort((steps, codes))
        same = (np.diff(codes[order]) == 0) & (np.diff(steps[order]) == 0)
        if same.any():
            first = order[same.argmax()]
            raise ValueError(f"time: {by} {_shown(keys[codes[first]])} has two steps at {_shown(times[steps[first]])}, "
                             "must have one; leave one out, or make one of them")  # fmt: skip
    return keys, order, np.flatnonzero(np.diff(codes[order])) + 1


def _numbers(features: Any) -> Array:
    """Features (rows, F) as an array; what is missing in columns of a type of pandas's own is NaN."""
    found = features.to_numpy()
    return features.to_numpy(np.float64, na_value=np.nan) if found.dtype == object else found


def _shown(value: Any) -> str:
    """A key or a time as errors show it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _table(found: Any, plan: _Plan, keys: Any, order: Ints, part: Any) -> Any:
    """What a model gives for the sequences of a partition, as a table."""
    if plan.rows == STEPS:
        rows = np.concatenate(found)
        values = np.empty_like(rows)
        values[order] = rows
        labels = part.index
    elif plan.rows == SEQUENCES:
        values, labels = found, pd.Index(keys, name=plan.by)
    else:
        stacked = np.stack(found)
        values, labels = stacked.reshape(stacked.shape[0] * stacked.shape[1], -1), pd.Index(keys, name=plan.by)
        labels = labels.repeat(stacked.shape[1])
    if plan.single:
        return pd.Series(values, index=labels, name=plan.names[0])
    names = plan.names[1:] if plan.rows == HORIZON else plan.names
    table = pd.DataFrame(values, index=labels, columns=names)
    if plan.rows == HORIZON:
        table.insert(0, "step", np.tile(np.arange(1, stacked.shape[1] + 1), len(keys)))
    for place, name in enumerate(plan.beside):
        table.insert(place, name, part[name])
    return table


def _keys(found: tuple[Any, Any, int]) -> Any:
    """Which keys are in a partition, of what `predict_part` gave."""
    return pd.DataFrame({"key": pd.Series(list(found[1]), dtype=object), "partition": found[2]})


def _check_whole(keys: Any, by: Any) -> Any:
    """An error if a key is in two partitions."""
    twice = keys["key"].duplicated(keep=False)
    if twice.any():
        key = keys["key"][twice].iloc[0]
        places: Sequence[int] = keys["partition"][keys["key"] == key].tolist()
        raise ValueError(f"by: {by} {_shown(key)} lies in the partitions {', '.join(map(str, places))}, must lie in "
                         "one; say shuffle=True, which brings its rows together")  # fmt: skip
    return keys[["key"]][:0]


def _release(found: tuple[Any, Any, int], verdict: Any) -> Any:
    """The result of a partition, now that the verdict is that all sequences are whole."""
    return found[0]
