"""LossCurveDisplay."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from lstmx.plots import pyplot, whole_numbers


class LossCurveDisplay:
    """Loss, and score on held-out data, of every epoch; made by `from_estimator`.

    Parameters
    ----------
    loss_curve : list of float
    validation_loss_curve, validation_scores : list of float, optional
    estimator_name : str, optional

    Attributes
    ----------
    ax_ : matplotlib Axes
        Of the losses.
    score_ax_ : matplotlib Axes or None
        Of the validation scores, on the right.
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx import LossCurveDisplay, LSTMRegressor
    >>> X = np.random.default_rng(0).normal(size=(40, 8, 1))
    >>> reg = LSTMRegressor(hidden_size=4, max_iter=5, n_iter_no_change=np.inf, tol=0, random_state=0)
    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):
    ...     reg = reg.fit(X, X.sum(axis=(1, 2)))
    >>> display = LossCurveDisplay.from_estimator(reg)
    >>> len(display.lines_[0].get_xdata())
    5
    """

    lines_: list[Any]

    def __init__(
        self,
        loss_curve: list[float],
        *,
        validation_loss_curve: list[float] | None = None,
        validation_scores: list[float] | None = None,
        estimator_name: str | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_loss_curve = validation_loss_curve
        self.validation_scores = validation_scores
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(cls, estimator: Any, *, name: str | None = None, ax: Any = None, **line_kw: Any) -> Self:
        """Draw the curves of a fitted estimator.

        Parameters
        ----------
        estimator : a fitted lstmx estimator
        name : str, optional
            Instead of the name of its class.
        ax : matplotlib Axes, optional
        **line_kw
            For the lines.

        Returns
        -------
        LossCurveDisplay
        """
        if not hasattr(type(estimator), "model_"):
            raise TypeError(f"estimator: got {type(estimator).__name__}, must be an estimator of lstmx that trains; "
                            "of a pipeline give the last step, pipe[-1]")  # fmt: skip
        check_is_fitted(estimator)
        display = cls(
            estimator.loss_curve_,
            validation_loss_curve=estimator.validation_loss_curve_,
            # The score of those without labels is minus the loss, which is drawn already.
            validation_scores=estimator.validation_scores_ if hasattr(estimator, "n_outputs_") else None,
            estimator_name=type(estimator).__name__ if name is None else name,
        )
        return display.plot(ax=ax, **line_kw)

    def plot(self, ax: Any = None, *, name: str | None = None, **line_kw: Any) -> Self:
        """Draw; parameters as in `from_estimator`."""
        ax = pyplot().subplots(layout="constrained")[1] if ax is None else ax
        name = self.estimator_name if name is None else name
        self.ax_, self.figure_, self.score_ax_, self.lines_ = ax, ax.figure, None, []
        curves = [("training loss", self.loss_curve), ("validation loss", self.validation_loss_curve)]
        for label, curve in curves:
            if curve:
                self._draw(ax, curve, label, line_kw)
        if self.validation_scores:
            self.score_ax_ = ax.twinx()
            line_kw = {"color": "0.25", "linestyle": "--"} | line_kw
            self._draw(self.score_ax_, self.validation_scores, "validation score", line_kw)
            self.score_ax_.set_ylabel("score")
        ax.set(xlabel="epoch", ylabel="loss", title=name)
        whole_numbers(ax.xaxis)
        # "best" does not look at the lines of the other axis; both kinds of curve are flat at their ends.
        ax.legend(handles=self.lines_, loc="center right" if self.validation_scores else "best")
        return self

    def _draw(self, ax: Any, curve: list[float], label: str, line_kw: dict[str, Any]) -> None:
        line_kw = {"marker": "o" if len(curve) == 1 else None} | line_kw
        self.lines_ += ax.plot(np.arange(1, len(curve) + 1), curve, label=label, **line_kw)
