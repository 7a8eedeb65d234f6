"""Batches that the caller makes, one after the other: data that do not fit in memory, or have no end."""

from __future__ import annotations

import inspect
import itertools
from types import GeneratorType
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import validate
from lstmx.functional.messages import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lstmx._types import Ints


_RAGGED = "sequences of different lengths are a list of arrays (T_n, I) in each batch"
_REMEDIES = {
    "batch_size": "each of its items is a batch",
    "shuffle": "batches come in its order: shuffle there",
    "lengths": _RAGGED,
    "validation_lengths": _RAGGED,
    "sample_weight": "give batches (X, y, sample_weight)",
    "validation_split": "give validation_data",
    "class_weight": "labels cannot be counted beforehand: give a dict of label to N / (classes * count of the label)",
}


def is_source(X: Any) -> bool:
    """Whether X, to which no y is given, is batches: a callable, what can be iterated but is no array, or a list of
    tuples.
    """
    if isinstance(X, list | tuple):
        return len(X) > 0 and all(isinstance(item, tuple) and len(item) in (2, 3) for item in X)
    if isinstance(X, str | bytes | dict) or hasattr(X, "__array__"):
        return False
    return callable(X) or hasattr(X, "__iter__") or (hasattr(X, "__len__") and hasattr(X, "__getitem__"))


def refuse_mistaken(X: Any, y: Any, steps_per_epoch: Any) -> None:
    """An error if X and y, which are read as arrays, are meant as batches."""
    if y is None:
        many = "; of a list of batches each is a tuple (X, y)" if isinstance(X, list) else ""
        raise TypeError("y: got None, must be the targets" + ("; write fit(X, y)" if isinstance(X, tuple) else many))
    if steps_per_epoch is not None:
        raise ValueError("steps_per_epoch: an epoch of arrays is a pass over all of them; leave it out")
    if not hasattr(X, "__array__") and (callable(X) or (hasattr(X, "__iter__") and not hasattr(X, "__len__"))):
        raise TypeError(
            f"X: got a {type(X).__name__} and a y; batches (X, y) bring their own y: leave it out. If X gives the "
            "sequences one by one, write list(X)"
        )


def refuse_options(**given: Any) -> None:
    """An error for what does not go with batches, if it is given."""
    for name, value in given.items():
        if value is None or value is False or (name == "class_weight" and not isinstance(value, str)):
            continue
        got = repr(value) if isinstance(value, str | int | float) else type(value).__name__
        raise ValueError(f"{name}: got {got}, which a source of batches does not take; {_REMEDIES[name]}")


def check_function_of_shard(X: Any) -> None:
    """An error if X does not give the batches of each shard."""
    form = "X=lambda shard: an iterable of (X, y), the shard's part of each batch"
    if not callable(X):
        raise TypeError(f"X: got a {type(X).__name__}, but with comm or shards batches come from a function of the "
                        f"shard, {form}")  # fmt: skip
    try:
        inspect.signature(X).bind(0)
    except TypeError:
        raise TypeError(f"X: with comm or shards it is called with the number of a shard, which it does not take; give "
                        f"{form}") from None  # fmt: skip
    except ValueError:  # nobody knows what a compiled function takes
        pass


class Source:
    """Batches that an iterable gives, as `Data` of many epochs.

    Nothing is read ahead, and no batch is kept: it is forgotten when the next one has come.

    Parameters
    ----------
    name : str
        For errors.
    given : iterable, sequence, or callable that returns an iterable
    read : callable ``(prefix, X, y, sample_weight) -> Data``
        Reads a batch; errors in it begin with the prefix.
    epochs : int
    steps : int, optional
        Batches of an epoch; by default it is a pass.

    Attributes
    ----------
    count : int or None
        Sequences of the epoch before.
    exhausted : bool
        Whether there are no more batches, and none can be made.
    """

    def __init__(self, name: str, given: Any, read: Callable[..., Any], epochs: int, steps: Any = None) -> None:
        self.name, self.given, self.read = name, given, read
        self.steps = None if steps is None else validate.count("steps_per_epoch", steps)
        self.count, self.exhausted = None, False
        self._once = hasattr(given, "__next__") and iter(given) is given
        self._iterator: Any = None
        self._epoch = self._total = 0
        if self._once and steps is None and epochs > 1:
            remedy = "steps_per_epoch, or " if name == "X" else ""
            raise ValueError(
                f"{name}: a {type(given).__name__} gives its batches once, but there are {epochs} epochs. Give a "
                f"function that makes a new one for each (batches, not batches()), {remedy}epochs=1"
            )

    def batches(
        self, batch_size: int | None = None, shuffle: Any = False, rng: Any = None
    ) -> Iterator[tuple[Any, Ints]]:
        """(data, indices) of every batch of an epoch; what arrays take has no effect."""
        self._epoch += 1
        number = count = 0
        for number, item in enumerate(itertools.islice(self._items(), self.steps), 1):
            data = self._read(item, f"{self.name}, " * (self.name != "X") + f"epoch {self._epoch}, batch {number}, ")
            chosen = np.arange(len(data.inputs))
            count += len(chosen)
            yield data, chosen
        self._total += number
        self.count = count  # type: ignore[assignment]
        if number == 0 and not (self._once and self._total):
            why = "; the iterator is used up: give a new one" if self._once else ""
            if self._epoch > 1:
                why = "; what the callable or __iter__ returns must be new in each epoch"
            raise ValueError(f"{self.name}: gave no batch in epoch {self._epoch}{why}")
        if self.steps is not None and number < self.steps:
            self.exhausted = True
            warn(f"{self.name}: gave {number} batches in epoch {self._epoch}, {self._total} in all, but "
                 f"steps_per_epoch is {self.steps}; training ends, and what is learnt stays. Give more batches, or a "
                 "function that makes a new iterator whenever one is used up")  # fmt: skip

    def terms(self) -> str:
        """What of them must be the same on all ranks that train together."""
        return "a source of batches"

    def close(self, early: bool) -> None:
        """Training has ended: close the generator, but one that was given only if that is `early`."""
        iterator, self._iterator = self._iterator, None
        if isinstance(iterator, GeneratorType) and (early or not self._once):
            iterator.close()

    def _items(self) -> Iterator[Any]:
        """What is left of a pass; where epochs have a number of batches, also of passes after it."""
        if self.steps is None:
            self._iterator = None
        while True:
            fresh, empty = self._iterator is None, True
            if fresh:
                self._iterator = self._begin()
            for item in self._iterator:
                empty = False
                yield item
            self._iterator = None
            if self.steps is None or self._once or (fresh and empty):
                return

    def _begin(self) -> Any:
        """The iterator of a pass."""
        given = self.given
        if not hasattr(given, "__iter__") and callable(given):
            given = given()
        if hasattr(given, "__iter__"):
            return iter(given)
        if hasattr(given, "__len__") and hasattr(given, "__getitem__"):  # such as a PyDataset of Keras
            return (given[k] for k in range(len(given)))
        raise TypeError(f"{self.name}: calling it gave {type(given).__name__}, must be an iterable of batches (X, y)")

    def _read(self, item: Any, prefix: str) -> Any:
        if not isinstance(item, tuple | list) or len(item) not in (2, 3):
            got = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
            raise TypeError(f"{prefix.rstrip(', ')}: got {got}, must be (X, y) or (X, y, sample_weight)")
        return self.read(prefix, *item)
