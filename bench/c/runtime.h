// SPDX-License-Identifier: Apache-2.0
/* What a container runtime does with a CNI plugin: execute it for a pod with pipes, and read the address it answers.
 *
 * The pod's namespace must exist (measure.h). Globals, because each program plays one runtime for one plugin.
 */
#pragma once
#include "measure.h"

static char *plugin, *socket_path, *prefix;
static char netconf[OUTPUT_BYTES];
static size_t netconf_length;
static uint64_t add_ns[MAX_PODS], del_ns[MAX_PODS];
static char address[MAX_PODS][INET6_ADDRSTRLEN];

static inline int call(const char *command, int pod, char *out, uint64_t *took)
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

static inline void add(int pod, int caller)
{
    char out[OUTPUT_BYTES];
    (void)caller;
    if (call("ADD", pod, out, &add_ns[pod]) != 0)
        errx(1, "ADD of pod %d failed: %s", pod, out);
    char *found = strstr(out, "\"ips\"");
    found = found ? strstr(found, "\"address\"") : NULL;
    if (!found || sscanf(found, "\"address\" : \"%45[0-9a-f.:]", address[pod]) != 1)
        errx(1, "the result of pod %d has no address: %s", pod, out);
}

static inline void delete(int pod, int caller)
{
    char out[OUTPUT_BYTES];
    (void)caller;
    if (call("DEL", pod, out, &del_ns[pod]) != 0)
        errx(1, "DEL of pod %d failed: %s", pod, out);
}

static inline void read_netconf(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        err(2, "cannot read %s", path);
    netconf_length = fread(netconf, 1, sizeof netconf, file);
    fclose(file);
}
