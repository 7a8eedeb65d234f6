"""x and dy in every form: one meaning each, and an error that helps for everything else."""

import numpy as np
import pytest

import lstmx
from lstmx.functional import kernels
from lstmx.functional.context import PooledContext, SequenceContext, Windows, gather
from lstmx.functional.read import Sequences, read_gradient, sequences
from lstmx.layers import Run

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


def generator(seed=0):
    return np.random.default_rng(seed)


def tokens_of(x):
    return sequences(x, None, SINGLE, tokens=lstmx.Embedding(6, 2).check_tokens, name="X")


def test_inputs_that_fit_are_not_copied():
    x = generator().normal(size=(4, 5, 2)).astype(np.float32)
    assert sequences(x, 2, SINGLE).x is x
    windows = np.lib.stride_tricks.sliding_window_view(x[:, :, 0].reshape(-1), 6)[:, :, None]
    assert np.shares_memory(sequences(windows, 1, SINGLE).x, x)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16).astype(np.float32),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[:, ::-1][:, ::-1],
        lambda x: x.tolist(),
    ],
    ids=["byte-swapped", "fortran", "double", "half", "strided", "reversed", "nested-list"],
)
def test_any_view_and_type_gives_the_same_batch(change):
    x = generator().normal(size=(4, 5, 2)).astype(np.float16).astype(np.float32)
    inputs = sequences(change(x), 2, SINGLE)
    chosen = np.array([2, 0, 3])
    rows = inputs.rows_of(chosen, inputs.context(chosen))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, x[chosen].swapaxes(0, 1).reshape(15, 2))


@pytest.mark.parametrize("flags", [{}, {"mask": np.arange(300) % 3 > 0}])
def test_a_single_sequence_is_one_part(flags):
    inputs = sequences(generator().normal(size=(300, 2)), 2, DOUBLE, single=True, **flags)
    (part,) = inputs.parts(256)
    np.testing.assert_array_equal(part.all()[0], inputs.all()[0])


def test_too_few_rows_are_an_error_before_compiled_code_reads_them():
    context, x = SequenceContext(np.array([300])), np.zeros((1, 256, 2))
    for run in (context.pack, lambda x: context.unpack(x[0]), lambda x: gather(x, context),
                lambda x: kernels.sum_steps(x[0], context)):  # fmt: skip
        with pytest.raises(ValueError, match=r"got 256"):
            run(x)
    lstm = lstmx.LSTM(2, 3, dtype="float64")
    with pytest.raises(ValueError, match=r"rows: got 256, must be 300"):
        lstm.forward_rows(x[0], context, None, Run())
    with pytest.raises(ValueError, match=r"x: must be C-contiguous"):
        lstm.forward_rows(np.zeros((2, 300)).T, context, None, Run())
    with pytest.raises(ValueError, match=r"x: got 256 steps, the context has sequences of 300"):
        SequenceContext(np.array([300, 2])).pack(np.zeros((2, 256, 2)))


def test_ragged_list_and_padded_array_give_the_same_rows():
    x = generator().normal(size=(5, 6, 2)).astype(np.float32)
    lengths = np.array([3, 6, 0, 1, 3])
    padded = x.copy()
    padded[np.arange(6) >= lengths[:, None]] = np.nan
    array = sequences(padded, 2, SINGLE, lengths=lengths)
    many = sequences([a[:n] for a, n in zip(x, lengths, strict=True)], 2, SINGLE)
    for chosen in (np.arange(5), np.array([4, 2]), np.array([2]), np.array([3, 1, 0])):
        one, two = array.rows_of(chosen, array.context(chosen)), many.rows_of(chosen, many.context(chosen))
        np.testing.assert_array_equal(one, two)
        assert len(one) == lengths[chosen].sum() and np.isfinite(one).all()


@pytest.mark.parametrize("form", [list, tuple])
def test_list_and_tuple_of_arrays_are_ragged(form):
    inputs = sequences(form([np.zeros((3, 2)), np.zeros((5, 2))]), 2, SINGLE)
    assert inputs.lengths.tolist() == [3, 5]


def test_integers_for_an_embedding():
    assert tokens_of([[1, 2, 3], [4]]).lengths.tolist() == [3, 1]
    inputs = tokens_of(np.array([[1, 2], [3, 5]], np.uint8))
    rows = inputs.rows_of(np.arange(2), inputs.context(np.arange(2)))
    assert rows.dtype == np.int64 and rows.tolist() == [1, 3, 2, 5]


@pytest.mark.parametrize(
    ("x", "lengths", "error", "message"),
    [
        (np.zeros((4, 5)), None, ValueError, r"X: got shape \(4, 5\).*Two readings.*X\[:, :, None\].*X\[None\]"),
        (np.zeros(4), None, ValueError, r"X: got shape \(4,\), must be \(N, T, 2\)"),
        (np.zeros((4, 5, 3)), None, ValueError, r"X: got shape \(4, 5, 3\), must be \(N, T, 2\)"),
        (np.zeros((4, 2, 5)), None, ValueError, r"features come last: write X\.swapaxes\(1, 2\)"),
        (np.zeros((4, 5, 2, 1)), None, ValueError, r"X: got shape \(4, 5, 2, 1\)"),
        ([np.zeros((5, 2)), np.zeros((5, 3))], None, ValueError, r"X\[1\]: got shape \(5, 3\), must be \(T_n, 2\)"),
        ([np.zeros((5, 2)), np.zeros(2)], None, ValueError, r"X\[1\]: got shape \(2,\)"),
        ([np.zeros((5, 2))], [5], ValueError, "lengths: a list of sequences carries its own"),
        (np.zeros((4, 5, 2)), [5, 5, 5], ValueError, r"lengths: got shape \(3,\), must be \(N,\) = \(4,\)"),
        (np.zeros((4, 5, 2)), [5, 6, 5, 5], ValueError, "sequence 1 has length 6, must be between 0 and T = 5"),
        (np.zeros((4, 5, 2)), [5, 5, 5, -1], ValueError, "sequence 3 has length -1"),
        (np.zeros((4, 5, 2)), [5.0, 5, 5, 5], TypeError, "lengths: got dtype float64, must be integers"),
        (np.zeros((4, 5, 2), complex), None, TypeError, "X: got dtype complex128, must be real"),
        (np.full((4, 5, 2), "a"), None, TypeError, "X: got dtype <U1, must be real"),
        (np.zeros((4, 5, 2), object), None, TypeError, "X: got dtype object, must be real"),
        (np.ma.zeros((4, 5, 2)), None, TypeError, "X: got a masked array"),
    ],
)
def test_wrong_inputs_are_explained(x, lengths, error, message):
    with pytest.raises(error, match=message):
        sequences(x, 2, SINGLE, lengths=lengths, name="X")


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.array([[1.0, 2.0]]), TypeError, "X: got dtype float64, must be integers"),
        (np.array([[1, 6]]), ValueError, r"X: got the integer 6, must be between 0 and num_embeddings - 1 = 5"),
        (np.array([[-1, 0]]), ValueError, "X: got the integer -1"),
        (np.zeros((2, 3, 1), int), ValueError, r"X: got shape \(2, 3, 1\), must be \(N, T\) integers"),
        ([np.array([1, 2]), np.array([[3]])], ValueError, r"X\[1\]: got shape \(1, 1\), must be \(T_n,\) integers"),
        ([np.array([1, 2]), np.array([9])], ValueError, r"X\[1\]: got the integer 9"),
        (np.array([[2**63]], np.uint64), ValueError, "does not fit"),
    ],
)
def test_wrong_tokens_are_explained(x, error, message):
    with pytest.raises(error, match=message):
        tokens_of(x)


def test_one_sequence_without_its_batch_axis_is_recognised():
    with pytest.raises(ValueError, match=r"X\[None\]; or 4 sequences of one step, write X\[:, None\]"):
        sequences(np.zeros((4, 2)), 2, SINGLE, name="X")


# One sequence without a batch axis


@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist, lambda x: x[::-1][::-1], lambda x: x.astype(">f4")])
def test_one_sequence_alone(form):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows, context = sequences(form(x), 2, SINGLE, single=True).all()
    assert (context.form, context.batch, context.steps) == ("single", 1, 3) and rows.dtype == SINGLE
    np.testing.assert_array_equal(rows, x)


@pytest.mark.parametrize(
    ("x", "features", "lengths", "message"),
    [
        (np.zeros((2, 5)), 3, None, r"x: got .*\(N, T, 3\) for a batch, \(T, 3\) for one sequence, or a list of"),
        (np.zeros(7), 1, None, r"x: got shape \(7,\).*write x\[\.\.\., None\]"),
        (np.zeros((4, 7)), 1, None, r"x: got shape \(4, 7\).*write x\[\.\.\., None\]"),
        (np.zeros((2, 3, 5)), 3, None, r"x: .*features come last: write x\.swapaxes\(1, 2\)"),
        (np.zeros((5, 3)), 3, [5], r"lengths: x is one sequence of shape \(5, 3\); cut it"),
    ],
)
def test_wrong_sequences_where_one_alone_is_allowed(x, features, lengths, message):
    with pytest.raises(ValueError, match=message):
        sequences(x, features, SINGLE, lengths=lengths, single=True)


# Rows


@pytest.mark.parametrize("form", ["array", "list", "single"])
@pytest.mark.parametrize("own", [False, True])
def test_own_rows_never_lie_in_what_was_given(form, own):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    given = {"array": x[None], "list": [x], "single": x}[form]
    rows, _ = sequences(given, 2, SINGLE, single=True).all(own=own)
    np.testing.assert_array_equal(rows, x)
    assert np.shares_memory(rows, x) == (form != "list" and not own)


@pytest.mark.parametrize("form", ["array", "list", "single"])
def test_scaled_rows_leave_what_was_given(form):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    kept, affine = x.copy(), (np.array([1, 2], SINGLE), np.array([0.5, 0.25], SINGLE))
    if form == "list":
        found = Sequences(x, np.array([3]), SINGLE, form="list", starts=np.array([0]), affine=affine)
    else:
        found = Sequences(x if form == "single" else x[None], None, SINGLE, form=form, affine=affine)
    np.testing.assert_array_equal(found.all()[0], (kept - [1, 2]) / [2, 4])
    np.testing.assert_array_equal(x, kept)


def test_rows_that_are_not_aligned_are_copied():
    x = np.frombuffer(b"." + np.arange(6, dtype=np.float32).tobytes(), np.float32, offset=1).reshape(3, 2)
    rows, _ = sequences(x, 2, SINGLE, single=True).all()
    assert not x.flags.aligned and rows.flags.aligned
    np.testing.assert_array_equal(rows, x)


@pytest.mark.parametrize("x", [np.full((1, 2, 1), 1e300), np.full((2, 2, 1), 1e300), [np.full((2, 1), 1e300)]])
def test_values_beyond_the_type_become_infinite(x):
    assert np.isinf(sequences(x, 1, SINGLE).all()[0]).all()


def test_parts_are_all_sequences_in_order():
    x = generator().normal(size=(7, 4, 2))
    lengths = np.array([4, 0, 2, 3, 4, 1, 2])
    for given in (Sequences(x, lengths), sequences([a[:n] for a, n in zip(x, lengths, strict=True)], 2, DOUBLE)):
        parts = list(given.parts(3))
        assert np.concatenate([p.lengths for p in parts]).tolist() == lengths.tolist()
        for k, part in enumerate(parts):
            rows, context = part.all()
            chosen = np.arange(3 * k, 3 * k + len(part))
            np.testing.assert_array_equal(rows, given.rows_of(chosen, given.context(chosen)))
            assert context.form == given.form


def test_windows_stay_where_they_lie():
    series = generator().normal(size=(30, 2)).astype(np.float32)
    x = np.lib.stride_tricks.sliding_window_view(series, 5, axis=0).swapaxes(1, 2)
    rows, _ = Sequences(x, dtype=SINGLE).all(windows=True)
    assert isinstance(rows, Windows) and np.shares_memory(rows.series, series)
    assert isinstance(Sequences(x, np.full(26, 3), SINGLE).all(windows=True)[0], Windows)
    scaled = Sequences(x, dtype=SINGLE, affine=(np.zeros(2, SINGLE), np.ones(2, SINGLE)))
    ragged = Sequences(x, np.arange(26) % 5, SINGLE)
    for other in (scaled, ragged, Sequences(x.copy(), dtype=SINGLE)):
        assert isinstance(other.all(windows=True)[0], np.ndarray)
    assert isinstance(Sequences(x, dtype=SINGLE).all()[0], np.ndarray)


# Gradients


@pytest.mark.parametrize("form", ["array", "list", "single"])
@pytest.mark.parametrize("pooled", [False, True])
def test_the_rows_of_a_gradient_are_those_of_the_output_and_own_their_memory(form, pooled):
    lengths = np.array([3]) if form == "single" else np.array([2, 3, 3])
    context = SequenceContext(lengths, form=form)
    context = PooledContext(context) if pooled else context
    rows = generator().normal(size=(context.rows, 2))
    dy = context.unpack(rows)
    found = read_gradient(dy, context, 2, DOUBLE)
    np.testing.assert_array_equal(found, rows)
    assert not any(np.shares_memory(found, a) for a in (dy if isinstance(dy, list) else [dy]))
    with pytest.raises(ValueError, match="dy"):
        read_gradient([np.zeros((2, 2))] * 4 if form == "list" else np.zeros((9, 9)), context, 2, DOUBLE)


def test_no_gradient_is_none():
    assert read_gradient(None, SequenceContext(np.array([2])), 3, SINGLE) is None
