"""The LSTM cell as the familiar diagram, described once: matplotlib draws it, and the report as SVG."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstmx.plots import COLOURS, pyplot
from lstmx.plots.traced import TracedSequence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from lstmx._types import Array


WIDTH, HEIGHT = 152, 79  # of the drawing, y upwards
MEMORY, HIDDEN, GATES, ADDED = 60, 23, 35, 50  # heights of the lines, the gates, and of i * g
BOX = 16.5, 9  # a learned layer
REACH = BOX[0] - 1.1, 0.6  # left in the box, and width, of the bar that reaches over the units
RADIUS = 2.6  # of a pointwise operation
COLUMN = {"f": 38, "i": 56, "g": 74, "o": 92, "sum": 65, "out": 109, "fork": 126}
FRAME = 22, 17, 131, 71  # left, bottom, right, top
SIZES = {"symbol": 3.0, "value": 2.7, "range": 2.0, "small": 2.0, "gate": 1.75, "operation": 3.4, "layer": 2.6}

GATE_COLOURS = dict(zip("fgio", COLOURS, strict=True))


class Wire(NamedTuple):
    """A line that carries a whole vector, with rounded corners and perhaps an arrow at its end."""

    points: tuple[Any, ...]
    kind: str = "vector"  # or "memory", or "gap" where another line passes above
    arrow: bool = True


class Label(NamedTuple):
    """Words at a place; ``_{..}`` is a subscript."""

    x: float
    y: float
    text: str
    kind: str
    anchor: str = "start"


class Slot(NamedTuple):
    """Where the value of a quantity is written, and its range over the units."""

    x: float
    y: float
    range_x: float
    range_y: float


def _wires() -> tuple[Wire, ...]:
    f, i, g, o, total, out, fork = (COLUMN[name] for name in ("f", "i", "g", "o", "sum", "out", "fork"))
    bottom, top = GATES - BOX[1] / 2, GATES + BOX[1] / 2
    return (
        Wire(((fork, HIDDEN), (fork, 77))),
        Wire(((fork - 2, MEMORY), (fork + 2, MEMORY)), "gap", False),
        Wire(((3, MEMORY), (149, MEMORY)), "memory"),
        Wire(((3, HIDDEN), (o, HIDDEN), (o, bottom))),
        Wire(((30, 8), (30, HIDDEN), (36, HIDDEN)), arrow=False),
        *(Wire(((x, HIDDEN), (x, bottom))) for x in (f, i, g)),
        Wire(((f, top), (f, MEMORY - RADIUS))),
        Wire(((i, top), (i, ADDED), (total - RADIUS, ADDED))),
        Wire(((g, top), (g, ADDED), (total + RADIUS, ADDED))),
        Wire(((total, ADDED + RADIUS), (total, MEMORY - RADIUS))),
        Wire(((o + BOX[0] / 2, GATES), (out - RADIUS, GATES))),
        Wire(((out, MEMORY), (out, ADDED + RADIUS))),
        Wire(((out, ADDED - RADIUS), (out, GATES + RADIUS))),
        Wire(((out, GATES - RADIUS), (out, HIDDEN), (149, HIDDEN))),
        # The key.
        Wire(((76, 3), (83, 3)), arrow=False),
        Wire(((105, 3), (113, 3)), arrow=False),
        Wire(((105, 0.5), (107.5, 0.5), (107.5, 3), (110, 3)), arrow=False),
        Wire(((131, 3), (139, 3)), arrow=False),
        Wire(((134, 3), (136, 3), (136, 0.5), (139, 0.5)), arrow=False),
    )


WIRES = _wires()
FORKS = [(COLUMN[name], HIDDEN) for name in ("f", "i", "g", "fork")] + [(COLUMN["out"], MEMORY), (134, 3)]
LAYERS = {"f": ("σ", "forget gate f"), "i": ("σ", "input gate i"), "g": ("tanh", "candidate g"),
          "o": ("σ", "output gate o")}  # fmt: skip
OPERATIONS = ((COLUMN["f"], MEMORY, "×"), (COLUMN["sum"], ADDED, "×"), (COLUMN["sum"], MEMORY, "+"),
              (COLUMN["out"], GATES, "×"), (COLUMN["out"], ADDED, "tanh"), (38, 2.5, ""))  # fmt: skip
LABELS = (
    Label(3, 69, "c_{t−1}", "symbol"),
    Label(51.5, 68.2, "kept: f × c_{t−1}", "small", "middle"),
    Label(134, 69, "c_{t}", "symbol"),
    Label(67, 56.6, "added: i × g", "small"),
    Label(111, 45.4, "tanh c_{t}", "small"),
    Label(3, 32.2, "h_{t−1}", "symbol"),
    Label(134, 32.2, "h_{t}", "symbol"),
    Label(32, 11.2, "x_{t}", "symbol"),
    Label(COLUMN["fork"] + 1.6, 75, "h_{t}, the output", "small"),
    Label(11, 2.5, "learned layer", "small"),
    Label(42, 2.5, "pointwise operation", "small"),
    Label(85, 2.5, "a whole vector", "small"),
    Label(115, 2.5, "joined", "small"),
    Label(141, 2.5, "copied", "small"),
)
SLOTS = {
    "c_before": Slot(3, 65.2, 3, 62.5),
    "kept": Slot(51.5, 65.3, 51.5, 62.7),
    "c": Slot(134, 65.2, 134, 62.5),
    "added": Slot(67, 53.8, 79, 53.8),
    "tanh_c": Slot(111, 42.8, 111, 40.2),
    "h_before": Slot(3, 28.2, 3, 25.5),
    "h": Slot(134, 28.2, 134, 25.5),
    "x": Slot(37, 11.2, 47, 11.2),
    "f": Slot(COLUMN["f"] + 1.5, 45.6, COLUMN["f"] + 1.5, 42.9),
    "i": Slot(COLUMN["i"] + 1.5, 45.6, COLUMN["i"] + 1.5, 42.9),
    "g": Slot(COLUMN["g"] + 1.5, 45.6, COLUMN["g"] + 1.5, 42.9),
    "o": Slot(COLUMN["o"], 45.6, COLUMN["o"], 42.9),
}
CENTRED = {"kept"}
KEY_BOX = 3, 0.75, 6, 3.5


def number(value: float) -> str:
    """A value in the few figures that a picture has room for."""
    if not np.isfinite(value):
        return str(float(value)).replace("-", "−")
    large = abs(value) >= 100
    return (f"{value:.3g}" if large else f"{value + 0.0:.2f}").replace("-0.00", "0.00").replace("-", "−")


def rounded(points: Sequence[Any], radius: float = 2.5) -> list[Any]:
    """A path with rounded corners: ("M" or "L", point), or ("Q", corner, point)."""
    points = [np.array(point, float) for point in points]
    path: list[Any] = [("M", points[0])]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        steps = [side - corner for side in (before, after)]
        lengths = [np.hypot(*step) for step in steps]
        start, end = (
            corner + step * min(1, min(radius, length / 2) / length)
            for step, length in zip(steps, lengths, strict=True)
        )
        path += [("L", start), ("Q", corner, end)]
    return [*path, ("L", points[-1])]


def arrow_head(points: Sequence[Any]) -> list[Any]:
    """The triangle at the end of a wire."""
    end, before = (np.array(point, float) for point in (points[-1], points[-2]))
    along = (end - before) / np.hypot(*(end - before))
    across = np.array([-along[1], along[0]])
    return [end, end - 2 * along + 0.9 * across, end - 2 * along - 0.9 * across]


def gauge(gate: Any, low: float, high: float) -> tuple[float, float]:
    """(bottom, height) in the box of a gate of the values from low to high; that of a candidate is from -1 to 1."""
    ends = np.array([low, high])
    ends = np.clip((ends + 1) / 2 if gate == "g" else ends, 0, 1)
    ends = np.where(np.isnan(ends), 0, ends)
    return GATES - BOX[1] / 2 + BOX[1] * ends[0], BOX[1] * float(ends[1] - ends[0])


def level(gate: Any, value: float) -> tuple[float, float]:
    """The filled part of a gate's box: from 0 to the value."""
    return gauge(gate, min(value, 0), max(value, 0))


def svg() -> str:
    """The diagram as the source of an SVG picture without values.

    Elements with ``id="value-f"``, ``"range-f"``, ``"level-f"`` and ``"reach-f"`` are there to be filled in, for
    every quantity.
    """
    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="diagram-title" id="diagram">',
        '<title id="diagram-title">The LSTM cell at one step; the table beside it has the same values</title>',
    ]
    left, bottom, right, top = FRAME
    out.append(_svg_rect(left, bottom, right - left, top - bottom, "frame", round=3))
    for wire in WIRES:
        path = " ".join(
            command + " ".join(f"{x:g},{HEIGHT - y:g}" for x, y in points) for command, *points in rounded(wire.points)
        )
        out.append(f'<path class="wire {wire.kind}" d="{path}"/>')
        if wire.arrow:
            corners = " ".join(f"{x:.3f},{HEIGHT - y:.3f}" for x, y in arrow_head(wire.points))
            out.append(f'<polygon class="head" points="{corners}"/>')
    out += [f'<circle class="fork" cx="{x}" cy="{HEIGHT - y}" r="0.75"/>' for x, y in FORKS]
    for gate, (symbol, name) in LAYERS.items():
        x, y = COLUMN[gate] - BOX[0] / 2, GATES - BOX[1] / 2
        out += [_svg_rect(x, y, *BOX, f"layer gate-{gate}"),
                _svg_rect(x, y, BOX[0], 0, f"level gate-{gate}", f"level-{gate}"),
                _svg_rect(x + REACH[0], y, REACH[1], 0, f"reach gate-{gate}", f"reach-{gate}"),
                _svg_rect(x, y, *BOX, f"outline gate-{gate}"),
                _svg_text(Label(x + REACH[0] / 2, GATES + 1.6, symbol, "layer", "middle")),
                _svg_text(Label(x + REACH[0] / 2, GATES - 2.4, name, "gate", "middle"))]  # fmt: skip
    out.append(_svg_rect(*KEY_BOX, "layer key", round=0.8))
    for x, y, symbol in OPERATIONS:
        shape = (
            _svg_rect(x - 5, y - RADIUS, 10, 2 * RADIUS, "operation", round=RADIUS)
            if symbol == "tanh"
            else f'<circle class="operation" cx="{x}" cy="{HEIGHT - y}" r="{RADIUS if symbol else 1.8}"/>'
        )
        kind = "layer" if symbol == "tanh" else "operation"
        out += [shape, _svg_text(Label(x, y, symbol, kind, "middle"))]
    out += [_svg_text(label) for label in LABELS]
    for name, slot in SLOTS.items():
        anchor = "middle" if name in CENTRED else "start"
        out.append(_svg_text(Label(slot.x, slot.y, "", "value", anchor), f"value-{name}"))
        out.append(_svg_text(Label(slot.range_x, slot.range_y, "", "range", anchor), f"range-{name}"))
    return "\n".join([*out, "</svg>"])


def _svg_rect(
    x: float, y: float, width: float, height: float, kind: str, name: str | None = None, round: float = 1.2
) -> str:
    identity = f' id="{name}"' if name else ""
    radius = f' rx="{round}"' if kind.split()[0] not in ("level", "reach") else ""
    return (
        f'<rect class="{kind}"{identity} x="{x:g}" y="{HEIGHT - y - height:g}" width="{width:g}" '
        f'height="{height:g}"{radius}/>'
    )


def _svg_text(label: Label, name: str | None = None) -> str:
    identity = f' id="{name}"' if name else ""
    drop = SIZES[label.kind] * 0.3
    words = re.sub(
        r"_\{(.*?)\}",
        rf'<tspan class="sub" dy="{drop:.2f}">\1</tspan><tspan dy="-{drop:.2f}">&#8203;</tspan>',
        html.escape(label.text),
    )
    return (
        f'<text class="{label.kind}"{identity} x="{label.x:g}" y="{HEIGHT - label.y + SIZES[label.kind] * 0.35:.2f}" '
        f'text-anchor="{label.anchor}" font-size="{SIZES[label.kind]}">{words}</text>'
    )


def cell_diagram(
    trace: Any,
    step: int,
    *,
    sequence: int | None = None,
    layer: int = 0,
    direction: int = 0,
    unit: int | None = None,
    x: ArrayLike | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the LSTM cell with the values of one step.

    The memory runs along the top. Every line is a whole vector; circles are pointwise operations, boxes learned layers;
    lines that join are concatenated, lines that fork are copied. A gate's box is filled up to its value (the
    candidate's from its middle, 0), and the bar at its right reaches from the least to the greatest of the units.

    Parameters
    ----------
    trace : Trace
    step : int
        Counted from 0; from the end if negative.
    sequence : int, optional
        Which of a batch.
    layer, direction : int
    unit : int, optional
        Write the values of this unit. By default the mean of all units, and from where to where they range.
    x : array (T,) or (T, I), optional
        What this layer read; the values of up to four features are written.
    title : str, optional
        Instead of what is said about the step and the units.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> trace = lstmx.LSTM(2, 8, random_state=0).trace(np.ones((5, 2)))
    >>> ax = lstmx.inspect.cell_diagram(trace, step=3)
    >>> ax.get_title()
    'step 3 (0 to 4): mean of 8 units, and their range'
    """
    one = TracedSequence(trace, layer, direction, sequence)
    T, H = one.steps, one.units
    for name, value, count in (("step", step, T), ("unit", unit, H)):
        if value is None and name == "unit":
            continue
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name}: got {value!r}, must be an int")
        if not -count <= value < count:
            raise IndexError(f"{name}: got {value}, there are {count}")
    values: dict[str, Any] = one.at(step, unit)
    if x is not None:
        values["x"] = _input_words(one.read_input(x, None)[0][step])
    if ax is None:
        ax = pyplot().figure(figsize=(11.4, 6.3), layout="constrained").subplots()
    draw(ax, values)
    units = f"unit {unit % H}" if unit is not None else f"mean of {H} units, and their range" if H > 1 else "its unit"
    extra = f"\nthe diagram leaves out what the cell has besides: {', '.join(one.left_out)}" if one.left_out else ""
    way = ", read from the end" if one.backward else ""
    ax.set_title(f"step {step % T} (0 to {T - 1}){way}: {units}{extra}" if title is None else title)
    return ax


def _input_words(row: Array) -> str:
    return "   ".join(map(number, row)) if len(row) <= 4 else f"{len(row)} features"


def draw(ax: Axes, values: Mapping[str, Any]) -> None:
    """Draw the diagram into axes, with the values of a step.

    Parameters
    ----------
    ax : matplotlib Axes
    values : dict of quantity to (value, low, high), and of "x" to words
        low and high are None where there is one value only; a quantity that is missing is not written.
    """
    ax.set(xlim=(0, WIDTH), ylim=(-1.5, HEIGHT), aspect="equal")
    ax.axis("off")
    scale = _points_per_unit(ax)
    left, bottom, right, top = FRAME
    ink, paper = "#222222", "white"
    _patch(ax, "box", (left, bottom, right - left, top - bottom), round=3, facecolor="#F6F6F3", edgecolor="#BBBBBB",
           linewidth=1, zorder=1)  # fmt: skip
    widths = {"vector": 1.3, "memory": 2.6, "gap": 8}
    for order, wire in enumerate(WIRES):
        colour = "#F6F6F3" if wire.kind == "gap" else ink
        _path(ax, rounded(wire.points), edgecolor=colour, facecolor="none", linewidth=widths[wire.kind] * scale / 5,
              zorder=2 + order / 100, capstyle="butt")  # fmt: skip
        if wire.arrow:
            _path(ax, _closed(arrow_head(wire.points)), facecolor=ink, linewidth=0, zorder=2.9)
    for x, y in FORKS:
        _patch(ax, "circle", (x, y), radius=0.75, facecolor=ink, linewidth=0, zorder=3)
    for gate, (symbol, name) in LAYERS.items():
        _draw_layer(ax, gate, values.get(gate))
        middle = COLUMN[gate] - BOX[0] / 2 + REACH[0] / 2
        _text(ax, scale, Label(middle, GATES + 1.6, symbol, "layer", "middle"), ink)
        _text(ax, scale, Label(middle, GATES - 2.4, name, "gate", "middle"), ink)
    _patch(ax, "box", KEY_BOX, round=0.8, facecolor="#DDDDDD", edgecolor=ink, linewidth=0.8, zorder=3)
    for x, y, symbol in OPERATIONS:
        look: dict[str, Any] = {"facecolor": paper, "edgecolor": ink, "linewidth": 1.1, "zorder": 4}
        if symbol == "tanh":
            _patch(ax, "box", (x - 5, y - RADIUS, 10, 2 * RADIUS), round=RADIUS, **look)
        else:
            _patch(ax, "circle", (x, y), radius=RADIUS if symbol else 1.8, **look)
        _text(ax, scale, Label(x, y, symbol, "layer" if symbol == "tanh" else "operation", "middle"), ink)
    for label in LABELS:
        if label.text != "x_{t}" or "x" in values:
            _text(ax, scale, label, ink)
    if "x" in values:
        _text(ax, scale, Label(*SLOTS["x"][:2], values["x"], "value"), ink, gid="value-x")
    for name, (value, low, high) in ((name, v) for name, v in values.items() if name != "x"):
        slot, colour = SLOTS[name], GATE_COLOURS.get(name, ink)
        anchor = "middle" if name in CENTRED else "start"
        _text(ax, scale, Label(slot.x, slot.y, number(value), "value", anchor), _darker(colour), gid=f"value-{name}")
        if low is not None:
            words = f"{number(low)} … {number(high)}"
            _text(ax, scale, Label(slot.range_x, slot.range_y, words, "range", anchor), "#555555", gid=f"range-{name}")


def _draw_layer(ax: Axes, gate: Any, values: Any) -> None:
    """The box of a learned layer, filled up to its value, with a bar from the least to the greatest of the units."""
    x, y = COLUMN[gate] - BOX[0] / 2, GATES - BOX[1] / 2
    colour = GATE_COLOURS[gate]
    outline = _patch(ax, "box", (x, y, *BOX), round=1.2, facecolor="white", edgecolor="none", zorder=3)
    if values is not None:
        value, low, high = values
        bottom, height = level(gate, value)
        _patch(ax, "rectangle", (x, bottom), BOX[0], height, facecolor=colour, alpha=0.35, linewidth=0, zorder=3.1,
               clip_path=outline)  # fmt: skip
        if low is not None:
            bottom, height = gauge(gate, low, high)
            _patch(ax, "rectangle", (x + REACH[0], bottom), REACH[1], height, facecolor=colour, linewidth=0, zorder=3.2)
    _patch(ax, "box", (x, y, *BOX), round=1.2, facecolor="none", edgecolor=colour, linewidth=1.6, zorder=3.3)


def _points_per_unit(ax: Axes) -> float:
    """How many points one unit of the drawing gets."""
    box = ax.get_window_extent()
    return 72 / ax.figure.dpi * min(box.width / WIDTH, box.height / (HEIGHT + 1.5))


def _closed(corners: Sequence[Any]) -> list[Any]:
    return [("M", corners[0]), *(("L", corner) for corner in corners[1:]), ("L", corners[0])]


def _path(ax: Axes, path: Sequence[Any], **look: Any) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    codes = {"M": [Path.MOVETO], "L": [Path.LINETO], "Q": [Path.CURVE3] * 2}
    points = [point for _, *points in path for point in points]
    ax.add_patch(PathPatch(Path(points, [code for command, *_ in path for code in codes[command]]), **look))


def _patch(ax: Axes, shape: Any, place: Any, *size: float, round: float = 0, clip_path: Any = None, **look: Any) -> Any:
    from matplotlib import patches

    if shape == "box":
        x, y, width, height = place
        style = f"round,pad=0,rounding_size={round}"
        patch = patches.FancyBboxPatch((x, y), width, height, boxstyle=style, **look)
    else:
        patch = {"circle": patches.Circle, "rectangle": patches.Rectangle}[shape](place, *size, **look)
    ax.add_patch(patch)
    if clip_path is not None:
        patch.set_clip_path(clip_path)
    return patch


def _text(ax: Axes, scale: float, label: Label, colour: Any, **more: Any) -> None:
    words = re.sub(r"(\w)_\{(.*?)\}", lambda found: f"${found[1]}_{{{found[2].replace('−', '-')}}}$", label.text)
    weight = "bold" if label.kind == "value" else "normal"
    across = {"start": "left", "middle": "center"}[label.anchor]
    ax.text(label.x, label.y, words, fontsize=SIZES[label.kind] * scale, ha=across, va="center", color=colour,
            weight=weight, zorder=5, **more)  # fmt: skip


def _darker(colour: Any) -> tuple[float, ...]:
    """The same hue, dark enough for small letters on white."""
    from matplotlib.colors import to_rgb

    return tuple(0.75 * part for part in to_rgb(colour))
