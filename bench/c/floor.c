// SPDX-License-Identifier: Apache-2.0
/* The floor of an ADD: an empty static program is started and waited for, then C wires the pod.
 *
 * The same messages and sysctls as the product sends for a pod of a secondary ENI in the per-pod layout, in the same
 * order of three sendmsg, with nothing around them: no protocol, no allocation, no journal, no result. In IPv6 those of
 * a pod of the primary ENI, where IPv6 pods live: one rule instead of two, three more sysctls and the link-local
 * address from which the host asks. Runs in a network namespace of its own.
 * usage: floor EMPTY PRESENT PODS CALLERS FAMILY: PRESENT pods first, unmeasured; then PODS, by CALLERS threads, in the
 * address family FAMILY (4 or 6).
 * output: "add POD TOTAL_NS START_NS" per pod, "wall NS", "cpu NS" (of all measured pods), all on stdout.
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

static int family;

/* An address in the one family that this run is about. */
struct ip {
    unsigned char bytes[16];
};

static size_t ip_length(void) { return family == AF_INET ? 4 : 16; }

static struct ip parse_ip(const char *text)
{
    struct ip parsed = {0};
    if (inet_pton(family, text, parsed.bytes) != 1)
        errx(1, "%s is no address", text);
    return parsed;
}

static struct ip address_of(int pod)
{
    struct ip own = parse_ip(family == AF_INET ? "10.20.1.0" : "2001:db8::1:0");
    own.bytes[ip_length() - 2] = (unsigned char)(own.bytes[ip_length() - 2] + (pod >> 8));
    own.bytes[ip_length() - 1] = (unsigned char)pod;
    return own;
}

static struct ip gateway(void) { return parse_ip(family == AF_INET ? "169.254.1.1" : "fe80::1"); }

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

/* The kernel makes no link-local address; it takes that in a change only. */
static void queue_no_link_local(struct batch *b, int pod)
{
    struct ifinfomsg host = {.ifi_index = HOST_INDEX(pod)};
    struct rtattr *families, *ipv6;
    unsigned char none = IN6_ADDR_GEN_MODE_NONE;

    message(b, RTM_SETLINK, 0, &host, sizeof host);
    families = nest(b, IFLA_AF_SPEC);
    ipv6 = nest(b, AF_INET6);
    attribute(b, IFLA_INET6_ADDR_GEN_MODE, &none, 1);
    end_nest(b, ipv6);
    end_nest(b, families);
}

static void queue_route(struct batch *b, const struct ip *dst, uint32_t index, const struct ip *via)
{
    struct rtmsg route = {.rtm_family = (unsigned char)family, .rtm_table = RT_TABLE_MAIN,
                          .rtm_dst_len = dst ? (unsigned char)(8 * ip_length()) : 0,
                          .rtm_protocol = RTPROT_BOOT, .rtm_type = RTN_UNICAST,
                          .rtm_scope = via ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK};
    message(b, RTM_NEWROUTE, CREATE, &route, sizeof route);
    if (dst)
        attribute(b, RTA_DST, dst->bytes, ip_length());
    if (via)
        attribute(b, RTA_GATEWAY, via->bytes, ip_length());
    attribute32(b, RTA_OIF, index);
}

static void queue_rule(struct batch *b, uint32_t priority, unsigned char table, int attr, const struct ip *address)
{
    struct fib_rule_hdr rule = {.family = (unsigned char)family, .table = table, .action = FR_ACT_TO_TBL};
    *(attr == FRA_DST ? &rule.dst_len : &rule.src_len) = (unsigned char)(8 * ip_length());
    message(b, RTM_NEWRULE, CREATE, &rule, sizeof rule);
    attribute(b, attr, address->bytes, ip_length());
    attribute32(b, FRA_PRIORITY, priority);
}

static void queue_inside(struct batch *b, int pod)
{
    struct ip via = gateway(), address = address_of(pod);
    struct ifinfomsg up = {.ifi_index = POD_INDEX, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct ifaddrmsg own = {.ifa_family = (unsigned char)family, .ifa_prefixlen = (unsigned char)(8 * ip_length()),
                            .ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0, .ifa_index = POD_INDEX};
    struct ndmsg neighbour = {.ndm_family = (unsigned char)family, .ndm_ifindex = POD_INDEX,
                              .ndm_state = NUD_PERMANENT};
    unsigned char mac[6];

    mac_of(pod, mac);
    message(b, RTM_NEWLINK, 0, &up, sizeof up);
    message(b, RTM_NEWADDR, CREATE, &own, sizeof own);
    attribute(b, IFA_LOCAL, address.bytes, ip_length());
    attribute(b, IFA_ADDRESS, address.bytes, ip_length());
    queue_route(b, &via, POD_INDEX, NULL);
    queue_route(b, NULL, POD_INDEX, &via);
    message(b, RTM_NEWNEIGH, CREATE, &neighbour, sizeof neighbour);
    attribute(b, NDA_DST, via.bytes, ip_length());
    attribute(b, NDA_LLADDR, mac, 6);
}

static void queue_link_local(struct batch *b, int pod)
{
    unsigned char mac[6], address[16] = {0xfe, 0x80};
    struct ifaddrmsg own = {.ifa_family = AF_INET6, .ifa_prefixlen = 128, .ifa_scope = RT_SCOPE_LINK,
                            .ifa_flags = IFA_F_NODAD, .ifa_index = (uint32_t)HOST_INDEX(pod)};

    mac_of(pod, mac);
    memcpy(address + 8, mac, 3);
    memcpy(address + 11, "\xff\xfe", 2);
    memcpy(address + 13, mac + 3, 3);
    address[8] ^= 2;
    message(b, RTM_NEWADDR, CREATE, &own, sizeof own);
    attribute(b, IFA_LOCAL, address, sizeof address);
    attribute(b, IFA_ADDRESS, address, sizeof address);
    attribute32(b, IFA_FLAGS, IFA_F_NODAD | IFA_F_NOPREFIXROUTE);
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
    struct batch link = {0}, silent = {0}, inside = {0}, outside = {0};
    struct ip own = address_of(pod);

    snprintf(name, sizeof name, "eni%011x", pod);
    queue_link(&link, pod, name);
    run_batch(host, &link, "the link");
    if (family == AF_INET6) {
        queue_no_link_local(&silent, pod);
        run_batch(host, &silent, "the link's setting");
        write_sysctl(name, "accept_ra", "0");
        write_sysctl(name, "accept_redirects", "1");
        write_sysctl(name, "forwarding", "0");
        queue_link_local(&outside, pod);
    } else {
        write_sysctl(name, "disable_ipv6", "1");
    }
    queue_inside(&inside, pod);
    enter(pod_ns[pod]);
    int fd = route_socket();
    enter(node_ns);
    run_batch(fd, &inside, "the pod's objects");
    close(fd);
    queue_route(&outside, &own, (uint32_t)HOST_INDEX(pod), NULL);
    queue_rule(&outside, 512, RT_TABLE_MAIN, FRA_DST, &own);
    if (family == AF_INET)
        queue_rule(&outside, 1536, 2, FRA_SRC, &own);
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

static int family_argument(const char *text)
{
    if (strcmp(text, "4") && strcmp(text, "6"))
        errx(2, "FAMILY is 4 or 6, not %s", text);
    return *text == '4' ? AF_INET : AF_INET6;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        errx(2, "usage: floor EMPTY PRESENT PODS CALLERS FAMILY");
    empty_program = argv[1];
    int present = number_argument(argv[2], "PRESENT", 0), pods = number_argument(argv[3], "PODS", 1);
    int callers = number_argument(argv[4], "CALLERS", 1), all = present + pods;
    family = family_argument(argv[5]);

    prepare_node();
    create_pod_namespaces(all);
    run_callers(1, 0, present, add);
    let_rest(present);
    uint64_t cpu = own_cpu_ns(), wall = run_callers(callers, present, all, add);
    cpu = own_cpu_ns() - cpu;
    for (int pod = 0; pod < all; pod++) {
        char text[INET6_ADDRSTRLEN];
        struct ip own = address_of(pod);
        if (!pod_holds(pod, inet_ntop(family, own.bytes, text, sizeof text)))
            errx(1, "pod %d does not hold its address", pod);
    }
    for (int pod = present; pod < all; pod++)
        printf("add %d %lu %lu\n", pod, total_ns[pod], start_ns[pod]);
    printf("wall %lu\ncpu %lu\n", wall, cpu);
    return 0;
}
