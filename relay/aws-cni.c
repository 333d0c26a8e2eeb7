// SPDX-License-Identifier: Apache-2.0
/* The CNI plugin that a container runtime executes: it relays one request to the node daemon and prints the answer.
 *
 * One SOCK_SEQPACKET message carries every CNI_* variable, stdin as it is, and the opened CNI_NETNS as a descriptor, so
 * that the daemon needs no path into the host's mounts. What must work without the daemon is answered here: VERSION,
 * STATUS (50), errors (11 = try again), and DEL, which is put on disk for the daemon's next start. The Python twin is
 * src/vpccni/cni/relay.py; one contract suite holds both to the same bytes. Protocol: src/vpccni/cni/wire.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef SOCKET_PATH
#define SOCKET_PATH "/var/run/aws-node/vpccni.sock"
#endif
#ifndef CONNECT_TIMEOUT_S
#define CONNECT_TIMEOUT_S 10 /* a full backlog blocks connect(2) for at most this long */
#endif
#ifndef REPLY_TIMEOUT_S
#define REPLY_TIMEOUT_S 90
#endif
#define QUEUE "vpccni-del-queue"
#define NSFS_SUPER_MAGIC 0x6e736673 /* these two: linux/magic.h, linux/nsfs.h, which musl does not bring */
#define NS_GET_NSTYPE _IO(0xb7, 3)
#define LIMIT (160 * 1024)
#define IDENTIFIER "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
#define STR2(x) #x
#define STR(x) STR2(x)
#define LOOK "see /var/log/aws-routed-eni/ipamd.log"
#define START "start the node daemon (the aws-node pod, or `vpccni ipamd`) and " LOOK "; the runtime tries again"

enum outcome { AWAY = -1, BUSY = -2, BROKEN = -3 };

extern char **environ;
static const char *const versions[] = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
#define N_VERSIONS (sizeof versions / sizeof *versions)

static char request[LIMIT], reply[LIMIT + 1], why[1024]; /* zero pages until touched */
static size_t request_len, stdin_at;
static const char *command, *socket_path;

static int write_all(int fd, const char *data, size_t len) {
    while (len) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno != EINTR) return -1;
        if (n > 0) data += n, len -= (size_t)n;
    }
    return 0;
}

/* The version to answer in: the configuration's own when we speak it. A quoted "cniVersion" cannot occur inside a JSON
 * string (its quotes would be escaped), and a nested prevResult has the same version, so the first match will do. */
static const char *answer_version(void) {
    const char *end = request + request_len, *at = NULL;
    if (stdin_at) at = memmem(request + stdin_at, request_len - stdin_at, "\"cniVersion\"", 12);
    if (at)
        for (at += 12; at < end && strchr(" \t\r\n:", *at) && *at; at++) {}
    for (size_t i = 0; at && i < N_VERSIONS; i++)
        if (end - at > 6 && at[0] == '"' && at[6] == '"' && !memcmp(at + 1, versions[i], 5)) return versions[i];
    return versions[N_VERSIONS - 1];
}

/* Print the CNI error object and exit. What is not printable ASCII becomes \u00XX: JSON, whatever a path holds. */
static _Noreturn void fail(int code, const char *slug, const char *next) {
    static char out[8 * sizeof why];
    int n = sprintf(out, "{\n    \"cniVersion\": \"%s\",\n    \"code\": %d,\n    \"msg\": \"cannot serve ",
                    answer_version(), code);
    char text[sizeof why + 64];
    snprintf(text, sizeof text, "%s: %s", command, why);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        n += sprintf(out + n, *c == '"' || *c == '\\' ? "\\%c" : *c < 0x20 || *c > 0x7e ? "\\u%04x" : "%c", *c);
    n += snprintf(out + n, sizeof out - (size_t)n, "\",\n    \"details\": \"[%s] Next: %s\"\n}", slug, next);
    write_all(1, out, (size_t)n);
    _exit(1);
}

static void because(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
}

static void append(const char *data, size_t len) {
    if (len > LIMIT - request_len) {
        because("environment and network configuration exceed %d bytes", LIMIT);
        fail(7, "request-too-big", "make the network configuration or the pod's annotations smaller");
    }
    memcpy(request + request_len, data, len);
    request_len += len;
}

static void collect_request(void) {
    char chunk[16384];
    append("vpccni/1", 9);
    for (char **entry = environ; *entry; entry++)
        if (!strncmp(*entry, "CNI_", 4) && strchr(*entry, '=')) append(*entry, strlen(*entry) + 1);
    append("", 1);
    stdin_at = request_len;
    for (ssize_t n; (n = read(0, chunk, sizeof chunk)) != 0;) {
        if (n > 0) append(chunk, (size_t)n);
        else if (errno != EINTR) {
            because("standard input: %s", strerror(errno));
            fail(5, "stdin-unreadable", "the runtime must write the network configuration to the plugin's stdin");
        }
    }
}

/* A descriptor of the network namespace at `path`, or -1. O_NONBLOCK: a FIFO must not hang us. */
static int open_namespace(const char *path) {
    struct statfs fs;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        because("CNI_NETNS %s: %s", path, strerror(errno));
        return -1;
    }
    if (!fstatfs(fd, &fs) && fs.f_type == NSFS_SUPER_MAGIC && ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET) return fd;
    because("CNI_NETNS %s: not a network namespace", path);
    close(fd);
    return -1;
}

static int is_one_of(int error, int a, int b, int c) { return error == a || error == b || error == c; }

static int exchange_on(int fd, int netns) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct iovec part = {request, request_len};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    int room = 4 * LIMIT, grown = 0;
    ssize_t n;
    strcpy(address.sun_path, socket_path);
    while (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        if (errno != EINTR) {
            because("no connection to the node daemon at %s: %s", socket_path, strerror(errno));
            return is_one_of(errno, ENOENT, ECONNREFUSED, ECONNRESET) ? AWAY : errno == EAGAIN ? BUSY : BROKEN;
        }
    if (netns >= 0) {
        memcpy(CMSG_DATA(&control.header), &netns, sizeof netns);
        message.msg_control = &control, message.msg_controllen = sizeof control;
    }
    while (sendmsg(fd, &message, MSG_NOSIGNAL) < 0) {
        if (errno == EINTR) continue;
        /* net.core.wmem_default may be smaller than a request. */
        if (errno == EMSGSIZE && !grown++ && (!setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) ||
                                              !setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room)))
            continue;
        because("sending to the node daemon: %s", strerror(errno));
        return is_one_of(errno, EPIPE, ECONNRESET, ENOTCONN) ? AWAY : errno == EAGAIN ? BUSY : BROKEN;
    }
    while ((n = recv(fd, reply, sizeof reply, 0)) < 0 && errno == EINTR) {}
    if (n > 0) return (int)n;
    if (n < 0 && errno == EAGAIN) because("the node daemon did not answer within " STR(REPLY_TIMEOUT_S) " s");
    else because("the node daemon closed the connection without an answer");
    return n < 0 && errno == EAGAIN ? BUSY : n == 0 || errno == ECONNRESET ? AWAY : BROKEN;
}

/* One request, one reply: the reply's length, or an outcome with `why` set. */
static int exchange(int netns) {
    struct timeval connecting = {.tv_sec = CONNECT_TIMEOUT_S}, replying = {.tv_sec = REPLY_TIMEOUT_S};
    if (strlen(socket_path) >= sizeof ((struct sockaddr_un *)0)->sun_path) {
        because("the socket's path is too long: %s", socket_path);
        return BROKEN;
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), outcome;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &connecting, sizeof connecting) ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &replying, sizeof replying)) {
        because("socket: %s", strerror(errno));
        return BROKEN;
    }
    outcome = exchange_on(fd, netns);
    close(fd);
    return outcome;
}

/* What the daemon would have said about variables, for the time that it is not there to say it. */
static void require_variables(void) {
    const char *names[] = {"CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"}, *value;
    int wanted = !strcmp(command, "DEL") ? 2 : !strcmp(command, "ADD") || !strcmp(command, "CHECK") ? 3 : 0;
    char missing[128] = "";
    for (int i = 0; i < wanted; i++)
        if (!(value = getenv(names[i])) || !*value)
            sprintf(missing + strlen(missing), "%s%s is missing", *missing ? "; " : "", names[i]);
    if (!*missing) return;
    because("%s", missing);
    fail(4, "invalid-environment", "the container runtime sets these variables");
}

/* Leave the request in the queue, so that the pod can go while the daemon is away; `path` gets the file's name. Not
 * synced: after a crash of the machine no pod is left whose address could be in use. */
static void queue_del(char *path, size_t size) {
    const char *id = getenv("CNI_CONTAINERID"), *ifname = getenv("CNI_IFNAME"), *slash = strrchr(socket_path, '/');
    const char *base = slash ? socket_path : ".";
    int folder = slash ? (int)(slash - socket_path) : 1, fd;
    char temporary[600];
    /* The specification's rule for container ids, without which the name could lead out of the folder. */
    if (strspn(id, IDENTIFIER) != strlen(id) || strlen(id) > 150 || strchr("_.-", id[0]) || strlen(ifname) > 15 ||
        strchr(ifname, '/')) {
        because("CNI_CONTAINERID %.160s or CNI_IFNAME %.32s cannot be used as a name", id, ifname);
        fail(4, "invalid-environment", "the container runtime sets these variables");
    }
    snprintf(path, size, "%.*s", folder, base);
    mkdir(path, 0755);
    snprintf(path, size, "%.*s/" QUEUE, folder, base);
    mkdir(path, 0700);
    snprintf(temporary, sizeof temporary, "%s/.%s@%s.%d", path, id, ifname, (int)getpid());
    snprintf(path + strlen(path), size - strlen(path), "/%s@%s", id, ifname);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0 && !write_all(fd, request, request_len) && !close(fd) && !rename(temporary, path)) return;
    because("the DEL cannot be queued as %s: %s", path, strerror(errno));
    unlink(temporary);
    fail(5, "del-queue-unwritable", "make room or start the node daemon; the runtime tries again");
}

/* Exit as the reply says: decimal exit code, LF, stdout. */
static _Noreturn void deliver(int len, const char *queued) {
    char *end;
    reply[len < LIMIT ? len : LIMIT] = '\n';
    long code = strtol(reply, &end, 10);
    if (len > LIMIT || reply[0] < '0' || reply[0] > '9' || end >= reply + len || *end != '\n' || code > 255) {
        because("the node daemon's answer is not understood");
        fail(strcmp(command, "STATUS") ? 6 : 50, "malformed-relay-message",
             "plugin and daemon are of different versions: restart the daemon, which installs its plugin");
    }
    if (queued && code == 0) unlink(queued);
    _exit(write_all(1, end + 1, (size_t)(reply + len - end - 1)) ? 1 : (int)code);
}

static void answer_alone(void) {
    static const char about[] = "AWS CNI (vpccni) " VERSION "\n"
                                "CNI protocol versions supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n";
    static const char version[] = "{\n    \"cniVersion\": \"1.1.0\",\n    \"supportedVersions\": [\n"
                                  "        \"0.3.0\",\n        \"0.3.1\",\n        \"0.4.0\",\n"
                                  "        \"1.0.0\",\n        \"1.1.0\"\n    ]\n}";
    static const char *const known[] = {"ADD", "DEL", "CHECK", "GC", "STATUS", NULL};
    if (!command || !*command) _exit(write_all(2, about, sizeof about - 1) ? 1 : 0);
    if (!strcmp(command, "VERSION")) _exit(write_all(1, version, sizeof version - 1) ? 1 : 0);
    for (const char *const *one = known; *one; one++)
        if (!strcmp(command, *one)) return;
    because("CNI_COMMAND %.64s is not one of ADD, DEL, CHECK, GC, STATUS, VERSION", command);
    command = "the request";
    fail(4, "invalid-environment", "use a container runtime that speaks CNI 0.3.0 to 1.1.0");
}

int main(void) {
    command = getenv("CNI_COMMAND");
    socket_path = getenv("VPCCNI_SOCKET") ? getenv("VPCCNI_SOCKET") : SOCKET_PATH; /* the variable is for tests */
    answer_alone();
    collect_request();
    const char *path = getenv("CNI_NETNS");
    char queued[512] = "";
    int del = !strcmp(command, "DEL"), status = !strcmp(command, "STATUS"), netns = -1, len;
    if (path && *path && !status && strcmp(command, "GC")) netns = open_namespace(path);
    /* 4, "invalid environment variable, named in the message", and not 3, "container unknown": 3 tells the runtime to
     * skip DEL, but an earlier attempt may have left an address behind. A DEL goes on: the namespace is often gone. */
    if (*why && !del)
        fail(4, "namespace-unusable", "the container runtime must make the namespace before ADD and keep it until DEL");
    while ((len = exchange(netns)) == AWAY && del && !*queued) {
        require_variables();
        queue_del(queued, sizeof queued);
        /* Once more: the daemon listens before it drains the queue, so either it sees the file or we reach it now. */
    }
    if (len > 0) deliver(len, *queued ? queued : NULL);
    if (*queued && len == AWAY) return 0;
    if (!status) require_variables();
    if (len == BROKEN) fail(status ? 50 : 5, "relay-broken", "run the plugin as root, in the node's own file system");
    if (len == BUSY) fail(status ? 50 : 11, "daemon-busy", LOOK "; the runtime tries again");
    fail(status ? 50 : 11, "daemon-not-ready", START);
}
