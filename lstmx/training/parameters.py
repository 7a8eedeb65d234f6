"""The parameters of a net while it is trained: one flat buffer, one flat gradient, a table of segments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lstmx.layers.simple import RowGradient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lstmx._types import Array, Arrays
    from lstmx.layers.base import ParameterStore


class Parameters:
    """The parameters of a net as one flat buffer, its gradient, and a table of segments; embeddings apart."""

    def __init__(self, net: Any) -> None:
        self.segments = []  # (layer index, name, slice, shape, decays)
        self.embeddings = []  # (layer index, name)
        start = 0
        for k, layer in enumerate(net.layers):
            for p in layer.parameter_table(layer.config()):
                if p.by_row:
                    self.embeddings.append((k, p.name))
                    continue
                size = math.prod(p.shape)
                self.segments.append((k, p.name, slice(start, start + size), p.shape, p.decays))
                start += size
        self.size = start
        self.net = net
        self.stores = [layer.store for layer in net.layers if layer.store.arrays]
        self.gradient = np.zeros(start, net.dtype)

    def read(self) -> tuple[Array, Arrays]:
        """(flat values, tables): copies of what the layers hold."""
        layers = self.net.layers
        parts = [layers[k].store.arrays[name].reshape(-1) for k, name, *_ in self.segments]
        values = np.concatenate(parts) if parts else np.zeros(0, self.net.dtype)
        return values, {f"{k}.{name}": layers[k].store.arrays[name].copy() for k, name in self.embeddings}

    def bind(self, values: Array, tables: Arrays) -> None:
        """Let the layers look into these arrays."""
        for store, views in self._views(values, tables):
            store.bind(views)

    def changed(self) -> None:
        """The numbers in the buffers have changed: layers drop what they derived from them."""
        for store in self.stores:
            store.changed()

    def freeze(self, values: Array, tables: Arrays) -> None:
        """End of training: the layers get these arrays for good, read-only, and old tapes become invalid."""
        for array in (values, *tables.values()):
            array.flags.writeable = False
        for store, views in self._views(values, tables):
            store.replace(views)

    def _views(self, values: Array, tables: Arrays) -> Iterator[tuple[ParameterStore, Arrays]]:
        """(store, read-only views by name) of every layer that has parameters."""
        views: list[Arrays] = [{} for _ in self.net.layers]
        for k, name, place, shape, _ in self.segments:
            views[k][name] = values[place].reshape(shape)
        for k, name in self.embeddings:
            views[k][name] = tables[f"{k}.{name}"].view()
        for layer, own in zip(self.net.layers, views, strict=True):
            for view in own.values():
                view.flags.writeable = False
            if own:
                yield layer.store, own

    def outputs(self) -> list[dict[str, Any]]:
        """For every layer, where its gradients go: views of the flat gradient, and None for a RowGradient to come.

        Made once: before another pass, the entries of embeddings must be None again.
        """
        out: list[dict[str, Any]] = [{} for _ in self.net.layers]
        for k, name, place, shape, _ in self.segments:
            out[k][name] = self.gradient[place].reshape(shape)
        for k, name in self.embeddings:
            out[k][name] = None
        return out

    def no_rows(self) -> list[RowGradient]:
        """Gradients of the embeddings that are 0 everywhere."""
        found = []
        for k, name in self.embeddings:
            table = self.net.layers[k].store.arrays[name]
            found.append(RowGradient(np.zeros(0, np.intp), np.zeros((0, table.shape[1]), table.dtype)))
        return found

    def spans(self, optimizer: Any) -> list[tuple[slice, bool]]:
        """(slice, decays) of the flat buffer: all of it if nothing decays, else neighbours that decay alike."""
        if not optimizer.weight_decay:
            return [(slice(0, self.size), False)] if self.size else []
        spans: list[tuple[slice, bool]] = []
        for _, _, place, _, decays in self.segments:
            if spans and spans[-1][1] == decays:
                spans[-1] = slice(spans[-1][0].start, place.stop), decays
            else:
                spans.append((place, decays))
        return spans


def draw_keys(rng: np.random.Generator, count: int) -> Array:
    """Random 64-bit numbers, the same as ``rng.integers(2**64, size=count, dtype=np.uint64)``, but faster."""
    generator = rng.bit_generator
    if isinstance(generator, np.random.PCG64 | np.random.PCG64DXSM | np.random.Philox | np.random.SFC64):
        return generator.random_raw(count)
    return rng.integers(2**64, size=count, dtype=np.uint64)
