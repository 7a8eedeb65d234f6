"""Plots: loss curves, and what the gates did; they need matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from lstmx._types import Array

__all__ = ["plot_history"]


def pyplot() -> Any:
    """matplotlib.pyplot, or an error that says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'matplotlib>=3.8'") from error
    return plt


# Okabe and Ito's, which colour-blind people tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def whole_numbers(axis: Any) -> None:
    """Ticks of an axis of epochs or steps at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def plot_history(history: Any, ax: Axes | None = None) -> Axes:
    """Draw the loss of every epoch, and of the validation data if there are any.

    Of a history with ``monitor="gradients"`` the share of the gradient that reaches the first step is drawn too, on a
    log axis at the right: one line for each layer and direction, named as in the history.

    Parameters
    ----------
    history : History
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
    """
    ax = pyplot().subplots(layout="constrained")[1] if ax is None else ax
    epochs = np.arange(1, len(history) + 1)
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        if name in history.history:
            ax.plot(epochs, history[name], marker="o" if len(history) == 1 else None, label=label)
    if history.best_epoch is not None:
        ax.axvline(history.best_epoch + 1, color="0.6", linestyle=":", label="best weights")
    ax.set(xlabel="epoch", ylabel="loss")
    whole_numbers(ax.xaxis)
    shares = {name: history[name] for name in history.history if ".gradient_first" in name}
    if len(history):
        lines = ax.get_legend_handles_labels()[0]
        lines += _draw_shares(ax.twinx(), epochs, shares) if shares else []
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3, "frameon": False, "fontsize": "small"}
        ax.legend(handles=lines, **(above if shares else {}))  # the two axes leave no free corner
    return ax


def _draw_shares(ax: Axes, epochs: Any, shares: Mapping[str, Any]) -> list[Any]:
    """Lines of the shares of the gradient that reach the first step."""
    lines = []
    for k, (name, values) in enumerate(shares.items()):
        style = ("--", ":", "-.")[k // len(COLOURS) % 3]
        colour = COLOURS[(k + 2) % len(COLOURS)]  # the first two look like those of the losses
        marker = "o" if len(epochs) == 1 else None
        lines += ax.plot(epochs, values, color=colour, linestyle=style, marker=marker, label=name)
    ax.set(yscale="log", ylabel="gradient at the first step, relative to the last")
    return lines


def axes_or_new(ax: Axes | None, size: tuple[float, float] | None = None) -> Any:
    """`ax`, or the axes of a new figure."""
    if ax is None:
        return pyplot().figure(figsize=size, layout="constrained").subplots()
    if not hasattr(ax, "imshow"):
        raise TypeError(f"ax: got {type(ax).__name__}, must be matplotlib Axes")
    return ax


def divided(ax: Any, rows: int, columns: int = 1, size: tuple[float, float] | None = None, **options: Any) -> Array:
    """An array of axes in place of `ax`: axes, a figure, a part of a figure, or None for a new figure.

    `options` are those of ``subplots``; one panel in given axes is these axes.
    """
    if ax is None:
        ax = pyplot().figure(figsize=size, layout="constrained")
    if hasattr(ax, "subplots"):
        return ax.subplots(rows, columns, squeeze=False, **options)
    axes_or_new(ax)
    if rows == columns == 1:
        return np.array([[ax]])
    ratios = {key: options.pop(key) for key in ("width_ratios", "height_ratios") if key in options}
    if (place := ax.get_subplotspec()) is None:
        raise ValueError("ax: is at a place of its own and cannot be divided; give axes made by subplots, or a figure")
    ax.set_axis_off()
    return place.subgridspec(rows, columns, **ratios).subplots(squeeze=False, **options)


def draw_heat(
    ax: Axes, image: Array, label: str, *, how: str = "mean", **colours: Any
) -> tuple[AxesImage, tuple[int, ...]]:
    """Draw an array (rows, columns), in fewer blocks than there are pixels; values that are not finite are grey.

    Parameters
    ----------
    ax : matplotlib Axes
    image : ndarray
    label : str
        What stands at the left.
    how : {"mean", "extreme"}
        What is shown of a block: its mean, or its value of the largest magnitude.
    **colours
        For `imshow`.

    Returns
    -------
    matplotlib AxesImage, and (rows, columns) of a block
    """
    from matplotlib import colormaps

    rows, columns = image.shape
    block = blocks_of(ax, image.shape)
    small = of_blocks(image, block, how) if block != (1, 1) else image
    extent = (-0.5, small.shape[1] * block[1] - 0.5, small.shape[0] * block[0] - 0.5, -0.5)
    colours["cmap"] = colormaps[colours["cmap"]].with_extremes(bad="0.5")
    drawn = ax.imshow(small, aspect="auto", interpolation="nearest", extent=extent, **colours)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    ax.set_ylabel(label, rotation=0, ha="right", va="center")
    return drawn, block


def blocks_of(ax: Axes, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(rows, columns) of a block, so that each is at least a pixel wide once labels have taken a third of the room."""
    box = ax.get_window_extent()
    room = (max(1, int(side * 2 / 3)) for side in (box.height, box.width))
    return tuple(-(-count // pixels) for count, pixels in zip(shape, room, strict=True))


def of_blocks(image: Array, block: tuple[int, ...], how: str) -> Array:
    """The mean or the extreme of blocks; those at the end may be smaller."""

    def over(function: Any, array: Array) -> Array:
        for axis, size in enumerate(block):
            array = function.reduceat(array, np.arange(0, array.shape[axis], size), axis=axis)
        return array

    with np.errstate(all="ignore"):
        if how == "mean":
            return over(np.add, image.astype(np.float64)) / over(np.add, np.ones(image.shape))
        low, high = over(np.minimum, image), over(np.maximum, image)
        return np.where(-low > high, low, high)


def largest(*arrays: Array) -> float:
    """The largest finite magnitude, for a scale around 0."""
    found = [np.abs(a[np.isfinite(a)]).max(initial=0) for a in arrays]
    return max(float(max(found)), 1e-9)


def usual_limit(array: Array) -> tuple[float, bool]:
    """(limit, whether some values are beyond it) of a scale around 0 that a few outliers do not blow up."""
    sizes = np.abs(array[np.isfinite(array)])
    most, usual = float(sizes.max(initial=1e-9)), float(np.quantile(sizes, 0.995)) if len(sizes) else 0.0
    return (usual, True) if 0 < 1.5 * usual < most else (most, False)
