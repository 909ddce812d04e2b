"""PyTorch's files of tensors, read and written by NumPy alone.

`torch.save` pickles, and a pickle can call any function there is. This reader calls none: it knows
the few pickle opcodes and the few names that tensors need. Whatever else a pickle would make by a
call is not made: an `Unread` stands in its place.
"""

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gsto_jax.errors import UserError
from gsto_jax.weights.dtypes import DTYPES

_STORAGES = {
    f"torch.{name}Storage": DTYPES[kind]
    for kind, name in {
        "F64": "Double",
        "F32": "Float",
        "F16": "Half",
        "BF16": "BFloat16",
        "I64": "Long",
        "I32": "Int",
        "I16": "Short",
        "I8": "Char",
        "U8": "Byte",
        "BOOL": "Bool",
    }.items()
}
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_NAMES = {*_STORAGES, _DICT, _TENSOR, _PARAMETER}
_VALUES = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_DAMAGE = (
    *(zipfile.BadZipFile, EOFError, ValueError, IndexError, KeyError, TypeError, struct.error),
    *(OverflowError, NotImplementedError),  # of numbers that NumPy and zipfile do not take
    *(StopIteration, RuntimeError, AttributeError),
)
_DIMENSIONS = 16
MOST_PICKLE = 2**24
"""Bytes of a pickle, which holds names and shapes alone: more than any network here needs."""
_OLD_MAGIC, _OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
"""What a file of the format before PyTorch 1.6 begins with, each as a pickle of its own."""
_FOREIGN = "is no file of torch.save: give a .pth or a .safetensors file"
_SHOWN = 100  # letters of a name out of the file


class _Name(str):
    """A name that a pickle asks for. It stays a name."""


class Unread:
    """Stands for an object that only a call could make, such as the options of a training run.

    Attributes:
      name: of the function or class that the pickle asks for.
    """

    def __init__(self, name: str) -> None:
        self.name = name


class _Fault(Exception):
    """What is wrong with the file."""


class _Mark:
    """Where a list of items begins on the stack."""


_MARK = _Mark()


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote: NumPy arrays in plain dicts, lists and tuples.

    Args:
      path: a zip file, as PyTorch writes it since 1.6, or a file of pickles, as it did before.

    Returns:
      Arrays and plain values, and an `Unread` for everything else.

    Raises:
      UserError: it holds tensors of an unknown kind, or is damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start[:1] == b"\x80":
                return _Pickles(file, path.stat().st_size).read()
            if start != b"PK\x03\x04":
                raise _Fault(_FOREIGN)
            with zipfile.ZipFile(file) as archive:
                return _Archive(archive, path.stat().st_size).read()
    except _Fault as fault:
        raise UserError(f"{path} {fault}") from None
    except _DAMAGE as error:
        # zipfile may quote all of the file.
        reason = (str(error) or type(error).__name__)[:_SHOWN]
        raise UserError(f"{path} is damaged or cut off ({reason}): get it again") from None


class _Pickles:
    """The format before 1.6: four pickles, a fifth with the keys of storages, and their numbers."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._wanted: dict[str, tuple[np.dtype[Any], int]] = {}
        self._storages: dict[str, np.ndarray] = {}

    def read(self) -> Any:
        head = io.BytesIO(self._file.read(MOST_PICKLE + 1))
        try:
            start, keys = self._describe(head)
        except ValueError:
            if head.tell() > MOST_PICKLE:
                raise _Fault(f"describes its tensors in more than {MOST_PICKLE} bytes") from None
            raise
        self._file.seek(head.tell())
        for key in keys:
            self._fill(key)
        # The numbers come after the tensors that they are of, so those are interpreted twice.
        head.seek(start)
        return _interpret(head, self._storage)

    def _describe(self, head: BinaryIO) -> tuple[int, list[Any]]:
        """Where the tensors are described, and the keys of storages as their numbers come."""
        heads = (_interpret(head, _no_storage) == wanted for wanted in (_OLD_MAGIC, _OLD_VERSION))
        if not all(heads):
            raise _Fault(_FOREIGN)
        match _interpret(head, _no_storage):
            case {"little_endian": True}:
                pass
            case _:
                raise _Fault("holds big-endian numbers, which are not read here")
        start = head.tell()
        _interpret(head, self._note)
        return start, _of(list, _interpret(head, _no_storage))

    def _note(self, identity: Any) -> np.ndarray:
        """Numbers that take no memory, in place of those that the file holds further on."""
        key, dtype, count = _described(identity)
        if self._wanted.setdefault(key, (dtype, count)) != (dtype, count):
            raise _Fault(f"describes storage {key} in two ways")
        return np.broadcast_to(np.zeros((), dtype), count)

    def _fill(self, key: Any) -> None:
        if key not in self._wanted:
            raise _Fault(f"holds numbers of no tensor: {str(key)[:_SHOWN]}")
        dtype, count = self._wanted[key]
        (held,) = struct.unpack("<q", self._file.read(8))
        size = count * dtype.itemsize
        if held != count or size > self._size - self._file.tell():
            raise _Fault(f"is damaged: storage {key} should hold {size} bytes")
        self._storages[key] = np.frombuffer(self._file.read(size), dtype)

    def _storage(self, identity: Any) -> np.ndarray:
        key, *_ = _described(identity)
        if key not in self._storages:
            raise _Fault(f"lacks storage {key}, the numbers of a tensor")
        return self._storages[key]


def _no_storage(identity: Any) -> np.ndarray:
    raise _Fault("refers to a storage where none can be")


def _described(identity: Any) -> tuple[str, np.dtype[Any], int]:
    """Key, dtype and length of a storage."""
    match identity:
        case ("storage", _Name() as kind, str(key), str(), int(count), *view) if (
            kind in _STORAGES and count >= 0 and view in ([], [None])
        ):
            return key, _STORAGES[kind], count
        case _:
            raise _Fault("refers to something that is no storage of numbers")


class _Archive:
    """The files in the zip: the pickle, and the numbers of each storage."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        self._storages: dict[str, np.ndarray] = {}
        infos = archive.infolist()
        if any(x.compress_type != zipfile.ZIP_STORED or x.flag_bits & 1 for x in infos):
            raise _Fault("is compressed or encrypted, which torch.save never does")
        if sum(x.file_size for x in infos) > size:  # one part of the file under several names
            raise _Fault("claims to hold more than its size")
        pickles = [x.filename for x in infos if x.filename.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise _Fault("is a zip file, but not one of torch.save")
        self._folder = pickles[0].removesuffix("data.pkl")
        if archive.getinfo(pickles[0]).file_size > MOST_PICKLE:
            raise _Fault(f"describes its tensors in more than {MOST_PICKLE} bytes")
        order = self._folder + "byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise _Fault("holds big-endian numbers, which are not read here")

    def read(self) -> Any:
        return _interpret(self._archive.read(self._folder + "data.pkl"), self._storage)

    def _storage(self, identity: Any) -> np.ndarray:
        key, dtype, count = _described(identity)
        name = f"{self._folder}data/{key}"
        if key not in self._storages:
            if name not in self._archive.namelist():
                raise _Fault(f"lacks {name}, the numbers of a tensor")
            held, wanted = self._archive.getinfo(name).file_size, count * dtype.itemsize
            if held != wanted:
                raise _Fault(f"is damaged: {name} holds {held} bytes, and should hold {wanted}")
            self._storages[key] = np.frombuffer(self._archive.read(name), dtype)
        storage = self._storages[key]
        if storage.dtype != dtype or storage.size != count:
            raise _Fault(f"describes {name} in two ways")
        return storage


def _interpret(data: bytes | BinaryIO, storage: Callable[[Any], np.ndarray]) -> Any:
    """Runs the opcodes of a pickle that make tensors and plain values; see the module."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def items() -> list[Any]:
        at = next(n for n in range(len(stack) - 1, -1, -1) if stack[n] is _MARK)
        found = stack[at + 1 :]
        del stack[at:]
        return found

    arg: Any
    for opcode, arg, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            break
        if name in _VALUES:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[arg] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name == "TUPLE":
            stack.append(tuple(items()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            added = items() if name == "APPENDS" else [stack.pop()]
            if not isinstance(stack[-1], Unread):
                _of(list, stack[-1]).extend(added)
        elif name in ("SETITEM", "SETITEMS"):
            added = items() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            for key, value in zip(added[::2], added[1::2], strict=True):
                if not isinstance(key, str | int):
                    raise _Fault("has a dictionary whose keys are no names")
                if not isinstance(stack[-1], Unread):
                    _of(dict, stack[-1])[key] = value
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            # `arg` holds module and name with a space between
            asked = arg.replace(" ", ".", 1) if name == "GLOBAL" else ".".join(_pop(stack, 2))
            if asked.startswith("torch.") and asked.endswith("Storage") and asked not in _NAMES:
                raise _Fault(f"asks for {asked[:_SHOWN]}, a kind of numbers that is not read here")
            stack.append(_Name(asked) if asked in _NAMES else Unread(asked[:_SHOWN]))
        elif name == "BINPERSID":
            stack.append(storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            function, args = _pop(stack, 2)
            stack.append(function if isinstance(function, Unread) else _call(function, args))
        elif name == "BUILD":  # the versions of modules, which a state_dict has as an attribute
            stack.pop()
            if not isinstance(stack[-1], Unread):
                _of(dict, stack[-1])
        else:
            raise _Fault(f"has the pickle opcode {name}, which no tensor needs")
    (value,) = stack
    return value


def _pop(stack: list[Any], count: int) -> list[Any]:
    found = stack[-count:]
    del stack[-count:]
    return found


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise _Fault(f"is damaged: something else stands where a {kind.__name__} should")
    return value


def _call(function: Any, args: Any) -> Any:
    """What the call of one of the three names in `_NAMES` that can be called gives."""
    match _of(_Name, function), _of(tuple, args):
        case (str(name), ()) if name == _DICT:
            return {}
        case (str(name), (np.ndarray() as data, *_)) if name == _PARAMETER:
            return data
        case (str(name), (np.ndarray() as data, int(offset), tuple(size), tuple(stride), *_)) if (
            name == _TENSOR
        ):
            return _tensor(data, offset, size, stride)
        case _:
            raise _Fault(f"calls {function} in a way that makes no tensor")


def _tensor(
    data: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> np.ndarray:
    numbers = (offset, *size, *stride)
    if any(not isinstance(n, int) or n < 0 for n in numbers) or len(size) != len(stride):
        raise _Fault("describes a tensor that cannot be")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (
        len(size) > _DIMENSIONS
        or math.prod(size) > data.size
        or (0 not in size) > (last < data.size)
    ):
        raise _Fault(f"describes a tensor of shape {size} that is larger than its storage")
    if 0 in size:
        return np.zeros(size, data.dtype)
    steps = tuple(step * data.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(data[offset:], size, steps, writeable=False)


def write_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as a `state_dict` that `torch.load` reads, `weights_only` too."""
    kinds = {dtype: name.rpartition(".")[2] for name, dtype in _STORAGES.items()}
    empty = b"ccollections\nOrderedDict\n)R"
    parts = [b"\x80\x02", empty, b"("]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for n, (key, array) in enumerate(arrays.items()):
            value = np.ascontiguousarray(array).reshape(array.shape)
            dtype = value.dtype.newbyteorder("<")
            kind = kinds[dtype].encode()
            storage = [b"(", _text("storage"), b"ctorch\n" + kind + b"\n", _text(str(n))]
            storage += [_text("cpu"), _integer(value.size), b"tQ"]
            strides = [step // value.itemsize for step in value.strides]
            parts += [_text(key), b"ctorch._utils\n_rebuild_tensor_v2\n(", *storage, _integer(0)]
            parts += [_integers(value.shape), _integers(strides), b"\x89", empty, b"tR"]
            _put(archive, f"data/{n}", value.astype(dtype, copy=False).tobytes())
        _put(archive, "data.pkl", b"".join([*parts, b"u."]))
        _put(archive, "byteorder", b"little")
        _put(archive, "version", b"3\n")


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # ZipInfo's own date, so that the same arrays make the same file.
    archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _integers(values: Any) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
