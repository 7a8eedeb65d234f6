"""Targets and weights in every form, and the rows that a batch gets of them."""

import numpy as np
import pytest

from lstmx.data.targets import Targets, read_targets, read_weights
from lstmx.functional.read import sequences

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)


# read_targets


def array_inputs(n=4, steps=3, lengths=None):
    return sequences(np.zeros((n, steps, 2)), 2, SINGLE, lengths=lengths)


def list_inputs(lengths=(3, 1, 2)):
    return sequences([np.zeros((n, 2)) for n in lengths], 2, SINGLE)


def rows_of(targets, inputs):
    chosen = np.arange(len(inputs))
    return targets.rows_of(chosen, inputs.context(chosen))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint8, bool, ">f4", list])
def test_one_target_a_sequence_in_every_form(shape, kind):
    y = np.array([0, 1, 1, 0]).reshape(shape)
    given = y.tolist() if kind is list else y.astype(kind)
    targets = read_targets(given, array_inputs(), 1, "mse", False, SINGLE)
    out = rows_of(targets, array_inputs())
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, [[0], [1], [1], [0]])


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, list])
def test_labels_in_every_form(shape, kind):
    y = np.array([2, 0, 1, 2]).reshape(shape)
    given = y.tolist() if kind is list else y.astype(kind)
    out = rows_of(read_targets(given, array_inputs(), 3, "categorical_crossentropy", False, SINGLE), array_inputs())
    assert out.dtype == np.int64
    np.testing.assert_array_equal(out, [2, 0, 1, 2])


def test_rows_come_in_the_order_of_the_model():
    """Sequences are sorted by length inside; their targets must follow."""
    inputs = list_inputs((3, 1, 2))
    targets = read_targets([10.0, 11.0, 12.0], inputs, 1, "mse", False, DOUBLE)
    assert rows_of(targets, inputs)[:, 0].tolist() == [10, 12, 11]
    per_step = read_targets([[0.0, 1, 2], [10.0], [20.0, 21]], inputs, 1, "mse", True, DOUBLE)
    assert rows_of(per_step, inputs)[:, 0].tolist() == [0, 20, 10, 1, 21, 2]


STEPS = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    "y",
    [STEPS, STEPS[..., None], STEPS.tolist(), tuple(STEPS.tolist()), list(STEPS), STEPS[..., None].tolist()],
    ids=["array", "column", "nested", "tuple", "list-of-arrays", "nested-column"],
)
def test_one_target_a_step_of_an_array(y):
    inputs = array_inputs()
    out = rows_of(read_targets(y, inputs, 1, "mse", True, DOUBLE), inputs)
    np.testing.assert_array_equal(out[:, 0], STEPS.T.reshape(-1))


@pytest.mark.parametrize("form", [list, tuple])
@pytest.mark.parametrize("column", [False, True])
def test_one_target_a_step_of_a_list(form, column):
    inputs = list_inputs((3, 1, 2))
    y = form(np.arange(n) + 10.0 * k for k, n in enumerate((3, 1, 2)))
    if column:
        y = form(a[:, None] for a in y)
    out = rows_of(read_targets(y, inputs, 1, "mse", True, DOUBLE), inputs)
    assert out[:, 0].tolist() == [0, 20, 10, 1, 21, 2]


def test_padding_of_targets_is_never_read():
    inputs = array_inputs(lengths=[3, 0, 1, 2])
    y = STEPS.copy()
    y[1], y[2, 1:], y[3, 2] = np.nan, np.inf, -5
    for outputs, loss in ((1, "mse"), (12, "categorical_crossentropy")):
        out = rows_of(read_targets(y, inputs, outputs, loss, True, SINGLE), inputs)
        assert out.reshape(-1).tolist() == [0, 9, 6, 1, 10, 2]
    assert np.isnan(y[1]).all()  # the caller's array is as it was


@pytest.mark.parametrize(
    ("y", "outputs", "loss", "per_step", "error", "message"),
    [
        (
            np.zeros(5),
            1,
            "mse",
            False,
            ValueError,
            r"y: got shape \(5,\), must be \(4,\) or \(4, 1\): one per sequence",
        ),
        (np.zeros((4, 2)), 1, "mse", False, ValueError, r"y: got shape \(4, 2\), must be \(4,\) or \(4, 1\)"),
        (np.zeros((1, 4)), 1, "mse", False, ValueError, r"y: got shape \(1, 4\)"),
        (np.zeros(4), 2, "mse", False, ValueError, r"must be \(4, 2\): one per sequence, the model has 2 outputs"),
        (np.zeros((4, 3)), 1, "mse", False, ValueError, r"must be \(4,\) or \(4, 1\)"),
        (np.zeros(4), 1, "mse", True, ValueError, r"must be \(4, 3\) or \(4, 3, 1\): one per step"),
        (np.zeros((4, 2)), 1, "mse", True, ValueError, r"y: got shape \(4, 2\)"),
        (3.0, 1, "mse", False, ValueError, r"y: got shape \(\)"),
        ([[1.0], [2.0, 3.0], [1.0], [1.0]], 1, "mse", False, ValueError, "y: not a rectangular array"),
        (list("abcd"), 3, "categorical_crossentropy", False, TypeError, "encode class names as integers"),
        (list("abcd"), 1, "mse", False, TypeError, "y: got dtype <U1, must be numbers"),
        (np.zeros(4, complex), 1, "mse", False, TypeError, "y: got dtype complex128"),
        ([None] * 4, 1, "mse", False, TypeError, "y: got dtype object"),
        ([0, 1, 2, 3], 3, "categorical_crossentropy", False, ValueError, "got the label 3, must be between 0 and 2"),
        ([0, 1, -1, 2], 3, "categorical_crossentropy", False, ValueError, "got the label -1"),
        ([0, 1, 0.5, 2], 3, "categorical_crossentropy", False, ValueError, "class labels must be integers"),
        ([0, 1, np.nan, 2], 3, "categorical_crossentropy", False, ValueError, "class labels must be integers"),
        ([0, 1, 2, 1], 1, "binary_crossentropy", False, ValueError, "values from 0 to 2, must be between 0 and 1"),
        ([0, 1, -1, 1], 1, "binary_crossentropy", False, ValueError, "values from -1 to 1"),
    ],
)
def test_wrong_targets_are_explained(y, outputs, loss, per_step, error, message):
    with pytest.raises(error, match=message):
        read_targets(y, array_inputs(), outputs, loss, per_step, SINGLE)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((3, 3)), "y: must be a list of 3 arrays, one per sequence, with a value per step"),
        ([np.zeros(3), np.zeros(1)], "y: must be a list of 3 arrays"),
        ([np.zeros(3), np.zeros(2), np.zeros(2)], r"y\[1\]: got shape \(2,\), must be \(1,\) or \(1, 1\)"),
        ([0.0, 1.0, 2.0], r"y\[0\]: got shape \(\), must be \(3,\)"),
    ],
)
def test_wrong_ragged_targets_are_explained(y, message):
    with pytest.raises(ValueError, match=message):
        read_targets(y, list_inputs(), 1, "mse", True, SINGLE)


# read_weights


def weights_of(inputs, y, per_step=False, outputs=1, loss="mse", sample=None, per_class=None):
    targets = read_targets(y, inputs, outputs, loss, per_step, DOUBLE)
    weights = read_weights(sample, per_class, targets, inputs, outputs, DOUBLE)
    chosen = np.arange(len(inputs))
    context = inputs.context(chosen)
    return weights.rows_of(chosen, context, targets.rows_of(chosen, context), per_step)


def test_weights_are_one_by_default():
    assert weights_of(list_inputs(), [1.0, 2, 3]).tolist() == [1, 1, 1]


def test_sample_weights_follow_their_sequences():
    assert weights_of(list_inputs((3, 1, 2)), [1.0, 2, 3], sample=[10, 11, 12]).tolist() == [10, 12, 11]


def test_a_weight_a_sequence_counts_for_each_of_its_steps():
    y = [[0.0, 1, 2], [10.0], [20.0, 21]]
    out = weights_of(list_inputs((3, 1, 2)), y, per_step=True, sample=[10, 11, 12])
    assert out.tolist() == [10, 12, 11, 10, 12, 10]


def test_a_weight_a_step():
    y = [[0.0, 1, 2], [10.0], [20.0, 21]]
    sample = [np.array([1.0, 2, 3]), np.array([4.0]), np.array([5.0, 6])]
    assert weights_of(list_inputs(), y, per_step=True, sample=sample).tolist() == [1, 5, 4, 2, 6, 3]
    out = weights_of(array_inputs(lengths=[3, 0, 1, 2]), STEPS, per_step=True, sample=STEPS)
    assert out.tolist() == [0, 9, 6, 1, 10, 2]


def test_class_weights_multiply_sample_weights():
    out = weights_of(array_inputs(), [2, 0, 1, 2], outputs=3, loss="categorical_crossentropy", sample=[1, 2, 3, 4],
                     per_class={0: 10.0, 2: 0.5})  # fmt: skip
    assert out.tolist() == [0.5, 20, 3, 2]


def test_class_weights_for_one_binary_output():
    out = weights_of(array_inputs(), [0, 1, 1, 0], loss="binary_crossentropy", per_class={1: 3.0})
    assert out.tolist() == [1, 3, 3, 1]


def test_balanced_class_weights_give_every_class_the_same_sum():
    y = [2, 0, 2, 2]
    out = weights_of(array_inputs(), y, outputs=3, loss="categorical_crossentropy", per_class="balanced")
    np.testing.assert_allclose(out, [2 / 3, 2, 2 / 3, 2 / 3], rtol=1e-15)


def test_balanced_class_weights_do_not_count_the_padding():
    """Steps with labels: class 0 three times, class 1 three times. What stands on the padding is no label."""
    y = np.array([[0, 1, 0], [1, 9, 9], [0, 9, 9], [1, 9, 9]])
    inputs = array_inputs(lengths=[3, 1, 1, 1])
    out = weights_of(inputs, y, True, 2, "categorical_crossentropy", per_class="balanced")
    np.testing.assert_allclose(out, np.ones(6), rtol=1e-15)


def test_balanced_class_weights_of_a_list():
    y = [np.array([0, 1, 0]), np.array([1]), np.array([1, 0])]
    out = weights_of(list_inputs(), y, True, 2, "categorical_crossentropy", per_class="balanced")
    np.testing.assert_allclose(out, np.ones(6), rtol=1e-15)


@pytest.mark.parametrize(
    ("sample", "per_class", "error", "message"),
    [
        ([1, 2, 3], None, ValueError, r"sample_weight: got shape \(3,\), must be \(4,\), one weight per sequence"),
        (np.ones((4, 3)), None, ValueError, r"sample_weight: got shape \(4, 3\)"),
        ([1, 2, -3, 4], None, ValueError, "sample_weight: weights must be finite and at least 0"),
        ([1, 2, np.nan, 4], None, ValueError, "sample_weight: weights must be finite"),
        ([1, 2, np.inf, 4], None, ValueError, "sample_weight: weights must be finite"),
        (list("abcd"), None, TypeError, "sample_weight: got dtype"),
        (None, [1, 2, 3], TypeError, "class_weight: got list, must be a dict of label to weight"),
        (None, "even", ValueError, "class_weight: got 'even', must be one of 'balanced'"),
        (None, {0: -1.0}, ValueError, "class_weight: got -1.0"),
        (None, {0: "a"}, TypeError, "class_weight: got 'a'"),
        (None, {-1: 2.0}, ValueError, "class_weight: got -1"),
        (None, {1.5: 2.0}, TypeError, "class_weight: got 1.5"),
        (None, {"cat": 2.0}, TypeError, "class_weight: got 'cat'"),
        (None, {10**13: 2.0}, ValueError, "class_weight"),
    ],
)
def test_wrong_weights_are_explained(sample, per_class, error, message):
    with pytest.raises(error, match=message):
        weights_of(array_inputs(), [2, 0, 1, 2], outputs=3, loss="categorical_crossentropy", sample=sample,
                   per_class=per_class)  # fmt: skip


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ([np.ones(3), np.ones(1)], "sample_weight"),
        ([np.ones(3), np.ones(2), np.ones(2)], r"sample_weight\[1\]: got shape \(2,\)"),
        ([], "sample_weight"),
    ],
)
def test_wrong_weights_a_step_are_explained(sample, message):
    with pytest.raises(ValueError, match=message):
        weights_of(list_inputs(), [np.zeros(3), np.zeros(1), np.zeros(2)], per_step=True, sample=sample)


@pytest.mark.parametrize(("y", "outputs"), [([0.5, 1.0, 2.0, 3.0], 1), (np.eye(4)[:, :3], 3)])
def test_class_weight_needs_classes(y, outputs):
    loss = "mse" if outputs == 1 else "categorical_crossentropy"
    with pytest.raises(ValueError, match="class_weight: needs integer class labels"):
        weights_of(array_inputs(), y, outputs=outputs, loss=loss, per_class="balanced")


def test_targets_of_a_batch_are_a_copy():
    """The losses may not write into the caller's y."""
    inputs = array_inputs()
    y = np.zeros((4, 1))
    targets = read_targets(y, inputs, 1, "mse", False, DOUBLE)
    chosen = np.arange(4)
    assert isinstance(targets, Targets)
    assert not np.shares_memory(targets.rows_of(chosen, inputs.context(chosen)), y)


def test_softmax_over_one_class_is_refused():
    with pytest.raises(ValueError, match="needs one output per class, the model has 1 output"):
        read_targets(np.zeros(4, int), list_inputs(), 1, "categorical_crossentropy", False, SINGLE)


def test_labels_for_a_regression_loss_get_a_hint():
    with pytest.raises(ValueError, match="for class labels give loss='categorical_crossentropy'"):
        read_targets(np.zeros(len(list_inputs()), int), list_inputs(), 3, "mse", False, SINGLE)
