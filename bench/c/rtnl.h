// SPDX-License-Identifier: Apache-2.0
/* Just enough rtnetlink to write the messages of one pod into one buffer and to wait for the kernel's answer. */
#pragma once
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>

struct batch {
    char bytes[4096];
    size_t used;
    struct nlmsghdr *current;
};

static inline void message(struct batch *b, int type, int flags, const void *body, size_t length)
{
    b->current = (struct nlmsghdr *)(b->bytes + b->used);
    memset(b->current, 0, NLMSG_SPACE(length));
    b->current->nlmsg_type = (uint16_t)type;
    b->current->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
    b->current->nlmsg_len = (uint32_t)NLMSG_LENGTH(length);
    memcpy(NLMSG_DATA(b->current), body, length);
    b->used += NLMSG_SPACE(length);
}

static inline struct rtattr *attribute(struct batch *b, int type, const void *value, size_t length)
{
    struct rtattr *a = (struct rtattr *)(b->bytes + b->used);
    memset(a, 0, RTA_SPACE(length));
    a->rta_type = (uint16_t)type;
    a->rta_len = (uint16_t)RTA_LENGTH(length);
    if (length)
        memcpy(RTA_DATA(a), value, length);
    b->used += RTA_SPACE(length);
    b->current->nlmsg_len = (uint32_t)(b->bytes + b->used - (char *)b->current);
    return a;
}

static inline void attribute32(struct batch *b, int type, uint32_t value) { attribute(b, type, &value, 4); }

static inline struct rtattr *nest(struct batch *b, int type) { return attribute(b, type | NLA_F_NESTED, NULL, 0); }

static inline void end_nest(struct batch *b, struct rtattr *a)
{
    a->rta_len = (uint16_t)(b->bytes + b->used - (char *)a);
}

static inline int route_socket(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        err(1, "cannot open a route socket");
    return fd;
}

/* One sendmsg for the batch. Only the last message asks for an answer; failures of the others answer unasked. */
static inline void run_batch(int fd, struct batch *b, const char *what)
{
    char answer[8192];
    b->current->nlmsg_flags |= NLM_F_ACK;
    b->current->nlmsg_seq = 1;
    if (send(fd, b->bytes, b->used, 0) < 0)
        err(1, "cannot send %s", what);
    for (;;) {
        ssize_t got = recv(fd, answer, sizeof answer, 0);
        if (got < 0)
            err(1, "cannot read the answer to %s", what);
        struct nlmsghdr *h = (struct nlmsghdr *)answer;
        for (int left = (int)got; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            struct nlmsgerr *e = NLMSG_DATA(h);
            if (h->nlmsg_type != NLMSG_ERROR)
                continue;
            if (e->error)
                errx(1, "the kernel refuses %s: %s", what, strerror(-e->error));
            if (h->nlmsg_seq == 1)
                return;
        }
    }
}
