# SPDX-License-Identifier: Apache-2.0
"""The VPC router's checks and translations as nft(8) text.

Knows which frames a VPC drops, and what an internet gateway does to addresses. Must never run anything. `lab.fabric`
feeds the text to `nft -f -`, each batch of events as one transaction.

Traffic inside the VPC is not tracked by the router: only what may be translated, and flows of interfaces that security
groups guard (`lab.guard` fills the sets for those), cost a connection entry. IPv6 is never translated: every address of
the VPC is public by nature, and link-local ones end at the router.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from vpccni.aws.values import IPNetwork

IGW_PORT = "igw"  # towards the hosts behind the internet gateway
SITE_PORT = "site"  # towards the hosts of a private site

# What is dropped, by counter. Every row is a sentence that `lab status` prints.
COUNTERS = {
    "spoofed_source": "frames with a source address that the sending interface does not own",
    "wrong_mac": "frames with a source MAC that is not the sending interface's",
    "no_public_address": "packets to the internet from an address without a public one",
    "unknown_destination": "packets to an address that nobody has",
    "security_group": "packets that no rule of an interface's security groups allows",
    "not_public": "packets from the internet to anything but a public address",
}

# How nft writes a family's addresses. What is said of one of them below is said of all.
FAMILIES = {4: "ip", 6: "ip6"}

_SOURCES = "  set sources_{family} {{ typeof iifname . {family} saddr; flags interval; }}"
_CHECK = '    iifname . {family} saddr != @sources_{family} counter name "spoofed_source" drop'

_BASE = """
table inet vpc {{
{counters}
  set macs {{ typeof iifname . ether saddr; }}
{sources}
  set unchecked {{ typeof iifname; }}
  set internet_hosts {{ typeof ip daddr; }}
  set public_addresses {{ typeof ip daddr; }}
  set translated {{ typeof ip saddr; }}
  set guarded {{ type iface_index; }}
  map leave {{ type ifname : verdict; }}
  map arrive {{ type ifname : verdict; }}
  chain ports {{
    iifname . ether saddr != @macs counter name "wrong_mac" drop
    iifname @unchecked return
    ip6 saddr {{ ::, fe80::/10 }} return
{checks}
  }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    meta nfproto != {{ ipv4, ipv6 }} accept
    iifname "p*" jump ports
    ip6 daddr {{ fe80::/10, ff00::/8 }} accept
    iifname "{igw}" ip daddr != @public_addresses counter name "not_public" drop
    iifname "{igw}" meta nfproto ipv4 accept
    iif @guarded fib daddr type != local goto known
    fib daddr oif @guarded goto known
    iifname "p*" ip daddr != @internet_hosts notrack
    meta nfproto ipv6 notrack
    iifname "{site}" notrack
    goto known
  }}
  chain known {{
    fib daddr type != local fib daddr oif missing counter name "unknown_destination" drop
  }}
  chain local {{
    type filter hook output priority raw; policy accept;
    notrack
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname "{igw}" ip saddr != @translated counter name "no_public_address" drop
    ct state {{ untracked, established, related }} accept
    iifname vmap @leave
    goto arriving
  }}
  chain arriving {{
    oifname vmap @arrive
    accept
  }}
}}
table ip gateway {{
  map public_of {{ typeof ip saddr : ip saddr; }}
  map private_of {{ typeof ip daddr : ip daddr; }}
  chain outbound {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{igw}" snat to ip saddr map @public_of
  }}
  chain inbound {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{igw}" dnat to ip daddr map @private_of
  }}
}}
"""


def base() -> str:
    """The router's whole rule set while nothing is attached and no address is public."""
    counters = "\n".join(f"  counter {name} {{ }}" for name in COUNTERS)
    sources, checks = (
        "\n".join(template.format(family=family) for family in FAMILIES.values()) for template in (_SOURCES, _CHECK)
    )
    text = _BASE.format(counters=counters, sources=sources, checks=checks, igw=IGW_PORT, site=SITE_PORT)
    return text.strip() + "\n"


def internet_host(address: IPv4Address) -> str:
    """A host that is reached through the internet gateway."""
    return f"add element inet vpc internet_hosts {{ {address} }}\n"


def port(name: str, mac: str, *, verb: str = "add") -> str:
    """`verb` add or delete: a port carries frames of this MAC."""
    return f'{verb} element inet vpc macs {{ "{name}" . {mac} }}\n'


def sources(name: str, networks: Iterable[IPNetwork], *, verb: str = "add") -> str:
    """`verb` add or delete: frames of a port may carry these source addresses."""
    return "".join(
        f'{verb} element inet vpc sources_{FAMILIES[network.version]} {{ "{name}" . {_plain(network)} }}\n'
        for network in networks
    )


def source_check(name: str, *, enabled: bool) -> str:
    """Whether a port's source addresses are checked at all (SourceDestCheck)."""
    return f'{"delete" if enabled else "add"} element inet vpc unchecked {{ "{name}" }}\n'


def public_address(private: IPv4Address, public: IPv4Address, *, verb: str = "add") -> str:
    """`verb` add or delete: the internet gateway translates between these two, one to one."""
    # A map's element is deleted by its key alone.
    outbound = f"{private} : {public}" if verb == "add" else str(private)
    inbound = f"{public} : {private}" if verb == "add" else str(public)
    return (
        f"{verb} element ip gateway public_of {{ {outbound} }}\n"
        f"{verb} element ip gateway private_of {{ {inbound} }}\n"
        f"{verb} element inet vpc translated {{ {private} }}\n"
        f"{verb} element inet vpc public_addresses {{ {public} }}\n"
    )


def _plain(network: IPNetwork) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
