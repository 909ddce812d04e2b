"""Cycles of kernels from the schedules that the compiler writes."""

import pytest

from gsto_jax import UserError
from gsto_jax.plan.kernel_schedule import clear_schedules, count_cycles, read_schedule

SCHEDULE = """= control target key start
LB: loop body
= control target key end

     0   :  { %s12_s0 = smov 0  ;;  %s99_s1 = inlined_call_operand.hbm [shape: f32[1024,1024]] }
   0x1 LB: > { %s4_s2 = sadd.s32 4294967295, %s7_s3 STAGED  ;;  \
%s7_s3 = sphi %s12_s0, %s31_s5 } /* Start region 61 :: Start region 21 */
   0x2   : > { %s8_s5 = sadd.s32 1, %s7_s3  ;;  %s20_s4 = smov 3 }
   0x3   : > { %s31_s5 = smov %s8_s5 }
   0x4 LB: >> { %s9_s6 = sadd.s32 4, %s10_s6  ;;  \
%s10_s6 = sphi %s20_s4, %s9_s6 } /* Start region 7 */
   0x5   : >> { %p3_p1 = scmp.ge.s32.totalorder %s9_s6, LIMIT /* loop exit test */ }
   0x6   : >> { %v5_v1 = vadd.f32 %v2_v2, %v3_v3  ;;  %15 = sbr.rel (!%p3_p1) target = $region7 }
   0x7   : >> { %v6_v1 = vadd.f32 %v5_v1, %v3_v3 }
   0x8   :  {}
   0x9   : > { %p4_p2 = scmp.ge.s32.totalorder (%p3_p1), %s8_s5, 18 /* loop exit test */ }
   0xa   :  { %16 = sbr.rel (!%p4_p2) target = $region61 }
   0xb   :  {}
   0xc   :  { %vm = vsyncpa [#allocation3], 1 }
"""


STAGED = "/* iteration index, stage = 1 */"


@pytest.mark.parametrize(("limit", "inner"), [(700, 175), (4, 1), (16, 4), (19, 4), (20, 5)])
def test_count_cycles(limit, inner):
    """A pipelined grid loop has two more iterations than the grid."""
    text = SCHEDULE.replace("LIMIT", str(limit))
    # Bundles of the inner loop, with the delay behind its branch; of the outer one; around both.
    once = 5 * inner + (3 + 1 + 2)
    assert count_cycles(text.replace("STAGED", STAGED)) == 1 + 16 * once + 1
    assert count_cycles(text.replace("STAGED", "")) == 1 + 18 * once + 1


@pytest.mark.parametrize(
    ("limit", "trips"),
    [("sshrl.u32 %s51_s1, 5 ", 1), ("sand.u32 31, %s51_s1 ", 2), ("sshrl.u32 %s51_s1, 1 ", 5)],
)
def test_loops_over_block_rows(limit, trips):
    """The last block may have fewer than 42 rows; all 42 count."""
    rows = "   0x0   :  { %s51_s1 = smov (!%p52_p1, %s53_s1), 42 }\n"
    rows += "   0x0   :  { %p52_p1 = scmp.lt.s32.totalorder %s53_s1, 42 }\n"
    rows += f"   0x0   :  {{ %s50_s1 = {limit}}}\n"
    text = SCHEDULE.replace("STAGED", "").replace("%s9_s6, LIMIT", "%s9_s6, %s50_s1")
    text = text.replace("   0x1 LB", rows + "   0x1 LB")
    # From 3, by 4.
    assert count_cycles(text) == 3 + 1 + 18 * (5 * trips + 6) + 1


def test_spilled_counters():
    text = SCHEDULE.replace("STAGED", "").replace("%s9_s6, LIMIT", "%s60_s1, 19")
    store = "   : >> { %17 = sst [smem:[#allocation4_spill]] %s9_s6 ;; %v5_v1"
    text = text.replace("   : >> { %v5_v1", store)
    load = " ;; %s60_s1 = sld [smem:[#allocation4_spill]]  }\n   0x8"
    text = text.replace(" }\n   0x8", load)
    assert count_cycles(text) == 1 + 18 * (5 * 4 + 6) + 1


def test_unknown_trip_counts_in_kernels():
    text = SCHEDULE.replace("%s9_s6, LIMIT", "%s9_s6, %s99_s1")
    with pytest.raises(UserError, match="kernel"):
        count_cycles(text)
    with pytest.raises(ValueError, match="bundles"):
        count_cycles("nothing")


def test_read_and_clear_schedules(tmp_path):
    (tmp_path / "123-a.b-1-01-final_bundles.txt").write_text("text")
    assert read_schedule(tmp_path, "a.b-1") == "text"
    assert read_schedule(tmp_path, "aXb-1") is read_schedule(tmp_path, "b-1") is None
    clear_schedules(tmp_path)
    assert not any(tmp_path.iterdir())
