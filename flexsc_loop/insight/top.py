"""Floor 5: `python -m flexsc_loop top`: all loops of this user's processes, live.

Owns: the terminal while it runs.  Imports: rates; rich, which is optional, for everything but --json.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flexsc_loop.insight.rates import LONG_TURN, View, Watch, peers

if TYPE_CHECKING:
    from rich.console import RenderableType

HINT = "top needs rich: pip install 'flexsc_loop[top]' (or use --json, which does not)"
NOTHING = "No loop of this version of flexsc_loop runs there, as far as you may look."
SORTS: dict[str, tuple[str, Callable[[View], Any]]] = {
    "b": ("busy", lambda view: -view.busy),
    "l": ("lag", lambda view: -view.lag.quantile(0.99)),
    "t": ("turns", lambda view: -view.rate("turns")),
    "s": ("syscalls", lambda view: -view.rate("syscalls")),
    "c": ("connections", lambda view: -view.stats.counts["streams"]),
    "p": ("process", lambda view: (view.pid, view.stats.number)),
}
HELP = "q quit  ⏎ open  esc back  ↑↓ choose  b busy l lag t turns s calls c conn p PID"
#: What keys send: one piece of what was read at once may be several of them.
KEYS = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO.|.", re.DOTALL)
MOVES = {"\x1b[A": -1, "\x1bOA": -1, "k": -1, "\x1b[B": 1, "\x1bOB": 1, "j": 1, "\x1b[5~": -10, "\x1b[6~": 10}
COLUMNS = ("PID", "loop", "page", "state", "busy", "turns/s", "calls/s", "lag p50", "lag p99", "in/s", "out/s", "conn",
           "runs", "command")
LEFT = ("page", "state", "runs", "command")
#: Columns that go first where the terminal is narrow: what blocks, and whom, is the last to go.
DISPENSABLE = ("out/s", "in/s", "lag p50", "calls/s", "page", "turns/s", "conn", "loop")
WIDE_ENOUGH = 24  # for the two last columns together
#: What the kernel's letters for a thread mean (ps(1)).
THREAD_STATES = {
    "R": "runs, or waits for a CPU", "S": "sleeps", "D": "waits for a device", "T": "stopped by a signal",
    "t": "stopped by a debugger", "Z": "has ended",
}


def seconds(value: float) -> str:
    """A time in three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}" if value * factor < 999.5 else f"{value * factor:.0f} {unit}"
    return f"{value * 1e9:.0f} ns" if value else "0"


def amount(value: float) -> str:
    """A number in three digits."""
    for unit in ("", "k", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}P"


def _state(view: View) -> str:
    if view.halted:
        return "STOPPED"
    if view.blocked:
        return f"BLOCKED {seconds(view.blocked)}"
    return view.stats.state


def _cells(view: View) -> list[str]:
    stats = view.stats
    served = stats.pages + ("" if not stats.threads else "+cpu" if stats.cpu is None else f"+cpu{stats.cpu}")
    return [
        str(view.pid), str(stats.number), served, _state(view), f"{view.busy:.0%}", amount(view.rate("turns")),
        amount(view.rate("syscalls")), seconds(view.lag.quantile(0.5)), seconds(view.lag.quantile(0.99)),
        amount(view.rate("bytes_in")), amount(view.rate("bytes_out")), amount(stats.counts["streams"]),
        stats.running, view.command,
    ]


def _widths(rows: list[list[str]], width: int) -> dict[str, int]:
    """Of the columns that are shown: what they need, and the last two share what is left."""
    from rich.cells import cell_len

    found = {name: max(cell_len(row[at]) for row in rows) for at, name in enumerate(COLUMNS)}

    def left() -> int:
        return width - sum([found[name] for name in found][:-2]) - 2 * (len(found) - 1)

    for name in DISPENSABLE:
        if left() >= min(WIDE_ENOUGH, found["runs"] + found["command"]):
            break
        del found[name]
    runs, command = found["runs"], found["command"]
    found["runs"] = min(runs, max(left() - command, left() // 2, 4))
    found["command"] = max(4, left() - found["runs"])
    return found


def _line(cells: list[str], widths: dict[str, int]) -> str:
    from rich.cells import cell_len, set_cell_size

    parts = []
    for name, cell in zip(COLUMNS, cells, strict=True):
        if name not in widths:
            continue
        width = widths[name]
        if cell_len(cell) > width:
            parts.append(set_cell_size(cell, width - 1) + "…")
        else:
            gap = " " * (width - cell_len(cell))
            parts.append(cell + gap if name in LEFT else gap + cell)
    return "  ".join(parts)


def _table(views: list[View], sort: str, chosen: int | None, width: int, room: int | None) -> RenderableType:
    """Lines of text: rich's own tables take ten times as long, and that every second."""
    from rich.text import Text

    if not views:
        return Text(NOTHING + ("" if room is None else "\n\nq quit"))
    first = 0 if room is None or chosen is None else max(0, min(chosen - room // 2, len(views) - room))
    shown = views[first:] if room is None else views[first : first + room]
    rows = [list(COLUMNS), *(_cells(view) for view in shown)]
    widths = _widths(rows, width)
    count = f"{len(views)} loop" + "s" * (len(views) != 1)
    some = f", {first + 1} to {first + len(shown)}" if len(shown) < len(views) else ""
    picture = Text(f"{count}, by {SORTS[sort][0]}{some}\n\n", no_wrap=True, overflow="crop")
    picture.append(_line(rows[0], widths) + "\n", "bold")
    for at, view in enumerate(shown):
        style = "reverse" if first + at == chosen else "bold red" if view.blocked or view.halted else ""
        picture.append(_line(rows[at + 1], widths) + "\n", style)
    if room is not None:
        picture.append("\n" + HELP, "dim")
    return picture


def _detail(view: View) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = view.data()
    table = Table(box=box.SIMPLE, show_header=False, title=f"loop {found['loop']} of process {view.pid}",
                  caption="esc back  q quit")
    table.add_column()
    table.add_column(overflow="fold")

    def shares(pair: tuple[float, float] | None) -> str:
        return "-" if pair is None else f"{pair[0]:.1%} CPU, {pair[1]:.1%} waiting for one"

    rows: list[tuple[str, str]] = [
        ("command", view.command), ("Python", found["python"]), ("state", _state(view)),
        ("runs", found["running"] or "-"), ("served", found["reason"]), ("busy", f"{view.busy:.1%}"),
        ("its thread", f"{THREAD_STATES.get(view.thread_state, '-')}, {shares(found['loop_thread'])}"),
        ("syscall thread", shares(found["syscall_thread_time"])),
        *((name, "  ".join(f"{key} {seconds(value)}" for key, value in found[name].items())) for name in
          ("turn", "lag")),
        ("a second", "  ".join(f"{key} {amount(value)}" for key, value in found["rates"].items() if value) or "-"),
        ("a batch", "  ".join(f"{key} {amount(value)}" for key, value in found["batch"].items())),
        ("now", "  ".join(f"{key} {value}" for key, value in found["now"].items() if value) or "-"),
        ("connected", "  ".join(f"{address} ×{count}" for address, count in list(peers(view.pid))[:20]) or "-"),
    ]
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


class Screen:
    """What is shown, and what keys change.

    What is chosen is a loop, not a line: it stays the same when others change places with it.
    """

    def __init__(self, watch: Watch, sort: str) -> None:
        self._watch = watch
        self._sort = sort
        self._chosen = 0
        self._chosen_loop: tuple[int, int] | None = None
        self._open: tuple[int, int] | None = None
        self._views: list[View] = []

    def look(self) -> None:
        """See what loops do now."""
        self._views = self._watch.look()
        self._order()

    def show(self, width: int, height: int) -> RenderableType:
        """The picture for a terminal of so many columns and lines."""
        for view in self._views:
            if _key(view) == self._open:
                return _detail(view)
        self._open = None
        return _table(self._views, self._sort, self._chosen, width, max(1, height - 6))

    def press(self, key: str) -> bool:
        """Returns whether to go on."""
        if key == "q":
            return False
        if key in SORTS:
            self._sort = key
            self._order()
        elif key in MOVES:
            self._choose(self._chosen + MOVES[key])
        elif key in ("\r", "\n"):
            self._open = self._chosen_loop
        elif key == "\x1b":
            self._open = None
        return True

    def _order(self) -> None:
        self._views.sort(key=SORTS[self._sort][1])
        found = [at for at, view in enumerate(self._views) if _key(view) == self._chosen_loop]
        self._choose(found[0] if found else self._chosen)

    def _choose(self, at: int) -> None:
        self._chosen = max(0, min(at, len(self._views) - 1))
        self._chosen_loop = _key(self._views[self._chosen]) if self._views else None


def _key(view: View) -> tuple[int, int]:
    return view.pid, view.stats.number


def _no_keys(timeout: float) -> list[str]:
    time.sleep(timeout)
    return []


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """Yields a function that waits so long for keys, and returns them; none, also, when the terminal's size changes."""
    if not sys.stdin.isatty():
        yield _no_keys
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    resized, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handler = signal.signal(signal.SIGWINCH, lambda *_: None)
    wakes = signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def next_keys(timeout: float) -> list[str]:
        ready, _, _ = select.select([fd, resized], [], [], max(0.0, timeout))
        if resized in ready:
            os.read(resized, 4096)
        if fd not in ready:
            return [""] if ready else []
        read = os.read(fd, 64).decode("utf-8", "replace")
        if not read:
            raise OSError(errno.EIO, "the terminal is gone")
        return KEYS.findall(read)

    tty.setcbreak(fd)
    try:
        yield next_keys
    finally:
        with contextlib.suppress(termios.error):  # there may be no terminal any more
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGWINCH, handler)
        os.close(resized)
        os.close(told)


def _on_terminal(watch: Watch, interval: float, sort: str) -> int:
    try:
        _live(watch, interval, sort)
    except OSError as error:
        if error.errno != errno.EIO:  # the terminal is gone
            raise
        return 1
    return 0


def _live(watch: Watch, interval: float, sort: str) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    screen = Screen(watch, sort)
    with _keys() as next_keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            screen.look()
            if watch.ended:
                return
            until = time.monotonic() + interval
            while True:
                live.update(screen.show(console.width, console.height), refresh=True)
                keys = next_keys(until - time.monotonic())
                if not keys:
                    break
                if not all(screen.press(key) for key in keys):
                    return


def _once(watch: Watch, interval: float, sort: str, as_json: bool) -> None:
    views = watch.look()
    if views:
        time.sleep(interval)
        views = watch.look()
    views.sort(key=SORTS[sort][1])
    if as_json:
        _print_json(views)
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(_table(views, sort, None, console.width, None))


def _lines(watch: Watch, interval: float, sort: str) -> None:
    watch.look()
    while not watch.ended:
        time.sleep(interval)
        _print_json(sorted(watch.look(), key=SORTS[sort][1]))


def _print_json(views: list[View]) -> None:
    print(json.dumps([view.data() for view in views]), flush=True)


def parser(prog: str) -> argparse.ArgumentParser:
    """What the command takes."""
    made = argparse.ArgumentParser(prog=prog, description="What the loops of this user's processes do, live.",
                                   epilog=f"Turns that last longer than {LONG_TURN} s are said to block.")
    made.add_argument("pid", nargs="*", type=int, help="of these processes only, until they have ended")
    made.add_argument("--match", metavar="TEXT", default="", help="only of processes whose command line holds this")
    made.add_argument("--once", action="store_true", help="show it once and end")
    made.add_argument("--json", action="store_true", help="machine-readable: a line of JSON for each look")
    made.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (1)")
    made.add_argument("--sort", choices=sorted(name for name, _ in SORTS.values()), default="busy", help="by (busy)")
    return made


def main(prog: str, arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    inner = parser(prog)
    asked = inner.parse_args(arguments)
    if not 0.05 <= asked.interval <= 3600:
        inner.error("--interval is from 0.05 to 3600 seconds")
    if not asked.json:
        try:
            import rich  # noqa: F401
        except ImportError:
            print(HINT, file=sys.stderr)
            return 2
    for pid in asked.pid:
        if not os.path.exists(f"/proc/{pid}"):
            print(f"{prog}: there is no process {pid}", file=sys.stderr)
            return 1
    sort = next(key for key, (name, _) in SORTS.items() if name == asked.sort)
    watch = Watch(asked.pid, asked.match)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            if asked.once or (not asked.json and not sys.stdout.isatty()):
                _once(watch, asked.interval, sort, asked.json)
            elif asked.json:
                _lines(watch, asked.interval, sort)
            else:
                return _on_terminal(watch, asked.interval, sort)
    except PermissionError as error:
        print(f"{prog}: this process is somebody else's: {error.filename}", file=sys.stderr)
        return 1
    finally:
        watch.close()
    return 0
