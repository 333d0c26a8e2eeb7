# SPDX-License-Identifier: Apache-2.0
"""`vpccni max-pods`: flags of the classic calculator, what is printed where, exit codes."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from vpccni.cli.app import main


def run(*argv: str, environ: dict[str, str] | None = None) -> int:
    return main(["max-pods", *argv], environ or {})


@pytest.mark.parametrize(
    ("argv", "number"),
    [
        ("--instance-type m7g.large", 29),
        ("--instance-type m5.xlarge", 58),
        ("--instance-type t3.small", 11),
        ("--instance-type m7g.large --cni-prefix-delegation-enabled", 110),
        ("--instance-type m5.xlarge --cni-prefix-delegation-enabled", 110),
        ("--instance-type t3.small --cni-prefix-delegation-enabled", 110),
        ("--instance-type m5.2xlarge --cni-version 1.9.0 --cni-prefix-delegation-enabled", 110),
        ("--instance-type m5.2xlarge --cni-version 1.9.0", 58),
        ("--instance-type m5.large --cni-version 1.8.9 --cni-prefix-delegation-enabled --show-max-allowed", 29),
        ("--instance-type m5.large --cni-version 0.99.0 --cni-prefix-delegation-enabled --show-max-allowed", 29),
        ("--instance-type m5.large --cni-version 2.0.0 --cni-prefix-delegation-enabled --show-max-allowed", 434),
        ("--instance-type m5.large --cni-version 1.10.1-eksbuild.1 --cni-custom-networking-enabled", 20),
        ("--instance-type m5.large --cni-max-eni 2", 20),
        ("--instance-type m5.large --cni-max-eni 0", 2),
        ("--instance-type m5.large --cni-max-eni 0 --cni-custom-networking-enabled", 2),
        ("--instance-type m5.large --cni-max-eni 1 --cni-custom-networking-enabled", 2),
        ("--instance-type m5.large --cni-max-eni 99", 29),
        ("--instance-type m5.24xlarge", 250),
        ("--instance-type m5.24xlarge --show-max-allowed", 737),
        ("--instance-type m5.24xlarge --nodeadm", 737),
        ("--instance-type m5.large --max-pods-expression (default_enis*(ips_per_eni-1))+3", 30),
        ("--instance-type m5.large --max-pods-expression nonsense", 29),
        ("--instance-type m5.metal --cni-prefix-delegation-enabled --show-max-allowed", 737),
        ("--instance-type m5.metal --cni-prefix-delegation-enabled --show-max-allowed --bare-metal-prefixes", 11762),
        ("--instance-type m5.large --security-groups-for-pods", 20),
        ("--instance-type t3.small --security-groups-for-pods", 11),
    ],
)
def test_the_number_stands_alone_on_standard_output(argv: str, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv.split()) == 0
    assert capsys.readouterr().out == f"{number}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--instance-type m4.xlarge --cni-prefix-delegation-enabled", "neither Nitro nor bare metal"),
        ("--instance-type m5.large --cni-version 1.8.9 --cni-prefix-delegation-enabled", "1.9.0"),
        ("--instance-type m5.large --cni-max-eni 9", "changes nothing"),
        ("--instance-type m5.large --cni-max-eni 0", "no limit"),
        ("--instance-type t3.small --security-groups-for-pods", "takes no trunk"),
        ("--instance-type m5.large --max-pods-expression nonsense", "'nonsense' is not known"),
    ],
)
def test_what_was_asked_for_and_does_not_count_is_said(
    argv: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv.split()) == 0
    assert said in capsys.readouterr().err
    assert run("--instance-type", "m5.large", "--cni-prefix-delegation-enabled") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("", "--instance-type"),
        ("--instance-type m5.large --instance-type-from-imds", "either"),
        ("--instance-type m5.huge", "m5.large"),
        ("--instance-type M5.LARGE", "did you mean m5.large?"),
        ("--instance-type nothing-like-it", "lists all"),
        ("--instance-type m5.large --cni-version latest", "MAJOR.MINOR.PATCH"),
        ("--instance-type m5.large --cni-version 1", "MAJOR.MINOR.PATCH"),
        ("--instance-type m5.large --cni-max-eni two", "--cni-max-eni"),
        ("--instance-type m5.large --cni-max-eni -1", "--cni-max-eni"),
        ("--instance-type m5.large --cni-prefix-delegation", "--cni-prefix-delegation"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_code_2(
    argv: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err


def test_help_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("-h", "--help"):
        assert run(flag) == 0
        assert "--instance-type-from-imds" in " ".join(capsys.readouterr().out.split())


def test_json_has_the_parts_of_the_computation(capsys: pytest.CaptureFixture[str]) -> None:
    argv = "--instance-type m5.xlarge --cni-prefix-delegation-enabled --security-groups-for-pods -o json"
    assert run(*argv.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["formula"] == "3 ENIs x 14 prefixes x 16 + 2 = 674"
    assert (document["max_pods"], document["uncapped"], document["cap"]) == (110, 674, 110)
    assert (document["branch_pods"], document["enis"], document["nodeadm"]) == (18, 3, 58)
    assert document["type"] | {"hypervisor": "nitro", "vcpus": 4, "network_cards": [4]} == document["type"]
    assert run(*argv.replace("json", "table").split()) == 0
    assert "674" in capsys.readouterr().out


class _Metadata(http.server.BaseHTTPRequestHandler):
    """As much of a metadata service as tells an instance who it is."""

    answers: ClassVar = {
        "mac": "02:00:00:00:00:01",
        "placement/availability-zone": "us-west-2a",
        "placement/region": "us-west-2",
        "instance-id": "i-1",
        "instance-type": "c7i.xlarge",
        "local-ipv4": "10.0.0.4",
        "network/interfaces/macs/02:00:00:00:00:01/interface-id": "eni-1",
        "network/interfaces/macs/02:00:00:00:00:01/subnet-id": "subnet-1",
        "network/interfaces/macs/02:00:00:00:00:01/vpc-id": "vpc-1",
    }

    def do_PUT(self) -> None:
        self._reply("token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})

    def do_GET(self) -> None:
        path = self.path.removeprefix("/latest/meta-data/").rstrip("/")
        if path.endswith("instance-identity/document"):
            self._reply(json.dumps({"region": "us-west-2"}))
        else:
            self._reply(self.answers[path])

    def _reply(self, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {**(headers or {}), "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_unused: object) -> None:
        pass


@pytest.fixture
def metadata_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metadata)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_type_comes_from_the_metadata_service_on_request(
    metadata_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_url}
    assert run("--instance-type-from-imds", environ=environ) == 0
    assert capsys.readouterr().out == "58\n"
    environ["AWS_EC2_METADATA_DISABLED"] = "true"
    assert run("--instance-type-from-imds", environ=environ) == 1
    assert "AWS_EC2_METADATA_DISABLED" in capsys.readouterr().err
