"""ThreadSanitizer over lstmx/_core/c/team.h, with plain threads in place of OpenMP, whose runtime is not built for it.

team.c uses its barrier, rows, shares, cancellation and budget as loop.pyx does. Before it counts, weaker copies of
team.h must be reported: a campaign that does not see those would see nothing.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import CORE, Failed

NAME = "team"
TITLE = "ThreadSanitizer over the team of threads"
MEMBERS = range(1, 9)
FLAGS = ["-std=gnu11", "-O2", "-g", "-Wall", "-Werror", "-Wno-unused-function", "-pthread"]
SANITIZER = ["-fsanitize=thread"]
RELEASE, ACQUIRE, BOTH, NONE = "__ATOMIC_RELEASE", "__ATOMIC_ACQUIRE", "__ATOMIC_ACQ_REL", "__ATOMIC_RELAXED"
WEAKER = {  # what of team.h: (its text, a word in it, what takes its place)
    "the barrier opens without release": ("&team->round, round + 1, __ATOMIC_RELEASE", RELEASE, NONE),
    "the barrier is left without acquire": ("&team->round, __ATOMIC_ACQUIRE) == round", ACQUIRE, NONE),
    "members arrive without release": ("&team->waiting, 1, __ATOMIC_ACQ_REL", BOTH, ACQUIRE),
    "members arrive without acquire": ("&team->waiting, 1, __ATOMIC_ACQ_REL", BOTH, RELEASE),
    "a share is finished without release": ("&shares->done[share], blocks, __ATOMIC_RELEASE", RELEASE, NONE),
    "a share is awaited without acquire": ("&shares->done[share], __ATOMIC_ACQUIRE", ACQUIRE, NONE),
    "rows are given without release": ("&asker->answer, LSTMX_GIVEN, __ATOMIC_RELEASE", RELEASE, NONE),
    "rows are got without acquire": ("&own->answer, __ATOMIC_ACQUIRE", ACQUIRE, NONE),
    "rows are asked for without release": ("&state, me, 0, __ATOMIC_RELEASE", RELEASE, NONE),
    "a question is heard without acquire": ("&own->state, __ATOMIC_ACQUIRE", ACQUIRE, NONE),
    "rows are begun without an atomic": (
        "!__atomic_compare_exchange_n(&other->state, &state, next, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)",
        "!__atomic_compare_exchange_n(&other->state, &state, next, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)",
        "other->state != state || (other->state = next, 0)",
    ),
    "shares are taken without an atomic": (
        "__atomic_fetch_add(&shares->taken, 1, __ATOMIC_RELAXED)",
        "__atomic_fetch_add(&shares->taken, 1, __ATOMIC_RELAXED)",
        "shares->taken++",
    ),
    "cancelled without an atomic": (
        "__atomic_store_n(&team->cancelled, 1, __ATOMIC_RELEASE)",
        "__atomic_store_n(&team->cancelled, 1, __ATOMIC_RELEASE)",
        "team->cancelled = 1",
    ),
}  # fmt: skip


def available():
    """Whether there is a GCC with ThreadSanitizer."""
    gcc = shutil.which("gcc")
    if gcc is None:
        return False
    found = subprocess.run([gcc, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True).stdout
    return os.path.isabs(found.strip())


def run(seconds, seed):
    """Rounds with 1 to 8 members, after the weaker copies."""
    if not available():
        raise Failed("team: needs gcc with ThreadSanitizer (libtsan)")
    found, header = {"calls": 0, "barriers": 0, "shares": 0, "cancelled": 0}, (CORE / "team.h").read_text()
    with tempfile.TemporaryDirectory() as folder:
        for name, (text, word, weaker) in WEAKER.items():
            if header.count(text) != 1:
                raise Failed(f"team: {name}: team.h has not, or not once, {text!r}")
            program = build(Path(folder), header.replace(text, text.replace(word, weaker)))
            done = started(program, seed, 4, 20)  # seconds; it ends with the first report
            if "ThreadSanitizer: data race" not in done.stderr:
                raise Failed(f"team: {name}, and ThreadSanitizer reports nothing")
        # Without the sanitizer, too: what is faster meets otherwise, and a question that nobody answers hangs.
        runs = [(flags, members) for flags in (SANITIZER, []) for members in MEMBERS]
        for flags, members in runs:
            program = build(Path(folder), header, flags)
            done = started(program, seed, members, seconds / len(runs))
            if done.returncode or done.stderr:
                again = f"again: python tests/reliability.py team --seed {seed}"
                raise Failed(f"team: {members} threads, ended with {done.returncode}; {again}\n{done.stderr[-5000:]}")
            for key, value in json.loads(done.stdout).items():
                found[key] += value
    return found | {"most_threads": max(MEMBERS), "weaker_copies_reported": len(WEAKER)}


def build(folder, header, flags=SANITIZER):
    """The program with this text of team.h."""
    (folder / "team.h").write_text(header)
    source, program = Path(__file__).with_name("team.c"), folder / "team"
    omp = "-D_OPENMP=201511"  # takes the branch with threads; nothing of OpenMP is linked
    command = ["gcc", *FLAGS, *flags, omp, f"-I{folder}", str(source), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"team: team.c does not compile\n{done.stderr}")
    return program


def started(program, seed, members, seconds):
    """Runs the program until the time is over, or ThreadSanitizer reports something."""
    command = [str(program), str(seed), str(members), str(seconds)]
    variables = os.environ | {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=seconds + 100)
