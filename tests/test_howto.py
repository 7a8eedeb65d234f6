"""The pages that are read first: their code runs as it stands, prints what they say, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

import lstmx

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "start.md", *sorted((DOCS / "howto").glob("*.md"))]

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="tests of an installed lstmx, without its documents")


def blocks(page):
    """The Python of a page, each block with empty lines before it, so that errors name the line of the page."""
    text = page.read_text()
    for found in re.finditer(r"```python\n(.*?)```", text, re.S):
        yield "\n" * text[: found.start(1)].count("\n") + found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs_and_prints_what_is_said(page, tmp_path, monkeypatch, capsys):
    """The blocks of a page share their names; what a comment ``# -> ..`` says is printed, in this order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    lstmx.set_num_threads(None)  # whatever another test has left
    threads = lstmx.get_num_threads()
    names = {"__name__": page.stem}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
        printed, left = capsys.readouterr().out, re.findall(r"  # -> (.*)", block)
        for line in printed.splitlines():
            if left and line == left[0]:
                del left[0]
        assert left == [], printed
    assert lstmx.get_num_threads() == threads


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_in_the_text_exist(page):
    for name in set(re.findall(r"\blstmx\.([a-zA-Z_.]*[a-zA-Z_])\b(?!\.py)", page.read_text())):
        found = lstmx
        for part in name.split("."):
            found = getattr(found, part)


def test_every_page_has_a_title_and_the_pages_are_there():
    assert len(PAGES) > 15
    for page in PAGES:
        assert re.match(r"# \S.*\n\n", page.read_text()), page
