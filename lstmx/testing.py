"""Checking gradients: for tests, and for everyone who writes a layer."""

import numpy as np


def finite_difference(function, array, step=1e-6):
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


def gradcheck(model, x, state=None, *, lengths=None, mask=None, reset=None, rtol=1e-6, atol=1e-7, random_state=0):
    """Compare every gradient of a float64 model with central differences, through its public interface.

    The loss is a random linear function of everything that the model returns.

    Parameters
    ----------
    model : LSTM or Sequential, of dtype float64
    x : as the model takes it
    state : (h0, c0), for an LSTM
        None: where the LSTM begins, at zero or at what it has learned.
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
    if recurrent:
        begin = model([a[:0] for a in x] if ragged else x[..., :0, :])[1] if state is None else state
        begin = tuple(np.array(s, np.float64) for s in begin)
        state = None if state is None else begin
        y, states, tape = model.forward(x, state, rng=0, **given)
        dstate = tuple(rng.normal(size=s.shape) for s in states)
    else:
        y, tape = model.forward(x, rng=0, **given)
    many = isinstance(y, list)
    dy = [rng.normal(size=a.shape) for a in y] if many else rng.normal(size=y.shape)

    def loss(state=state):
        if recurrent:
            out, states, _ = model.forward(x, state, rng=0, **given)
        else:
            out, _ = model.forward(x, rng=0, **given)
        parts = zip(out, dy, strict=True) if many else [(out, dy)]
        total = sum(float((a * b).sum()) for a, b in parts)
        return total + (sum(float((a * b).sum()) for a, b in zip(states, dstate, strict=True)) if recurrent else 0)

    grads = model.backward(tape, dy, dstate) if recurrent else model.backward(tape, dy)
    checks = []
    if ragged and not integers:
        checks += [(f"x[{n}]", grads.x[n], finite_difference(loss, a)) for n, a in enumerate(x)]
    elif not integers:
        checks.append(("x", grads.x, finite_difference(loss, x)))
    if recurrent:
        for name, gradient, part in zip(("h0", "c0"), grads.state, begin, strict=True):
            if name == "h0" or state is not None or not model.cell.slstm:  # whose empty memory has no derivative
                checks.append((name, gradient, finite_difference(lambda: loss(begin), part)))
    for name, value in model.parameters().items():
        trial = value.copy()

        def loss_at_trial(name=name, trial=trial):
            model.set_parameters({name: trial})
            return loss()

        checks.append((name, grads.params[name], finite_difference(loss_at_trial, trial)))
        model.set_parameters({name: value})
    for name, found, wanted in checks:
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=f"gradient of {name}")
    return max((float(np.abs(found - wanted).max(initial=0)) for _, found, wanted in checks), default=0.0)
