// SPDX-License-Identifier: Apache-2.0
/* What the programs of the benchmark share: the clock, pods' namespaces, a child with pipes, and N callers over a queue.
 *
 * A pod's namespace lives as an open descriptor of this process and nowhere else: nothing is mounted, and all of them
 * are gone, with their links, when the process ends.
 */
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_PODS 2000
#define MAX_CALLERS 64
#define OUTPUT_BYTES 65536
#define REST_S 5

static int node_ns;
static int pod_ns[MAX_PODS];

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of this program and of the children that it has waited for. */
static inline uint64_t own_cpu_ns(void)
{
    uint64_t sum = 0;
    for (int who = RUSAGE_CHILDREN; who <= RUSAGE_SELF; who++) {
        struct rusage use;
        if (getrusage(who, &use) < 0)
            err(1, "cannot read the CPU time");
        sum += (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000000u;
        sum += (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1000u;
    }
    return sum;
}

/* CPU time of all threads of another process; 0 for process 0, which is none. */
static inline uint64_t process_cpu_ns(int pid)
{
    char path[320];
    uint64_t sum = 0;
    if (!pid)
        return 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        err(1, "cannot read %s", path);
    for (struct dirent *each; (each = readdir(tasks));) {
        unsigned long ran = 0;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, each->d_name);
        FILE *file = each->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file && fscanf(file, "%lu", &ran) == 1)
            sum += ran;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return sum;
}

static inline int open_own_namespace(void)
{
    int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(1, "cannot open the own network namespace");
    return fd;
}

static inline void enter(int fd)
{
    if (setns(fd, CLONE_NEWNET) < 0)
        err(1, "cannot enter a network namespace");
}

/* What the container runtime does before it calls a plugin; never inside a measured interval. */
static inline void create_pod_namespaces(int count)
{
    struct rlimit files = {4096, 4096};
    if (count > MAX_PODS)
        errx(2, "cannot make %d pods: at most %d", count, MAX_PODS);
    setrlimit(RLIMIT_NOFILE, &files);
    node_ns = open_own_namespace();
    for (int i = 0; i < count; i++) {
        if (unshare(CLONE_NEWNET) < 0)
            err(1, "cannot create a network namespace");
        pod_ns[i] = open_own_namespace();
        enter(node_ns);
    }
}

/* Whether the pod really holds that address: a benchmark of something that did not happen is worthless. */
static inline int pod_holds(int pod, const char *text)
{
    struct ifaddrs *list, *each;
    char shown[INET6_ADDRSTRLEN];
    int found = 0;
    enter(pod_ns[pod]);
    if (getifaddrs(&list) < 0)
        err(1, "cannot list the addresses of pod %d", pod);
    for (each = list; each; each = each->ifa_next) {
        int family = each->ifa_addr ? each->ifa_addr->sa_family : AF_UNSPEC;
        if ((family != AF_INET && family != AF_INET6) || strcmp(each->ifa_name, "eth0"))
            continue;
        void *raw = family == AF_INET ? (void *)&((struct sockaddr_in *)each->ifa_addr)->sin_addr
                                      : (void *)&((struct sockaddr_in6 *)each->ifa_addr)->sin6_addr;
        found |= inet_ntop(family, raw, shown, sizeof shown) && !strcmp(shown, text);
    }
    freeifaddrs(list);
    enter(node_ns);
    return found;
}

/* Start a program with stdin and stdout as pipes, feed it, read its answer to the end, wait for it: its exit code. */
static inline int run_program(char *const argv[], char *const envp[], const char *in, size_t in_len, char *out)
{
    int to[2], from[2], status;
    size_t have = 0;
    ssize_t got;
    pid_t child;
    posix_spawn_file_actions_t actions;

    if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
        err(1, "cannot make a pipe");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], 0);
    posix_spawn_file_actions_adddup2(&actions, from[1], 1);
    if ((errno = posix_spawn(&child, argv[0], &actions, NULL, argv, envp)) != 0)
        err(1, "cannot start %s", argv[0]);
    posix_spawn_file_actions_destroy(&actions);
    close(to[0]);
    close(from[1]);
    if (in_len && write(to[1], in, in_len) < 0 && errno != EPIPE)
        err(1, "cannot write to %s", argv[0]);
    close(to[1]);
    while (have < OUTPUT_BYTES - 1 && (got = read(from[0], out + have, OUTPUT_BYTES - 1 - have)) > 0)
        have += (size_t)got;
    out[have] = 0;
    close(from[0]);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            err(1, "cannot wait for %s", argv[0]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* N callers take pods from a queue until it is empty. Returns the wall time of all of them in ns. */
static atomic_int next_pod;
static int last_pod;
static void (*pod_job)(int pod, int caller);

static inline void *caller_main(void *number)
{
    int pod;
    while ((pod = atomic_fetch_add(&next_pod, 1)) < last_pod)
        pod_job(pod, (int)(intptr_t)number);
    return NULL;
}

static inline uint64_t run_callers(int callers, int first, int end, void (*job)(int pod, int caller))
{
    pthread_t threads[MAX_CALLERS];
    uint64_t start = now_ns();
    if (callers > MAX_CALLERS)
        errx(2, "cannot run %d callers: at most %d", callers, MAX_CALLERS);
    next_pod = first;
    last_pod = end;
    pod_job = job;
    for (int i = 0; i < callers; i++)
        if ((errno = pthread_create(&threads[i], NULL, caller_main, (void *)(intptr_t)i)) != 0)
            err(1, "cannot start a thread");
    for (int i = 0; i < callers; i++)
        pthread_join(threads[i], NULL);
    return now_ns() - start;
}

/* Pods that are present are at rest: for some seconds after a link has come up the kernel works on with it (duplicate
 * address detection, multicast reports, router solicitations), and the daemon has its events to read. */
static inline void let_rest(int pods)
{
    if (pods > 0)
        sleep(REST_S);
}

static inline int number_argument(const char *text, const char *name, int least)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < least || value > MAX_PODS)
        errx(2, "%s is a number from %d to %d, not %s", name, least, MAX_PODS, text);
    return (int)value;
}

static inline int pid_argument(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < 0 || value > 4194304)
        errx(2, "%s is no process", text);
    return (int)value;
}
