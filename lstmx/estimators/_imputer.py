"""SequenceImputer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lstmx import predictors
from lstmx.data import missing, panel
from lstmx.estimators._input import is_table, learnt_means, read_X
from lstmx.estimators._notes import FileMixin
from lstmx.estimators._output import SequenceOutputMixin
from lstmx.estimators._saving import to_step
from lstmx.functional import validate
from lstmx.functional.messages import explained

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lstmx._types import Array, Config


class SequenceImputer(OneToOneFeatureMixin, SequenceOutputMixin, TransformerMixin, FileMixin, BaseEstimator):
    """Fill missing values (NaN) of sequences along time.

    scikit-learn's imputers and scalers refuse 3-D arrays and lists, and take the columns of a table (n, T) for features
    where they are steps. Results have the form, layout and type of the input, or are frames after `set_output`.

    In an array, NaN at the end of a sequence in all features is padding and stays; where one feature is still there it
    is a gap. In a list every sequence ends where its array ends, so that nothing is padding and all NaN is filled.

    Parameters
    ----------
    strategy : {"linear", "forward", "mean", "constant"}
        "linear" draws a straight line between the values beside a gap, and repeats the nearest value before the first
        and behind the last one. "forward" repeats the last value, and looks at nothing later: for data that will
        arrive step by step. Gaps with nothing to go by, at the start for "forward" and of a feature that a whole
        sequence lacks, become the mean of that feature in the training data; with "mean" all gaps do. "constant" fills
        `fill_value` in.
    fill_value : float
        For "constant" alone.
    add_indicator : bool
        Whether to append a feature of 0 and 1 for each feature that had missing values in training (as SimpleImputer
        does), which says where it was filled. A table (n, T) becomes (n, T, 2) then.
    layout : {"NTC", "NCT"}
        Whether features come last or, as in aeon and sktime, before time.

    Attributes
    ----------
    statistics_ : ndarray of float64 (F,)
        The means, or `fill_value`. 0, with a warning, where training had no value.
    indicator_features_ : ndarray of int
        Those that indicators are appended for, in this order; without ``add_indicator`` none.
    n_features_in_ : int
        F; for (n, T) data T.

    See Also
    --------
    LSTMAnomalyDetector : with ``missing="impute"`` it does not count imputed values as errors.

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx import SequenceImputer
    >>> X = [np.array([[1.0, 10], [np.nan, 20], [3, np.nan]]), np.array([[np.nan, 40.0]])]
    >>> SequenceImputer().fit_transform(X)[0]
    array([[ 1., 10.],
           [ 2., 20.],
           [ 3., 20.]])
    >>> SequenceImputer("forward", add_indicator=True).fit_transform(X)[1]
    array([[ 2., 40.,  1.,  0.]])

    Before any estimator that takes sequences:

    >>> from lstmx import LSTMClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> pipe = make_pipeline(SequenceImputer(add_indicator=True), LSTMClassifier())
    """

    @explained
    def __init__(
        self, strategy: str = "linear", *, fill_value: float = 0.0, add_indicator: bool = False, layout: str = "NTC"
    ) -> None:
        self.strategy = strategy
        self.fill_value = fill_value
        self.add_indicator = add_indicator
        self.layout = layout

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = tags.input_tags.three_d_array = tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @explained
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn the means, and which features have missing values.

        Parameters
        ----------
        X : array (n, T, F), list of n arrays (T_i, F), or array or frame (n, T) of one feature
        y : ignored

        Returns
        -------
        self
        """
        validate.choice("strategy", self.strategy, missing.STRATEGIES)
        validate.number("fill_value", self.fill_value)
        validate.flag("add_indicator", self.add_indicator)
        validate.choice("layout", self.layout, panel.LAYOUTS)
        data = read_X(self, X, self.layout, gaps=True)
        constant = self.strategy == "constant"
        self.statistics_ = np.full(data.features, float(self.fill_value)) if constant else learnt_means(data)
        lacking = np.zeros(data.features, bool)
        for x in data.each() if self.add_indicator else ():
            lacking |= np.isnan(x).any(axis=0)
        self.indicator_features_ = np.flatnonzero(lacking)
        self._form = {"features": data.features, "steps": data.x.shape[1] if is_table(data) else None}
        return self

    def _transformed(self, X: ArrayLike) -> Any:
        return to_step(self).transform(read_X(self, X, self.layout, fitted=self._form, gaps=True))

    def _stored(self) -> Any:
        return to_step(self)

    def _private(self) -> Config:
        return {"form": self._form}

    def _restore(self, stored: Any, private: Config) -> None:
        self._form = private["form"]

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Names of features: those of X, then ``"missingindicator_"`` and the name of each that has an indicator.

        Parameters
        ----------
        input_features : array of str, optional
            Those of X where it has none itself.

        Returns
        -------
        ndarray of str
        """
        names = super().get_feature_names_out(input_features)
        if not len(self.indicator_features_):
            return names
        if self._form["steps"] is not None:  # steps have become one feature
            names = np.array(["x0"], object)
        return np.append(names, [f"missingindicator_{name}" for name in names[self.indicator_features_]])


@to_step.register
def _(imputer: SequenceImputer) -> predictors.Imputer:
    check_is_fitted(imputer)
    config = {"features": imputer._form["features"], "layout": imputer.layout, "strategy": imputer.strategy,
              "indicators": imputer.indicator_features_.tolist()}  # fmt: skip
    return predictors.Imputer(config, {"values": imputer.statistics_})
