"""Snapshots of the sessions of a `StreamPool`, which files can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx import storage
from lstmx.functional import validate
from lstmx.functional.states import leaves, nested, structure
from lstmx.layers.base import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lstmx._types import Arrays, ArrayShape, Config, Ints, State


SLOTS = 2**32  # an id is generation * SLOTS + slot
MOST = 2**31  # slots of a pool; generations of a slot


@storage.register
class StreamSnapshot(storage.Stored):
    """States of sessions of a `StreamPool` at one moment. It does not change; `save` keeps it in a file.

    Attributes
    ----------
    ids : ndarray of int64 (n,)
    state : as the model's ``step`` returns it for n sessions
    given : ndarray of int64 (slots,)
        How many ids each slot of the pool has given, so that a pool that is restored gives none of them again.
    """

    ids: Ints
    state: Any
    given: Ints

    def __init__(self, ids: Ints, state: State, given: Ints) -> None:
        slots, generations = ids % SLOTS, ids // SLOTS
        if ids.min(initial=0) < 0 or given.min(initial=0) < 0 or given.max(initial=0) > MOST:
            raise ValueError("ids, given: must be at least 0, and no slot has given more than 2**31 ids")
        if len(np.unique(slots)) < len(slots):
            raise ValueError("ids: two of them have one slot, so they cannot be open at once")
        if slots.max(initial=-1) >= len(given) or (generations >= given[slots]).any():
            raise ValueError("given: does not count all of the ids")
        self.ids, self.given = frozen(ids, np.int64), frozen(given, np.int64)
        self.state = nested(state, [frozen(array, array.dtype) for array in leaves(state)])

    def __len__(self) -> int:
        return len(self.ids)

    def _contents(self) -> tuple[Config, Arrays]:
        arrays = {"ids": self.ids, "given": self.given}
        form = structure(self.state)
        names = (name for name, _ in _named("state", form))
        arrays |= dict(zip(names, leaves(self.state), strict=True))
        return {"sessions": len(self.ids), "slots": len(self.given), "state": form}, arrays

    @classmethod
    def from_state(cls, config: Config, arrays: Arrays) -> StreamSnapshot:
        """A snapshot from what a file holds."""
        form = config["state"]
        state = nested(form, [arrays[name] for name, _ in _named("state", form)])
        return cls(arrays["ids"], state, arrays["given"])

    @classmethod
    def array_shapes(cls, config: Config) -> Iterator[ArrayShape]:
        """(name, shape, dtype, what its numbers must be) of each array; an error for a wrong configuration."""
        validate.keys("the configuration of StreamSnapshot", config, ("sessions", "slots", "state"))
        n = validate.count("sessions", config["sessions"], 0)
        yield "ids", (n,), "int64", "ids of different slots"
        yield "given", (validate.count("slots", config["slots"], 0),), "int64", "from 0 to 2**31"
        for name, array in _named("state", config["state"]):
            validate.keys(name, array, ("dtype", "shape"))
            dtype = validate.choice(f"{name} dtype", array["dtype"], ("float32", "float64", "int64"))
            if not isinstance(array["shape"], list) or not array["shape"]:
                raise ValueError(f"{name} shape: got {array['shape']!r:.60}, must be a list of at least one size")
            *lead, width = (validate.count(f"{name} shape", size, 0) for size in array["shape"])
            yield name, (*lead, n, width), dtype, "anything"

    def __repr__(self) -> str:
        return f"<StreamSnapshot: {len(self)} sessions>"


def _named(name: str, form: Any) -> Iterator[tuple[str, Any]]:
    """(name, what it is) of each array of a state of this `structure`."""
    if isinstance(form, list):
        for k, part in enumerate(form):
            yield from _named(f"{name}.{k}", part)
    elif form is not None:
        yield name, form
