"""What the adapters to neighbours of scikit-learn share."""

from __future__ import annotations

from typing import Any


def unfitted(estimator: Any, default: type[Any], **fixed: Any) -> Any:
    """Another estimator with the same parameters, but for those fixed; None is one as it comes."""
    estimator = default() if estimator is None else estimator
    if not isinstance(estimator, default):
        raise TypeError(f"estimator: got {type(estimator).__name__}, must be an lstmx.{default.__name__}, such as "
                        f"lstmx.{default.__name__}(hidden_size=32)")  # fmt: skip
    return type(estimator)(**estimator.get_params(deep=False) | fixed)
