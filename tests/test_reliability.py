"""The campaigns of tests/reliability.py, some seconds of each; and their page, which quotes what they counted."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("resource", reason="the campaigns need POSIX")

import reliability
from campaigns import Failed, allocations, calls, environment, files, kills, run_cases, team

import lstmx
from lstmx.functional import engine as engines

DOCS = Path(lstmx.__file__).resolve().parent.parent / "docs"
needs_docs = pytest.mark.skipif(not (DOCS / "reliability.md").exists(), reason="an installed lstmx")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
preloads = pytest.mark.skipif(not allocations.available(), reason="needs GCC and glibc")
tile = pytest.mark.skipif(engines.NAME != "tile", reason="the tile engine's promises")


@needs_docs
def test_the_page_shows_the_figures_that_were_counted():
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    numbers = json.loads((DOCS / "reliability.json").read_text(encoding="utf-8"))
    assert reliability.filled(page, numbers) == page
    assert set(reliability.BLOCKS) == set(numbers) == set(reliability.CAMPAIGNS)
    assert set(reliability.BLOCKS) == set(re.findall(r"<!-- (\w+) -->", page))


@needs_docs
def test_the_figures_are_large_enough_to_mean_something():
    numbers = json.loads((DOCS / "reliability.json").read_text(encoding="utf-8"))
    assert numbers["files"]["cases"] >= 100_000 and numbers["kills"]["kills"] >= 1000
    assert min(numbers["allocations"][name] for name in allocations.names()) > 0
    assert numbers["allocations"]["failures"] >= 10_000
    assert numbers["team"]["weaker_copies_reported"] == len(team.WEAKER)


@linux
@tile
@pytest.mark.long
@pytest.mark.parametrize("name", reliability.CAMPAIGNS)
def test_some_seconds_of_each_campaign(name):
    needs = {"team": team, "allocations": allocations, "files": allocations}.get(name)
    if needs is not None and not needs.available():
        pytest.skip("needs GCC, with ThreadSanitizer or for glibc")
    found = reliability.run(name, 0.1, 0)
    assert found["seconds"] >= 0 and sum(isinstance(value, int) and value > 0 for value in found.values()) > 2


@preloads
@tile
@pytest.mark.long
@pytest.mark.parametrize("name", allocations.names())
def test_every_call_fails_in_every_way(name):
    """A case of each call for each way to fail: the campaign's first."""
    first = allocations.names().index(name)
    for way in range(len(allocations.WAYS)):
        found = reliability.CAMPAIGNS["allocations"].run(0, first + way * len(allocations.CALLS))
        assert found["cases"] == 1 and (found["failures"] > 0 or allocations.WAYS[way] == "counter" or name == "save")


def test_damaged_files_of_every_kind():
    """In this process, without limits: that such files are refused, not how."""
    for number in range(40):
        kind = list(files.KINDS)[number % len(files.KINDS)]
        rng = np.random.default_rng(number)
        content = next(content for one, _, content in files.sources() if one == kind)
        assert isinstance(files.change(rng, kind, content), bytes)
    changed = [files.change(np.random.default_rng(k), "lstmx", files.sources()[2][2]) for k in range(60)]
    assert len(set(changed)) > 50


def test_calls_give_the_same_for_the_same_numbers(tmp_path):
    models = calls.Models(tmp_path)
    for call in models.calls:
        first, again = (call(np.random.default_rng(5)) for _ in range(2))
        assert allocations.same(first, again), call.__name__
        assert len(allocations.parts(first)) > 0
    assert allocations.same([np.float32(np.nan)], [np.float32(np.nan)])
    assert not allocations.same([np.float32(0)], [np.float32(-0.0)])


FAULTY = """
import os, signal, sys, time
import campaigns
class Campaign:
    @staticmethod
    def case(number):
        if number == 7:
            {}
        return {{"seen": 1, "slowest": number}}
first, seconds, note = sys.argv[3:]
campaigns.serve(Campaign, int(first), float(seconds), note)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
@pytest.mark.parametrize(
    ("fault", "told"),
    [("os.kill(os.getpid(), signal.SIGSEGV)", "ended with -11"), ("time.sleep(60)", "did not end in"),
     ("raise ValueError('odd')", "ended with 1")],
)  # fmt: skip
def test_a_case_that_goes_wrong_is_told(fault, told, tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(FAULTY.format(fault))
    monkeypatch.setattr("campaigns.SCRIPT", script)
    with pytest.raises(Failed, match=f"some: case 7 {told}.*--case 7"):
        run_cases("some", 60, 3, 2)


def test_cases_are_counted(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(FAULTY.format("pass"))
    monkeypatch.setattr("campaigns.SCRIPT", script)
    found = run_cases("some", 0, 99, 60)
    assert found == {"seen": 1, "slowest": 99, "cases": 1}


def test_a_file_that_is_neither_is_told(monkeypatch):
    """A save that writes in place would be found."""
    in_place = kills.SAVER.replace("model.save(path)", "data = open(path, 'rb').read(); open(path, 'wb').write(data)")
    monkeypatch.setattr(kills, "SAVER", in_place)
    with pytest.raises(Failed, match="neither file"):
        kills.run(30, 0)


def test_a_wrong_name_is_refused():
    done = subprocess.run(
        [sys.executable, reliability.__file__, "nothing"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2 and "there is no campaign 'nothing'" in done.stderr
