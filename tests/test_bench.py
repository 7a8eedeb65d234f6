"""`lstmx bench`: what is asked for, what is measured, how failures show, and the arithmetic of its tables."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import lstmx
from lstmx import cli
from lstmx.bench import environment, process, report, runner, shapes, tasks
from lstmx.bench.cells import CELLS
from lstmx.bench.engine import Case
from lstmx.bench.lstmx_engine import LstmxEngine
from lstmx.bench.worker import Worker, calibrate, laps, percentile_99, timed

SMALL = ["3,2,4,5"]
RAGGED = ["2..6,5,4,7"]

FAKES = """
import os, time
from lstmx.bench.engine import Job
from lstmx.bench.lstmx_engine import LstmxEngine

class Same(LstmxEngine):
    def versions(self):
        print("libraries print")
        return {"same": "1.0"}

class Slower:
    # has no more than an engine must
    def __init__(self, threads):
        self._own = LstmxEngine(threads)

    def versions(self):
        return {"slower": "1.0"}

    def inference(self, case):
        job = self._own.inference(case)[""]()
        return {"slow": lambda: Job(lambda: time.sleep(0.02), job.outputs), "broken": lambda: 1 / 0}

class Wrong(LstmxEngine):
    def inference(self, case):
        job = super().inference(case)[""]()
        return {"": lambda: Job(job.call, lambda: {"y": job.outputs()["y"] + 1})}

class Shapeless(LstmxEngine):
    def inference(self, case):
        job = super().inference(case)[""]()
        return {"": lambda: Job(job.call, lambda: {"y": job.outputs()["y"][0]})}

class Crash(Same):
    def inference(self, case):
        if case.shape.T == 3:
            os.write(2, b"out of luck\\n")
            os._exit(3)
        return super().inference(case)

class CrashLater(Same):
    def inference(self, case):
        job = super().inference(case)[""]()
        calls = []
        def call():
            calls.append(1)
            if len(calls) > 2:
                os._exit(4)
            time.sleep(0.02)
        return {"": lambda: Job(call, job.outputs)}

class Unable:
    def __init__(self, threads):
        raise RuntimeError("needs another CPU")

class Silent(Same):
    def inference(self, case):
        time.sleep(60)
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Engines from outside, as "fake_peers:Class"."""
    (tmp_path / "fake_peers.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return "fake_peers:{}".format


def run(task=("inference",), shape=SMALL, peers=(), **options):
    peers = None if peers is None else list(peers)
    return runner.run(list(task), list(shape), [1], peers, quick=True, rounds=options.pop("rounds", 1), **options)


# ---------------------------------------------------------------------------------------------- running


def test_a_quick_run_without_peers_measures_every_task(capsys, tmp_path):
    path = tmp_path / "results.json"
    arguments = ["--quick", "--peers", "none", "--task", "all", "--cell", "cifg", "--rounds", "1", "--json", str(path)]
    assert cli.main(["bench", *arguments]) == 0
    printed = capsys.readouterr()
    results = json.loads(path.read_text())
    assert {case["task"] for case in results["cases"]} == set(tasks.TASKS)
    for case in results["cases"]:
        assert f"(--task {case['task']}" in printed.out
        own = case["engines"]["lstmx"]
        assert set(case["engines"]) == ({*tasks.OWN} if "cell" in case else {"lstmx"}) and "error" not in own
        assert own["seconds"] == min(own["rounds"][own["variant"]]) > 0
    assert len(printed.err.splitlines()) == len(results["cases"]), "one line of progress for a case"


def test_the_schema_of_the_results(fakes):
    results = run(["training", "step"], peers=[fakes("Same")], rounds=2)
    assert json.loads(json.dumps(results)) == results
    assert set(results) == {
        "schema", "environment", "options", "versions", "absent", "peaks", "cases", "summary", "interrupted",
    }  # fmt: skip
    assert results["schema"] == runner.SCHEMA == 1
    assert set(results["environment"]) == {
        "lstmx", "python", "numpy", "machine", "cpu", "cpus", "engine", "isa", "openmp", "blas", "unset", "load",
    }  # fmt: skip
    assert results["options"] == {"rounds": 2, "quick": True, "seconds_per_round": 0.01}
    assert results["versions"] == {"lstmx": lstmx.__version__, "same": "1.0"}
    assert [(p["threads"], p["dtype"]) for p in results["peaks"]] == [(1, "float32")]
    assert results["peaks"][0]["gflops"] > 0
    training, step = results["cases"]
    assert set(training) == {
        "task", "dtype", "threads", "shape", "steps", "gflop", "gflops", "peak_fraction", "engines",
    }  # fmt: skip
    assert (training["task"], training["shape"], training["steps"]) == ("training", "3,2,4,5", 6)
    assert training["gflop"] == pytest.approx(3 * 2 * 3 * 2 * 4 * 5 * (4 + 5) / 1e9)
    assert training["gflops"] == pytest.approx(training["gflop"] / training["engines"]["lstmx"]["seconds"])
    assert training["peak_fraction"] == pytest.approx(training["gflops"] / results["peaks"][0]["gflops"])
    assert step["shape"] == "1,2,4,5", "a step has no T"
    for record in (*training["engines"].values(), *step["engines"].values()):
        assert set(record) == {"seconds", "median", "variant", "cores", "p99", "waiting", "memory", "rounds"}
        assert record["median"] >= record["seconds"] and record["waiting"] is None, "one thread waits for nobody"
        assert all(len(times) == 2 for times in record["rounds"].values())
    assert {(s["task"], s["peer"]) for s in results["summary"]} == {
        (task, peer) for task in ("training", "step") for peer in (fakes("Same"), report.BEST)
    }


@pytest.mark.parametrize("task", [name for name in tasks.TASKS if tasks.TASKS[name].kind != "start"])
def test_an_engine_that_computes_the_same_takes_part_in_every_task(fakes, task):
    shape = RAGGED if tasks.TASKS[task].kind == "ragged" else SMALL
    cell = ["peephole"] if tasks.TASKS[task].kind == "cells" else None
    (case,) = run([task], shape, [fakes("Same")], cell=cell)["cases"]
    assert report.ratio(case, fakes("Same")) > 0


def test_the_slower_peer_is_found_slower_and_a_broken_variant_does_no_harm(fakes):
    (case,) = run(peers=[fakes("Slower")])["cases"]
    assert case["engines"][fakes("Slower")]["variant"] == "slow"
    assert list(case["engines"][fakes("Slower")]["rounds"]) == ["slow"]
    assert report.ratio(case, fakes("Slower")) > 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ("Wrong", "wrong result: y differs"),
        ("Shapeless", "wrong result: y is (3, 5), not (2, 3, 5)"),
        ("Unable", "does not start: RuntimeError: needs another CPU"),
        ("Crash", "status 3: out of luck"),
        ("CrashLater", "status 4"),
        ("NoSuch", "does not start: AttributeError"),
    ],
)
def test_a_failing_peer_is_named_and_the_rest_goes_on(fakes, peer, message):
    results = run(shape=["3,2,4,5", "4,2,4,5"], peers=[fakes(peer), fakes("Same")], rounds=3)
    case, later = results["cases"]
    assert message in case["engines"][fakes(peer)]["error"]
    assert report.ratio(case, fakes(peer)) is None
    assert report.ratio(case, fakes("Same")) > 0 and report.ratio(later, fakes("Same")) > 0
    if peer == "Crash":
        assert report.ratio(later, fakes(peer)) > 0, "started again"
    out = report.text(results)
    assert f"{fakes(peer)}, inference 3,2,4,5, 1 thread: " in out
    row = next(line for line in out.splitlines() if line.startswith("3,2,4,5"))
    assert " - " in row


def test_a_silent_worker_is_ended(fakes):
    worker = process.WorkerProcess(fakes("Silent"), 1)
    worker.timeout = 0.5
    with pytest.raises(process.WorkerError, match=r"no answer in 0\.5 s"):
        worker.ask("prepare", method="inference", case={"shape": SMALL[0]}, path="", target=0.01)
    assert not worker.running


def test_lstmx_itself_failing_is_the_exit_status(monkeypatch, capsys, fakes):
    entry = (fakes("Crash"), (), {})
    monkeypatch.setitem(tasks.ENGINES, "lstmx", entry)
    assert cli.main(["bench", "--quick", "--peers", "none", "--task", "inference", "--shape", SMALL[0]]) == 1
    assert "lstmx, inference 3,2,4,5, 1 thread: the process ended with status 3" in capsys.readouterr().out


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(tasks.ENGINES, "torch", ("lstmx.bench.torch_engine:TorchEngine", ("no_such_package",), {}))
    monkeypatch.setattr(tasks, "PEERS", ("torch",))
    results = run(peers=None)
    assert results["absent"] == {"torch": "no_such_package not installed"}
    assert "absent: torch (no_such_package not installed)" in report.text(results)
    assert set(results["cases"][0]["engines"]) == {"lstmx"}
    with pytest.raises(ValueError, match="peers: got torch, which must be installed first: pip install no_such"):
        run(peers=["torch"])


def test_ctrl_c_keeps_what_was_measured(monkeypatch, capsys):
    whole = runner.Runner.case

    def case(self, name, shape, cell):
        if shape.T == 4:
            raise KeyboardInterrupt
        return whole(self, name, shape, cell)

    monkeypatch.setattr(runner.Runner, "case", case)
    arguments = ["--quick", "--peers", "none", "--task", "inference", "--shape", SMALL[0], "--shape", "4,2,4,5"]
    assert cli.main(["bench", *arguments]) == 130
    out = capsys.readouterr().out
    assert "3,2,4,5" in out and "4,2,4,5" not in out and "interrupted" in out


def test_workers_have_the_threads_and_no_forced_blas(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    found = environment.of_workers(2, {"KERAS_BACKEND": "jax"})
    assert "OPENBLAS_CORETYPE" not in found and "OPENBLAS_L2_SIZE" not in found
    assert {found[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} == {"2"}
    assert found["KERAS_BACKEND"] == "jax"
    described = environment.describe()
    assert described["unset"] == {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512"}
    assert described["cpu"]


def test_no_engine_module_imports_its_framework_before_it_is_made():
    code = """
    import sys, lstmx.bench, lstmx.bench.command
    import lstmx.bench.keras_engine, lstmx.bench.onnx_engines, lstmx.bench.torch_engine
    peers = {"torch", "onnx", "onnxruntime", "openvino", "keras", "tensorflow", "jax", "matplotlib"}
    print({name.split(".")[0] for name in sys.modules} & peers)
    """
    env = os.environ | {"PYTHONPATH": str(Path(lstmx.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "fly"], "--task: got 'fly', must be one of inference, training"),
        (["--shape", "1,2,3"], "--shape: got '1,2,3', must be one of quick"),
        (["--shape", "0,2,3,4"], "--shape: got '0,2,3,4'"),
        (["--shape", "9..3,2,3,4"], "--shape: got '9..3,2,3,4'"),
        (["--task", "ragged", "--shape", "1,2,3,4"], '--shape: got 1,2,3,4, must hold a "T0..T1,N,I,H" for the task'),
        (["--task", "fit", "--shape", "1..2,2,3,4"], 'must hold a "T,N,I,H" for the task fit'),
        (["--threads", "0"], "--threads: got 0, must be one of 1"),
        (["--threads", "99999"], "--threads: got 99999, must be one of 1"),
        (["--peers", "theano"], "--peers: got 'theano', must be one of torch, onnxruntime"),
        (["--cell", "gru"], "--cell: got 'gru', must be one of plain, peephole"),
        (["--cell", "cifg"], "--cell: got cifg, which is for the tasks cells and cells-training; add one"),
        (["--rounds", "0"], "--rounds: got 0, must be a whole number of at least 1"),
        (["--chart", "speed.jpeg"], "--chart: got 'speed.jpeg', must end in .png, .svg or .pdf"),
        (["--json", "no/such/folder/a.json"], "--json: got 'no/such/folder/a.json', must be in a folder that exists"),
        (["--from", "no_such.json"], "no_such.json"),
    ],
)
def test_bad_arguments_are_named(arguments, message, capsys):
    assert cli.main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out
    assert len(printed.err.splitlines()) == 1


def test_bad_numbers_are_named(capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "--threads", "two"])
    assert "--threads: got 'two', must be numbers such as 1,2" in capsys.readouterr().err


def test_a_chart_without_matplotlib_is_refused_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["bench", "--chart", "speed.png"]) == 2
    assert "--chart: needs matplotlib" in capsys.readouterr().err


def test_a_file_that_is_no_result_is_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text("[]")
    assert cli.main(["bench", "--from", str(path)]) == 2
    assert "must be a file that lstmx bench --json has written" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- shapes


def test_every_shape_comes_back_from_its_name():
    everything = [shape for group in shapes.GROUPS.values() for part in group.values() for shape in part]
    for shape in (*everything, *shapes.TRACKED):
        assert shapes.parse(shape.name) == shape
    assert len(shapes.GROUPS["all"]["dense"]) == len(set(shapes.GROUPS["all"]["dense"])) >= 22


def test_ragged_lengths_go_from_the_shortest_to_the_longest():
    shape = shapes.parse("7..29,64,12,64")
    assert shape.lengths.shape == (64,) and (shape.lengths.min(), shape.lengths.max()) == (7, 29)
    assert shape.steps == shape.lengths.sum()
    assert shape.flops == 2 * shape.steps * 4 * 64 * (12 + 64)


def test_shapes_go_to_the_tasks_that_can_take_them():
    wanted = ["inference", "ragged", "step", "cells"]
    plan = runner.Plan(wanted, [*SMALL, *RAGGED], [1], [], 1, True, cell=["clip", "slstm", "clip"])
    assert [(name, shape.name, cell) for name, shape, cell in plan.cases()] == [
        ("inference", "3,2,4,5", "plain"),
        ("ragged", "2..6,5,4,7", "plain"),
        ("step", "1,2,4,5", "plain"),
        ("cells", "3,2,4,5", "clip"),
        ("cells", "3,2,4,5", "slstm"),
    ]
    assert [cell for *_, cell in runner.Plan(["cells"], SMALL, [1], [], 1, True).cases()] == list(CELLS)


def test_the_data_of_a_case_depend_on_nothing_else():
    a, b = Case(RAGGED[0]), Case(RAGGED[0])
    b.series()  # in another order
    for name in ("dy", "x"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.x[~a.valid] == 0).all() and (a.x[a.valid] != 0).all()
    assert a.x.shape == (5, 6, 4) and a.dy.shape == (5, 6, 7) and a.x.dtype == np.float32


# ---------------------------------------------------------------------------------------------- options of the cell


def test_every_option_of_a_cell_is_measured():
    found = set().union(*(option.cell.config() for option in CELLS.values()))
    assert found == {field.name for field in dataclasses.fields(lstmx.Cell)}
    assert {option.width for option in CELLS.values()} == {0, 0.5, 1}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_computed_with_the_weights_of_its_case(name):
    case, engine = Case("6,3,4,8", cell=name), LstmxEngine(1)
    lstm = engine._layer(case)
    assert lstm.cell == CELLS[name].cell and case.dy.shape == (3, 6, lstm.output_size())
    for parameter, array in lstm.parameters().items():
        np.testing.assert_array_equal(array, case.weights[parameter.removesuffix("_l0")])
    found = engine.training(case)[""]().outputs()
    assert found.keys() == {"y", "dx"} | {f"d_{parameter}" for parameter in case.weights}
    assert all(np.isfinite(array).all() for array in found.values())
    matrices = (array.size for array in case.weights.values() if array.ndim == 2)
    assert CELLS[name].flops(case.shape) == 2 * 6 * 3 * sum(matrices)


@pytest.mark.long
@pytest.mark.parametrize("peer", ["torch", "onnxruntime"])
def test_peers_compute_the_same_cells(peer):
    for package in tasks.ENGINES[peer][1]:
        pytest.importorskip(package)
    names = [name for name, option in CELLS.items() if peer in option.peers]
    cases = run(["cells", "cells-training"], ["6,3,4,8"], [peer], cell=["cifg", *names])["cases"]
    measured = [(case["task"], case["cell"]) for case in cases if peer in case["engines"]]
    wanted = ["cells", "cells-training"] if peer == "torch" else ["cells"]
    assert measured == [(task, name) for task in wanted for name in names]
    for case in cases:
        for engine, record in case["engines"].items():
            assert "error" not in record, (case["cell"], engine, record)


def test_a_cell_stands_beside_the_plain_one():
    results = run(["cells"], ["3,2,4,6"], cell=["projection-half"])
    (case,) = results["cases"]
    assert set(case["engines"]) == {"lstmx", "plain"} and not results["summary"], "lstmx is no peer of itself"
    seconds = {name: record["seconds"] for name, record in case["engines"].items()}
    assert report.of_plain(case) == pytest.approx(seconds["lstmx"] / seconds["plain"])
    assert case["work"] == pytest.approx((4 * 6 * (4 + 3) + 3 * 6) / (4 * 6 * (4 + 6)))
    lines = [" ".join(line.split()) for line in report.text(results).splitlines()]
    row = next(line for line in lines if line.startswith("3,2,4,6 projection-half "))
    assert f" {report.of_plain(case):.2f} {case['work']:.2f} " in row
    assert any(line.startswith("T,N,I,H lstmx of plain work median ") for line in lines)


def test_a_cell_that_cannot_have_these_sizes_is_an_error_of_its_case():
    results = run(["cells"], SMALL, cell=["slstm-4-heads"])
    assert "lstmx, cells 3,2,4,5 slstm-4-heads, 1 thread: ValueError: heads: got 4, must divide" in report.text(results)


# ---------------------------------------------------------------------------------------------- the worker


def test_a_worker_answers_errors_instead_of_ending(tmp_path):
    worker = Worker(LstmxEngine(1))
    request = {
        "op": "prepare",
        "method": "fly",
        "case": {"shape": SMALL[0]},
        "path": str(tmp_path / "a"),
        "target": 0.001,
    }
    assert worker.answer(request)["error"].startswith("AttributeError")
    (variant,) = worker.answer(request | {"op": "prepare", "method": "inference"})["variants"]
    assert variant["repetitions"] >= 1
    assert runner.read(variant["outputs"])["y"].shape == (2, 3, 5)
    assert worker.answer({"op": "time", "index": 0, "repetitions": 3})["seconds"] > 0
    assert worker.answer({"op": "peak", "dtype": "float64", "seconds": 0.001})["gflops"] > 0
    worker.answer({"op": "drop"})
    assert "IndexError" in worker.answer({"op": "time", "index": 0, "repetitions": 3})["error"]


def test_repetitions_fill_the_time():
    calls = []
    assert calibrate(lambda: calls.append(sum(range(20000))), 0.02) > 1
    import time

    assert calibrate(lambda: time.sleep(0.01), 0.005) == 1
    wall, cpu = timed(lambda: time.sleep(0.01), 2)
    assert wall >= 0.02 and cpu < wall
    calls.clear()
    times, cores = laps(lambda: calls.append(time.sleep(0.001)), 45)
    assert len(calls) == 45 and len(times) == 15 and min(times) >= 0.001 and cores < 1
    assert percentile_99(lambda: time.sleep(0.01), 0.02) is None
    assert percentile_99(int) > 0


# ---------------------------------------------------------------------------------------------- arithmetic and tables


def fake_results():
    """Two shapes, two peers; at the second shape torch failed."""

    def case(shape, **seconds):
        engines = {
            name: {"seconds": value} if value else {"error": "no memory"} for name, value in seconds.items()
        }  # fmt: skip
        return {
            "task": "inference", "dtype": "float32", "threads": 1, "shape": shape, "steps": 6, "gflop": 1.0,
            "engines": engines,
        }  # fmt: skip

    isa = {"active": "avx2", "vector_bytes": 32, "fma": True}
    about = {
        "lstmx": "1", "python": "3", "numpy": "2", "machine": "m", "cpu": "A CPU", "cpus": 2, "engine": "tile",
        "isa": isa, "openmp": True, "blas": None, "unset": {"OPENBLAS_CORETYPE": "Haswell"}, "load": [0.0, 0.0, 0.0],
    }  # fmt: skip
    cases = [
        case("1,1,1,16", lstmx=0.01, torch=0.02, openvino=0.08),
        case("1,1,1,32", lstmx=0.02, torch=None, openvino=0.01),
        case("1,1,1,64", lstmx=0.01, torch=0.08, openvino=0.09),
    ]
    return {
        "schema": 1, "environment": about, "options": {}, "versions": {"torch": "2.9"}, "absent": {"keras-tf": "gone"},
        "peaks": [{"threads": 1, "dtype": "float32", "gflops": 200.0}], "cases": cases, "interrupted": False,
    }  # fmt: skip


def test_worst_and_geometric_mean():
    assert report.geometric_mean([2.0, 8.0]) == pytest.approx(4)
    summary = {s["peer"]: s for s in report.complete(fake_results())["summary"]}
    assert summary["torch"] == {
        "task": "inference", "threads": 1, "peer": "torch", "cases": 2, "worst": 2.0, "worst_shape": "1,1,1,16",
        "geometric_mean": pytest.approx(4),
    }  # fmt: skip
    openvino, best = summary["openvino"], summary[report.BEST]
    assert openvino["worst"] == 0.5 and openvino["worst_shape"] == "1,1,1,32"
    assert openvino["geometric_mean"] == pytest.approx((8 * 0.5 * 9) ** (1 / 3))
    assert best["cases"] == 3 and best["geometric_mean"] == pytest.approx((2 * 0.5 * 8) ** (1 / 3))


def test_the_table():
    lines = report.text(report.complete(fake_results())).splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("T,N,I,H"))
    rows = [" ".join(line.split()) for line in lines[start : start + 6]]
    assert rows[0] == "T,N,I,H lstmx GFLOP/s of peak torch openvino best peer"
    assert rows[1] == "1,1,1,16 10.0 ms 100.0 50 % 2.00 8.00 2.00"
    assert rows[2] == "1,1,1,32 20.0 ms 50.0 25 % - 0.50 0.50"
    assert rows[4] == "worst 2.00 0.50 0.50"
    assert rows[5] == "geometric mean 4.00 3.30 2.00"
    whole = "\n".join(lines)
    for part in ("A CPU", "avx2", "unset for the workers: OPENBLAS_CORETYPE=Haswell", "absent: keras-tf (gone)"):
        assert part in whole
    assert "torch, inference 1,1,1,32, 1 thread: no memory" in lines


def test_a_busy_machine_and_a_greedy_engine_are_reported():
    results = fake_results()
    results["environment"]["load"] = [2.5, 1, 1]
    results["cases"][0]["engines"]["openvino"]["cores"] = 1.9
    out = report.text(report.complete(results))
    assert "other programs were busy" in out
    assert "openvino, inference 1,1,1,16, 1 thread: used 1.9 CPUs" in out


def test_markdown_is_a_table_that_is_put_between_its_marks(tmp_path, capsys):
    path, page = tmp_path / "results.json", tmp_path / "page.md"
    path.write_text(json.dumps(report.complete(fake_results())))
    page.write_text("before\n<!-- bench table -->\nold\n<!-- end bench table -->\nafter\n")
    assert cli.main(["bench", "--from", str(path), "--markdown", "--write", str(page)]) == 0
    text = capsys.readouterr().out.strip()
    assert page.read_text() == f"before\n<!-- bench table -->\n{text}\n<!-- end bench table -->\nafter\n"
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert table[0].startswith("| task | threads | shapes | of FMA peak, at best | torch |")
    assert any(line.startswith("| inference, float32 | 1 | 3 | 50 % | 4.00 (2.00) |") for line in table)


def test_a_page_without_the_marks_is_an_error_before_anything_runs(tmp_path, capsys):
    page = tmp_path / "page.md"
    for text in ("", "<!-- bench table -->\n", "<!-- end bench table -->\n<!-- bench table -->\n"):
        page.write_text(text)
        assert cli.main(["bench", "--write", str(page)]) == 2
        assert "--write: got" in (told := capsys.readouterr().err) and "with <!-- bench table -->" in told
        assert page.read_text() == text
    assert cli.main(["bench", "--write", str(tmp_path / "none.md")]) == 2
    assert "none.md', must be a page that can be read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bench", "scores", "models"])
def test_the_page_of_performance_has_the_tables(name):
    path = Path(__file__).parents[1] / "docs" / "performance.md"
    if not path.exists():
        pytest.skip("tests of an installed lstmx, without its documents")
    assert report.parts_of(path, name)[1].count("\n|") >= 5


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (2.5, "2.50 s"),
        (0.0123, "12.3 ms"),
        (0.1234, "123 ms"),
        (1.234e-6, "1.23 us"),
        (6.3e-8, "0.063 us"),
    ],
)
def test_times_have_three_digits(seconds, shown):
    assert report.as_time(seconds) == shown


def test_the_chart_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "speed.png"
    report.chart(report.complete(fake_results()), path)
    assert path.read_bytes()[:4] == b"\x89PNG" and path.stat().st_size > 5000


def test_a_chart_of_results_without_peers_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    results = fake_results()
    for case in results["cases"]:
        case["engines"] = {"lstmx": case["engines"]["lstmx"]}
    report.chart(report.complete(results), tmp_path / "speed.svg")
    assert (tmp_path / "speed.svg").stat().st_size > 1000


def test_differences_are_found():
    y = np.ones((2, 3))
    assert runner.difference({"y": y}, {"y": y + 1e-5}, 1e-3) is None
    assert "is missing" in runner.difference({}, {"y": y}, 1e-3)
    assert "not finite" in runner.difference({"y": y * np.nan}, {"y": y}, 1e-3)
    assert "differs" in runner.difference({"y": y}, {"y": y * 1.1}, 1e-3)
