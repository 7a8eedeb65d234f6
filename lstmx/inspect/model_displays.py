"""Pictures of a model: its weights, how the gradient flows through it, and what decides its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lstmx.functional import validate
from lstmx.inspect.attribution import attribute
from lstmx.inspect.explain import SHOWN, explain
from lstmx.plots import (
    COLOURS,
    axes_or_new,
    blocks_of,
    divided,
    draw_heat,
    largest,
    of_blocks,
    usual_limit,
    whole_numbers,
)
from lstmx.plots.traced import read_input

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import ArrayLike

    from lstmx._types import Array
    from lstmx.inspect.attribution import Attribution
    from lstmx.layers import LSTM
    from lstmx.layers.flow import GradientFlow
    from lstmx.model import Sequential


GATES = {4: "ifgo", 3: "igo", 1: " "}  # by the number of blocks of H rows; one: a plain recurrent network


class GradientFlowDisplay:
    """How much of the gradient reaches each step: its norm, on a log axis, of the output and of the memory.

    Parameters
    ----------
    norms : dict of {"h", "c"} to dict of key to array (T,)
        As `GradientFlow.norms` gives them.
    by : {"step", "lag"}
        Whether time is counted from the first step, or back from the last.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> lstm, dy = lstmx.LSTM(2, 3, random_state=0), np.zeros((50, 3))
    >>> dy[-1] = 1
    >>> flow = lstmx.inspect.gradient_flow(lstm, np.zeros((50, 2)), dy)
    >>> display = lstmx.inspect.GradientFlowDisplay.from_flow(flow, by="lag")
    >>> [line.get_label() for line in display.lines_]
    ['dL/dh', 'dL/dc']
    """

    def __init__(self, norms: Mapping[str, Mapping[Any, Array]], by: str = "step") -> None:
        if by not in ("step", "lag"):
            raise ValueError(f'by: got {by!r}, must be "step" or "lag"')
        self.norms, self.by = norms, by

    @classmethod
    def from_flow(cls, flow: GradientFlow, *, by: str = "step", ax: Axes | None = None) -> Self:
        """Draw what `gradient_flow` gives.

        Parameters
        ----------
        flow : GradientFlow
        by : {"step", "lag"}
            With "lag" sequences of different lengths meet at their last step, else at their first.
        ax : matplotlib Axes, optional

        Returns
        -------
        GradientFlowDisplay
        """
        if not hasattr(flow, "norms"):
            raise TypeError(f"flow: got {type(flow).__name__}, must be a GradientFlow")
        display = cls({}, by)
        display.norms = {name: flow.norms(name, align="end" if by == "lag" else "start") for name in "hc"}  # type: ignore[arg-type]
        return display.plot(ax)

    @classmethod
    def from_model(
        cls, model: Sequential, X: ArrayLike, y: ArrayLike, *, by: str = "step", ax: Axes | None = None, **options: Any
    ) -> Self:
        """Draw the gradient of a loss of a model.

        Parameters
        ----------
        model : Sequential
        X, y : as in `Sequential.gradient_flow`
        by, ax : as in `from_flow`
        **options
            Of `Sequential.gradient_flow`, such as loss.

        Returns
        -------
        GradientFlowDisplay
        """
        if not hasattr(model, "gradient_flow"):
            raise TypeError(f"model: got {type(model).__name__}, must be a Sequential; of an LSTM draw what "
                            "lstmx.inspect.gradient_flow gives, by from_flow")  # fmt: skip
        return cls.from_flow(model.gradient_flow(X, y, **options), by=by, ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        GradientFlowDisplay
        """
        if not any(self.norms.values()):
            raise ValueError("norms: hold no gradient to draw, must be of a model with an LSTM or RNN among its layers")
        ax = axes_or_new(ax, (10, 4.5))
        self.ax_, self.figure_, self.lines_ = ax, ax.figure, []
        ax.set_yscale("log")
        keys = list(self.norms["h"])
        colours = _colours(len(keys))
        zeros = False
        for name, style in (("h", "-"), ("c", "--")):
            for key, colour in zip(keys, colours, strict=True):
                if key not in self.norms[name]:
                    continue  # a plain recurrent network has no memory cell
                values = np.asarray(self.norms[name][key], np.float64)
                values = values[::-1] if self.by == "lag" else values
                zeros |= bool((values == 0).any())
                label = f"dL/d{name}{_of(key, keys)}"
                drawn = np.where(values > 0, values, np.nan)  # a log axis has no 0
                marker = "o" if np.isfinite(drawn).sum() == 1 else None
                self.lines_ += ax.plot(drawn, style, color=colour, linewidth=1.5, marker=marker, label=label)
        words = {"step": "time step, from 0", "lag": "lag: steps before the last"}[self.by]
        ax.set(xlabel=words, ylabel=f"norm of the gradient{'; zeros are not drawn' if zeros else ''}")
        whole_numbers(ax.xaxis)
        ax.grid(axis="y", color="0.9")
        ax.legend(handles=self._key(keys, colours), loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False,
                  fontsize="small")  # fmt: skip
        return self

    def _key(self, keys: Sequence[Any], colours: Sequence[Any]) -> list[Any]:
        """What the legend shows: the lines, or of several layers their colours and the two kinds of line."""
        if len(keys) == 1:
            return self.lines_
        from matplotlib.lines import Line2D

        kinds = [Line2D([], [], color="black", linestyle=style, label=f"dL/d{name}")
                 for name, style in (("h", "-"), ("c", "--")) if self.norms[name]]  # fmt: skip
        layers = [Line2D([], [], color=colour, linewidth=4, label=_of(key, keys).removeprefix(", "))
                  for key, colour in zip(keys, colours, strict=True)]  # fmt: skip
        return kinds + layers


def _colours(count: int) -> Sequence[Any]:
    if count <= len(COLOURS):
        return COLOURS[:count]
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * k / (count - 1)) for k in range(count)]


def _of(key: Any, keys: Collection[Any]) -> str:
    """Which layer a key names, where there are several."""
    if len(keys) == 1:
        return ""
    *model, layer, direction = key
    where = f", layers[{model[0]}]" if len({other[:-2] for other in keys}) > 1 else ""
    return f"{where}, layer {layer}{', reverse' if direction else ''}"


class WeightsDisplay:
    """The weights of one layer and direction by gate: what it reads from the input, from its own output, and the bias.

    Each row is a unit of a gate, each column what it reads. Red adds, blue subtracts. Where there are more weights than
    pixels, the largest of neighbours is shown, and the label says so. Of a projection, peepholes and norms nothing is
    drawn.

    Parameters
    ----------
    weights : dict of {"x", "h", "b"} to array
        (4H, I), (4H, H) and (4H,).
    hidden_size : int
    feature_names : I strings, optional
        Written below the input; by default its columns are numbered from 0.

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        By "x", "h" and "b".
    ax_ : matplotlib Axes
        The first.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import lstmx
    >>> display = lstmx.inspect.WeightsDisplay.from_model(lstmx.LSTM(2, 8, random_state=0))
    >>> list(display.axes_)
    ['x', 'h', 'b']
    """

    def __init__(
        self, weights: Mapping[str, Array], hidden_size: int, feature_names: Sequence[str] | None = None
    ) -> None:
        self.weights, self.hidden_size, self.feature_names = weights, hidden_size, feature_names
        inputs = weights["x"].shape[1]
        if feature_names is not None and len(feature_names) != inputs:
            raise ValueError(f"feature_names: got {len(feature_names)}, must be {inputs}, one for each column of x")
        self.gates = GATES[len(weights["h"]) // hidden_size]

    @classmethod
    def from_model(
        cls,
        model: LSTM | Sequential,
        layer: int = 0,
        direction: int = 0,
        *,
        lstm: int | None = None,
        feature_names: Sequence[str] | None = None,
        ax: Axes | Figure | SubFigure | None = None,
    ) -> Self:
        """Draw the weights of an LSTM, or of one in a model.

        Parameters
        ----------
        model : LSTM or Sequential
        layer, direction : int
        lstm : int, optional
            The index of the LSTM among the layers of the model; by default the first.
        feature_names : strings, optional
            Of what this layer reads.
        ax : matplotlib Axes, Figure or SubFigure, optional

        Returns
        -------
        WeightsDisplay
        """
        if hasattr(model, "layers"):
            found = {k: part for k, part in enumerate(model.layers) if _has_weights(part)}
            if not found:
                raise ValueError("model: has no LSTM or RNN, whose weights could be drawn")
            lstm = min(found) if lstm is None else lstm
            if lstm not in found:
                raise ValueError(f"lstm: got {lstm}, there are {list(found)}: the indices of LSTMs among the layers")
            model = found[lstm]
        elif not _has_weights(model):
            raise TypeError(f"model: got {type(model).__name__}, must be an LSTM or a Sequential")
        parameters, end = model.parameters(), f"_l{layer}{'_reverse' if direction else ''}"
        names = {"x": f"weight_ih{end}", "h": f"weight_hh{end}", "b": f"bias{end}"}
        if direction not in (0, 1) or names["x"] not in parameters:
            raise IndexError(f"layer, direction: there is no ({layer}, {direction}) in {model!r}")
        weights = {part: parameters[name] for part, name in names.items() if name in parameters}
        return cls(weights, model.hidden_size, feature_names).plot(ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        layer: int = 0,
        direction: int = 0,
        *,
        lstm: int | None = None,
        feature_names: Sequence[str] | None = None,
        ax: Axes | Figure | SubFigure | None = None,
    ) -> Self:
        """Draw the weights of a fitted estimator, or of a predictor; parameters as in `from_model`.

        By default a layer that reads the features has the names that they had in `fit`.
        """
        # Of an estimator that is not fitted model_ raises scikit-learn's error.
        fitted = hasattr(type(estimator), "model_") or "model_" in getattr(estimator, "__dict__", {})
        model = estimator.model_ if fitted else getattr(estimator, "model", None)
        if model is None:
            raise TypeError(f"estimator: got {type(estimator).__name__}, must be a fitted estimator of lstmx; of a "
                            "pipeline give the last step, pipe[-1]")  # fmt: skip
        known = getattr(estimator, "feature_names_in_", None)
        reads_features = layer == 0 and lstm in (None, 0) and len(model.layers) and _has_weights(model.layers[0])
        if feature_names is None and known is not None and reads_features:
            feature_names = list(known) if len(known) == model.layers[0].input_size else None
        return cls.from_model(model, layer, direction, lstm=lstm, feature_names=feature_names, ax=ax)

    def plot(self, ax: Axes | Figure | SubFigure | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, Figure or SubFigure, optional

        Returns
        -------
        WeightsDisplay
        """
        images = {part: w[:, None] if w.ndim == 1 else w for part, w in self.weights.items()}
        widths = np.array([image.shape[1] for image in images.values()], float)
        ratios = np.maximum(widths, 0.06 * widths.sum())
        options: dict[str, Any] = {"width_ratios": ratios.tolist(), "sharey": len(images) > 1, "size": (10, 7)}
        axes = divided(ax, 1, len(images), **options)[0]
        self.axes_, self.ax_, self.figure_ = dict(zip(images, axes, strict=True)), axes[0], axes[0].figure
        # Most biases of a forget gate are 1, and would hide the rest.
        limit = max(usual_limit(image)[0] for part, image in images.items() if part != "b")
        H = self.hidden_size
        block: tuple[int, ...] = (1, 1)
        for (part, image), share in zip(images.items(), ratios / ratios.sum(), strict=True):
            ax = self.axes_[part]
            drawn, found = draw_heat(ax, image, "", how="extreme", vmin=-limit, vmax=limit, cmap="RdBu_r")
            block = tuple(map(max, block, found))
            title = {
                "x": f"input x\n{image.shape[1]} wide",
                "h": f"output before, h\n{image.shape[1]} wide",
                "b": "bias\n",
            }
            ax.set_title(title[part], fontsize="medium")
            for k in range(1, len(self.gates)):
                ax.axhline(k * H - 0.5, color="black", linewidth=0.8)
            whole_numbers(ax.xaxis)
            ax.xaxis.get_major_locator().set_params(nbins=max(1, int(10 * share)))
        if self.feature_names is None:
            self.axes_["x"].set_xlabel("what is read")
        else:
            features = len(self.feature_names)
            room = max(1, int(28 * ratios[0] / ratios.sum()))  # names beside each other
            shown = np.arange(0, features, -(-features // room))
            self.axes_["x"].set_xticks(shown, [str(self.feature_names[k]) for k in shown], rotation=90,  # type: ignore[call-overload]
                                       fontsize="small", parse_math=False)  # fmt: skip
        if "b" in self.axes_:
            self.axes_["b"].set_xticks([])
        names = {"i": "input gate i", "f": "forget gate f", "g": "candidate g", "o": "output gate o"}
        units = f"{H} unit{'s' * (H > 1)}"
        if len(self.gates) > 1:
            places = [(k + 0.5) * H - 0.5 for k in range(len(self.gates))]
            self.ax_.set_yticks(places, [names[gate] for gate in self.gates])
            units = f"in each block {units}"
        else:
            whole_numbers(self.ax_.yaxis)
        self.ax_.set_ylabel(units, rotation=90, ha="center", va="bottom")
        label = f"weight{_largest_of(block, 'units', 'columns')}"
        beyond = "both" if largest(*images.values()) > limit else "neither"
        self.figure_.colorbar(drawn, ax=list(axes), pad=0.01, label=label, extend=beyond)
        return self


def _has_weights(layer: Any) -> bool:
    return hasattr(layer, "hidden_size") and "weight_hh_l0" in layer.parameters()


def _largest_of(block: tuple[int, ...], *names: str) -> str:
    """What a block of a heat map stands for."""
    parts = [f"{count} {name}" for count, name in zip(block, names, strict=True) if count > 1]
    return f", the largest of {' × '.join(parts)}" if parts else ""


class AttributionDisplay:
    """What each step and feature of one sequence did to an output: red raised it, blue lowered it.

    Parameters
    ----------
    values : array (T, I) or (T,)
    feature_names : I strings, optional
        By default the features are numbered from 0.
    step_names : T strings, optional
        By default the steps are numbered from 0.
    label : str
        What the values are.
    title : str, optional

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        "sum" is the sum over the features at every step; of several features there is "values".
    ax_ : matplotlib Axes
        The topmost.
    figure_ : matplotlib Figure
    """

    def __init__(
        self,
        values: ArrayLike,
        *,
        feature_names: Sequence[str] | None = None,
        step_names: Sequence[str] | None = None,
        label: str = "attribution",
        title: str | None = None,
    ) -> None:
        values = np.asarray(values)
        if values.ndim not in (1, 2) or not len(values):
            raise ValueError(f"values: got shape {values.shape}, must be (T, I), of one sequence")
        self.values, self.feature_names = read_input(values, feature_names, len(values))
        self.step_names, self.label, self.title = step_names, label, title
        if step_names is not None and len(step_names) != len(values):
            raise ValueError(f"step_names: got {len(step_names)}, must be {len(values)}, one for each step")

    @classmethod
    def from_attribution(
        cls,
        attribution: Attribution,
        *,
        sequence: int | None = None,
        feature_names: Sequence[str] | None = None,
        ax: Axes | Figure | SubFigure | None = None,
    ) -> Self:
        """Draw what `attribute` found for one sequence.

        Parameters
        ----------
        attribution : Attribution
        sequence : int, optional
            Which of a batch.
        feature_names : I strings, optional
        ax : matplotlib Axes, Figure or SubFigure, optional

        Returns
        -------
        AttributionDisplay
        """
        if not hasattr(attribution, "values") or not hasattr(attribution, "method"):
            raise TypeError(
                f"attribution: got {type(attribution).__name__}, must be what lstmx.inspect.attribute gives"
            )  # fmt: skip
        values, count = attribution.values, len(attribution.output)
        if sequence is None and (count > 1 or np.ndim(values) == 3):
            raise ValueError("sequence: the attributions are of a batch; say which sequence to draw")
        title = None
        if sequence is not None:
            sequence = validate.place("sequence", sequence, count, "sequences")
        n = sequence or 0
        if attribution.unexplained[n] > SHOWN:
            whole = attribution.output[n] - attribution.baseline_output[n]
            title = f"unexplained {-attribution.completeness[n]:+.2g} of {whole:.2g}"
        if sequence is not None and attribution.batch:
            values = values[sequence]
        return cls(values, feature_names=feature_names, label=_method(attribution), title=title).plot(ax)

    @classmethod
    def from_model(
        cls,
        model: Sequential | LSTM,
        X: ArrayLike,
        *,
        sequence: int | None = None,
        feature_names: Sequence[str] | None = None,
        ax: Axes | Figure | SubFigure | None = None,
        **options: Any,
    ) -> Self:
        """Draw what decides an output of a model for one sequence.

        Parameters
        ----------
        model, X : as in `attribute`
        sequence, feature_names, ax : as in `from_attribution`
        **options
            Of `attribute`, such as output and method.

        Returns
        -------
        AttributionDisplay
        """
        found = attribute(model, X, **options)
        return cls.from_attribution(found, sequence=sequence, feature_names=feature_names, ax=ax)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike | None = None,
        *,
        sequence: int = 0,
        ax: Axes | Figure | SubFigure | None = None,
        **options: Any,
    ) -> Self:
        """Draw what decided what a fitted estimator says of a sequence.

        Parameters
        ----------
        estimator, X : as in `explain`
        sequence : int
        ax : matplotlib Axes, Figure or SubFigure, optional
        **options
            Of `explain`, such as output and feature_names.

        Returns
        -------
        AttributionDisplay
        """
        found = explain(estimator, X, **options)
        sequence = validate.place("sequence", sequence, len(found.shares), "sequences")
        if np.isnan(found.output[sequence]):
            raise ValueError(f"step: sequence {sequence} {found.subject[sequence]}")
        return cls(
            found.shares[sequence],
            feature_names=found.column_names,
            step_names=found.step_names,
            label=_method(found),
            title=found.answer(sequence),
        ).plot(ax)

    def plot(self, ax: Axes | Figure | SubFigure | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, Figure or SubFigure, optional

        Returns
        -------
        AttributionDisplay
        """
        T, features = self.values.shape
        names = ["sum", "values"] if features > 1 else ["sum"]
        ratios: dict[str, Any] = {"height_ratios": [1, 2]} if features > 1 else {}
        axes = divided(ax, len(names), size=(10, 2 + 2.6 * len(names)), sharex=len(names) > 1, **ratios)[:, 0]
        self.axes_, self.ax_, self.figure_ = dict(zip(names, axes, strict=True)), axes[0], axes[0].figure
        sums, steps = self.values.sum(axis=1, dtype=np.float64), np.arange(T)
        self.ax_.axhline(0, color="0.6", linewidth=0.8)
        width = blocks_of(self.ax_, (1, T))[1]
        edges = np.append(steps[::width], T) - 0.5
        for sign, colour, label in ((1, "#B2182B", "raises the output"), (-1, "#2166AC", "lowers it")):
            part = np.where(sums * sign > 0, sums, 0)
            if T > 60:
                part = of_blocks(part[None], (1, width), "extreme")[0]
                self.ax_.stairs(part, edges, baseline=0, fill=True, color=colour, label=label)
            else:
                self.ax_.bar(steps, part, width=0.8, color=colour, label=label)
        label = f"{self.label}:\nsum over the features" if features > 1 else self.label
        label += f",\nthe largest of {width} steps" if width > 1 else ""
        self.ax_.set_ylabel(label, rotation=0, ha="right", va="center")
        self.ax_.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize="small")
        if features > 1:
            ax, limit = self.axes_["values"], largest(self.values)
            drawn, block = draw_heat(
                ax, self.values.T, "feature", how="extreme", vmin=-limit, vmax=limit, cmap="RdBu_r"
            )
            label = f"attribution{_largest_of(block, 'features', 'steps')}"
            ax.figure.colorbar(drawn, ax=ax, pad=0.01, label=label)
            shown = np.arange(0, features, -(-features // 24))
            ax.set_yticks(shown, [self.feature_names[k] for k in shown], fontsize="small", parse_math=False)
        axes[-1].set_xlabel("time step" if self.step_names is not None else "time step, from 0")
        whole_numbers(axes[-1].xaxis)
        if self.step_names is not None:
            axes[-1].xaxis.set_major_formatter(lambda t, _: self.step_names[int(t)] if 0 <= t < T else "")
        axes[-1].set_xlim(-0.5, T - 0.5)
        if self.title is not None:
            self.ax_.set_title(self.title, fontsize="medium", pad=24, parse_math=False)
        return self


def _method(found: Any) -> str:
    """In words."""
    return found.method.replace("_x_", " × ").replace("_", " ")
