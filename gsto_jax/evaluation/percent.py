"""Scores as text, for tables and CSVs."""

import numpy as np


def percent(value: float) -> str:
    """Returns a share in percent for people; "-" for NaN."""
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def csv_number(value: float | None) -> str:
    """Returns a number for a CSV; empty where there is none, or it is NaN."""
    return "" if value is None or not np.isfinite(value) else f"{value:.6f}"
