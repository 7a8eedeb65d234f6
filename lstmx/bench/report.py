"""Ratios, tables and the chart, all made of the results of `run`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstmx.bench.tasks import OWN, PEERS, PLAIN, TASKS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence


BEST = "best peer"


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers.

    Examples
    --------
    >>> round(geometric_mean([1, 4]), 6)
    2.0
    """
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def label(case: dict[str, Any]) -> str:
    """The shape of a case, and its cell where it has one: "50,32,64,128 cifg"."""
    return f"{case['shape']} {case['cell']}" if "cell" in case else case["shape"]


def seconds_of(case: dict[str, Any], engine: str) -> float | None:
    """The time of an engine; None where it has none."""
    return case["engines"].get(engine, {}).get("seconds")


def ratio(case: dict[str, Any], peer: str, what: str = "seconds") -> float | None:
    """The peer's time (or memory) over lstmx's, None without both; `BEST` is the best of all peers."""
    own = case["engines"].get("lstmx", {}).get(what)
    names = [name for name in case["engines"] if name not in OWN] if peer == BEST else [peer]
    theirs = [case["engines"].get(name, {}).get(what) for name in names]
    theirs = [value for value in theirs if value]
    return min(theirs) / own if own and theirs else None


def of_plain(case: dict[str, Any]) -> float | None:
    """The time of an option's cell over the plain one's, None without both."""
    inverse = ratio(case, PLAIN)
    return 1 / inverse if inverse else None


def rate(case: dict[str, Any]) -> float | None:
    """lstmx's GFLOP/s, None where that means nothing."""
    own = seconds_of(case, "lstmx")
    return case["gflop"] / own if own and case["gflop"] else None


def groups(results: dict[str, Any]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(task, threads) -> its cases, in the order in which they ran."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for case in results["cases"]:
        found.setdefault((case["task"], case["threads"]), []).append(case)
    return found


def peers_of(cases: Sequence[dict[str, Any]]) -> list[str]:
    """The peers in these cases: known ones first, then others by name."""
    names = {name for case in cases for name in case["engines"]} - {*OWN}
    return sorted(names, key=lambda name: (PEERS.index(name) if name in PEERS else len(PEERS), name))


def complete(results: dict[str, Any]) -> dict[str, Any]:
    """Add to each case gflops and peak_fraction, and to the results the summary; returns the results."""
    peaks = {(p["threads"], p["dtype"]): p["gflops"] for p in results["peaks"]}
    for case in results["cases"]:
        case["gflops"] = rate(case)
        peak = peaks.get((case["threads"], case["dtype"]))
        case["peak_fraction"] = case["gflops"] / peak if case["gflops"] and peak else None
    results["summary"] = []
    for (task, threads), cases in groups(results).items():
        for peer in [*peers_of(cases), BEST]:
            ratios = [(ratio(case, peer), label(case)) for case in cases]
            ratios = [pair for pair in ratios if pair[0] is not None]
            if not ratios:
                continue
            worst, shape = min(ratios)
            mean = geometric_mean([value for value, _ in ratios])  # type: ignore[misc]
            results["summary"].append(
                {"task": task, "threads": threads, "peer": peer, "cases": len(ratios), "worst": worst,
                 "worst_shape": shape, "geometric_mean": mean}
            )  # fmt: skip
    return results


def as_time(seconds: float | None) -> str:
    """Three digits and a unit: "12.3 us"."""
    if seconds is None:
        return "-"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            digits = 2 if seconds * factor < 10 else 1 if seconds * factor < 100 else 0
            return f"{seconds * factor:.{digits + (seconds * factor < 1)}f} {unit}"
    return "-"


def as_number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def as_percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def as_shares(values: Sequence[float] | None) -> str:
    """Each thread's part, the calling one first: "2, 9 %"."""
    return "-" if values is None else ", ".join(f"{100 * value:.0f}" for value in values) + " %"


def header(results: dict[str, Any]) -> list[str]:
    """What ran where, a list of lines."""
    e = results["environment"]
    isa, blas, load = e["isa"], e["blas"], e["load"]
    fma = "" if isa["fma"] else "no "
    core = f" with kernels for {blas['core']}" if blas and blas["core"] else ""
    lines = [
        f"lstmx {e['lstmx']}, {e['engine']} engine, {isa['active']} ({isa['vector_bytes']}-byte vectors, {fma}FMA), "
        f"{'' if e['openmp'] else 'no '}OpenMP",
        f"CPU: {e['cpu']}, {e['cpus']} to use" + (f", load {load[0]:.1f} at the start" if load else ""),
        f"Python {e['python']}, NumPy {e['numpy']}, " + (f"{blas['library']}{core}" if blas else "no SciPy"),
    ]
    for name, value in e["unset"].items():
        lines.append(f"unset for the workers: {name}={value}")
    others = [f"{name} {version}" for name, version in results["versions"].items() if name != "lstmx"]
    lines.append("peers: " + (", ".join(others) or "none"))
    if results["absent"]:
        lines.append("absent: " + ", ".join(f"{name} ({why})" for name, why in results["absent"].items()))
    rates = [f"{p['gflops']:.0f} ({p['dtype']}, {count(p['threads'])})" for p in results["peaks"]]
    lines.append(f"peak of multiply-adds in registers, GFLOP/s: {', '.join(rates) or '-'}")
    return lines


def count(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def columns(task: str, cases: Sequence[dict[str, Any]], peers: Sequence[str]) -> list[tuple[str, Callable[[Any], str]]]:
    """(title, function of a case) for the table of one task."""
    per_step = TASKS[task].kind == "stream"
    found: list[Any] = [
        ("T,N,I,H", label),
        ("lstmx", lambda case: as_time(seconds_of(case, "lstmx"))),
    ]
    if TASKS[task].kind == "cells":
        found.append(("of plain", lambda case: as_number(of_plain(case))))
        found.append(("work", lambda case: as_number(case["work"])))
    if any(case["engines"]["lstmx"].get("median") for case in cases):
        found.append(("median", lambda case: as_time(case["engines"]["lstmx"].get("median"))))
    if per_step:
        own = [("a step", lambda case: as_time((seconds_of(case, "lstmx") or math.nan) / case["steps"]))]
        found += [(title, lambda case, f=f: f(case) if seconds_of(case, "lstmx") else "-") for title, f in own]
    if any(case["engines"]["lstmx"].get("p99") for case in cases):
        found.append(("p99", lambda case: as_time(case["engines"]["lstmx"].get("p99"))))
    if any(case["engines"]["lstmx"].get("waiting") for case in cases):
        found.append(("waiting", lambda case: as_shares(case["engines"]["lstmx"].get("waiting"))))
    if any(case["gflops"] for case in cases):
        found.append(("GFLOP/s", lambda case: as_number(case["gflops"], ".1f")))
        found.append(("of peak", lambda case: as_percent(case["peak_fraction"])))
    found += [(peer, lambda case, peer=peer: as_number(ratio(case, peer))) for peer in peers]
    if len(peers) > 1:
        found.append((BEST, lambda case: as_number(ratio(case, BEST))))
    if TASKS[task].kind == "start":
        found.append(("MiB", lambda case: as_number(case["engines"]["lstmx"].get("memory"), ".0f")))
        found += [(f"MiB, {p}", lambda case, p=p: as_number(ratio(case, p, "memory"))) for p in peers]
    return found


def table(task: str, threads: int, cases: Sequence[dict[str, Any]], summary: Any) -> list[str]:
    """The lines of the table of one task and number of threads."""
    peers = peers_of(cases)
    wanted = columns(task, cases, peers)
    titles = [title for title, _ in wanted]
    rows = [[function(case) for _, function in wanted] for case in cases]
    found = {s["peer"]: s for s in summary if (s["task"], s["threads"]) == (task, threads)}
    if len(cases) > 1 and found:
        for label, key in (("worst", "worst"), ("geometric mean", "geometric_mean")):
            rows.append([label, *(as_number(found[t][key]) if t in found else "" for t in titles[1:])])
    widths = [max(len(row[k]) for row in [titles, *rows]) for k in range(len(titles))]
    note = "; of plain, work: time and multiplications over the plain cell's" if TASKS[task].kind == "cells" else ""
    note += "; columns of peers: how many times slower" if peers else ""
    lines = ["", f"{TASKS[task].about}, {count(threads)} (--task {task}{note})"]
    for row in [titles, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines


def troubles(results: dict[str, Any]) -> list[str]:
    """Errors, and engines that used more CPUs than they were given; a list of lines."""
    lines, load = [], results["environment"]["load"]
    if load and load[0] > 0.5 * results["environment"]["cpus"]:
        lines.append(f"other programs were busy at the start (load {load[0]:.1f}): these times are not to be relied on")
    for case in results["cases"]:
        where = f"{case['task']} {label(case)}, {count(case['threads'])}"
        for name, record in case["engines"].items():
            if "error" in record:
                lines.append(f"{name}, {where}: {record['error']}")
            elif (record.get("cores") or 0) > case["threads"] + 0.3:
                lines.append(f"{name}, {where}: used {record['cores']:.1f} CPUs")
    if results["interrupted"]:
        lines.append("interrupted: what is missing was not run")
    return ["", *lines] if lines else []


def text(results: dict[str, Any]) -> str:
    """Everything, as plain text."""
    lines = header(results)
    for (task, threads), cases in groups(results).items():
        lines += table(task, threads, cases, results["summary"])
    return "\n".join(lines + troubles(results))


def markdown(results: dict[str, Any]) -> str:
    """The summary as a Markdown table."""
    e = results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [f"{e['cpu']}, {e['isa']['active']}; {versions}.", ""]
    summary = results["summary"]
    peers = list(dict.fromkeys(s["peer"] for s in summary if s["peer"] != BEST)) + [BEST] * bool(summary)
    lines += ["| " + " | ".join(["task", "threads", "shapes", "of FMA peak, at best", *peers]) + " |"]
    lines += ["|---" * (4 + len(peers)) + "|"]
    for (task, threads), cases in groups(results).items():
        top = as_percent(max((case["peak_fraction"] or 0 for case in cases), default=0) or None)
        found = {s["peer"]: s for s in summary if (s["task"], s["threads"]) == (task, threads)}
        cells = [f"{found[p]['geometric_mean']:.2f} ({found[p]['worst']:.2f})" if p in found else "-" for p in peers]
        lines.append("| " + " | ".join([TASKS[task].about, str(threads), str(len(cases)), top, *cells]) + " |")
    return "\n".join([*lines, "", "Geometric mean over the shapes, in brackets the worst shape."])


def parts_of(path: str | Path, name: str) -> Any:
    """A page cut into (what stands before a table, the table, what stands after it), by its two marks."""
    marks = f"<!-- {name} table -->\n", f"<!-- end {name} table -->"
    try:
        page = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"write: got {str(path)!r}, must be a page that can be read ({error})") from error
    if [page.count(mark) for mark in marks] != [1, 1] or page.index(marks[0]) > page.index(marks[1]):
        raise ValueError(f"write: got {str(path)!r}, must be a page with {marks[0].strip()} and {marks[1]}, once each")
    before, rest = page.split(marks[0])
    table, after = rest.split(marks[1])
    return before + marks[0], table, marks[1] + after


def write(path: str | Path, name: str, text: str) -> None:
    """Put a table between its marks in a page."""
    before, _, after = parts_of(path, name)
    Path(path).write_text(f"{before}{text}\n{after}", encoding="utf-8")


def chart(results: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw how many times slower each peer is, one panel for each task and number of threads, into a file."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"chart: needs matplotlib ({error}): pip install 'matplotlib>=3.8'") from error
    every = groups(results)
    beside = {key: [case for case in cases if peers_of([case])] for key, cases in every.items()}
    panels = {key: cases for key, cases in beside.items() if cases} or every
    heights = [1.2 + 0.25 * len(cases) for cases in panels.values()]
    figure = Figure(figsize=(8, sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(max(1, len(panels)), 1, squeeze=False, height_ratios=heights or None)[:, 0]
    names, labelled = peers_of([case for cases in panels.values() for case in cases]), set()
    for ax, ((task, threads), cases) in zip(axes, panels.items(), strict=False):
        for k, peer in enumerate(names):
            points = [(ratio(case, peer), y) for y, case in enumerate(cases)]
            points = [point for point in points if point[0] is not None]
            if points:
                shown = "_" if peer in labelled else peer  # once in the legend
                labelled.add(peer)
                ax.plot(*zip(*points, strict=True), "o", color=f"C{k}", label=shown)
        ax.axvline(1, color="gray", linewidth=1)
        ax.set(title=f"{TASKS[task].about}, {count(threads)}", yticks=range(len(cases)), xscale="log")
        ax.set_yticklabels([label(case) for case in cases])
        ax.invert_yaxis()
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "235" else "")
    axes[-1].set_xlabel("the peer's time over lstmx's: right of 1, lstmx is faster")
    if labelled:
        figure.legend(loc="outside lower center", ncols=len(labelled), fontsize="small")
    figure.suptitle(f"lstmx {results['environment']['lstmx']} on {results['environment']['cpu']}")
    figure.savefig(path, dpi=110)
