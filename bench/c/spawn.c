// SPDX-License-Identifier: Apache-2.0
/* A container runtime as far as CNI sees one: namespaces, then the plugin executed per pod with pipes, timed.
 *
 * Runs where the runtime would (in the node's namespaces). An ADD is measured from before the process is created until
 * its output was read to the end and it was waited for. Then all pods are deleted the same way, which is measured too.
 * usage: spawn PLUGIN NETCONF SOCKET PREFIX PRESENT PODS CALLERS DAEMON_PID: NETCONF is a file; SOCKET is "-" for the
 * plugin's own; DAEMON_PID is the process whose CPU time counts as well, 0 for none.
 * output: "present POD 0 ADDRESS" per unmeasured pod; "add POD TOTAL_NS ADDRESS" and "del POD TOTAL_NS 0" per measured
 * pod; "wall NS", "wall-del NS"; CPU time of runtime, plugin and daemon for all measured pods: "cpu NS", "cpu-del NS".
 */
#include "runtime.h"

static int daemon_pid;

/* CPU time so far of the plugin's processes and of the daemon. The caller's own, which plays the runtime, is in it. */
static uint64_t cpu_ns(void) { return own_cpu_ns() + process_cpu_ns(daemon_pid); }

int main(int argc, char **argv)
{
    if (argc != 9)
        errx(2, "usage: spawn PLUGIN NETCONF SOCKET PREFIX PRESENT PODS CALLERS DAEMON_PID");
    plugin = argv[1], socket_path = argv[3], prefix = argv[4];
    read_netconf(argv[2]);
    int present = number_argument(argv[5], "PRESENT", 0), pods = number_argument(argv[6], "PODS", 1);
    int callers = number_argument(argv[7], "CALLERS", 1), all = present + pods;
    daemon_pid = pid_argument(argv[8]);

    create_pod_namespaces(all);
    run_callers(1, 0, present, add);
    let_rest(present);
    uint64_t cpu = cpu_ns(), wall = run_callers(callers, present, all, add);
    cpu = cpu_ns() - cpu;
    /* Against the echo server there is no wiring to look at. */
    for (int pod = 0; *socket_path == '-' && pod < all; pod++)
        if (!pod_holds(pod, address[pod]))
            errx(1, "pod %d does not hold %s, which its result says", pod, address[pod]);
    uint64_t cpu_del = cpu_ns(), wall_del = run_callers(callers, present, all, delete);
    cpu_del = cpu_ns() - cpu_del;
    run_callers(1, 0, present, delete);
    for (int pod = 0; pod < present; pod++)
        printf("present %d 0 %s\n", pod, address[pod]);
    for (int pod = present; pod < all; pod++)
        printf("add %d %lu %s\ndel %d %lu 0\n", pod, add_ns[pod], address[pod], pod, del_ns[pod]);
    printf("wall %lu\nwall-del %lu\ncpu %lu\ncpu-del %lu\n", wall, wall_del, cpu, cpu_del);
    return 0;
}
