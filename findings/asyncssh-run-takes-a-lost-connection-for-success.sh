#!/bin/sh
# asyncssh: run(check=True) returns without an error when the connection is lost half-way, or the output cannot be stored.
#
# check=True raises ProcessError for an exit status other than 0, and for a signal.  When the connection is lost, the
# server says that it ends it, or it closes the channel without a status, run() returns what output there was until
# then, with exit_status None, which is not other than 0: no ConnectionLost, no ProcessError.  So a dump or a listing that
# broke off, of a command that may not have been carried out, is a result like others.  And with stdout=PATH of a disk that is
# full the exit status is 0, no exception is raised, and nothing is stored.
#
# Seen with asyncssh 2.24.1 (PyPI), CPython 3.11.7 (3.13.0 likewise), Linux 6.18, x86-64, on 2026-11-30; the command writes
# "first", then this, then "last"; check=True throughout:
#
#   nothing:                      returns 'first last', exit status 0
#   it exits with 1:              ProcessError
#   it is killed:                 ProcessError
#   the connection is lost:       returns 'first', exit status None
#   the server disconnects:       returns 'first', exit status None
#   the channel closes:           returns 'first', exit status None
#   nothing, stdout="/dev/full":  returns '', exit status 0
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check asyncssh==2.24.1

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import sys

import asyncssh


class Server(asyncssh.SSHServer):
    connection = None

    def connection_made(self, connection):
        Server.connection = connection

    def begin_auth(self, username):
        return False


async def serve(process):
    process.stdout.write("first ")
    await asyncio.sleep(0.2)
    what = process.command
    if what == "it exits with 1":
        process.exit(1)
    elif what == "it is killed":
        process.exit_with_signal("KILL")
    elif what == "the connection is lost":
        Server.connection.abort()
    elif what == "the server disconnects":
        Server.connection.disconnect(asyncssh.DISC_BY_APPLICATION, "is stopped")
    elif what == "the channel closes":
        process.close()
    else:
        process.stdout.write("last ")
        process.exit(0)


async def outcome(port, what, options):
    async with asyncssh.connect("127.0.0.1", port, known_hosts=None, config=None, username="user") as client:
        try:
            result = await asyncio.wait_for(client.run(what, check=True, **options), 10)
        except (OSError, asyncssh.Error, asyncssh.ProcessError) as error:
            return type(error).__name__
        return f"returns {result.stdout.strip()!r}, exit status {result.exit_status}"


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=serve)
    broken = "returns 'first', exit status None"
    as_described = True
    for what, options, expected in (
        ("nothing", {}, "returns 'first last', exit status 0"),
        ("it exits with 1", {}, "ProcessError"),
        ("it is killed", {}, "ProcessError"),
        ("the connection is lost", {}, broken),
        ("the server disconnects", {}, broken),
        ("the channel closes", {}, broken),
        ("nothing", {"stdout": "/dev/full"}, "returns '', exit status 0"),
    ):
        found = await outcome(server.get_port(), what, options)
        name = what + "".join(f', {option}="{value}"' for option, value in options.items())
        print(f"{name + ':':29} {found}")
        as_described &= found == expected
    server.close()
    return as_described


sys.exit(0 if asyncio.run(main()) else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
