# SPDX-License-Identifier: Apache-2.0
"""The Python twin of the relay (relay/aws-cni.c), for machines without a compiler; same bytes in, same bytes out.

Knows what the C program knows, and imports only modules that are built into the interpreter, because an import costs
more than the whole request. Must never import another module of the package. `cni.install` copies it with a
`#!/usr/bin/python3 -IS` line; the reasons for each answer are told in the C source.
"""

from posix import (
    O_CLOEXEC,
    O_CREAT,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_TRUNC,
    O_WRONLY,
    _exit,
    close,
    environ,
    getpid,
    mkdir,
    open,
    read,
    rename,
    strerror,
    unlink,
    write,
)

VERSION = b"0.1.0"
SOCKET_PATH = b"/var/run/aws-node/vpccni.sock"
CONNECT_TIMEOUT_S = 10
REPLY_TIMEOUT_S = 90
QUEUE = b"vpccni-del-queue"
LIMIT = 160 * 1024
VERSIONS = (b"0.3.0", b"0.3.1", b"0.4.0", b"1.0.0", b"1.1.0")
COMMANDS = (b"ADD", b"DEL", b"CHECK", b"GC", b"STATUS")
IDENTIFIER = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
LOOK = "see /var/log/aws-routed-eni/ipamd.log"
RETRIES = "; the runtime tries again"
START = f"start the node daemon (the aws-node pod, or `vpccni ipamd`) and {LOOK}{RETRIES}"
RUNTIME_SETS = "the container runtime sets these variables"

# linux/magic.h and linux/nsfs.h; linux/sched.h; errno.h (the numbers are those of every Linux architecture with musl).
NS_GET_NSTYPE = 0xB703
CLONE_NEWNET = 0x40000000
ENOENT, EINTR, EAGAIN, EPIPE, EMSGSIZE, ECONNRESET, ENOTCONN, ECONNREFUSED = 2, 4, 11, 32, 90, 104, 107, 111
AWAY, BUSY, BROKEN = "away", "busy", "broken"

Failure = tuple[str, bytes]


def write_all(fd: int, payload: bytes) -> None:
    """Write everything; PEP 475 makes `write` go on after a signal."""
    while payload:
        payload = payload[write(fd, payload) :]


def answer_version(stdin: bytes) -> str:
    """The version to answer in: the configuration's own when we speak it."""
    _, found, rest = stdin.partition(b'"cniVersion"')
    quoted = rest.lstrip(b" \t\r\n:")[:7]
    version = quoted[1:6]
    return (version if found and version in VERSIONS and quoted == b'"%b"' % version else VERSIONS[-1]).decode()


def fail(subject: bytes, why: bytes, stdin: bytes, code: int, slug: str, step: str) -> None:
    """Print the CNI error object and exit."""
    text = b"%b: %b" % (subject[:1023], why[:1023])
    escaped = "".join(
        f"\\{chr(one)}" if one in b'"\\' else chr(one) if 0x20 <= one <= 0x7E else f"\\u{one:04x}"
        for one in text[:1087]
    )
    error = (
        f'{{\n    "cniVersion": "{answer_version(stdin)}",\n    "code": {code},\n    "msg": "cannot serve {escaped}",\n'
        f'    "details": "[{slug}] Next: {step}"\n}}'
    )
    write_all(1, error.encode())
    _exit(1)


def collect(command: bytes) -> tuple[bytes, bytes]:
    """(request message up to stdin, stdin)."""
    head = b"vpccni/1\0"
    for name, value in environ.items():
        if name.startswith(b"CNI_"):
            head += b"%b=%b\0" % (name, value)
    head += b"\0"
    stdin = b""
    try:
        while len(head) + len(stdin) <= LIMIT and (chunk := read(0, 65536)):
            stdin += chunk
    except OSError as error:
        why = b"standard input: " + strerror(error.errno or 0).encode()
        step = "the runtime must write the network configuration to the plugin's stdin"
        fail(command, why, stdin, 5, "stdin-unreadable", step)
    if len(head) + len(stdin) > LIMIT:
        why = b"environment and network configuration exceed %d bytes" % LIMIT
        step = "make the network configuration or the pod's annotations smaller"
        fail(command, why, stdin, 7, "request-too-big", step)
    return head, stdin


def open_namespace(path: bytes) -> tuple[int, bytes]:
    """(descriptor, b"") of the network namespace at `path`, or (-1, why not)."""
    from fcntl import ioctl

    try:
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    except OSError as error:
        return -1, b"CNI_NETNS %b: %b" % (path, strerror(error.errno or 0).encode())
    try:
        if ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET:
            return fd, b""
    except OSError:
        pass
    close(fd)
    return -1, b"CNI_NETNS %b: not a network namespace" % path


def exchange(path: bytes, message: bytes, netns: int) -> bytes | Failure:
    """One request, one reply: the reply, or (outcome, why)."""
    from _socket import AF_UNIX, MSG_NOSIGNAL, SCM_RIGHTS, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_SEQPACKET, SOL_SOCKET, socket

    if len(path) >= 108:
        return BROKEN, b"the socket's path is too long: " + path
    doing = b"socket: "
    try:
        connection = socket(AF_UNIX, SOCK_SEQPACKET)
        connection.setsockopt(SOL_SOCKET, SO_SNDTIMEO, timeval(CONNECT_TIMEOUT_S))
        connection.setsockopt(SOL_SOCKET, SO_RCVTIMEO, timeval(REPLY_TIMEOUT_S))
        doing = b"no connection to the node daemon at %b: " % path
        connection.connect(path)
        doing = b"sending to the node daemon: "
        rights = [(SOL_SOCKET, SCM_RIGHTS, native(netns, 4))] if netns >= 0 else []
        try:
            connection.sendmsg([message], rights, MSG_NOSIGNAL)
        except OSError as error:
            if error.errno != EMSGSIZE:
                raise
            make_room(connection)
            connection.sendmsg([message], rights, MSG_NOSIGNAL)
        doing = b""
        reply = connection.recv(LIMIT + 1)
    except OSError as error:
        number = error.errno or 0
        if doing:
            away = number in (ENOENT, EPIPE, ECONNRESET, ENOTCONN, ECONNREFUSED)
            return AWAY if away else BUSY if number == EAGAIN else BROKEN, doing + strerror(number).encode()
        if number == EAGAIN:
            return BUSY, b"the node daemon did not answer within %d s" % REPLY_TIMEOUT_S
        outcome = AWAY if number == ECONNRESET else BROKEN
        return outcome, b"the node daemon closed the connection without an answer"
    return reply or (AWAY, b"the node daemon closed the connection without an answer")


def native(number: int, size: int) -> bytes:
    """`number` as a C integer of this machine."""
    from sys import byteorder

    return number.to_bytes(size, byteorder)


def timeval(duration_s: int) -> bytes:
    """`struct timeval` with 64-bit fields, as every 64-bit Linux has it."""
    return native(duration_s, 8) + native(0, 8)


def make_room(connection: object) -> None:
    """`net.core.wmem_default` may be smaller than a request."""
    from _socket import SO_SNDBUF, SOL_SOCKET, socket

    so_sndbufforce = 32
    assert isinstance(connection, socket)
    try:
        connection.setsockopt(SOL_SOCKET, so_sndbufforce, 4 * LIMIT)
    except OSError:
        connection.setsockopt(SOL_SOCKET, SO_SNDBUF, 4 * LIMIT)


def missing_variables(command: bytes) -> bytes:
    """What the daemon would have said about variables, for the time that it is not there to say it."""
    names = [b"CNI_CONTAINERID", b"CNI_IFNAME", b"CNI_NETNS"]
    wanted = {b"DEL": 2, b"ADD": 3, b"CHECK": 3}.get(command, 0)
    return b"; ".join(b"%b is missing" % name for name in names[:wanted] if not environ.get(name))


def queue_del(socket_path: bytes, head: bytes, stdin: bytes) -> bytes:
    """Leave the request in the queue and return the file's path, or fail."""
    container_id, ifname = environ[b"CNI_CONTAINERID"], environ[b"CNI_IFNAME"]
    usable = not container_id.strip(IDENTIFIER) and len(container_id) <= 150 and container_id[:1] not in b"_.-"
    if not usable or len(ifname) > 15 or b"/" in ifname:
        why = b"CNI_CONTAINERID %b or CNI_IFNAME %b cannot be used as a name" % (container_id[:160], ifname[:32])
        fail(b"DEL", why, stdin, 4, "invalid-environment", RUNTIME_SETS)
    folder, slash, _ = socket_path.rpartition(b"/")
    folder = folder if slash else b"."
    for path, mode in ((folder, 0o755), (b"%b/%b" % (folder, QUEUE), 0o700)):
        try:  # noqa: SIM105 - contextlib would cost more than the whole request
            mkdir(path, mode)
        except OSError:
            pass
    name = b"%b@%b" % (container_id, ifname)
    final = b"%b/%b/%b" % (folder, QUEUE, name)
    temporary = b"%b/%b/.%b.%d" % (folder, QUEUE, name, getpid())
    try:
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        write_all(fd, head + stdin)
        close(fd)
        rename(temporary, final)
    except OSError as error:
        remove(temporary)
        why = b"the DEL cannot be queued as %b: %b" % (final, strerror(error.errno or 0).encode())
        step = "make room or start the node daemon; the runtime tries again"
        fail(b"DEL", why, stdin, 5, "del-queue-unwritable", step)
    return final


def remove(path: bytes) -> None:
    """Delete a file that may be gone."""
    try:  # noqa: SIM105 - see above
        unlink(path)
    except OSError:
        pass


def deliver(command: bytes, reply: bytes, stdin: bytes, queued: bytes) -> None:
    """Exit as the reply says: decimal exit code, LF, stdout."""
    code, newline, stdout = reply.partition(b"\n")
    if len(reply) > LIMIT or not newline or not code.isdigit() or len(code) > 3 or int(code) > 255:
        step = "plugin and daemon are of different versions: restart the daemon, which installs its plugin"
        why = b"the node daemon's answer is not understood"
        fail(command, why, stdin, 50 if command == b"STATUS" else 6, "malformed-relay-message", step)
    if queued and int(code) == 0:
        remove(queued)
    write_all(1, stdout)
    _exit(int(code))


def answer_alone(command: bytes) -> None:
    """What needs no daemon: the about line, VERSION, and commands that do not exist."""
    if not command:
        listed = b", ".join(VERSIONS)
        write_all(2, b"AWS CNI (vpccni) %b\nCNI protocol versions supported: %b\n" % (VERSION, listed))
        _exit(0)
    if command == b"VERSION":
        listed = b",\n".join(b'        "%b"' % version for version in VERSIONS)
        body = b'{\n    "cniVersion": "1.1.0",\n    "supportedVersions": [\n%b\n    ]\n}' % listed
        write_all(1, body)
        _exit(0)
    if command not in COMMANDS:
        why = b"CNI_COMMAND %b is not one of ADD, DEL, CHECK, GC, STATUS, VERSION" % command[:64]
        step = "use a container runtime that speaks CNI 0.3.0 to 1.1.0"
        fail(b"the request", why, b"", 4, "invalid-environment", step)


def main() -> None:
    """Relay one request."""
    command = environ.get(b"CNI_COMMAND", b"")
    socket_path = environ.get(b"VPCCNI_SOCKET", SOCKET_PATH)
    answer_alone(command)
    head, stdin = collect(command)
    path = environ.get(b"CNI_NETNS", b"")
    unavailable = 50 if command == b"STATUS" else 0
    netns, why = open_namespace(path) if path and command in (b"ADD", b"DEL", b"CHECK") else (-1, b"")
    if why and command != b"DEL":
        step = "the container runtime must make the namespace before ADD and keep it until DEL"
        fail(command, why, stdin, 4, "namespace-unusable", step)
    queued = b""
    answer = exchange(socket_path, head + stdin, netns)
    if answer[0] == AWAY and command == b"DEL" and not missing_variables(command):
        queued = queue_del(socket_path, head, stdin)
        # Once more: the daemon listens before it drains the queue, so either it sees the file or we reach it now.
        answer = exchange(socket_path, head + stdin, netns)
    if isinstance(answer, bytes):
        deliver(command, answer, stdin, queued)
        return
    outcome, why = answer
    if queued and outcome == AWAY:
        _exit(0)
    if missing := missing_variables(command):
        fail(command, missing, stdin, 4, "invalid-environment", RUNTIME_SETS)
    if outcome == BROKEN:
        step = "run the plugin as root, in the node's own file system"
        fail(command, why, stdin, unavailable or 5, "relay-broken", step)
    if outcome == BUSY:
        fail(command, why, stdin, unavailable or 11, "daemon-busy", LOOK + RETRIES)
    fail(command, why, stdin, unavailable or 11, "daemon-not-ready", START)


if __name__ == "__main__":
    try:
        main()
    except OSError:  # stdout is closed: nobody reads an error either
        _exit(1)
