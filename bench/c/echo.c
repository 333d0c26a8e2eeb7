// SPDX-License-Identifier: Apache-2.0
/* The least that a daemon can be: reads one relay message, closes the descriptor in it, answers with a fixed result.
 * usage: echo SOCKET; prints "ready" when it listens; ends when stdin does.
 */
#define _GNU_SOURCE
#include <err.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char REPLY[] =
    "0\n{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"eni00000000000\",\"mac\":\"02:00:00:00:00:01\"},"
    "{\"name\":\"eth0\",\"mac\":\"02:00:00:00:00:02\",\"sandbox\":\"/proc/self/ns/net\"}],"
    "\"ips\":[{\"address\":\"10.20.0.1/32\",\"interface\":1}],\"dns\":{}}";

static void answer(int peer)
{
    static char bytes[160 * 1024];
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int passed;

    if (recvmsg(peer, &m, MSG_CMSG_CLOEXEC) < 0)
        err(1, "cannot read a request");
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_type == SCM_RIGHTS) {
        memcpy(&passed, CMSG_DATA(c), sizeof passed);
        close(passed);
    }
    if (send(peer, REPLY, sizeof REPLY - 1, MSG_NOSIGNAL) < 0)
        err(1, "cannot answer");
    close(peer);
}

int main(int argc, char **argv)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    if (argc != 2 || strlen(argv[1]) >= sizeof name.sun_path)
        errx(2, "usage: echo SOCKET");
    strcpy(name.sun_path, argv[1]);
    int server = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (server < 0 || bind(server, (struct sockaddr *)&name, sizeof name) < 0 || listen(server, 128) < 0)
        err(1, "cannot listen on %s", argv[1]);
    puts("ready");
    fflush(stdout);
    struct pollfd ready[] = {{.fd = server, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    while (poll(ready, 2, -1) > 0 && !ready[1].revents)
        if (ready[0].revents) {
            int peer = accept4(server, NULL, NULL, SOCK_CLOEXEC);
            if (peer < 0)
                err(1, "cannot accept");
            answer(peer);
        }
    return 0;
}
