"""The logic of the speed benchmarks: chosen cells, ratios, merged rows, categories, limits."""

import subprocess
import sys
import time

import pytest

from benchmarks import cpu_speed, gpu_profile, gpu_session, gpu_speed, speed_table
from benchmarks.cpu_speed import COMPILED, EAGER, JAX, Cell
from benchmarks.csv_rows import merge_rows
from tests.documents import ROOT

SMALL = Cell("inference", (512, 1024), 1)
LARGE = Cell("train", (512, 1024), 16)


def test_cells_that_fit_time_and_memory_are_chosen_by_size():
    options = {"repeats": 5, "min_seconds": 1}
    chosen, left_out = cpu_speed.choose_cells([LARGE, SMALL], memory=1000, minutes=1000, **options)
    assert (chosen, left_out) == ([SMALL, LARGE], {})
    chosen, left_out = cpu_speed.choose_cells([LARGE, SMALL], memory=24, minutes=1000, **options)
    assert chosen == [SMALL]
    assert "GiB" in left_out[LARGE]
    minutes = cpu_speed.estimate_seconds(SMALL, 5, 1) / 60 + 0.1
    chosen, left_out = cpu_speed.choose_cells([SMALL, LARGE], 1000, minutes, **options)
    assert chosen == [SMALL]
    assert "minutes" in left_out[LARGE]


def test_ratios_of_cpu_times_are_medians_of_paired_ratios():
    times = {
        ("HRNetV2", JAX): [1.0, 2.0, 1.0],
        ("HRNetV2", COMPILED): [2.0, 2.0, 1.0],
        ("GSTO-HRNet", JAX): [2.0, 3.0, 3.0],
        ("GSTO-HRNet", COMPILED): [4.0, 2.0, 3.0],
    }
    rows = cpu_speed.make_rows(SMALL, times, dict.fromkeys(times, ""))
    ratios = [float(row["jax_over_runtime"]) for row in rows]
    assert ratios == [1, 1, 1, 1]
    assert [float(row["jax_over_runtime_min"]) for row in rows] == [1, 0.5, 1, 0.5]
    assert [float(row["relative_to_hrnetv2"]) for row in rows] == [1, 1, 2, 2]
    assert [row["mode"] for row in rows] == ["", "max-autotune, frozen"] * 2


def test_values_that_differ_end_the_benchmark():
    assert cpu_speed.check({"loss": 1.0}, {"loss": 1.0}, EAGER) == "loss 0.0e+00"
    with pytest.raises(SystemExit, match="loss differs"):
        cpu_speed.check({"loss": 1.01}, {"loss": 1.0}, EAGER)
    with pytest.raises(SystemExit, match="loss differs"):
        cpu_speed.check({"loss": float("nan")}, {"loss": 1.0}, EAGER)


def test_rows_are_merged_by_their_keys(tmp_path):
    path = tmp_path / "rows.csv"
    merge_rows(
        path, [{"name": "a", "batch": 1, "ms": 5}, {"name": "b", "batch": 1, "ms": 6}], ["name"]
    )
    rows = merge_rows(path, [{"name": "a", "batch": 1, "ms": 7}], ["name"])
    assert [(row["name"], str(row["ms"])) for row in rows] == [("a", "7"), ("b", "6")]
    assert path.read_text() == "name,batch,ms\na,1,7\nb,1,6\n"
    merge_rows(path, [{"name": "c", "ms": 8, "cores": 2}], ["name"])
    assert path.read_text() == "name,ms,cores,batch\na,7,,1\nb,6,,1\nc,8,2,\n"


def test_ratios_of_gpu_times():
    case = {"step": "train", "size": "512x1024", "batch": "8"}
    rows = [
        {"network": network, **case, "runtime": gpu_speed.RUNTIMES[runtime], "ms": ms}
        for network, runtime, ms in (
            ("hrnet-w48", "jax", "80"),
            ("gsto-w48", "jax", "100"),
            ("gsto-w48", "kernels", "200"),
            ("gsto-w48", "compiled", "125"),
        )
    ]
    *_, jax_row, kernels, compiled = gpu_speed.with_ratios(rows)
    assert (jax_row["relative_to_hrnetv2"], jax_row["images_per_second"]) == ("1.250", "80.0")
    assert (kernels["jax_over_runtime"], kernels["relative_to_hrnetv2"]) == ("0.500", "2.500")
    assert (compiled["jax_over_runtime"], compiled["relative_to_hrnetv2"]) == ("0.800", "")


@pytest.mark.parametrize(
    ("name", "op_name", "expected"),
    [
        ("sm90_xmma_dgrad_implicit_gemm_bf16", "", "convolution, input gradient"),
        ("void nchwToNhwcKernel<bf16>", "", "layout conversion of convolutions"),
        ("gemm_fusion_dot_3", "stage2_module0/path", "matrix product"),
        ("loop_convert_fusion_2", "jit(train_step)/stage2_module0/branch0_block1/bn2/mul", "BN"),
        ("input_reduce_fusion_7", "stage2_module0/branch0_block1/bn2/reduce", "BN, reductions"),
        ("apply_gates_mosaic_gpu_kernel", "", "gate kernel"),
        ("loop_multiply_fusion", "stage2_module0/fusion/gate0/bn/mul", "gates"),
        ("loop_transpose_fusion_1", "stage2_module0/branch0_block1/bn2", "copy or transpose"),
        ("loop_add_fusion", "jit(train_step)/add", "optimizer and other"),
        ("loop_add_fusion", "", "unknown"),
    ],
)
def test_category_of_a_kernel(name, op_name, expected):
    assert gpu_profile.category(name, "", op_name) == expected


def test_categories_of_calls_add_up():
    kernels = [
        gpu_profile.Kernel("loop_add_fusion", "", "", start=0, duration=2000),
        gpu_profile.Kernel("loop_add_fusion", "", "", start=1000, duration=2000),
        gpu_profile.Kernel("cutlass", "cudnn-conv-bw-input.3", "", start=7000, duration=1000),
    ]
    rows = {row["category"]: row for row in gpu_profile.category_rows(kernels, calls=2)}
    assert (rows["unknown"]["ms"], rows["unknown"]["kernels"]) == ("2.000", "1.0")
    assert rows["convolution, input gradient"]["ms"] == "0.500"
    assert (rows[gpu_profile.IDLE]["ms"], rows[gpu_profile.IDLE]["share"]) == ("2.000", "0.5000")


def test_name_stacks_are_found_by_the_names_of_kernels():
    program = '  ROOT %loop_add_fusion.12 = f32[2]{0} fusion(%x), metadata={op_name="a/bn1/add"}\n'
    assert gpu_profile.op_names(program) == {"loop_add_fusion_12": "a/bn1/add"}


def test_a_part_of_a_session_ends_at_its_limit():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(command, start_new_session=True)
    gpu_session.wait(process, time.monotonic() + 0.1)
    assert process.returncode < 0


def test_row_of_the_speed_table():
    row = speed_table.Comparison("inference", "PyTorch", 200.0, 100.0, "ms", 25.0)
    cells = ["inference", "PyTorch", "200 ms", "100 ms", "0.50", "25 ms", "4.0"]
    assert row.cells() == cells
    assert row._replace(limit=None).cells() == [*cells[:5], "-", "-"]


@pytest.mark.slow
def test_speed_tables_are_those_of_the_document():
    page = (ROOT / "docs" / "performance.md").read_text()
    assert speed_table.make_table() in page and speed_table.cpu_table() in page
