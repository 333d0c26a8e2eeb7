# SPDX-License-Identifier: Apache-2.0
"""`vpccni why` against a daemon's introspection API, and in a lab with a full subnet."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from labs import Lab

from vpccni.cli.app import main
from vpccni.core.block import Block, BlockKind
from vpccni.core.grant import PodIdentity, PodKey
from vpccni.core.pool import Eni, Pool
from vpccni.core.steps import AssignBlocks, Wait
from vpccni.errors import CloudError, NoAddress
from vpccni.ipamd import introspection
from vpccni.ipamd.decisions import Decisions
from vpccni.settings import parse

FULL = CloudError(
    "call ec2:AssignPrivateIpAddresses", "InsufficientFreeAddressesInSubnet: as EC2 words it",
    code="subnet-empty", aws_code="InsufficientFreeAddressesInSubnet", hint="free addresses in it",
)  # fmt: skip


class Daemon:
    """The introspection API of a daemon on a Unix socket, with a pool of one pod."""

    def __init__(self, path: Path) -> None:
        self.now, self.path = 1_700_000_000.0, path
        self.decisions = Decisions(lambda: self.now)
        self.pool = Pool()
        self.pool.add_eni(Eni("eni-1", blocks=(Block(IPv4Network("10.0.0.5/32")),)))
        self.pool.assign(PodKey("aws-cni", "c", "eth0"), PodIdentity("default", "fine"), self.now)
        self.environ = {
            "INTROSPECTION_BIND_ADDRESS": f"unix:{path}",
            "MY_NODE_NAME": "node-a",
            "VPCCNI_LAB_NAME": f"y{os.getpid()}",
        }
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Daemon:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_unused: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        app = introspection.make_app(self.pool, parse({}), lambda: self.now, self.decisions)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.UnixSite(runner, str(self.path)).start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def fill_the_subnet(self) -> None:
        with self.decisions.step(AssignBlocks("eni-1", 3, BlockKind.ADDRESS, "0 of 1 available")):
            self.decisions.ec2_failed(FULL)
        self.decisions.waiting([Wait("subnet-hold", self.now + 10, "subnet-1 had no room")])

    def refuse(self, pod: str) -> None:
        error = NoAddress(
            f"assign an address to {pod}", "all 1 are in use", code="subnet-empty", hint="tag another subnet"
        )
        self.decisions.refused(error, pod, "c9")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "introspection.sock") as made:
        yield made


def test_the_chain_goes_from_the_symptom_to_the_root(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.fill_the_subnet()
    daemon.refuse("default/web-1")
    daemon.refuse("default/web-1")
    for target in ("web-1", "default/web-1", "pod/default/web-1", "node-a", "node/node-a"):
        assert main(["why", target], daemon.environ) == 0
        lines = capsys.readouterr().out.splitlines()
        order = [next(i for i, line in enumerate(lines) if word in line) for word in (
            "default/web-1 on node node-a: refused (subnet-empty), 2 times", "refusal [subnet-empty]",
            "because wait [subnet-hold]", "because ec2 [subnet-empty]", "as EC2 words it",
            "aws_code=InsufficientFreeAddressesInSubnet", "because step [AssignBlocks]", "Next: tag another subnet",
        )]  # fmt: skip
        assert order == sorted(order)


def test_json_has_chain_code_and_next_step(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.fill_the_subnet()
    daemon.refuse("default/web-1")
    assert main(["why", "web-1", "-o", "json"], daemon.environ) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["node"], document["pod"], document["code"]) == ("node-a", "default/web-1", "subnet-empty")
    assert document["open"] is True and document["next"] == "tag another subnet"
    assert [entry["kind"] for entry in document["chain"]] == ["refusal", "wait", "ec2", "step"]


def test_a_pod_that_was_served_since_is_told_so(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.refuse("default/web-1")
    daemon.decisions.served("default/web-1")
    assert main(["why", "web-1"], daemon.environ) == 0
    assert "the pod got an address" in capsys.readouterr().out
    assert main(["why", "web-1", "-o", "json"], daemon.environ) == 0
    assert json.loads(capsys.readouterr().out)["open"] is False


def test_a_pod_that_runs_and_a_node_at_rest_have_nothing_to_explain(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.decisions.waiting([Wait("shrink-interval", None, "later")])
    assert main(["why", "fine"], daemon.environ) == 0
    assert f"default/fine runs on node node-a with {IPv4Address('10.0.0.5')}" in capsys.readouterr().out
    assert main(["why", "node-a", "-o", "json"], daemon.environ) == 0
    assert json.loads(capsys.readouterr().out)["chain"] == []


def test_of_a_node_what_is_open_comes_before_what_is_over(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.decisions.waiting([Wait("eni-limit", None, "all 3 ENIs are attached")])
    daemon.refuse("default/web-1")
    daemon.decisions.served("default/web-1")
    assert main(["why", "node-a", "-o", "json"], daemon.environ) == 0
    assert json.loads(capsys.readouterr().out)["code"] == "eni-limit"
    daemon.refuse("default/web-2")
    assert main(["why", "node-a", "-o", "json"], daemon.environ) == 0
    assert json.loads(capsys.readouterr().out)["pod"] == "default/web-2"
    daemon.now += 3600
    assert main(["why", "node-a", "-o", "json"], daemon.environ) == 0
    assert json.loads(capsys.readouterr().out)["code"] == "eni-limit"


def test_an_unknown_pod_is_refused_with_what_is_known(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.refuse("default/web-1")
    assert main(["why", "default/nobody"], daemon.environ) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "default/fine" in printed.err and "default/web-1" in printed.err and "node-a" in printed.err


def test_a_daemon_that_does_not_answer_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"INTROSPECTION_BIND_ADDRESS": f"unix:{tmp_path / 'none'}", "VPCCNI_LAB_NAME": f"y{os.getpid()}"}
    assert main(["why", "web-1"], environ) == 1
    assert "ipamd.log" in capsys.readouterr().err
    assert main(["why", "web-1", "--introspection", "nowhere"], environ) == 2
    assert main(["why", "web-1", "--node", "other"], environ) == 2


def test_the_introspection_api_refuses_numbers_that_are_none(daemon: Daemon) -> None:
    daemon.refuse("default/web-1")
    for query, status in (("", 200), ("?since=x", 400), ("?limit=-1", 200), ("?limit=1&since=0", 200)):
        answer = asyncio.run(_get(daemon.path, f"/v1/decisions{query}"))
        assert answer[0] == status, query
    assert asyncio.run(_get(daemon.path, "/v1/decisions?limit=1"))[1]["decisions"][0]["pod"] == "default/web-1"


async def _get(path: Path, url: str) -> tuple[int, Any]:
    import aiohttp

    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
        http.get(f"http://localhost{url}") as answer,
    ):
        return answer.status, await answer.json()


# -- in a lab ----------------------------------------------------------------------------------------------------------

TOPOLOGY = """
[vpc]
cidrs = ["10.30.0.0/16"]
[[subnet]]
name = "tiny"
cidr = "10.30.0.0/28"
[[node]]
name = "1"
subnet = "tiny"
[[node]]
name = "2"
subnet = "tiny"
"""


@pytest.mark.lab
def test_in_a_full_subnet_why_names_it_ec2s_words_and_the_next_step(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(TOPOLOGY)
    lab.run("up", "--topology", str(path), "--env", "WARM_IP_TARGET=2")
    names = [f"p{number}" for number in range(12)]
    lab.run("pod", "add", *names, "--node", "1", "--retry", "3", ok=False)
    running = {row["name"] for row in lab.json("pod", "list")}
    refused = sorted(set(names) - running)
    assert refused and running
    document = json.loads(lab.vpccni("why", f"default/{refused[0]}", "-o", "json").stdout)
    assert document["code"] == "subnet-empty" and document["node"] == "1" and document["open"] is True
    assert any("InsufficientFreeAddressesInSubnet" in str(entry) for entry in document["chain"])
    assert "kubernetes.io/role/cni=1" in document["next"]
    assert {entry["kind"] for entry in document["chain"]} >= {"refusal", "wait", "step"}
    for target in (refused[0], "1", "node/1"):
        told = lab.vpccni("why", target)
        assert told.returncode == 0 and "[subnet-empty]" in told.stdout and "Next: " in told.stdout, told
    unknown = lab.vpccni("why", "default/nobody")
    assert unknown.returncode == 2 and refused[0] in unknown.stderr
    assert lab.vpccni("why", refused[0], "--node", "2").returncode == 2  # the other node has never seen it
    assert lab.vpccni("why", refused[0], "--node", "9").returncode == 2
