"""``lstmx bench``: arguments, progress, what is printed and written."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstmx.bench import cells, report, runner, shapes, tasks

if TYPE_CHECKING:
    from collections.abc import Callable


def _list(kind: Callable[[str], Any], what: str) -> Callable[[str], list[Any]]:
    def convert(text: str) -> list[Any]:
        try:
            return [kind(part) for part in text.split(",") if part]
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {text!r}, must be {what}") from None

    return convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``lstmx bench``."""
    every = ", ".join(tasks.TASKS)
    parser.add_argument(
        "--task",
        type=_list(str, "names"),
        metavar="NAMES",
        help=f"of {every}; or all (default: {','.join(tasks.DEFAULT)})",
    )
    parser.add_argument(
        "--shape", action="append", metavar="SHAPE",
        help=f"T,N,I,H, or T0..T1,N,I,H for ragged tasks, or one of {', '.join(shapes.GROUPS)}; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--cell", type=_list(str, "names"), metavar="NAMES",
        help=f"of {', '.join(cells.CELLS)}; for the tasks cells and cells-training (all)",
    )  # fmt: skip
    parser.add_argument("--threads", type=_list(int, "numbers such as 1,2"), metavar="NUMBERS", help="such as 1,2")
    parser.add_argument(
        "--peers", type=_list(str, "names"), metavar="NAMES",
        help=f"of {', '.join(tasks.PEERS)}; none; or module:Class, an engine of your own (all that are installed)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, metavar="NUMBER", help="how often each is timed; the fastest counts (5)")
    parser.add_argument("--quick", action="store_true", help="few shapes, one thread, two short rounds")
    parser.add_argument("--json", metavar="PATH", help="write the results")
    parser.add_argument("--chart", metavar="PATH", help="draw the ratios, into a .png, .svg or .pdf (needs matplotlib)")
    parser.add_argument("--markdown", action="store_true", help="print the summary as a Markdown table")
    parser.add_argument("--write", metavar="PAGE", help="put that table between its marks, as in docs/performance.md")
    parser.add_argument("--from", dest="source", metavar="PATH", help="run nothing, show what --json has written")


def _check_paths(options: argparse.Namespace) -> None:
    """Errors that would otherwise come after minutes of measuring."""
    for name in ("json", "chart"):
        path = getattr(options, name)
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise ValueError(f"--{name}: got {path!r}, must be in a folder that exists")
    if options.chart is not None:
        if Path(options.chart).suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"--chart: got {options.chart!r}, must end in .png, .svg or .pdf")
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ValueError(f"--chart: needs matplotlib ({error}): pip install 'matplotlib>=3.8'") from error
    if options.write is not None:
        report.parts_of(options.write, "bench")


def _progress(case: dict[str, Any]) -> None:
    errors = [name for name, record in case["engines"].items() if "error" in record]
    own = report.as_time(report.seconds_of(case, "lstmx"))
    told = [f"{name} {report.as_number(report.ratio(case, name))}" for name in report.peers_of([case])]
    if "cell" in case:
        told.insert(0, f"{report.as_number(report.of_plain(case))} of plain")
    print(
        f"{case['task']} {report.label(case)}, {report.count(case['threads'])}: {', '.join([own, *told])}"
        + (f" (errors: {', '.join(errors)})" if errors else ""),
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _results(options: argparse.Namespace) -> dict[str, Any]:
    if options.source is not None:
        try:
            results = json.loads(Path(options.source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            results = error
        if not isinstance(results, dict) or results.get("schema") != runner.SCHEMA:
            told = f" ({results})" if isinstance(results, OSError) else ""
            raise ValueError(
                f"--from: got {options.source!r}, must be a file that lstmx bench --json has written{told}"
            )
        return results
    peers = [] if options.peers == ["none"] else options.peers
    return runner.run(
        options.task, options.shape, options.threads, peers, options.rounds, options.quick, _progress, options.cell
    )


def main(options: argparse.Namespace) -> int:
    """Run with parsed options; returns the exit status: 1 if lstmx itself failed at a case, 130 after Ctrl-C."""
    try:
        _check_paths(options)
        results = _results(options)
    except (ValueError, OSError, RuntimeError) as error:
        message = str(error)
        print(f"lstmx bench: {message if message.startswith('--') else f'--{message}'}", file=sys.stderr)
        return 2
    if options.json is not None:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(report.markdown(results) if options.markdown else report.text(results))
    if options.write is not None:
        report.write(options.write, "bench", report.markdown(results))
    if options.chart is not None:
        report.chart(results, options.chart)
    if results["interrupted"]:
        return 130
    return int(any("error" in case["engines"]["lstmx"] for case in results["cases"]))
