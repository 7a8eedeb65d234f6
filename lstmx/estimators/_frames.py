"""What series of pandas and polars say beside their numbers: names, and an index with which forecasts go on.

Neither library is imported unless a series of it was given.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lstmx.data.series import are_several, library_of
from lstmx.functional.messages import warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lstmx._types import Array, Config


DATED = ("DatetimeIndex", "PeriodIndex", "TimedeltaIndex")


def _is_dated(index: Any) -> bool:
    return type(index).__name__ in DATED


def _step(index: Any, label: str) -> Any:
    """What leads from one place of an index to the next; None where that is not always the same, which is warned of."""
    if not len(index):
        return None
    if _is_dated(index):
        falls = np.flatnonzero(~np.asarray(index[1:] > index[:-1]))
        if len(falls):
            at = int(falls[0])
            raise ValueError(f"{label}: its dates must rise, but {index[at]} is followed by {index[at + 1]}; sort "
                             f"them, {label}.sort_index(), and make a list of several series")  # fmt: skip
        if type(index).__name__ == "PeriodIndex":
            step = index.freq if len(index.asi8) < 2 or (np.diff(index.asi8) == index.freq.n).all() else None
        else:
            step = index.freq or _inferred(index)
    elif getattr(index.dtype, "kind", "O") in "iuf":
        steps = np.diff(index.to_numpy())
        step = steps[0].item() if len(steps) else 1
        if not (np.isfinite(step) and step and np.allclose(steps, step, rtol=1e-6, atol=0)):
            step = None
    else:
        return None  # names of rows
    if step is None and len(index) > 1:
        if _is_dated(index):
            remedy = f'give it a frequency, {_evened(index, label)}, and missing="impute" for the gaps'
        else:
            remedy = f"number its rows again, {label}.reset_index(drop=True), if none are missing"
        warn(f"{label}: its index is not evenly spaced, so it says nothing of the steps to come: forecasts are "
             f"numbered by the rows of {label}; {remedy}")  # fmt: skip
    return step


def _evened(index: Any, label: str) -> str:
    """How to give an index of dates or durations, which has gaps, a row for each step."""
    if type(index).__name__ == "PeriodIndex":
        return f"{label}.reindex(pandas.period_range({label}.index[0], {label}.index[-1]))"
    times = index.asi8
    many = times[-1] - times[0] > 100 * len(times) * np.median(np.diff(times))  # rows, nearly all of them gaps
    for rows in () if many else (8, 3):  # a week of working days, else as few as can be
        starts = np.unique(np.linspace(0, len(index) - rows, 64).astype(int)) if len(index) >= rows else ()
        found = [_inferred(index[start : start + rows]) for start in starts]
        common = max(found, key=found.count, default=None)
        most = 2 * found.count(common) > len(found)
        if common is not None and most and index.isin(_range(index, common)).all():  # else rows would be lost
            return f"{label}.asfreq({common.freqstr!r})"
    return f"{label}.asfreq(...)"


def _range(index: Any, step: Any) -> Any:
    import pandas

    make = pandas.date_range if type(index).__name__ == "DatetimeIndex" else pandas.timedelta_range
    return make(index[0], index[-1], freq=step)


def _inferred(index: Any) -> Any:
    from pandas import infer_freq
    from pandas.tseries.frequencies import to_offset

    if len(index) < 3:  # too few for infer_freq
        return to_offset(index[1] - index[0]) if len(index) == 2 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 4 gives an offset, not its name: either will do
        return to_offset(infer_freq(index))


@dataclass(frozen=True)
class Frame:
    """The names and the end of one series.

    Parameters
    ----------
    library : {"pandas", "polars"}
    names : list or hashable
        Of a DataFrame's columns, or of a Series.
    table : bool
        Whether it is a DataFrame.
    rows : int
        Steps so far.
    last : pandas.Index or None
        Its last place; None where the library has no index.
    step : pandas offset or number or None
        What leads to the next.
    """

    library: str
    names: Any
    table: bool
    rows: int
    last: Any = None
    step: Any = None

    @classmethod
    def of(cls, y: Any, label: str, like: Frame | None = None) -> Self | None:
        """That of a series, or None; what it does not say is as in `like`."""
        library = library_of(y)
        if library is None:
            return None
        table = hasattr(y, "columns")
        names = list(y.columns) if table else y.name
        if library == "polars":
            return cls(library, names, table, len(y))
        step = _step(y.index, label)
        if step is None and len(y) == 1 and like is not None:
            step = like.step
        return cls(library, names, table, len(y), y.index[-1:], step)

    def index(self, count: int) -> Any:
        """The next `count` places."""
        import pandas

        if self.step is None:
            return pandas.RangeIndex(self.rows, self.rows + count)
        last, kind = self.last[0], type(self.last).__name__
        if kind == "PeriodIndex":
            found = pandas.period_range(last + self.step, periods=count, freq=self.step)
        elif kind == "DatetimeIndex":
            found = pandas.date_range(last, periods=count + 1, freq=self.step)[1:]
        elif kind == "TimedeltaIndex":
            found = pandas.timedelta_range(last, periods=count + 1, freq=self.step)[1:]
        elif isinstance(self.step, int):
            first = int(last) + self.step
            found = pandas.RangeIndex(first, first + count * self.step, self.step)
        else:
            found = pandas.Index(last + self.step * np.arange(1, count + 1))
        return found.rename(self.last.name)

    def label(self, values: Array) -> Any:
        """A Series or a DataFrame of forecasts (H,) or (H, O)."""
        if self.table:
            values = values.reshape(len(values), -1)
        elif values.ndim > 1:
            values = values[:, 0]
        if self.library == "polars":
            import polars

            if self.table:
                return polars.DataFrame(values, schema=self.names, orient="row")
            return polars.Series(self.names, values)
        import pandas

        index = self.index(len(values))
        if self.table:
            return pandas.DataFrame(values, index, self.names)
        return pandas.Series(values, index, name=self.names)

    def after(self, y: Any) -> Frame:
        """That of the same series after the steps of y."""
        count = len(y)
        last = self.last if self.step is None or not count else self.index(count)[-1:]
        return replace(self, rows=self.rows + count, last=last)

    def check_dates(self, frame: Any, label: str, before: Any = None) -> None:
        """An error unless the dates of a frame, if there are such, are those to come, or `before` and then those."""
        index: Any = getattr(frame, "index", None)
        if self.step is None or not _is_dated(self.last) or not _is_dated(index):
            return
        wanted = self.index(max(len(index) - (0 if before is None else len(before)), 0))
        if before is not None:
            wanted = before[: len(index)].append(wanted)
        check_same(index, wanted, label)

    def check_columns(self, frame: Any, label: str) -> None:
        """An error for a DataFrame with other columns."""
        if self.table and hasattr(frame, "columns") and list(frame.columns) != self.names:
            raise ValueError(f"{label}: has the columns {list(frame.columns)}, must have those of fit, in order: "
                             f"{self.names}")  # fmt: skip

    def state(self) -> Config:
        """All there is as plain values."""
        found = {name: getattr(self, name) for name in ("library", "names", "table", "rows")}
        if self.step is not None:
            offset = self.last if type(self.last).__name__ == "PeriodIndex" else self.step  # "M", where that is "ME"
            found |= {"step": getattr(offset, "freqstr", self.step)} | _state_of(self.last)
        return found

    @classmethod
    def from_state(cls, state: Config) -> Self:
        """A frame from what `state` gave."""
        own = {name: state[name] for name in ("library", "names", "table", "rows")}
        if "step" not in state:
            return cls(**own)
        try:
            from pandas.tseries.frequencies import to_offset
        except ImportError as error:
            raise ImportError("the series of fit were of pandas: pip install pandas, or read the file by lstmx.load, "
                              "which forecasts arrays") from error  # fmt: skip
        step, last = state["step"], _index_of(state)
        if isinstance(step, str):
            step = last.freq if state["kind"] == "PeriodIndex" else to_offset(step)
        return cls(**own, step=step, last=last)


def _state_of(last: Any) -> Config:
    """One place of an index as plain values."""
    kind, found = type(last).__name__, {"index_name": last.name}
    if kind not in DATED:
        return found | {"kind": "Index", "last": last[0].item() if hasattr(last[0], "item") else last[0]}
    if kind == "PeriodIndex":
        return found | {"kind": kind, "last": str(last[0])}
    zone = getattr(last, "tz", None)
    return found | {"kind": kind, "last": int(last.asi8[0]), "unit": last.unit, "zone": zone and str(zone)}


def _index_of(state: Config) -> Any:
    """The place that `_state_of` gave."""
    import pandas

    kind, last, name = state["kind"], state["last"], state["index_name"]
    if kind == "Index":
        return pandas.Index([last], name=name)
    if kind == "PeriodIndex":
        return pandas.PeriodIndex([last], freq=state["step"], name=name)
    letter = "M8" if kind == "DatetimeIndex" else "m8"
    found = getattr(pandas, kind)(np.array([last]).view(f"{letter}[{state['unit']}]"), name=name)
    return found if state["zone"] is None else found.tz_localize("UTC").tz_convert(state["zone"])


def check_same(index: Any, wanted: Any, label: str) -> None:
    """An error for an index of dates that are not those wanted."""
    same = np.asarray(index == wanted) if type(index) is type(wanted) else np.zeros(len(index), bool)
    if not same.all():
        at = int(np.argmin(same))
        raise ValueError(f"{label}: has {index[at]} where {wanted[at]} is due, in row {at}; give it the rows of these "
                         "steps, or, if they are, without the index")  # fmt: skip


class Frames:
    """Those of all series that a forecaster was given, with the keys of a dict of them.

    Parameters
    ----------
    y : series or list or dict of series
    like : Frames, optional
        Those of `fit`.
    """

    each: list[Any]  # a `Frame` or None

    def __init__(self, y: Any = None, like: Frames | None = None) -> None:
        self.keys = list(y) if isinstance(y, dict) else None
        self.many = self.keys is not None or are_several(y)
        each = self.values(y) if self.many else [y]
        first: Any = None if like is None else next(filter(None, like.each), None)
        self.each = [Frame.of(a, f"y[{n}]" if self.many else "y", first) for n, a in enumerate(each)]
        for n, a in enumerate(each if first is not None else ()):
            first.check_columns(a, f"y[{n}]" if self.many else "y")

    def state(self) -> Config:
        """All there is as plain values."""
        return {"keys": self.keys, "many": self.many, "each": [f and f.state() for f in self.each]}

    @classmethod
    def from_state(cls, state: Config) -> Self:
        """Frames from what `state` gave."""
        found = cls()
        found.keys, found.many = state["keys"], state["many"]
        found.each = [f and Frame.from_state(f) for f in state["each"]]
        return found

    def values(self, data: Any, name: str = "y") -> Any:
        """Series or exogenous variables without the keys of a dict: a list in the order of the series."""
        if not isinstance(data, dict):
            return data
        if self.keys is None or set(data) != set(self.keys):
            want = f"the keys {self.keys}" if self.keys is not None else "one array, or a list as in fit"
            raise ValueError(f"{name}: got a dict with the keys {list(data)}, must have {want}")
        return [data[key] for key in self.keys]

    def _pairs(self, data: Any, name: str) -> Iterator[tuple[Frame, Any, str]]:
        """(frame, data, what to call it) of each series that has a frame."""
        if data is None or not any(self.each) or self.many != are_several(data):
            return
        for n, (frame, a) in enumerate(zip(self.each, data if self.many else [data], strict=False)):
            if frame is not None:
                yield frame, a, f"{name}[{n}]" if self.many else name

    def check_past(self, X: Any, y: Any) -> None:
        """An error where the dates of X, without keys, are not those of y."""
        for n, (_, x, label) in enumerate(self._pairs(X, "X")):
            index: Any
            wanted: Any
            index, wanted = getattr(x, "index", None), getattr(y[n] if self.many else y, "index", None)
            if _is_dated(index) and _is_dated(wanted) and len(index) == len(wanted):
                check_same(index, wanted, label)

    def check_future(self, X: Any, y: Any = None, name: str = "X") -> None:
        """An error where the dates of X, without keys, are not those to come, behind those of y if it is given."""
        for n, (frame, x, label) in enumerate(self._pairs(X, name)):
            before = None if y is None else (y[n] if self.many else y).index
            frame.check_dates(x, label, before)

    def label(self, found: Any) -> Any:
        """Forecasts as the series came: arrays (H,) or (H, O), or a list of them."""
        if not self.many:
            return found if self.each[0] is None else self.each[0].label(found)
        found = [a if frame is None else frame.label(a) for frame, a in zip(self.each, found, strict=True)]
        return self.keyed(found)

    def keyed(self, found: Any) -> Any:
        """A list as it is, or a dict if the series came so."""
        return found if self.keys is None else dict(zip(self.keys, found, strict=True))

    def check_new(self, y: Any) -> None:
        """An error where steps of y, without keys, have other dates than those that are due, or other columns."""
        self.check_future(y, name="y")
        for frame, a, label in self._pairs(y, "y"):
            frame.check_columns(a, label)

    def after(self, y: Any) -> Frames:
        """Those after the steps of y, without keys."""
        new, given = Frames(), y if self.many else [y]
        pairs = zip(self.each, given, strict=True) if any(self.each) else ()
        new.keys, new.many = self.keys, self.many
        new.each = [None if frame is None else frame.after(a) for frame, a in pairs] or self.each
        return new
