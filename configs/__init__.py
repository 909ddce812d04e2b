"""Configurations: each file is one experiment, `get_config(arg)` its settings."""
