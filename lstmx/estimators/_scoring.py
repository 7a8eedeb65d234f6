"""Scores that scikit-learn knows by name."""

from sklearn.metrics import get_scorer


def named_scorer(name):
    """A callable (estimator, X, y, sample_weight=None) -> float, the greater the better."""
    try:
        return get_scorer(name)
    except ValueError as error:
        raise ValueError(f"scoring: {error}") from None
