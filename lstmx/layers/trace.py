"""What `LSTM.trace` gives: every gate, the memory and the output at every step, and what they tell."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstmx import reference_cells
from lstmx.functional import kernels, validate
from lstmx.layers.trace_tables import to_pandas, to_xarray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, KeysView
    from typing import NoReturn

    from lstmx._types import Array, Pair, PathLike, Shape
    from lstmx.functional.context import SequenceContext


QUANTITIES = ("i", "f", "g", "o", "c", "h")


class PerStep(Mapping[Any, Any]):
    """Packed rows by key, each given in the form of the caller's input when it is first asked for.

    Parameters
    ----------
    sources : dict of key to (SequenceContext, callable)
        The callable gives the packed rows (S, ..).
    """

    def __init__(self, sources: Mapping[Any, tuple[Any, Callable[[], Array]]]) -> None:
        self._sources = sources
        self._packed: dict[Any, Array] = {}
        self._given: dict[Any, Any] = {}

    def packed(self, key: Any) -> Array:
        """The packed rows."""
        if key not in self._packed:
            self._packed[key] = self._sources[key][1]()
        return self._packed[key]

    def context(self, key: Any) -> SequenceContext:
        """The shape of the batch that the rows are of."""
        return self._sources[key][0]

    def __getitem__(self, key: Any) -> Any:
        if key not in self._given:
            self._given[key] = self.context(key).unpack(self.packed(key))
        return self._given[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


class PerLayer:
    """One traced quantity: ``[layer, direction]`` gives an array (N, T, H), (T, H) or a list of them, as the input was.

    With a single layer and direction the object is also plain: `numpy.asarray` and indexing by anything else see the
    array.
    """

    def __init__(self, values: PerStep) -> None:
        self._values = values

    def _only(self) -> Any:
        if len(self._values) > 1:
            raise ValueError(
                f"trace: say which layer and direction, as in trace.f[0, 0]; there are {list(self._values)}"
            )
        return self._values[0, 0]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == 2 and all(isinstance(k, int | np.integer) for k in key):
            if key not in self._values:
                raise IndexError(f"trace: no layer and direction {key}; there are {list(self._values)}")
            return self._values[key]
        return self._only()[key]

    def packed(self, layer: int, direction: int) -> Array:
        """The packed rows (S, H)."""
        return self._values.packed((layer, direction))

    def _array(self) -> Any:
        only = self._only()
        if isinstance(only, list):
            raise ValueError(f"trace: of a list of sequences there is no one array but a list of {len(only)}; take "
                             "one, as in trace.f[0, 0][n]")  # fmt: skip
        return only

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._array(), dtype=dtype, copy=copy)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"trace: this has no {name!r}; the array of a layer and direction has what NumPy's have: trace.f[0, 0]",
            name=name, obj=self,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._only())

    @property
    def shape(self) -> Shape:
        """The shape of the array, for a single layer and direction."""
        return self._array().shape

    def keys(self) -> KeysView[Any]:
        """The (layer, direction) pairs."""
        return self._values.keys()

    def __repr__(self) -> str:
        return f"PerLayer({ {k: 'list' if isinstance(v, list) else v.shape for k, v in self._values.items()} })"


class Saturation(NamedTuple):
    """How often a gate is almost shut or open.

    Attributes
    ----------
    low, high : ndarray (H,)
        The share of the steps at which it is below the threshold, and above 1 minus the threshold.
    """

    low: Array
    high: Array


class NonFinite(NamedTuple):
    """Where the first NaN or infinite value stands."""

    layer: int
    direction: int
    quantity: str
    sequence: int
    step: int
    unit: int


class _Source:
    """Where the packed rows of a trace come from: the slabs that an engine has written."""

    def __init__(self, lstm: Any, tape: Any, context: SequenceContext, state: Pair) -> None:
        self.cell, self.hidden, self.reversed, self.context = lstm.cell, lstm.hidden_size, lstm.reversed, context
        self.runs = {}
        for layer, (_, all_slabs, *_) in enumerate(tape):
            for direction, slabs in enumerate(all_slabs):
                k = layer * len(all_slabs) + direction
                self.runs[layer, direction] = slabs, *(part[k] for part in state)

    def slab(self, pair: Any, name: str) -> Any:
        """The packed rows of a slab."""
        slabs = self.runs[pair][0]
        cohorts = slabs.get("cohorts")
        return slabs[name] if cohorts is None else slabs[name][self.context.by_cohort(cohorts)]

    def rows(self, name: str, pair: Any) -> Any:
        """The packed rows (S, ..) of a quantity."""
        _, h, c = self.runs[pair]
        reverse = self.reversed[pair[1]]
        if name in ("c_before", "h_before"):
            return self.slab(pair, f"{name[0]}_prev")
        if name == "h":
            return self.context.after(self.slab(pair, "h_prev"), h, reverse)
        if name == "c":
            return self.context.after(self.slab(pair, "c_prev"), c, reverse)
        if name == "tanh_c":
            return self._shown(self.rows("c", pair))
        if name == "f" and self.cell.cifg:
            return 1 - self.rows("i", pair)
        k = ("igo" if self.cell.cifg else "ifgo").index(name)
        if name in "if" and self.cell.slstm:
            gates = self.slab(pair, "gates")
            blocks = gates[:, : self.hidden], gates[:, self.hidden : 2 * self.hidden]
            return _exponential(*blocks, *np.split(self.slab(pair, "c_prev"), 3, axis=1)[1:])[k]
        return self.slab(pair, "gates")[:, k * self.hidden : (k + 1) * self.hidden]

    def _shown(self, c: Array) -> Array:
        """What the output gate is multiplied by (S, H)."""
        if self.cell.slstm:
            memory, n, _ = np.split(c, 3, axis=1)
            return memory / n
        if self.cell.layer_norm == "haste":
            raise ValueError('tanh_c: layer_norm="haste" shows a normed memory, which a trace does not hold; it is '
                             "h / o")  # fmt: skip
        if self.cell.zoneout[1]:
            raise ValueError("tanh_c: with a zoneout of c the output shows the memory as it was before, which a trace "
                             "does not hold")  # fmt: skip
        curve = self.cell.activations[2]
        return kernels.each("tanh", c) if curve == "tanh" else reference_cells.activate(curve, c)


def _quantity(name: str) -> Callable[[Trace], PerLayer]:
    """A method of `Trace` that gives a `PerLayer`."""

    def make(trace: Trace) -> PerLayer:
        source = trace._source
        return PerLayer(PerStep({p: (source.context, functools.partial(source.rows, name, p)) for p in source.runs}))

    make.__doc__ = f"`PerLayer` of {name}: see the class."
    return make


class Trace:
    """Everything an LSTM did along its sequences. Arrays are made when they are first asked for.

    Attributes
    ----------
    i, f, g, o : PerLayer
        Input gate, forget gate, candidate, output gate: ``trace.f[layer, direction]`` is an array (N, T, H), a list of
        (T_n, H) or (T, H), as the input was. Direction 1 is the reverse one.
    c, h : PerLayer
        Memory cell and output after each step, likewise. c of an sLSTM has three blocks of H: c, n and m.
    tanh_c : PerLayer
        What the output gate shows a share of: tanh(c), or the other activation of the cell; c / n of an sLSTM.
    c_before, h_before : PerLayer
        The memory and the output that each step met: those of the step that was read before, or the initial state.
    lengths : ndarray of int64 (N,)
        The steps of each sequence, masked ones too.

    Notes
    -----
    Analyses look at the steps that there are: neither padding nor masked steps count. What is not defined for an option
    of the cell is a ValueError that says why.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> trace = lstmx.LSTM(2, 4, dtype="float64", random_state=0).trace(np.ones((6, 2)))
    >>> share = trace.contributions()       # [t, s, unit]: what step s adds to the memory of step t
    >>> bool(np.allclose(share.sum(axis=1), trace.c))
    True
    >>> trace.half_lives().shape
    (4,)
    """

    def __init__(self, lstm: Any, tape: Any, context: SequenceContext, state: Pair) -> None:
        """Of the tape of an LSTM on packed rows, and its final state (h, c)."""
        self.cell, self.hidden_size, self.reversed = lstm.cell, lstm.hidden_size, lstm.reversed
        self.projected = lstm.proj_size > 0  # whether h has been projected
        self._context, self._source = context, _Source(lstm, tape, context, state)
        self.lengths = context.given

    i, f, g, o, c, h, tanh_c, c_before, h_before = (
        functools.cached_property(_quantity(name)) for name in (*QUANTITIES, "tanh_c", "c_before", "h_before")
    )

    @functools.cached_property
    def mask(self) -> Any:
        """Which steps there are: bool (N, T), a list of (T_n,) or (T,), as the input was."""
        there = self._context.unpack(np.ones((self._context.rows, 1), np.float32))
        return [a[:, 0] > 0 for a in there] if isinstance(there, list) else there[..., 0] > 0

    def _pair(self, layer: int, direction: int) -> tuple[int, int]:
        pair = layer, direction
        if pair not in self._source.runs:
            raise IndexError(f"trace: no layer and direction {pair}; there are {list(self._source.runs)}")
        return pair

    def _memory(self, what: str, layer: int, direction: int) -> tuple[Array, Array, Array]:
        """(kept, added, before), each (S, H): ``c_t = kept * before + added`` at every step."""
        pair, cell = self._pair(layer, direction), self.cell
        if cell.layer_norm == "fastrnn":
            raise ValueError(f'{what}: layer_norm="fastrnn" norms the memory over its units at every step, so that it '
                             "is no sum of what steps add")  # fmt: skip
        kept, i, g = (quantity.packed(*pair) for quantity in (self.f, self.i, self.g))
        added, z = i * g, cell.zoneout[1]
        if z:
            kept, added = z + (1 - z) * kept, (1 - z) * added
        return kept, added, self._source.slab(pair, "c_prev")[:, : self.hidden_size]

    def _sequence(self, what: str, sequence: int | None) -> int:
        """The index of a sequence of the caller."""
        count = len(self._context.given)
        if sequence is None:
            if count != 1:
                raise ValueError(f"sequence: the trace holds {count}; say whose {what} to give")
            sequence = 0
        return validate.place("sequence", sequence, count, "sequences")

    def _read(self, sequence: int, direction: int) -> list[list[tuple[int, int]]]:
        """(packed row, step) of what is read of a sequence, in the order of reading, one list for each episode."""
        context = self._context
        lengths, time = context.sort(context.lengths), context.places[1]
        found = []
        for k in np.flatnonzero(context.owners == sequence):
            rows = context.offsets[: lengths[k]] + k
            rows = rows[::-1] if self.reversed[direction] else rows
            found.append(list(zip(rows.tolist(), time[rows].tolist(), strict=True)))
        return found

    # What they tell.

    def contributions(self, layer: int = 0, direction: int = 0, sequence: int | None = None) -> Array:
        """What every step adds to the memory of every later one.

        Step s adds ``i_s * g_s`` to c_s, and the forget gates after it keep a share of that: ``f_{s+1} * .. * f_t`` at
        step t. c_t is the sum over s, and of what is left of the initial state: see `initial_contribution`.

        Parameters
        ----------
        layer, direction : int
        sequence : int, optional
            Which of a batch.

        Returns
        -------
        ndarray (T, T, H)
            ``[t, s]`` is the share of step s in c_t: 0 where s has not been read at t, or is of another episode. With
            a zoneout of c, kept and added are what remains of them on average; of an sLSTM it is the share in c, not
            in c / n. T * T * H values: of 1,000 steps and 64 units in float32, 256 MB.

        Raises
        ------
        ValueError
            For a layer norm of the memory ("fastrnn"), or a `cell_clip`: what is cut belongs to no step.
        """
        self._refuse_cut("contributions")
        kept, added, _ = self._memory("contributions", layer, direction)
        sequence = self._sequence("contributions", sequence)
        T = int(self._context.given[sequence])
        out = np.zeros((T, T, self.hidden_size), added.dtype)
        for episode in self._read(sequence, direction):
            share = np.zeros(out.shape[1:], added.dtype)
            for row, t in episode:
                share *= kept[row]
                share[t] = added[row]
                out[t] = share
        return out

    def initial_contribution(self, layer: int = 0, direction: int = 0, sequence: int | None = None) -> Array:
        """What is left of the initial memory at every step: c_0 times the product of the forget gates since.

        Parameters and errors are those of `contributions`, which sum to c_t together with this.

        Returns
        -------
        ndarray (T, H)
        """
        self._refuse_cut("initial_contribution")
        kept, _, before = self._memory("initial_contribution", layer, direction)
        sequence = self._sequence("initial_contribution", sequence)
        out = np.zeros((int(self._context.given[sequence]), self.hidden_size), kept.dtype)
        for episode in self._read(sequence, direction):
            left = before[episode[0][0]] if episode else None
            for row, t in episode:
                left = out[t] = left * kept[row]
        return out

    def _refuse_cut(self, what: str) -> None:
        if self.cell.cell_clip is not None:
            raise ValueError(f"{what}: cell_clip={self.cell.cell_clip:g} cuts the memory, and what is cut belongs to "
                             "no step")  # fmt: skip

    def half_lives(self, layer: int = 0, direction: int = 0) -> Array:
        """After how many steps half of a unit's memory is left.

        ``log(1/2) / mean(log |f|)``, the mean over all steps of all sequences; with a zoneout of c of what is kept on
        average.

        Returns
        -------
        ndarray (H,)
            inf where nothing is lost, 0 where a forget gate was 0.

        Raises
        ------
        ValueError
            For a layer norm of the memory ("fastrnn") and an sLSTM, which divide it by something else at every step.
        """
        if self.cell.slstm:
            raise ValueError("half_lives: an sLSTM divides its memory by a normaliser, so that its forget gate alone "
                             "does not say what is left")  # fmt: skip
        kept = self._memory("half_lives", layer, direction)[0]
        self._refuse_nothing("half_lives")
        with np.errstate(divide="ignore"):
            lost = -np.log(np.abs(kept.astype(np.float64))).mean(axis=0)
            return np.where(lost > 0, np.log(2) / lost, np.inf)

    def saturated(self, layer: int = 0, direction: int = 0, threshold: float = 0.05) -> dict[str, Saturation]:
        """How often the gates i, f and o are almost shut or open, where hardly a gradient passes through them.

        Parameters
        ----------
        layer, direction : int
        threshold : float in (0, 0.5)

        Returns
        -------
        dict of str to Saturation
            By gate: the shares of steps ``low``, below the threshold, and ``high``, above 1 minus the threshold.

        Raises
        ------
        ValueError
            For gates that are not between 0 and 1: other activations than sigmoids, an sLSTM.
        """
        pair = self._pair(layer, direction)
        validate.number("threshold", threshold, 0, 0.5, open_low=True, open_high=True)
        name = self.cell.activations[0]
        name = name if isinstance(name, str) else name[0]
        if self.cell.slstm or name not in ("sigmoid", "hard_sigmoid"):
            what = "the exponential gates of an sLSTM" if self.cell.slstm else f"gates of the activation {name}"
            raise ValueError(f"saturated: {what} are not between 0 and 1")
        self._refuse_nothing("saturated")
        found = {}
        for gate in "ifo":
            rows = getattr(self, gate).packed(*pair)
            found[gate] = Saturation((rows < threshold).mean(axis=0), (rows > 1 - threshold).mean(axis=0))
        return found

    def dead_units(self, layer: int = 0, direction: int = 0, tolerance: float = 1e-3) -> Array:
        """Units whose output is the same at every step: they tell the layers above nothing.

        Parameters
        ----------
        layer, direction : int
        tolerance : float
            The largest less the smallest output that still counts as the same.

        Returns
        -------
        ndarray of int (K,)
        """
        rows = self._outputs("dead_units", layer, direction, tolerance)
        return np.flatnonzero(np.ptp(rows, axis=0) <= tolerance)

    def duplicate_units(self, layer: int = 0, direction: int = 0, tolerance: float = 1e-3) -> Array:
        """Pairs of units with the same output, or its negative, at every step: one of the two would do.

        Dead units are in no pair.

        Parameters
        ----------
        layer, direction : int
        tolerance : float
            By how much the outputs may differ at a step.

        Returns
        -------
        ndarray of int (K, 2)
            Each pair once, the lower unit first.
        """
        rows = self._outputs("duplicate_units", layer, direction, tolerance)
        alive = np.flatnonzero(np.ptp(rows, axis=0) > tolerance)
        columns = np.ascontiguousarray(rows[:, alive].T)
        found = []
        for k, column in enumerate(columns):
            others = columns[k + 1 :]
            same, mirrored = (np.abs(part).max(axis=1) <= tolerance for part in (others - column, others + column))
            found += [(alive[k], alive[k + 1 + j]) for j in np.flatnonzero(same | mirrored)]
        return np.array(found, np.intp).reshape(-1, 2)

    def _outputs(self, what: str, layer: int, direction: int, tolerance: float) -> Array:
        pair = self._pair(layer, direction)
        validate.number("tolerance", tolerance, 0)
        self._refuse_nothing(what)
        return self.h.packed(*pair)

    def _refuse_nothing(self, what: str) -> None:
        if not self._context.rows:
            raise ValueError(f"{what}: the trace holds no steps")

    def first_nonfinite(self) -> NonFinite | None:
        """The first NaN or infinite value: of the lowest layer, there the one that was computed first.

        Returns
        -------
        NonFinite or None
            (layer, direction, quantity, sequence, step, unit), the step in the time of the input; None if all values
            are finite. Of values of one step, i comes before f, g, c, o and h, then the lower sequence.
        """
        context = self._context
        step = context.sorted_places[1]
        row, time = context.places
        for pair in self._source.runs:
            bad = {name: ~np.isfinite(getattr(self, name).packed(*pair)) for name in ("i", "f", "g", "c", "o", "h")}
            rows = np.flatnonzero(np.logical_or.reduce([a.any(axis=1) for a in bad.values()]))
            if not len(rows):
                continue
            lengths = context.sort(context.lengths)[context.sorted_places[0]]
            read = (lengths - 1 - step if self.reversed[pair[1]] else step)[rows]
            rows = rows[read == read.min()]
            for name, where in bad.items():
                here = rows[where[rows].any(axis=1)]
                if len(here):
                    first = here[row[here].argmin()]
                    unit = int(where[first].argmax())
                    return NonFinite(*pair, name, int(row[first]), int(time[first]), unit)
        return None

    # As tables and pages.

    def report(self, path: PathLike, **options: Any) -> None:
        """Write an interactive page of it, one HTML file: see `lstmx.inspect.report`, which has the options."""
        from lstmx.plots.report import report

        report(self, path, **options)

    def to_pandas(self, layer: int = 0, direction: int = 0) -> Any:
        """A frame with a row for each step that there is, and a column for each quantity and unit (needs pandas).

        Returns
        -------
        pandas.DataFrame
            Its index has the levels sequence and step, its columns quantity ("i", "f", "g", "o", "c", "h"; also "n" and
            "m" of an sLSTM) and unit.
        """
        pair = self._pair(layer, direction)
        return to_pandas(dict(self._columns(pair)), self._context)

    def to_xarray(self) -> Any:
        """All of it as a data set with named axes (needs xarray).

        Returns
        -------
        xarray.Dataset
            The variables are those of `to_pandas`, with the axes layer, direction, sequence, step and unit; h of a
            projection has the axis output in place of unit. NaN where there is no step.
            ``.to_dataarray("quantity")`` makes one array of it.
        """
        rows = {pair: dict(self._columns(pair)) for pair in self._source.runs}
        return to_xarray(rows, self._context, self.hidden_size)

    def _columns(self, pair: Any) -> Any:
        for name in QUANTITIES:
            rows = getattr(self, name).packed(*pair)
            if name == "c" and self.cell.slstm:
                yield from zip("cnm", np.split(rows, 3, axis=1), strict=True)
            else:
                yield name, rows

    def __repr__(self) -> str:
        return f"Trace(i, f, g, o, c, h: {self.i!r})"


def _exponential(a_i: Array, a_f: Array, n: Array, m: Array) -> tuple[Array, Array]:
    """The stabilised gates i and f of an sLSTM, from what enters them and the state before."""
    kept = m + np.minimum(a_f, 0) - np.log1p(np.exp(-np.abs(a_f)))
    top = np.where(n == 0, a_i, np.maximum(a_i, kept))
    return np.exp(a_i - top), np.where(n == 0, 0, np.exp(kept - top))
