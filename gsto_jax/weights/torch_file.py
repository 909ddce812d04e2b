"""Files of `torch.save`, read and written without PyTorch.

A pickle can call any function there is. This reader resolves the few names that tensors need.
Whatever else a pickle would make by a call is not made: an `Unread` stands in its place.
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from gsto_jax.errors import UserError

MOST_PICKLE = 2**24
"""Bytes of a pickle, which holds names and shapes alone: more than any network here needs."""
_MOST_ENTRIES = 2**18
"""Entries that a checkpoint may have; an optimizer's state of the largest network has 10^4."""
_MOST_DEPTH = 8
_LONGEST_NAME = 1000
_DIMENSIONS = 16
_SHOWN = 100  # letters of a name out of the file
_OLD_HEADER = (0x1950A86A20F9469CFC6C, 1001)
"""Begins a file of before PyTorch 1.6, each number as a pickle of its own."""
_FOREIGN = "is no file of torch.save: give a .pth or a .safetensors file"
_BIG_ENDIAN = "holds big-endian numbers, which are not read here"
_LONG_PICKLE = f"describes its tensors in more than {MOST_PICKLE} bytes"


class _Fault(Exception):
    """What is wrong with the file."""


class Unread:
    """Stands for what only a call could make, such as options, by the name that would be called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _ignore(self, *args: Any) -> "Unread":
        return self

    __call__ = __setitem__ = append = extend = _ignore


class _Table(dict[str | int, Any]):
    """A dictionary by name: to hash a tuple of tuples could take forever."""

    def __init__(self) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | int):
            raise _Fault("has a dictionary whose keys are no names")
        super().__setitem__(key, value)


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    length: int

    @property
    def nbytes(self) -> int:
        return self.length * self.dtype.itemsize


class _Tensor(NamedTuple):
    """A view of a storage, as a pickle describes it."""

    storage: Any
    offset: Any
    size: Any
    stride: Any

    def array(self, data: Mapping[str, bytes]) -> np.ndarray:
        storage, offset, size, stride = self
        if (
            any(type(n) is not int or n < 0 for n in (offset, *size, *stride))
            or not (type(size) is type(stride) is tuple)
            or not len(size) == len(stride) <= _DIMENSIONS
        ):
            raise _Fault("describes a tensor that cannot be")
        if storage.key not in data:
            raise _Fault(f"lacks storage {storage.key[:_SHOWN]}, the numbers of a tensor")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > storage.length or (0 not in size and last >= storage.length):
            raise _Fault(f"describes a tensor of shape {size}, larger than its storage"[:300])
        if 0 in size:
            return np.zeros(size, storage.dtype)
        values = np.frombuffer(data[storage.key], storage.dtype, storage.length)[offset:]
        steps = [step * values.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(values, size, steps, writeable=False)


_STORAGES = {
    f"{name}Storage": np.dtype(dtype)
    for name, dtype in {
        **{"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": jnp.bfloat16},
        **{"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"},
    }.items()
}
_NAMES: dict[str, Any] = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    "collections.OrderedDict": _Table,
    "torch._utils._rebuild_tensor_v2": lambda *args: _Tensor(*args[:4]),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}
_OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS "
    "SETITEM SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID "
    "REDUCE"
)


_KNOWN = pickle._Unpickler.dispatch


def _refuse(unpickler: Any) -> None:
    raise _Fault("has a pickle opcode that no tensor needs")


def _push_table(unpickler: Any) -> None:
    unpickler.stack.append(_Table())


def _drop_state(unpickler: Any) -> None:
    # It would change attributes; of a state_dict, it holds the versions of modules.
    unpickler.stack.pop()


class _Unpickler(pickle._Unpickler):
    """Reads a pickle by an allow-list of opcodes and names, and calls nothing else.

    In Python, since the C class has no such list and takes the memory that a memo index asks for.
    """

    dispatch: ClassVar = {
        **dict.fromkeys(_KNOWN, _refuse),
        **{code: _KNOWN[code] for name in _OPCODES.split() for code in getattr(pickle, name)},
        pickle.EMPTY_DICT[0]: _push_table,
        pickle.NEWOBJ[0]: _KNOWN[pickle.REDUCE[0]],
        pickle.BUILD[0]: _drop_state,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module}.{name}"
        if name in _NAMES:
            return _NAMES[name]
        if name.startswith("torch.") and name.endswith("Storage"):
            raise _Fault(f"asks for {name[:_SHOWN]}, a kind of numbers that is not read here")
        return Unread(name[:_SHOWN])

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", np.dtype() as dtype, str(key), str(), int(length), *view) if (
                length >= 0 and view in ([], [None])
            ):
                storage = _Storage(key, dtype, length)
                if self.storages.setdefault(key, storage) != storage:
                    raise _Fault(f"describes storage {key[:_SHOWN]} in two ways")
                return storage
        raise _Fault("refers to something that is no storage of numbers")


def read_torch(path: Path) -> dict[str, np.ndarray | Unread]:
    """Reads the tensors of a file that `torch.save` wrote.

    Args:
      path: a zip file, as PyTorch writes it since 1.6, or a file of pickles, as it did before.

    Returns:
      Arrays, and an `Unread` for what only a call could make, by the names of nested tables joined
      by dots, such as "state_dict.conv1.weight".

    Raises:
      UserError: the file holds no table or an unknown kind of tensors, or is damaged.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start != b"PK\x03\x04" and start[:1] != b"\x80":
                raise _Fault(_FOREIGN)
            tree, data = (_read_pickles if start[:1] == b"\x80" else _read_zip)(file, size)
        if not isinstance(tree, dict | Unread):
            raise _Fault(f"holds a {type(tree).__name__}, and not a state_dict")
        values: dict[str, np.ndarray | Unread] = {}
        # Counted, since a table may hold itself.
        for count, (name, value) in enumerate(_entries(tree)):
            if count >= _MOST_ENTRIES:
                raise _Fault(f"has more than {_MOST_ENTRIES} entries")
            if isinstance(value, _Tensor | Unread):
                if name in values:
                    raise _Fault(f"has two tensors of the name {name[:_SHOWN]}")
                values[name] = value.array(data) if isinstance(value, _Tensor) else value
        return values
    except _Fault as fault:
        raise UserError(f"{path} {fault}") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # Any that zipfile, pickle and NumPy have for damage; zipfile may quote all of the file.
        reason = (str(error) or type(error).__name__)[:_SHOWN]
        raise UserError(f"{path} is damaged or cut off ({reason}): get it again") from None


def _entries(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields tables and what they hold, by names joined with dots."""
    if depth > _MOST_DEPTH or len(name) > _LONGEST_NAME:
        raise _Fault(f"has tables nested more than {_MOST_DEPTH} deep, or names without end")
    yield name, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _entries(inner, f"{name}.{key}" if depth else str(key), depth + 1)


def _read_pickles(file: BinaryIO, size: int) -> tuple[Any, dict[str, bytes]]:
    """Reads the format before 1.6: four pickles, one of the keys of storages, their numbers."""
    head = io.BytesIO(file.read(MOST_PICKLE + 1))
    try:
        if any(_Unpickler(head).load() != number for number in _OLD_HEADER):
            raise _Fault(_FOREIGN)
        system = _Unpickler(head).load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise _Fault(_BIG_ENDIAN)
        unpickler = _Unpickler(head)
        tree, keys = unpickler.load(), _Unpickler(head).load()
    finally:
        if head.tell() > MOST_PICKLE:
            raise _Fault(_LONG_PICKLE)
    file.seek(head.tell())
    data = {}
    for key in keys:
        if not isinstance(key, str) or key not in unpickler.storages:
            raise _Fault("holds numbers of no tensor")
        storage = unpickler.storages[key]
        (length,) = struct.unpack("<q", file.read(8))
        if length != storage.length or storage.nbytes > size - file.tell():
            raise _Fault(f"is damaged: storage {key[:_SHOWN]} should hold {storage.nbytes} bytes")
        data[key] = file.read(storage.nbytes)
    return tree, data


def _read_zip(file: BinaryIO, size: int) -> tuple[Any, dict[str, bytes]]:
    """Reads the zip file: a pickle, and a file with the numbers of each storage."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        sizes = {info.filename: info.file_size for info in infos}
        if any(x.compress_type != zipfile.ZIP_STORED or x.flag_bits & 1 for x in infos):
            raise _Fault("is compressed or encrypted, which torch.save never does")
        if sum(info.file_size for info in infos) > size:  # one region under several names
            raise _Fault("claims to hold more than its size")
        pickles = [name for name in sizes if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise _Fault("is a zip file, but not one of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        if sizes[pickles[0]] > MOST_PICKLE:
            raise _Fault(_LONG_PICKLE)
        if f"{folder}byteorder" in sizes and archive.read(f"{folder}byteorder") != b"little":
            raise _Fault(_BIG_ENDIAN)
        unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
        tree, data = unpickler.load(), {}
        for key, storage in unpickler.storages.items():
            name = f"{folder}data/{key}"
            if sizes.get(name, storage.nbytes) != storage.nbytes:
                held = f"{sizes[name]} bytes, and should hold {storage.nbytes}"
                raise _Fault(f"is damaged: storage {key[:_SHOWN]} holds {held}")
            if name in sizes:
                data[key] = archive.read(name)
    return tree, data


def write_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as a `state_dict` that `torch.load` reads, `weights_only` too."""
    kinds = {dtype: name for name, dtype in _STORAGES.items()}
    empty = b"ccollections\nOrderedDict\n)R"
    pickled = b"\x80\x02" + empty + b"("
    with zipfile.ZipFile(path, "w") as archive:

        def put(name: str, data: bytes) -> None:
            # ZipInfo's own date, so that the same arrays make the same file.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

        for n, (key, array) in enumerate(arrays.items()):
            value = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
            strides = tuple(step // value.itemsize for step in value.strides)
            pickled += _opcodes(key) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
            pickled += _opcodes("storage") + f"ctorch\n{kinds[value.dtype]}\n".encode()
            pickled += _opcodes(str(n), "cpu", value.size) + b"tQ"
            pickled += _opcodes(0, value.shape, strides, False) + empty + b"tR"
            put(f"data/{n}", value.tobytes())
        put("data.pkl", pickled + b"u.")
        put("byteorder", b"little")
        put("version", b"3\n")


def _opcodes(*values: Any) -> bytes:
    """Returns the pickled values without the beginning and the end of a pickle."""
    return b"".join(pickle.dumps(value, 2)[2:-1] for value in values)
