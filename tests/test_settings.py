# SPDX-License-Identifier: Apache-2.0
"""Settings: defaults of the manifest, strict syntax, all problems at once, hints about misspelled names."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.errors import SettingsError
from vpccni.settings import explain, parse
from vpccni.settings_syntax import Listen

BY_VARIABLE = {row.variable: row for row in explain()}


def test_an_empty_environment_gives_the_defaults_of_the_manifest():
    settings = parse({})
    assert (settings.warm_eni_target, settings.warm_ip_target, settings.minimum_ip_target) == (1, 0, 0)
    assert (settings.warm_prefix_target, settings.max_eni, settings.ip_cooldown_s) == (1, 0, 30)
    assert (settings.enable_ipv4, settings.enable_ipv6) == (True, False)
    assert (settings.eni_mtu, settings.pod_mtu, settings.connmark) == (9001, 9001, 128)
    assert (settings.veth_prefix, settings.randomize_snat, settings.external_snat) == ("eni", "prng", False)
    assert str(settings.introspection_bind) == "127.0.0.1:61679"
    assert settings.warnings == ()


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_what_go_reads_as_true_is_true(text):
    assert parse({"AWS_VPC_K8S_CNI_EXTERNALSNAT": text}).external_snat is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_what_go_reads_as_false_is_false(text):
    assert parse({"ENABLE_SUBNET_DISCOVERY": text}).enable_subnet_discovery is False


@pytest.mark.parametrize("text", ["yes", "on", "TrUe", "tRUE", " true", "2", "-"])
def test_no_other_spelling_of_a_boolean_is_taken(text):
    with pytest.raises(SettingsError, match="is not true or false"):
        parse({"AWS_VPC_K8S_CNI_EXTERNALSNAT": text})


@pytest.mark.parametrize("text", ["5", "+5", "005"])
def test_integers_are_read_as_atoi_does(text):
    assert parse({"WARM_IP_TARGET": text}).warm_ip_target == 5


@pytest.mark.parametrize("text", [" 5", "5 ", "1_0", "0x5", "5.0", "٥", "--5", "-1", "9" * 30, "5\n"])
def test_integers_that_int_would_take_but_atoi_not_are_refused(text):
    with pytest.raises(SettingsError, match=r"WARM_IP_TARGET=.* is not an integer of 0 or more"):
        parse({"WARM_IP_TARGET": text})


def test_an_empty_variable_is_an_unset_one():
    assert parse({row.variable: "" for row in explain()}) == parse({})


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
def test_any_text_is_either_an_ascii_integer_in_range_or_refused(text):
    try:
        value = parse({"AWS_VPC_ENI_MTU": text}).eni_mtu
    except SettingsError as error:
        assert "an integer from 576 to 9001" in str(error)
    else:
        assert value == (9001 if text == "" else int(text))
        assert 576 <= value <= 9001
        assert text.isascii()


@pytest.mark.parametrize(
    ("text", "value"),
    [("0x80", 128), ("128", 128), ("0b1000", 8), ("0o17", 15), ("017", 15), ("0xff_ff", 65535)],
)
def test_the_mark_may_be_written_in_any_base(text, value):
    assert parse({"AWS_VPC_K8S_CNI_CONNMARK": text}).connmark == value


@pytest.mark.parametrize("text", ["0", "-1", "4294967296", "08", "0x", "1__0", "0b2", "mark"])
def test_marks_that_are_no_32_bit_numbers_are_refused(text):
    with pytest.raises(SettingsError, match="from 1 to 4294967295"):
        parse({"AWS_VPC_K8S_CNI_CONNMARK": text})


@given(st.integers(1, 2**32 - 1), st.sampled_from(["{}", "{:#x}", "{:#o}", "{:#b}", "0{:o}"]))
def test_every_mark_survives_every_base(mark, spelling):
    assert parse({"AWS_VPC_K8S_CNI_CONNMARK": spelling.format(mark)}).connmark == mark


def test_cidr_lists_are_masked_and_kept_once_in_their_order():
    settings = parse({"AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": "10.9.8.7/16, 192.168.0.0/24,10.9.0.0/16"})
    assert settings.exclude_snat_cidrs == (IPv4Network("10.9.0.0/16"), IPv4Network("192.168.0.0/24"))


@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/33", "fd00::/8", "10.0.0.0/16,", "10.0.0.0/255.0.0.0", "x/8"])
def test_what_is_no_ipv4_cidr_is_refused(text):
    with pytest.raises(SettingsError, match="comma-separated list of IPv4 CIDRs"):
        parse({"AWS_EXTERNAL_SERVICE_CIDRS": text})


@pytest.mark.parametrize("text", ["eth", "lo", "vlan", "toolo", "a/b", "e i", "é"])
def test_veth_prefixes_that_would_be_confused_or_too_long_are_refused(text):
    with pytest.raises(SettingsError, match="AWS_VPC_K8S_CNI_VETHPREFIX"):
        parse({"AWS_VPC_K8S_CNI_VETHPREFIX": text})
    assert parse({"AWS_VPC_K8S_CNI_VETHPREFIX": "veth"}).veth_prefix == "veth"


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"": "x"}', '{"aws:x": "y"}', '{"%s": ""}' % ("k" * 129)])
def test_tags_that_ec2_would_not_take_are_refused(text):
    with pytest.raises(SettingsError, match="ADDITIONAL_ENI_TAGS"):
        parse({"ADDITIONAL_ENI_TAGS": text})


def test_tags_with_reserved_keys_are_left_out_with_a_warning():
    settings = parse({"ADDITIONAL_ENI_TAGS": '{"team": "net", "node.k8s.amazonaws.com/instance_id": "i-1"}'})
    assert settings.additional_eni_tags == {"team": "net"}
    assert "node.k8s.amazonaws.com/instance_id" in settings.warnings[0]


def test_all_problems_are_in_one_message_and_each_names_the_variable_and_what_it_takes():
    environ = {"WARM_IP_TARGET": "two", "AWS_VPC_ENI_MTU": "100", "ENABLE_IPv6": "true", "AWS_EC2_ENDPOINT": "ec2"}
    with pytest.raises(SettingsError) as refused:
        parse(environ)
    message = str(refused.value)
    for name in environ:
        assert name in message
    assert "576 to 9001" in message
    assert "http://" in message
    assert refused.value.evidence["problems"] == 5, "three values, two families, IPv6 without prefixes"


CONFLICTS = [
    ({"ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"}, "both true"),
    ({"ENABLE_IPv4": "false"}, "both false"),
    ({"ENABLE_IPv4": "false", "ENABLE_IPv6": "true"}, "needs ENABLE_PREFIX_DELEGATION"),
    (
        {
            "ENABLE_IPv4": "false",
            "ENABLE_IPv6": "true",
            "ENABLE_PREFIX_DELEGATION": "true",
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
        },
        "excludes AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
    ),
    ({"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "0"}, "at least one of"),
    ({"AWS_VPC_K8S_PLUGIN_LOG_FILE": "stdout"}, "garble"),
    (
        {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true", "POD_MTU": "1000"},
        "POD_MTU=1000 is below 1280",
    ),
    ({"VPCCNI_DUAL_STACK": "true", "POD_MTU": "1000"}, "POD_MTU=1000 is below 1280"),
    ({"ENABLE_V6_EGRESS": "true", "AWS_VPC_ENI_MTU": "1000"}, "AWS_VPC_ENI_MTU=1000 is below 1280"),
    ({"VPCCNI_DUAL_STACK": "true", "DISABLE_POD_V6": "true"}, "VPCCNI_DUAL_STACK excludes DISABLE_POD_V6"),
    ({"VPCCNI_DUAL_STACK": "true", "ENABLE_V6_EGRESS": "true"}, "VPCCNI_DUAL_STACK excludes ENABLE_V6_EGRESS"),
    (
        {
            "ENABLE_IPv4": "false",
            "ENABLE_IPv6": "true",
            "ENABLE_PREFIX_DELEGATION": "true",
            "VPCCNI_DUAL_STACK": "true",
        },
        "VPCCNI_DUAL_STACK excludes ENABLE_IPv6",
    ),
    (
        {
            "ENABLE_IPv4": "false",
            "ENABLE_IPv6": "true",
            "ENABLE_PREFIX_DELEGATION": "true",
            "DISABLE_POD_V6": "true",
        },
        "ENABLE_IPv6 excludes DISABLE_POD_V6",
    ),
]


@pytest.mark.parametrize(("environ", "text"), CONFLICTS)
def test_settings_that_exclude_each_other_are_refused(environ, text):
    with pytest.raises(SettingsError, match=text):
        parse(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {"ENABLE_PREFIX_DELEGATION": "true"},
        {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "0", "MINIMUM_IP_TARGET": "10"},
        {"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"},
        {"VPCCNI_DUAL_STACK": "true", "POD_MTU": "1280"},
        {"VPCCNI_DUAL_STACK": "true", "ENABLE_PREFIX_DELEGATION": "true"},
        {"ENABLE_V6_EGRESS": "true"},
        {"DISABLE_POD_V6": "true"},
    ],
)
def test_the_neighbours_of_those_conflicts_are_accepted(environ):
    parse(environ)


def test_a_combination_is_not_judged_by_a_default_that_stands_in_for_an_unreadable_value():
    with pytest.raises(SettingsError) as refused:
        parse({"ENABLE_IPv4": "nope", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"})
    assert refused.value.evidence["problems"] == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [("WARM_IP_TARGETS", "WARM_IP_TARGET"), ("ENABLE_IPV4", "ENABLE_IPv4"), ("MINIMUM_IP_TARGE", "MINIMUM_IP_TARGET")],
)
def test_a_misspelled_variable_gets_a_hint(name, meant):
    assert f"did you mean {meant}?" in parse({name: "1"}).warnings[0]


def test_what_the_relay_and_the_lab_read_is_no_misspelled_setting():
    assert parse({"VPCCNI_SOCKET": "/x", "VPCCNI_LAB_NAME": "mine"}).warnings == ()
    assert parse({"VPCCNI_LAP_NAME": "mine"}).warnings == ("VPCCNI_LAP_NAME is not a setting",)


def test_foreign_variables_are_no_business_of_ours():
    environ = {"PATH": "/bin", "AWS_REGION": "us-west-2", "KUBERNETES_PORT": "tcp://10.0.0.1:443", "ENABLE_FOO": "1"}
    assert parse(environ).warnings == ()


def test_the_endpoint_of_the_sdk_goes_before_the_older_name_and_a_difference_is_told():
    settings = parse({"AWS_EC2_ENDPOINT": "http://old:1", "AWS_ENDPOINT_URL_EC2": "http://new:2/"})
    assert settings.ec2_endpoint == "http://new:2"
    assert "differ" in settings.warnings[0]
    assert parse({"AWS_EC2_ENDPOINT": "http://old:1"}).ec2_endpoint == "http://old:1"
    assert parse({"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_EC2": "http://one"}).warnings == ()


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("127.0.0.1:0", Listen("127.0.0.1", 0)),
        (":61679", Listen("", 61679)),
        ("[::1]:61679", Listen("::1", 61679)),
        ("unix:/run/x.sock", Listen("", 0, "/run/x.sock")),
    ],
)
def test_bind_addresses_survive_being_printed(text, listen):
    assert parse({"INTROSPECTION_BIND_ADDRESS": text}).introspection_bind == listen
    assert str(listen) == text


@pytest.mark.parametrize("text", ["61679", "host:", "host:99999", "unix:x", "::1:80", "a b:1"])
def test_bind_addresses_without_a_port_are_refused(text):
    with pytest.raises(SettingsError, match="host:port or unix:/path"):
        parse({"INTROSPECTION_BIND_ADDRESS": text})


def test_features_that_do_not_exist_yet_are_named_when_switched_on():
    assert parse({}).not_built == ()
    assert parse({"ENABLE_POD_ENI": "true", "NETWORK_POLICY_ENFORCING_MODE": "None"}).not_built == ("ENABLE_POD_ENI",)


def test_the_families_of_pods_follow_the_settings():
    assert parse({}).versions == (4,)
    assert parse({"VPCCNI_DUAL_STACK": "true"}).versions == (4, 6)
    ipv6 = parse({"ENABLE_IPv4": "false", "ENABLE_IPv6": "true", "ENABLE_PREFIX_DELEGATION": "true"})
    assert ipv6.versions == (6,) and not ipv6.sweeps_leaked_enis and ipv6.not_built == ()


def test_provisioning_and_the_leak_sweep_follow_the_modes():
    assert parse({}).sweeps_leaked_enis
    assert not parse({"ENABLE_IMDS_ONLY_MODE": "1"}).provisioning
    assert not parse({"DISABLE_LEAKED_ENI_CLEANUP": "1"}).sweeps_leaked_enis


def test_every_default_in_the_documentation_is_accepted_as_a_value_and_gives_the_default():
    shown = {name: row.default for name, row in BY_VARIABLE.items() if row.default != "unset"}
    assert parse(shown) == parse({})
    assert len(BY_VARIABLE) > 50
    assert all(row.purpose and row.accepts for row in BY_VARIABLE.values())
