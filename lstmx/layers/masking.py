"""Layers about time itself: which steps there are, what masked ones give, and the order of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import allocate, validate
from lstmx.layers.simple import _Plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from lstmx._types import Array, Config, Context, DType, State
    from lstmx.layers.base import Run


class Masking(_Plain):
    """Steps whose features all have one value are masked: they do not exist for the layers after. The first layer.

    Memories are carried over masked steps, pooling layers leave them out, and a model with an output per step gives 0
    there (see `Unmask`). With an Embedding in its place, ``Embedding(..., padding_idx=0, mask_padding=True)`` does it.

    Parameters
    ----------
    value : float

    See Also
    --------
    lstmx.Sequential.predict : takes a mask of your own, of any pattern.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> model = lstmx.Sequential([lstmx.Masking(-1), lstmx.LSTM(2, 4), lstmx.Last()], random_state=0)
    >>> x = np.random.default_rng(0).normal(size=(1, 6, 2))
    >>> x[:, [0, 3]] = -1
    >>> bool((model.predict(x) == model.predict(x[:, [1, 2, 4, 5]])).all())
    True
    """

    masks = True

    def __init__(self, value: float = 0.0) -> None:
        self.value = validate.number("value", value)
        super().__init__()

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        return {"value": self.value}

    def are_steps(self, x: Array, dtype: DType) -> Array:
        """The layer protocol."""
        with np.errstate(over="ignore"):
            return (x.astype(dtype, copy=False) != dtype.type(self.value)).any(axis=-1)

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol."""
        if not self.are_steps(rows, rows.dtype).all():
            raise ValueError(f"x_t: a masked step, all of whose features are {self.value}; give a stream only steps "
                             "that there are")  # fmt: skip
        return rows, context, None, None

    def backward_rows(
        self,
        tape: Any,
        dy: Any,
        out: Any,
        need_dx: bool,
        dstate: State = None,
        *,
        add: bool = False,
        more: bool = False,
    ) -> tuple[Array | None, State]:
        """The layer protocol."""
        return dy, None


class Unmask(_Plain):
    """Masked steps get an output again; for the layers after they are steps like all others.

    Without it masked steps of a result are 0. What Keras does is ``Unmask("repeat")`` after the last layer that skips
    masked steps. In `fit` it does nothing, so that the loss is that of the steps that there are.

    Parameters
    ----------
    fill : {"repeat", "zero"}
        The output of the step before, 0 before the first one; or 0.
    """

    def __init__(self, fill: Literal["repeat", "zero"] = "repeat") -> None:
        self.fill = validate.choice("fill", fill, ("repeat", "zero"))
        super().__init__()

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        return {"fill": self.fill}

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol."""
        if run.own_steps or context.mask is None:
            return rows, context, None, None
        whole, source = context.unmasked(self.fill == "repeat")
        at = np.flatnonzero(source >= 0)
        source = source[at]
        y = allocate.zeros((whole.rows, rows.shape[1]), rows.dtype)
        y[at] = rows[source]
        return y, whole, None, (len(rows), at, source)

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol: plain arrays have no masked steps."""
        return lambda x: x

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return ()

    def backward_rows(
        self,
        tape: Any,
        dy: Any,
        out: Any,
        need_dx: bool,
        dstate: State = None,
        *,
        add: bool = False,
        more: bool = False,
    ) -> tuple[Array | None, State]:
        """The layer protocol."""
        if tape is None or dy is None:
            return dy, None
        count, at, source = tape
        dx = allocate.zeros((count, dy.shape[1]), dy.dtype)
        np.add.at(dx, source, dy[at])
        return dx, None


class Reversed(_Plain):
    """Each sequence's steps in reverse order: what comes last stands first."""

    causal = False

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol."""
        after, order = context.backwards()
        return rows[order], after, None, order

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""
        return lambda x: x[:, ::-1] if x.ndim == 3 else None

    def backward_rows(
        self,
        tape: Any,
        dy: Any,
        out: Any,
        need_dx: bool,
        dstate: State = None,
        *,
        add: bool = False,
        more: bool = False,
    ) -> tuple[Array | None, State]:
        """The layer protocol."""
        if dy is None:
            return None, None
        dx = np.empty_like(dy)
        dx[tape] = dy
        return dx, None
