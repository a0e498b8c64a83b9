"""All kinds of things: importing this fills the table."""

from . import callbacks, datagrams, others, pipes, reader_writer, servers, signals, socks, streams

__all__ = ["callbacks", "datagrams", "others", "pipes", "reader_writer", "servers", "signals", "socks", "streams"]
