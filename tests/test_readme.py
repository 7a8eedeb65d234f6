"""The README: its Python runs as it stands, its figures are those of docs/performance.md, its links lead somewhere."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PERFORMANCE = README.parent / "docs" / "performance.md"


def tables(text):
    """Every Markdown table, as a list of rows {column: cell}."""
    for found in re.findall(r"(?:^\|.*\n)+", text, re.M):
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
        yield [dict(zip(header, row, strict=True)) for row in rows]


def test_examples_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S):
        exec(compile(block, str(README), "exec"), namespace)
    accuracy = float(re.search(r"accuracy ([0-9.]+)", capsys.readouterr().out).group(1))
    assert accuracy > 0.95
    assert (tmp_path / "speakers.safetensors").stat().st_size > 40_000
    assert namespace["forget"].shape == (len(namespace["X_test"][0]), 32)


def test_the_two_commands_come_first():
    lines = [block.strip() for block in re.findall(r"```\w*\n(.*?)```", README.read_text(), re.S)]
    assert "lstmx demo" in lines[0] and "\n" not in lines[0]
    assert "pytest" in lines[1] and "\n" not in lines[1]


def test_it_is_read_in_two_minutes():
    text = README.read_text()
    assert len(re.sub(r"\]\([^)]*\)", "", text).split()) < 800
    assert len(re.findall(r"!\[", text)) <= 3


def test_figures_are_those_of_the_page_about_performance():
    [short] = tables(README.read_text())
    [full] = [rows for rows in tables(PERFORMANCE.read_text()) if "task" in rows[0]]
    known = {row["task"]: row for row in full if row["threads"] == "1"}
    assert len(short) >= 5
    for row in short:
        assert row.items() <= known[row["task"]].items()


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md", "docs/lesson.md"])
def test_links_lead_somewhere(page):
    path = README.parent / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert links
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []
