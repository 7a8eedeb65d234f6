"""Pictures of a trace in the manner of scikit-learn's displays: gates, memory, half-lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lstmx.data import panel
from lstmx.plots import COLOURS, axes_or_new, divided, draw_heat, largest, usual_limit, whole_numbers
from lstmx.plots.traced import QUANTITIES, TracedSequence, mean_of_steps, read_input

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import ArrayLike

    from lstmx._types import Array
    from lstmx.layers.trace import Trace


# Quantity -> what is on the left, and what the colours mean.
_PANELS = {
    "i": ("input gate i\n1 lets all of the candidate in", "share let in"),
    "f": ("forget gate f\n0 forgets, 1 keeps", "share kept"),
    "g": ("candidate g\nwhat could be added", "value"),
    "o": ("output gate o\n0 hides, 1 shows the memory", "share shown"),
    "c": ("memory cell c", "value"),
    "h": ("output h", "value"),
}
MOST_LINES = 8


def trace_of(estimator: Any, X: ArrayLike | None = None, lstm: int | None = None) -> tuple[Any, list[Array] | None]:
    """The trace of an LSTM of a fitted estimator, predictor or model, and its sequences (T_n, I) or None."""
    traces = None
    forecasts = hasattr(estimator, "predict_interval")
    if hasattr(estimator, "trace"):
        if X is None and not forecasts:
            raise ValueError(f"X: must be the sequences to trace; {type(estimator).__name__} holds none of its own")
        traces = estimator.trace() if X is None else estimator.trace(X)
    if not isinstance(traces, dict):
        raise TypeError(
            f"estimator: got {type(estimator).__name__}, must be a fitted estimator of lstmx, what load gives of one, "
            "or a Sequential; of a pipeline give the last step, pipe[-1], and what it is fed as X"
        )
    lstm = min(traces) if lstm is None else lstm
    if lstm not in traces:
        raise ValueError(f"lstm: got {lstm}, there are {sorted(traces)}: the indices of LSTMs among the layers")
    return traces[lstm], None if forecasts or X is None else _sequences(estimator, X)


def _sequences(estimator: Any, X: Any) -> list[Array]:
    """The sequences of X one by one, as they were given, without padding."""
    config = getattr(estimator, "config", None)  # a dict of a predictor, a method of a Sequential
    layout = config.get("layout", "NTC") if isinstance(config, dict) else getattr(estimator, "layout", "NTC")
    X = X.to_numpy() if hasattr(X, "to_numpy") else X
    return list(panel.read(X, layout, gaps=True).each())


def _one_of(
    estimator: Any, X: ArrayLike | None, sequence: Any, layer: int, direction: int, lstm: int | None
) -> tuple[TracedSequence, Array | None]:
    """What the LSTM did along one sequence of X, and this sequence (T, I) or None."""
    trace, sequences = trace_of(estimator, X, lstm)
    one = TracedSequence(trace, layer, direction, sequence)
    return one, None if sequences is None else sequences[sequence]


def _labels(one: Any) -> dict[str, str]:
    """What stands beside c and h, with the equation where the cell has one that fits."""
    labels = {}
    if one.exponential:
        labels["h"] = "output\nh = o c / n"
    if one.plain["h"]:
        labels["h"] = "output\nh = o tanh(c)"
    if one.plain["c"]:
        labels["c"] = "memory cell\n$c_t = f c_{t+1} + i g$" if one.backward else "memory cell\n$c_t = f c_{t-1} + i g$"
    return labels


def _time(backward: bool) -> str:
    return "time step, from 0; read from the end" if backward else "time step, from 0"


def _names(estimator: Any, given: Any, X: Any) -> Any:
    """Those given, else those of the frames X is a list of, else those of fit."""
    if given is None and isinstance(X, list | tuple) and len(X):
        given = getattr(X[0], "columns", None)
    return getattr(estimator, "feature_names_in_", None) if given is None else given


class GateDisplay:
    """Heat maps of what the gates, the memory and the output did along one sequence, one row per unit.

    Units have the same row in every panel: those that forget most, by the mean of their forget gate, are at the top.
    Where there are more units or steps than pixels, neighbours are averaged, and the label says so. Masked steps and
    values that are not finite are grey.

    Parameters
    ----------
    values : dict of str to array (T, H)
        i, f, g, o, c and h.
    x : array (T,) or (T, I), optional
        The input, drawn on top: up to four features as lines, more as one row each.
    feature_names : I strings, optional
        By default the features are numbered from 0.
    x_label : str
        What the values of x are, and their unit.
    labels : dict of str to str, optional
        What stands beside a quantity, such as its equation; by default what holds for every cell.
    backward : bool
        Whether the sequence was read from its end.

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        By quantity; "x" is the input.
    ax_ : matplotlib Axes
        The topmost.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> x = np.random.default_rng(0).normal(size=(30, 2))
    >>> trace = lstmx.LSTM(2, 8, random_state=0).trace(x)
    >>> display = lstmx.inspect.GateDisplay.from_trace(trace, quantities="fc", x=x, feature_names=["wind", "rain"])
    >>> list(display.axes_)
    ['x', 'f', 'c']
    """

    x: Any
    feature_names: Any
    labels: Mapping[str, str]

    def __init__(
        self,
        values: Mapping[str, Array],
        *,
        x: ArrayLike | None = None,
        feature_names: Sequence[str] | None = None,
        x_label: str = "input x",
        labels: Mapping[str, str] | None = None,
        backward: bool = False,
    ) -> None:
        self.values, self.x_label, self.backward = values, x_label, backward
        self.labels = {} if labels is None else labels
        self.x, self.feature_names = (
            (x, feature_names) if x is None else read_input(x, feature_names, len(values["c"]))
        )  # fmt: skip

    @classmethod
    def from_trace(
        cls,
        trace: Trace,
        layer: int = 0,
        direction: int = 0,
        *,
        sequence: int | None = None,
        x: ArrayLike | None = None,
        feature_names: Sequence[str] | None = None,
        x_label: str = "input x",
        quantities: str = "ifgoch",
        ax: Axes | Figure | SubFigure | None = None,
    ) -> Self:
        """Draw one sequence of a trace.

        Parameters
        ----------
        trace : Trace
        layer, direction : int
        sequence : int, optional
            Which of a batch.
        x, feature_names, x_label : as of the class
        quantities : str
            Which panels, and in which order.
        ax : matplotlib Axes, Figure or SubFigure, optional
            Where the panels go.

        Returns
        -------
        GateDisplay
        """
        one = TracedSequence(trace, layer, direction, sequence)
        if x is not None:
            x, feature_names = one.read_input(x, feature_names)
        return cls._of(one, x, feature_names, x_label).plot(ax, quantities=quantities)

    @classmethod
    def _of(cls, one: Any, x: Any, feature_names: Sequence[str] | None, x_label: str) -> Self:
        """Of a `TracedSequence`."""
        more = {"labels": _labels(one), "backward": one.backward}
        return cls(one.values, x=x, feature_names=feature_names, x_label=x_label, **more)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | None = None,
        *,
        sequence: int = 0,
        layer: int = 0,
        direction: int = 0,
        lstm: int | None = None,
        feature_names: Sequence[str] | None = None,
        x_label: str = "input x",
        quantities: str = "ifgoch",
        ax: Axes | Figure | SubFigure | None = None,
    ) -> Self:
        """Draw what the LSTM of a fitted estimator did along one of the sequences X, and this sequence.

        Parameters
        ----------
        estimator : a fitted estimator of lstmx, or what `lstmx.load` gives of one
        X : as in its `trace`
        sequence, layer, direction : int
        lstm : int, optional
            The index of the LSTM among the layers; by default the first.
        feature_names, x_label, quantities, ax : as in `from_trace`
            By default the names of the frames of X, or those that X had in `fit`.

        Returns
        -------
        GateDisplay
        """
        one, x = _one_of(estimator, X, sequence, layer, direction, lstm)
        names = None if x is None else _names(estimator, feature_names, X)
        return cls._of(one, x, names, x_label).plot(ax, quantities=quantities)

    def plot(self, ax: Axes | Figure | SubFigure | None = None, *, quantities: str = "ifgoch") -> Self:
        """Draw; parameters as in `from_trace`."""
        if not quantities or len(set(quantities)) < len(quantities) or not set(quantities) <= set(QUANTITIES):
            raise ValueError(f'quantities: got {quantities!r}, must be some of "ifgoch", each once')
        names = [*(["x"] if self.x is not None else []), *quantities]
        size = (10, max(3, 1.7 * len(names) + 0.8))
        axes = divided(ax, len(names), size=size, sharex=len(names) > 1)[:, 0]
        self.axes_, self.ax_, self.figure_ = dict(zip(names, axes, strict=True)), axes[0], axes[0].figure
        if self.x is not None:
            _draw_input(self.axes_["x"], self.x, self.feature_names, self.x_label)
        order = np.argsort(mean_of_steps(self.values["f"]), kind="stable")
        for name in quantities:
            label, meaning = _PANELS[name]
            label = self.labels.get(name, label)
            image = self.values[name].T
            # A projected output has units of its own.
            image = image[order] if name in "ifgo" or len(image) >= len(order) else image
            low: float
            low, high = (0, 1) if name in "ifo" else (-1, 1)
            usual = name != "c" and not ((image < low) | (image > high)).any()
            limit, beyond = (1, False) if usual else usual_limit(image)
            if usual and name in "ifo":
                colours = "viridis"
            else:  # gates of other activations are no shares
                low, colours, meaning = -limit, "RdBu_r", "value"
                label = label.partition("\n")[0] if name in "ifo" else label
            ax = self.axes_[name]
            drawn, block = draw_heat(ax, image, label, vmin=low, vmax=limit, cmap=colours)
            ax.figure.colorbar(drawn, ax=ax, pad=0.01, label=meaning, extend="both" if beyond else "neither")
            ax.set_yticks([])
        H = self.values["f"].shape[1]
        row = "one row per unit" if block[0] == 1 else f"each row the mean of {block[0]} of {H} units"
        column = f"; each column the mean of {block[1]} steps" if block[1] > 1 else ""
        everywhere = "in every panel " if len(quantities) > 1 else ""
        axes[-1].set_xlabel(f"{_time(self.backward)}{column}\n{everywhere}{row}, those that forget most at the top")
        whole_numbers(axes[-1].xaxis)
        return self


def plot_trace(
    trace: Trace,
    layer: int = 0,
    direction: int = 0,
    *,
    sequence: int | None = None,
    x: ArrayLike | None = None,
    feature_names: Sequence[str] | None = None,
    x_label: str = "input x",
    figure: Figure | None = None,
) -> Figure:
    """Draw gates, memory and output along one sequence: all panels of a `GateDisplay`.

    Parameters
    ----------
    trace, layer, direction, sequence, x, feature_names, x_label : as in `GateDisplay.from_trace`
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
    options: dict[str, Any] = {
        "sequence": sequence,
        "x": x,
        "feature_names": feature_names,
        "x_label": x_label,
        "ax": figure,
    }
    return GateDisplay.from_trace(trace, layer, direction, **options).figure_


def _draw_input(ax: Any, x: Array, names: Any, label: str) -> None:
    if x.shape[1] > len(COLOURS):
        limit = largest(x)
        drawn, block = draw_heat(ax, x.T, label, vmin=-limit, vmax=limit, cmap="PuOr_r")
        ax.figure.colorbar(drawn, ax=ax, pad=0.01, label="value" if block == (1, 1) else "mean of neighbours")
        shown: Any = np.arange(0, len(names), -(-len(names) // 14))  # as many names as there is room for
        ax.set_yticks(shown, [names[k] for k in shown], fontsize="x-small", parse_math=False)
        return
    for column, name, colour in zip(x.T, names, COLOURS, strict=False):
        shown = f" {name}" if name.startswith("_") else name  # a legend leaves out what begins with "_"
        ax.plot(column, color=colour, marker="o" if len(x) == 1 else None, label=shown)
    ax.set_ylabel(label, rotation=0, ha="right", va="center")
    # Above, since lines are everywhere.
    legend = ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(COLOURS), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


class MemoryDisplay:
    """The memory cell along time: single units as lines, and where all units lie as bands.

    Parameters
    ----------
    c : array (T, H)
    units : list of int, optional
        Which units are lines, at most 8. By default all of up to four; of more those three that vary most.
    backward : bool
        Whether the sequence was read from its end.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        Of the units.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> trace = lstmx.LSTM(2, 8, random_state=0).trace(np.random.default_rng(0).normal(size=(30, 2)))
    >>> display = lstmx.inspect.MemoryDisplay.from_trace(trace, units=[0, 5])
    >>> [line.get_label() for line in display.lines_]
    ['unit 0', 'unit 5']
    """

    def __init__(self, c: Array, units: Sequence[int] | None = None, *, backward: bool = False) -> None:
        self.c, self.backward, H = c, backward, c.shape[1]
        if units is None:
            with np.errstate(all="ignore"):
                spread = np.nan_to_num(np.std(c, axis=0, dtype=np.float64), nan=-1)
            units = range(H) if H <= 4 else sorted(np.argsort(-spread, kind="stable")[:3].tolist())
        units = list(units)
        if len(units) > MOST_LINES:
            raise ValueError(f"units: got {len(units)}, must be at most {MOST_LINES}, which eyes can tell apart")
        for unit in units:
            if not isinstance(unit, int | np.integer) or not 0 <= unit < H:
                raise ValueError(f"units: got {unit!r}, must be ints from 0 to {H - 1}")
        self.units = units

    @classmethod
    def from_trace(
        cls,
        trace: Trace,
        layer: int = 0,
        direction: int = 0,
        *,
        sequence: int | None = None,
        units: Sequence[int] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw one sequence of a trace; parameters as in `GateDisplay.from_trace` and of the class."""
        one = TracedSequence(trace, layer, direction, sequence)
        return cls(one.values["c"], units, backward=one.backward).plot(ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | None = None,
        *,
        sequence: int = 0,
        layer: int = 0,
        direction: int = 0,
        lstm: int | None = None,
        units: Sequence[int] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw one of the sequences X; parameters as in `GateDisplay.from_estimator` and of the class."""
        one, _ = _one_of(estimator, X, sequence, layer, direction, lstm)
        return cls(one.values["c"], units, backward=one.backward).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        MemoryDisplay
        """
        ax = axes_or_new(ax, (10, 4))
        self.ax_, self.figure_, self.lines_ = ax, ax.figure, []
        T, H = self.c.shape
        steps, marker = np.arange(T), "o" if T == 1 else None
        ax.axhline(0, color="0.6", linewidth=0.8)
        if max(4, len(self.units)) < H:
            with np.errstate(all="ignore"):
                low, first, middle, third, high = np.quantile(self.c, [0, 0.25, 0.5, 0.75, 1], axis=1)
            ax.fill_between(steps, low, high, color="0.88", linewidth=0, label=f"all {H} units")
            ax.fill_between(steps, first, third, color="0.72", linewidth=0, label="their middle half")
            ax.plot(steps, middle, color="0.35", linewidth=1, label="their median")
        for place, unit in enumerate(self.units):
            style = ("-", "--")[place // len(COLOURS)]
            self.lines_ += ax.plot(steps, self.c[:, unit], color=COLOURS[place % len(COLOURS)], linestyle=style,
                                   marker=marker, linewidth=1.4, label=f"unit {unit}")  # fmt: skip
        ax.set(xlabel=_time(self.backward), ylabel="memory cell $c_t$", xlim=(-0.5, T - 0.5))
        whole_numbers(ax.xaxis)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, frameon=False, fontsize="small")
        return self


class HalfLifeDisplay:
    """How long each unit remembers: the steps after which half of a memory is left.

    Units are sorted by it. Those that lose nothing, or all at once, are triangles at the upper and the lower edge.

    Parameters
    ----------
    half_lives : array (H,)
        As `Trace.half_lives` gives them.
    steps : int, optional
        The length of the longest sequence traced: half-lives beyond it are extrapolated.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> trace = lstmx.LSTM(2, 8, random_state=0).trace(np.ones((30, 2)))
    >>> display = lstmx.inspect.HalfLifeDisplay.from_trace(trace)
    >>> display.half_lives.shape, display.steps
    ((8,), 30)
    """

    def __init__(self, half_lives: Array, steps: int | None = None) -> None:
        self.half_lives, self.steps = np.asarray(half_lives, np.float64), steps
        if self.half_lives.ndim != 1 or not len(self.half_lives):
            raise ValueError(f"half_lives: got shape {self.half_lives.shape}, must be (H,)")

    @classmethod
    def from_trace(cls, trace: Trace, layer: int = 0, direction: int = 0, *, ax: Axes | None = None) -> Self:
        """Draw the units of one layer and direction.

        Parameters
        ----------
        trace : Trace
        layer, direction : int
        ax : matplotlib Axes, optional

        Returns
        -------
        HalfLifeDisplay
        """
        if not hasattr(trace, "half_lives"):
            raise TypeError(f"trace: got {type(trace).__name__}, must be a Trace")
        return cls(trace.half_lives(layer, direction), int(trace.lengths.max())).plot(ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | None = None,
        *,
        layer: int = 0,
        direction: int = 0,
        lstm: int | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the units of a fitted estimator along X; parameters as in `GateDisplay.from_estimator`."""
        trace, _ = trace_of(estimator, X, lstm)
        return cls.from_trace(trace, layer, direction, ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        HalfLifeDisplay
        """
        ax = axes_or_new(ax, (10, 4))
        from matplotlib.ticker import LogLocator

        self.ax_, self.figure_ = ax, ax.figure
        order = np.argsort(self.half_lives, kind="stable")
        values, H = self.half_lives[order], len(order)
        finite, rank = np.isfinite(values) & (values > 0), np.arange(H)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
        spread = values[finite]
        if len(spread) and max(spread.max(), self.steps or 0) < 1000 * spread.min():
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        marker = {"marker": "o", "markersize": 6 if H <= 64 else 3, "linestyle": "none"}
        ax.plot(rank[finite], values[finite], color=COLOURS[0], label="half-life of a unit", **marker)
        for chosen, height, sign, label in (
            (np.isposinf(values), 0.97, "^", "nothing is lost"),
            (values == 0, 0.03, "v", "all is lost in a step"),
        ):
            if chosen.any():  # at the edge of the axes
                ax.plot(rank[chosen], np.full(chosen.sum(), height), color=COLOURS[1], label=label,
                        transform=ax.get_xaxis_transform(), **marker | {"marker": sign})  # fmt: skip
        if self.steps:
            ax.axhline(self.steps, color="0.4", linestyle=":", label=f"the longest sequence: {self.steps} steps")
        if H <= 32:
            ax.set_xticks(rank, order)
        ax.set(xlabel=f"unit, by half-life{'' if H <= 32 else f'; {H} units'}", ylabel="half-life, steps",
               xlim=(-0.5, H - 0.5))  # fmt: skip
        ax.grid(axis="y", color="0.9")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize="small")
        return self
