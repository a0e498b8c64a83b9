/* Counts the system calls of a running process, thread by thread, with ptrace(2).
 *
 * usage: count_syscalls PID.  Prints "ready", counts until its standard input ends, lets the process go, and prints
 * {"TID": calls, ...}.  Each call stops its thread twice, so this is for counting, not for timing.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_THREADS 256

struct thread {
    pid_t tid;
    int inside;           /* the next stop is the return of a call */
    unsigned long calls;
    int gone;
};

static struct thread threads[MAX_THREADS];
static int thread_count;

static void no_action(int signal)
{
    (void)signal;
}

static struct thread *find(pid_t tid)
{
    for (int i = 0; i < thread_count; i++)
        if (threads[i].tid == tid)
            return &threads[i];
    if (thread_count == MAX_THREADS)
        return NULL;
    threads[thread_count] = (struct thread){.tid = tid};
    return &threads[thread_count++];
}

/* Whether it is one of io_uring's own threads: they make no system calls, and may never stop. */
static int of_io_uring(pid_t pid, pid_t tid)
{
    char path[64], name[5] = "";
    snprintf(path, sizeof path, "/proc/%d/task/%d/comm", pid, tid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    size_t got = fread(name, 1, sizeof name - 1, file);
    fclose(file);
    return got == 4 && strcmp(name, "iou-") == 0;
}

/* Attaches to every thread that can be attached to; returns how many. */
static int attach_all(pid_t pid)
{
    char path[64];
    int attached = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return 0;
    for (struct dirent *entry; (entry = readdir(tasks));) {
        pid_t tid = atoi(entry->d_name);
        if (tid <= 0 || of_io_uring(pid, tid) ||
            ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE) != 0)
            continue;
        ptrace(PTRACE_INTERRUPT, tid, 0, 0);
        find(tid);
        attached++;
    }
    closedir(tasks);
    return attached;
}

/* Handles one stop; returns the signal to deliver. */
static int handle_stop(struct thread *t, int status)
{
    int signal = WSTOPSIG(status), event = status >> 16;
    if (signal == (SIGTRAP | 0x80)) {
        t->inside = !t->inside;
        t->calls += (unsigned long)t->inside;
        return 0;
    }
    return event ? 0 : signal;
}

/* Waits for a stop and lets the thread go on; false when an alarm has ended the wait, or nothing is left to trace. */
static int step(void)
{
    int status;
    pid_t tid = waitpid(-1, &status, __WALL);
    if (tid < 0)
        return 0;
    struct thread *t = find(tid);
    if (!t)
        return 1;
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
        t->gone = 1;
        return 1;
    }
    ptrace(PTRACE_SYSCALL, tid, 0, handle_stop(t, status));
    return 1;
}

/* A thread that does not stop within a second is let go when this process ends. */
static void detach_all(void)
{
    for (int i = 0; i < thread_count; i++) {
        int status;
        struct thread *t = &threads[i];
        alarm(1);
        if (t->gone || ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) != 0 || waitpid(t->tid, &status, __WALL) < 0)
            continue;
        int signal = WIFSTOPPED(status) ? handle_stop(t, status) : 0;
        ptrace(PTRACE_DETACH, t->tid, 0, signal);
    }
}

static int input_ended(void)
{
    char byte;
    return read(0, &byte, 1) == 0;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = no_action};
    if (argc != 2 || atoi(argv[1]) <= 0) {
        fputs("usage: count_syscalls PID\n", stderr);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigaction(SIGALRM, &action, NULL);
    if (fcntl(0, F_SETFL, O_NONBLOCK) != 0 || attach_all(atoi(argv[1])) == 0) {
        printf("ptrace: %s\n", strerror(errno));
        return 1;
    }
    puts("ready");
    fflush(stdout);
    while (!input_ended()) {
        alarm(1); /* an idle process stops nowhere: look at the input all the same */
        for (int i = 0; i < 64; i++)
            if (!step())
                break;
    }
    detach_all();
    printf("{");
    for (int i = 0; i < thread_count; i++)
        printf("%s\"%d\": %lu", i ? ", " : "", threads[i].tid, threads[i].calls);
    printf("}\n");
    return 0;
}
