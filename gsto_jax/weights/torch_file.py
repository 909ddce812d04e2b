"""Reads and writes `torch.save` files without PyTorch, and without running any pickle.

Unpickling can call any function, so the reader accepts only the opcodes and names that tensors and
containers need. An `UnsupportedObject` stands for anything else that a pickle would construct.
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import jax.numpy as jnp
import numpy as np

from gsto_jax.errors import UserError

_MAX_PICKLE_BYTES = 2**24  # a pickle holds names and shapes, the tensor data lies outside it
_MAX_ENTRIES = 2**18  # the optimizer state of the largest network has about 10^4
_MAX_DEPTH = 8
_MAX_NAME_LENGTH = 1000
_MAX_DIMENSIONS = 16
_MAX_MESSAGE = 200  # characters of an error message, which quotes the file
_LEGACY_HEADER = (0x1950A86A20F9469CFC6C, 1001)  # magic number and version, one pickle each
_NOT_TORCH = "is not a torch.save file: use a .pth or a .safetensors file"
_BIG_ENDIAN = "contains big-endian data, which is not supported: save it on a little-endian machine"
_LONG_PICKLE = f"describes its tensors in more than {_MAX_PICKLE_BYTES} bytes"

_ReadStorage = Callable[[str, np.dtype[Any], int], np.ndarray]


class _InvalidFile(Exception):
    """The file is damaged or not supported; the message continues a sentence that names it."""


class UnsupportedObject:
    """Placeholder for an object of a class or function, `name`, that is not on the allow-list."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _ignore(self, *args: Any) -> "UnsupportedObject":
        return self

    __call__ = __setitem__ = append = extend = _ignore


class _Dict(dict[str | int, Any]):
    """A dictionary that refuses other keys: hashing nested tuples can take forever."""

    def __init__(self) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | int):
            raise _InvalidFile("has a dictionary with keys other than strings and integers")
        super().__setitem__(key, value)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Returns a view of a storage, as `torch._utils._rebuild_tensor_v2` does."""
    if (
        not isinstance(storage, np.ndarray)
        or any(type(n) is not int or n < 0 for n in (offset, *size, *stride))
        or not (type(size) is type(stride) is tuple)
        or not len(size) == len(stride) <= _MAX_DIMENSIONS
    ):
        raise _InvalidFile("describes an impossible tensor")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > storage.size or (0 not in size and last >= storage.size):
        raise _InvalidFile(f"describes a tensor of shape {size}, larger than its storage")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


_DTYPES = {
    f"{name}Storage": np.dtype(dtype)
    for name, dtype in {
        **{"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": jnp.bfloat16},
        **{"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"},
    }.items()
}
_ALLOWED_NAMES: dict[str, Any] = {
    **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
    "collections.OrderedDict": _Dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}
_ALLOWED_OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS "
    "SETITEM SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID "
    "REDUCE"
)
_OPCODE_METHODS = pickle._Unpickler.dispatch


def _refuse_opcode(unpickler: Any) -> None:
    raise _InvalidFile("has a pickle opcode that no tensor needs")


def _push_dict(unpickler: Any) -> None:
    unpickler.stack.append(_Dict())


def _drop_object_state(unpickler: Any) -> None:
    # It would set attributes; the one of a state_dict holds module versions.
    unpickler.stack.pop()


class _Unpickler(pickle._Unpickler):
    """Unpickler that accepts the listed opcodes and names only.

    It extends the Python implementation: the one in C cannot restrict opcodes, and allocates as
    much memory as a memo index asks for. `read_storage` returns a storage as a 1-D array.
    """

    dispatch: ClassVar = {
        **dict.fromkeys(_OPCODE_METHODS, _refuse_opcode),
        **{
            code: _OPCODE_METHODS[code]
            for name in _ALLOWED_OPCODES.split()
            for code in getattr(pickle, name)
        },
        pickle.EMPTY_DICT[0]: _push_dict,
        pickle.NEWOBJ[0]: _OPCODE_METHODS[pickle.REDUCE[0]],
        pickle.BUILD[0]: _drop_object_state,
    }

    def __init__(self, file: BinaryIO, read_storage: _ReadStorage | None = None) -> None:
        super().__init__(file)
        self.read_storage = read_storage
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        name = f"{module}.{name}"
        if name in _ALLOWED_NAMES:
            return _ALLOWED_NAMES[name]
        if name.startswith("torch.") and name.endswith("Storage"):
            raise _InvalidFile(f"contains {name}, an unsupported data type")
        return UnsupportedObject(name[:_MAX_MESSAGE])

    def persistent_load(self, pid: Any) -> np.ndarray:
        match pid:
            case ("storage", np.dtype() as dtype, str(key), str(), int(length), *view) if (
                self.read_storage and length >= 0 and view in ([], [None])
            ):
                if key not in self.storages:
                    self.storages[key] = self.read_storage(key, dtype, length)
                storage = self.storages[key]
                if (storage.dtype, storage.size) != (dtype, length):
                    raise _InvalidFile(f"describes storage {key} twice, inconsistently")
                return storage
        raise _InvalidFile("refers to external data that is not a tensor storage")


def read_torch_file(path: Path) -> dict[str, np.ndarray | UnsupportedObject]:
    """Reads the tensors of a `torch.save` file, either a zip file or the format before 1.6.

    Returns:
      Tensors and unsupported objects by the keys of nested dictionaries joined by dots, such as
      "state_dict.conv1.weight".

    Raises:
      UserError: The file is damaged, not a dictionary, or uses an unsupported data type.
      OSError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == b"PK\x03\x04":
                content = _read_zip(file, path.stat().st_size)
            elif start[:1] == b"\x80":
                content = _read_legacy(file, path.stat().st_size)
            else:
                raise _InvalidFile(_NOT_TORCH)
        if not isinstance(content, dict | UnsupportedObject):
            raise _InvalidFile(f"contains a {type(content).__name__} instead of a state_dict")
        values: dict[str, np.ndarray | UnsupportedObject] = {}
        # Counted, since a dictionary may hold itself.
        for count, (name, value) in enumerate(_flatten(content)):
            if count >= _MAX_ENTRIES:
                raise _InvalidFile(f"has more than {_MAX_ENTRIES} entries")
            if isinstance(value, np.ndarray | UnsupportedObject):
                if name in values:
                    raise _InvalidFile(f"has two tensors named {name}")
                values[name] = value
        return values
    except _InvalidFile as error:
        raise UserError(f"{path} {str(error)[:_MAX_MESSAGE]}") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # zipfile, pickle and NumPy raise many types on damage, and zipfile may quote the file.
        reason = (str(error) or type(error).__name__)[:_MAX_MESSAGE]
        raise UserError(f"{path} is damaged or truncated ({reason}): download it again") from None


def _flatten(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields nested dictionaries and their values with dotted names."""
    if depth > _MAX_DEPTH or len(name) > _MAX_NAME_LENGTH:
        raise _InvalidFile(f"nests dictionaries more than {_MAX_DEPTH} deep, or has endless names")
    yield name, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if depth else str(key), depth + 1)


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Reads the format before PyTorch 1.6: pickles of header, content and keys, then the data."""
    available = size

    def allocate(key: str, dtype: np.dtype[Any], length: int) -> np.ndarray:
        nonlocal available
        available -= length * dtype.itemsize
        if available < 0:
            raise _InvalidFile(f"is damaged: storage {key} is larger than the file")
        return np.empty(length, dtype)

    head = io.BytesIO(file.read(_MAX_PICKLE_BYTES + 1))
    try:
        if any(_Unpickler(head).load() != expected for expected in _LEGACY_HEADER):
            raise _InvalidFile(_NOT_TORCH)
        system = _Unpickler(head).load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise _InvalidFile(_BIG_ENDIAN)
        unpickler = _Unpickler(head, allocate)
        content, keys = unpickler.load(), _Unpickler(head).load()
    finally:
        if head.tell() > _MAX_PICKLE_BYTES:
            raise _InvalidFile(_LONG_PICKLE)
    file.seek(head.tell())
    storages = unpickler.storages
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise _InvalidFile("contains data that belongs to no tensor")
        storage = storages.pop(key)
        (length,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.nbytes)
        if length != storage.size or len(data) != storage.nbytes:
            raise _InvalidFile(f"is damaged: storage {key} must have {storage.nbytes} bytes")
        storage[:] = np.frombuffer(data, storage.dtype)
    if storages:
        raise _InvalidFile(f"lacks the data of storage {min(storages)}")
    return content


def _read_zip(file: BinaryIO, size: int) -> Any:
    """Reads a zip file with a pickle of the content and one member for each storage."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        sizes = {member.filename: member.file_size for member in members}
        if any(x.compress_type != zipfile.ZIP_STORED or x.flag_bits & 1 for x in members):
            raise _InvalidFile("is compressed or encrypted, which torch.save never does")
        if sum(member.file_size for member in members) > size:  # members may overlap
            raise _InvalidFile("declares more content than its size")
        pickles = [name for name in sizes if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise _InvalidFile("is a zip file, but not one of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        if sizes[pickles[0]] > _MAX_PICKLE_BYTES:
            raise _InvalidFile(_LONG_PICKLE)
        if f"{folder}byteorder" in sizes and archive.read(f"{folder}byteorder") != b"little":
            raise _InvalidFile(_BIG_ENDIAN)

        def read_storage(key: str, dtype: np.dtype[Any], length: int) -> np.ndarray:
            name, expected = f"{folder}data/{key}", length * dtype.itemsize
            if name not in sizes:
                raise _InvalidFile(f"lacks the data of storage {key}")
            if sizes[name] != expected:
                actual = f"{sizes[name]} bytes instead of {expected}"
                raise _InvalidFile(f"is damaged: storage {key} has {actual}")
            return np.frombuffer(archive.read(name), dtype)

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), read_storage).load()


def write_torch_file(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a `state_dict` that `torch.load(weights_only=True)` reads."""
    storage_types = {dtype: name for name, dtype in _DTYPES.items()}
    empty_dict = b"ccollections\nOrderedDict\n)R"
    pickled = b"\x80\x02" + empty_dict + b"("
    with zipfile.ZipFile(path, "w") as archive:

        def write_member(name: str, data: bytes) -> None:
            # With ZipInfo's default date, equal arrays give equal files.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

        for n, (key, array) in enumerate(arrays.items()):
            value = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
            strides = tuple(step // value.itemsize for step in value.strides)
            pickled += _pickle_values(key) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
            pickled += (
                _pickle_values("storage") + f"ctorch\n{storage_types[value.dtype]}\n".encode()
            )
            pickled += _pickle_values(str(n), "cpu", value.size) + b"tQ"
            pickled += _pickle_values(0, value.shape, strides, False) + empty_dict + b"tR"
            write_member(f"data/{n}", value.tobytes())
        write_member("data.pkl", pickled + b"u.")
        write_member("byteorder", b"little")
        write_member("version", b"3\n")


def _pickle_values(*values: Any) -> bytes:
    """Pickles values without the header and the end of a pickle."""
    return b"".join(pickle.dumps(value, 2)[2:-1] for value in values)
