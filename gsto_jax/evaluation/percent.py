"""Scores as text, for tables and CSV files."""

import numpy as np


def percent(value: float) -> str:
    """Formats a fraction as a percentage, such as "76.20"; "-" for NaN."""
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def csv_number(value: float | None) -> str:
    """Formats a number for a CSV file; empty for None and NaN."""
    return "" if value is None or not np.isfinite(value) else f"{value:.6f}"
