"""Files of PyTorch read without it: whole ones, damaged ones, and ones that were made to do harm."""

import io
import json
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lstmx
from lstmx.interop.torch import files as torch_files
from lstmx.interop.torch import modules as torch_modules
from lstmx.interop.torch import pickles as torch_pickle
from lstmx.interop.torch.pickles import Record, Tensor
from lstmx.storage import ModelFileError

FOLDER = Path(__file__).parent / "data" / "torch_models"
WHOLE = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".npz")

# The instructions of a pickle, written by hand: nothing here is ever unpickled by Python.


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def items(*values):
    return b"(" + b"".join(values) + b"t"


def call(function, *args):
    return function + items(*args) + b"R"


def mapping(**values):
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def storage(key="0", count=6, kind="FloatStorage", module="torch", word="storage"):
    return items(text(word), name(module, kind), text(key), text("cpu"), number(count)) + b"Q"


NUMBERS = np.arange(6, dtype="<f4")
BYTES = NUMBERS.tobytes()
HOOKS = call(name("collections", "OrderedDict"))
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def tensor(shape=(2, 3), strides=(3, 1), offset=0, **of_storage):
    sizes = [items(*map(number, values)) for values in (shape, strides)]
    return call(REBUILD, storage(**of_storage), number(offset), *sizes, b"\x89", HOOKS)


def pickled(value):
    return b"\x80\x02" + value + b"."


def archive(value, data=BYTES, compression=zipfile.ZIP_STORED, root="m", **more):
    """A file as torch.save writes it, around a pickle and the storage "0"."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        target.writestr(f"{root}/data.pkl", pickled(value))
        target.writestr(f"{root}/data/0", data)
        for member, content in more.items():
            target.writestr(f"{root}/{member}", content)
    return file.getvalue()


def old(value, keys=("0",), counts=(6,), version=1001, data=BYTES):
    """The same in the format before 1.6."""
    head = torch_files.MAGIC + pickled(b"M" + struct.pack("<H", version)) + pickled(mapping(little_endian=b"\x88"))
    lists = pickled(b"](" + b"".join(map(text, keys)) + b"e")
    return head + pickled(value) + lists + b"".join(struct.pack("<q", count) + data for count in counts)


def read(content, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    return torch_files.read(path)[1]


# Whole files.


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("file", WHOLE)
def test_tensors_are_those_that_torch_reads(file):
    torch = pytest.importorskip("torch")
    content = torch_files.read(FOLDER / file)[1]
    if file.endswith("safetensors"):
        wanted = pytest.importorskip("safetensors.torch").load_file(FOLDER / file)
    elif file == "lstm.pkl":
        wanted = pickle.loads((FOLDER / file).read_bytes())
    elif "classifier" in file:
        wanted = torch.jit.load(FOLDER / "classifier_script.pt").state_dict()
        content = {one.full(end): t for one in torch_modules.layers(content) for end, t in one.tensors.items()}
    else:
        wanted = torch.load(FOLDER / file, weights_only=False)
    if file == "tagger.ckpt":
        assert content["epoch"] == wanted["epoch"] == 3 and content["hyper"]["hidden"] == 4
        ours, theirs = (one["optimizer_states"][0]["state"][1]["exp_avg"] for one in (content, wanted))
        np.testing.assert_array_equal(ours, theirs)
        content, wanted = content["state_dict"], wanted["state_dict"]
    assert content.keys() == wanted.keys() and len(wanted) > 2
    for key, value in wanted.items():
        assert content[key].dtype == str(value.dtype).removeprefix("torch."), key
        np.testing.assert_array_equal(np.asarray(content[key]), value.float() if value.itemsize == 2 else value)


def test_both_formats_and_byte_orders_hold_the_same(tmp_path):
    value = mapping(a=tensor(), b=tensor((3, 2), (1, 3)), c=tensor((2,), (2,), 1), d=tensor((0, 4), (4, 1)))
    for content in (archive(value), archive(value, NUMBERS.astype(">f4").tobytes(), byteorder="big"), old(value)):
        found = read(content, tmp_path)
        wanted = {"a": [[0, 1, 2], [3, 4, 5]], "b": [[0, 3], [1, 4], [2, 5]], "c": [1, 3], "d": np.zeros((0, 4))}
        for key, numbers in wanted.items():
            array = np.asarray(found[key])
            np.testing.assert_array_equal(array, numbers)
            assert array.dtype == np.dtype(np.float32) and array.dtype.isnative


@pytest.mark.parametrize(
    ("kind", "code", "values"),
    [("Double", "<f8", [1.5, -2]), ("Half", "<f2", [0.5, 3]), ("Long", "<i8", [1, -(2**40)]), ("Int", "<i4", [7, -8]),
     ("Short", "<i2", [1, 2]), ("Char", "i1", [-1, 2]), ("Byte", "u1", [200, 2]), ("Bool", "?", [True, False]),
     ("BFloat16", "<u2", [0x3FC0, 0xC000])],
)  # fmt: skip
def test_types(kind, code, values, tmp_path):
    value = tensor((2,), (1,), count=2, kind=f"{kind}Storage")
    found = np.asarray(read(archive(value, np.array(values, code).tobytes()), tmp_path))
    np.testing.assert_array_equal(found, [1.5, -2] if kind == "BFloat16" else values)


def test_numbers_are_read_when_they_are_asked_for_and_checked_then(tmp_path):
    content = archive(tensor(), np.full(6, 7, "<f4").tobytes())
    place = content.index(np.full(6, 7, "<f4").tobytes())
    found = read(content[:place] + b"\1" + content[place + 1 :], tmp_path)
    with pytest.raises(ModelFileError, match="damaged: a tensor is not what was written"):
        np.asarray(found)
    found = read(content, tmp_path)
    (tmp_path / "model.pt").write_bytes(content[:place])
    with pytest.raises(ModelFileError, match="damaged"):
        np.asarray(found)


def test_expanded_tensors_are_read_where_they_are_small(tmp_path):
    found = read(archive(mapping(a=tensor((4, 3), (0, 1)), b=tensor((2**31 - 1, 3), (0, 1)))), tmp_path)
    np.testing.assert_array_equal(found["a"], [[0, 1, 2]] * 4)
    with pytest.raises(torch_pickle.Refused, match=r"\(2147483647, 3\) is expanded .* tensor.contiguous\(\)"):
        np.asarray(found["b"])


def test_tensors_share_a_storage(tmp_path):
    found = read(archive(mapping(a=tensor(), b=tensor((6,), (1,)))), tmp_path)
    assert np.shares_memory(found["a"], found["b"])


def test_the_types_that_python_2_and_hyperparameters_have(tmp_path):
    values = {
        "default": call(name("collections", "defaultdict"), name("__builtin__", "list"), mapping(k=number(1))),
        "ordered": call(name("collections", "OrderedDict"), b"](" + items(text("k"), b"U\x01v") + b"e"),
        "set": call(name("__builtin__", "set"), b"](" + number(3) + b"e"),
        "device": call(name("torch", "device"), text("cuda"), number(0)),
        "size": call(name("torch", "Size"), items(number(2))),
        "dtype": name("torch", "float32"),
        "long": b"\x8a\x02\x00\x01",
        "real": b"G" + bytes(8),
    }
    found = read(archive(mapping(**values)), tmp_path)
    assert str(found.pop("dtype")) == "torch.float32"
    assert found == {"default": {"k": 1}, "ordered": {"k": "v"}, "set": [3], "device": "cuda", "size": (2,),
                     "long": 256, "real": 0.0}  # fmt: skip


def test_a_path_of_hyperparameters_is_nothing_but_a_record(tmp_path):
    found = read(archive(call(name("pathlib", "PosixPath"), text("/"), text("etc"))), tmp_path)
    assert isinstance(found, Record) and found.state == {}


# Files made to do harm.

MOST = 30_000  # instructions, in the tests of these
SYSTEM, SHELL = name("posix", "system"), text("touch harmed")
LIST = b"](" + number(1) * 1000 + b"e" + b"q\1"
HOSTILE = {
    "os.system": (call(SYSTEM, SHELL), "calls posix.system"),
    "os.system, mentioned": (mapping(a=SYSTEM), "names posix.system, which is not data"),
    "os.system by a stack": (text("os") + text("system") + b"\x93" + items(SHELL) + b"R", "calls os.system"),
    "os.system of a class": (SYSTEM + items(SHELL) + b"\x81", "names posix.system, which is not data"),
    "with keywords": (SYSTEM + items(SHELL) + b"}\x92", "names posix.system"),
    "eval": (call(name("builtins", "eval"), text("open('harmed', 'w')")), "calls builtins.eval"),
    "exec of Python 2": (call(name("__builtin__", "execfile"), text("x")), "calls builtins.execfile"),
    "getattr": (call(name("builtins", "getattr"), name("os", "path"), text("os")), "calls builtins.getattr"),
    "a call of what a call gave": (call(call(name("torch", "Size"), items()), SHELL), "calls a tuple, which is not"),
    "a call of text": (call(text("system"), SHELL), "calls a str, which is not"),
    "dotted": (call(name("torch", "os.system"), SHELL), "calls torch.os.system"),
    "dotted within torch": (call(name("torch._utils", "_rebuild_tensor_v2.__globals__"), SHELL), "calls torch._utils"),
    "torch.load again": (call(name("torch.storage", "_load_from_bytes"), b"C\x01x"), "_load_from_bytes"),
    "a script": (call(name("torch.jit", "load"), text("x")), "calls torch.jit.load"),
    "copyreg": (call(name("copyreg", "_reconstructor"), SYSTEM), "calls copyreg._reconstructor"),
    "copy_reg": (call(name("copy_reg", "__newobj__"), SYSTEM), "calls copy_reg.__newobj__"),
    "an extension": (b"\x82\x01", "instruction b'\\\\x82'"),
    "an instance": (b"(ios\nsystem\n", "instruction b'i'"),
    "an object": (b"(" + SYSTEM + b"o", "instruction b'o'"),
    "a buffer": (b"\x97", "instruction b'\\\\x97'"),
    "a persistent id as text": (b"Pstorage\n", "instruction b'P'"),
    "BUILD of a function": (SYSTEM + mapping(a=b"N") + b"b", "sets the state of posix.system"),
    "BUILD of a class": (name("collections", "OrderedDict") + mapping(__init__=SYSTEM) + b"b", "sets the state of"),
    "BUILD of a list": (b"]" + mapping(a=b"N") + b"b", "sets the state of a list"),
    "BUILD of a tensor": (tensor() + mapping(__array__=b"N") + b"b", "sets the state of a Tensor"),
    "an object with a state": (name("evil", "X") + b")\x81" + mapping(a=b"N") + b"b", "names evil.X, which is not"),
    "a false module": (
        name("evil", "X") + b")\x81" + mapping(_parameters=b"N", _buffers=b"}", _modules=b"}") + b"b", "names evil.X",
    ),
    "a module with a function": (
        name("my", "Net") + b")\x81" + mapping(_parameters=b"}", _buffers=b"}", _modules=b"}", f=SYSTEM) + b"b",
        "names posix.system",
    ),
    "a path that is built": (call(name("pathlib", "PosixPath")) + b")}\x86b" + b"]b", "neither a state dict nor"),
    "no storage": (storage(word="module"), "no storage"),
    "a storage of no kind": (storage(kind="EvilStorage"), "storage of torch.EvilStorage that is not known"),
    "a storage of another module": (storage(module="evil"), "storage of evil.FloatStorage"),
    "an id that is text": (text("storage") + b"Q", "no storage"),
    "an id that is a list": (b"]Q", "no storage"),
    "a negative count": (storage(count=-6), "that is not known"),
    "a storage that is not there": (storage(key="1"), "lacks data/1"),
    "a storage elsewhere": (storage(key="../0"), r"lacks data/\.\./0"),
    "a storage of too many numbers": (storage(count=2**31 - 1), "has 24 bytes, not those of 2147483647"),
    "a storage of two kinds": (b"](" + storage() + storage(count=3, kind="DoubleStorage") + b"e", "two kinds or sizes"),
    "a tensor of text": (call(REBUILD, text("x"), number(0), b")", b")"), "not what they must be"),
    "a tensor without strides": (call(REBUILD, storage(), number(0), items(number(6)), b")"), "not what they must be"),
    "a tensor of few": (call(REBUILD, storage()), "with 1 arguments"),
    "a size that is a list": (call(REBUILD, storage(), number(0), b"]", b")"), "not what they must be"),
    "true as a size": (call(REBUILD, storage(), number(0), items(b"\x88"), items(number(1))), "not what they must be"),
    "a negative size": (tensor((-2, -3)), "not what they must be"),
    "a negative stride": (tensor((6,), (-1,)), "not what they must be"),
    "a negative offset": (tensor(offset=-1), "not what they must be"),
    "strides out of bounds": (tensor((2, 3), (4, 1)), "beyond its storage of 6"),
    "an offset out of bounds": (tensor(offset=1), "beyond its storage"),
    "a stride beyond all integers": (
        call(REBUILD, storage(), number(0), items(number(2)), items(b"\x8a\x09" + b"\xff" * 8 + b"\0")),
        "not what they must be",
    ),
    "many dimensions": (tensor((1,) * 33, (1,) * 33), "not what they must be"),
    "a sparse tensor": (call(name("torch._utils", "_rebuild_sparse_tensor"), b"N"), "calls torch._utils._rebuild_sp"),
    "a key that is a tuple": (b"}" + b")" + b"Ns", "key is a tuple"),
    "a key that is a large number": (b"}" + b"\x8a\x09" + b"\xff" * 8 + b"\0Ns", "key is a int"),
    "items of no dict": (b"]NNs", "sets items of a list"),
    "items of no list": (b"}Na", "appends to a dict"),
    "half an item": (b"}(Nu", "which is no dict"),
    "a dict of no pairs": (call(name("collections", "OrderedDict"), b"](Ne"), "something else than pairs"),
    "a list of no items": (call(name("builtins", "list"), number(3)), "something else than items"),
    "an empty stack": (b"0", "damaged"),
    "no mark": (b"t", "damaged"),
    "nothing": (b"", "holds nothing"),
    "no such memory": (b"h\7", "damaged"),
    "a name without an end": (b"cposix", "a name without an end"),
    "a long name": (b"c" + b"a" * 5000 + b"\nb\n", "a name without an end"),
    "text that is no UTF-8": (b"cx\xff\ny\n", "damaged"),
    "bytes beyond the end": (b"\x8e" + struct.pack("<Q", 2**62), "cut short"),
    "text beyond the end": (b"\x8d" + struct.pack("<Q", 2**63), "cut short"),
    "a number of many digits": (b"I" + b"9" * 4000 + b"\n", "an integer that is none"),
    "a memory of no size": (b"Nr" + struct.pack("<I", 2**32 - 1), "a NoneType"),
    "copies of copies": (
        LIST + call(name("collections", "OrderedDict"), b"](h\1e") * (MOST // 900), "of something else",
    ),
    "copies of one list": (
        b"](" + items(number(1), b"N") * 1000 + b"e" + b"q\1" + name("collections", "OrderedDict") + b"q\2"
        + b"0h\2h\1\x85R" * (MOST // 900), "items out of fewer",
    ),
    "too many instructions": (b"N0" * (MOST // 2 + 1), "more than 30,000 instructions"),
    "deep": (b"]" + b"q\1](h\1e" * 300 + b"\x85" * 4_000, "a tuple"),
}  # fmt: skip


@pytest.mark.parametrize("make", [archive, old, lambda value: pickled(value)], ids=["zip", "old", "pickle"])
@pytest.mark.parametrize("case", HOSTILE)
def test_harmful_files_are_refused_by_name(case, make, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MOST_INSTRUCTIONS", MOST)
    value, message = HOSTILE[case]
    content = make(value)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=f"model.pt: .*{message if make is archive else ''}") as error:
            torch_modules_of(read(content, tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 700
    assert peak < 70 * len(content) + 2**20


def module(number, modules):
    """A pickled torch.nn.Module, remembered under a number, with these inside."""
    memo = b"q" + bytes([number])
    state = mapping(_parameters=b"}", _buffers=b"}", _modules=modules)
    return name("my", "Net") + b")\x81" + memo + state + b"b"


def twice(number, inside):
    """A dict of something and of the same again."""
    return mapping(a=inside, b=b"h" + bytes([number]))


def test_modules_inside_themselves_come_to_an_end(tmp_path):
    cycle = module(1, mapping(a=b"h\1"))
    many, dicts = module(0, b"}"), b"}q\0"
    for k in range(40):
        many, dicts = module(k + 1, twice(k, many)), twice(k, dicts) + b"q" + bytes([k + 1])
    wide = b"}q\0"
    for k in range(4):
        wide = mapping(a=wide, **{f"a{n}": b"h" + bytes([k]) for n in range(300)}) + b"q" + bytes([k + 1])
    for value, message in (
        (wide, "no tensors"),
        (cycle, "modules, or 50 inside"),
        (many, "modules, or 50 inside"),
        (dicts, "no tensors"),
    ):
        with pytest.raises(ModelFileError, match=message):
            torch_modules_of(read(archive(value), tmp_path))


def torch_modules_of(content):
    try:
        return torch_modules.layers(content)
    except ValueError as error:
        raise ModelFileError(f"model.pt: {error}") from error


WATCH = """
import encodings.cp437  # of names in zip archives
import sys
from pathlib import Path
from lstmx.interop.torch import files as torch_files
from lstmx.interop.torch import modules as torch_modules
import numpy as np
paths = sorted(Path(sys.argv[1]).iterdir())

def look(path):
    try:
        for one in torch_modules.layers(torch_files.read(path)[1]):
            for tensor in one.tensors.values():
                np.asarray(tensor)
    except ValueError:
        pass

look(paths[0]), look(paths[-1])  # what is imported late
events = []
sys.addaudithook(lambda event, args: events.append((event, args)))
for path in paths:
    look(path)
allowed = {"open", "builtins.id", "os.listdir", "os.scandir", "object.__getattr__", "marshal.loads"}
bad = {(event, str(args)[:80]) for event, args in events if event not in allowed}
bad |= {(event, str(args)[:80]) for event, args in events if event == "open" and args[1] not in ("rb", "r")}
print(len(paths), sum(event == "open" for event, _ in events), bad or "nothing")
"""


def test_nothing_is_run_imported_or_written(tmp_path):
    """Python itself tells, by its audit events, of all files at once."""
    folder = tmp_path / "files"
    folder.mkdir()
    for k, (value, _) in enumerate(HOSTILE.values()):
        if len(value) < 10**6:
            for form, make in (("zip", archive), ("old", old), ("pickle", pickled)):
                (folder / f"{k}.{form}").write_bytes(make(value))
    for file in WHOLE:
        (folder / file).write_bytes((FOLDER / file).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", WATCH, folder], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    files, opened, bad = done.stdout.strip().split(maxsplit=2)
    assert int(files) > 200 and int(opened) >= int(files) and bad == "nothing"
    assert {path.name for path in tmp_path.iterdir()} == {"files"}


REMEDIES = {
    "calls what is not data": (HOSTILE["os.system"][0], "if you trust it, read it with torch.load"),
    "quantized": (
        call(name("torch._utils", "_rebuild_qtensor"), b"N"), "quantized tensors; save the model before it is",
    ),
    "a storage of quantized": (storage(kind="QInt8Storage"), "save the model before it is quantized"),
    "a storage of a new type": (storage(kind="NewStorage"), "save the model in one of the types float64"),
    "sparse": (HOSTILE["a sparse tensor"][0], r"sparse tensors; save them as tensor.to_dense\(\)"),
    "damaged": (b"0", "take another copy"),
    "lacks a storage": (storage(key="1"), "take another copy"),
    "beyond its storage": (tensor((7,), (1,)), "take another copy"),
}  # fmt: skip


@pytest.mark.parametrize("case", REMEDIES)
def test_remedies_are_those_that_help(case, tmp_path):
    value, remedy = REMEDIES[case]
    with pytest.raises(ModelFileError, match=remedy) as error:
        read(archive(value), tmp_path)
    assert ("torch.load" in str(error.value)) == ("torch.load" in remedy)


CONTAINERS = {
    "duplicate": (lambda: duplicated(), "two members .* the same name"),
    "compressed": (lambda: archive(tensor(), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "a bomb": (lambda: archive(tensor(), bytes(10**7), zipfile.ZIP_DEFLATED), "is compressed"),
    "no pickle": (lambda: zipped({"readme.txt": b"x"}), "not a file of torch.save but a zip archive; unpack it"),
    "Keras": (lambda: zipped({"model.weights.h5": b"x"}), "but a Keras model .*from_keras"),
    "torch.export": (
        lambda: zipped({"m/archive_format": b"pt2", "m/models/x.json": b""}),
        "an archive of torch.export",
    ),
    "two models": (lambda: zipped({"a/data.pkl": b".", "b/data.pkl": b"."}), "not a file of torch.save"),
    "a pickle cut short": (lambda: zipped({"m/data.pkl": b"\x80\x02]"}), "cut short"),
    "cut": (lambda: archive(tensor())[:-30], "damaged or cut short"),
    "a storage of another size": (lambda: archive(tensor(), bytes(20)), "has 20 bytes, not those of 6"),
    "old, of another version": (lambda: old(tensor(), version=1002), "of version 1002"),
    "old, cut": (lambda: old(tensor())[:-4], "cut short"),
    "old, without storages": (lambda: old(tensor(), keys=()), "the list of its storages"),
    "old, with others": (lambda: old(tensor(), keys=("0", "1")), "the list of its storages"),
    "old, twice": (lambda: old(tensor(), keys=("0", "0")), "the list of its storages"),
    "old, of another size": (lambda: old(tensor(), counts=(5,)), "not the size that its pickle says"),
    "old, a large storage": (lambda: old(storage(count=2**30)), "larger than the file"),
    "tar": (lambda: tarred(), "a tar archive, as PyTorch 0.1 wrote; .*torch.load"),
    "empty": (lambda: b"", "not a file of PyTorch but an empty file"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(90), "but an HDF5 file.*from_keras"),
    "text": (lambda: b"hello, I am no model", "but something that nobody knows"),
}


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for member, content in members.items():
            target.writestr(member, content)
    return file.getvalue()


def duplicated():
    content = archive(tensor(), **{"data/1": BYTES})
    return content.replace(b"m/data/1", b"m/data/0")


def tarred():
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as target:
        target.addfile(tarfile.TarInfo("pickle"))
    return file.getvalue()


@pytest.mark.parametrize("case", CONTAINERS)
def test_containers_that_are_no_model(case, tmp_path):
    make, message = CONTAINERS[case]
    with pytest.raises(ModelFileError, match=f"model.pt: .*{message}"):
        read(make(), tmp_path)


def test_files_of_lstmx_are_told_apart(path):
    lstmx.LSTM(3, 4).save(path)
    with pytest.raises(ModelFileError, match=r"saved by lstmx; read it with lstmx.load\(path\)"):
        torch_files.read(path)


def safetensors(**entries):
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(24)


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
HEADERS = {
    "a type": (ENTRY | {"dtype": "F8_E4M3"}, "of type 'F8_E4M3'"),
    "no type": ({}, "the header is not that"),
    "a list": ([], "the header is not that"),
    "a shape": (ENTRY | {"shape": [2, -3]}, "the header is not that"),
    "a large shape": (ENTRY | {"shape": [2**62, 2**62]}, "that is not at 0 to 24"),
    "many dimensions": (ENTRY | {"shape": [1] * 40}, "the header is not that"),
    "a real size": (ENTRY | {"shape": [2.0, 3]}, "the header is not that"),
    "beyond the end": (ENTRY | {"data_offsets": [8, 32]}, "that is not at"),
    "backwards": (ENTRY | {"data_offsets": [24, 0]}, "that is not at"),
    "before the start": (ENTRY | {"data_offsets": [-24, 0]}, "the header is not that"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_safetensors_are_checked(case, tmp_path):
    entry, message = HEADERS[case]
    with pytest.raises(ModelFileError, match=message):
        read(safetensors(a=entry), tmp_path)
    assert np.asarray(read(safetensors(a=ENTRY), tmp_path)["a"]).shape == (2, 3)


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"a":' * 100_000, b"{" + bytes(50), b"{}" + b" " * 10])
def test_headers_that_are_no_json_of_a_file(header, tmp_path):
    content = struct.pack("<Q", len(header)) + header
    if header.startswith(b"{}"):
        assert read(content, tmp_path) == {}
        return
    with pytest.raises(ModelFileError):
        read(content, tmp_path)
    with pytest.raises(ModelFileError, match="cut short"):
        read(struct.pack("<Q", 2**40) + b"{" + header, tmp_path)


def test_paths(tmp_path):
    for wrong, error, message in ((3, TypeError, "path: got int"), (tmp_path / "no", FileNotFoundError, "there is no"),
                                  (tmp_path, IsADirectoryError, "is a folder")):  # fmt: skip
        with pytest.raises(error, match=message):
            torch_files.read(wrong)


# Files that are damaged anywhere.


def looked_at(path):
    """Read all that a file holds; whether that was possible."""
    try:
        for one in torch_modules_of(torch_files.read(path)[1]):
            for tensor in one.tensors.values():
                assert isinstance(tensor, Tensor) and np.asarray(tensor).nbytes <= 10**6
    except (ModelFileError, torch_pickle.Refused):
        return False
    return True


def damaged(content, edits):
    content = bytearray(content)
    for place, how, value in edits:
        at = place % (len(content) + 1)
        if how == "set" and at < len(content):
            content[at] = value
        elif how == "insert":
            content[at:at] = bytes([value])
        elif how == "delete":
            del content[at : at + value % 9]
        elif how == "repeat":
            content[at:at] = content[max(0, at - value) : at]
    return bytes(content)


edits = st.lists(
    st.tuples(st.integers(0, 2**20), st.sampled_from(["set", "insert", "delete", "repeat"]), st.integers(0, 255)),
    min_size=1, max_size=6,
)  # fmt: skip
fuzz = settings(max_examples=1000, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip


@pytest.mark.long
@fuzz
@given(file=st.sampled_from(WHOLE), edits=edits, end=st.integers(0, 30_000))
def test_damaged_files_are_an_error_or_a_model(file, edits, end, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(damaged((FOLDER / file).read_bytes(), edits)[: end if end < 9_000 else None])
    looked_at(path)


@pytest.mark.long
@fuzz
@given(file=st.sampled_from([file for file in WHOLE if zipfile.is_zipfile(FOLDER / file)]), edits=edits)
def test_damaged_pickles_in_whole_archives_are_an_error_or_a_model(file, edits, tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(FOLDER / file) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            target.writestr(member, damaged(content, edits) if member.endswith("data.pkl") else content)
    looked_at(path)


def test_whole_files_are_looked_at():
    assert all(looked_at(FOLDER / file) for file in WHOLE)


@settings(max_examples=300, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    parts=st.lists(
        st.one_of(
            st.binary(max_size=12), st.sampled_from([value for value, _ in HOSTILE.values() if len(value) < 500])
        ),
        max_size=8,
    )
)
def test_any_pickle_is_an_error_or_data(parts, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(archive(b"".join(parts)))
    looked_at(path)
