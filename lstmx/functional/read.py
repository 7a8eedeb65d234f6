"""Reads x, states and gradients in every form that users give them, and gives them back in that form."""

import numpy as np

from lstmx.functional import allocate, validate
from lstmx.functional.context import SequenceContext, Source, Windows


def read_sequences(x, features, dtype, lengths=None, name="x", own=False):
    """Validate a batch of sequences in any of its forms.

    Parameters
    ----------
    x : array (N, T, I), array (T, I), or list of arrays (T_n, I)
    features : int
        I.
    dtype : numpy.dtype
    lengths : array of int (N,) or None
        Only with an (N, T, I) array.
    own : bool
        Whether rows must have memory of their own, for a tape to keep; else they may lie in x.

    Returns
    -------
    rows : ndarray (S, I), packed
    context : SequenceContext
    """
    if isinstance(x, list | tuple) and not _is_nested_numbers(x):
        if lengths is not None:
            raise ValueError("lengths: a list of sequences carries its own lengths; leave the argument out")
        arrays = [validate.real_array(f"{name}[{n}]", a, dtype) for n, a in enumerate(x)]
        for n, a in enumerate(arrays):
            if a.ndim != 2 or a.shape[1] != features:
                raise ValueError(f"{name}[{n}]: got shape {a.shape}, must be (T_n, {features}): time steps by features")
        context = SequenceContext(np.array([len(a) for a in arrays], np.int64), 0, "list")
        rows = context.pack(arrays)
        return allocate.empty((0, features), dtype) if rows is None else rows, context
    array = validate.real_array(name, x, dtype)
    if array.ndim not in (2, 3) or array.shape[-1] != features:
        raise ValueError(
            f"{name}: got shape {array.shape}, must be (N, T, {features}) for a batch, (T, {features}) for one "
            f"sequence, or a list of (T_n, {features}) arrays" + _hint(array, features)
        )
    if array.ndim == 2:
        if lengths is not None:
            raise ValueError(f"lengths: {name} is one sequence of shape {array.shape}; cut it to its length instead")
        context = SequenceContext(np.array([len(array)], np.int64), len(array), "single")
    else:
        context = array_context(array, lengths)
    return context.pack(array, own), context


def array_context(array, lengths):
    """The context of an (N, T, ...) array with or without `lengths`."""
    batch, steps = array.shape[:2]
    lengths = np.full(batch, steps, np.int64) if lengths is None else validate.lengths(lengths, batch, steps)
    return SequenceContext(lengths, steps)


def _is_nested_numbers(x):
    """Whether a list is an array written out, not a list of sequences."""
    many = list | tuple
    return (
        len(x) > 0 and all(isinstance(a, many) for a in x) and not any(isinstance(b, many | np.ndarray) for b in x[0])
    )


def _hint(array, features):
    if array.ndim in (1, 2) and features == 1:
        return "; for series of one feature write x[..., None]"
    if array.ndim == 3 and array.shape[1] == features:
        return "; features come last: write x.swapaxes(1, 2)"
    return ""


class Sequences:
    """N sequences, whole or ragged, of feature vectors or of integers.

    Arrays are read where they are: a memory map or a strided view of windows is never copied as a whole.

    Parameters
    ----------
    x : array (N, T, ...) or list of arrays (T_n, ...)
    lengths : ndarray of int64 (N,) or None
    dtype : numpy.dtype, optional
        Of the rows taken; the whole is not converted.
    shift, scale : ndarray (F,), optional
        Rows are given as (x - shift) / scale.
    """

    def __init__(self, x, lengths=None, dtype=None, shift=None, scale=None):
        self._affine = None if scale is None else (np.asarray(shift, dtype), np.asarray(1 / scale, dtype))
        self.ragged = isinstance(x, list)
        if self.ragged:
            self.lengths = np.array([len(a) for a in x], np.int64)
            self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.intp)
            self.x = np.concatenate(x) if x else None
        else:
            self.lengths = np.full(len(x), x.shape[1], np.int64) if lengths is None else lengths
            self.x = x
        self._source = None if self.x is None else Source(self.x[None] if self.ragged else self.x, dtype)
        self._alike = len(self) > 0 and bool((self.lengths == self.lengths[0]).all())
        self._context = None

    def __len__(self):
        return len(self.lengths)

    def context(self, chosen):
        """The context of the batch of these sequences; where all have one length, batches of one size share it."""
        if self._context is not None and self._context.batch == len(chosen):
            return self._context
        lengths = self.lengths[chosen]
        context = SequenceContext(lengths, 0, "list") if self.ragged else SequenceContext(lengths, self.x.shape[1])
        if self._alike:
            self._context = context
        return context

    def take(self, chosen, context, share=False):
        """Packed rows of the batch of these sequences; with `share` as `Windows` if they are that."""
        share = share and self._affine is None
        if share and self._alike and not self.ragged and chosen[-1] - chosen[0] == len(chosen) - 1:
            windows = Windows.of(self.x[chosen[0] : chosen[-1] + 1, : self.lengths[0]], self._source.dtype)
            if windows is not None and (chosen[:-1] < chosen[1:]).all():
                return windows
        chosen = np.ascontiguousarray(context.sort(chosen), np.intp)
        if self.ragged:
            rows = self._source.take(context, start=self.starts[chosen])
        else:
            rows = self._source.take(context, chosen)
        if self._affine is not None:
            rows -= self._affine[0]
            rows *= self._affine[1]
        return rows

    @classmethod
    def stretches(cls, series, starts, lengths, dtype, shift=None, scale=None):
        """Stretches of one array (S, F), by first row and length (each (n,)); they may overlap and are not copied."""
        self = cls([series], None, dtype, shift, scale)
        self.starts, self.lengths = np.asarray(starts, np.intp), np.asarray(lengths, np.int64)
        self._alike = len(self) > 0 and bool((self.lengths == self.lengths[0]).all())
        return self


def read_inputs(x, model, lengths, prefix=""):
    """Validated `Sequences` for a model: feature vectors, or integers where an Embedding comes first."""
    embedding, features, dtype, name = model.embedding, model.input_size, model.dtype, prefix + "X"
    want = "(N, T) integers" if embedding else f"(N, T, {features})"
    item = "(T_n,) integers" if embedding else f"(T_n, {features})"

    def convert(label, value):
        return embedding.check_tokens(label, value) if embedding else validate.real_array(label, value)

    def right(array, ndim):
        return array.ndim == ndim - bool(embedding) and (embedding or array.shape[-1] == features)

    if isinstance(x, list | tuple):
        arrays = [convert(f"{name}[{n}]", a) for n, a in enumerate(x)]
        if all(right(a, 2) for a in arrays):
            if lengths is not None:
                raise ValueError(
                    f"{prefix}lengths: a list of sequences carries its own lengths; leave the argument out"
                )
            return Sequences(arrays, dtype=None if embedding else dtype)
        wrong = next(n for n, a in enumerate(arrays) if not right(a, 2))
        raise ValueError(
            f"{name}[{wrong}]: got shape {arrays[wrong].shape}, must be {item}: a list holds one sequence per item"
        )
    array = convert(name, x)
    if not right(array, 3):
        message = f"{name}: got shape {array.shape}, must be {want} or a list of arrays {item}"
        message += _axes_hint(array, features, name) if not embedding else ""
        raise ValueError(message)
    if lengths is not None:
        lengths = validate.lengths(lengths, len(array), array.shape[1], "validation_lengths" if prefix else "lengths")
    return Sequences(array, lengths, None if embedding else dtype)


def _axes_hint(array, features, name):
    takes = f"the model takes {features} feature{'s' * (features > 1)}"
    if array.ndim == 2:
        two = f"{len(array)} series of one feature, write {name}[:, :, None]", f"one sequence, write {name}[None]"
        if array.shape[1] == features:
            two = f"one sequence, write {name}[None]", f"{len(array)} sequences of one step, write {name}[:, None]"
        return f". Two readings are possible: {two[0]}; or {two[1]}; {takes}"
    if array.ndim == 1 and features == 1:
        return f"; for one series write {name}[None, :, None]"
    if array.ndim == 3 and features > 1 and array.shape[1] == features:
        return f"; features come last: write {name}.swapaxes(1, 2)"
    return f"; {takes}"


def read_state(name, state, shape, context, dtype, meaning):
    """Two fresh arrays (h, c) in sorted order from a caller's state; zeros for None.

    `shape` has the batch at axis -2; a caller with one sequence leaves that axis out.
    """
    single = context.form == "single"
    if state is None:
        return allocate.zeros(shape, dtype), allocate.zeros(shape, dtype)
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(f"{name}: got {type(state).__name__}, must be a pair of arrays (h, c)")
    wanted = shape[:-2] + shape[-1:] if single else shape
    meaning = meaning.replace("N, ", "") if single else meaning
    parts = []
    for part, value in zip("hc", state, strict=True):
        array = validate.shaped(f"{name} {part}", value, wanted, dtype, meaning).reshape(shape)
        own = allocate.empty(shape, dtype)
        own[:] = array if context.order is None else array[..., context.order, :]
        parts.append(own)
    return tuple(parts)


def give_state(pair, context):
    """What a caller gets of two arrays (..., N, H) in sorted order."""
    out = []
    for array in pair:
        if context.order is not None:
            unsorted = np.empty_like(array)
            unsorted[..., context.order, :] = array
            array = unsorted
        out.append(array[..., 0, :] if context.form == "single" else array)
    return tuple(out)


def read_gradient(dy, context, width, dtype):
    """Packed rows (S, width) of a gradient in the form of the output; None stays None."""
    if dy is None:
        return None
    if context.form == "list":
        shapes = [(n, width) for n in context.lengths.tolist()]
        if not isinstance(dy, list | tuple) or len(dy) != len(shapes):
            raise ValueError(f"dy: must be a list of {len(shapes)} arrays (T_n, {width}), as the output was")
        arrays = [
            validate.shaped(f"dy[{n}]", a, shape, dtype, f"the shape of y[{n}]")
            for n, (a, shape) in enumerate(zip(dy, shapes, strict=True))
        ]
        rows = context.pack(arrays)
        return allocate.empty((0, width), dtype) if rows is None else rows
    shape = (context.steps, width) if context.form == "single" else (context.batch, context.steps, width)
    return context.pack(validate.shaped("dy", dy, shape, dtype, "the shape of y"))
