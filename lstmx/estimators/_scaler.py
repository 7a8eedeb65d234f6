"""SequenceScaler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lstmx import predictors
from lstmx.data import panel
from lstmx.estimators._input import is_table, read_weight, read_X, weighed
from lstmx.estimators._notes import FileMixin
from lstmx.estimators._output import SequenceOutputMixin
from lstmx.estimators._saving import to_step
from lstmx.functional import validate
from lstmx.functional.messages import explained

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lstmx._types import Config


class SequenceScaler(OneToOneFeatureMixin, SequenceOutputMixin, TransformerMixin, FileMixin, BaseEstimator):
    """Scale every feature to mean 0 and deviation 1 over all steps of all sequences, whatever their lengths.

    Results have the form, layout and type of the input, or are frames after `set_output`; NaN at the end is padding and
    stays, and elsewhere an error: `SequenceImputer` fills it. The estimators of lstmx scale by themselves
    (``standardize``): use this where others need scaled sequences, as scikit-learn's StandardScaler refuses 3-D arrays
    and lists.

    Parameters
    ----------
    with_mean, with_std : bool
        Whether to shift, and whether to scale.
    layout : {"NTC", "NCT"}
        Whether features come last or, as in aeon and sktime, before time.

    Attributes
    ----------
    mean_, scale_ : ndarray of float64 (F,) or None
    n_features_in_ : int
        F; for (n, T) data T.

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx import SequenceScaler
    >>> X = [np.array([[1.0, 10], [3, 30]]), np.array([[2.0, 20]])]
    >>> scaler = SequenceScaler().fit(X)
    >>> scaler.mean_
    array([ 2., 20.])
    >>> scaler.transform(X)[0].round(3)
    array([[-1.225, -1.225],
           [ 1.225,  1.225]])
    >>> scaler.inverse_transform(scaler.transform(X))[1]
    array([[ 2., 20.]])
    """

    @explained
    def __init__(self, *, with_mean: bool = True, with_std: bool = True, layout: str = "NTC") -> None:
        self.with_mean = with_mean
        self.with_std = with_std
        self.layout = layout

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @explained
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Find mean and deviation.

        Parameters
        ----------
        X : array (n, T, F), list of n arrays (T_i, F), or array or frame (n, T) of one feature
        y : ignored
        sample_weight : array (n,), optional
            Of the sequences; those of weight 0 are left out.

        Returns
        -------
        self
        """
        validate.flag("with_mean", self.with_mean)
        validate.flag("with_std", self.with_std)
        validate.choice("layout", self.layout, panel.LAYOUTS)
        data = read_X(self, X, self.layout)
        mean, scale = panel.statistics(*weighed(data, read_weight(sample_weight, len(data)))[1:])
        self.mean_ = mean if self.with_mean else None
        self.scale_ = scale if self.with_std else None
        self._form = {"features": data.features, "steps": data.x.shape[1] if is_table(data) else None}
        return self

    def _transformed(self, X: ArrayLike) -> Any:
        return to_step(self).transform(read_X(self, X, self.layout, fitted=self._form))

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Sequences in the original units, in the form of X."""
        return to_step(self).inverse_transform(read_X(self, X, self.layout, fitted=self._form))

    def _stored(self) -> Any:
        return to_step(self)

    def _private(self) -> Config:
        return {"form": self._form}

    def _restore(self, stored: Any, private: Config) -> None:
        self._form = private["form"]


@to_step.register
def _(scaler: SequenceScaler) -> predictors.Scaler:
    check_is_fitted(scaler)
    arrays = {"mean": scaler.mean_, "scale": scaler.scale_}
    config = {"features": scaler._form["features"], "layout": scaler.layout, "with_mean": scaler.mean_ is not None,
              "with_std": scaler.scale_ is not None}  # fmt: skip
    return predictors.Scaler(config, {name: a for name, a in arrays.items() if a is not None})
