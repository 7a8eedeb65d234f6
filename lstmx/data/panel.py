"""A panel of sequences in every form that estimators accept, read once: shapes, layouts, NaN padding, finite values.

Accepted are arrays (n, T, F); lists of arrays (T_i, F); object arrays of such; (n, T) numbers, which are n sequences of
one feature; and arrays whose tails are NaN, which is padding. What comes out is an array with lengths, or a list.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import validate
from lstmx.functional.read import Sequences

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import DTypeLike

    from lstmx._types import Array, DType, Ints, Pair, Shape


LAYOUTS = ("NTC", "NCT")
_BLOCK = 2**20  # elements looked at together: windows of a series are views, many times larger than the series


class Panel:
    """Validated sequences.

    Attributes
    ----------
    x : ndarray (n, T, F), or list of ndarrays (T_i, F)
    lengths : ndarray of int64 (n,)
    flat : bool
        Whether they came as (n, T).
    layout : str
        In which they came.
    joined : (rows, starts), optional
        Of a list: all its rows in one array (S, F), and the first row of each sequence.
    missing : ndarray of bool (n, T, F), or list of ndarrays (T_i, F), optional
        Which values were missing, once they are filled (`lstmx.data.missing`).
    """

    def __init__(
        self,
        x: Any,
        lengths: Ints,
        flat: bool,
        layout: str,
        joined: Any = None,
        missing: Any = None,
    ) -> None:
        self.x, self.lengths, self.flat, self.layout, self.joined = x, lengths, flat, layout, joined
        self.missing = missing

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def ragged(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.x, list)

    @property
    def features(self) -> int:
        """F."""
        return self.x[0].shape[1] if self.ragged else self.x.shape[2]

    @property
    def dtype(self) -> DType:
        """float32 if all of it is, else float64."""
        sizes = {a.dtype.itemsize for a in self.x} if self.ragged else {self.x.dtype.itemsize}
        return np.dtype(np.float32) if sizes == {4} else np.dtype(np.float64)

    def sequences(self, dtype: DType, affine: Pair | None = None) -> Sequences:
        """`Sequences` of a type, scaled on the way."""
        if not self.ragged:
            return Sequences(self.x, self.lengths, dtype, affine=affine)
        rows, starts = self.joined
        return Sequences(rows, self.lengths, dtype, form="list", starts=starts, affine=affine)

    def each(self) -> Iterator[Array]:
        """The sequences one by one, without padding: (T_i, F)."""
        return (x[:n] for x, n in zip(self.x, self.lengths.tolist(), strict=True))

    def each_missing(self) -> Iterator[Array | None]:
        """Which values of each sequence were missing, (T_i, F) of bool; None for each where nothing is filled."""
        if self.missing is None:
            return (None for _ in self.lengths)
        return (gaps[:n] for gaps, n in zip(self.missing, self.lengths.tolist(), strict=True))

    def select(self, chosen: Ints) -> Panel:
        """The panel of some of the sequences."""
        if not self.ragged:
            gaps = None if self.missing is None else self.missing[chosen]
            return Panel(self.x[chosen], self.lengths[chosen], self.flat, self.layout, missing=gaps)
        rows, starts = self.joined
        x = [self.x[k] for k in chosen]
        gaps = None if self.missing is None else [self.missing[k] for k in chosen]
        return Panel(x, self.lengths[chosen], self.flat, self.layout, (rows, starts[chosen]), gaps)

    def padded(self, arrays: list[Array]) -> Array:
        """(n, T, ..) of arrays (T_i, ..), one per sequence, with NaN behind each; of a panel that is no list."""
        out = np.full((*self.x.shape[:2], *arrays[0].shape[1:]), np.nan, arrays[0].dtype)
        for row, a in zip(out, arrays, strict=True):
            row[: len(a)] = a
        return out

    def give(self, arrays: list[Array]) -> Any:
        """Results (T_i, F), one per sequence, in the form that the panel came in, with NaN where its padding was."""
        if self.ragged:
            if self.flat and arrays[0].shape[1] == 1:
                return [a[:, 0] for a in arrays]
            return [a.T if self.layout == "NCT" else a for a in arrays]
        out = self.padded(arrays)
        if self.flat and out.shape[2] == 1:
            return out[:, :, 0]
        return np.ascontiguousarray(out.swapaxes(1, 2)) if self.layout == "NCT" else out


def as_list(X: Any) -> list[Array] | None:
    """A list of arrays if X is a list, tuple or object array of sequences; None if it is an array or an array written
    out.
    """
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1 and len(X) and np.ndim(X[0]):
        X = list(X)
    if not isinstance(X, list | tuple):
        return None
    if not X:
        raise ValueError("X: holds no sequences")
    numbers = isinstance(X[0], list | tuple) and not any(hasattr(v, "__len__") for v in X[0])
    if numbers and all(isinstance(a, list | tuple) and len(a) == len(X[0]) for a in X):
        return None
    if np.ndim(X[0]) == 0 or isinstance(X[0], str):
        return None
    return [validate.rectangular(f"X[{n}]", a) for n, a in enumerate(X)]


def read(
    X: Any, layout: str = "NTC", name: str = "X", features: int | None = None, gaps: bool = False, imputes: bool = False
) -> Panel:
    """A `Panel` of X.

    Parameters
    ----------
    X : any accepted form
    layout : {"NTC", "NCT"}
        Whether features come last or, as in aeon and sktime, before time.
    name : str
        For errors.
    features : int, optional
        What F must be.
    gaps : bool
        Whether NaN inside a sequence is a missing value, not an error. At the end, in all features of a step, NaN is
        padding all the same in an array; in a list, whose sequences have lengths of their own, it is missing too.
    imputes : bool
        Whether the caller has a parameter ``missing``, which the error for gaps then names.
    """
    validate.choice("layout", layout, LAYOUTS)
    arrays = as_list(X)
    if arrays is None:
        refuse_nested(X, name)
        panel = _read_array(X, layout, name, features, gaps, imputes)
    else:
        panel = _read_list(arrays, layout, name, gaps, imputes)
    if features is not None and panel.features != features:
        shape = panel.x[0].shape if panel.ragged else panel.x.shape
        raise ValueError(
            f"{name}: got {panel.features} feature{'s' * (panel.features != 1)} (shape {shape}), but the model was "
            f"fitted with {features}{_swapped(shape, features, layout)}"
        )
    return panel


def _swapped(shape: Shape, features: int | None, layout: str) -> str:
    other = "NCT" if layout == "NTC" else "NTC"
    return f'; if features stand before time, set layout="{other}"' if features in shape[:-1] else ""


def refuse_nested(X: Any, name: str) -> None:
    """An error for a table whose cells are series, as sktime nests them."""
    if not hasattr(X, "columns") and (getattr(getattr(X, "dtype", None), "kind", None) != "O" or X.ndim == 0):
        return
    first = validate.rectangular(name, X[:1])
    if first.dtype.kind == "O" and first.ndim == 2 and any(np.ndim(cell) for cell in first.flat):
        raise TypeError(
            f"{name}: got a series in each cell (a nested frame, as of sktime), must be numbers; make it a list of "
            f"(T_i, F) arrays, [np.column_stack(list(row)) for row in {name}.to_numpy()]"
        )


def _numbers(array: Any) -> Array:
    """An object array of nothing but numbers in float64, any other as it is: np.array(list, dtype=object) is such where
    all sequences have one shape.
    """
    if not all(isinstance(v, Real) for v in array.flat):
        return array
    try:
        return array.astype(np.float64)
    except OverflowError:
        return array


def _real(name: str, array: Any) -> Array:
    array = _numbers(array) if array.dtype.kind == "O" else array
    if array.dtype.kind not in "fiub":
        array = validate.real_array(name, array)
    if array.dtype.kind == "f" and array.dtype.itemsize in (4, 8):
        return array
    with np.errstate(over="ignore"):  # a long double that becomes infinite is an error with a message of its own
        return array.astype(np.float64)


def _read_list(arrays: list[Array], layout: str, name: str, gaps: bool, imputes: bool) -> Panel:
    flat = all(a.ndim == 1 for a in arrays)
    found: list[Any] = []
    for n, a in enumerate(arrays):
        label = f"{name}[{n}]"
        a = _real(label, a)
        if flat:
            a = a[:, None]
        if a.ndim != 2:
            want = "(T, F)" if layout == "NTC" else "(F, T)"
            raise ValueError(f"{label}: got shape {arrays[n].shape}, must be {want}: one sequence, time by features"
                             + ("; make it (T, 1) for one feature" if a.ndim == 1 else ""))  # fmt: skip
        a = a if flat or layout == "NTC" else a.T
        if found and a.shape[1] != found[0].shape[1]:
            raise ValueError(
                f"{label}: got {a.shape[1]} features, but {name}[0] has {found[0].shape[1]}; features come "
                f"{'last' if layout == 'NTC' else 'first'}"
            )
        found.append(a)
    if found[0].shape[1] == 0:
        raise ValueError(f"{name}[0]: has no features (shape {found[0].shape})")
    lengths, rows = np.array([len(a) for a in found], np.int64), np.concatenate(found)
    joined = rows, np.cumsum(lengths) - lengths
    if not lengths.all() or not np.isfinite(rows).all():
        ends = [_lengths(a[None], f"{name}[{n}]", layout, gaps, imputes, first=n)[0] for n, a in enumerate(found)]
        if not gaps:
            found = [a[:end] for a, end in zip(found, ends, strict=True)]
            lengths = np.array(ends, np.int64)
    return Panel(found, lengths, flat, layout, joined)


def _read_array(X: Any, layout: str, name: str, features: int | None, gaps: bool, imputes: bool) -> Panel:
    x = _real(name, validate.rectangular(name, X))
    if x.ndim not in (2, 3):
        raise ValueError(f"{name}: got shape {x.shape}, {_dimensions(x, name)}")
    flat = x.ndim == 2
    if flat and features not in (None, 1):
        raise ValueError(f"{name}: got shape {x.shape}, {_two_readings(x, name, features)}")
    x = x[:, :, None] if flat else x.swapaxes(1, 2) if layout == "NCT" else x
    if 0 in x.shape:
        raise ValueError(f"{name}: got shape {np.shape(X)}, which holds no numbers; sequences, steps and features must "
                         "each be at least 1")  # fmt: skip
    return Panel(x, _lengths(x, name, layout, gaps, imputes), flat, layout)


def _dimensions(x: Array, name: str) -> Any:
    if x.ndim == 1:
        return (
            f"expected (n, T, F), (n, T) or a list of (T_i, F) arrays. Reshape your data: one sequence of {len(x)} "
            f"steps is {name}[None, :, None]; {len(x)} sequences of one step are {name}[:, None, None]"
        )
    return "expected at most 3 dimensions: (n, T, F), sequences by time by features"


def _two_readings(x: Array, name: str, features: int | None) -> Any:
    one = f"one sequence of {x.shape[0]} steps and {x.shape[1]} features, {name}[None]"
    many = f"{x.shape[0]} sequences of {x.shape[1]} steps and one feature, {name}[:, :, None]"
    return (
        f"but the model takes {features} features, so (n, T, {features}) is expected. Two readings are possible: "
        f"{one}; or {many}, for a model of one feature"
    )


def _lengths(x: Array, name: str, layout: str, gaps: bool, imputes: bool, first: Any = None) -> Ints:
    """Steps of each sequence of x (n, T, F) without trailing NaN; NaN elsewhere unless gaps are allowed, infinite
    values and empty sequences are errors.
    """
    lengths = np.full(len(x), x.shape[1], np.int64)
    if 0 < x.size <= _BLOCK and np.isfinite(x).all():
        return lengths
    step = max(1, _BLOCK // max(1, x.shape[1] * x.shape[2]))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        if np.isfinite(part).all():
            continue
        if np.isinf(part).any():
            raise ValueError(f"{name}: contains infinity or a value too large for {x.dtype}, in sequence "
                             f"{_where(np.isinf(part), start, first)}; remove it, or clip")  # fmt: skip
        missing = np.isnan(part)
        found = _ends(missing)
        inside = _inside(missing, found)
        if inside.any() and not gaps:
            own = 'Set missing="impute" and fit, by which gaps become straight lines. ' if imputes else ""
            raise ValueError(
                f"{name}: contains NaN inside sequence {_where(inside, start, first)}; only NaN at the end, in all "
                f"features of a step, is padding{_padded_elsewhere(missing, layout)}. {own}Fill it with "
                "lstmx.SequenceImputer (scikit-learn's imputers and scalers know no sequences), or cut the sequence "
                "there"
            )
        lengths[start : start + step] = found
    if lengths.size and lengths.min() < 1:
        n = int(np.argmin(lengths)) if first is None else first
        raise ValueError(f"{name}: sequence {n} has no steps{'' if x.shape[1] == 0 else ', only NaN'}; leave it out")
    return lengths


def _ends(missing: Array) -> Any:
    """Steps (n,) before the padding, of missing values (n, T, F)."""
    there: Any = ~missing.all(axis=2)
    return np.where(there.any(axis=1), there.shape[1] - there[:, ::-1].argmax(axis=1), 0)


def _inside(missing: Array, ends: Any) -> Any:
    """Those of the missing values (n, T, F) that are not padding."""
    return missing & (np.arange(missing.shape[1]) < ends[:, None])[:, :, None]


def _is_padded_elsewhere(missing: Array) -> Any:
    """Whether missing values (n, T, F) would all be padding if the last two axes were swapped, and are not now."""
    swapped = missing.swapaxes(1, 2)
    return bool(_inside(missing, _ends(missing)).any() and not _inside(swapped, _ends(swapped)).any())


def _padded_elsewhere(missing: Array, layout: str) -> Any:
    if not _is_padded_elsewhere(missing):
        return ""
    other = "NCT" if layout == "NTC" else "NTC"
    return f' (with layout="{other}" all of it would be padding)'


def seems_swapped(data: Panel) -> bool:
    """Whether a panel read as "NTC" is more likely "NCT".

    Features outnumber the steps four times and yet, as steps do and features seldom do, each resembles its neighbour
    more than steps resemble theirs: so neither wide embeddings nor short spectrograms raise an alarm. Or, where
    features outnumber the steps at all, the missing values are just what would be padding.
    """
    if data.flat or data.layout != "NTC":
        return False
    some = list(data.select(np.arange(min(len(data), 64))).each())
    steps = sum(map(len, some)) / len(some)
    if data.features > steps and not data.ragged and _is_padded_elsewhere(np.isnan(data.x)):
        return True
    if data.features < 4 * steps:
        return False
    with np.errstate(all="ignore"):
        rows = np.concatenate(some, dtype=np.float64)
        whole = rows[~np.isnan(rows).any(axis=1)]
        if len(whole) > 2:  # then features of other scales are brought to one
            deviation = whole.std(axis=0)
            rows = (rows - whole.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
        some = np.split(rows, np.cumsum([len(a) for a in some])[:-1])
        along, across = _roughness(some, 1), _roughness(some, 0)
    return bool(along < 2 / 3 and (np.isnan(across) or 2 * along < across))


def _roughness(arrays: Any, axis: int) -> float:
    """von Neumann's ratio: mean squares of differences between neighbours, over twice the variance; 1 for noise."""
    changes, around = [], []
    for a in arrays:
        changes.append(np.diff(a, axis=axis).ravel() ** 2)
        around.append((a - a.mean(axis=axis, keepdims=True)).ravel() ** 2)
    changes, around = np.concatenate(changes), np.concatenate(around)
    changes, around = changes[~np.isnan(changes)], around[~np.isnan(around)]
    return changes.mean() / (2 * around.mean()) if changes.size and around.size else np.nan


def _where(bad: Array, start: Any, first: Any) -> Any:
    n, t, k = (int(i[0]) for i in np.nonzero(bad))
    return f"{start + n if first is None else first}, step {t}, feature {k}"


def statistics(panel: Panel, weight: Any = None, name: str = "X") -> tuple[Array, Array]:
    """Mean and standard deviation of every feature over all steps, each sequence with its weight.

    Sums run in float64, in two passes. A feature that does not vary gets the deviation 1.

    Parameters
    ----------
    panel : Panel
    weight : ndarray (n,), optional

    Returns
    -------
    mean, deviation : ndarray of float64 (F,)

    Raises
    ------
    ValueError
        If the values of a feature are so large that their squares are not finite.
    """
    weight = np.ones(len(panel)) if weight is None else np.asarray(weight, np.float64)
    total = (weight * panel.lengths).sum()
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum((w * x).sum(axis=0) for x, w in rows_of(panel, weight)) / total
        variance = sum((w * (x - mean) ** 2).sum(axis=0) for x, w in rows_of(panel, weight)) / total
    if not np.isfinite(variance).all():
        feature = int(np.flatnonzero(~np.isfinite(variance))[0])
        raise ValueError(f"{name}: the values of feature {feature} are too large to scale; divide them by a constant")
    return mean, usable(np.sqrt(variance), mean)


def rows_of(panel: Panel, weight: Any) -> Iterator[tuple[Array, Array]]:
    """(rows (S, F) in float64, weights (S, 1)) of all steps, some sequences at a time."""
    widest = max(1, int(panel.lengths.max()) * panel.features)
    step = max(1, _BLOCK // widest)
    for start in range(0, len(panel), step):
        part, lengths = panel.x[start : start + step], panel.lengths[start : start + step]
        rows = np.concatenate(part) if panel.ragged else part[np.arange(part.shape[1]) < lengths[:, None]]
        yield np.ascontiguousarray(rows, np.float64), np.repeat(weight[start : start + step], lengths)[:, None]


def affine(arrays: Any, dtype: DTypeLike) -> Any:
    """What `Sequences` scale by, from the arrays of a fitted predictor; None where those have no statistics of x."""
    if "x_scale" not in arrays:
        return None
    return arrays["x_mean"].astype(dtype), (1 / arrays["x_scale"]).astype(dtype)


def usable(deviation: Array, mean: Array) -> Any:
    """1 in place of deviations that are nothing but the rounding of the mean."""
    return np.where(deviation > 10 * np.finfo(np.float64).eps * np.abs(mean), deviation, 1.0)
