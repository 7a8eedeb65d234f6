"""The benchmarks of training on several ranks, at a tiny size: that they run, and that bits and losses agree."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'lstmx-cpu[mpi]' mpich")
pytest.importorskip("lstmx.training.shards")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import distributed_mpi
import two_hosts

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="affinity and namespaces of Linux"),
    pytest.mark.skipif(distributed_mpi.mpiexec() is None, reason="there is no mpiexec: pip install mpich"),
]
SIZE = {"batch": 16, "steps": 10, "batches": 2, "epochs": 3}


@pytest.mark.skipif(distributed_mpi.cpus() < 2, reason="needs two CPUs")
def test_ranks_beside_one_and_beside_pytorch():
    found = distributed_mpi.measure([4], 1, SIZE, 2)
    forms = found["training"][4]
    assert len(forms) >= 4 and forms["2 ranks"]["losses"] == forms["1 rank, 8 shards"]["losses"]
    gradient = 4 * (16 * (distributed_mpi.INPUTS + 4 + 1) + 5)
    assert gradient <= forms["2 ranks"]["sent"] < gradient + 1000
    assert 0 < forms["2 ranks"]["share"] < 1
    assert found["messages"]["per_byte"] > 0
    shown = distributed_mpi.rows(found)
    assert {len(line) for line in shown} == {len(distributed_mpi.COLUMNS)}
    assert [line[4] for line in shown if line[1] == "1 rank, 8 shards"] == [">= 1.8"]


def test_what_the_model_starts_from():
    found = distributed_mpi.model(1, [4])["work"][4]
    assert found["shard"] > 0 and found["update"] > 0 and found["bytes"] == 4 * (16 * (distributed_mpi.INPUTS + 5) + 5)


@pytest.mark.parametrize("delay", [0.0, 0.005])
def test_two_hosts_and_one_give_the_same_bits(delay):
    if os.geteuid() != 0 or any(shutil.which(name) is None for name in ("ip", "tc", "unshare", "nsenter")):
        pytest.skip("needs root, iproute2 and util-linux")
    try:
        with two_hosts.Hosts(delay):
            pass
    except OSError as error:
        pytest.skip(f"namespaces cannot be made here: {error}")
    size = SIZE | {"hidden": 4}
    link = two_hosts.together(delay, size, 3)
    assert set(link["weights"]) == set(two_hosts.alone(size)["weights"])
    assert link["times"][0][1] > delay and link["seconds"] > 3 * delay
    assert link["sent"] > 4 * np.sum([16 * (distributed_mpi.INPUTS + 5), 5])  # it went over the link
