"""Floor 2: a CPU's lease: of all processes of a machine, one has its syscall thread there.

Owns: a Unix socket with an abstract name.  Imports: nothing of the project.  The kernel frees the name when the last
descriptor of the socket is closed, however its process ends: nothing is left to be cleaned up.  Abstract names belong
to a network namespace, so containers with one of their own do not see each other's leases.
"""

from __future__ import annotations

import errno
import socket


class Lease:
    """At most one CPU at a time."""

    def __init__(self) -> None:
        self.cpu: int | None = None
        self._socket: socket.socket | None = None

    def take(self, cpu: int) -> bool:
        """Lease `cpu` instead of what was leased before.  False: somebody else has it, and nothing has changed.

        Where there are no such sockets there is nobody to ask, and every CPU is to be had.
        """
        if self.cpu == cpu:
            return True
        try:
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            self.drop()
            self.cpu = cpu
            return True
        try:
            bound.bind(f"\0flexsc_loop/cpu/{cpu}")
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE:
                return False
            self.drop()
            self.cpu = cpu
            return True
        self.drop()
        self.cpu, self._socket = cpu, bound
        return True

    def drop(self) -> None:
        """Give the CPU back.  In a forked child: only the child's copy goes, and the parent keeps its lease."""
        if self._socket is not None:
            self._socket.close()
        self.cpu = self._socket = None
