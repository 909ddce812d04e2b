"""Fuzz target of the command line."""

import io
import json
import random
import sys
from contextlib import redirect_stderr
from pathlib import Path

from benchmarks.fuzz_targets.mutation import Target, mutate

ROOT = Path(__file__).parents[2]
VALUES = (
    f"0|1|-1|3|1e999|nan|-inf|inf|True|None||abc|''|()|(1,)|(1,2)|(0,0)|(-1,-1)|(1,2,3,4)|"
    f"('a','b')|((1,2),(3,4))|(None,)|(nan,1)|[1]|{{'a':1}}|{'9' * 400}|{'9' * 5000}|1.5|"
    f"(((((((|('a',|é|\0x|__import__('os').getpid()|lambda: 0|0x10|1_0|1,2|..|/|b'x'|(1e400,)|"
    f"supervised|ohem|adam|pose|folder|tfds|mini|bfloat16|float64|ppm"
).split("|")
"""Values of overrides."""
ARGUMENTS = (
    *("baseline", "batch=0", "batch=7", "ms", "slide", "runlocal", "batch=", "x", "classes=60", ""),
)
"""Arguments after the colon of --config."""


def config_target() -> Target:
    """Config files and overrides on the command line."""
    import modes.run_setup  # noqa: F401  once, and not in each process
    from configs import base, loading

    names = loading.names(base.get_config())
    files = sorted(path.stem for path in (ROOT / "configs").glob("*_*.py"))

    def generate(rng: random.Random) -> bytes:
        name = rng.choice((*files, "quickstart", "quickstart", "base", "nowhere"))
        argv = [f"--config=configs/{name}.py{rng.choice(('', '', f':{rng.choice(ARGUMENTS)}'))}"]
        for _ in range(rng.randrange(1, 5)):
            option = rng.choice(names)
            if rng.random() < 0.1:
                option = mutate(option.encode(), rng).decode("latin-1")
            argv.append(f"--config.{option}={rng.choice(VALUES)}")
        return json.dumps(argv).encode()

    def parse(data: bytes, folder: Path) -> None:
        from absl import flags

        from gsto_jax.errors import UserError
        from gsto_jax.segmentation.protocol import protocol_from_config
        from modes import command_line
        from modes.run_setup import parse_config

        sys.argv = ["main.py", *json.loads(data)]
        stderr, defined_before = io.StringIO(), set(flags.FLAGS)
        try:
            try:
                with redirect_stderr(stderr):
                    command_line.parse(sys.argv)
            except SystemExit as end:
                message = stderr.getvalue()
                if end.code != 2 or not message.startswith("error: ") or message.count("\n") > 1:
                    raise AssertionError(f"exited with {end.code}: {message!r}") from None
                raise UserError(message) from None
            _, _, values = parse_config(flags.FLAGS.config)
            protocol_from_config(values)
        finally:  # resets the flags for the next input
            for name in set(flags.FLAGS) - defined_before:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()

    return Target(generate, parse)
