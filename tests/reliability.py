"""Campaigns that look for faults which no single test would meet: races, failed allocations, kill -9, bad files, leaks.

    python tests/reliability.py                             # all, a minute each
    python tests/reliability.py files --minutes 10 --seed 3
    python tests/reliability.py files --case 3000017        # exactly this case again
    python tests/reliability.py --minutes 5 --write         # and write docs/reliability.json and .md

A campaign ends with its figures as JSON, or with what went wrong and how to repeat it. docs/reliability.md tells what
each one does. They need Linux, GCC with ThreadSanitizer, and what the tests need.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from campaigns import A_SEED, Failed, allocations, files, growth, kills, serve, team, together

import lstmx
from lstmx.bench.environment import cpu_name

CAMPAIGNS = {module.NAME: module for module in (team, allocations, kills, files, growth, together)}
DOCS = Path(__file__).resolve().parent.parent / "docs"


# The page. Each of these gives what stands between two of its marks.


def _team(found):
    return (
        f"{found['calls']:,} calls by teams of 1 to {found['most_threads']} threads: {found['barriers']:,} barriers "
        f"and {found['shares']:,} shares of work taken, {found['cancelled']:,} of the calls cancelled on the way. "
        f"No report. Each of the {found['weaker_copies_reported']} copies with one weaker instruction was reported."
    )


def _allocations(found):
    calls = ", ".join(f"{name} {found[name]:,}" for name in allocations.names())
    return (
        f"{found['failures']:,} failures in {found['cases']:,} cases, all of them a MemoryError ({calls}). "
        f"{found['by counter']:,} were made by the counter of lstmx's own allocations, {found['by one']:,} by a malloc "
        f"that refuses one block, {found['by all after']:,} by one that refuses all from then on."
    )


def _kills(found):
    return (
        f"{found['kills']:,} kills: {found['found the one']:,} times the one file was found, "
        f"{found['found the other']:,} times the other, never anything else; {found['left a temporary file']:,} of "
        "them fell inside a save."
    )


def _files(found):
    kinds = ", ".join(f"{found[kind]:,} of {name}" for kind, name in files.KINDS.items())
    return (
        f"{found['cases']:,} files ({kinds}): {found['refused']:,} refused, each with a ModelFileError that names "
        f"the file; {found['read']:,} read, as what was changed in them does not matter, or cannot be known (a "
        f"weight). The slowest took {found['slowest ms']} ms."
    )


def _growth(found):
    first, last = (f"{found[name] / 2**20:.1f} MiB" for name in ("bytes at first", "bytes at last"))
    return (
        f"{found['calls']:,} calls; over the last {found['calls watched']:,} of them the memory of the process went "
        f"from {first} to {last}, a difference of {found['grown by bytes']:,} bytes."
    )


def _together(found):
    return f"{found['calls']:,} calls of {found['kinds of calls']} kinds by {found['threads']} threads: equal bits."


BLOCKS = {
    "team": _team, "allocations": _allocations, "kills": _kills, "files": _files, "growth": _growth,
    "together": _together,
}  # fmt: skip


def filled(page, numbers):
    """The page with these numbers between its marks."""
    for name, block in BLOCKS.items():
        found = numbers[name]
        text = f"{block(found)} ({found['seconds'] / 60:.0f} minutes on {found['cpu']}, lstmx {found['version']}.)"
        text = f"<!-- {name} -->\n{text}\n<!-- end {name} -->"
        page, count = re.subn(f"<!-- {name} -->.*?<!-- end {name} -->", lambda _, text=text: text, page, flags=re.S)
        if count != 1:
            raise ValueError(f"reliability.md has {count} places marked {name}, must have one")
    return page


def write(found):
    """Put the figures of these campaigns in the place of their last ones, in reliability.json and .md."""
    numbers, page = DOCS / "reliability.json", DOCS / "reliability.md"
    kept = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else {}
    kept |= found
    numbers.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if set(BLOCKS) <= set(kept):
        page.write_text(filled(page.read_text(encoding="utf-8"), kept), encoding="utf-8")


def run(name, minutes, seed):
    """The figures of a campaign."""
    start, numbered = time.monotonic(), hasattr(CAMPAIGNS[name], "case")
    figures = CAMPAIGNS[name].run(60 * minutes, seed * (A_SEED if numbered else 1))
    about = {"cpu": cpu_name(), "version": lstmx.__version__, "seconds": round(time.monotonic() - start), "seed": seed}
    assert not about.keys() & figures.keys()
    return about | figures


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
    wrong = [name for name in options.campaigns if name not in CAMPAIGNS]
    if wrong:
        parser.error(f"there is no campaign {wrong[0]!r}; there are {', '.join(CAMPAIGNS)}")
    first = CAMPAIGNS[options.campaigns[0]] if options.campaigns else None
    if options.child is not None:
        number, seconds, note = options.child
        serve(first, int(number), float(seconds), note)
        return
    try:
        if options.case is not None:
            if not hasattr(first, "case"):
                parser.error("--case: give a campaign that has cases: allocations or files")
            print(json.dumps(first.run(0, options.case)))
            return
        for name in options.campaigns or CAMPAIGNS:
            found = run(name, options.minutes, options.seed)
            print(CAMPAIGNS[name].TITLE, json.dumps(found, indent=1), flush=True)
            if options.write:
                write({name: found})
    except Failed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
