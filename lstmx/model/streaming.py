"""A model step by step: streams, and the closed loop in which its outputs are its next inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from lstmx.functional import validate
from lstmx.functional.context import SequenceContext
from lstmx.functional.states import fill
from lstmx.layers import Run
from lstmx.layers.lstm import BACKWARD_STREAM
from lstmx.model import rollout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from numpy.typing import ArrayLike

    from lstmx._types import Array, RandomState, State


class Streaming:
    """The part of `Sequential` that runs step by step."""

    def step(
        self, x_t: ArrayLike, state: State = None, *, out: tuple[Array, State] | None = None
    ) -> tuple[Array, tuple[State, ...]]:
        """One time step of a stream through the whole model.

        Parameters
        ----------
        x_t : array (N, I) or (I,); integers (N,) or a single one where an Embedding comes first
        state : what the last step returned, or None to begin
        out : (y_t, state), optional
            Arrays to write the results to, as a step returns them. The state in it may be `state` itself.

        Returns
        -------
        y_t : array (N, O) or (O,)
            Pooling layers give what they would for the stream so far.
        state : tuple, one entry per layer

        See Also
        --------
        lstmx.StreamPool : keeps the states of many streams, and takes any of them further in one call.
        """
        return self._stream("x_t", x_t, state, out, True)

    def stream(
        self, x: ArrayLike, state: State = None, *, out: tuple[Array, State] | None = None
    ) -> tuple[Array, tuple[State, ...]]:
        """A block of a stream through the whole model.

        Parameters
        ----------
        x : array (N, T, I) or (T, I); integers (N, T) or (T,) where an Embedding comes first
        state, out : as in `step`

        Returns
        -------
        y : array (N, T, O) or (T, O); of a model with pooling (N, O) or (O,), for the stream so far
        state : tuple, one entry per layer

        Examples
        --------
        >>> import numpy as np, lstmx
        >>> model = lstmx.Sequential([lstmx.LSTM(1, 4), lstmx.Dense(4, 1)], random_state=0)
        >>> x = np.ones((100, 1), "float32")
        >>> _, state = model.stream(x[:50])
        >>> y, state = model.stream(x[50:], state)
        >>> bool((y == model.predict(x)[50:]).all())
        True
        """
        return self._stream("x", x, state, out, False)

    def _stream(self, name: str, x: Any, state: State, out: Any, step: bool) -> Any:
        if not self._causal:
            raise ValueError(BACKWARD_STREAM)
        found = self._compiled_layers().stream(x, state, step, out)
        if found is not None:
            return found
        embedding = self.embedding
        if embedding:
            x = embedding.check_tokens(name, x).astype(np.int64, copy=False)
        else:
            x = validate.real_array(name, x, self.dtype)
        tail = () if embedding else (self.input_size,)
        lead = x.ndim - len(tail)
        if lead not in ((0, 1) if step else (1, 2)) or x.shape[lead:] != tail:
            features = self.input_size
            want = f"(N, {features}) or ({features},)" if step else f"(N, T, {features}) or (T, {features})"
            if embedding:
                want = "(N,) integers or one" if step else "(N, T) integers or (T,)"
            raise ValueError(f"{name}: got shape {x.shape}, must be {want}")
        if state is not None and (not isinstance(state, tuple | list) or len(state) != len(self.layers)):
            raise TypeError("state: must be what the last step of this model returned, or None")
        single = lead == (0 if step else 1)
        block = x[None] if single else x
        block = block[:, None] if step else block
        context = SequenceContext(np.full(len(block), block.shape[1], np.int64), block.shape[1])
        rows, after, states, _ = self.forward_rows(context.pack(block, own=True), context, state, Run())
        y = after.unpack(rows)
        y = y[:, 0] if step and self.per_step else y
        results = (y[0] if single else y), states
        return results if out is None else fill("out", out, results, x, state)

    @overload
    def rollout(
        self,
        x: ArrayLike,
        steps: int,
        *,
        feedback: Literal["argmax", "sample"] | Sequence[int | None] | None = None,
        exog: ArrayLike | None = None,
        noise: ArrayLike | None = None,
        paths: int | None = None,
        state: State = None,
        window: int | None = None,
        temperature: float = 1.0,
        random_state: RandomState = None,
        return_state: Literal[False] = False,
    ) -> Array: ...

    @overload
    def rollout(
        self,
        x: ArrayLike,
        steps: int,
        *,
        feedback: Literal["argmax", "sample"] | Sequence[int | None] | None = None,
        exog: ArrayLike | None = None,
        noise: ArrayLike | None = None,
        paths: int | None = None,
        state: State = None,
        window: int | None = None,
        temperature: float = 1.0,
        random_state: RandomState = None,
        return_state: Literal[True],
    ) -> tuple[Array, tuple[State, ...]]: ...

    @overload
    def rollout(
        self,
        x: ArrayLike,
        steps: int,
        *,
        feedback: Literal["argmax", "sample"] | Sequence[int | None] | None = None,
        exog: ArrayLike | None = None,
        noise: ArrayLike | None = None,
        paths: int | None = None,
        state: State = None,
        window: int | None = None,
        temperature: float = 1.0,
        random_state: RandomState = None,
        return_state: bool = False,
    ) -> Any: ...

    def rollout(
        self,
        x: ArrayLike,
        steps: int,
        *,
        feedback: Literal["argmax", "sample"] | Sequence[int | None] | None = None,
        exog: ArrayLike | None = None,
        noise: ArrayLike | None = None,
        paths: int | None = None,
        state: State = None,
        window: int | None = None,
        temperature: float = 1.0,
        random_state: RandomState = None,
        return_state: bool = False,
    ) -> Any:
        """The closed loop: what the model gives after x is what it reads next, and so on.

        Parameters
        ----------
        x : array (N, T, I), (T, I), or list of arrays (T_n, I); integers (N, T), .. where an Embedding comes first
            What is known; with `state`, what comes next.
        steps : int
            How many results. The first is the output after the last step of x.
        feedback : list of O columns of the input, or None in it for an output that is not fed back; optional
            By default output j goes to column j. A model of integers takes {"argmax", "sample"}: the token that is
            likeliest (default), or one drawn with the probabilities that the model gives (of a final softmax; else the
            outputs are logits).
        exog : array (N, steps - 1, E), or (steps - 1, E) for all sequences; or longer
            What the columns read that no output goes to, in their order. ``exog[:, 0]`` stands beside the first result.
        noise : float, array (O,), (K, O), or of the shape of the results; optional
            What is added to the results, before they are fed back: standard deviations of a normal distribution; K
            errors, of which one is drawn for each step; or the very numbers. For one sequence errors need `paths`.
        paths : int, optional
            M independent continuations of every sequence.
        state : what `step`, `stream` or `rollout` returned; optional
        window : int, optional
            Carry no state: every step reads the last W inputs anew, as a model trained on windows of W steps did. The
            only way for one that reads from the end.
        temperature : float
            For "sample": logits are divided by it.
        random_state : None, int, SeedSequence or Generator
            Draws what is drawn, in the order of the results: ``noise=s`` is ``noise=s *
            numpy.random.default_rng(random_state).standard_normal(shape)``; the places of errors are
            ``.integers(K, size=shape)``, without O, and tokens are drawn by ``.random(shape)``.
        return_state : bool
            Whether to give the state too: that after x and all results but the last, which is what comes next.

        Returns
        -------
        results : array (N, steps, O), with `paths` (N, M, steps, O), without N for one sequence
            Tokens: of int64, without O.
        state : tuple, one entry per layer
            If `return_state`: of N * M sequences, the paths of the first, then those of the second and so on.

        Raises
        ------
        ValueError, TypeError, IndexError
            If an argument is not as it must be, or a sequence has no step.
        FloatingPointError
            If outputs are NaN or infinite, so that no token can be chosen.

        Notes
        -----
        Masked steps change nothing: the output remains that of the last step that there is.

        Examples
        --------
        A model that has learnt the next step of a sine, twenty steps on:

        >>> import numpy as np, lstmx
        >>> rng = np.random.default_rng(0)
        >>> x = np.sin(0.5 * np.arange(60) + rng.uniform(0, 6, (64, 1)))[:, :, None]
        >>> model = lstmx.Sequential([lstmx.LSTM(1, 16), lstmx.Dense(16, 1)], random_state=0)
        >>> history = model.fit(x[:, :39], x[:, 1:40], epochs=60, optimizer=lstmx.Adam(0.02), verbose=0)
        >>> future = model.rollout(x[:, :40], 20)
        >>> future.shape, bool(np.abs(future - x[:, 40:]).mean() < 0.1)
        ((64, 20, 1), True)

        A hundred ways on for the first of them:

        >>> paths = model.rollout(x[0, :40], 20, noise=0.1, paths=100, random_state=0)
        >>> paths.shape, bool(paths[:, -1].std() > paths[:, 0].std())
        ((100, 20, 1), True)
        """
        found, state = rollout.run(
            self, x, steps, feedback=feedback, exog=exog, noise=noise, paths=paths, state=state, window=window,
            temperature=temperature, random_state=random_state, return_state=return_state,
        )  # fmt: skip
        if self.embedding is None:
            with np.errstate(over="ignore"):
                found = found.astype(self.dtype)
        return (found, state) if return_state else found
