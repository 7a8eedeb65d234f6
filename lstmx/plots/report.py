"""One trace as one HTML file to look around in: no network, no other file, no script but its own."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.plots.diagram import svg
from lstmx.plots.traced import TracedSequence

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from lstmx._types import Array


ROOM = 1_900_000  # bytes of sequences in a file of 2 MB
LEVELS = 65532  # finite values of an array; then come -inf, inf and NaN
STORED = ("i", "f", "g", "o", "c", "tanh_c", "h")  # of a plain cell; others may not have tanh_c


def report(
    trace: Any,
    path: str | os.PathLike[str],
    *,
    x: ArrayLike | None = None,
    feature_names: Sequence[str] | None = None,
    title: str = "What the LSTM did",
    sequences: Sequence[int] | None = None,
) -> Path:
    """Write an interactive report of a trace: one HTML file that works offline, in any browser, on any screen.

    It moves through time by a slider, by keys or by itself; shows the cell as a diagram with the values of the step;
    gates, memory and output as heat maps with the step marked; and single units on their own.

    Parameters
    ----------
    trace : Trace, or dict of int to Trace
        What the `trace` of an LSTM, a model or an estimator gives.
    path : str or path-like
        Where the file is written.
    x : array (N, T, I), (T, I) or (T,), or list of arrays (T_n, I), optional
        The input, in the form in which it was traced; shown beside.
    feature_names : I strings, optional
        By default the features are numbered from 0.
    title : str
    sequences : list of int, optional
        Which of a batch. By default as many of the first as fit into 2 MB, and one at least, however large.

    Returns
    -------
    pathlib.Path

    Notes
    -----
    Values are kept in 16 bits each: about 19 bytes for each step and unit of every layer and direction. 200 steps of 64
    units take 250 kB; 1,000 steps of 512 units take 9.6 MB, which no default makes smaller.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> x = np.random.default_rng(0).normal(size=(40, 2))
    >>> trace = lstmx.LSTM(2, 8, random_state=0).trace(x)
    >>> lstmx.inspect.report(trace, "gates.html", x=x, feature_names=["wind", "rain"])  # doctest: +SKIP
    PosixPath('gates.html')
    """
    traces = trace if isinstance(trace, dict) else {None: trace}
    if not traces:
        raise ValueError("trace: holds no trace of an LSTM; the model has none")
    parts = {
        _part_name(index, key): (one, key, not index and key[0] == 0)
        for index, one in traces.items()
        for key in _pairs(one)
    }
    count = _count(next(iter(traces.values())))
    chosen, names = _chosen(sequences, count), None
    kept: list[dict[str, Any]] = []
    if x is not None and count is not None and len(x) != count:  # type: ignore[arg-type]
        raise ValueError(f"x: got {len(x)} sequences, must be {count}, those that were traced")  # type: ignore[arg-type]
    room = ROOM
    for sequence in chosen:
        found, names = _sequence(parts, sequence, x, feature_names)
        room -= len(json.dumps(found)) + 2
        if kept and sequences is None and room < 0:
            break
        kept.append(found)
    shown = (
        "" if count is None else f"{len(kept)} of {count} sequences; " if len(kept) < count else f"{count} sequences; "
    )
    about = f"{shown}{len(parts)} {'part' if len(parts) == 1 else 'parts'} of the network, drawn by lstmx"
    content = {"about": about, "features": names, "parts": list(parts), "sequences": kept}
    path = Path(path)
    path.write_text(_page(str(title), content), encoding="utf-8", newline="\n")
    return path


def _page(title: str, content: Any) -> str:
    template = files("lstmx.plots").joinpath("report.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]  # type: ignore[index]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {
        "title": html.escape(title),
        # Whatever a name may contain, the browser runs the one script of the template.
        "policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'",
        "diagram": svg(),
        # In a script element "<" could end it; JSON may write it otherwise.
        "data": json.dumps(content, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _pairs(trace: Any) -> Any:
    if not hasattr(getattr(trace, "f", None), "keys"):
        raise TypeError(
            f"trace: got {type(trace).__name__}, must be a Trace, or a dict of them as model.trace(X) gives"
        )
    return trace.f.keys()


def _part_name(index: int | None, key: tuple[int, int]) -> str:
    layer, direction = key
    lstm = "" if index is None else f"LSTM at {index}, "
    return f"{lstm}layer {layer}{', reverse direction' if direction else ''}"


def _count(trace: Any) -> int | None:
    """How many sequences there are in a trace; None if it is one without a batch."""
    first = trace.c[next(iter(trace.c.keys()))]
    return len(first) if isinstance(first, list) or first.ndim == 3 else None


def _chosen(sequences: Any, count: int | None) -> list[Any]:
    if count is None:
        if sequences is not None:
            raise ValueError("sequences: the trace is of one sequence without a batch; leave it out")
        return [None]
    if not count:
        raise ValueError("trace: holds no sequence to report")
    if sequences is None:
        sequences = range(count)
    if np.ndim(sequences) != 1:
        raise TypeError(f"sequences: got {sequences!r}, must be a list of some of 0 to {count - 1}")
    wrong = [k for k in sequences if not isinstance(k, int | np.integer) or not 0 <= k < count]
    if wrong or not len(sequences):
        raise ValueError(f"sequences: got {list(sequences)}, must be some of 0 to {count - 1}")
    return [int(k) for k in sequences]


def _sequence(
    parts: dict[str, Any], sequence: int | None, x: Any, feature_names: Sequence[str] | None
) -> tuple[dict[str, Any], Any]:
    """All that the page shows of one sequence, and the names of the features."""
    ones = [TracedSequence(trace, *key, sequence) for trace, key, _ in parts.values()]  # type: ignore[call-arg]
    found = [_part(one) | {"first": first} for one, (*_, first) in zip(ones, parts.values(), strict=True)]
    columns = names = None
    if x is not None:
        x, names = ones[0].read_input(x if sequence is None else x[sequence], feature_names)
        columns = [packed(column) for column in x.T]
    label = "the only one" if sequence is None else f"{sequence}"
    return {"label": label, "steps": ones[0].steps, "x": columns, "parts": found}, names


def _part(one: TracedSequence) -> dict[str, Any]:
    """What the page shows of one sequence in one layer and direction."""
    values, start = one.of_cell(), one.steps - 1 if one.backward else 0
    stored = [name for name in STORED if name in values]
    stored += [f"{name}_before" for name in "ch" if not _follows(values[f"{name}_before"], values[name], one.backward)]
    return {
        "units": one.units,
        "backward": one.backward,
        "leftOut": one.left_out,
        "plain": one.plain,
        "start": {name: packed(values[f"{name}_before"][start]) for name in "ch"},
        "order": one.most_forgetful().tolist(),
        "values": {name: packed(values[name]) | {"width": values[name].shape[1]} for name in stored},
    }


def _follows(before: Array, after: Array, backward: bool) -> bool:
    """Whether what each step met is what the step read before it left: not so after a reset or a masked step."""
    met, left = (before[:-1], after[1:]) if backward else (before[1:], after[:-1])
    return np.array_equal(met, left, equal_nan=True)


def packed(array: Array) -> dict[str, Any]:
    """An array as 16-bit numbers between its least and its greatest finite value, in base64."""
    values = np.asarray(array, np.float64)
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    with np.errstate(all="ignore"):
        codes = np.rint((values - low) / ((high - low) or 1.0) * LEVELS)
    codes = np.where(
        finite, codes, np.where(np.isnan(values), LEVELS + 3, np.where(values > 0, LEVELS + 2, LEVELS + 1))
    )
    return {"low": low, "high": high, "data": base64.b64encode(codes.astype("<u2").tobytes()).decode()}
