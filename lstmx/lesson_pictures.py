"""The pictures of the lesson, drawn with matplotlib from what the experiments of lstmx.lesson give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import lstmx
from lstmx.plots import COLOURS, pyplot, whole_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from lstmx._types import Array


STYLES = {
    kind: {"color": colour, "marker": marker}
    for kind, colour, marker in zip(("plain", "lstm", "chrono", "uniform"), COLOURS, "osD^", strict=True)
}
FLOOR = 1e-9  # of the gradients that are drawn


def _label(kind: str) -> str:
    return lstmx.lesson.NETS[kind].label


def _legend(figure: Any, ax: Any, columns: int) -> None:
    """The legend of `ax` below the figure, where nothing is drawn."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize="small")


def draw_vanishing(panels: Mapping[str, Any], errors: Mapping[str, Any] | None = None) -> Figure:
    """Gradient norms against the lag.

    Parameters
    ----------
    panels : dict of title to dict of kind to GradientNorms
    errors : dict of title to dict of kind to float, optional
        Mean squared errors of trained networks: their panel says which of them have learned the task.

    Returns
    -------
    matplotlib Figure
    """
    figure = pyplot().figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (title, found) in zip(axes, panels.items(), strict=True):
        for kind, norms in found.items():
            lag, style = np.arange(len(norms.h)), STYLES[kind] | {"marker": None}
            if norms.c is None:
                ax.plot(lag, norms.h, **style, label=f"{_label(kind)}: $h$")
            else:
                ax.plot(lag, norms.c, **style, label=f"{_label(kind)}: memory $c$")
                ax.plot(lag, norms.h, **style, linestyle=":", label=f"{_label(kind)}: $h$")
        ax.set(title=title, xlabel="steps back, k", yscale="log", ylim=(FLOOR, 3), xlim=(0, None))
        ax.grid(axis="y", color="0.9")
        if errors and title in errors:
            _tell_learned(ax, errors[title])
    _legend(figure, axes[0], 3)
    axes[0].set_ylabel("norm of the gradient of $h_T$\nwith respect to $h_{T-k}$ or $c_{T-k}$")
    return figure


def _tell_learned(ax: Any, errors: Any) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=STYLES[kind]["color"], linewidth=3,
               label=f"{error:.2g}, {'learned' if error < lstmx.lesson.LEARNED else 'not learned'}")
        for kind, error in errors.items()
    ]  # fmt: skip
    legend = ax.legend(handles=lines, title="mean squared error", loc="lower left", fontsize="small")
    legend.get_title().set_fontsize("small")


def draw_adding(learned: lstmx.lesson.Learned) -> Figure:
    """Errors of the adding problem against the number of steps."""
    figure = pyplot().figure(figsize=(7.5, 4.8), layout="constrained")
    ax = figure.subplots()
    ax.axhline(1 / 6, color="0.5", linestyle="--", label="nothing learned: always says 1")
    for kind, scores in learned.scores.items():
        ax.plot(learned.lags, scores, **STYLES[kind], label=_label(kind))
    ax.set(xscale="log", yscale="log", xlabel="steps T of a sequence", ylabel="mean squared error on new sequences")
    ax.set_xticks(learned.lags, [str(lag) for lag in learned.lags])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_title("The sum of two marked numbers among T")
    ax.grid(axis="y", color="0.9")
    _legend(figure, ax, 2)
    return figure


def draw_recall(learned: lstmx.lesson.Learned) -> Figure:
    """Accuracies of naming the first speaker against how many others have spoken since."""
    figure = pyplot().figure(figsize=(7.5, 4.8), layout="constrained")
    ax = figure.subplots()
    place = np.arange(len(learned.lags))
    ax.axhline(1 / lstmx.lesson.SPEAKERS, color="0.5", linestyle="--", label="chance")
    for kind, scores in learned.scores.items():
        ax.plot(place, scores, **STYLES[kind], label=_label(kind))
    ax.set_xticks(place, [f"{n}\n{16 * n}" for n in learned.lags])
    ax.set(xlabel="other utterances since, and about how many frames they have", ylim=(0, 1.02),
           ylabel="share of first speakers named right", title="Who of nine men spoke first?")  # fmt: skip
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.grid(axis="y", color="0.9")
    _legend(figure, ax, 2)
    return figure


_PANELS = (
    ("f", "forget gate f\n0 forgets, 1 keeps", "share kept", "viridis", 0),
    ("i", "input gate i\n1 lets all of the\ncandidate in", "share let in", "viridis", 0),
    ("c", "memory cell\ntanh(c)", "value", "RdBu_r", -1),
)


def draw_conversation(model: lstmx.Sequential, talk: lstmx.lesson.Conversation) -> Figure:
    """What the gates of a model did along one `Conversation`: who spoke, what it answered, f, i and c."""
    trace = model.trace(talk.x[None])[0]
    answer = model.predict(talk.x[None])[0].argmax(axis=1) + 1
    figure = pyplot().figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(1 + len(_PANELS), 1, sharex=True, height_ratios=(1.1, 1, 1, 1))
    _draw_speakers(axes[0], talk, answer)
    order = np.argsort(-trace.f[0, 0][0].mean(axis=0))
    for ax, (name, label, meaning, colours, low) in zip(axes[1:], _PANELS, strict=True):
        image = getattr(trace, name)[0, 0][0].T[order]
        image = np.tanh(image) if name == "c" else image
        drawn = ax.imshow(image, aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=1)
        figure.colorbar(drawn, ax=ax, pad=0.01, label=meaning)
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
        ax.set_yticks([])
        for start, marked in zip(talk.starts[1:], talk.marked[1:], strict=True):
            ax.axvline(start - 0.5, color="white" if low == 0 else "black", linewidth=2 if marked else 0.8,
                       linestyle="-" if marked else ":")  # fmt: skip
    axes[-1].set_xlabel(f"frame, 6.4 ms each; one row for each of {len(order)} units, those that keep most at the top")
    whole_numbers(axes[-1].xaxis)
    return figure


def _draw_speakers(ax: Any, talk: lstmx.lesson.Conversation, answer: Array) -> None:
    frames = np.arange(len(answer))
    ends = [*talk.starts[1:], len(answer)]
    for start, end, speaker, marked in zip(talk.starts, ends, talk.speakers, talk.marked, strict=True):
        ax.axvspan(start - 0.5, end - 0.5, color=COLOURS[1] if marked else "0.93", alpha=0.45 if marked else 1)
        ax.text((start + end - 1) / 2, 10.2, f"man {speaker + 1}" + (",\nremember!" if marked else ""), ha="center",
                va="center", fontsize="small", fontweight="bold" if marked else None)  # fmt: skip
        ax.axvline(start - 0.5, color="0.5", linewidth=0.8)
    ax.step(frames, talk.target + 1, where="mid", color="black", linewidth=3, label="to remember")
    ax.plot(frames, answer, ".", color=COLOURS[0], label="the network's answer")
    ax.set(ylim=(0.3, 11.6), yticks=range(1, 10))
    ax.set_ylabel("who is to be\nremembered", rotation=0, ha="right", va="center")
    ax.legend(fontsize="small", loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=2)


def moments(talk: lstmx.lesson.Conversation) -> list[int]:
    """Two frames of a `Conversation` to look at: in the middle of the second marked utterance, and of the one after."""
    k = int(np.flatnonzero(talk.marked)[1])
    return [int(talk.starts[j] + 8) for j in (k, k + 1)]


def draw_cells(model: lstmx.Sequential, talk: lstmx.lesson.Conversation) -> list[Figure]:
    """Two diagrams of the cell, with the values of the `moments`: one of a marked utterance, one of another."""
    trace = model.trace(talk.x[None])[0]
    figures = []
    for frame, what in zip(moments(talk), ("a new man is to be remembered", "somebody else speaks"), strict=True):
        figure = pyplot().figure(figsize=(10.3, 5.8), layout="constrained")
        H = trace.c[0, 0][0].shape[1]
        lstmx.inspect.cell_diagram(trace, frame, sequence=0, x=talk.x, ax=figure.subplots(),
                                   title=f"frame {frame}, {what}: mean of {H} units, and their range")  # fmt: skip
        figures.append(figure)
    return figures
