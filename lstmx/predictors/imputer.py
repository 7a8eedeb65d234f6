"""Filling of missing values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lstmx.data import missing, panel
from lstmx.functional import validate
from lstmx.predictors.base import FINITE, Predictor, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

    from lstmx._types import Array, ArrayShape, Config


class Imputer(Step):
    """What a SequenceImputer has learnt.

    `config` holds ``features``, ``layout``, ``strategy``, and ``indicators``, the features that one of 0 and 1 is
    appended for.
    """

    fields: ClassVar[tuple[str, ...]] = ("features", "layout", "strategy", "indicators")

    @property
    def takes(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """(features, None)."""
        return self.config["features"], None

    @property
    def gives(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """(features with their indicators, None)."""
        return self.config["features"] + len(self.config["indicators"]), None

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        features, indicators = validate.count("features", config["features"]), config["indicators"]
        validate.choice("layout", config["layout"], panel.LAYOUTS)
        validate.choice("strategy", config["strategy"], missing.STRATEGIES)
        if not isinstance(indicators, list) or len(indicators) > features:
            raise ValueError("indicators: must be a list of features")
        for before, k in zip([-1, *indicators], indicators, strict=False):
            if not before < validate.count("indicators", k, 0) < features:
                raise ValueError(f"indicators: got {k}, must be features below {features}, in order")

    @classmethod
    def own_shapes(cls, config: Config) -> Iterable[ArrayShape]:
        yield "values", (config["features"],), "float64", FINITE

    def read(self, X: ArrayLike | panel.Panel) -> panel.Panel:
        """A `panel.Panel` of X, in which values may be missing; X itself if it is one."""
        return Predictor.read(self, X, gaps=True)

    def transform(self, X: ArrayLike) -> Array | Any:
        """Sequences without missing values, in the form of X; NaN is left where an array is padded."""
        data, indicators = self.read(X), self.config["indicators"]
        filled = missing.fill_panel(data, self.config["strategy"], self.arrays["values"])
        pairs = zip(filled.each(), filled.each_missing(), strict=True)
        return data.give([np.concatenate([x, gaps[:, indicators]], axis=1, dtype=x.dtype) for x, gaps in pairs])  # type: ignore[index]
