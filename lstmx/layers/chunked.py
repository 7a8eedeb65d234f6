"""Streams through a network that also reads from the end: chunks, each with some steps of lookahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import validate
from lstmx.functional.context import SequenceContext
from lstmx.functional.engine import get_engine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lstmx._types import Array, State


class Chunked:
    """What an LSTM does with chunks and lookahead."""

    def chunked(self, x: Any, chunk: int, lookahead: int) -> Iterator[Array]:
        """The outputs of a stream in chunks, each as soon as so many later steps are there: for two directions.

        Parameters
        ----------
        x : array (N, T, I) or (T, I), or iterator of such
            All of it, or one block after the other, each of any number of steps.
        chunk : int
            Steps whose outputs come together; the last chunk may have fewer.
        lookahead : int
            Steps after a chunk with which the direction that reads from the end begins, in its initial state.

        Yields
        ------
        y : array (N, chunk, D*H) or (chunk, D*H)

        Notes
        -----
        Exact, to the last bit, is the forward direction of the first layer, whose state is carried from chunk to chunk;
        and everything once `lookahead` reaches the end. The direction that reads from the end has seen `lookahead`
        steps, not all that follow, which is an approximation, and so are the layers above, which read its outputs.

        A step is computed once for its chunk, and up to ``lookahead / chunk`` times more as the lookahead of others.

        Examples
        --------
        >>> import numpy as np, lstmx
        >>> lstm, x = lstmx.LSTM(2, 8, bidirectional=True, random_state=0), np.ones((100, 2))
        >>> y = np.concatenate(list(lstm.chunked(x, chunk=20, lookahead=10)))
        >>> bool((y[:, :8] == lstm(x)[0][:, :8]).all())     # the forward direction
        True
        """
        whole = hasattr(x, "__array__")
        if isinstance(x, list | tuple) or not (whole or hasattr(x, "__iter__")):
            raise TypeError(f"x: got {type(x).__name__}, must be one array (N, T, I) or (T, I), or an iterator of "
                            "blocks of it, as iter([block, block]) is; run ragged batches one by one")  # fmt: skip
        chunk, lookahead = validate.count("chunk", chunk), validate.count("lookahead", lookahead, 0)
        blocks = [self._block(x)] if whole else (self._block(block).copy() for block in x)  # which may be one buffer
        return self._chunks(blocks, chunk, lookahead)

    def _block(self, x: Any) -> Array:
        array = validate.real_array("x", x, self.dtype)
        if array.ndim not in (2, 3) or array.shape[-1] != self.input_size:
            raise ValueError(f"x: got shape {array.shape}, must be (N, T, {self.input_size}) or (T, {self.input_size})")
        return array

    def _chunks(self, blocks: Iterable[Array], chunk: int, lookahead: int) -> Iterator[Array]:
        parameters, held, state, I = self.store.snapshot, None, None, self.input_size
        for block in blocks:
            if held is None:
                held, batch = block[..., :0, :], block.shape[:-2]
                state = self.start_state(*(batch or (1,)), I, parameters)
            if block.shape[:-2] != batch:
                raise ValueError(f"x: got a block of shape {block.shape}, must be as the first: {(*batch, 'T', I)}")
            held = np.concatenate([held, block], axis=-2) if held.size else block
            while held.shape[-2] >= chunk + lookahead:
                yield self._chunk(held[..., : chunk + lookahead, :], chunk, state, parameters)
                held = held[..., chunk:, :]
        while held is not None and held.shape[-2]:
            yield self._chunk(held[..., : chunk + lookahead, :], min(chunk, held.shape[-2]), state, parameters)
            held = held[..., chunk:, :]

    def _chunk(self, x: Any, steps: int, state: State, parameters: Any) -> Array:
        """The outputs of the first `steps` of x, to which `state` is carried; those that follow are the lookahead."""
        form = "single" if x.ndim == 2 else "array"
        batch, most = (1 if x.ndim == 2 else len(x)), x.shape[-2]
        every, own, rest = (
            SequenceContext(np.full(batch, k, np.int64), k, form) for k in (most, steps, most - steps)
        )  # fmt: skip
        rows, end, engine = every.pack(x), batch * steps, get_engine()
        start = self.start_state(batch, self.input_size, parameters)
        for layer in range(self.num_layers):
            y, columns = self._room(len(rows))
            for direction, out in enumerate(columns):
                k, weights = layer * self._directions + direction, self._weights(layer, direction, parameters)
                if self._reversed[direction]:
                    engine.forward(rows, weights, every, True, start[0][k], start[1][k], out, False)
                    continue
                h, c = state[0][k], state[1][k]
                engine.forward(rows[:end], weights, own, False, h, c, out[:end], False)
                if most > steps:
                    engine.forward(rows[end:], weights, rest, False, h.copy(), c.copy(), out[end:], False)
            rows = self._merged(columns) if y is None else y
        return own.unpack(rows[:end])
