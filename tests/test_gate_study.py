"""Verdicts in the tables of the gate study."""

import re

from benchmarks.gate_study_report import fill_page

PAGE = "".join(
    f"<!-- {name} -->\n<!-- end -->\n"
    for name in (
        *("status", "cause", "success", "not below", "explored", "claims", "rows", "rates"),
        "length",
    )
)


def run(row, seed, points, rate=0.1):
    """Returns a run whose mean IoU is 50 % and some points, which differ a little by seed."""
    score = 50 + points + 0.1 * (seed % 2)
    values = {"row": row, "steps": 1600, "learning_rate": rate, "seed": seed, "seconds": 60}
    return {
        **{name: str(value) for name, value in values.items()},
        "mean_iou": str(score / 100),
        "devices": "cpu",
        "versions": "jax=1",
    }


def lines_of(tmp_path, runs):
    page = tmp_path / "gates.md"
    page.write_text(PAGE)
    fill_page(page, runs)
    cells = [re.split(r" ?\| ?", line)[1:-1] for line in page.read_text().splitlines()]
    return {line[0]: line[1:] for line in cells if line}


def test_verdicts(tmp_path):
    points = {"GFM + GTM, no self gate": -0.9, "GFM + GTM, residual": -1.2, "w/ sup": 0}
    points |= {"GFM + GTM, no self gate, open": 2, "GFM": 1, "HRNetV2": 0}
    runs = [run(row, seed, x) for seed in range(8) for row, x in points.items()]
    partial = lines_of(tmp_path, runs[:-6])
    assert partial["N1"][-2:] == ["-0.9 to -0.9", "-"]
    runs += [
        run(row, seed, x, rate)
        for seed in range(8)
        for row, rate, x in (
            *(("GFM", 0.05, 0), ("GFM", 0.2, 0)),
            *(("HRNetV2", 0.05, 3), ("HRNetV2", 0.2, 0)),
        )
    ]
    lines = lines_of(tmp_path, runs)
    assert lines["E3"][1:4] == ["GFM + GTM", "0", "-"], "without the row"
    assert [lines[name][-1] for name in ("N1", "N2", "N3")] == ["yes", "yes", "no"]
    assert lines["H6"][3] == "+1.0" and lines["H6"][-1] == "-2.0"
    assert lines["H1"][-1] == "-" and "S1" in lines
    by_rate = ["-3.0 (-3.0 to -3.0)", "+1.0 (+1.0 to +1.0)", "+0.0 (+0.0 to +0.0)"]
    assert lines["H6: GFM - HRNetV2"] == [by_rate[1], *["not measured"] * 2], "the lengths are last"
    assert " | ".join(by_rate) in (tmp_path / "gates.md").read_text()
