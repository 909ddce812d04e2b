"""Config of a tiny classification task."""

from tests.gsto_jax.small_task import values


def class_values(**model):
    plain = values(head="cls", gtm=("none",) * 3, **model)
    plain["task"] = "classification"
    plain["data"] |= {"source": "class_folders", "classes": ("a", "b", "c")}
    return plain
