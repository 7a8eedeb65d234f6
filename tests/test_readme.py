"""The README's Python runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.long
def test_examples_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.S):
        exec(compile(block, str(README), "exec"), namespace)
    accuracy = float(re.search(r"accuracy ([0-9.]+)", capsys.readouterr().out).group(1))
    assert accuracy > 0.95
    assert (tmp_path / "speakers.safetensors").stat().st_size > 100_000


def test_the_two_commands_come_first():
    lines = [block.strip() for block in re.findall(r"```\w*\n(.*?)```", README.read_text(), re.S)]
    assert "lstmx demo" in lines[0] and "\n" not in lines[0]
    assert "pytest" in lines[1] and "\n" not in lines[1]


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if "://" not in link and not (README.parent / link).exists()] == []
