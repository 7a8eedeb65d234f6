"""The command line: ``lstmx demo``, ``lstmx info``, ``lstmx convert`` and ``lstmx bench``."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from lstmx._version import __version__
from lstmx.functional.engine import describe
from lstmx.functional.threads import get_num_threads

if TYPE_CHECKING:
    from collections.abc import Sequence


# OpenBLAS's name of its kernels -> the instruction set they use; all others are older than AVX2.
_CORES = dict.fromkeys(("Haswell", "Zen", "Excavator"), "avx2")
_CORES |= dict.fromkeys(("SkylakeX", "Cooperlake", "SapphireRapids"), "avx512")
PACKAGES = ("numpy", "scipy", "scikit-learn", "matplotlib", "tqdm")
_LEVELS = ["baseline", "avx2", "avx512"]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> dict[str, Any] | None:
    """SciPy's BLAS: its name, the CPU that its kernels are for, its threads; None without SciPy."""
    try:
        import scipy.linalg.cython_blas  # noqa: F401
    except ImportError:
        return None
    found = {"library": "unknown", "core": None, "threads": None}
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if "scipy" in line and "openblas" in line}
    except (OSError, IndexError):
        return found
    for path in sorted(paths):
        library = ctypes.CDLL(path)
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("", "64_"):
                name = getattr(library, f"{prefix}_get_corename{suffix}", None)
                count = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
                if name is not None and count is not None:
                    name.restype = ctypes.c_char_p
                    return {"library": "OpenBLAS", "core": name().decode(), "threads": count()}
    return found


def _blas_warning(blas: Any, isa: Any) -> str | None:
    if not blas or blas["core"] is None or isa["active"] not in _LEVELS:
        return None
    has, can = _CORES.get(blas["core"], "baseline"), isa["usable"][-1]
    if _LEVELS.index(has) >= _LEVELS.index(can):
        return None
    forced = " because OPENBLAS_CORETYPE is set; unset it" if "OPENBLAS_CORETYPE" in os.environ else ""
    return f"BLAS runs {blas['core']} kernels ({has}) on a CPU that has {can}{forced}"


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show versions, instruction set, engine, threads and BLAS.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print, or return a dict.

    Examples
    --------
    >>> import lstmx
    >>> lstmx.show_config("dicts")["engine"] in ("tile", "blas", "reference")
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f'mode: got {mode!r}, must be "stdout" or "dicts"')
    core, blas = describe(), _blas()
    isa = core["isa"]
    config = {
        "lstmx": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {platform.system()}",
        **{name: _version(name) for name in PACKAGES},
        **core,
        "threads": get_num_threads(),
        "cpus": os.cpu_count(),
        "blas": blas,
        "warning": _blas_warning(blas, isa),
    }
    if mode == "dicts":
        return config
    print(f"lstmx {config['lstmx']}, Python {config['python']}, {config['machine']}")
    print("packages:       " + ", ".join(f"{name} {config[name] or 'not installed'}" for name in PACKAGES))
    print(
        f"instructions:   {isa['active']} active, {isa['vector_bytes']}-byte vectors, {'' if isa['fma'] else 'no '}FMA"
    )
    print(f"                this CPU can run {', '.join(isa['usable'])}; compiled in {', '.join(isa['compiled'])}")
    print(f"engine:         {config['engine']}")
    print(
        f"OpenMP:         {'yes' if config['openmp'] else 'no'}, {config['threads']} threads of {config['cpus']} CPUs"
    )
    if blas is None:
        print("BLAS:           SciPy is not installed")
    else:
        core = f", kernels for {blas['core']}, {blas['threads']} threads" if blas["core"] else ""
        print(f"BLAS:           {blas['library']} in SciPy{core}")
    if config["warning"]:
        print(f"warning:        {config['warning']}")
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The ``lstmx`` command once lstmx is imported (see lstmx_command.py); returns the exit status."""
    parser = argparse.ArgumentParser(prog="lstmx", description="Long Short-Term Memory networks for CPUs.")
    parser.add_argument("--version", action="version", version=f"lstmx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="forecast CO2 and recognise speakers, on real data, in under a minute")
    demo.add_argument("name", nargs="?", choices=("all", "forecast", "speakers", "gates"), default="all",
                      help="which part; all: the first two; gates: why an LSTM remembers")  # fmt: skip
    demo.add_argument("--output", metavar="DIR", default="lstmx-demo", help="where plots and models go (lstmx-demo)")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    _add_convert(commands)
    commands.add_parser("info", help="versions, instruction set, engine, threads, BLAS")
    from lstmx.bench import command

    command.add_arguments(commands.add_parser("bench", help="the speed of lstmx beside frameworks that are installed"))
    options = parser.parse_args(arguments)
    if options.command == "bench":
        return command.main(options)
    if options.command == "info":
        show_config()
        return 0
    if options.command == "convert":
        return _convert(options)
    from lstmx import demo  # type: ignore[assignment]

    try:
        return demo.run(options.name, options.output, options.seed)  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ImportError, OSError) as error:
        print(f"lstmx demo: {error}", file=sys.stderr)
        return 1


_VALUES = """\
NAME=VALUE: a text, a number, true, false or none; several with commas between; or JSON, in which texts have double
quotes, and so has a text that would be a number:

  --set head=last --set prefix=encoder.
  --set activations=relu,none            one for each layer
  --set 'activations={"fc1": "relu"}'
  --set layers=lstm,dense                .keras, .h5, .pt
  --export states=true                   .onnx: fed step by step; lengths=true, opset=17, dtype=float64
  --export 'names=["lstm", "out"]'       .pt; prefix=encoder., in_forward=mask
"""


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser(
        "convert", help="a model of PyTorch, Keras, ONNX or RTNeural for lstmx, and back", epilog=_VALUES,
        description="Read a model file, whatever it is, and write another: its ending decides (.safetensors of lstmx; "
        ".onnx; .pt, .pth: a state dict; .weights.h5 of Keras).", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("source", help=".pt, .pth, .ckpt, .bin, .safetensors, .keras, .h5, .onnx, .json of RTNeural")
    parser.add_argument("target", help="what to write: .safetensors, .onnx, .pt, .pth, .weights.h5")
    parser.add_argument("--check", action="store_true",
                        help="hold the model against the original, and the file against the model")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], dest="options",
                        help="an argument of the importer (help(lstmx.from_torch), ..)")  # fmt: skip
    parser.add_argument("--export", metavar="NAME=VALUE", action="append", default=[],
                        help="an argument of the exporter (help(lstmx.to_onnx), ..)")  # fmt: skip


def _convert(options: argparse.Namespace) -> int:
    """Convert, say what was found, layer by layer, and hold it against the original."""
    from lstmx.interop import convert

    try:
        given = dict(_argument("--set", text) for text in options.options)
        target = convert.Target(options.target, **dict(_argument("--export", text) for text in options.export))
        if os.path.exists(options.target) and not options.force:
            raise FileExistsError(f"target: there is a file {options.target!r}; give another name, or --force")
        imported = convert.read(options.source, **given)
        print(imported.report())
        if options.check and not isinstance(imported, convert.Saved):
            print(convert.check(imported))
        target.write(imported.model)
        print(f"written: {target.path}, {os.path.getsize(target.path):,} bytes ({target.what})")
        if options.check:
            print(target.check(imported.model))
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"lstmx convert: {error}", file=sys.stderr)
        return 1
    return 0


def _argument(flag: str, text: str) -> tuple[str, Any]:
    """(name, value) of NAME=VALUE."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise ValueError(f"{flag}: got {text!r}, must be NAME=VALUE, such as head=last")
    if value[:1] in ("[", "{", '"'):
        try:
            return name, json.loads(value)
        except ValueError as error:
            raise ValueError(f"{flag}: {name}: got {value!r}, must be JSON, with double quotes ({error})") from error
    words = [_word(word) for word in value.split(",")]
    return name, words if len(words) > 1 or (name == "activations" and words == [None]) else words[0]


def _word(text: str) -> Any:
    """A number, true, false, none, or the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text) if "." in text else int(text)
    return text


if __name__ == "__main__":
    sys.exit(main())
