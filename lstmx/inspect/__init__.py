"""Looking inside: what the gates did, how the gradient flows, how training went; plots need ``lstmx[plot]``."""

import numpy as np

from lstmx.functional import allocate, read_gradient
from lstmx.functional.read import read_sequences
from lstmx.layers import LSTM, Run, Trace


class GradientFlow:
    """How much of a loss's gradient reaches every step.

    Attributes
    ----------
    dh, dc : dict of (layer, direction) to array as `Trace` gives them
        dL/dh_t and dL/dc_t.
    """

    def __init__(self, dh, dc):
        self.dh, self.dc = dh, dc


def gradient_flow(lstm, x, dy, *, lengths=None):
    """Run forward and backward, and keep the gradient of the output and of the memory at every step.

    Where the forget gates stay open, dL/dc_t hardly shrinks on its way back: that is why an LSTM learns what a plain
    recurrent network forgets.

    Parameters
    ----------
    lstm : LSTM
    x : array (N, T, I), array (T, I), or list of arrays (T_n, I)
    dy : in the form and shape of y
        The gradient of the loss with respect to the outputs.
    lengths : array of int (N,), optional

    Returns
    -------
    GradientFlow

    Examples
    --------
    The gradient of the last output with respect to the memory, in a network that keeps its memory:

    >>> import numpy as np, lstmx
    >>> lstm = lstmx.LSTM(2, 3, random_state=0)
    >>> bias = np.repeat([0.0, 20.0, 0.0, 0.0], 3)       # forget gates wide open
    >>> lstm.set_parameters({"bias_l0": bias})
    >>> dy = np.zeros((50, 3))
    >>> dy[-1] = 1
    >>> flow = lstmx.inspect.gradient_flow(lstm, np.zeros((50, 2)), dy)
    >>> bool(np.abs(flow.dc[0, 0][0]).sum() > 0.5 * np.abs(flow.dc[0, 0][-1]).sum())
    True
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm: got {type(lstm).__name__}, must be an LSTM; a model's are in model.layers")
    rows, context = read_sequences(x, lstm.input_size, lstm.dtype, lengths)
    *_, tape = lstm.forward_rows(rows, context, None, Run(keep=True))
    dy = read_gradient(dy, context, lstm.output_size(), lstm.dtype)
    if dy is None:
        raise ValueError("dy: got None, must have the form and shape of y")
    pairs = [(layer, direction) for layer in range(lstm.num_layers) for direction in range(lstm.directions)]
    shape = (context.rows, lstm.hidden_size)
    slabs = {pair: (allocate.empty(shape, lstm.dtype), allocate.empty(shape, lstm.dtype)) for pair in pairs}
    out = {name: np.empty_like(p) for name, p in lstm.parameters().items()}
    lstm.backward_rows(tape, dy, out, False, flow=slabs)
    dh, dc = ({pair: context.unpack(slabs[pair][k]) for pair in pairs} for k in (0, 1))
    return GradientFlow(dh, dc)


def pyplot():
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'lstmx[plot]'") from error
    return plt


def plot_history(history, ax=None):
    """Draw the loss of every epoch, and of the validation data if there are any.

    Parameters
    ----------
    history : History
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = pyplot().subplots()[1] if ax is None else ax
    epochs = np.arange(1, len(history) + 1)
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        if name in history.history:
            ax.plot(epochs, history[name], label=label)
    if history.best_epoch is not None:
        ax.axvline(history.best_epoch + 1, color="0.6", linestyle=":", label="best weights")
    ax.set(xlabel="epoch", ylabel="loss")
    if len(history):
        ax.legend()
    return ax


_PANELS = (
    ("i", "input gate i\n0 nothing, 1 all of the candidate enters"),
    ("f", "forget gate f\n0 forgets, 1 keeps"),
    ("g", "candidate g\nwhat could be added"),
    ("o", "output gate o\n0 hides, 1 shows the memory"),
    ("c", "memory cell c = f c + i g"),
    ("h", "output h = o tanh(c)"),
)


def plot_trace(trace, layer=0, direction=0, *, sequence=None, x=None, figure=None):
    """Draw gates, memory and output along one sequence, one row per unit.

    Parameters
    ----------
    trace : Trace
    layer, direction : int
    sequence : int, optional
        Which of a batch.
    x : array (T,) or (T, I), optional
        The input, drawn on top.
    figure : matplotlib Figure, optional

    Returns
    -------
    matplotlib Figure
    """
    if not isinstance(trace, Trace):
        raise TypeError(
            f"trace: got {type(trace).__name__}, must be a Trace; for a model plot_trace(model.trace(X)[0])"
        )
    if figure is None:
        figure = pyplot().figure(figsize=(10, 11), layout="constrained")
    values = {name: getattr(trace, name)[layer, direction] for name, _ in _PANELS}
    if sequence is not None:
        values = {name: v[sequence] for name, v in values.items()}
    if isinstance(values["c"], list) or np.ndim(values["c"]) != 2:
        raise ValueError("sequence: the trace holds a batch; say which sequence to draw")
    if not len(values["c"]):
        raise ValueError("trace: this sequence has no steps to draw")
    axes = figure.subplots(len(_PANELS) + (x is not None), 1, sharex=True)
    if x is not None:
        axes[0].plot(np.asarray(x))
        axes[0].set_ylabel("input x", rotation=0, ha="right", va="center")
        axes = axes[1:]
    order = np.argsort(values["f"].mean(axis=0))  # units that forget first, units that keep last
    for ax, (name, label) in zip(axes, _PANELS, strict=True):
        image = values[name].T[order]
        gate = name in "ifo"
        limit = 1 if gate or name in "gh" else max(float(np.abs(image).max()), 1e-9)
        low, colours = (0, "viridis") if gate else (-limit, "RdBu_r")
        drawn = ax.imshow(image, aspect="auto", interpolation="nearest", vmin=low, vmax=limit, cmap=colours)
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
        ax.set_yticks([])
        figure.colorbar(drawn, ax=ax, pad=0.01)
    axes[-1].set_xlabel("time step; one row per unit, those that forget most at the top")
    return figure


__all__ = ["GradientFlow", "gradient_flow", "plot_history", "plot_trace"]
