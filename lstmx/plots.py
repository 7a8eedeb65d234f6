"""Plots: loss curves, and what the gates did; they need matplotlib."""

import numpy as np


def pyplot():
    """matplotlib.pyplot, or an error that says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'matplotlib>=3.8'") from error
    return plt


# Okabe and Ito's, which colour-blind people tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def whole_numbers(axis):
    """Ticks of an axis of epochs or steps at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


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
            ax.plot(epochs, history[name], marker="o" if len(history) == 1 else None, label=label)
    if history.best_epoch is not None:
        ax.axvline(history.best_epoch + 1, color="0.6", linestyle=":", label="best weights")
    ax.set(xlabel="epoch", ylabel="loss")
    whole_numbers(ax.xaxis)
    if len(history):
        ax.legend()
    return ax


# Name, what is on the left, and what the colours mean.
_PANELS = (
    ("i", "input gate i\n1 lets all of the candidate in", "share let in"),
    ("f", "forget gate f\n0 forgets, 1 keeps", "share kept"),
    ("g", "candidate g\nwhat could be added", "value"),
    ("o", "output gate o\n0 hides, 1 shows the memory", "share shown"),
    ("c", "memory cell\n$c_t = f c_{t-1} + i g$", "value"),
    ("h", "output\nh = o tanh(c)", "value"),
)


def plot_trace(
    trace, layer=0, direction=0, *, sequence=None, x=None, feature_names=None, x_label="input x", figure=None
):
    """Draw gates, memory and output along one sequence, one row per unit.

    Units have the same row in every panel: those that forget most, by the mean of their forget gate, are at the top.

    Parameters
    ----------
    trace : Trace
    layer, direction : int
    sequence : int, optional
        Which of a batch.
    x : array (T,) or (T, I), optional
        The input, drawn on top: up to four features as lines, more as one row each.
    feature_names : I strings, optional
        By default the features are numbered from 0.
    x_label : str
        What the values of x are, and their unit.
    figure : matplotlib Figure, optional

    Returns
    -------
    matplotlib Figure

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> x = np.random.default_rng(0).normal(size=(30, 2))
    >>> trace = lstmx.LSTM(2, 8, random_state=0).trace(x)
    >>> figure = lstmx.inspect.plot_trace(trace, x=x, feature_names=["wind", "rain"], x_label="input\\nstandardised")
    >>> figure.savefig("gates.png")  # doctest: +SKIP
    """
    if not all(hasattr(trace, name) for name, *_ in _PANELS):
        raise TypeError(
            f"trace: got {type(trace).__name__}, must be a Trace; for a model plot_trace(model.trace(X)[0])"
        )
    values = {name: getattr(trace, name)[layer, direction] for name, *_ in _PANELS}
    if sequence is not None:
        values = {name: v[sequence] for name, v in values.items()}
    if isinstance(values["c"], list) or np.ndim(values["c"]) != 2:
        raise ValueError("sequence: the trace holds a batch; say which sequence to draw")
    steps = len(values["c"])
    if not steps:
        raise ValueError("trace: this sequence has no steps to draw")
    if x is not None:
        x, feature_names = _read_input(x, feature_names, steps)
    if figure is None:
        figure = pyplot().figure(figsize=(10, 11 if x is None else 12.5), layout="constrained")
    axes = figure.subplots(len(_PANELS) + (x is not None), 1, sharex=True)
    if x is not None:
        _draw_input(axes[0], x, feature_names, x_label)
        axes = axes[1:]
    order = np.argsort(values["f"].mean(axis=0))
    for ax, (name, label, meaning) in zip(axes, _PANELS, strict=True):
        image = values[name].T[order]
        gate = name in "ifo"
        limit = 1 if gate or name in "gh" else max(float(np.abs(image).max()), 1e-9)
        low, colours = (0, "viridis") if gate else (-limit, "RdBu_r")
        _draw_rows(ax, image, label, meaning, vmin=low, vmax=limit, cmap=colours)
        ax.set_yticks([])
    axes[-1].set_xlabel("time step, from 0; in every panel one row per unit, those that forget most at the top")
    whole_numbers(axes[-1].xaxis)
    return figure


def _read_input(x, names, steps):
    """x as (T, I), and I names."""
    x = np.asarray(x)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or len(x) != steps:
        raise ValueError(
            f"x: got shape {x.shape}, must be ({steps},) or ({steps}, I): the sequence that was traced, step by step"
        )
    names = [f"{k}" for k in range(x.shape[1])] if names is None else [str(name) for name in names]
    if len(names) != x.shape[1]:
        raise ValueError(f"feature_names: got {len(names)}, must be {x.shape[1]}, one for each feature of x")
    return x, names


def _draw_input(ax, x, names, label):
    if x.shape[1] > len(COLOURS):
        limit = max(float(np.abs(x).max()), 1e-9)
        _draw_rows(ax, x.T, label, "value", vmin=-limit, vmax=limit, cmap="PuOr_r")
        ax.set_yticks(range(len(names)), names, fontsize="x-small")
        return
    for column, name, colour in zip(x.T, names, COLOURS, strict=False):
        ax.plot(column, color=colour, marker="o" if len(x) == 1 else None, label=name)
    ax.set_ylabel(label, rotation=0, ha="right", va="center")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(COLOURS), frameon=False)  # above: lines are everywhere


def _draw_rows(ax, image, label, meaning, **colours):
    drawn = ax.imshow(image, aspect="auto", interpolation="nearest", **colours)
    ax.set_ylabel(label, rotation=0, ha="right", va="center")
    ax.figure.colorbar(drawn, ax=ax, pad=0.01, label=meaning)
