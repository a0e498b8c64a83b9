"""A server that speaks MongoDB's wire protocol and keeps documents in memory: for want of the real one in a package.

Knows what a client asks for to insert, find and delete by equality.  Prints the port that it listens on.
"""

from __future__ import annotations

import socketserver
import struct
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import bson

REPLY, QUERY, MESSAGE = 1, 2004, 2013  # operation codes
HELLO = {
    "ismaster": True, "isWritablePrimary": True, "helloOk": True, "maxBsonObjectSize": 1 << 24,
    "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "minWireVersion": 0, "maxWireVersion": 21,
    "readOnly": False, "ok": 1,
}  # fmt: skip
collections: dict[str, list[dict[str, Any]]] = {}
cursors: dict[int, list[dict[str, Any]]] = {}
numbers = count(1)


def sections(body: bytes) -> dict[str, Any]:
    """The command of a message, with the documents that follow it as members."""
    at, command, more = 4, {}, {}
    while at < len(body):
        kind, at = body[at], at + 1
        (size,) = struct.unpack_from("<i", body, at)
        if kind == 0:
            command = bson.decode(body[at : at + size])
        else:
            end = body.index(0, at + 4)
            more[body[at + 4 : end].decode()] = bson.decode_all(body[end + 1 : at + size])
        at += size
    return {**command, **more}


def matching(command: dict[str, Any], wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for document in collections.get(command[next(iter(command))], []):
        if all(document.get(key) == value for key, value in wanted.items()):
            yield document


def batch(name: str, number: int, size: int, which: str) -> dict[str, Any]:
    rest = cursors.pop(number)
    if rest[size:]:
        cursors[number] = rest[size:]
    return {"cursor": {"id": number if rest[size:] else 0, "ns": f"test.{name}", which: rest[:size]}, "ok": 1}


def answer(command: dict[str, Any]) -> dict[str, Any]:
    name = next(iter(command))
    if name.lower() in ("hello", "ismaster"):
        return HELLO
    if name == "insert":
        collections.setdefault(command[name], []).extend(command["documents"])
        return {"n": len(command["documents"]), "ok": 1}
    if name == "find":
        number = next(numbers)
        cursors[number] = [*matching(command, command["filter"])]
        return batch(command[name], number, command.get("batchSize", 101), "firstBatch")
    if name == "getMore":
        return batch(command["collection"], command[name], command.get("batchSize", 101), "nextBatch")
    if name == "delete":
        gone = [document for one in command["deletes"] for document in matching(command, one["q"])]
        collections[command[name]] = [one for one in collections.get(command[name], []) if one not in gone]
        return {"n": len(gone), "ok": 1}
    if name == "sleep":
        time.sleep(command["seconds"])
    return {"ok": 1}


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while header := self.rfile.read(16):
            size, request, _, code = struct.unpack("<iiii", header)
            body = self.rfile.read(size - 16)
            if code == QUERY:
                document = bson.decode(body[body.index(0, 4) + 9 :])
                reply, code = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(answer(document)), REPLY
            else:
                reply = struct.pack("<ib", 0, 0) + bson.encode(answer(sections(body)))
            self.wfile.write(struct.pack("<iiii", 16 + len(reply), 0, request, code) + reply)


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        print(f"listening on {server.server_address[1]}.", flush=True)
        server.serve_forever()
