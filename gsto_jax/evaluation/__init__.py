"""Evaluation shared by all tasks: the loop, the results folder and PNGs."""
