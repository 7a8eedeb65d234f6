"""Checking gradients: for tests, and for everyone who writes a layer."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lstmx._types import Array, RandomState, State


def finite_difference(function: Callable[[], float], array: Array, step: float = 1e-6) -> Array:
    """dL/d(array) by central differences; `function` takes no argument and reads `array`, which is restored."""
    gradient = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        middle = array[place]
        array[place] = middle + step
        above = function()
        array[place] = middle - step
        below = function()
        array[place] = middle
        gradient[place] = (above - below) / (2 * step)
    return gradient


def gradcheck(
    model: Any,
    x: Any,
    state: State = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    rtol: float = 1e-6,
    atol: float = 1e-7,
    random_state: RandomState = 0,
) -> float:
    """Compare every gradient of a float64 model with central differences, through its public interface.

    The loss is a random linear function of everything that the model returns.

    Parameters
    ----------
    model : LSTM, RNN or Sequential, of dtype float64
    x : as the model takes it
    state : (h0, c0) for an LSTM, h0 for an RNN
        None: where the network begins, at zero or at what it has learned.
    lengths, mask, reset : as the model takes them
    rtol, atol : float
        The differences themselves are good to about 1e-9 with their step of 1e-6.
    random_state : None, int, SeedSequence or Generator
        Draws the loss.

    Returns
    -------
    float
        The largest absolute difference.

    Raises
    ------
    AssertionError
        Naming the array whose gradient is wrong.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> lstm = lstmx.LSTM(3, 4, bidirectional=True, dtype="float64", random_state=0)
    >>> x = np.random.default_rng(1).normal(size=(2, 5, 3))
    >>> bool(lstmx.testing.gradcheck(lstm, x, lengths=[5, 2]) < 1e-7)
    True
    """
    if model.parameters() and next(iter(model.parameters().values())).dtype != np.float64:
        raise ValueError("model: gradients are checked in float64; use model.astype('float64')")
    rng = np.random.default_rng(random_state)
    recurrent = hasattr(model, "hidden_size")
    model, given = model.copy(), {"lengths": lengths, "mask": mask, "reset": reset}
    ragged = isinstance(x, list)
    integers = all(np.asarray(a).dtype.kind in "iu" for a in (x if ragged else [x]))
    kind = np.int64 if integers else np.float64
    x = [np.array(a, kind) for a in x] if ragged else np.array(x, kind)
    drawn = {"rng": 0} if "rng" in inspect.signature(model.forward).parameters else {}
    begin = []
    if recurrent:
        start = model([a[:0] for a in x] if ragged else x[..., :0, :])[1] if state is None else state  # type: ignore[call-overload]
        begin = [np.array(a, np.float64) for a in _arrays(start)]
        whole = tuple if isinstance(start, tuple | list) else lambda arrays: arrays[0]  # a state of its arrays
        state = None if state is None else whole(begin)

    def forward(state: State) -> tuple[Any, list[Array], Any]:
        """y, the arrays of the final state, the tape."""
        y, *states, tape = model.forward(x, *([state] if recurrent else []), **drawn, **given)
        return y, [a for part in states for a in _arrays(part)], tape

    y, states, tape = forward(state)
    dstate = [rng.normal(size=s.shape) for s in states]
    many = isinstance(y, list)
    dy = [rng.normal(size=a.shape) for a in y] if many else rng.normal(size=y.shape)

    def loss(state: State = state) -> float:
        y, states, _ = forward(state)
        pairs = [*zip(y, dy, strict=True)] if many else [(y, dy)]
        return sum(float((a * b).sum()) for a, b in (*pairs, *zip(states, dstate, strict=True)))

    grads = model.backward(tape, dy, *([whole(dstate)] if recurrent else []))
    checks = []
    if ragged and not integers:
        checks += [(f"x[{n}]", grads.x[n], finite_difference(loss, a)) for n, a in enumerate(x)]
    elif not integers:
        checks.append(("x", grads.x, finite_difference(loss, x)))  # type: ignore[arg-type]
    if recurrent:
        for name, gradient, part in zip(("h0", "c0"), _arrays(grads.state), begin, strict=False):
            if name == "h0" or state is not None or not model.cell.slstm:  # whose empty memory has no derivative
                checks.append((name, gradient, finite_difference(lambda: loss(whole(begin)), part)))
    for name, value in model.parameters().items():
        trial = value.copy()

        def loss_at_trial(name: str = name, trial: Array = trial) -> float:
            model.set_parameters({name: trial})
            return loss()

        checks.append((name, grads.params[name], finite_difference(loss_at_trial, trial)))
        model.set_parameters({name: value})
    for name, found, wanted in checks:
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=f"gradient of {name}")
    return max((float(np.abs(found - wanted).max(initial=0)) for _, found, wanted in checks), default=0.0)


def _arrays(state: State) -> list[Any]:
    """The arrays of a state: a pair, or one."""
    return list(state) if isinstance(state, tuple | list) else [state]
