"""Predictions for Dask arrays, whose chunks along the first axis are the partitions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np

from lstmx.distributed import _models
from lstmx.model import Sequential
from lstmx.predictors import Forecaster

if TYPE_CHECKING:
    from lstmx._types import Array, DType, Shape


@dataclass(frozen=True)
class _Plan:
    """What a block is, and what comes of it: arrays (n, *given) of which arrays (n, *tail) are made."""

    call: _models.Call
    given: Shape
    tail: Shape
    dtype: DType
    lengths: bool


def predict(model: Any, sent: Any, call: _models.Call, x: Any, lengths: Any) -> Any:
    """The results of an array; `sent` is the `_models.Packed` model, delayed."""
    _check(model, x)
    more = [] if lengths is None else [_read_lengths(model, lengths, x)]
    tail, dtype = _outline(model, call, x)
    plan = _Plan(call, x.shape[1:], tail, dtype, bool(more))
    return dask.array.map_blocks(
        predict_block, x, *more, sent, plan, dtype=dtype,
        drop_axis=list(range(1, x.ndim)), new_axis=list(range(1, 1 + len(tail))),
        chunks=(x.chunks[0], *((size,) for size in tail)), meta=np.empty((0,) * (1 + len(tail)), dtype),
    )  # fmt: skip


def _check(model: Any, x: Any) -> None:
    if isinstance(model, Sequential) and x.ndim == 2 and model.embedding is None:
        raise ValueError(f"collection: got shape {x.shape}, must be (N, T, {model.input_size}); one sequence is "
                         "x[None], series of one feature are x[:, :, None]")  # fmt: skip
    if x.ndim not in (2, 3):
        raise ValueError(f"collection: got shape {x.shape}, must be (N, T, I), or (N, T) where the model takes it")
    if any(map(math.isnan, x.shape[1:])):
        raise ValueError(f"collection: got shape {x.shape}, of which only the first may be unknown; find the others by "
                         "x.compute_chunk_sizes()")  # fmt: skip
    if any(count > 1 for count in x.numblocks[1:]):
        whole = ", ".join(f"{axis}: -1" for axis in range(1, x.ndim))
        raise ValueError(f"collection: got {x.numblocks} chunks, must be one along all axes but the first, as a "
                         f"sequence is read as a whole; write x.rechunk({{{whole}}})")  # fmt: skip


def _read_lengths(model: Any, lengths: Any, x: Any) -> Any:
    """Lengths as a Dask array (N, 1, ..) in the chunks of x."""
    if not isinstance(model, Sequential):
        raise ValueError(f"lengths: a {type(model).__name__} takes none; fill what is behind each end with NaN, or "
                         "give a bag of sequences (T_n, I)")  # fmt: skip
    known = not math.isnan(x.shape[0])
    if not isinstance(lengths, dask.array.Array):
        if not known:
            raise ValueError("lengths: got an array, but the chunks of the collection have unknown sizes; give a Dask "
                             "array with the same chunks, or find the sizes by x.compute_chunk_sizes()")  # fmt: skip
        lengths = dask.array.from_array(np.asarray(lengths), chunks=-1)
    both = known and not any(map(math.isnan, lengths.shape))
    if lengths.ndim != 1 or (both and lengths.shape != x.shape[:1]) or lengths.dtype.kind not in "iu":
        raise ValueError(f"lengths: got {lengths.dtype} {lengths.shape}, must be integers (N,) = {x.shape[:1]}")
    if both:
        lengths = lengths.rechunk((x.chunks[0],))
    elif lengths.numblocks[0] != x.numblocks[0]:
        raise ValueError(f"lengths: got {lengths.numblocks[0]} chunks, must be {x.numblocks[0]}, as the collection "
                         "has, since the sizes of chunks are unknown")  # fmt: skip
    return lengths.reshape(-1, *(1,) * (x.ndim - 1)) if both else lengths[(slice(None), *(None,) * (x.ndim - 1))]


def _outline(model: Any, call: _models.Call, x: Any) -> tuple[Shape, DType]:
    """(shape of the result of one sequence, type) of what a model gives for sequences as in x: found with one."""
    if isinstance(model, Forecaster):
        features, own = (1 if x.ndim == 2 else x.shape[2]), model.config["features"]
        if features != own:
            raise ValueError(f"collection: got {features} variables, must be {own}, as in fit")
        return (call.horizon, *(() if model.config["single"] else (own,))), model.dtype
    with _models.named("collection"):
        found = call(model, np.zeros((1, *x.shape[1:]), x.dtype))
    return found.shape[1:], found.dtype


def predict_block(x: Array, *rest: Any, block_id: tuple[int, ...] = ()) -> Array:
    """The results of one chunk."""
    *lengths, packed, plan = rest
    with _models.named(f"partition {block_id[0]}"):
        if x.shape[1:] != plan.given:
            raise ValueError(f"X: got shape {x.shape}, must be (n, {', '.join(map(str, plan.given))}), as the Dask "
                             "array says of its chunks")  # fmt: skip
        if len(x) == 0:
            return np.empty((0, *plan.tail), plan.dtype)
        model = _models.unpack(packed)
        found = plan.call(model, x, lengths[0].reshape(-1) if plan.lengths else None)
        if isinstance(model, Forecaster):
            found = np.stack(found)
        if isinstance(found, list):
            raise ValueError(f"X: holds padding, for which {plan.call.method} gives nothing, so that the results have "
                             'lengths of their own; call method="predict_proba", whose results are NaN there, or give '
                             "a bag of sequences (T_n, I)")  # fmt: skip
        return found
