"""lstmx beside other frameworks on this CPU: ``lstmx bench``, or `run`.

Every engine runs in a process of its own for each number of threads. All are given the same weights and inputs, and
what they compute is compared before it is timed. Rounds alternate between the engines; the fastest of each counts.
"""

from lstmx.bench.runner import run

__all__ = ["run"]
