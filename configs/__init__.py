"""Configs of the experiments: `get_config(arg)` of each file returns all options."""
