# SPDX-License-Identifier: Apache-2.0
"""Max pods against values that the classic calculator prints (recorded runs, CNI 1.18)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.core.limits import branches, limits, matching
from vpccni.core.maxpods import (
    has_prefixes,
    max_pods,
    nodeadm,
    pods_on_every_card,
    reserved_cpu_millicores,
    reserved_memory_mib,
)
from vpccni.core.maxpods_expression import ExpressionError, evaluate
from vpccni.errors import InputError

EVERY_TYPE = list(matching())

# type: recommended, uncapped, prefixes, prefixes uncapped, custom networking, both, both uncapped, two ENIs,
# two ENIs with both uncapped, nodeadm
RECORDED = """
t2.micro        4     4     4     4     3     3     3     4     3     4
t3.nano         4     4     34    34    3     18    18    4     18    4
t3.micro        4     4     34    34    3     18    18    4     18    4
t4g.nano        4     4     34    34    3     18    18    4     18    4
t3.small        11    11    110   146   8     98    98    8     50    11
t3.medium       17    17    110   242   12    110   162   12    82    17
t3.large        35    35    110   530   24    110   354   24    178   35
t3.xlarge       58    58    110   898   44    110   674   30    226   58
m5.xlarge       58    58    110   898   44    110   674   30    226   58
c7i.xlarge      58    58    110   898   44    110   674   30    226   58
x2iedn.xlarge   58    58    110   898   44    110   674   30    226   58
m4.xlarge       58    58    58    58    44    44    44    30    16    58
m5.large        29    29    110   434   20    110   290   20    146   29
c5.large        29    29    110   434   20    110   290   20    146   29
c7i.large       29    29    110   434   20    110   290   20    146   29
c7i-flex.large  29    29    110   434   20    110   290   20    146   29
m7g.large       29    29    110   434   20    110   290   20    146   29
m5.2xlarge      58    58    110   898   44    110   674   30    226   58
c7i.2xlarge     58    58    110   898   44    110   674   30    226   58
m5.4xlarge      110   234   110   3714  110   110   3250  60    466   234
c5.4xlarge      110   234   110   3714  110   110   3250  60    466   234
c7i.4xlarge     110   234   110   3714  110   110   3250  60    466   234
m7g.4xlarge     110   234   110   3714  110   110   3250  60    466   234
m5.8xlarge      234   234   250   3714  205   250   3250  60    466   234
c7i.8xlarge     234   234   250   3714  205   250   3250  60    466   234
m5.12xlarge     234   234   250   3714  205   250   3250  60    466   234
c7i.12xlarge    234   234   250   3714  205   250   3250  60    466   234
m5.24xlarge     250   737   250   11762 250   250   10978 100   786   737
c7i.24xlarge    250   737   250   11762 250   250   10978 100   786   737
p3dn.24xlarge   250   737   250   11762 250   250   10978 100   786   737
p4d.24xlarge    250   737   250   11762 250   250   10978 100   786   737
m5.metal        250   737   250   737   250   250   688   100   51    737
c5.metal        250   737   250   737   250   250   688   100   51    737
c7i.metal-24xl  250   737   250   737   250   250   688   100   51    737
c5.18xlarge     250   737   250   11762 250   250   10978 100   786   737
c7i.48xlarge    250   737   250   11762 250   250   10978 100   786   737
m8g.48xlarge    250   737   250   11762 250   250   10978 100   786   737
c7i.metal-48xl  250   737   250   737   250   250   688   100   51    737
m7g.medium      8     8     98    98    5     50    50    8     50    8
a1.medium       8     8     98    98    5     50    50    8     50    8
m7g.16xlarge    250   737   250   11762 250   250   10978 100   786   737
m7g.metal       250   737   250   737   250   250   688   100   51    737
c7g.metal       250   737   250   737   250   250   688   100   51    737
i4i.metal       250   737   250   737   250   250   688   100   51    737
u-6tb1.56xlarge 250   737   250   11762 250   250   10978 100   786   737
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
        nodeadm(found).value,
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


def test_the_parts_say_how_the_number_came_about():
    assert max_pods(limits("m7g.large")).formula == "3 ENIs x 9 addresses + 2 = 29"
    assert max_pods(limits("m7g.large"), prefix_delegation=True).formula == "3 ENIs x 9 prefixes x 16 + 2 = 434"
    assert "m4.xlarge" in max_pods(limits("m4.xlarge"), prefix_delegation=True).notes[0]
    assert "bare metal" in max_pods(limits("m5.metal"), prefix_delegation=True).notes[0]
    assert max_pods(limits("m5.large"), prefix_delegation=True).notes == ()


def test_a_trunk_takes_the_place_of_one_eni_and_its_branches_come_beside_the_addresses():
    with_trunk = max_pods(limits("m5.xlarge"), branches=branches("m5.xlarge") or 0)
    assert (with_trunk.enis, with_trunk.uncapped, with_trunk.branches) == (3, 44, 18)
    both = max_pods(limits("m5.xlarge"), branches=18, custom_networking=True)
    assert both.enis == 2
    assert max_pods(limits("t3.large"), branches=branches("t3.large") or 0) == max_pods(limits("t3.large"))


def test_pods_on_every_network_card_are_bounded_by_the_smallest_card():
    assert pods_on_every_card(limits("i7ie.48xlarge")) == 7 * limits("i7ie.48xlarge").pod_addresses_per_eni
    assert pods_on_every_card(limits("m5.large")) == 27
    assert pods_on_every_card(limits("m5.large"), prefix_delegation=True) == 432
    assert pods_on_every_card(limits("m4.large"), prefix_delegation=True) == pods_on_every_card(limits("m4.large"))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.99.0", False), ("1.7.5", False), ("1.8.9", False), ("1.9.0", True), ("1.10.0", True), ("2.0.0", True),
        ("1.10.1-eksbuild.1", True), ("v1.23.1", True),
    ],
)  # fmt: skip
def test_prefixes_came_with_version_1_9(version, expected):
    assert has_prefixes(version) is expected


@pytest.mark.parametrize("version", ["", "1", "2", "1.9", "latest", "1.9.0.0", "1.9.x", "1.9.0 ", "\u0661.9.0"])
def test_what_is_no_version_is_refused(version):
    with pytest.raises(InputError, match=r"MAJOR\.MINOR\.PATCH"):
        has_prefixes(version)


class _Made:
    """Limits of types that nodeadm's own tests use."""

    def __new__(cls, enis, addresses):
        return replace(limits("m5.large"), max_enis=enis, ipv4_per_eni=addresses)


def test_nodeadm_counts_without_caps_and_follows_its_expression():
    assert nodeadm(_Made(3, 6)).value == 17
    assert nodeadm(_Made(6, 12)).value == 68
    assert nodeadm(_Made(3, 6), "(default_enis*(ips_per_eni-1))+3").value == 18
    assert nodeadm(_Made(3, 6), "max_pods > 10 ? 10 : max_pods").value == 10


@pytest.mark.parametrize(
    "expression", ["99 - fake", '"true"', "true", "0", "-1", "max_pods - 100", "2147483648", "9223372036854775807 + 1",
                   "1 +", "(1", "1 2", "1 / 0", "max_pods.x", "__import__('os')", "1.5", "(" * 200]
)  # fmt: skip
def test_an_expression_without_a_usable_value_leaves_the_standard_value_and_says_why(expression):
    result = nodeadm(_Made(3, 6), expression)
    assert result.value == result.standard == 17
    assert "not used" in result.warning


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7), ("(1 + 2) * 3", 9), ("7 / 2", 3), ("-7 / 2", -3), ("-7 % 3", -1), ("7 % -3", 1),
        ("1 < 2 ? 5 : 6", 5), ("1 == 2 || !(3 >= 4) && true ? 1 : 2", 1), ("'12'", 12), ("int('12') + 1", 13),
        ("0x10", 16), ("2 - 1 - 1", 0), ("--3", 3), ("1 != 1 ? 1 : 1 > 0 ? 2 : 3", 2),
    ],
)  # fmt: skip
def test_expressions_are_computed_as_cel_does(expression, value):
    assert evaluate(expression, {}) == value


@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.sampled_from("+-*"))
def test_expressions_agree_with_python_where_both_mean_the_same(one, other, operator):
    text = f"({one}) {operator} ({other})"
    assert evaluate(text, {}) == eval(text)  # text of our own


@given(st.text("0123456789+-*/%()<>=!&|?: xyint'\"", max_size=30))
def test_no_text_does_anything_but_compute_or_be_refused(text):
    try:
        assert isinstance(evaluate(text, {"x": 3, "y": 4}), int)
    except ExpressionError as error:
        assert str(error)


def test_what_nodes_reserve_follows_pods_and_cores():
    assert reserved_memory_mib(29) == 574
    assert [reserved_cpu_millicores(cores) for cores in (1, 2, 4, 8, 96)] == [60, 70, 80, 90, 310]
