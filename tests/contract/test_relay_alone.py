# SPDX-License-Identifier: Apache-2.0
"""The contract of both relays for the time that the daemon is away, busy, or dies with a request in its hands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_harness import NETCONF, Daemon, Relay, binaries_fixture, error_of, ok, relay_fixture  # noqa: F401 - pytest takes them by name

from vpccni.cni.wire import RelayRequest, decode_request, encode_reply

OWN_NETNS = "/proc/self/ns/net"
AWAY = pytest.mark.parametrize("how", ["no socket", "nobody listens", "dies after reading", "dies before reading"])


@contextlib.contextmanager
def absence(relay: Relay, how: str) -> Iterator[None]:
    """The daemon is away in one of four ways."""
    if how == "no socket":
        yield
    elif how == "dies after reading":
        with Daemon(relay.socket_path, lambda request, fd: None):
            yield
    else:
        relay.socket_path.parent.mkdir(exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(relay.socket_path))
            if how == "dies before reading":
                listener.listen(8)
                threading.Thread(target=close_each, args=[listener], daemon=True).start()
            yield
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def close_each(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            time.sleep(0.05)  # the request is in the receive buffer now: the close resets the connection
            connection.close()


@AWAY
def test_add_check_and_gc_say_try_again_later_with_a_next_step(relay: Relay, how: str, tmp_path: Path) -> None:
    with absence(relay, how):
        for command in ("ADD", "CHECK", "GC"):
            error = relay.error(command, CNI_NETNS=OWN_NETNS)
            assert (error["code"], error["cniVersion"]) == (11, "1.0.0"), error
            assert "[daemon-not-ready] Next: start the node daemon" in str(error["details"])
    assert relay.queued() == []


@AWAY
def test_status_says_not_available(relay: Relay, how: str) -> None:
    with absence(relay, how):
        error = relay.error("STATUS", b'{"cniVersion" : "1.1.0", "name": "aws-cni", "type": "aws-cni"}')
    assert (error["code"], error["cniVersion"]) == (50, "1.1.0")


@AWAY
def test_del_succeeds_and_is_queued_as_the_message_that_was_not_delivered(relay: Relay, how: str) -> None:
    with absence(relay, how):
        for _ in range(2):  # a second DEL replaces the first
            done = relay.run("DEL", CNI_NETNS=OWN_NETNS)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert relay.queued() == ["abc@eth0"]
    queued = decode_request((relay.queue / "abc@eth0").read_bytes())
    assert (queued.command, queued.env["CNI_CONTAINERID"], queued.stdin) == ("DEL", "abc", NETCONF)
    assert relay.queue.stat().st_mode & 0o777 == 0o700
    assert (relay.queue / "abc@eth0").stat().st_mode & 0o777 == 0o600


def test_a_del_answered_by_the_daemon_is_not_queued(relay: Relay) -> None:
    with Daemon(relay.socket_path, ok):
        assert relay.run("DEL").returncode == 0
    assert relay.queued() == []


@pytest.mark.parametrize(("exit_code", "left"), [(0, []), (1, ["abc@eth0"])])
def test_a_del_that_reaches_the_daemon_after_all_leaves_the_queue(
    relay: Relay, exit_code: int, left: list[str]
) -> None:
    """The daemon dies on the first try and is back for the second: the entry stays only when the DEL failed again."""
    replies: list[bytes | None] = [None, encode_reply(exit_code, b"{}")]
    seen: list[list[str]] = []

    def answer(request: RelayRequest, fd: int | None) -> bytes | None:
        seen.append(relay.queued())
        return replies[len(seen) - 1]

    with Daemon(relay.socket_path, answer):
        assert relay.run("DEL").returncode == exit_code
    assert seen == [[], ["abc@eth0"]] and relay.queued() == left


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("ADD", ["CONTAINERID", "IFNAME", "NETNS"]),
        ("CHECK", ["CONTAINERID", "IFNAME", "NETNS"]),
        ("DEL", ["CONTAINERID", "IFNAME"]),
    ],
)
def test_missing_variables_are_named_all_at_once_when_the_daemon_is_away(
    relay: Relay, command: str, names: list[str]
) -> None:
    unset = {f"CNI_{name}": value for name, value in zip(names, ["<unset>", "", "<unset>"], strict=False)}
    error = relay.error(command, **unset)
    assert error["code"] == 4
    assert error["msg"] == f"cannot serve {command}: " + "; ".join(f"CNI_{name} is missing" for name in names)
    assert relay.queued() == []


def test_missing_variables_are_the_daemons_to_report_when_it_is_there(relay: Relay) -> None:
    with Daemon(relay.socket_path, lambda request, fd: encode_reply(1, b"daemon speaks")) as daemon:
        assert relay.run("ADD", CNI_CONTAINERID="<unset>").stdout == b"daemon speaks"
    assert "CNI_CONTAINERID" not in daemon.requests[0].env


@pytest.mark.parametrize("name", ["../../etc/x", "a/b", "-a", ".a", "a b", "a" * 151, "a\n"])
def test_a_container_id_that_is_no_identifier_never_becomes_a_file_name(relay: Relay, name: str) -> None:
    error = relay.error("DEL", CNI_CONTAINERID=name)
    assert error["code"] == 4 and "CNI_CONTAINERID" in str(error["msg"]) and relay.queued() == []
    assert relay.error("DEL", CNI_IFNAME="../x")["code"] == 4


def test_a_queue_that_cannot_be_written_fails_the_del(relay: Relay) -> None:
    relay.socket_path.parent.mkdir()
    relay.queue.write_text("a file is in the way")
    error = relay.error("DEL")
    assert error["code"] == 5 and "cannot be queued" in str(error["msg"])
    relay.queue.unlink()
    (relay.queue / "abc@eth0").mkdir(parents=True)
    assert relay.error("DEL")["code"] == 5
    assert relay.queued() == ["abc@eth0"], "the temporary file is removed"


def test_a_daemon_that_never_answers_is_given_up_and_the_del_is_not_queued(relay: Relay) -> None:
    release = threading.Event()

    def wedged(request: RelayRequest, fd: int | None) -> None:
        release.wait(10)

    with Daemon(relay.socket_path, wedged):
        running = {command: relay.start(command, CNI_NETNS=OWN_NETNS) for command in ("ADD", "DEL", "STATUS")}
        done = {command: process.communicate(NETCONF, timeout=10) for command, process in running.items()}
        release.set()
    for command, process in running.items():
        error = error_of(subprocess.CompletedProcess([], process.returncode, *done[command]))
        assert error["code"] == (50 if command == "STATUS" else 11)
        assert "[daemon-busy]" in str(error["details"]) and "did not answer within 1 s" in str(error["msg"])
    assert relay.queued() == []


@pytest.mark.parametrize("recovers", [True, False])
def test_a_full_backlog_is_waited_for_but_not_for_ever(relay: Relay, recovers: bool) -> None:
    relay.socket_path.parent.mkdir()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind(str(relay.socket_path))
        listener.listen(0)
        while True:
            filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            filler.setblocking(False)
            try:
                filler.connect(str(relay.socket_path))
            except BlockingIOError:
                break
        process = relay.start("ADD", CNI_NETNS=OWN_NETNS)
        assert process.stdin
        process.stdin.write(NETCONF)
        process.stdin.close()
        process.stdin = None
        time.sleep(0.2)
        if recovers:
            accepted = [stack.enter_context(listener.accept()[0])]
            accepted.append(stack.enter_context(listener.accept()[0]))
            assert decode_request(accepted[1].recv(1 << 18)).stdin == NETCONF
            accepted[1].send(encode_reply(0, b"late"))
        out, err = process.communicate(timeout=10)
        if recovers:
            assert (process.returncode, out) == (0, b"late")
        else:
            error = error_of(subprocess.CompletedProcess([], process.returncode, out, err))
            assert error["code"] == 11 and "[daemon-busy]" in str(error["details"])


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("command", ["ADD", "DEL", "STATUS"])
def test_who_may_not_use_the_socket_is_told_so(relay: Relay, command: str) -> None:
    folder = relay.executable.parent / "run"  # pytest's own folders are closed to other users
    folder.mkdir(mode=0o755)
    try:
        with Daemon(folder / "vpccni.sock", ok) as daemon:
            (folder / "vpccni.sock").chmod(0o600)
            env = relay.environment(command, CNI_NETNS=OWN_NETNS, VPCCNI_SOCKET=str(folder / "vpccni.sock"))
            nobody = {"user": 65534, "group": 65534, "extra_groups": []}
            run = {"env": env, "input": NETCONF, "capture_output": True}
            denied = subprocess.run([relay.executable], check=False, **run, **nobody)
            assert daemon.requests == []
            assert subprocess.run([relay.executable], check=False, **run).returncode == 0, "root may"
        error = error_of(denied)
        assert error["code"] == (50 if command == "STATUS" else 5)
        assert "Permission denied" in str(error["msg"]) and not (folder / "vpccni-del-queue").exists()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{ "name": "x",\n "cniVersion"\t: \r\n"0.3.1"}', "0.3.1"),
        (b'{"cniVersions": ["0.4.0"], "cniVersion": "1.0.0"}', "1.0.0"),
        (b'{"note": "\\"cniVersion\\": \\"0.3.0\\"", "cniVersion": "1.0.0"}', "1.0.0"),
        (b'{"cniVersion": "9.9.9"}', "1.1.0"),
        (b'{"cniVersion": "0.4.01"}', "1.1.0"),
        (b'{"cniVersion":', "1.1.0"),
        (b"", "1.1.0"),
        (b"\x00\xff", "1.1.0"),
    ],
)
def test_errors_are_in_the_callers_version_when_it_is_one_of_ours(relay: Relay, stdin: bytes, version: str) -> None:
    assert relay.error("ADD", stdin, CNI_NETNS="/nowhere")["cniVersion"] == version


def test_whatever_a_path_holds_the_error_is_json_and_the_same_from_both(
    binaries: dict[str, Path], tmp_path: Path
) -> None:
    if len(binaries) < 2:
        pytest.skip("no C compiler")
    relays = [Relay(executable, tmp_path / "vpccni.sock") for executable in binaries.values()]
    cases: list[tuple[str, bytes, dict[str, str]]] = [
        ("ADD", NETCONF, {"CNI_NETNS": '/a"b\\c\n\x01\x7f\udcff\u00e9/' + "x" * 3000}),
        ("ADD", NETCONF, {"CNI_NETNS": "/proc/self/ns/mnt"}),
        ("ADD", b" " * 200_000, {}),
        ("ADD", NETCONF, {"CNI_IFNAME": ""}),
        ("DEL", NETCONF, {"CNI_CONTAINERID": "../" + "y" * 300}),
        ("GC", NETCONF, {"VPCCNI_SOCKET": "/" + "s" * 120}),
        ("STATUS", NETCONF, {}),
        ("X" * 100, NETCONF, {}),
        ("VERSION", NETCONF, {}),
    ]
    for command, stdin, variables in cases:
        outputs = [relay.run(command, stdin, **variables) for relay in relays]
        assert outputs[0].stdout == outputs[1].stdout and json.loads(outputs[0].stdout), command
        assert outputs[0].returncode == outputs[1].returncode
