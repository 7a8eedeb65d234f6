"""Monotone transforms of the series that a forecaster learns from, and their inverses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lstmx._types import Array


NAMES = ("log", "boxcox")
FUNCTIONS = "functions"  # the name, in a configuration, of a pair that the user gave


class Transform:
    """What happens to series before they are differenced, and to forecasts at the end.

    Parameters
    ----------
    name : {None, "log", "boxcox", "functions"}
    powers : ndarray (series, O), optional
        Of "boxcox": y**power, and log(y) where it is 0. The transform of Box and Cox is that but for a shift and a
        factor, which scaling takes out, and without those small numbers lose no digits.
    functions : (function, inverse), optional
        Of "functions": of arrays (n,), element by element.
    """

    powers: Any
    functions: Any

    def __init__(
        self,
        name: str | None,
        powers: Array | None = None,
        functions: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
    ) -> None:
        self.name, self.powers, self.functions = name, powers, functions

    def for_series(self, series: Sequence[Array]) -> Transform:
        """The same of other series, each (T, O) with powers of its own."""
        if self.name != "boxcox":
            return self
        powers = np.array([[likeliest(v) for v in a.T] for a in series])
        return Transform(self.name, powers)

    def forward(self, y: Array, k: int, label: str, step: int = 0) -> Array:
        """The transformed y (T, O) of series k; errors call it `label` and count from `step`."""
        if self.name is None:
            return y
        if self.name == FUNCTIONS:
            found = self._call(0, y)
            bad = ~np.isfinite(found)
            if bad.any():
                t, o = np.argwhere(bad)[0]
                raise ValueError(f"{label}: transform gives {found[t, o]} for {y[t, o]:g} at step {t + step}; give a "
                                 "function that is finite there, or leave such values out")  # fmt: skip
            return found
        bad = y <= 0
        if bad.any():
            t, o = np.argwhere(bad)[0]
            which = f", variable {o}" if y.shape[1] > 1 else ""
            raise ValueError(f"{label}: got {y[t, o]:g} at step {t + step}{which}, must be above 0 for transform="
                             f"{self.name!r}; add a constant to all, or take (np.log1p, np.expm1) or None")  # fmt: skip
        if self.name == "log":
            return np.log(y)
        power = self.powers[k]
        return np.where(power == 0, np.log(y), y**power)

    def inverse(self, z: Array) -> Array:
        """What was transformed to z (series, .., O)."""
        if self.name is None:
            return z
        if self.name == FUNCTIONS:
            found = self._call(1, z)
            lost = np.isnan(found) & ~np.isnan(z)
            if lost.any():
                raise ValueError(f"transform: its inverse gives NaN for {z[lost][0]:g}, to which a forecast has come; "
                                 "give one that is defined for all numbers")  # fmt: skip
            return found
        if self.name == "log":
            return np.exp(z)
        power = self.powers.reshape(len(z), *[1] * (z.ndim - 2), -1)
        with np.errstate(over="ignore"):  # of what `where` does not take
            return np.where(power == 0, np.exp(z), np.maximum(z, 0) ** (1 / np.where(power == 0, 1, power)))

    def bounds(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """What was transformed to (lower, upper), the less first: a decreasing function changes their places."""
        lower, upper = self.inverse(lower), self.inverse(upper)
        return (lower, upper) if self.name is None else (np.minimum(lower, upper), np.maximum(lower, upper))

    def check(self, y: Array, z: Array, label: str) -> None:
        """Raise ValueError unless the pair of functions is monotone on y, which gave z, and its inverse undoes it."""
        back = self._call(1, z)
        worst = np.abs(back - y) / np.maximum(np.abs(y), max(np.abs(y).mean(), np.finfo(np.float64).tiny))
        if not (worst <= 1e-6).all():  # NaN is none either
            t, o = np.unravel_index(np.argmax(np.nan_to_num(worst, nan=np.inf)), y.shape)
            raise ValueError(f"transform: its inverse gives {back[t, o]:g} for {y[t, o]:g} at step {t} of {label}; "
                             "give a function and its inverse, such as (np.log1p, np.expm1)")  # fmt: skip
        steps = np.diff(np.take_along_axis(z, np.argsort(y, axis=0), axis=0), axis=0)
        rounding = 1e-9 * np.ptp(z, axis=0)
        if not ((steps >= -rounding).all() or (steps <= rounding).all()):
            raise ValueError(f"transform: neither rises nor falls all along the values of {label}, so that bounds have "
                             "no meaning; give a monotone function")  # fmt: skip

    def _call(self, which: int, values: Array) -> Array:
        flat = values.flatten()  # a copy, which the function may change
        found = np.asarray(self.functions[which](flat), np.float64)
        if found.shape != (values.size,):
            raise ValueError(f"transform: its {('function', 'inverse')[which]} gave shape {found.shape} for "
                             f"({values.size},); give functions that work element by element")  # fmt: skip
        return found.reshape(values.shape)


def likeliest(values: Array) -> float:
    """The power, from 0 to 1 in steps of 0.01, that makes positive values most like a normal sample."""
    if values.min() <= 0 or np.ptp(values) == 0:
        return 1.0  # the former is an error soon
    logs = np.log(values)
    powers = np.arange(101) / 100
    likelihoods = [p * logs.sum() - len(values) / 2 * np.log(_curved(logs, p).var()) for p in powers]
    return float(powers[np.argmax(likelihoods)])


def _curved(logs: Array, power: float) -> Array:
    """The transform of Box and Cox of numbers whose logarithms are given."""
    return logs if power == 0 else np.expm1(power * logs) / power


def names_of(functions: Iterable[Callable[..., Any]]) -> str:
    """The names of functions, for messages."""
    return ", ".join(getattr(f, "__name__", type(f).__name__) for f in functions)
