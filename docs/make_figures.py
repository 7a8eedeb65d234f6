"""Draw the pictures of the explanation pages, and write the numbers of their tables.

    pip install '.[demo]'
    python docs/make_figures.py

writes figures/*.svg, explanation.json, and in explanation/*.md the text between the marks ``<!-- name -->`` and
``<!-- end name -->``. What takes longer is not measured here: the accuracy of the kernels by ``benchmarks/ulp.py
--json docs/ulp.json``, training on several ranks by ``benchmarks/distributed_mpi.py --json docs/cluster.json`` and
``benchmarks/two_hosts.py --json docs/two_hosts.json``.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

import lstmx
from lstmx.training.shards import bounds

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
import cluster_model  # noqa: E402

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # Okabe and Ito's
PALE, INK = "#e8e8e8", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, PINK, "#56B4E9")


# Drawing.


def canvas(width, height, size=(9, 3.6)):
    """Axes without frame, of so many units."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=size, layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_axis_off()
    return figure, ax


def box(ax, x, y, text="", colour=PALE, width=1.0, height=1.0, **style):
    """A box whose upper left corner is at x, y."""
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", linewidth=1.5))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", **({"fontsize": 9, "color": INK} | style))


def arrow(ax, start, end, colour=INK, style="-|>", **options):
    """An arrow between two points."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": style, "color": colour, "linewidth": 1.3} | options)


def note(ax, x, y, text, **style):
    """Text whose left end is at x."""
    ax.text(x, y, text, va="center", **({"fontsize": 10, "color": INK} | style))


def packed_rows():
    """A ragged batch as it is given, and as it lies in memory."""
    lengths = {"a": 2, "b": 5, "c": 3}
    order = sorted(lengths, key=lengths.get, reverse=True)
    figure, ax = canvas(21, 8.6, (9, 3.7))
    note(ax, 0, 0.5, "given: three sequences, rows padded to the longest", weight="bold")
    for row, (name, length) in enumerate(lengths.items()):
        for t in range(5):
            there = t < length
            box(ax, 1 + t * 1.1, 1.2 + row * 1.1, f"{name}{t}" if there else "", COLOURS[row] if there else PALE,
                color="white")  # fmt: skip
    note(ax, 8, 2.2, "grey: padding, nothing is computed there")
    note(ax, 8, 3.3, "numbers: the steps")
    note(ax, 0, 5.5, "packed: longest first, step after step", weight="bold")
    x, starts = 1, []
    for t in range(5):
        starts.append(x)
        for name in order:
            if t < lengths[name]:
                box(ax, x, 6.1, f"{name}{t}", COLOURS["abc".index(name)], color="white")
                x += 1.1
        x += 0.5
    for t, (start, count) in enumerate(zip(starts, (3, 3, 2, 1, 1), strict=True)):
        ax.plot([start, start + 1.1 * count - 0.1], [7.35, 7.35], color=INK, linewidth=1)
        ax.text(start + (1.1 * count - 0.1) / 2, 7.9, f"step {t}", ha="center", va="center", fontsize=9)
    return figure


def tile():
    """The register tile: rows of activations, a panel of weights, sums in registers."""
    figure, ax = canvas(24, 12.4, (9, 4.7))
    note(ax, 0, 0.6, "x or h: some rows, read where they lie", weight="bold")
    for r in range(3):
        for k in range(6):
            box(ax, 0.5 + k * 1.1, 3.6 + r * 1.1, "" if k != 2 else "x", BLUE if k == 2 else PALE, color="white")
        note(ax, 7.4, 4.1 + r * 1.1, f"row {r}", fontsize=8)
    note(ax, 11, 0.6, "a panel of packed weights: k after k", weight="bold")
    for k in range(2):
        for c, gate in enumerate("ifgo"):
            text, colour = (f"{gate} of 16 units", ORANGE) if k == 1 else ("", PALE)
            box(ax, 11 + c * 3.1, 1.2 + k * 0.95, text, colour, 3, 0.85, fontsize=8)
    arrow(ax, (3.2, 6.9), (10.6, 6.9), BLUE)
    note(ax, 3.2, 7.5, "each x is spread over a whole register", fontsize=8)
    arrow(ax, (16.9, 3.1), (16.9, 3.55), ORANGE)
    note(ax, 11, 7.4, "sums: one register each, kept until all k are done", weight="bold")
    for r in range(3):
        for c in range(4):
            box(ax, 11 + c * 3.1, 3.6 + r * 1.1, f"sum({r}, {'ifgo'[c]}) += x w", GREEN, 3, fontsize=8, color="white")
    note(ax, 0, 9.3, "then, still in registers:", weight="bold")
    for c, text in enumerate(("sigmoid(i)", "sigmoid(f)", "tanh(g)", "sigmoid(o)")):
        box(ax, 11 + c * 3.1, 8.8, text, PALE, 3, fontsize=8)
    box(ax, 11, 10.4, "c = f c + i g", PINK, 6.1, color="white")
    box(ax, 17.2, 10.4, "h = o tanh(c)", PINK, 6.1, color="white")
    arrow(ax, (14, 9.9), (14, 10.35))
    arrow(ax, (20.2, 9.9), (20.2, 10.35))
    note(ax, 0, 10.9, "written to memory, in inference: c and h alone", fontsize=9)
    return figure


def sums():
    """One sum: chains over blocks of fixed length, added in order."""
    figure, ax = canvas(24, 7.6, (9, 3))
    note(
        ax, 0, 0.6, "300 terms of a sum, whoever computes it: blocks of 128, counted from the first term", weight="bold"
    )
    x, ends = 0.3, []
    for terms, width in ((128, 7), (128, 7), (44, 2.6)):
        box(ax, x, 1.4, f"a chain of {terms}", BLUE, width, color="white")
        arrow(ax, (x + 0.3, 2.9), (x + width - 0.3, 2.9), BLUE)
        ends.append(x + width - 0.3)
        x += width + 0.4
    box(ax, 18.6, 4.2, "the output", GREEN, 4.5, color="white")
    for end in ends:
        ax.plot([end, end], [2.9, 4.7], color=INK, linewidth=1.2)
    arrow(ax, (2, 4.7), (18.5, 4.7))
    box(ax, 0.2, 4.2, "bias", ORANGE, 1.8)
    note(ax, 2.6, 5.4, "added one after the other", fontsize=9)
    note(
        ax,
        0,
        6.9,
        "No batch, no thread, no width of a register changes where a block ends: so none changes a bit.",
        fontsize=9,
    )
    return figure


def threads():
    """Two ways to share a layer among threads."""
    figure, ax = canvas(24, 9.4, (9, 3.7))
    note(ax, 0, 0.5, "many rows: threads take rows", weight="bold")
    for row in range(6):
        for t in range(6):
            box(ax, 0.3 + t * 1.5, 1.2 + row * 1.05, "", BLUE if row < 3 else ORANGE, 1.4, 0.95)
    note(ax, 0.3, 8.1, "rows do not depend on each other:", fontsize=9)
    note(ax, 0.3, 8.8, "nobody waits within a block of steps", fontsize=9)
    note(ax, 13, 0.5, "one row, many units: threads take units", weight="bold")
    for t in range(4):
        x = 13 + t * 2.7
        box(ax, x, 1.2, "", BLUE, 1.9, 3.05)
        box(ax, x, 4.35, "", ORANGE, 1.9, 3.05)
        if t < 3:
            ax.plot([x + 2.3, x + 2.3], [1, 7.6], color=INK, linewidth=2.5)
    note(ax, 13, 8.1, "each step needs all of the last h:", fontsize=9)
    note(ax, 13, 8.8, "a barrier (black) after every step", fontsize=9)
    for x in (0.3, 13):
        arrow(ax, (x, 9.3), (x + 8.5, 9.3), INK)
    return figure


def program():
    """A step as calls from Python, and as one program."""
    figure, ax = canvas(24, 8.6, (9, 3.4))
    layers = (("Embedding", GREEN), ("LSTM, layer 0", BLUE), ("LSTM, layer 1", BLUE), ("Dense", ORANGE))
    for y, title in (
        (0.5, "layer by layer: Python in between"),
        (4.9, "a program: one call, states in a row of arrays"),
    ):
        note(ax, 0, y, title, weight="bold")
    for k, (name, colour) in enumerate(layers):
        x = 0.3 + k * 6
        box(ax, x, 1.2, "check, allocate", PALE, 2.5, 1.3, fontsize=7)
        box(ax, x + 2.6, 1.2, name, colour, 2.9, 1.3, fontsize=8, color="white")
    box(ax, 0.3, 5.6, "check once", PALE, 2.5, 1.3, fontsize=8)
    for k, (name, colour) in enumerate(layers):
        box(ax, 2.9 + k * 3, 5.6, name, colour, 2.9, 1.3, fontsize=8, color="white")
        if "LSTM" in name:
            box(ax, 2.9 + k * 3, 7.3, "h, c", PINK, 2.9, 0.9, fontsize=8, color="white")
            arrow(ax, (3.7 + k * 3, 7.3), (3.7 + k * 3, 6.95), PINK)
            arrow(ax, (5.0 + k * 3, 6.95), (5.0 + k * 3, 7.3), PINK)
    arrow(ax, (0.3, 3.1), (23.8, 3.1))
    note(ax, 22, 3.7, "time", fontsize=8)
    return figure


def segments():
    """Truncated back-propagation beside exact back-propagation in segments."""
    figure, ax = canvas(24, 10.4, (9, 4))
    exact = "memory=: forward keeps the states between segments; backward runs each again"
    for y, title in ((0.5, "tbptt: the state goes on, the gradient does not"), (5.4, exact)):
        note(ax, 0, y, title, weight="bold")
        for k in range(4):
            box(ax, 0.3 + k * 5.9, y + 0.9, f"segment {k}", PALE, 5.1, 1.1)
            if k < 3:
                box(ax, 5.5 + k * 5.9, y + 1.1, "", PINK, 0.6, 0.7)
    for k in range(4):
        x = 0.3 + k * 5.9
        arrow(ax, (x + 4.9, 2.9), (x + 0.3, 2.9), BLUE)
        note(ax, x + 1.4, 3.5, "an update", fontsize=9, color=BLUE)
        arrow(ax, (x + 0.2, 7.9), (x + 4.9, 7.9), ORANGE)
    arrow(ax, (23, 8.8), (0.5, 8.8), BLUE)
    note(ax, 0.4, 9.6, "orange: forward again, one segment at a time, last first", fontsize=9, color="#8a5f00")
    note(ax, 14.5, 9.6, "blue: one gradient through all steps", fontsize=9, color=BLUE)
    return figure


def shards():
    """A batch as eight shards, the tree of their sums, and who adds what on three ranks."""
    figure, ax = canvas(24, 10.6, (9, 4))
    note(ax, 0, 0.5, "a batch of 8 shards on 3 ranks: the tree is that of one rank", weight="bold")
    cut = bounds(8, 3)
    owner = [rank for rank in range(3) for _ in range(cut[rank], cut[rank + 1])]
    for k, rank in enumerate(owner):
        box(ax, 0.3 + k * 1.7, 8.2, f"shard {k}", COLOURS[rank], 1.6, 1, fontsize=8, color="white")
    for level, width in enumerate((2, 4, 8), start=1):
        for first in range(0, 8, width):
            ranks = set(owner[first : first + width])
            x, y = 0.3 + (first + width / 2) * 1.7 - 0.05, 8.2 - 2.1 * level
            for below in (first + width / 4 - 0.5, first + 3 * width / 4 - 0.5):
                ax.plot([x, 0.3 + (below + 0.5) * 1.7 - 0.05], [y + 0.9, y + 2.1], color=INK, linewidth=1)
            box(ax, x - 0.5, y, "+", COLOURS[ranks.pop()] if len(ranks) == 1 else PALE, 1, 0.9,
                color=INK if ranks else "white")  # fmt: skip
    for rank in range(3):
        ax.text(
            0.3 + (cut[rank] + cut[rank + 1]) / 2 * 1.7 - 0.05,
            9.8,
            f"rank {rank}",
            ha="center",
            color=COLOURS[rank],
            fontsize=10,
        )
    note(ax, 14.6, 2.0, "coloured: sums that a rank makes alone,", fontsize=9)
    note(ax, 14.6, 2.7, "of whole gradients", fontsize=9)
    note(ax, 14.6, 3.9, "grey: sums over ranks. The gradient is cut", fontsize=9)
    note(ax, 14.6, 4.6, "into a piece for each rank, which makes", fontsize=9)
    note(ax, 14.6, 5.3, "all grey sums of its piece:", fontsize=9)
    for rank in range(3):
        box(ax, 14.6 + rank * 3, 6.0, f"rank {rank}", COLOURS[rank], 2.9, 1, fontsize=8, color="white")
    note(ax, 14.6, 7.5, "then all ranks get all pieces,", fontsize=9)
    note(ax, 14.6, 8.2, "and make the same step", fontsize=9)
    return figure


RANKS = (1, 2, 4, 8, 16, 32, 64)


def networks(numbers):
    """The networks of the model: shared memory as it was measured, and two kinds of Ethernet."""
    return cluster_model.fitted("shared memory", numbers["messages"]["times"]), *cluster_model.ETHERNET


def cluster():
    """The model of many ranks: how many times faster a step becomes."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    numbers = read_numbers()["cluster"]
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), sharey=True, layout="constrained")
    styles = {"pieces": "-", "ring": ":", "tree": "--"}
    for ax, (H, work) in zip(axes, numbers["work"].items(), strict=True):
        ax.plot(RANKS, RANKS, color="0.8", linewidth=1)
        for colour, network in zip(COLOURS, networks(numbers), strict=False):
            for exchange, style in styles.items():
                times = [cluster_model.step(ranks, SHARDS, work, network, exchange) for ranks in RANKS]
                ax.plot(RANKS, [times[0] / t for t in times], style, color=colour, linewidth=1.5)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set(title=f"{H} units, {work['bytes'] / 1e3:,.0f} kB", xlabel="ranks", xticks=RANKS, xticklabels=RANKS,
               yticks=RANKS, yticklabels=RANKS, ylim=(0.5, 80))  # fmt: skip
    axes[0].set_ylabel("times faster than one")
    lines = [Line2D([], [], color=c, label=n.name) for c, n in zip(COLOURS, networks(numbers), strict=False)]
    lines += [
        Line2D([], [], color=INK, linestyle=s, label=f"lstmx, {e}" if e == "pieces" else e) for e, s in styles.items()
    ]
    lines += [Line2D([], [], color="0.8", label="nothing lost")]
    figure.legend(handles=lines, loc="outside lower center", ncols=7, fontsize=7, frameon=False)
    return figure


def accuracy():
    """The error of sigmoid and tanh in float32 against the argument, the largest in each of many narrow bins."""
    import matplotlib.pyplot as plt

    from lstmx.functional import kernels

    figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
    for ax, name, ends in ((axes[0], "sigmoid", (-20, 20)), (axes[1], "tanh", (-6, 6))):
        edges = np.linspace(*ends, 241)
        x = np.linspace(*ends, 240 * 4000, endpoint=False, dtype="float32")
        found = kernels.each(name, x)
        wide = x.astype("float64")
        exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
        unit = np.ldexp(1.0, np.frexp(exact)[1] - 24)  # of the last place
        error = (np.abs(found - exact) / unit).reshape(240, 4000).max(axis=1)
        ax.step(edges[:-1], error, where="post", color=BLUE, linewidth=1)
        ax.axhline(3, color="0.5", linestyle=":")
        ax.set(title=name, xlabel="x", ylim=(0, 3.3))
    axes[0].set_ylabel("largest error, ULP")
    axes[0].annotate("what is promised", (-19.5, 3.07), fontsize=8, color="0.35")
    return figure


FIGURES = {"packed-rows": packed_rows, "tile": tile, "sums": sums, "threads": threads, "program": program,
           "segments": segments, "shards": shards, "cluster": cluster, "accuracy": accuracy}  # fmt: skip


# Numbers.

SHARDS = 64  # of the batch that the model of many ranks is for
SEQUENCES, STEPS, UNITS, BUDGETS = 16, 20_000, 64, (None, "400MiB", "256MiB", "200MiB")


def measure():
    """What the tables quote, beside docs/ulp.json: bytes that a training pass takes, as `memory` tells them."""
    lstm = lstmx.LSTM(8, UNITS, random_state=0)
    with lstmx.num_threads(1):
        taken = [lstm.memory(SEQUENCES, STEPS, training=True, memory=budget) for budget in BUDGETS]
    found = {"sequences": SEQUENCES, "steps": STEPS, "inputs": 8, "units": UNITS}
    return {"memory": found | {"budgets": BUDGETS, "bytes": taken}}


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _ulp(numbers):
    isas = list(numbers["ulp"])
    head = ["function", *(f"{isa}, {dtype}" for dtype in ("float32", "float64") for isa in isas)]
    functions = list(numbers["ulp"][isas[0]]["ulp"])
    rows = [
        [name, *(f"{numbers['ulp'][isa]['ulp'][name][dtype]:.2f}" for dtype in ("float32", "float64") for isa in isas)]
        for name in functions
    ]
    one = numbers["ulp"][isas[0]]
    which = "all float32" if one["float32 stride"] == 1 else f"one float32 in {one['float32 stride']}"
    return table(head, rows) + (
        f"\n\nLargest errors in units in the last place, over {which} and {one['float64 values'] / 1e6:.0f} million "
        f"float64, where argument and exact result are normal; {one['cpu']}."
    )


def _memory(numbers):
    found = numbers["memory"]
    rows = [
        ["none" if budget is None else f'`memory="{budget}"`', f"{size / 2**20:.0f} MiB"]
        for budget, size in zip(found["budgets"], found["bytes"], strict=True)
    ]
    return table(["budget", "taken"], rows) + (
        f"\n\nA training pass of an LSTM with {found['inputs']} inputs and {found['units']} units on "
        f"{found['sequences']} sequences of {found['steps']:,} steps, as `lstm.memory(.., training=True)` tells it."
    )


def _time(seconds):
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{seconds * 1e3:.3g} ms"
        if seconds >= 1e-3
        else f"{seconds * 1e6:.3g} µs"
    )


def _cluster(numbers):
    found, rows = numbers["cluster"], []
    every = range(1, SHARDS + 1)
    for H, work in found["work"].items():
        for network in networks(found):
            one, many = (cluster_model.step(ranks, SHARDS, work, network) for ranks in (1, 64))
            costs = [f(64, work["bytes"], network, SHARDS) for f in cluster_model.EXCHANGES.values()]
            ends = cluster_model.end_of_scaling(SHARDS, work, network, every)
            rows.append([H, network.name, _time(one), _time(many), f"{one / many:.1f}", *map(_time, costs), ends])
    head = [
        "units",
        "network",
        "1 rank",
        "64 ranks",
        "times faster",
        "exchange",
        "as a ring",
        "as a tree",
        "half worth",
    ]
    shared = networks(found)[0]
    assumed = "; ".join(f"{n.name}: {_time(n.latency)}, {1e-6 / n.per_byte:,.0f} MB/s" for n in cluster_model.ETHERNET)
    return table(head, rows) + (
        f"\n\nA model, not a measurement: the time of a step on a batch of {SHARDS} shards, each of "
        f"{found['sequences']} sequences of {found['steps']} steps and {found['inputs']} inputs. *Half worth*: the "
        f"most ranks at which each is worth half of what one alone is. Measured ({found['cpu']}): shards, updates, and "
        f"shared memory with {_time(shared.latency)} and {1e-9 / shared.per_byte:.1f} GB/s. Assumed: {assumed}."
    )


def _two_hosts(numbers):
    found = numbers["two_hosts"]
    one, size = found["alone"], found["size"]
    rows = [["1 rank, no link", "-", "-", _time(one["seconds"]), "-", one["weights"][0][:8]]]
    for link in found["links"]:
        least, most = link["times"][0], link["times"][-1]
        speed, sent = f"{most[0] / most[1] / 1e6:,.0f} MB/s", f"{link['sent'] / 1e3:,.0f} kB"
        weights = ", ".join(digest[:8] for digest in link["weights"])
        rows.append([f"2 ranks, {link['by']}", _time(least[1]), speed, _time(link["seconds"]), sent, weights])
    head = [
        "hosts",
        "a message of 8 bytes",
        "of half a megabyte",
        "a step",
        "sent by both in a step",
        "weights (SHA-256)",
    ]
    what = f"An LSTM with {size['hidden']} units, {size['batch']} sequences of {size['steps']} steps"
    parts = [table(head, rows), f"{what} in 8 shards, one thread a rank; {one['steps']} updates."]
    for loss in found["lost"]:
        ended = f"When {loss['what']}, all ended after {loss['seconds']:.1f} s"
        parts.append(f"{ended}, rank 0 with\n\n> {loss['error']}" if loss["error"] else f"{ended}: mpiexec ends them.")
    return "\n\n".join(parts)


BLOCKS = {"ulp": ("numerics.md", _ulp), "memory": ("long-sequences.md", _memory), "cluster": ("cluster.md", _cluster),
          "two hosts": ("cluster.md", _two_hosts)}  # fmt: skip


def filled(page, name, numbers):
    """The page with the numbers between the marks of this name."""
    text = f"<!-- {name} -->\n{BLOCKS[name][1](numbers)}\n<!-- end {name} -->"
    page, count = re.subn(f"<!-- {name} -->.*?<!-- end {name} -->", lambda _: text, page, flags=re.S)
    if count != 1:
        raise ValueError(f"{BLOCKS[name][0]} has {count} places marked {name}, must have one")
    return page


def read_numbers():
    """All numbers, from their files."""

    def read(name):
        return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))

    return read("explanation") | {name: read(name) for name in ("ulp", "cluster", "two_hosts")}


def main():
    """Draw, measure and write."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "lstmx", "svg.fonttype": "path", "font.family": "DejaVu Sans"})
    for name, draw in FIGURES.items():
        draw().savefig(HERE / "figures" / f"{name}.svg", metadata={"Date": None, "Creator": None})
    (HERE / "explanation.json").write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    numbers = read_numbers()
    for name, (page, _) in BLOCKS.items():
        path = HERE / "explanation" / page
        path.write_text(filled(path.read_text(encoding="utf-8"), name, numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
