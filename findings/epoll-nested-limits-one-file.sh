#!/bin/sh
# Linux: an epoll instance that another one watches takes no more than 500 descriptors of one file; the next is EINVAL.
#
# By itself an instance takes any number of descriptors that dup(2), fork(2) or SCM_RIGHTS made of one open file, and of
# others.  As soon as a second instance watches it (an event loop inside another's, by its backend's descriptor; a
# library that is given "one fd to wait for"), EPOLL_CTL_ADD counts the ways that lead from each open file to an instance
# that nobody watches: 500 over one instance between, 100 over two, 50 over three, 10 over four.  The next one is refused
# with EINVAL, though both descriptors are sound and the same call was good before.  The other way about, an instance
# that has more already cannot be watched, by EINVAL too.  Descriptors of other files are not counted; instances that
# share a file, such as processes with one listening socket, each in a loop within a loop, are counted together.
# epoll_ctl(2) knows EINVAL for other reasons only, and ELOOP for instances too deep in each other; the numbers stand in
# the kernel's fs/eventpoll.c alone.
#
# Seen with CPython 3.11.7's select.epoll, Linux 6.18, x86-64, on 2026-11-29:
#
#   duplicates of one pipe's end, of 3000: watched by nobody 3000; 1 above: 500, EINVAL; 2 above: 100, EINVAL;
#     3 above: 50, EINVAL; 4 above: 10, EINVAL
#   ends of pipes of their own, of 3000, 1 above: 3000
#   one that has 3000 duplicates, then watched: EINVAL; one that has 500: watched
#   one pipe's end in instances of their own, all watched by another: 500, EINVAL
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/program.py" <<'PROGRAM'
import errno
import itertools
import os
import resource
import select
import sys

MANY = 3000
resource.setrlimit(resource.RLIMIT_NOFILE, (min(3 * MANY, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)


class Fds:
    """Descriptors for one test: closed after it."""

    def __enter__(self):
        self.fds, self.epolls = [], []
        return self

    def __exit__(self, *_):
        for fd in self.fds:
            os.close(fd)
        for one in self.epolls:
            one.close()

    def epoll(self):
        self.epolls.append(select.epoll())
        return self.epolls[-1]

    def pipe(self):
        self.fds += os.pipe()
        return self.fds[-2]

    def duplicates(self):
        first = self.pipe()
        while True:
            self.fds.append(os.dup(first))
            yield self.fds[-1]


def watched(epoll, fds, limit=MANY):
    """How many of them it takes, and the error of the next."""
    count = 0
    for fd in itertools.islice(fds, limit):
        try:
            epoll.register(fd, select.EPOLLIN)
        except OSError as error:
            return count, errno.errorcode[error.errno]
        count += 1
    return count, None


def below(fds, depth):
    """An instance with so many above it, each watching the next."""
    inner = one = fds.epoll()
    for _ in range(depth):
        above = fds.epoll()
        above.register(one, select.EPOLLIN)
        one = above
    return inner


by_depth = []
for depth in range(5):
    with Fds() as fds:
        by_depth.append(watched(below(fds, depth), fds.duplicates()))
with Fds() as fds:
    apart = watched(below(fds, 1), iter(fds.pipe, None))
later = []
for count in (MANY, 500):
    with Fds() as fds:
        inner = fds.epoll()
        watched(inner, fds.duplicates(), count)
        later.append(watched(fds.epoll(), [inner.fileno()]))
with Fds() as fds:
    end, outer = fds.pipe(), fds.epoll()

    def instances():
        while True:
            one = fds.epoll()
            outer.register(one, select.EPOLLIN)
            yield one

    shared = 0, None
    for one in itertools.islice(instances(), 1000):
        count, error = watched(one, [end])
        shared = shared[0] + count, error
        if error:
            break


def told(result):
    return f"{result[0]}, {result[1]}" if result[1] else str(result[0])


print(f"duplicates of one pipe's end, of {MANY}: watched by nobody {told(by_depth[0])}; "
      + "; ".join(f"{depth} above: {told(by_depth[depth])}" for depth in range(1, 5)))
print(f"ends of pipes of their own, of {MANY}, 1 above: {told(apart)}")
print(f"one that has {MANY} duplicates, then watched: {later[0][1]}; one that has 500: {later[1][1] or 'watched'}")
print(f"one pipe's end in instances of their own, all watched by another: {told(shared)}")
expected = [(MANY, None), (500, "EINVAL"), (100, "EINVAL"), (50, "EINVAL"), (10, "EINVAL")]
as_described = by_depth == expected and apart == (MANY, None) and later == [(0, "EINVAL"), (1, None)]
sys.exit(0 if as_described and shared == (500, "EINVAL") else 1)
PROGRAM
python3 "$folder/program.py"
