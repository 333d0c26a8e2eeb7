# SPDX-License-Identifier: Apache-2.0
"""Errors in the kernel's words, batches that go on after a failure, dumps that survive changes under them."""

from __future__ import annotations

import errno
import threading
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network

import pytest

from vpccni.errors import HostError
from vpccni.netlink.codec import decode
from vpccni.netlink.errors import NetlinkError
from vpccni.netlink.socket import RouteSocket
from vpccni.netlink.values import Address, Link, Neighbour, Route, Rule, add, delete, set_link

pytestmark = pytest.mark.netns

V0 = 10
POD = ip_network("10.20.1.5/32")
ADDRESS = Address(ip_interface("10.20.1.5/32"), V0)


@pytest.mark.parametrize(
    ("first", "refused", "number", "words"),
    [
        (add(ADDRESS), add(ADDRESS), errno.EEXIST, "already assigned"),
        (None, delete(ADDRESS), errno.EADDRNOTAVAIL, "not found"),
        (None, delete(Route(POD, V0, scope="link")), errno.ESRCH, ""),
        (None, delete(Rule(512, 254, dst=POD)), errno.ENOENT, ""),
        (add(Rule(512, 254, dst=POD)), add(Rule(512, 254, dst=POD)), errno.EEXIST, ""),
        (None, add(Route(POD, V0, gateway=ip_address("192.0.2.1"))), errno.ENETUNREACH, "invalid gateway"),
        (None, delete(Neighbour(ip_address("10.0.0.1"), V0)), errno.ENOENT, ""),
        (None, delete(Link("", index=4711)), errno.ENODEV, ""),
        (None, set_link(Link("absent", up=True)), errno.ENODEV, ""),
        (None, add(Link("v0", kind="veth", peer=Link("x"))), errno.EEXIST, ""),
        (None, add(Link("x", index=V0, kind="veth", peer=Link("y"))), errno.EEXIST, ""),
        (None, add(Link("x", kind="veth", peer=Link("y", netns_fd=987654))), errno.EBADF, ""),
        (None, set_link(Link("v0", mtu=70000)), errno.EINVAL, "mtu greater than device maximum"),
    ],
)
def test_a_refusal_carries_errno_the_kernels_words_and_the_command(node, first, refused, number, words):
    if first is not None:
        node.route.run(first)
    with pytest.raises(NetlinkError) as caught:
        node.route.run(refused)
    error = caught.value
    if error.errno == errno.EBUSY:  # older kernels, for an index in use
        number = errno.EBUSY
    assert error.errno == number
    assert words in error.kernel_message.lower()
    assert error.action == f"do `{refused}`"
    assert error.error_code == f"kernel-{errno.errorcode[number].lower()}"
    assert isinstance(error, HostError)


def test_a_failure_in_a_batch_is_reported_in_its_place_and_the_others_are_done(node):
    requests = [
        add(ADDRESS),
        add(ADDRESS),
        add(Rule(512, 254, dst=POD)),
        delete(Rule(9, 9)),
        add(Rule(1536, 2, src=POD)),
    ]
    results = node.route.batch(requests)
    assert [result.errno if result else None for result in results] == [None, errno.EEXIST, None, errno.ENOENT, None]
    assert [rule.priority for rule in node.route.rules()] == [0, 512, 1536, 32766, 32767]
    assert node.route.batch(requests[1:2])[0].errno == errno.EEXIST
    assert node.route.batch([]) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_batch_of_a_thousand_requests_gets_a_thousand_results(node, fails):
    prefixes = list(ip_network("10.64.0.0/16").subnets(new_prefix=28))[:1000]
    requests = [add(Route(prefix, V0, table=77)) for prefix in prefixes]
    assert node.route.batch(requests) == [None] * 1000
    if fails:
        again = node.route.batch(requests)
        assert [error.errno for error in again] == [errno.EEXIST] * 1000
    assert {route.dst for route in node.route.routes(table=77)} == set(prefixes)
    assert len(node.json("route", "show", "table", "77")) == 1000


def test_a_dump_of_a_thousand_routes_loses_none_that_stay_while_others_come_and_go(node):
    prefixes = [IPv4Network((int(ip_address("10.64.0.0")) + 2 * n, 32)) for n in range(1000)]
    stay = {Route(prefix, V0, scope="link") for prefix in prefixes}
    assert node.route.batch([add(route) for route in stay]) == [None] * 1000
    churn = [Route(IPv4Network((int(prefix.network_address) + 1, 32)), V0, scope="link") for prefix in prefixes]
    with _busy(node, churn) as rounds:
        for _ in range(30):
            seen = node.route.routes(names={})
            assert len(seen) == len(set(seen))
            assert stay <= set(seen)
    assert rounds.count > 0


def test_a_dump_of_rules_under_which_the_list_shifted_is_repeated_until_two_agree(node):
    stay = [Rule(1000, 254, dst=ip_network(f"10.64.{n // 250}.{n % 250}/32")) for n in range(1000)]
    assert node.route.batch([add(rule) for rule in stay]) == [None] * 1000
    first = Rule(900, 254, dst=ip_network("10.65.0.1/32"))
    with _Meddled(node.fd, lambda: node.route.run(add(first))) as reader:
        assert reader.rules()[1:-2] == [first, *stay]
    rules, complete = reader.dumps[0]
    assert complete, "the kernel now notices, so dumping twice has become needless"
    assert len(rules) > len(set(rules)), "the first dump was right, so this test showed nothing"
    assert len(reader.dumps) == 3


def test_a_dump_that_the_kernel_calls_interrupted_is_repeated(node):
    stay = [Address(ip_interface(f"10.64.{n // 250}.{n % 250 + 1}/32"), V0) for n in range(1000)]
    assert node.route.batch([add(address) for address in stay]) == [None] * 1000
    late = Address(ip_interface("10.65.0.1/32"), 11)
    with _Meddled(node.fd, lambda: node.route.run(add(late))) as reader:
        seen = [address for address in reader.addresses(4, names={}) if address.index in (V0, 11)]
    assert seen == [*stay, late]
    assert [complete for _values, complete in reader.dumps] == [False, True]


def test_a_dump_that_never_comes_whole_is_an_error_and_not_a_partial_list(node):
    class Disturbed(RouteSocket):
        def _read_dump(self, query, seq, action):
            return super()._read_dump(query, seq, action)[0], False

    with Disturbed(node.fd) as disturbed, pytest.raises(NetlinkError, match="changed it during each of") as caught:
        disturbed.rules()
    assert caught.value.errno == errno.EAGAIN


class _Meddled(RouteSocket):
    """Runs `meddle` once, after the first datagram of the first dump; keeps (values, complete) of every dump."""

    def __init__(self, fd, meddle):
        super().__init__(fd)
        self.dumps = []
        self._plain, self._meddle = self._socket, meddle
        self._socket = self

    def send(self, octets):
        return self._plain.send(octets)

    def recv(self, size):
        buffer = self._plain.recv(size)
        meddle, self._meddle = self._meddle, lambda: None
        meddle()
        return buffer

    def close(self):
        self._plain.close()

    def _read_dump(self, query, seq, action):
        buffers, complete = super()._read_dump(query, seq, action)
        self.dumps.append(([value for buffer in buffers for value in decode(buffer)], complete))
        return buffers, complete


class _busy:
    """Adds and deletes `values` from another thread for as long as the block runs."""

    def __init__(self, box, values):
        self._box, self._values = box, values
        self._stop, self.count = threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with RouteSocket(self._box.fd) as own:
            while not self._stop.is_set():
                for make in (add, delete):
                    assert own.batch([make(value) for value in self._values]) == [None] * len(self._values)
                self.count += 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def test_a_closed_socket_may_be_closed_again(node):
    one = RouteSocket(node.fd)
    one.close()
    one.close()
    with pytest.raises(OSError, match="Bad file"):
        one.links()
