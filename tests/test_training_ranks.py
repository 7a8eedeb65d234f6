"""One model trained by many ranks of MPI: the same bits for any number of them, and how they end together.

Programs of `ranks_cases` are started by mpiexec, on the loopback.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'lstmx-cpu[mpi]' mpich")

import ranks_cases
from training_data import CHILD, same

import lstmx

# The one that belongs to this Python is taken, if there is one: another's MPI may not know its ranks.
MPIEXEC = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec: pip install mpich"),
]

HOSTS = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
         "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "HYDRA_IFACE": "lo",
         "OMP_NUM_THREADS": "1"}  # fmt: skip


def launch(folder, ranks, *cases, options=(), within=(), seconds=60, **environment):
    """(what each rank has written, or None; the process)."""
    program = [*within, sys.executable, "-W", "error", str(Path(ranks_cases.__file__)), str(folder), *cases]
    done = subprocess.run([MPIEXEC, *options, "-n", str(ranks), *program], env=CHILD | HOSTS | environment,
                          capture_output=True, text=True, timeout=seconds)  # fmt: skip
    files = [folder / f"{rank}.json" for rank in range(ranks)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files], done


def of_ranks(folder, ranks, *cases, **more):
    """What each rank has given, of one case or by its name; all must have ended well."""
    found, done = launch(folder, ranks, *cases, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return [one[cases[0]] if len(cases) == 1 else one for one in found]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """What one process gives, without MPI."""
    program = "import json, sys, ranks_cases; print(json.dumps(ranks_cases.alone(sys.argv[1])))"
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path_factory.mktemp("alone"))]
    folder = str(Path(ranks_cases.__file__).parent)
    done = subprocess.run(command, env=CHILD, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_has_the_bits_of_one_process(ranks, local, tmp_path):
    for found in of_ranks(tmp_path, ranks, "bits"):
        for name, wanted in local["bits"].items():
            if wanted is not None:
                assert found[name] == wanted, name


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_have_the_weights_of_the_first(ranks, local, tmp_path):
    one, *others = of_ranks(tmp_path, ranks, "bits")
    assert all(other == one for other in others)
    missing = {name.split()[0] for name, wanted in local["bits"].items() if wanted is None}
    assert missing == {"any_order"}


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_estimators_and_their_checkpoints(ranks, local, tmp_path):
    """Of five ranks one has no shard."""
    for found in of_ranks(tmp_path, ranks, "estimators"):
        assert found == local["estimators"]
        assert found["whole"] == found["resumed"] == found["resumed elsewhere"]


def test_any_number_of_ranks_goes_on_from_a_checkpoint(tmp_path):
    wanted = of_ranks(tmp_path, 2, "checkpoint_whole")
    of_ranks(tmp_path, 3, "checkpoint_begun")
    assert of_ranks(tmp_path, 2, "checkpoint_gone_on") == wanted


def weights_stay(found, of=2):
    """All ranks have stopped, and have the same weights."""
    assert len(found) == of and len({(weights, stopped) for _, _, weights, stopped in found}) == 1
    return [(kind, text) for kind, text, _, _ in found]


def test_a_failure_ends_all_ranks_and_is_told_to_all(tmp_path):
    cases = ["a_callback_fails", "a_source_fails", "a_source_holds_nan", "data_hold_nan", "a_gradient_is_nan",
             "an_interrupt"]  # fmt: skip
    found = of_ranks(tmp_path, 2, *cases)
    ended = {name: weights_stay([one[name] for one in found]) for name in cases}
    there = "comm: rank 1 of 2 has failed, and training ends on all: "
    assert ended["a_callback_fails"] == [("RuntimeError", there + "LookupError: no such thing"),
                                         ("LookupError", "no such thing")]  # fmt: skip
    assert ended["a_source_fails"] == [("RuntimeError", there + "OSError: the disk is gone"),
                                       ("OSError", "the disk is gone")]  # fmt: skip
    for name, where in (("data_hold_nan", "batch 2: y holds NaN or infinite values, or ones beyond float32, in "
                         "sequence 23"), ("a_source_holds_nan", "batch 2, shard 6: y holds NaN")):  # fmt: skip
        (one, text), (other, message) = ended[name]
        assert one == other == "FloatingPointError" and text == f"{message} (on rank 1 of 2)"
        assert f"loss is nan in epoch 1, {where}" in message
    one, other = ended["a_gradient_is_nan"]
    assert one == other and one[0] == "FloatingPointError"
    assert one[1].startswith("the gradient's norm is nan in epoch 1, batch 2: X holds NaN or infinite values, or ones "
                             "beyond float32, in sequence 23, step 1; ")  # fmt: skip
    assert ended["an_interrupt"] == [("KeyboardInterrupt", "rank 1 of 2 was interrupted")] * 2
    assert [one["an_interrupt"][3] for one in found] == ["interrupted"] * 2


def test_an_argument_that_is_wrong_on_one_rank(tmp_path):
    for found in zip(*(one.values() for one in of_ranks(tmp_path, 2, "an_argument_is_wrong", "shards_are_wrong")),
                     strict=True):  # fmt: skip
        (one, text, *_), (other, cause, *_) = found
        assert other == "ValueError" and one == "RuntimeError"
        assert text == f"comm: rank 1 of 2 has failed, and training ends on all: ValueError: {cause}"


def test_a_warning_that_is_an_error_on_the_first_rank(tmp_path):
    (one, text, *_), (other, *_) = of_ranks(tmp_path, 2, "a_warning_is_an_error")
    assert (one, other) == ("UserWarning", "RuntimeError")
    assert text == "shards: got 1 for 2 ranks, so that 1 of them have no work; give more shards"


def test_interrupts_that_come_before_bytes_are_sent_and_at_the_end(tmp_path):
    one, other = of_ranks(tmp_path, 2, "an_interrupt_before_bytes", "an_interrupt_at_the_end")
    for ended in (one, other):
        assert ended["an_interrupt_before_bytes"][:2] == ["KeyboardInterrupt", "rank 1 of 2 was interrupted"]
    assert one["an_interrupt_at_the_end"] == ["nothing"]  # it has ended before
    assert other["an_interrupt_at_the_end"][0] == "KeyboardInterrupt"


@pytest.mark.parametrize("case", ["an_interrupted_estimator", "an_estimator_whose_callback_interrupts"])
def test_an_interrupted_estimator_is_fitted_on_all_ranks(case, tmp_path):
    one, other = of_ranks(tmp_path, 2, case)
    assert one == other and one[0] == 3


def test_communicators_of_all_kinds_and_what_is_none(tmp_path):
    for found, bad in of_ranks(tmp_path, 2, "communicators"):
        assert len(found) == 5 and len(set(found)) == 1
        for name in ("freed", "null"):
            text = "comm: got MPI.COMM_NULL, of which this process is no rank; call fit on its ranks alone"
            assert bad[name][:2] == ["ValueError", text]
        for name, kind in (("between", "Intercomm"), ("number", "int")):
            assert bad[name][0] == "TypeError"
            assert bad[name][1].startswith(f"comm: got {kind}, must be an intracommunicator of mpi4py, such as ")


def test_what_differs_between_ranks_is_named(tmp_path):
    one, other = of_ranks(tmp_path, 2, "configurations_differ")
    for name, ended in one.items():
        data = dict.fromkeys(("X", "y", "sample_weight"), "training data")
        shown = ({"layers": "layers[0]"} | data).get(name, name)
        assert ended[:2] == other[name][:2]
        assert ended[0] == "ValueError" and ended[1].startswith(f"comm: {shown} is "), ended
        assert " on rank 0, but " in ended[1] and " on rank 1; it must be the same" in ended[1]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_other_kernels_are_named(tmp_path):
    isa = lstmx.show_config("dicts")["isa"]
    if not isa["fma"] or "baseline" not in isa["usable"]:
        pytest.skip("all kernels of this CPU give the same bits")
    other = 'if [ "${PMI_RANK-$OMPI_COMM_WORLD_RANK}" = 1 ]; then export LSTMX_ISA=baseline; fi; exec "$@"'
    one, two = of_ranks(tmp_path, 2, "kernels_differ", within=["sh", "-c", other, "sh"])
    there, here = "tile, fused multiply-add on rank 0", "tile, not fused multiply-add on rank 1"
    assert one == two and one[0] == "ValueError"
    assert one[1] == f"comm: kernels is {there}, but {here}; it must be the same on all ranks"


def test_a_callback_that_is_out_of_step_is_an_error_on_all(tmp_path):
    for kind, text, _, stopped in of_ranks(tmp_path, 2, "out_of_step"):
        assert (kind, stopped) == ("RuntimeError", "failed")
        assert text.startswith("comm: the ranks are no longer in step (rank 0: flags, rank 1: bytes); a callback or")


def test_a_second_interrupt_is_at_once(tmp_path):
    """It may come in the middle of an exchange: so the program, when it ends, ends the other ranks."""
    found, done = launch(tmp_path, 2, "two_interrupts")
    assert done.returncode and found[1]["two_interrupts"][0] == "KeyboardInterrupt"


def test_messages_of_the_user_are_left_alone(tmp_path):
    assert of_ranks(tmp_path, 2, "a_user_receives_own_messages") == [True, True]


def test_a_slow_rank_is_waited_for(tmp_path):
    one, other = of_ranks(tmp_path, 2, "a_rank_is_slow")
    assert one == other


def test_without_threads_in_mpi_there_are_no_heartbeats_but_training_is_the_same(tmp_path):
    found = of_ranks(tmp_path, 2, "a_rank_is_slow", "has_heartbeats", MPI4PY_RC_THREAD_LEVEL="serialized")
    assert [one["has_heartbeats"] for one in found] == [False, False]
    assert found[0] == found[1]


def test_the_first_rank_alone_shows_progress_and_warns(tmp_path):
    assert of_ranks(tmp_path, 2, "words") == [[[True, 1]] * 2, [[False, 0]] * 2]


def test_nothing_is_left_of_a_fit(tmp_path):
    assert of_ranks(tmp_path, 2, "nothing_is_left") == [[6, 6, 1, True]] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_rank_that_dies_ends_the_others(tmp_path):
    """Launchers end them at once; where they do not, its silence does."""
    start = time.monotonic()
    found, done = launch(tmp_path, 3, "a_rank_dies")
    assert done.returncode and time.monotonic() - start < 30
    if "HYDRA" not in _version():
        return
    # The launcher sees programs that end well; and those that live do not listen to its signal, which would end them.
    hidden = ["sh", "-c", 'trap "" USR1; "$@"; exit 0', "sh"]
    found, done = launch(tmp_path, 3, "a_rank_dies", options=["-disable-auto-cleanup"], within=hidden)
    assert done.returncode and found[1] is None
    for one in (found[0], found[2]):
        kind, text, _, stopped, seconds = one["a_rank_dies"]
        assert (kind, stopped) == ("RuntimeError", "failed") and seconds < 20
        assert text.startswith("comm: nothing was heard of rank 1 of 3 for 4 s: the process has ended")


def _version():
    return subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True, timeout=20).stdout


def test_an_update_sends_each_rank_no_more_than_twice_the_gradient(tmp_path):
    for sent, size in of_ranks(tmp_path, 2, "bytes_sent"):
        assert size <= sent < size + 1000


PAGE = Path(__file__).parent.parent / "docs" / "howto" / "mpi.md"


@pytest.mark.skipif(not PAGE.exists(), reason="tests of an installed lstmx, without its documents")
def test_the_program_of_the_page_gives_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    command = re.search(r"\$ mpiexec (.*)", PAGE.read_text())[1].split()
    names = {}
    exec(blocks[0], names)  # writes the program
    command = [MPIEXEC, *(sys.executable if word == "python" else word for word in command)]
    done = subprocess.run(command, cwd=tmp_path, env=CHILD | HOSTS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    exec(blocks[1], names)
    assert same(lstmx.load(tmp_path / "model.safetensors").parameters(), names["model"].parameters())
