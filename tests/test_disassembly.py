"""What compilers made of the kernels: packed FMA at the width of each instruction set, and no wide register elsewhere.

Also the two ways in which the C sources are tried without the package around them: `build` compiles isa_*.c as setup.py
does, `Kernels` calls the result through ctypes. tests/test_isa.py uses both.
"""

import ast
import ctypes
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lstmx._core.isa import describe

pytestmark = pytest.mark.long  # every kernel is compiled again, to be looked at

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "lstmx" / "_core" / "c"
X86 = platform.machine().lower() in ("x86_64", "amd64")
COMPILERS = [name for name in ("gcc", "clang", "clang-16") if shutil.which(name)]
OBJDUMP = shutil.which("objdump")
ARM_GCC, ARM_QEMU = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")

needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no gcc and no clang")
needs_gcc = pytest.mark.skipif("gcc" not in COMPILERS, reason="no gcc")
needs_avx2 = pytest.mark.skipif("avx2" not in describe()["usable"], reason="this CPU has no AVX2")


def flags():
    """The compiler flags of setup.py in a release build."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "FLAGS":
            fixed = [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
            assert len(fixed) == len(node.value.elts) - 1, "one flag, the optimisation, depends on the build"
            return [*fixed, "-O3"]
    raise AssertionError("setup.py has no FLAGS")


def build(compiler, source, target, *options):
    """Compile one C file of the core (or the path of another) into `target`."""
    command = [compiler, *flags(), "-fPIC", f"-I{SOURCES}", *options, str(SOURCES / source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return target


class _Isa(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("vector_bytes", ctypes.c_int),
        ("fma", ctypes.c_int),
        ("kernels", ctypes.POINTER(ctypes.c_void_p) * 2),
    ]


class Kernels:
    """The kernels of an isa_*.c that was compiled into a shared library: those that neither take nor give a scalar.

    The addresses of arrays go in as they are, so they need not be aligned.
    """

    NAMES = re.findall(r"^KERNEL\(\w+, (\w+),", (SOURCES / "kernels.h").read_text(encoding="utf-8"), re.MULTILINE)

    def __init__(self, path, symbol):
        self._library = ctypes.CDLL(str(path))
        self.isa = _Isa.in_dll(self._library, symbol)

    def call(self, name, dtype, *arguments):
        table = self.isa.kernels[np.dtype(dtype) == np.float64]
        integers = (ctypes.c_ssize_t,) * sum(isinstance(a, int) for a in arguments)
        types = integers + (ctypes.c_void_p,) * (len(arguments) - len(integers))
        pointers = (a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments)
        ctypes.CFUNCTYPE(None, *types)(table[self.NAMES.index(name)])(*pointers)

    def map(self, name, x):
        out = np.full_like(x, -7)
        self.call(name, x.dtype, len(x), x, out)
        return out


def bits(array):
    """The bits of an array as integers, every NaN the same one: which NaN comes out is not promised."""
    array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return array.view(np.uint32 if array.dtype == np.float32 else np.uint64)


@pytest.mark.skipif("clang" not in COMPILERS, reason="no clang")
@pytest.mark.parametrize("source", ["dispatch.c", "isa_baseline.c", "isa_avx2.c", "isa_avx512.c"])
def test_compilers_without_gnu_c_build_it(source, tmp_path):
    """As MSVC, which knows C11 and neither vectors, nor attributes, nor arrays of variable length."""
    strict = ["-std=c11", "-fgnuc-version=0", "-pedantic-errors", "-Werror=vla", "-Wno-literal-range"]
    build("clang", source, tmp_path / "plain.o", *strict, "-c")


# ---------------------------------------------------------------------------------------------- disassembly

ISAS = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}
KERNELS = ["cell_row_forward", "row_backward_plain", "row_backward_with_options", "slstm_forward", "slstm_backward"]
KERNELS += ["finish_panel", "tanh", "sigmoid", "fma_chains"]
KERNELS += [f"tiles_{vectors}" for vectors in (1, 2, 3, 4)]
TILES = [f"{kernel}_{real}" for kernel in KERNELS for real in ("f32", "f64")]
MULTIPLY_ADD = {"f32": r"vfmadd\d+ps", "f64": r"vfmadd\d+pd"}
MULTIPLY = {"f32": "mulps", "f64": "mulpd"}
BEYOND_SSE2 = (
    r"v[a-z]\w+|round[ps][sd]|p?blend\w+|pshufb|pmulld|pm(in|ax)[su]d|pinsr[bdq]|pextr[bdq]|insertps|extractps|dpp[sd]"
    r"|p?haddp?[sd]?|movs[hl]dup|movddup|lddqu|popcnt"
)


def disassemble(path):
    """Function -> list of instructions, each "mnemonic operands" (relocations of calls included)."""
    text = subprocess.run(
        [OBJDUMP, "-dr", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
    ).stdout
    functions, current = {}, None
    for line in text.splitlines():
        header = re.fullmatch(r"[0-9a-f]+ <(.+)>:", line)
        if header:
            current = functions.setdefault(header[1], [])
        elif current is not None and re.match(r"\s+[0-9a-f]+:\t", line):
            current.append(line.split(":\t", 1)[1].strip())
        elif current is not None and "R_X86_64" in line:
            current.append("relocation " + line.split()[-1])
    return functions


@pytest.fixture(scope="module")
def disassembled(tmp_path_factory):
    """(compiler, isa) -> function -> instructions; every file is compiled once."""
    folder, known = tmp_path_factory.mktemp("objects"), {}

    def get(compiler, isa):
        if (compiler, isa) not in known:
            path = build(compiler, f"isa_{isa}.c", folder / f"{compiler}_{isa}.o", "-c")
            known[compiler, isa] = disassemble(path)
        return known[compiler, isa]

    return get


x86_tools = [
    pytest.mark.skipif(not X86, reason="disassembles x86-64"),
    pytest.mark.skipif(OBJDUMP is None, reason="no objdump"),
    needs_compiler,
    pytest.mark.parametrize("compiler", COMPILERS or ["none"]),
]


def for_every_compiler(test):
    for mark in x86_tools:
        test = mark(test)
    return test


def mnemonics(instructions):
    return [line.split()[0] for line in instructions]


@for_every_compiler
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_a_tile_has_packed_fma_at_its_width_and_no_scalar_one(disassembled, compiler, isa, tile):
    instructions = disassembled(compiler, isa)[f"{tile}_{isa}"]
    packed = [line for line in instructions if re.match(MULTIPLY_ADD[tile[-3:]], line)]
    wide = [line for line in packed if f"%{ISAS[isa]}" in line]
    # a reduction of 3 and a polynomial of 4 or 10 multiply-adds, per activation
    assert len(wide) >= 7, f"{len(wide)} of {len(packed)} packed multiply-adds are {ISAS[isa]}"
    assert not [line for line in packed if f"%{ISAS[isa]}" not in line]
    assert not [line for line in instructions if re.match(r"vfn?m(add|sub)\d+s[sd]", line)]


@for_every_compiler
@pytest.mark.parametrize("real", ["f32", "f64"])
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_the_chains_that_measure_the_peak_stay_in_registers(disassembled, compiler, isa, real):
    instructions = disassembled(compiler, isa)[f"fma_chains_{real}_{isa}"]
    chains = [line for line in instructions if re.match(MULTIPLY_ADD[real], line)]
    assert len(chains) >= {"avx2": 12, "avx512": 24}[isa]
    assert not [line for line in chains if "(" in line], "an operand in memory"


@for_every_compiler
@pytest.mark.parametrize("tile", TILES)
def test_a_baseline_tile_multiplies_packed_and_uses_sse2_alone(disassembled, compiler, tile):
    instructions = disassembled(compiler, "baseline")[f"{tile}_baseline"]
    assert sum(re.match(MULTIPLY[tile[-3:]] + r"\s.*%xmm", line) is not None for line in instructions) >= 7


@for_every_compiler
def test_the_baseline_holds_nothing_beyond_sse2(disassembled, compiler):
    for function, instructions in disassembled(compiler, "baseline").items():
        wrong = [name for name in mnemonics(instructions) if re.fullmatch(BEYOND_SSE2, name)]
        assert not wrong, f"{function}: {sorted(set(wrong))}"


@for_every_compiler
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("isa", list(ISAS))
def test_a_tile_calls_no_mathematical_function(disassembled, compiler, isa, tile):
    # a tail of fewer than a vector's values may be copied by memcpy
    instructions = disassembled(compiler, isa)[f"{tile}_{isa}"]
    relocated = [re.match(r"relocation ([a-z]\w+)[-+@]?", line) for line in instructions]
    called = {found[1] for found in relocated if found}
    assert called <= {"memcpy", "memset", "memmove"}, called


@for_every_compiler
@pytest.mark.parametrize("isa", list(ISAS))
def test_wide_registers_appear_only_in_functions_named_after_their_instruction_set(disassembled, compiler, isa):
    # a compiler may append .part.0, .constprop.0 or .cold to the name of a function
    allowed = {"ymm": {"avx2", "avx512"}, "zmm": {"avx512"}}
    seen = set()
    for function, instructions in disassembled(compiler, isa).items():
        of = function.split(".")[0].rsplit("_", 1)[-1]
        for register, names in allowed.items():
            if any(f"%{register}" in line for line in instructions):
                assert of in names, f"{function} uses {register}"
                seen.add(register)
    assert seen >= {ISAS[isa]} - {"xmm"}


@for_every_compiler
def test_the_dispatcher_holds_no_vector_instruction(compiler, tmp_path):
    functions = disassemble(build(compiler, "dispatch.c", tmp_path / "dispatch.o", "-c"))
    assert "lstmx_isa_supported" in functions
    for function, instructions in functions.items():
        assert not re.search(r"%[xyz]mm", "\n".join(instructions)), function


def test_a_scalar_multiply_add_would_be_found():
    # the patterns above, on lines as objdump prints them
    assert re.match(r"vfn?m(add|sub)\d+s[sd]", "vfmadd213ss %xmm1,%xmm2,%xmm3")
    assert re.match(r"vfn?m(add|sub)\d+s[sd]", "vfnmsub231sd (%rax),%xmm2,%xmm3")
    assert re.match(MULTIPLY_ADD["f32"], "vfmadd213ps %ymm1,%ymm2,%ymm3")
    assert not re.match(MULTIPLY_ADD["f64"], "vfmadd213ps %ymm1,%ymm2,%ymm3")
    assert re.fullmatch(BEYOND_SSE2, "vaddps") and re.fullmatch(BEYOND_SSE2, "pmulld")
    assert not re.fullmatch(BEYOND_SSE2, "addps") and not re.fullmatch(BEYOND_SSE2, "movups")


# ---------------------------------------------------------------------------------------------- arm64 under qemu

ARM_MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
#include "core.h"
extern const lstmx_isa lstmx_isa_baseline;

/* stdin: n floats, then n doubles; stdout: sigmoid, tanh and exp of each, float then double */
int main(int argc, char **argv) {
    const size_t n = (size_t)atol(argv[argc - 1]);
    float *x = malloc(n * 4), *y = malloc(n * 4);
    double *u = malloc(n * 8), *v = malloc(n * 8);
    if (fread(x, 4, n, stdin) != n || fread(u, 8, n, stdin) != n) return 1;
    const lstmx_kernels *f = lstmx_isa_baseline.kernels[LSTMX_F32], *d = lstmx_isa_baseline.kernels[LSTMX_F64];
    fprintf(stderr, "%s %d", lstmx_isa_baseline.name, lstmx_isa_baseline.fma);
    f->sigmoid((ptrdiff_t)n, x, y); fwrite(y, 4, n, stdout);
    f->tanh((ptrdiff_t)n, x, y); fwrite(y, 4, n, stdout);
    f->exp((ptrdiff_t)n, x, y); fwrite(y, 4, n, stdout);
    d->sigmoid((ptrdiff_t)n, u, v); fwrite(v, 8, n, stdout);
    d->tanh((ptrdiff_t)n, u, v); fwrite(v, 8, n, stdout);
    d->exp((ptrdiff_t)n, u, v); fwrite(v, 8, n, stdout);
    return 0;
}
"""


@pytest.mark.skipif(ARM_GCC is None or ARM_QEMU is None, reason="no aarch64-linux-gnu-gcc and qemu-aarch64")
@needs_gcc
@needs_avx2
def test_neon_gives_the_bits_of_avx2(tmp_path):
    rng = np.random.default_rng(0)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 9.5, -87.3, 88.3, -1e-30, 1e-38]
    x = np.concatenate([special, rng.normal(size=300), rng.uniform(-100, 100, 300), 10 ** rng.uniform(-30, 1, 301)])
    assert len(x) % 4 != 0, "a tail"
    inputs = {"float32": x.astype(np.float32), "float64": x}

    main = tmp_path / "main.c"
    main.write_text(ARM_MAIN)
    program = build(ARM_GCC, main, tmp_path / "arm64", "-static", str(SOURCES / "isa_baseline.c"), "-lm")
    stdin = b"".join(a.tobytes() for a in inputs.values())
    done = subprocess.run([ARM_QEMU, str(program), str(len(x))], input=stdin, capture_output=True, check=True)
    assert done.stderr.decode() == "neon 1"

    avx2 = Kernels(build("gcc", "isa_avx2.c", tmp_path / "avx2.so", "-shared"), "lstmx_isa_avx2")
    output = done.stdout
    for dtype, values in inputs.items():
        for name in ("sigmoid", "tanh", "exp"):
            found, output = np.frombuffer(output[: values.nbytes], dtype), output[values.nbytes :]
            np.testing.assert_array_equal(bits(found), bits(avx2.map(name, values)), err_msg=f"{name} {dtype}")
    assert not output


def tile_bits(folder, compiler, isa, *options, run=()):
    """What tests/data/tile_bits.c writes with the tile of one instruction set."""
    source = ROOT / "tests" / "data" / "tile_bits.c"
    options = [f"-DTABLE=lstmx_isa_{isa}", "-static", str(SOURCES / f"isa_{isa}.c"), "-lm", *options]
    program = build(compiler, source, folder / f"{isa}{len(options)}", *options)
    done = subprocess.run([*run, str(program)], capture_output=True, check=True)
    return done.stdout, done.stderr.decode()


@needs_gcc
@needs_avx2
@pytest.mark.parametrize(
    ("name", "compiler", "isa", "options"),
    [
        ("avx512", "gcc", "avx512", []),
        pytest.param("avx512", "gcc", "avx512", ["-DLSTMX_EMULATE", "-Wno-psabi"], marks=pytest.mark.long),
        ("neon", ARM_GCC, "baseline", []),
    ],
    ids=["avx512", "avx512 in pairs of registers", "neon"],
)
def test_every_tile_with_fma_gives_the_bits_of_avx2(name, compiler, isa, options, tmp_path):
    if name == "neon" and (ARM_GCC is None or ARM_QEMU is None):
        pytest.skip("no aarch64-linux-gnu-gcc and qemu-aarch64")
    if isa == "avx512" and not options and "avx512" not in describe()["usable"]:
        pytest.skip("this CPU has no AVX-512")
    if "-DLSTMX_EMULATE" in options and "avx512" in describe()["usable"]:
        pytest.skip("this CPU has AVX-512: what it computes is compared itself")
    found, active = tile_bits(tmp_path, compiler, isa, *options, run=[ARM_QEMU] if name == "neon" else [])
    want, _ = tile_bits(tmp_path, "gcc", "avx2")
    assert active == name
    assert len(found) == len(want) and found == want


@pytest.mark.skipif(ARM_GCC is None, reason="no aarch64-linux-gnu-gcc")
@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-objdump") is None, reason="no aarch64-linux-gnu-objdump")
@pytest.mark.parametrize("tile", TILES)
def test_a_neon_tile_has_packed_fma_and_no_scalar_one(arm_object, tile):
    lines = arm_object.split(f"<{tile}_baseline>:\n")[1].split("\n\n")[0].splitlines()
    lane = {"f32": "4s", "f64": "2d"}[tile[-3:]]
    assert sum(re.search(rf"\bfml[as]\tv\d+\.{lane}", line) is not None for line in lines) >= 7
    assert not [line for line in lines if re.search(r"\bfn?m(add|sub)\t[sd]\d", line)]


@pytest.fixture(scope="module")
def arm_object(tmp_path_factory):
    path = build(ARM_GCC, "isa_baseline.c", tmp_path_factory.mktemp("arm64") / "baseline.o", "-c")
    command = ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
