"""What tests/reliability.py tries, a module for each campaign; and what they share: numbered cases in child processes.

A campaign has a ``NAME``, a ``TITLE``, and ``run(seconds, seed)``, which returns its figures, plain JSON values, or
raises `Failed` with a message that says how to repeat it. One with numbered cases has ``case(number)`` too, which runs
one of them and returns what it counts; the second argument of its ``run`` is the first case.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lstmx

TESTS = Path(__file__).resolve().parent.parent
CORE = TESTS.parent / "lstmx" / "_core" / "c"
SCRIPT = TESTS / "reliability.py"
A_SEED = 1_000_000  # cases that belong to one seed
START = 120  # seconds until a child has begun
A_CHILD = 60  # seconds until the next one goes on
POLL = 0.2  # seconds between looks at a child


class Failed(AssertionError):
    """A campaign has found a fault."""


def environment(**more):
    """That of a child, which must find the lstmx that runs here."""
    path = [str(Path(lstmx.__file__).resolve().parents[1]), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)} | more


def run_cases(name, seconds, first, limit, **more):
    """Runs the cases of a campaign in children, one after the other, until the time is over.

    Parameters
    ----------
    name : str
        Of the campaign.
    seconds : float
    first : int
        The first case.
    limit : float
        Seconds after which a case counts as hanging.
    **more
        Environment variables of the children.

    Returns
    -------
    dict
        What all cases have counted, summed, but for names that begin with "largest" or "slowest": of those the largest;
        and "cases", how many there were.

    Raises
    ------
    Failed
        If a case has failed, or its process has died or hangs.
    """
    found, end = collections.Counter(), time.monotonic() + seconds
    while not found["cases"] or time.monotonic() < end:
        part = max(0, min(end - time.monotonic(), A_CHILD))
        add(found, _child(name, first + found["cases"], part, limit, environment(**more)))
    return dict(found)


def add(found, more):
    """Add what one case, or one child, has counted to the counts that are there."""
    for key, value in more.items():
        found[key] = max(found[key], value) if key.startswith(("largest", "slowest")) else found[key] + value


def _child(name, first, seconds, limit, variables):
    """What a child counts that runs cases from `first` on."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "case")  # which the child writes before each case
        note.write_text("")
        command = [sys.executable, str(SCRIPT), name, "--child", str(first), str(seconds), str(note)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=variables, **pipes) as process:
            try:
                out, errors = _watched(process, name, note, limit)
            finally:
                process.kill()
        if process.returncode:
            raise Failed(
                _told(name, note.read_text() or first, f"ended with {process.returncode}") + f"\n{errors[-3000:]}"
            )
        return json.loads(out.splitlines()[-1])


def _watched(process, name, note, limit):
    """What a child prints, on both of its pipes; as long as no case takes too long."""
    case, since = None, time.monotonic()
    while True:
        try:
            return process.communicate(timeout=POLL)
        except subprocess.TimeoutExpired:
            now = note.read_text()
            if now != case:
                case, since = now, time.monotonic()
            elif time.monotonic() - since > (limit if now else START):
                raise Failed(_told(name, case, f"did not end in {limit} s")) from None


def _told(name, case, what):
    return f"{name}: case {case} {what}; again: python tests/reliability.py {name} --case {case}"


def serve(campaign, first, seconds, note):
    """In a child: run cases from `first` on until the time is over, and print what they count."""
    found, end, number = collections.Counter(), time.monotonic() + seconds, first
    handle = os.open(note, os.O_WRONLY)
    while number == first or time.monotonic() < end:
        os.pwrite(handle, b"%d" % number, 0)  # cases of one seed have as many digits, or more
        add(found, campaign.case(number))
        number += 1
    print(json.dumps(found | {"cases": number - first}), flush=True)
