"""From what users pass to a panel: names and numbers of features by scikit-learn, sequences by `lstmx.data.panel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_array, check_consistent_length, validate_data

from lstmx.data import missing, panel
from lstmx.functional import validate
from lstmx.functional.messages import warn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lstmx._types import Array, Config, Ints, Shape


ANY = {"dtype": [np.float64, np.float32], "ensure_all_finite": False, "allow_nd": True}


def read_X(
    estimator: Any, X: Any, layout: str, *, fitted: Config | None = None, name: str = "X", gaps: bool = False
) -> panel.Panel:
    """A `panel.Panel` of X, which is checked against the `fitted` configuration or, without one, defines it.

    2-D data, frames among them, pass scikit-learn's own checks; ``n_features_in_`` counts their columns. For sequences
    it counts features. With `gaps`, values may be missing.
    """
    if isinstance(X, panel.Panel):
        return X
    imputes = "missing" in vars(estimator)  # a parameter of its own
    if type(X) is np.ndarray and X.ndim == 3 and fitted is not None:
        return panel.read(X, layout, name, fitted["features"], gaps, imputes)
    arrays = panel.as_list(X)
    # scikit-learn's checks would drop a mask, and know neither sequences nor their shapes.
    if arrays is None and getattr(X, "ndim", None) not in (1, 3) and not isinstance(X, np.ma.MaskedArray):
        _refuse_dates(X, name)
        panel.refuse_nested(X, name)
        if fitted is None and name == "X":
            X = validate_data(estimator, X, reset=True, **ANY)
        elif fitted is not None and fitted["steps"] is not None and np.asarray(X).ndim == 2:
            X = validate_data(estimator, X, reset=False, **ANY)
        else:
            X = check_array(X, input_name=name, **ANY)
    features = None if fitted is None else fitted["features"]
    names = None if arrays is None or layout != "NTC" else _shared_columns(X, name)
    wanted = None if fitted is None else getattr(estimator, "feature_names_in_", None)
    if names is not None and wanted is not None and names != wanted.tolist():
        raise ValueError(f"{name}: its frames have the columns {names}, must have those of fit, in order: "
                         f"{wanted.tolist()}")  # fmt: skip
    found = panel.read(X if arrays is None else arrays, layout, name, features, gaps, imputes)
    if fitted is None and panel.seems_swapped(found):
        warn(f'{name}: got {len(found)} sequences that layout="NTC" reads as {found.lengths.max()} steps of '
             f"{found.features} features, but their numbers look like {found.features} steps; if features stand before "
             'time, as in aeon and sktime, set layout="NCT"')  # fmt: skip
    if fitted is None and name == "X" and not is_table(found):
        estimator.n_features_in_ = found.features
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        if names is not None:
            estimator.feature_names_in_ = np.array(names, object)
    return found


def _shared_columns(X: Any, name: str) -> list[str] | None:
    """The names of the columns of a list of frames; None if they are not all frames, or their names no strings."""
    columns = [list(getattr(x, "columns", ())) for x in X]
    if not all(c and all(isinstance(one, str) for one in c) for c in columns):
        return None
    other = next((n for n, c in enumerate(columns) if c != columns[0]), None)
    if other is not None:
        raise ValueError(f"{name}[{other}]: has the columns {columns[other]}, but {name}[0] has {columns[0]}; give all "
                         "frames the same, in the same order")  # fmt: skip
    return columns[0]


def _refuse_dates(X: Any, name: str) -> None:
    """scikit-learn would take them for nanoseconds."""
    kinds: set[str] = {np.dtype(t).kind for t in getattr(X, "dtypes", ()) if isinstance(t, np.dtype)}
    kinds.add(getattr(getattr(X, "dtype", None), "kind", ""))
    if kinds & {"M", "m"}:
        raise TypeError(f"{name}: holds dates or durations, must be numbers; convert them, such as "
                        f"({name} - {name}.min()) / np.timedelta64(1, 'D')")  # fmt: skip


def learnt_means(data: panel.Panel) -> Array:
    """What missing values become where a sequence says nothing of them: the mean (F,) of each feature."""
    found = missing.means(data)
    if np.isnan(found).any():
        warn(f"X: feature {int(np.isnan(found).argmax())} has no values in training, only NaN, and becomes 0; leave it "
             "out")  # fmt: skip
    return np.nan_to_num(found)


def as_array(y: Any) -> Any:
    """y as it is if it is a list, as a list if it is an array of arrays, else as an array."""
    if isinstance(y, list | tuple):
        return y
    y = np.asarray(y)
    return list(y) if y.dtype == object and y.ndim == 1 and len(y) and np.ndim(y[0]) else y


def step_rows(y: Any, data: panel.Panel, name: str = "y", tail: Shape | None = None) -> Array:
    """Targets of all steps, without padding, as rows (S, ...): one sequence of the panel after the other.

    `tail` is the shape that a row must have; None takes that of the first.
    """
    check_consistent_length(data.lengths, y)
    shape = np.shape(validate.rectangular(f"{name}[0]", y[0])) if isinstance(y, list | tuple) else y.shape[1:]
    if len(shape) not in (1, 2):
        raise ValueError(f"{name}: got shape {(len(y), *shape)}, must be (n, T), (n, T, O) or a list of (T_i,) or "
                         '(T_i, O): one value or row per step; for one per sequence set target="sequence"')  # fmt: skip
    tail = shape[1:] if tail is None else tail
    if isinstance(y, np.ndarray) and not data.ragged and y.shape == (*data.x.shape[:2], *tail):
        return y[np.arange(y.shape[1]) < data.lengths[:, None]]
    found = []
    for n, (a, steps) in enumerate(zip(y, data.lengths.tolist(), strict=True)):
        a = validate.rectangular(f"{name}[{n}]", a)
        if a.shape not in ((steps, *tail), (steps if data.ragged else data.x.shape[1], *tail)):
            raise ValueError(
                f"{name}[{n}]: got shape {a.shape}, must be {(steps, *tail)}: one value for each step of X[{n}]"
            )
        found.append(a[:steps])
    kinds = {a.dtype.kind in "SU" for a in found if a.dtype.kind != "O"}
    if len(kinds) > 1:  # NumPy would make strings of all
        raise ValueError(f"{name}: holds strings and numbers; make all of one kind, such as by .astype(str)")
    return np.concatenate(found)


def is_table(data: panel.Panel) -> bool:
    """Whether a panel came as (n, T) numbers."""
    return data.flat and not data.ragged


def read_weight(sample_weight: ArrayLike | None, count: int, name: str = "sample_weight") -> Array | None:
    """(n,) weights in float64, or None."""
    if sample_weight is None:
        return None
    if np.asarray(sample_weight).ndim == 0:
        weight = np.full(count, validate.number(name, sample_weight, 0))
    else:
        weight = check_array(sample_weight, ensure_2d=False, allow_nd=True, dtype=np.float64, input_name=name)
        if weight.ndim != 1:
            raise ValueError(f"{name}: got shape {weight.shape}, must be 1D: ({count},), one weight per sequence")
        check_consistent_length(weight, np.empty(count))
    if (weight < 0).any():
        raise ValueError(f"{name}: got {weight.min()}, weights must be at least 0")
    if not weight.any():
        raise ValueError(f"{name}: all weights are zero, so there is nothing to learn")
    return weight


def weighed(data: panel.Panel, weight: Any) -> tuple[Ints, panel.Panel, Array | None]:
    """(places, panel, weights) of the sequences whose weight is not 0: the others are as if they had not been given."""
    chosen = np.arange(len(data)) if weight is None else np.flatnonzero(weight)
    if len(chosen) == len(data):
        return chosen, data, weight
    return chosen, data.select(chosen), weight[chosen]
