"""Computes in a forked process, for benchmarks that fork."""

import json
import os
import traceback
from collections.abc import Callable
from typing import Any


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """Returns the JSON-serializable result of a function, computed in a forked process.

    A process that forks must start neither devices nor the threads of a bucket's client.
    """
    read, write = os.pipe()
    if not (process := os.fork()):
        try:
            os.close(read)
            with os.fdopen(write, "w") as answer:
                json.dump(function(*args), answer)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        result = file.read()
    os.waitpid(process, 0)
    if not result:
        raise RuntimeError(f"{function.__name__} failed")
    return json.loads(result)
