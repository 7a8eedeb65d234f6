"""Model files that are damaged, cut short or made up: a ModelFileError that names the file, or a model; never more.

A case changes one of the golden files, or one that PyTorch, Keras, an exporter to ONNX or RTNeural wrote: bytes, spans,
sizes and texts, in the file as it is or in what its containers hold (zip archives, the header of safetensors, with
sizes and digests made right again). Then what reads such files reads it, in a process with little more memory than it
needs.
"""

import atexit
import functools
import hashlib
import io
import json
import re
import resource
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

import lstmx
from lstmx.interop.onnx import from_onnx, lstms
from lstmx.storage import ModelFileError

from . import TESTS, Failed, run_cases
from .allocations import build, malloc

NAME = "files"
TITLE = "Damaged and hostile files"
DATA = TESTS / "data"
KINDS = {"lstmx": "lstmx", "torch": "PyTorch", "keras": "Keras", "onnx": "ONNX", "rtneural": "RTNeural"}
LIMIT = 30  # seconds after which reading a file of some kilobytes counts as hanging
ROOM = 512 << 20  # bytes of address space that a process may take beyond what it has when it begins
MOST = 64 << 20  # bytes of one block that reading a file of some kilobytes may ask for
WORDS = [b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"\0" * 8, b"\1\0\0\0\0\0\0\0",
         b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0\0\0\0\1\0\0\0", b"\0\0\0\0\0\0\0\x80"]  # fmt: skip
TOKENS = ["0", "1", "-1", "3", "2147483648", "9223372036854775807", "1e30", "1e400", "NaN", "null", "true", "[]", "{}",
          '""', '"x"', "[[]]", '"LSTM"', '"Sequential"', '{"class":"Last"}', '"\\u0000"', '"../../x"']  # fmt: skip
TORCH = {"classifier.pt": {"head": "final"}, "classifier_script.pt": {"head": "final", "activations": ["relu", None]},
         "half.safetensors": {"prefix": "a."}, "tagger.ckpt": {"head": "step", "activations": [None]},
         "": {}}  # fmt: skip
PLACE = re.compile(r'-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|"[^"\\]*"|true|false|null')


def run(seconds, first):
    """Cases in children with little memory, and with the malloc that says how much was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        return run_cases(NAME, seconds, first, LIMIT, LD_PRELOAD=build(folder), OPENBLAS_NUM_THREADS="1")


@functools.cache
def sources():
    """[(kind, name, content)] of whole files."""
    found = [("lstmx", path.name, path.read_bytes()) for path in sorted(DATA.glob("*.safetensors"))]
    for path in sorted((DATA / "torch_models").iterdir()):
        if path.suffix != ".npz":
            found.append(("torch", path.name, path.read_bytes()))
    with zipfile.ZipFile(DATA / "keras_files.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith((".keras", ".h5"))]
        found += [("keras", name, archive.read(name)) for name in names]
    for name in ("onnx_torch", "onnx_keras"):
        with np.load(DATA / f"{name}.npz") as file:
            found += [("onnx", f"{key.replace('/', '-')}.onnx", file[key].tobytes())
                      for key in file.files if key.endswith("model")]  # fmt: skip
    return [*found, ("rtneural", "rtneural.json", (DATA / "rtneural.json").read_bytes())]


def case(number):
    """One file, changed and read."""
    rng = np.random.default_rng(number)
    _prepare()
    kind = list(KINDS)[number % len(KINDS)]
    files = [one for one in sources() if one[0] == kind]
    _, name, content = files[rng.integers(len(files))]
    changed = change(rng, kind, content)
    path = _folder() / name
    path.write_bytes(changed)
    malloc().watch(1 << 20)  # which begins to measure
    begin = time.perf_counter()
    outcome = _read(kind, path)
    largest, seconds = malloc().largest(), time.perf_counter() - begin
    if largest > MOST and kind != "keras":  # HDF5 itself believes the sizes in a file, and asks for as much
        raise Failed(f"{name}: reading {len(changed)} bytes asked for a block of {largest} bytes")
    block = "largest block of HDF5" if kind == "keras" else "largest block"
    return {outcome: 1, kind: 1, block: largest, "slowest ms": round(1000 * seconds)}


@functools.cache
def _folder():
    """Gone with the process."""
    folder = tempfile.TemporaryDirectory(prefix="lstmx-files-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def _prepare():
    """Once: load what reading loads, then take away most memory."""
    malloc()
    for kind, name, content in sources():
        path = _folder() / name
        path.write_bytes(content)
        if _read(kind, path) != "read":
            raise Failed(f"{name}: is refused as it is")
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, -1))


def _read(kind, path):
    """What comes of a file: "read" or "refused"."""
    try:
        if kind == "lstmx":
            found = lstmx.load(path)
            found.__reduce__()  # which asks for all of it
        elif kind == "torch":
            lstmx.interop.torch.read(path, **next(v for k, v in TORCH.items() if path.name.endswith(k)))
        elif kind == "keras":
            _read_keras(path)
        elif kind == "onnx":
            lstms(path)
            from_onnx(path)
        else:
            lstmx.from_rtneural(path)
    except ModelFileError as error:
        if str(path) not in str(error):
            raise Failed(f"the error does not name the file: {error}") from error
        return "refused"
    return "read"


def _read_keras(path):
    told = {"recurrent_activation": "sigmoid", "return_sequences": False, "dense_activation": "linear",
            "mask_zero": False}  # fmt: skip
    lstmx.interop.keras.read(path, **(told if "weights" in path.name else {}))


# Changes.


def change(rng, kind, content):
    """The content of a file with something wrong in it."""
    inner = {"lstmx": _safetensors, "torch": _zip, "keras": _zip, "rtneural": _text}.get(kind)
    if inner is not None and rng.random() < 0.6:
        found = inner(rng, content)
        if found is not None and rng.random() < 0.9:
            return found
    return _bytes(rng, content)


def _bytes(rng, content):
    """Bytes set, spans removed, repeated and moved, the end cut off: one to four of these."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(len(data) + 1)), int(2 ** rng.uniform(0, 8))
        if rng.random() < 0.3:  # near the beginning, where sizes stand
            at = min(at, int(rng.integers(600)))
        how = rng.integers(7)
        if how == 0:
            del data[at : at + length]
        elif how == 1:
            data[at:at] = data[at : at + length]
        elif how == 2:
            other = int(rng.integers(len(data) + 1))
            data[at : at + length] = data[other : other + length]
        elif how == 3:
            word = WORDS[rng.integers(len(WORDS))]
            data[at : at + len(word)] = word
        elif how == 4:
            data[at : at + length] = rng.bytes(length)
        elif how == 5 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def _text(rng, content):
    """A text of JSON with some of its values replaced."""
    text = content.decode() if isinstance(content, bytes) else content
    for _ in range(rng.integers(1, 4)):
        places = list(PLACE.finditer(text))
        if not places:
            break
        one, other = (places[rng.integers(len(places))] for _ in range(2))
        new = TOKENS[rng.integers(len(TOKENS))] if rng.random() < 0.7 else other.group()
        text = text[: one.start()] + new + text[one.end() :]
    return text.encode("utf-8", "surrogatepass")


def _safetensors(rng, content):
    """The header, or the configuration in it, with other values; its size and the digest are made right again."""
    size = int.from_bytes(content[:8], "little")
    header, numbers = content[8 : 8 + size], content[8 + size :]
    try:
        parsed = json.loads(header)
        if rng.random() < 0.6:
            metadata = parsed["__metadata__"]
            metadata["model"] = _text(rng, metadata["model"]).decode()
            if "digest" in metadata:
                metadata["digest"] = _digest(metadata["model"], parsed, numbers)
            header = json.dumps(parsed).encode()
        else:
            header = _text(rng, header)
    except (ValueError, KeyError, TypeError):
        return None
    return len(header).to_bytes(8, "little") + header + numbers


def _digest(text, header, numbers):
    """As lstmx.storage says."""
    names = {"F32": "float32", "F64": "float64", "I64": "int64"}
    found = hashlib.sha256(text.encode())
    for name in sorted(key for key in header if key != "__metadata__"):
        begin, end = header[name]["data_offsets"]
        found.update(json.dumps([name, names[header[name]["dtype"]], header[name]["shape"]]).encode())
        found.update(numbers[begin:end])
    return found.hexdigest()


def _zip(rng, content):
    """One member of an archive changed, with its check sum right; or a member left out, or twice."""
    if not content.startswith(b"PK"):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    k = int(rng.integers(len(members)))
    name, data = members[k]
    how = rng.random()
    if how < 0.05:
        del members[k]
    elif how < 0.1:
        members.append(members[k])
    elif how < 0.15:
        members[k] = (members[int(rng.integers(len(members)))][0], data)
    else:
        members[k] = (name, _text(rng, data) if name.endswith(".json") else _bytes(rng, data))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED) as archive:
        written = set()
        for name, data in members:
            if name not in written:  # zipfile warns of a name that comes twice
                archive.writestr(name, data)
            written.add(name)
    return out.getvalue()
