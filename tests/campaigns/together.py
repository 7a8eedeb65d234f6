"""Eight threads at once, on everything, on the same models: the bits are those of one thread alone."""

import json
import subprocess
import sys
import threading
import time
import traceback
import warnings

import numpy as np

import lstmx

from . import Failed, environment
from .allocations import same
from .calls import in_folder

NAME = "together"
TITLE = "Eight threads on everything at once"
CALLERS = 8
PROBLEMS = 40  # of each kind of call, with random shapes
LIMIT = 120  # seconds after the end, until a call counts as hanging


def run(seconds, seed):
    """Threads in a child of their own."""
    code = f"from campaigns import together; together.work({seconds}, {seed})"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=seconds + 2 * LIMIT
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"together: does not end; again: --seed {seed}") from None
    if done.returncode:
        raise Failed(f"together: ended with {done.returncode}; again: --seed {seed}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def work(seconds, seed):
    """In the child: prints the figures, or what was different."""
    warnings.simplefilter("ignore")
    models = in_folder()
    problems = [(call, seed * 10_000 + k) for call in models.calls for k in range(PROBLEMS)]
    with lstmx.num_threads(1):
        wanted = [call(np.random.default_rng(k)) for call, k in problems]
    end, counts, wrong = time.monotonic() + seconds, [0] * CALLERS, []

    def calls(me):
        rng = np.random.default_rng([seed, me])
        try:
            while time.monotonic() < end and not wrong:
                k = rng.integers(len(problems))
                call, number = problems[k]
                with lstmx.num_threads(int(rng.integers(1, 5))):
                    found = call(np.random.default_rng(number))
                if not same(found, wanted[k]):
                    wrong.append(f"{call.__name__} of {number}: other bits")
                counts[me] += 1
        except BaseException:
            wrong.append(traceback.format_exc())

    threads = [threading.Thread(target=calls, args=(me,)) for me in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        sys.exit("\n".join(wrong))
    print(json.dumps({"threads": CALLERS, "calls": sum(counts), "kinds of calls": len(models.calls)}))
