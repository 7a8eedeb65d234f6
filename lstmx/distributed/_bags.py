"""Predictions for Dask bags of sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.bag
import numpy as np

from lstmx.distributed import _models

if TYPE_CHECKING:
    from collections.abc import Iterable


def predict(sent: Any, call: _models.Call, bag: Any) -> Any:
    """A bag with the result of each sequence; `sent` is the `_models.Packed` model, delayed."""
    numbers = dask.bag.from_sequence(range(bag.npartitions), npartitions=bag.npartitions)
    return bag.map_partitions(predict_items, numbers, sent, call)


def predict_items(items: Iterable[Any], number: Iterable[int], packed: _models.Packed, call: _models.Call) -> list[Any]:
    """The results of one partition."""
    with _models.named(f"partition {next(iter(number))}"):
        sequences = [item if hasattr(item, "columns") else np.asarray(item) for item in items]
        return list(call(_models.unpack(packed), sequences)) if sequences else []
