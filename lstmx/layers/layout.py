"""How much memory a model takes, told before it is run: whole, and in segments of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lstmx.functional import segments
from lstmx.functional.segments import PYTHON
from lstmx.layers.simple import Embedding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lstmx.functional.segments import Plan
    from lstmx.layers.base import Layer


def widths(layers: Sequence[Layer], features: Any) -> list[Any]:
    """Features before the first layer and after each of them; None before an Embedding."""
    found = [features]
    for layer in layers:
        features = layer.output_size(features)
        found.append(features)
    return found


def training(model: Any, batch: int, steps: int) -> int:
    """Bytes that an update takes on N sequences of T steps, beside the parameters, their gradient and their moments."""
    size, rows = model.dtype.itemsize, batch * steps
    features = widths(model.layers, model.input_size)
    total = PYTHON + rows * (8 if model.embedding else model.input_size * size)
    pooled = False
    for layer, inputs, outputs in zip(model.layers, features, features[1:], strict=False):
        first = batch if pooled else rows
        total += layer.room(batch, first, 1 if pooled else steps, inputs, size)
        pooled = pooled or layer.per_sequence
        total += (batch if pooled else rows) * outputs * 2 * size  # y and dy
    last = batch if pooled else rows
    return total + last * (2 * features[-1] + 2) * size + (64 * rows if model.layers[0].masks else 0)  # of the loss


def inference(model: Any, batch: int, steps: int) -> int:
    """Bytes that a prediction takes on N sequences of T steps."""
    size, rows = model.dtype.itemsize, batch * steps
    features = widths(model.layers, model.input_size)
    found, pooled = [], False
    for layer, inputs, outputs in zip(model.layers, features, features[1:], strict=False):
        before = (batch if pooled else rows) * (inputs * size if inputs else 8)
        pooled = pooled or layer.per_sequence
        inner = layer.memory(batch, steps) if hasattr(layer, "memory") else 0
        found.append(before + inner + 2 * (batch if pooled else rows) * outputs * size)
    return PYTHON + max(found) + (64 * rows if model.layers[0].masks else 0)


def segmented(model: Any, batch: int, longest: int, steps: int) -> int:
    """As `training`, in segments of so many steps: one of them, the states between, and what is kept of all."""
    size, rows = model.dtype.itemsize, batch * longest
    features = widths(model.layers, model.input_size)
    states = sum(layer.state_width(width or 0) for layer, width in zip(model.layers, features, strict=False))
    kept = (-(-longest // steps) + 2) * batch * (states * size + 16)
    if isinstance(model.layers[0], Embedding):  # its rows' gradients are added up at the end
        kept += model.layers[0].room(batch, rows, longest, 0, size) + rows * features[1] * size
    return training(model, batch, min(steps, longest)) + kept + (64 * rows if model.layers[0].masks else 0)


def plan(model: Any, batch: int, longest: int, budget: int) -> tuple[Plan | None, Plan]:
    """The longest segments with which an update keeps to a budget of bytes, as `segments.plan` gives them."""
    return segments.plan(
        batch, longest, budget, training(model, batch, longest), lambda steps: segmented(model, batch, longest, steps)
    )


def message(batch: int, longest: int, budget: int, least: Plan) -> str:
    """Why a budget cannot be kept."""
    return (
        f"memory: got {budget:,} bytes, but a batch of {batch} sequences of {longest} steps takes at least "
        f"{least.size:,}; give as much, or a smaller batch_size"
    )
