"""Scores that scikit-learn knows by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sklearn.metrics import get_scorer

if TYPE_CHECKING:
    from collections.abc import Callable


def named_scorer(name: str) -> Callable[..., float]:
    """A callable (estimator, X, y, sample_weight=None) -> float, the greater the better."""
    try:
        return get_scorer(name)
    except ValueError as error:
        raise ValueError(f"scoring: {error}") from None
