"""The order of a pass, and the split."""

import numpy as np
import pytest

from lstmx.data.batches import plan, split


def generator(seed=0):
    return np.random.default_rng(seed)


# plan


RAGGED = generator(1).integers(1, 40, size=503)


@pytest.mark.parametrize("shuffle", [True, "exact", False])
@pytest.mark.parametrize("lengths", [RAGGED, np.full(50, 9), np.array([3]), np.array([0, 0, 5])])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_plan_takes_each_index_once_in_full_batches(lengths, batch_size, shuffle):
    batches = plan(lengths, batch_size, shuffle, generator())
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    sizes = sorted(len(b) for b in batches)
    assert sizes[1:] == [min(batch_size, len(lengths))] * (len(batches) - 1)  # one batch may be smaller
    assert len(batches) == -(-len(lengths) // batch_size)


def test_plan_puts_similar_lengths_together():
    batches = plan(RAGGED, 8, True, generator())
    spread = np.mean([np.ptp(RAGGED[b]) for b in batches])
    spread_exact = np.mean([np.ptp(RAGGED[b]) for b in plan(RAGGED, 8, "exact", generator())])
    assert spread < spread_exact / 5
    lengths = [RAGGED[b].mean() for b in batches]
    assert np.any(np.diff(lengths) < 0) and np.any(np.diff(lengths) > 0)  # the batches themselves are shuffled


def test_plan_mixes_differently_at_every_pass():
    rng = generator()
    first, second = (sorted(map(sorted, plan(RAGGED, 8, True, rng))) for _ in range(2))
    assert first != second


def test_plan_keeps_the_order_without_shuffling():
    batches = plan(RAGGED, 10, False, None)
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(len(RAGGED)))


def test_plan_exact_is_a_plain_permutation_in_batches():
    batches = plan(RAGGED, 10, "exact", generator(4))
    np.testing.assert_array_equal(np.concatenate(batches), generator(4).permutation(len(RAGGED)))


@pytest.mark.parametrize("shuffle", [True, "exact"])
def test_plan_is_deterministic_and_depends_on_the_generator(shuffle):
    one, same, other = (plan(RAGGED, 10, shuffle, generator(seed)) for seed in (3, 3, 4))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shuffle", [True, "exact", False])
def test_plan_of_nothing_is_nothing(shuffle):
    assert plan(np.zeros(0, np.int64), 4, shuffle, generator()) == []


# split


@pytest.mark.parametrize("where", ["random", "tail"])
@pytest.mark.parametrize(("count", "fraction", "held"), [(10, 0.3, 3), (10, 0.25, 2), (3, 0.4, 1), (1000, 0.999, 999)])
def test_split_takes_each_index_once(count, fraction, held, where):
    train, rest = split(count, fraction, where, generator())
    assert len(rest) == held
    assert sorted([*train, *rest]) == list(range(count))


def test_split_tail_takes_the_last():
    train, held = split(10, 0.3, "tail", None)
    assert train.tolist() == list(range(7)) and held.tolist() == [7, 8, 9]


def test_split_random_is_random_and_deterministic():
    one, same, other = (split(100, 0.2, "random", generator(seed))[1] for seed in (0, 0, 1))
    assert (one == same).all() and (one != other).any()
    assert one.tolist() != list(range(80, 100))


@pytest.mark.parametrize(("count", "fraction"), [(3, 0.1), (1, 0.5), (3, 0.9), (0, 0.5)])
def test_split_without_a_sequence_on_each_side_is_an_error(count, fraction):
    with pytest.raises(ValueError, match=rf"validation_split: {fraction} of {count} sequences"):
        split(count, fraction, "random", generator())
