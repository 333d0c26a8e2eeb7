// SPDX-License-Identifier: Apache-2.0
/* A container runtime as far as CNI sees one: namespaces, then the plugin executed per pod with pipes, timed.
 *
 * Runs where the runtime would (in the node's namespaces). An ADD is measured from before the process is created until
 * its output was read to the end and it was waited for. Then all pods are deleted the same way, which is measured too.
 * usage: spawn PLUGIN NETCONF SOCKET PREFIX PRESENT PODS CALLERS: NETCONF is a file; SOCKET is "-" for the plugin's own.
 * output: "present POD 0 ADDRESS" per unmeasured pod; "add POD TOTAL_NS ADDRESS" and "del POD TOTAL_NS 0" per measured
 * pod; "wall NS", "wall-del NS".
 */
#include "measure.h"

static char *plugin, *socket_path, *prefix;
static char netconf[OUTPUT_BYTES];
static size_t netconf_length;
static uint64_t add_ns[MAX_PODS], del_ns[MAX_PODS];
static char address[MAX_PODS][INET_ADDRSTRLEN];

static int call(const char *command, int pod, char *out, uint64_t *took)
{
    char v[7][256];
    char *argv[] = {plugin, NULL};
    char *envp[] = {v[0], v[1], v[2], v[3], v[4], v[5], v[6], NULL};

    snprintf(v[0], 256, "CNI_COMMAND=%s", command);
    snprintf(v[1], 256, "CNI_CONTAINERID=%s%050d", prefix, pod);
    snprintf(v[2], 256, "CNI_NETNS=/proc/%d/fd/%d", getpid(), pod_ns[pod]);
    snprintf(v[3], 256, "CNI_IFNAME=eth0");
    snprintf(v[4], 256, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=%s-%d;"
             "K8S_POD_INFRA_CONTAINER_ID=%s%050d;K8S_POD_UID=", prefix, pod, prefix, pod);
    snprintf(v[5], 256, "CNI_PATH=/opt/cni/bin");
    if (*socket_path == '-')
        envp[6] = NULL;
    else
        snprintf(v[6], 256, "VPCCNI_SOCKET=%s", socket_path);
    uint64_t start = now_ns();
    int code = run_program(argv, envp, netconf, netconf_length, out);
    *took = now_ns() - start;
    return code;
}

static void add(int pod, int caller)
{
    char out[OUTPUT_BYTES];
    (void)caller;
    if (call("ADD", pod, out, &add_ns[pod]) != 0)
        errx(1, "ADD of pod %d failed: %s", pod, out);
    char *found = strstr(out, "\"ips\"");
    found = found ? strstr(found, "\"address\"") : NULL;
    if (!found || sscanf(found, "\"address\" : \"%15[0-9.]", address[pod]) != 1)
        errx(1, "the result of pod %d has no address: %s", pod, out);
}

static void delete(int pod, int caller)
{
    char out[OUTPUT_BYTES];
    (void)caller;
    if (call("DEL", pod, out, &del_ns[pod]) != 0)
        errx(1, "DEL of pod %d failed: %s", pod, out);
}

static void read_netconf(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        err(2, "cannot read %s", path);
    netconf_length = fread(netconf, 1, sizeof netconf, file);
    fclose(file);
}

int main(int argc, char **argv)
{
    if (argc != 8)
        errx(2, "usage: spawn PLUGIN NETCONF SOCKET PREFIX PRESENT PODS CALLERS");
    plugin = argv[1], socket_path = argv[3], prefix = argv[4];
    read_netconf(argv[2]);
    int present = number_argument(argv[5], "PRESENT", 0), pods = number_argument(argv[6], "PODS", 1);
    int callers = number_argument(argv[7], "CALLERS", 1), all = present + pods;

    create_pod_namespaces(all);
    run_callers(1, 0, present, add);
    uint64_t wall = run_callers(callers, present, all, add);
    /* Against the echo server there is no wiring to look at. */
    for (int pod = 0; *socket_path == '-' && pod < all; pod++)
        if (!pod_holds(pod, inet_addr(address[pod])))
            errx(1, "pod %d does not hold %s, which its result says", pod, address[pod]);
    uint64_t wall_del = run_callers(callers, present, all, delete);
    run_callers(1, 0, present, delete);
    for (int pod = 0; pod < present; pod++)
        printf("present %d 0 %s\n", pod, address[pod]);
    for (int pod = present; pod < all; pod++)
        printf("add %d %lu %s\ndel %d %lu 0\n", pod, add_ns[pod], address[pod], pod, del_ns[pod]);
    printf("wall %lu\nwall-del %lu\n", wall, wall_del);
    return 0;
}
