"""Fuzz targets of weight files."""

import io
import json
import pickle
import random
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.fuzz_targets.mutation import Mutate, Target, check_message, mutate, mutated_json

_OPCODES = (
    *b"( ) } ] N 0 2 t u s a e R b Q \x85 \x86 \x87".split(),
    *(b"q\x00", b"h\x00", b"h\x09", b"K\x05", b"J\xff\xff\xff\xff", b"M\x10\x27"),
    *(b"X\x01\x00\x00\x00a", b"X\xff\xff\xff\x7f", b"cos\nsystem\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"ctorch\nFloatStorage\n", b"\x8a\xff" + b"\x7f" * 255, b"\x94", b"\x93"),
    *(b"cbuiltins\neval\n", b"G" + bytes(8), b"i", b"o", b"\x81", b"P1\n", b"I1\n"),
)


def _state_dict() -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "bn.num_batches_tracked": np.array(7),
        "half": rng.standard_normal((2, 5)).astype(np.float16),
    }


def _weights_target(suffix: str, mutate_structure: Mutate) -> Target:
    from gsto_jax.weights.files import WEIGHT_WRITERS

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        WEIGHT_WRITERS[suffix](path, _state_dict())
        seed = path.read_bytes()

    def parse(data: bytes, folder: Path) -> None:
        from gsto_jax.weights.files import read_state_dict

        path = folder / f"weights{suffix}"
        path.write_bytes(data)
        try:
            state = read_state_dict(path)
        except ValueError as error:
            check_message(error, path.name)
            raise
        for value in state.values():
            value.sum()

    return Target.from_seeds([seed], mutate_structure, parse)


def safetensors_target() -> Target:
    """Safetensors files with mutated headers: shapes, dtypes and offsets."""

    def mutate_structure(seed: bytes, rng: random.Random) -> bytes:
        (length,) = struct.unpack_from("<Q", seed)
        text = mutated_json(json.loads(seed[8 : 8 + length]), rng)
        declared = rng.choice(
            (len(text),) * 8 + (0, 2**40, 2**64 - 1, len(text) + 1, len(text) // 2)
        )
        return struct.pack("<Q", declared) + text + seed[8 + length :]

    return _weights_target(".safetensors", mutate_structure)


def torch_target() -> Target:
    """Files of `torch.save` with mutated pickles and zip members, also in the format before 1.6."""

    def mutate_structure(seed: bytes, rng: random.Random) -> bytes:
        archive = zipfile.ZipFile(io.BytesIO(seed))
        files = {name: archive.read(name) for name in archive.namelist()}
        key = next(name for name in files if name.endswith("data.pkl"))
        if rng.random() < 0.3:
            return _encode_legacy(files, key, rng)
        match rng.randrange(6):
            case 0 | 1 | 2:
                files[key] = mutate(files[key], rng)
            case 3:
                body = b"".join(rng.choice(_OPCODES) for _ in range(rng.randrange(1, 40)))
                files[key] = b"\x80\x02" + body + b"."
            case 4:
                files[rng.choice(list(files))] = rng.randbytes(rng.randrange(50))
            case _:
                files["archive/../../escape"] = b"x"
        out = io.BytesIO()
        compression = rng.choice((zipfile.ZIP_STORED,) * 5 + (zipfile.ZIP_DEFLATED,))
        with zipfile.ZipFile(out, "w", compression) as archive_out:
            for name, content in files.items():
                archive_out.writestr(name, content)
        data = out.getvalue()
        return mutate(data, rng) if rng.random() < 0.1 else data

    return _weights_target(".pth", mutate_structure)


def _encode_legacy(files: Mapping[str, bytes], pickled: str, rng: random.Random) -> bytes:
    """Returns a state dict in the format before PyTorch 1.6, with one record or all mutated."""
    data = {name.rpartition("/")[2]: files[name] for name in files if "/data/" in name}
    parts = [
        *(pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)),
        pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2),
        files[pickled],
        pickle.dumps(list(data), 2),
        *(
            struct.pack("<q", array.size) + numbers
            for array, numbers in zip(_state_dict().values(), data.values(), strict=True)
        ),
    ]
    n = rng.randrange(len(parts) + 1)
    if n == len(parts):
        return mutate(b"".join(parts), rng)
    parts[n] = mutate(parts[n], rng)
    return b"".join(parts)
