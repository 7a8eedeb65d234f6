"""What transformers of sequences give after ``set_output``: frames with the names of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn import get_config
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from lstmx._types import Array


class SequenceOutputMixin:
    """`transform` and `fit_transform` of a class that has ``_transformed(X)``, arrays in the form of X.

    scikit-learn's own would make one frame of all that it is given. It wraps no methods but those of a transformer
    class, which this is not.
    """

    def transform(self, X: Any) -> Any:
        """Sequences in the form, layout and type of X.

        Parameters
        ----------
        X : as in `fit`

        Returns
        -------
        array or list
            NaN is left where an array is padded. After ``set_output(transform="pandas")``, or "polars", a table (n, T)
            comes as a frame and a list of sequences as a list of frames, whose columns are `get_feature_names_out` (of
            the layout "NCT" rows); a 3-D array stays an array.
        """
        check_is_fitted(self)
        found = self._transformed(X)
        library = getattr(self, "_sklearn_output_config", {}).get("transform", get_config()["transform_output"])
        if library == "default":
            return found
        names = self.get_feature_names_out()
        if not isinstance(found, list):
            return found if found.ndim > 2 else _frame(library, found, X, names)
        if self.layout == "NCT" and found[0].ndim > 1:
            return [_frame(library, a, x, None, names) for a, x in zip(found, X, strict=True)]
        return [_frame(library, a.reshape(len(a), -1), x, names) for a, x in zip(found, X, strict=True)]

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """`fit`, then `transform` of the same X."""
        return self.fit(X, y, **fit_params).transform(X)


def _frame(library: str, values: Array, given: Any, columns: Any, index: Any = None) -> Any:
    """A DataFrame of values (rows, columns), with the index of what was given if that is a frame of pandas."""
    if library == "polars":
        import polars

        return polars.DataFrame(values, schema=None if columns is None else list(columns), orient="row")
    import pandas

    if index is None and hasattr(given, "iloc"):
        index = given.index
    return pandas.DataFrame(values, index, columns)
