# SPDX-License-Identifier: Apache-2.0
"""One contract for the two relays, C and Python, against a small real SEQPACKET server.

Every test runs against both. What they do while the daemon is away is in test_relay_alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from relay_harness import (  # noqa: F401 - pytest takes them by name
    NEEDS_ROOT,
    NETCONF,
    ROOT,
    Daemon,
    Relay,
    binaries_fixture,
    error_of,
    namespace_fixture,
    ok,
    relay_fixture,
)

import vpccni
from vpccni import paths
from vpccni.cni import relay as twin
from vpccni.cni.result import render_version
from vpccni.cni.wire import MAX_MESSAGE_BYTES, REPLY_TIMEOUT_S, RelayRequest, encode_reply


def test_a_request_carries_every_cni_variable_and_stdin_and_nothing_else(relay: Relay) -> None:
    with Daemon(relay.socket_path, lambda request, fd: encode_reply(0, b'{"ips": []}')) as daemon:
        done = relay.run("ADD", CNI_PATH="/opt/cni/bin")
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"ips": []}', b"")
    sent = {name: value for name, value in relay.environment("ADD", CNI_PATH="/opt/cni/bin").items() if "CNI_" in name}
    del sent["VPCCNI_SOCKET"]
    assert daemon.requests == [RelayRequest(sent, NETCONF)]


def test_the_daemons_exit_code_and_output_are_the_relays(relay: Relay) -> None:
    with Daemon(relay.socket_path, lambda request, fd: encode_reply(7, b"\x00\xff not json\n")):
        done = relay.run("CHECK")
    assert (done.returncode, done.stdout) == (7, b"\x00\xff not json\n")


@NEEDS_ROOT
@pytest.mark.netns
@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
def test_the_namespace_travels_as_a_descriptor(relay: Relay, namespace: str, command: str) -> None:
    seen: list[int] = []

    def answer(request: RelayRequest, fd: int | None) -> bytes:
        assert fd is not None
        seen.append(os.fstat(fd).st_ino)
        return encode_reply(0, b"")

    with Daemon(relay.socket_path, answer):
        assert relay.run(command, CNI_NETNS=namespace).returncode == 0
    assert seen == [Path(namespace).stat().st_ino] != [Path("/proc/self/ns/net").stat().st_ino]


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize("kind", ["missing", "file", "folder", "fifo", "mount namespace"])
def test_what_is_no_network_namespace_is_refused_with_code_4(
    relay: Relay, tmp_path: Path, command: str, kind: str
) -> None:
    path = tmp_path / "netns"
    if kind == "file":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "mount namespace":
        path = Path("/proc/self/ns/mnt")
    with Daemon(relay.socket_path, ok) as daemon:
        error = relay.error(command, CNI_NETNS=str(path))
    assert error["code"] == 4 and f"CNI_NETNS {path}: " in str(error["msg"]) and error["cniVersion"] == "1.0.0"
    assert daemon.requests == []


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_del_goes_on_without_the_namespace(relay: Relay, tmp_path: Path, kind: str) -> None:
    if kind == "file":  # what stays of a bind mount after a reboot
        (tmp_path / "netns").touch()
    fds: list[int | None] = []
    with Daemon(relay.socket_path, lambda request, fd: (fds.append(fd), encode_reply(0, b""))[1]):
        assert relay.run("DEL", CNI_NETNS=str(tmp_path / "netns")).returncode == 0
    assert fds == [None]


def test_big_configurations_pass_and_too_big_ones_are_refused(relay: Relay) -> None:
    def echo(request: RelayRequest, fd: int | None) -> bytes:
        return encode_reply(0, request.stdin)

    with Daemon(relay.socket_path, echo) as daemon:
        big = NETCONF[:-1] + b', "x": "' + b"y" * 65536 + b'"}'
        assert relay.run("ADD", big).stdout == big
        nearly = b"z" * (MAX_MESSAGE_BYTES - 1024)
        assert relay.run("ADD", nearly).stdout == nearly
        error = relay.error("ADD", NETCONF[:-1] + b" " * MAX_MESSAGE_BYTES + b"}")
    assert error["code"] == 7 and str(MAX_MESSAGE_BYTES) in str(error["msg"]) and len(daemon.requests) == 2


def test_stdin_may_arrive_in_pieces(relay: Relay) -> None:
    with Daemon(relay.socket_path, ok) as daemon:
        process = relay.start("ADD")
        assert process.stdin
        for piece in (NETCONF[:1], NETCONF[1:9], NETCONF[9:]):
            process.stdin.write(piece)
            process.stdin.flush()
            time.sleep(0.03)
        assert process.communicate(timeout=10)[0] == b"abc"
    assert daemon.requests[0].stdin == NETCONF


def test_unreadable_stdin_is_an_io_failure(relay: Relay) -> None:
    with Path(os.devnull).open("wb") as write_only:
        done = subprocess.run(
            [relay.executable], check=False, env=relay.environment("ADD"), stdin=write_only, capture_output=True
        )
    assert error_of(done)["code"] == 5


def test_output_that_nobody_can_read_is_a_failure(relay: Relay) -> None:
    with Daemon(relay.socket_path, ok), Path("/dev/full").open("wb") as full:
        done = subprocess.run([relay.executable], check=False, env=relay.environment("ADD"), input=NETCONF, stdout=full)
    assert done.returncode == 1


def test_being_stopped_and_continued_loses_nothing(relay: Relay) -> None:
    held, release = threading.Event(), threading.Event()

    def slow(request: RelayRequest, fd: int | None) -> bytes:
        held.set()
        release.wait(5)
        return encode_reply(0, b"done")

    with Daemon(relay.socket_path, slow):
        process = relay.start("ADD")
        assert process.stdin
        process.stdin.write(NETCONF)
        process.stdin.close()
        assert held.wait(5)
        while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "S":
            time.sleep(0.001)  # until it sleeps in its receive
        for sent in (signal.SIGSTOP, signal.SIGCONT):  # a receive with a timeout ends with EINTR on these
            process.send_signal(sent)
            time.sleep(0.05)
        release.set()
        assert process.stdout and process.stdout.read() == b"done"
        assert process.wait(5) == 0
        process.stdout.close()


def test_thirty_two_relays_at_once_each_get_their_own_answer(relay: Relay) -> None:
    with Daemon(relay.socket_path, ok):
        running = [relay.start("ADD", CNI_CONTAINERID=f"c{number}") for number in range(32)]
        answers = [process.communicate(NETCONF, timeout=30)[0] for process in running]
    assert answers == [f"c{number}".encode() for number in range(32)]


def test_an_answer_that_is_not_understood_is_an_error(relay: Relay) -> None:
    for reply in (b"0", b"ok\n", b"256\n", b"\n", b" 1\n", b"1 \n"):
        with Daemon(relay.socket_path, lambda request, fd, reply=reply: reply):
            assert (relay.error("ADD")["code"], relay.error("STATUS")["code"]) == (6, 50), reply
        relay.socket_path.unlink()


def test_both_speak_as_the_daemon_does() -> None:
    assert twin.VERSION.decode() == vpccni.__version__
    assert twin.SOCKET_PATH.decode() == str(paths.RELAY_SOCKET)
    assert twin.QUEUE.decode() == paths.DEL_QUEUE.name and paths.DEL_QUEUE.parent == paths.RELAY_SOCKET.parent
    assert (twin.LIMIT, twin.REPLY_TIMEOUT_S) == (MAX_MESSAGE_BYTES, REPLY_TIMEOUT_S)
    source = (ROOT / "relay/aws-cni.c").read_text()
    for line in (f'SOCKET_PATH "{paths.RELAY_SOCKET}"', f"REPLY_TIMEOUT_S {REPLY_TIMEOUT_S}", "LIMIT (160 * 1024)"):
        assert f"#define {line}" in source


def test_version_is_answered_by_the_relay_with_the_daemons_bytes(relay: Relay) -> None:
    done = relay.run("VERSION", b"", CNI_NETNS="/nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (0, render_version(), b"")


def test_version_does_not_wait_for_stdin(relay: Relay) -> None:
    process = relay.start("VERSION")
    assert process.wait(5) == 0
    for pipe in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(BrokenPipeError):
            assert pipe and pipe.close() is None


def test_without_a_command_it_says_what_it_is(relay: Relay) -> None:
    for unset in ("<unset>", ""):
        done = relay.run(unset, b"")
        assert (done.returncode, done.stdout) == (0, b"")
        assert vpccni.__version__.encode() in done.stderr and b"0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in done.stderr


def test_an_unknown_command_is_code_4_and_names_the_variable(relay: Relay) -> None:
    error = relay.error('F"\\\n\x7f')
    assert error["code"] == 4 and 'CNI_COMMAND F"\\\n\x7f is not' in str(error["msg"])
