// SPDX-License-Identifier: Apache-2.0
/* The floor of an ADD: an empty static program is started and waited for, then C wires the pod.
 *
 * The same nine messages and three sysctls as the product sends for a pod of a secondary ENI, in the same order of three
 * sendmsg, with nothing around them: no protocol, no allocation, no journal, no result. Runs in a network namespace of its
 * own. usage: floor EMPTY PRESENT PODS CALLERS: PRESENT pods first, unmeasured; then PODS, by CALLERS threads.
 * output: "add POD TOTAL_NS START_NS" per pod, "wall NS", all on stdout.
 */
#include "measure.h"
#include "rtnl.h"

#define CREATE (NLM_F_CREATE | NLM_F_EXCL)
#define HOST_INDEX(pod) (100000 + (pod))
#define POD_INDEX 1000
#define MTU 9001

static char *empty_program;
static uint64_t start_ns[MAX_PODS], total_ns[MAX_PODS];
static int node_socket[MAX_CALLERS];

static in_addr_t address_of(int pod) { return htonl(0x0a140000u + 256u + (uint32_t)pod); }

static void mac_of(int pod, unsigned char mac[6])
{
    unsigned char bytes[6] = {2, 0, 0, 0, (unsigned char)(pod >> 8), (unsigned char)pod};
    memcpy(mac, bytes, 6);
}

static void queue_link(struct batch *b, int pod, const char *name)
{
    struct ifinfomsg host = {.ifi_index = HOST_INDEX(pod), .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct ifinfomsg inside = {.ifi_index = POD_INDEX};
    struct rtattr *info, *veth, *peer;
    unsigned char mac[6];

    mac_of(pod, mac);
    message(b, RTM_NEWLINK, CREATE, &host, sizeof host);
    attribute(b, IFLA_IFNAME, name, strlen(name) + 1);
    attribute(b, IFLA_ADDRESS, mac, 6);
    attribute32(b, IFLA_MTU, MTU);
    attribute32(b, IFLA_TXQLEN, 0);
    attribute32(b, IFLA_NUM_TX_QUEUES, 1);
    attribute32(b, IFLA_NUM_RX_QUEUES, 1);
    info = nest(b, IFLA_LINKINFO);
    attribute(b, IFLA_INFO_KIND, "veth", 5);
    veth = nest(b, IFLA_INFO_DATA);
    peer = attribute(b, VETH_INFO_PEER | NLA_F_NESTED, &inside, sizeof inside);
    attribute(b, IFLA_IFNAME, "eth0", 5);
    attribute32(b, IFLA_MTU, MTU);
    attribute32(b, IFLA_TXQLEN, 0);
    attribute32(b, IFLA_NUM_TX_QUEUES, 1);
    attribute32(b, IFLA_NUM_RX_QUEUES, 1);
    attribute32(b, IFLA_NET_NS_FD, (uint32_t)pod_ns[pod]);
    end_nest(b, peer);
    end_nest(b, veth);
    end_nest(b, info);
}

static void queue_route(struct batch *b, in_addr_t dst, int bits, uint32_t index, in_addr_t gateway)
{
    struct rtmsg route = {.rtm_family = AF_INET, .rtm_dst_len = (unsigned char)bits, .rtm_table = RT_TABLE_MAIN,
                          .rtm_protocol = RTPROT_BOOT, .rtm_type = RTN_UNICAST,
                          .rtm_scope = gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK};
    message(b, RTM_NEWROUTE, CREATE, &route, sizeof route);
    if (bits)
        attribute(b, RTA_DST, &dst, 4);
    if (gateway)
        attribute(b, RTA_GATEWAY, &gateway, 4);
    attribute32(b, RTA_OIF, index);
}

static void queue_rule(struct batch *b, uint32_t priority, unsigned char table, int attr, in_addr_t address)
{
    struct fib_rule_hdr rule = {.family = AF_INET, .table = table, .action = FR_ACT_TO_TBL};
    *(attr == FRA_DST ? &rule.dst_len : &rule.src_len) = 32;
    message(b, RTM_NEWRULE, CREATE, &rule, sizeof rule);
    attribute(b, attr, &address, 4);
    attribute32(b, FRA_PRIORITY, priority);
}

static void queue_inside(struct batch *b, int pod)
{
    in_addr_t gateway = inet_addr("169.254.1.1"), address = address_of(pod);
    struct ifinfomsg up = {.ifi_index = POD_INDEX, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct ifaddrmsg own = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = POD_INDEX};
    struct ndmsg neighbour = {.ndm_family = AF_INET, .ndm_ifindex = POD_INDEX, .ndm_state = NUD_PERMANENT};
    unsigned char mac[6];

    mac_of(pod, mac);
    message(b, RTM_NEWLINK, 0, &up, sizeof up);
    message(b, RTM_NEWADDR, CREATE, &own, sizeof own);
    attribute(b, IFA_LOCAL, &address, 4);
    attribute(b, IFA_ADDRESS, &address, 4);
    queue_route(b, gateway, 32, POD_INDEX, 0);
    queue_route(b, 0, 0, POD_INDEX, gateway);
    message(b, RTM_NEWNEIGH, CREATE, &neighbour, sizeof neighbour);
    attribute(b, NDA_DST, &gateway, 4);
    attribute(b, NDA_LLADDR, mac, 6);
}

static void write_sysctl(const char *name, const char *key, const char *value)
{
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/%s", name, key);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return; /* a kernel without IPv6 */
    if (fd < 0 || write(fd, value, 1) != 1)
        err(1, "cannot write %s", path);
    close(fd);
}

static void wire(int pod, int host)
{
    char name[16];
    struct batch link = {0}, inside = {0}, outside = {0};

    snprintf(name, sizeof name, "eni%011x", pod);
    queue_link(&link, pod, name);
    run_batch(host, &link, "the link");
    write_sysctl(name, "accept_ra", "0");
    write_sysctl(name, "accept_redirects", "1");
    write_sysctl(name, "forwarding", "0");
    queue_inside(&inside, pod);
    enter(pod_ns[pod]);
    int fd = route_socket();
    enter(node_ns);
    run_batch(fd, &inside, "the pod's objects");
    close(fd);
    queue_route(&outside, address_of(pod), 32, (uint32_t)HOST_INDEX(pod), 0);
    queue_rule(&outside, 512, RT_TABLE_MAIN, FRA_DST, address_of(pod));
    queue_rule(&outside, 1536, 2, FRA_SRC, address_of(pod));
    run_batch(host, &outside, "the host's objects");
}

static void add(int pod, int caller)
{
    char *argv[] = {empty_program, NULL}, *envp[] = {NULL}, out[OUTPUT_BYTES];
    if (!node_socket[caller])
        node_socket[caller] = route_socket();
    uint64_t start = now_ns();
    if (run_program(argv, envp, "", 0, out) != 0)
        errx(1, "%s failed", empty_program);
    start_ns[pod] = now_ns() - start;
    wire(pod, node_socket[caller]);
    total_ns[pod] = now_ns() - start;
}

static void prepare_node(void)
{
    struct ifinfomsg loopback = {.ifi_index = 1, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct batch b = {0};
    if (unshare(CLONE_NEWNET) < 0)
        err(1, "cannot create a network namespace (root is needed)");
    int fd = route_socket(), forward = open("/proc/sys/net/ipv4/ip_forward", O_WRONLY | O_CLOEXEC);
    message(&b, RTM_NEWLINK, 0, &loopback, sizeof loopback);
    run_batch(fd, &b, "the loopback device");
    if (forward < 0 || write(forward, "1", 1) != 1)
        err(1, "cannot switch forwarding on");
    close(forward);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        errx(2, "usage: floor EMPTY PRESENT PODS CALLERS");
    empty_program = argv[1];
    int present = number_argument(argv[2], "PRESENT", 0), pods = number_argument(argv[3], "PODS", 1);
    int callers = number_argument(argv[4], "CALLERS", 1), all = present + pods;

    prepare_node();
    create_pod_namespaces(all);
    run_callers(1, 0, present, add);
    uint64_t wall = run_callers(callers, present, all, add);
    for (int pod = 0; pod < all; pod++)
        if (!pod_holds(pod, address_of(pod)))
            errx(1, "pod %d does not hold its address", pod);
    for (int pod = present; pod < all; pod++)
        printf("add %d %lu %lu\n", pod, total_ns[pod], start_ns[pod]);
    printf("wall %lu\n", wall);
    return 0;
}
