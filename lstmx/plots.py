"""Plots: loss curves, and what the gates did; they need ``lstmx[plot]``."""

import numpy as np


def pyplot():
    """matplotlib.pyplot, or an error that says what to install."""
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
    if not all(hasattr(trace, name) for name, _ in _PANELS):
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
