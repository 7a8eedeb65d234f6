"""The model of many ranks in benchmarks/cluster_model.py: its limits, and that it counts what ranks really send."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import tolerances

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import cluster_model
from cluster_model import EXCHANGES, Network

NETWORK = Network("any", 30e-6, 1e-9)
WORK = {"bytes": 400_000, "shard": 5e-3, "update": 1e-3}
NEAR = tolerances.ROUNDINGS["float64"]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_one_rank_sends_nothing(exchange):
    assert EXCHANGES[exchange](1, 400_000, NETWORK, 8) == 0
    found = cluster_model.step(1, 8, WORK, NETWORK, exchange)
    np.testing.assert_allclose(found, 8 * WORK["shard"] + WORK["update"], **NEAR)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("ranks", [2, 3, 8, 61])
def test_each_byte_and_each_message_costs_time(exchange, ranks):
    cost = EXCHANGES[exchange]
    least = cost(ranks, 400_000, NETWORK, 64)
    assert least < cost(ranks, 800_000, NETWORK, 64)
    assert least < cost(ranks, 400_000, Network("", 2 * NETWORK.latency, NETWORK.per_byte), 64)
    assert least < cost(ranks, 400_000, Network("", NETWORK.latency, 2 * NETWORK.per_byte), 64)


def test_two_ranks_exchange_halves():
    """Ring and pieces are then the same: half of the gradient there, half of the sum back."""
    half = NETWORK.message(200_000)
    np.testing.assert_allclose(cluster_model.ring(2, 400_000, NETWORK), 2 * half, **NEAR)
    header = NETWORK.message(cluster_model.HEADER + 4 * cluster_model.SHARD)
    np.testing.assert_allclose(cluster_model.pieces(2, 400_000, NETWORK, 8), 2 * half + header, **NEAR)
    np.testing.assert_allclose(cluster_model.tree(2, 400_000, NETWORK), 2 * NETWORK.message(400_000), **NEAR)


def test_many_ranks_send_the_gradient_twice_or_a_tree_at_each_level():
    """The limits of a network without latency."""
    fast = Network("", 0.0, 1e-9)
    whole = fast.message(4e6)
    assert 1.96 * whole < cluster_model.ring(64, 4e6, fast) < 2 * whole
    assert cluster_model.ring(64, 4e6, fast) <= cluster_model.pieces(64, 4e6, fast, 64) < 2 * whole
    np.testing.assert_allclose(cluster_model.tree(64, 4e6, fast), 12 * whole, **NEAR)


def test_without_bytes_a_tree_is_the_fastest():
    slow = Network("", 1e-3, 0.0)
    assert cluster_model.tree(64, 4e6, slow) < cluster_model.ring(64, 4e6, slow)
    for ranks in (2, 16, 64):
        pieces = cluster_model.pieces(ranks, 4e6, slow, 64)
        np.testing.assert_allclose(pieces - cluster_model.ring(ranks, 4e6, slow), math.log2(ranks) * 1e-3, rtol=1e-12)


@pytest.mark.parametrize("ranks", [3, 5, 6, 7, 12])
def test_ranks_that_do_not_divide_the_shards_send_more(ranks):
    fast = Network("", 0.0, 1e-9)
    assert cluster_model.pieces(ranks, 4e6, fast, 64) > cluster_model.ring(ranks, 4e6, fast)


def test_steps_scale_to_the_shards_and_no_further():
    free = Network("", 0.0, 0.0)
    times = [cluster_model.step(ranks, 8, WORK | {"update": 0.0}, free) for ranks in (1, 2, 4, 8, 16)]
    np.testing.assert_allclose(times, [0.04, 0.02, 0.01, 0.005, 0.005], **NEAR)
    assert cluster_model.end_of_scaling(8, WORK, free, (1, 2, 4, 8, 16)) == 8
    assert cluster_model.end_of_scaling(8, WORK, Network("", 1.0, 0.0), (1, 2, 4, 8, 16)) == 1


def test_a_line_is_found_again():
    times = [(n, NETWORK.message(n)) for n in (8, 512, 32768, 2_000_000)]
    found = cluster_model.fitted("", times)
    np.testing.assert_allclose(found.latency, NETWORK.latency, rtol=1e-9)
    np.testing.assert_allclose(found.per_byte, NETWORK.per_byte, rtol=1e-9)
