"""The page about migration: its code runs, left and right, and both give the same."""

import re
from pathlib import Path

import pytest
from tolerances import PEER

import lstmx

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "migration.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="tests of an installed lstmx, without its documents")


def blocks(section):
    """The two programs of a section: what runs there, and what runs here."""
    text = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [
        compile(block, f"{PAGE.name}, {section}", "exec") for block in re.findall(r"```python\n(.*?)```", text, re.S)
    ]


def run_both(section, capsys):
    theirs, ours = blocks(section)
    exec(theirs, {"__name__": "theirs"})
    capsys.readouterr()
    exec(ours, {"__name__": "ours"})
    return float(capsys.readouterr().out.split()[-1])


@pytest.mark.parametrize("section", ["PyTorch", "Keras", "ONNX"])
def test_both_sides_give_the_same(section, tmp_path, monkeypatch, capsys):
    pytest.importorskip({"PyTorch": "torch", "Keras": "keras", "ONNX": "onnxruntime"}[section])
    monkeypatch.chdir(tmp_path)
    if section == "ONNX":
        lstmx.to_onnx(lstmx.Sequential([lstmx.LSTM(3, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0), "net.onnx")
    assert run_both(section, capsys) <= PEER["float32"]["rtol"]


def test_what_is_here_does_not_need_what_is_there():
    for section in ("PyTorch", "Keras", "ONNX"):
        _, ours = blocks(section)
        assert not {"torch", "keras", "onnxruntime"} & set(ours.co_names)


def test_names_of_ours_exist():
    """Every call on the page that begins with lstmx, or that is a layer."""
    for name in set(re.findall(r"`lstmx\.([a-zA-Z_.]+)\(", PAGE.read_text())):
        found = lstmx
        for part in name.split("."):
            found = getattr(found, part)
