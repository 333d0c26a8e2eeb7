// SPDX-License-Identifier: Apache-2.0
/* What a packet costs on its way through the node, with few pods on it and with many.
 *
 * Runs where the runtime would (in the node's namespaces). FEW pods are added through the plugin and the newest two
 * talk; then pods are added up to MANY and again the newest two talk: in a list of rules theirs are the last. Each time
 * the newest pod also talks to PEER_ADDRESS, which lives in the namespace PEER_NETNS beyond the node's ENI. At the end
 * all pods are deleted.
 * usage: forward PLUGIN NETCONF PREFIX FEW MANY SLICES PEER_NETNS PEER_ADDRESS
 * output: "rr WHERE PODS PER_SECOND" (TCP round trips of one byte) and "pps WHERE PODS PER_SECOND" (datagrams of 64 bytes
 * that arrived) per slice of half a second; WHERE is pod or peer.
 */
#include "runtime.h"
#include <netinet/tcp.h>
#include <poll.h>

#define SLICE_NS 500000000u
#define PORT 7777

struct place {
    int netns;
    const char *address;
};

struct meeting {
    int type; /* SOCK_STREAM or SOCK_DGRAM */
    int listener;
    atomic_ulong received;
};

static socklen_t fill(struct sockaddr_storage *at, const char *text)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)at;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)at;
    memset(at, 0, sizeof *at);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET, v4->sin_port = htons(PORT);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
        errx(2, "%s is no address", text);
    v6->sin6_family = AF_INET6, v6->sin6_port = htons(PORT);
    return sizeof *v6;
}

/* A socket in the namespace of `at`, bound to its address or connected to `to`. */
static int open_socket(struct place at, int type, const char *to)
{
    struct sockaddr_storage where;
    socklen_t length = fill(&where, to ? to : at.address);
    int on = 1;
    enter(at.netns);
    int fd = socket(where.ss_family, type | SOCK_CLOEXEC, 0);
    enter(node_ns);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        err(1, "cannot open a socket");
    if (to ? connect(fd, (struct sockaddr *)&where, length) : bind(fd, (struct sockaddr *)&where, length))
        err(1, "cannot %s %s", to ? "connect to" : "bind", to ? to : at.address);
    if (type == SOCK_STREAM && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        err(1, "cannot switch Nagle off");
    return fd;
}

/* Stream: sends back what it gets, until the client is gone. Datagrams: counts them until an empty one comes. */
static void *serve(void *argument)
{
    struct meeting *m = argument;
    char bytes[2048];
    ssize_t got;
    if (m->type == SOCK_DGRAM) {
        while ((got = recv(m->listener, bytes, sizeof bytes, 0)) > 0)
            atomic_fetch_add_explicit(&m->received, 1, memory_order_relaxed);
        return NULL;
    }
    int fd = accept4(m->listener, NULL, NULL, SOCK_CLOEXEC), on = 1;
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        err(1, "cannot accept");
    while ((got = recv(fd, bytes, sizeof bytes, 0)) > 0)
        if (send(fd, bytes, (size_t)got, MSG_NOSIGNAL) < 0)
            break;
    close(fd);
    return NULL;
}

static unsigned long ping_pong(int fd, uint64_t until)
{
    unsigned long count = 0;
    char byte = 0;
    while (now_ns() < until) {
        if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1)
            err(1, "the exchange broke off");
        count++;
    }
    return count;
}

static void blast(int fd, uint64_t until)
{
    char bytes[64] = {0};
    while (now_ns() < until)
        for (int i = 0; i < 64; i++)
            if (send(fd, bytes, sizeof bytes, 0) < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
                err(1, "cannot send");
}

/* An empty datagram ends the server; several, because the queue may be full. */
static void dismiss(int fd, pthread_t server)
{
    struct timespec pause = {.tv_nsec = 5000000};
    while (pthread_tryjoin_np(server, NULL) == EBUSY) {
        if (send(fd, "", 0, 0) < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
            err(1, "cannot send");
        nanosleep(&pause, NULL);
    }
}

static double slice(struct place from, struct place to, int type)
{
    struct meeting m = {.type = type, .listener = open_socket(to, type, NULL)};
    pthread_t server;
    if (type == SOCK_STREAM && listen(m.listener, 1) < 0)
        err(1, "cannot listen");
    if ((errno = pthread_create(&server, NULL, serve, &m)) != 0)
        err(1, "cannot start a thread");
    int fd = open_socket(from, type, to.address);
    uint64_t start = now_ns(), until = start + SLICE_NS;
    unsigned long count = 0;
    if (type == SOCK_STREAM) {
        count = ping_pong(fd, until);
        start = now_ns() - start;
        shutdown(fd, SHUT_RDWR);
        pthread_join(server, NULL);
    } else {
        blast(fd, until);
        count = atomic_load(&m.received);
        start = now_ns() - start;
        dismiss(fd, server);
    }
    close(fd);
    close(m.listener);
    if (!count)
        errx(1, "nothing came through from %s to %s", from.address, to.address);
    return (double)count * 1e9 / (double)start;
}

static void measure(int pods, int slices, struct place peer)
{
    struct place newest = {pod_ns[pods - 1], address[pods - 1]}, second = {pod_ns[pods - 2], address[pods - 2]};
    for (int i = 0; i < slices; i++) {
        printf("rr pod %d %.1f\n", pods, slice(newest, second, SOCK_STREAM));
        printf("pps pod %d %.1f\n", pods, slice(newest, second, SOCK_DGRAM));
        printf("rr peer %d %.1f\n", pods, slice(newest, peer, SOCK_STREAM));
        printf("pps peer %d %.1f\n", pods, slice(newest, peer, SOCK_DGRAM));
    }
}

int main(int argc, char **argv)
{
    if (argc != 9)
        errx(2, "usage: forward PLUGIN NETCONF PREFIX FEW MANY SLICES PEER_NETNS PEER_ADDRESS");
    plugin = argv[1], prefix = argv[3], socket_path = "-";
    read_netconf(argv[2]);
    int few = number_argument(argv[4], "FEW", 2), many = number_argument(argv[5], "MANY", few);
    int slices = number_argument(argv[6], "SLICES", 1);
    struct place peer = {open(argv[7], O_RDONLY | O_CLOEXEC), argv[8]};
    if (peer.netns < 0)
        err(1, "cannot open %s", argv[7]);

    create_pod_namespaces(many);
    run_callers(1, 0, few, add);
    measure(few, slices, peer);
    run_callers(1, few, many, add);
    measure(many, slices, peer);
    run_callers(1, 0, many, delete);
    return 0;
}
