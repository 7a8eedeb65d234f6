"""Campaigns that look for faults which no single test would meet: races, failed allocations, kill -9, bad files, leaks.

    python tests/reliability.py                             # all, a minute each
    python tests/reliability.py files --minutes 10 --seed 3
    python tests/reliability.py files --case 3000017        # exactly this case again
    python tests/reliability.py --minutes 5 --write         # and write docs/reliability.json and .md

A campaign ends with its figures as JSON, or with what went wrong and how to repeat it. docs/reliability.md tells what
each one does. They need Linux, GCC and what the tests need.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

import lstmx
from campaigns import A_SEED, allocations, files, serve, team
from lstmx.bench.environment import cpu_name, cpus

CAMPAIGNS = {module.NAME: module for module in (team, allocations, files)}
DOCS = Path(__file__).resolve().parent.parent / "docs"


def main():
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaigns", nargs="*", metavar="campaign", help=f"of {', '.join(CAMPAIGNS)}; by default all")
    parser.add_argument("--minutes", type=float, default=1, help="of each campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run one case of a campaign alone")
    parser.add_argument("--write", action="store_true", help="write the figures to the documentation")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.campaigns:
        if name not in CAMPAIGNS:
            parser.error(f"there is no campaign {name!r}; there are {', '.join(CAMPAIGNS)}")
    if options.child is not None:
        first, seconds, note = options.child
        serve(CAMPAIGNS[options.campaigns[0]], int(first), float(seconds), note)
        return
    if options.case is not None:
        print(json.dumps(CAMPAIGNS[options.campaigns[0]].run(0, options.case)))
        return
    found = {}
    for name in options.campaigns or CAMPAIGNS:
        start, numbered = time.monotonic(), hasattr(CAMPAIGNS[name], "case")
        figures = CAMPAIGNS[name].run(60 * options.minutes, options.seed * (A_SEED if numbered else 1))
        found[name] = {"seconds": round(time.monotonic() - start), "seed": options.seed} | figures
        print(name, json.dumps(found[name], indent=1), flush=True)


if __name__ == "__main__":
    main()
