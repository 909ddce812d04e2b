"""The scaling benchmark without its compiler: rows, times, efficiency, its CSV."""

from pathlib import Path

import pytest

from benchmarks import scaling_plan, scaling_report
from benchmarks.scaling_plan import measure_row
from benchmarks.scaling_report import (
    ROWS,
    ScalingRow,
    efficiency,
    images_per_second_per_chip,
    plot,
    table,
)
from gsto_jax.plan.hlo import HLOProgram

MEASUREMENTS = {
    "fits": "yes",
    "peak_memory_GiB": "1.5",
    "accessed_GB": "16.38",  # 20 ms of v5e's memory
    "xla_Mcycles": "30",
    "kernel_Mcycles": "15",  # 30 ms at 1.5 GHz with the others
    "GFLOP": "100",
    "kernel_calls": "3",
    "collectives": "all-reduce 100 9000000",
    "compile_seconds": "60",
}


def result(name, **changes):
    row = ROWS[name]
    about = {"row": name} | {k: str(v) for k, v in row._asdict().items()}
    return dict.fromkeys(scaling_report.FIELDS, "") | about | MEASUREMENTS | changes


def too_large(name):
    return result(
        name, fits="no", error="the train step does not fit", peak_memory_GiB="17.0", accessed_GB=""
    )


def test_rows():
    assert ROWS["w18s-strong-64-groups"] == ScalingRow("w18s", "strong", 64, 8, "groups")
    assert [x.images_per_chip for x in ROWS.values() if x.name.startswith("w48-weak")] == [2] * 4
    assert {x.chips for x in ROWS.values() if x.network == "w48"} == {4, 256}
    assert {x.chips * x.images_per_chip for x in ROWS.values() if x.series == "strong"} == {512}
    assert sum(x.network == "w18s" for x in ROWS.values()) == 2 * 2 * 4
    assert [ROWS[f"w18s-strong-{n}"].grad_accum_steps for n in (4, 16, 64, 256)] == [16, 4, 1, 1]
    assert ROWS["w18s-strong-256"][2:] == ROWS["w18s-weak-256"][2:]


def test_collectives_round_trip():
    kinds = {"all-reduce": (191, 143_400_000), "all-gather": (2, 80)}
    assert scaling_report.parse_collectives(scaling_report.format_collectives(kinds)) == kinds
    assert scaling_report.parse_collectives("") == {}


def test_times_of_a_row():
    times = scaling_report.step_time(result("w18s-weak-4"))
    assert times.memory == pytest.approx(0.020)
    assert times.compute == pytest.approx(0.030)
    assert times.collectives == pytest.approx(13.5e6 / 90e9 + 400e-6)
    assert images_per_second_per_chip(result("w18s-weak-4"), overlap=True) == pytest.approx(
        2 / 0.030
    )
    assert images_per_second_per_chip(result("w18s-weak-4"), overlap=False) == pytest.approx(
        2 / 0.03055
    )
    assert scaling_report.step_time(too_large("w18s-weak-4")) is None


def test_efficiency_is_to_the_fewest_chips_that_fit():
    rows = [
        result("w18s-weak-4"),
        result("w18s-weak-16", xla_Mcycles="45"),  # 40 ms
        result("w18s-weak-4-groups", xla_Mcycles="1"),  # another series
        too_large("w18s-strong-16"),
        result("w18s-strong-64", xla_Mcycles="105"),  # 80 ms of 8 images
        result("w18s-strong-256"),  # 30 ms of 2
    ]
    assert efficiency(rows[0], rows, True) == (1.0, 4)
    assert efficiency(rows[1], rows, True) == pytest.approx((0.75, 4))
    # collectives over 4x4: 2 x 15/16 x 9 MB over two links, 2 x 6 hops each
    most = 0.040 + 16.875e6 / 90e9 + 1200e-6
    assert efficiency(rows[1], rows, False) == pytest.approx((0.03055 / most, 4))
    assert efficiency(rows[3], rows, True) is None
    assert efficiency(rows[5], rows, True) == pytest.approx(((2 / 0.030) / (8 / 0.080), 64))


def test_a_step_that_two_rows_share_is_compiled_once(monkeypatch):
    compiled = []

    def compile_row(row):
        compiled.append(row.name)
        return dict(MEASUREMENTS)

    monkeypatch.setattr(scaling_plan, "compile_row", compile_row)
    rows = [result("w18s-weak-256"), too_large("w18s-strong-16")]
    shared = measure_row(ROWS["w18s-strong-256"], rows)
    assert shared["row"] == "w18s-strong-256" and shared["series"] == "strong"
    assert shared["accessed_GB"] == "16.38"
    assert compiled == []
    assert measure_row(ROWS["w18s-strong-64"], rows)["fits"] == "yes"
    assert compiled == ["w18s-strong-64"]


def program(shapes, collectives=1):
    """Returns HLO that adds arrays of these shapes, with a number of 16-byte all-reduces."""
    lines = ["  %few = f32[4] parameter(9)"]
    lines += [f"  %a{n} = f32[{shape}] parameter({n})" for n, shape in enumerate(shapes)]
    lines += [f"  %b{n} = f32[{shape}] add(%a{n}, %a{n})" for n, shape in enumerate(shapes)]
    lines += [f"  %c{n} = f32[4] all-reduce(%few), replica_groups={{}}" for n in range(collectives)]
    lines[-1] = lines[-1].replace("  %", "  ROOT %")
    return HLOProgram.parse("\n".join(["ENTRY %main () -> f32[4] {", *lines, "}"]))


def test_a_program_that_differs_in_chips_alone_is_not_compiled_again(monkeypatch):
    compiled = {
        "w18s-weak-4": program([9000, 990]),
        "w18s-weak-16": program([9000, 900, 90]),
        "w18s-weak-64": program([9000, 990], collectives=2),
        "w18s-weak-256": program([9000, 991]),
    }
    compiled_rows = []

    def optimized_program(row):
        compiled_rows.append(row.name)
        return compiled[row.name]

    monkeypatch.setattr(
        scaling_plan, "compile_row", lambda row: MEASUREMENTS | {"accessed_GB": "7"}
    )
    monkeypatch.setattr(scaling_plan, "optimized_program", optimized_program)
    rows = [
        result("w18s-weak-4", accessed_GB="5"),
        result("w18s-weak-16"),
        result("w18s-weak-4-groups"),
        too_large("w18s-weak-256"),
    ]
    # The next one, 16 chips, is too far apart, and 256 do not fit.
    copied = measure_row(ROWS["w18s-weak-64"], rows)
    assert compiled_rows == ["w18s-weak-64", "w18s-weak-16", "w18s-weak-4"]
    assert (copied["row"], copied["chips"], copied["accessed_GB"]) == ("w18s-weak-64", 64, "5")
    assert copied["collectives"] == "all-reduce 2 32"
    assert copied["copied_from"] == "w18s-weak-4" and 0 < float(copied["difference"]) < 0.001
    assert "w18s-weak-4, 0.0" in table([rows[0], {k: str(v) for k, v in copied.items()}])
    assert measure_row(ROWS["w18s-weak-64"], rows, full=True)["accessed_GB"] == "7"
    # What is only like another stands for none, and what does not fit is like none.
    for others in ([{k: str(v) for k, v in copied.items()}], [too_large("w18s-weak-256")]):
        compiled_rows.clear()
        assert measure_row(ROWS["w18s-weak-16"], others)["accessed_GB"] == "7" and not compiled_rows


COMPILER = """
import os, sys, time
if "{ends}":
    sys.exit()
folder = os.environ["XLA_FLAGS"].split("xla_dump_to=")[1].split()[0]
for end in ("", "_after_buffer_assignment"):
    with open(f"{{folder}}/module_0.cl_1.after_optimizations{{end}}.txt", "w") as file:
        file.write("ENTRY %main () -> f32[4] {{\\n  ROOT %a = f32[4] parameter(0)\\n}}\\n")
open("{left}", "w").write(folder)
time.sleep(600)
"""


@pytest.mark.parametrize("ends", ["", "yes"])
def test_a_compiler_is_stopped_where_its_program_is_optimized(tmp_path, monkeypatch, ends):
    fake, left = tmp_path / "compiler.py", tmp_path / "left"
    fake.write_text(COMPILER.format(ends=ends, left=left))
    monkeypatch.setattr(scaling_plan, "__file__", str(fake))
    program = scaling_plan.optimized_program(ROWS["w18s-weak-4"])
    if ends:
        assert program is None
    else:
        assert [x.name for x, _ in program.executions()] == ["a"]
        assert not Path(left.read_text()).exists()


def test_the_csv_keeps_other_rows(tmp_path):
    path = tmp_path / "rows.csv"
    for row in (result("w18s-weak-16"), too_large("w18s-strong-16"), result("w18s-weak-4")):
        scaling_report.save_result(path, row)
    scaling_report.save_result(path, result("w18s-weak-16", accessed_GB="1"))
    lines = path.read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [
        "w18s-weak-4",
        "w18s-weak-16",
        "w18s-strong-16",
    ]
    assert scaling_report.read_results(path)[1]["accessed_GB"] == "1"


def test_table_and_plot(tmp_path):
    rows = [result("w18s-weak-4"), too_large("w18s-weak-16"), result("w18s-strong-16")]
    head, rule, *lines = table(rows).splitlines()
    assert len({line.count("|") for line in (head, rule, *lines)}) == 1
    assert lines[0] == (
        "| w18s-weak-4 | 4 | 2 | 1.5 | 16.38 | 45.00 | 100 all-reduce | 9.0 | 30.0 | 0.55 | "
        "30.0 to 30.5 | 262 to 267 | 100 to 100 | 4 chips |  |"
    )
    assert "does not fit: the train step does not fit" in lines[1]
    assert lines[2].startswith("| w18s-strong-16 | 16 | 4 x 8 | 1.5 | 16.38 |")
    plot(rows, tmp_path / "plots" / "scaling.png")
    assert (tmp_path / "plots" / "scaling.png").read_bytes().startswith(b"\x89PNG")
