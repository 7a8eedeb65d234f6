"""Bounds of forecasts from the errors that were made on windows held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.functional.messages import warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from lstmx._types import Array


def bounds(errors: Array, coverage: float) -> tuple[Array, Array]:
    """(lower, upper), each (horizon, O), of errors (n, horizon, O)."""
    count = len(errors)
    if not count:
        raise ValueError("method: no window was followed by the whole horizon of fit, so its errors are not known; "
                         'use method="paths", or fit to longer series or with early_stopping=True')  # fmt: skip
    few = too_few(count, coverage)
    place = max(int((count + 1) * (1 - coverage) / 2 + 1e-9), 1)
    ordered = np.sort(errors, axis=0)
    lower, upper = ordered[place - 1], ordered[count - place]
    if few:
        steps = np.arange(1, errors.shape[1] + 1)[:, None]
        factor = _t_quantile(_apart(count, steps), coverage)
        half = factor * np.sqrt(_rising(np.mean(errors**2, axis=0)))
        lower, upper = np.minimum(lower, -half), np.maximum(upper, half)
    return lower, upper


def too_few(count: int, coverage: float) -> bool:
    """Whether so few errors cannot bound such a share; if so, warn of what is done."""
    need = int(np.ceil(2 / (1 - coverage) - 1e-9)) - 1
    if count < need:
        warn(
            f"coverage: {coverage:g} needs the errors of {need} windows or more, there are {count}: the bounds are "
            "those of a Student t distribution with the scale of these errors, not quantiles of them. Fit to longer "
            "series, or raise validation_fraction"
        )
    return count < need


def _apart(count: int, steps: Array) -> Array:
    """How many of `count` windows in a row are followed by stretches of `steps` that do not overlap, with fractions."""
    return (count + steps - 1) / steps


def _t_quantile(degrees: Array, coverage: float) -> Array:
    """The bound that the absolute value of Student's t of >= 1 `degrees` of freedom keeps with probability `coverage`.

    With t = sqrt(degrees) tan(a) the density of a is proportional to cos(a)**(degrees - 1).
    """
    angles = np.linspace(0, np.pi / 2, 20001)
    out = np.empty(np.shape(degrees))
    for place, d in np.ndenumerate(degrees):
        density = np.maximum(np.cos(angles), 0) ** (d - 1)
        below = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
        out[place] = np.sqrt(d) * np.tan(np.interp(coverage, below / below[-1], angles))
    return out


def _rising(values: Array) -> Array:
    """The values (n, O) that do not fall along the first axis and are nearest, by squares: isotonic regression."""
    out = np.empty_like(values)
    for o, column in enumerate(values.T):
        runs: list[tuple[Any, int]] = []  # (mean, length); one that is less than the one before is joined with it
        for value in column:
            runs.append((value, 1))
            while len(runs) > 1 and runs[-2][0] > runs[-1][0]:
                (a, m), (b, n) = runs[-2:]
                runs[-2:] = [((a * m + b * n) / (m + n), m + n)]
        out[:, o] = np.repeat(*zip(*runs, strict=True))  # type: ignore[call-overload]
    return out


def student(errors: Array, rng: np.random.Generator, paths: int) -> Callable[[int], Array]:
    """A function that draws, block by block, errors for so many paths: normal with the second moments of `errors`.

    Each path has them times a factor, as in a t distribution: what so few errors leave open about their scale.
    """
    degrees = _apart(len(errors), np.arange(1, errors.shape[1] + 1))
    more = rng.gamma(-np.diff(degrees, append=0) / 2, 2, size=(paths, len(degrees)))
    chi_squared = np.cumsum(more[:, ::-1], axis=1)[:, ::-1]
    factor = np.sqrt(degrees / chi_squared)[..., None]

    def draw(count: int) -> Array:
        weights = rng.normal(size=(count, len(errors))) / np.sqrt(len(errors))
        return factor * np.einsum("cn,nbo->cbo", weights, errors)

    return draw
