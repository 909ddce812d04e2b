"""Types shared by all modules, and the axis letters of array annotations.

`jaxtyping` annotations and docstrings give the axes of an array by these letters:

| letter | axis |
|---|---|
| `b` | batch |
| `h w` | height and width of a map; `H W` those of the labels, where the map is smaller |
| `c` | channels |
| `k` | classes |
| `j` | joints |
| `n` | gates of one map |
| `s` | scales |

Names of arguments and attributes, such as `features`, are their values. `_` is an axis without a
name: the branches of a network are `b _ _ _`, since each has its own size. Annotations are not
checked at run time.
"""

from typing import Any

Record = dict[str, Any]
"""A JSON object."""
Size = tuple[int, int]
"""Height and width in pixels."""
LeafPath = tuple[str, ...]
"""Names from the root of a tree of arrays to a leaf."""
