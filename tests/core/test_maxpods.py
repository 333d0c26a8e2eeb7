# SPDX-License-Identifier: Apache-2.0
"""Max pods against values that the classic calculator prints (recorded runs, CNI 1.18)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core.limits import limits, matching
from vpccni.core.maxpods import max_pods

EVERY_TYPE = list(matching())

# type: recommended, uncapped, prefixes, prefixes uncapped, custom networking, both, both uncapped, two ENIs,
# two ENIs with both uncapped
RECORDED = """
t2.micro       4    4    4    4     3   3   3     4   3
t3.nano        4    4    34   34    3   18  18    4   18
t3.small       11   11   110  146   8   98  98    8   50
t3.medium      17   17   110  242   12  110 162   12  82
t3.large       35   35   110  530   24  110 354   24  178
m5.xlarge      58   58   110  898   44  110 674   30  226
m4.xlarge      58   58   58   58    44  44  44    30  16
m5.large       29   29   110  434   20  110 290   20  146
m7g.large      29   29   110  434   20  110 290   20  146
m5.2xlarge     58   58   110  898   44  110 674   30  226
c5.4xlarge     110  234  110  3714  110 110 3250  60  466
m5.8xlarge     234  234  250  3714  205 250 3250  60  466
m5.24xlarge    250  737  250  11762 250 250 10978 100 786
p4d.24xlarge   250  737  250  11762 250 250 10978 100 786
m5.metal       250  737  250  737   250 250 688   100 51
c7g.metal      250  737  250  737   250 250 688   100 51
m7g.medium     8    8    98   98    5   50  50    8   50
c7i.48xlarge   250  737  250  11762 250 250 10978 100 786
"""


@pytest.mark.parametrize("line", RECORDED.strip().splitlines(), ids=lambda line: line.split()[0])
def test_the_recorded_runs_of_the_classic_calculator_are_reproduced(line):
    name, *expected = line.split()
    found = limits(name)
    plain = max_pods(found)
    prefixes = max_pods(found, prefix_delegation=True)
    custom = max_pods(found, custom_networking=True)
    both = max_pods(found, prefix_delegation=True, custom_networking=True)
    few = max_pods(found, max_eni=2)
    few_both = max_pods(found, prefix_delegation=True, custom_networking=True, max_eni=2)
    assert [int(word) for word in expected] == [
        plain.recommended,
        plain.uncapped,
        prefixes.recommended,
        prefixes.uncapped,
        custom.recommended,
        both.recommended,
        both.uncapped,
        few.recommended,
        few_both.uncapped,
    ]


def test_the_cni_itself_gives_prefixes_to_bare_metal_where_the_calculator_does_not():
    metal = limits("m5.metal")
    assert max_pods(metal, prefix_delegation=True).uncapped == 737
    assert max_pods(metal, prefix_delegation=True, bare_metal_prefixes=True).uncapped == 11762
    assert not max_pods(limits("m4.xlarge"), prefix_delegation=True, bare_metal_prefixes=True).prefixes


def test_one_interface_with_custom_networking_leaves_the_host_network_pods_only():
    assert max_pods(limits("m5.large"), custom_networking=True, max_eni=1).uncapped == 2


def test_a_limit_above_the_types_own_changes_nothing():
    assert max_pods(limits("m5.large"), max_eni=99) == max_pods(limits("m5.large"))


@given(st.sampled_from(EVERY_TYPE), st.booleans(), st.booleans(), st.integers(0, 20))
def test_results_stay_within_the_caps_and_never_grow_by_a_restriction(found, prefixes, custom, max_eni):
    result = max_pods(found, prefix_delegation=prefixes, custom_networking=custom, max_eni=max_eni)
    assert 2 <= result.recommended <= result.cap <= 250
    assert result.uncapped <= max_pods(found, prefix_delegation=prefixes).uncapped
    assert result.addresses == result.enis * found.pod_addresses_per_eni * (16 if result.prefixes else 1)
