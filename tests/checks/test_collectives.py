"""Collectives read in the text of compiled programs, as XLA writes it for CPUs, GPUs and TPUs."""

from __future__ import annotations

import pytest

from funcnet.checks._collectives import collectives, words

PROGRAM = """
HloModule jit_step, entry_computation_layout={(f32[8,4]{1,0})->f32[]}
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}
ENTRY %main {
  %all-reduce = f32[8,4]{1,0} all-reduce(%x), channel_id=1, to_apply=%sum
  %all-reduce.1 = (f32[4]{0}, bf16[3]{0}, pred[]) all-reduce(%x, %y, %z), to_apply=%sum
  %got = f32[4]{0} get-tuple-element(%all-reduce.1), index=0
  ROOT %rs = f32[1,4]{1,0:T(8,128)} reduce-scatter(%x), dimensions={0}, to_apply=%sum
}
"""


def test_each_kind_is_counted_with_the_bytes_of_its_results():
    found = collectives(PROGRAM)
    assert found == {"all-reduce": [2, 128 + 16 + 6 + 1], "reduce-scatter": [1, 16]}
    assert words(found) == "2 all-reduce (151 bytes), 1 reduce-scatter (16 bytes)"
    assert words({}) == "no collectives"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%s = f32[4]{0} all-reduce-start(%x), to_apply=%a", {"all-reduce": [1, 16]}),
        ("%s = (f32[4], f32[2]) all-reduce-start(%x, %y)", {"all-reduce": [1, 24]}),
        ("%s = (f32[4]{0}, f32[8]{0}) all-gather-start(%x)", {"all-gather": [1, 32]}),
        ("%s = ((f32[4], s8[2]), (f32[8], s8[4])) all-gather-start(%x)", {"all-gather": [1, 36]}),
        ("%s = ((f64[8]), f64[2]{0}) reduce-scatter-start(%x)", {"reduce-scatter": [1, 16]}),
        (
            "%s = (c64[4]{0}, c64[4]{0}, u32[], u32[]) collective-permute-start(%x)",
            {"collective-permute": [1, 32]},
        ),
        ("ROOT %all-to-all.3 = (s4[3], s4[3]) all-to-all(%x, %y)", {"all-to-all": [1, 4]}),
        ("%s = f8e4m3fn[<=8,2]{1,0} all-to-all(%x), dimensions={0}", {"all-to-all": [1, 16]}),
        ("%s = f32[8]{0} all-gather-done(%t)", {}),
        ("%s = f32[8]{0} ragged-all-to-all(%t)", {}),
        ('%s = f32[8]{0} add(%all-gather, %b), metadata={op_name="all-gather(x)"}', {}),
    ],
)
def test_what_is_started_counts_once(line, found):
    assert collectives(f"  {line}\n") == found
