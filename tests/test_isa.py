"""The instruction sets: which one is chosen and what it says of itself, and that all give the same bits."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layouts import moved
from numpy.testing import assert_array_equal
from test_disassembly import COMPILERS, X86, Kernels, bits, build, needs_avx2, needs_gcc
from test_vmath import DTYPES, FUNCTIONS, arguments, call

from lstmx._core import isa


def python(code, **environment):
    """Run Python code in a fresh process that finds this lstmx; its completed process."""
    path = os.pathsep.join([str(Path(isa.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {k: v for k, v in os.environ.items() if k != "LSTMX_ISA"} | {"PYTHONPATH": path} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------------------------------------- the choice

REPORT = """
import hashlib, json
import numpy as np
from lstmx._core import isa, kernels
from lstmx.functional.cell import Cell
rng = np.random.default_rng(0)
out = {"isa": isa.describe()}
def add(group, name, *arrays):
    h = hashlib.sha256()
    for a in arrays:
        a = np.where(np.isnan(a), a.dtype.type(np.nan), a)
        h.update(a.tobytes())
    out.setdefault(group, {})[name + " " + arrays[0].dtype.name] = h.hexdigest()
for dtype in (np.float32, np.float64):
    x = np.concatenate([rng.normal(scale=s, size=501) for s in (1e-30, 1e-3, 1, 30, 400)] +
                       [[np.nan, np.inf, -np.inf, 0.0, -0.0, 710, -710, 89, -89]]).astype(dtype)
    for name in ("sigmoid", "tanh", "exp", "expm1", "softplus"):
        y = np.empty_like(x)
        getattr(kernels, name)(-np.abs(x) if name == "expm1" else x, y)
        add("fused", "map_" + name, y)
    y = rng.normal(size=(40, 53)).astype(dtype)
    dy = rng.normal(size=(40, 53)).astype(dtype)
    for name, number in kernels.ACTIVATIONS.items():
        z, dz = y.copy(), dy.copy()
        kernels.activate(number, bias=dy[0], y=z)
        add("plain" if name in ("linear", "relu") else "fused", name, z)
        kernels.activate_backward(number, np.tanh(np.abs(y)), dz)
        add("plain", name + "_backward", dz)
    gates, c, h = (rng.normal(size=(5, k * 13)).astype(dtype) for k in (4, 1, 1))
    kernels.cell_forward(Cell(), None, gates, c, h)
    add("fused", "cell_forward", gates, c, h)
    gates, dc = np.abs(np.tanh(rng.normal(size=(5, 52)))).astype(dtype), rng.normal(size=(5, 13)).astype(dtype)
    kernels.cell_backward(Cell(), gates, c, h, dc)
    add("fused", "cell_backward", gates, dc)
    w = rng.normal(size=9001).astype(dtype)
    add("plain", "sum", np.array([kernels.sum(w), kernels.sum_of_squares(w)], dtype))
    s = np.empty(53, dtype)
    kernels.column_sum(rng.normal(size=(700, 53)).astype(dtype), s)
    add("plain", "column_sum", s)
    row = np.arange(40)
    kernels.dropout(5, row, row, 0.3, y, dy)
    add("plain", "dropout", dy)
    p, g, m, v = (rng.normal(scale=s, size=301).astype(dtype) for s in (1, 1, 0, 0))
    kernels.sgd(p, g.copy(), m, 0.5, 0.1, 0.9, True, 0.01)
    add("plain", "sgd", p, m)
    kernels.rmsprop(p, g.copy(), v, m, 0.5, 0.1, 0.9, 1e-7, 0.9, 0.01)
    add("plain", "rmsprop", p, m, v)
    kernels.adam(p, g.copy(), m, v, 0.5, 0.1, 0.9, 0.99, 1e-7, 0.19, 0.0199, 0.01, 0.02)
    add("plain", "adam", p, m, v)
    z, t = (rng.normal(scale=s, size=(40, 7)).astype(dtype) for s in (3, 1))
    weight, labels = rng.uniform(size=40).astype(dtype), rng.integers(7, size=40)
    for name, kind in kernels.LOSSES.items():
        for given in (t, None) if name.startswith("cat") else (t,):
            value, gradient = np.empty((40, 7 if given is not None else 1), dtype), np.empty_like(z)
            mass = None if given is None else t.sum(axis=1)
            chosen = labels if given is None else None
            total = kernels.loss(kind, z, given, mass, chosen, weight, 3.5, value, gradient)
            add("fused" if "cross" in name else "plain", f"{name} {given is None}", value, gradient, np.array(total))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def reports():
    """For each instruction set that this CPU can run: what it says it is, and digests of what its kernels give."""
    out = {}
    for name in isa.describe()["usable"]:
        done = python(REPORT, LSTMX_ISA=name)
        assert done.returncode == 0, done.stderr
        out[name] = json.loads(done.stdout)
    return out


def test_a_forced_instruction_set_is_active(reports):
    widths = {"baseline": 16, "neon": 16, "avx2": 32, "avx512": 64}
    for name, report in reports.items():
        assert report["isa"]["active"] == name
        assert report["isa"]["vector_bytes"] == widths[name]
        assert report["isa"]["fma"] == (name != "baseline")


def test_the_best_usable_instruction_set_is_the_default():
    done = python("from lstmx._core import isa; print(isa.describe()['active'])")
    assert done.stdout.split() == isa.describe()["usable"][-1:]
    assert python("from lstmx._core import isa; print(isa.describe()['active'])", LSTMX_ISA="").stdout == done.stdout


def test_this_process_obeys_the_variable():
    assert isa.describe()["active"] == (os.environ.get("LSTMX_ISA") or isa.describe()["usable"][-1])


def test_usable_instruction_sets_are_those_of_the_cpu():
    assert isa.describe()["usable"][0] == isa.describe()["compiled"][0]
    assert [name for name in isa.describe()["compiled"] if name in isa.describe()["usable"]] == isa.describe()["usable"]
    cpuinfo = Path("/proc/cpuinfo")
    if X86 and cpuinfo.exists():
        flags = set(cpuinfo.read_text().split("flags", 1)[-1].split("\n", 1)[0].split())
        assert ("avx2" in isa.describe()["usable"]) == {"avx2", "fma"}.issubset(flags)
        wanted = {"avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"}
        assert ("avx512" in isa.describe()["usable"]) == wanted.issubset(flags)


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx2 ", "baseline,avx2"])
def test_an_unknown_instruction_set_is_an_error_that_names_the_choices(name):
    done = python("from lstmx._core import isa", LSTMX_ISA=name)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and f"LSTMX_ISA={name!r}" in last
    assert all(usable in last for usable in isa.describe()["usable"])


UNSUPPORTED = [name for name in isa.describe()["compiled"] if name not in isa.describe()["usable"]]


@pytest.mark.skipif(not UNSUPPORTED, reason="this CPU can run every instruction set of the build")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_instruction_set_is_an_error_not_a_crash(name):
    done = python("from lstmx._core import isa", LSTMX_ISA=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "cannot run on this CPU" in last and "baseline" in last


def test_kernels_without_fma_give_the_same_bits_on_every_instruction_set(reports):
    first = next(iter(reports.values()))["plain"]
    assert len(first) == 32
    for name, report in reports.items():
        assert report["plain"] == first, name


FUSED = [name for name in isa.describe()["usable"] if name != "baseline"]


@pytest.mark.skipif(len(FUSED) < 2, reason="this CPU has fewer than two instruction sets with FMA")
def test_the_fma_instruction_sets_give_the_same_bits(reports):
    for name in FUSED:
        assert reports[name]["fused"] == reports[FUSED[0]]["fused"], name


def test_digests_tell_different_bits_apart(reports):
    fused = reports[isa.describe()["usable"][0]]["fused"]
    assert len(set(fused.values())) == len(fused) == 26
    assert hashlib.sha256(b"").hexdigest() not in fused.values()
    if FUSED:
        assert reports["baseline"]["fused"] != reports[FUSED[0]]["fused"]


# ------------------------------------------------------------------- the C sources compiled in other ways


def same_kernels(one, other):
    """Assert that two compiled instruction sets give the same bits for n = 1..67, from the same unaligned arguments."""
    for dtype in DTYPES:
        x = np.concatenate([arguments("ordinary", dtype, 40), arguments("near saturation", dtype, 140)[:27]])
        for n in range(1, 68):
            found, want = ({name: kernels.map(name, x[:n]) for name in FUNCTIONS} for kernels in (one, other))
            for bias in (None, arguments("near 0", dtype, 4 * n)):
                found |= cell_results(one, dtype, n, bias)
                want |= cell_results(other, dtype, n, bias)
                for key in want:
                    assert bits(found[key]).tobytes() == bits(want[key]).tobytes(), f"{key} {dtype} n = {n}"
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4], dtype)
        for place in range(16):
            y = np.concatenate([x[:place], special, x[place:16]])
            for name in FUNCTIONS:
                assert bits(one.map(name, y)).tobytes() == bits(other.map(name, y)).tobytes(), f"{name} {y}"


def cell_results(kernels, dtype, H, bias):
    """Forward and backward of two rows, with every output there is; arguments start one byte off alignment."""
    rng = np.random.default_rng(H)

    def unaligned(shape):
        return moved(rng.normal(size=shape).astype(dtype))

    plain = np.zeros(64, np.int32)  # an lstmx_cell without options, and room behind it
    plain[2] = 4  # gates
    gates, c, h = unaligned((2, 4 * H)), unaligned((2, H)), unaligned((2, H))
    kernels.call("cell_forward", dtype, plain, 2, H, bias, gates, c, h)
    out = {"gates": gates.copy(), "c": c.copy(), "h": h.copy()}
    c_prev, dy, dh, dc, dh_all, dc_all = (unaligned((2, H)) for _ in range(6))
    other = gates.copy(), dh.copy() + dy, dc.copy()  # what dy gives may as well come with dh
    kernels.call("cell_backward", dtype, plain, 2, H, gates, c_prev, dy, dh, dc, dh_all, dc_all)
    kernels.call("cell_backward", dtype, plain, 2, H, other[0], c_prev, None, other[1], other[2], None, None)
    assert bits(other[1]).tobytes() == bits(dh).tobytes() == bits(dh_all).tobytes()
    assert bits(other[0]).tobytes() == bits(gates).tobytes() and bits(other[2]).tobytes() == bits(dc).tobytes()
    return out | {"dz": gates, "dc_prev": dc, "dc_all": dc_all}


def compiled(folder, compiler, isa, *options):
    path = build(compiler, f"isa_{isa}.c", folder / f"{compiler}_{isa}_{len(options)}.so", "-shared", *options)
    return Kernels(path, f"lstmx_isa_{isa}")


@pytest.fixture(scope="module")
def avx2(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("avx2"), "gcc", "avx2")


@pytest.mark.long
@needs_gcc
@needs_avx2
@pytest.mark.skipif(
    "avx512" in isa.describe()["usable"], reason="this CPU has AVX-512: what it computes is compared itself"
)
def test_the_64_byte_source_run_on_avx2_gives_the_bits_of_avx2(avx2, tmp_path):
    emulated = compiled(tmp_path, "gcc", "avx512", "-DLSTMX_EMULATE", "-Wno-psabi")
    assert (emulated.isa.name, emulated.isa.vector_bytes) == (b"avx512", 64)
    same_kernels(emulated, avx2)


@pytest.mark.long
@needs_gcc
@pytest.mark.skipif("baseline" not in isa.describe()["compiled"], reason="the baseline of this CPU has FMA")
def test_the_source_without_vectors_gives_the_bits_of_the_baseline(tmp_path):
    plain = compiled(tmp_path, "gcc", "baseline", "-DLSTMX_NO_VECTOR")
    same_kernels(plain, compiled(tmp_path, "gcc", "baseline"))


@pytest.mark.long
@needs_gcc
@needs_avx2
@pytest.mark.parametrize("compiler", [name for name in COMPILERS if name != "gcc"] or ["gcc"])
def test_compilers_agree_to_the_bit(avx2, compiler, tmp_path):
    same_kernels(compiled(tmp_path, compiler, "avx2"), avx2)


@needs_gcc
@needs_avx2
@pytest.mark.skipif(isa.describe()["active"] != "avx2", reason="another instruction set is active")
def test_the_kernels_tried_here_are_those_of_the_package(avx2):
    for dtype in DTYPES:
        x = arguments("ordinary", dtype, 1001)
        for name in FUNCTIONS:
            assert_array_equal(bits(avx2.map(name, x)), bits(call(name, x)))
