"""The modes of `main.py`: `modes/NAME.py` runs `--mode=NAME`, and `registry.py` lists them all.

Only this package imports the library, the data pipelines and the configurations together.
"""
