"""Floor 5: what counters are called where metrics are collected, and what they mean.

Times are in seconds and sizes in bytes.  `asyncio.eventloop` names what any event loop has, as OpenTelemetry's
`nodejs.eventloop` does for another one; `flexsc` what only this one has.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """`name` as in OpenTelemetry, what it counts and its unit (UCUM), and the names of the counts (`counts_of`).

    labels: one for each of the counts, told as the attribute `label`; none if there is but one.
    """

    name: str
    text: str
    unit: str
    counts: tuple[str, ...]
    label: str = ""
    labels: tuple[str, ...] = ()


COUNTERS = (
    Metric("asyncio.eventloop.time", "Time that the event loop has spent in each state", "s",
           ("busy", "asleep", "in_calls"), "asyncio.eventloop.state", ("active", "idle", "syscall")),
    Metric("asyncio.eventloop.turns", "Turns of the event loop", "{turn}", ("turns",)),
    Metric("asyncio.eventloop.callbacks", "Callbacks run and deliveries made", "{callback}",
           ("callbacks", "deliveries"), "asyncio.eventloop.callback.kind", ("callback", "delivery")),
    Metric("asyncio.eventloop.timers", "Timers whose time has come", "{timer}", ("timers_run",)),
    Metric("flexsc.io", "Bytes received and sent by transports and sock_ methods", "By", ("bytes_in", "bytes_out"),
           "network.io.direction", ("receive", "transmit")),
    Metric("flexsc.messages", "Times that something was received or sent", "{message}",
           ("messages_in", "messages_out"), "network.io.direction", ("receive", "transmit")),
    Metric("flexsc.accepts", "Connections that servers have taken", "{connection}", ("accepts",)),
    Metric("flexsc.syscalls", "System calls that the loop's thread has made for I/O and for waiting", "{call}",
           ("syscalls",)),
    Metric("flexsc.entries", "Entries put on the syscall page", "{entry}", ("submitted",)),
    Metric("flexsc.batches", "Times that entries were handed over", "{batch}", ("batches",)),
    Metric("flexsc.completions", "Results taken from the syscall page", "{completion}", ("completions",)),
    Metric("flexsc.wakeups", "Times that a sleeper was woken", "{wakeup}", ("wakeups",)),
    Metric("flexsc.buffer.shortages", "Receives that found no buffer", "{receive}", ("pool_empty",)),
    Metric("flexsc.overflows", "Completions that found no place at first", "{completion}", ("overflows",)),
    Metric("flexsc.executor.jobs", "Calls given to the default executor", "{job}", ("jobs",)),
    Metric("flexsc.executor.completions", "Calls whose result has come back", "{job}", ("jobs_done",)),
    Metric("flexsc.executor.wait", "Time that calls have waited for a worker", "s", ("job_wait",)),
    Metric("flexsc.file.calls", "Calls on files", "{call}", ("files_at_once", "files_queued", "files_by_threads"),
           "flexsc.file.way", ("at_once", "entry", "thread")),
    Metric("flexsc.file.io", "Bytes read from and written to files", "By", ("file_bytes_read", "file_bytes_written"),
           "disk.io.direction", ("read", "write")),
    Metric("flexsc.spins", "Looks for completions before the loop would sleep", "{look}", ("spins",)),
    Metric("flexsc.syscall_thread.cpu.time", "CPU time of the syscall thread, and of those before it", "s",
           ("thread_cpu",)),
    Metric("flexsc.syscall_thread.run_delay", "Time that the syscall thread of now has waited for its CPU", "s",
           ("thread_delay",)),
    Metric("flexsc.scheduler.trials", "Trials of a syscall thread that have ended", "{trial}",
           ("trials_won", "trials_lost", "trials_abandoned"), "flexsc.scheduler.outcome", ("won", "lost", "abandoned")),
    Metric("flexsc.scheduler.alarms", "Times that a syscall thread was stopped since it did not do well", "{alarm}",
           ("alarms_late", "alarms_run_delay", "alarms_throttled", "alarms_steal"), "flexsc.scheduler.cause",
           ("late", "run_delay", "throttled", "steal")),
    Metric("flexsc.scheduler.rests", "Times that a syscall thread was stopped since it had too little to do", "{rest}",
           ("rests",)),
    Metric("flexsc.stalls", "Turns that the watchdog has reported", "{turn}", ("stalls",)),
    Metric("flexsc.switches", "Times that a green thread was resumed", "{switch}", ("switches",)),
)
GAUGES = (
    Metric("asyncio.eventloop.ready", "Callbacks that wait for their turn", "{callback}", ("ready",)),
    Metric("asyncio.eventloop.timers.pending", "Timers that are set", "{timer}", ("timers",)),
    Metric("flexsc.connections", "Open stream connections", "{connection}", ("streams",)),
    Metric("flexsc.connections.tls", "Of the open stream connections, those with TLS", "{connection}", ("tls",)),
    Metric("flexsc.endpoints", "Listening sockets, datagram endpoints and ends of pipes", "{endpoint}",
           ("listeners", "datagrams", "pipes"), "flexsc.endpoint.kind", ("listener", "datagram", "pipe")),
    Metric("flexsc.operations", "Operations in flight", "{operation}", ("in_flight",)),
    Metric("flexsc.syscall_threads", "Syscall threads that serve the page now: 1 or 0", "{thread}", ("threads",)),
    Metric("flexsc.buffers", "Receive buffers in use for receiving", "{buffer}", ("pool_buffers",)),
    Metric("flexsc.green_threads", "Green threads", "{thread}", ("green_threads",)),
)
TURN = ("asyncio.eventloop.turn.duration", "How long turns take, their waits not included")
DELAY = ("asyncio.eventloop.delay", "How long, at most, what a turn found to do had waited for it")
UTILIZATION = ("asyncio.eventloop.utilization", "The share of the time in which the event loop was not idle")
