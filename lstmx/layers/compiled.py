"""A model on plain arrays in inference: its layers compiled, for whole sequences and for streams."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from lstmx.functional.engine import get_engine
from lstmx.layers.base import snapshots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lstmx._types import State
    from lstmx.layers.base import Layer


class CompiledLayers:
    """The layers of a model as they are at one moment.

    Attributes
    ----------
    parameters : list of Snapshot
    calls : list of callable or None
        What each layer is on whole arrays (see `Layer.compiled`); None if one has no such call.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.parameters, calls, directions = snapshots(layers), [], 1
        for layer, parameters in zip(layers, self.parameters, strict=True):
            calls.append(layer.compiled(parameters, directions))
            directions = getattr(layer, "directions", directions)
        self.calls: Any = None if None in calls else calls
        self._layers = [(layer, layer.store, own) for layer, own in zip(layers, self.parameters, strict=True)]

    def are_current(self) -> bool:
        """Whether no layer has had other parameters since."""
        for _, store, parameters in self._layers:  # noqa: SIM110 - in a step of microseconds a generator would count
            if store.snapshot is not parameters:
                return False
        return True

    def run(self, x: Any) -> Any:
        """Outputs for whole sequences (N, T, F); None where a call takes other arguments."""
        if self.calls is None or 0 in x.shape:
            return None
        for call in self.calls:
            x = call(x)
            if x is None:
                return None
        return x

    @functools.cached_property
    def program(self) -> Any:
        """The compiled `Program` of all layers, for streams; None where a layer cannot be part of one."""
        return self._program(False)

    @functools.cached_property
    def program_of_last(self) -> Any:
        """As `program`, with the outputs of the last step that it is given alone."""
        return self._program(True)

    def _program(self, last: bool) -> Any:
        parts, dtype, end = [], None, 0
        features = ends = next((layer.input_size for layer, *_ in self._layers if layer.input_size is not None), None)
        for layer, _, parameters in self._layers:
            parts.append(layer.program_part(parameters, features))
            if parts[-1] is None:
                return None
            features = layer.output_size(features)
            dtype = layer.dtype if parameters.arrays else dtype
            last = last and not layer.per_sequence
            if parts[-1] and parts[-1][0] in ("recurrent", "lookup"):  # what follows needs the last step alone
                end, ends = len(parts), features
        if last:
            parts.insert(end, ("last", ends))
        return get_engine().program(parts, dtype) if get_engine().compiled else None

    def stream(self, x: Any, states: State, step: bool, out: Any = None) -> Any:
        """(outputs, states) for a step or more of streams, as `Program.run`; None where it takes other arguments."""
        return None if self.program is None else self.program.run(x, states, step, out)
