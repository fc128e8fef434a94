#!/usr/bin/env -S python3 -IS
"""The classic AGI script: ``AGI(rounded-agi,did=${DID},from=${FILTER(0-9+,${CALLERID(num)})})``.

It hands the session to the daemon, byte for byte, and holds no key itself. If the daemon is not
there, or not done within ``limit``, it sets ROUNDED_STATUS to UNAVAILABLE and ends. Its arguments
are the daemon's, and before them two of its own: ``daemon=127.0.0.1:4573``, ``limit=3`` (seconds).

Arguments are taken from the command line, never from Asterisk's environment block: a caller whose
number holds a line break writes lines of their own into that. They go into the query, before
anything that a caller can fill; and what comes after a comma of the caller's is no option of ours.

It imports nothing but the standard library, and little of that: a PBX starts it for every call.
FastAGI, agi://127.0.0.1:4573/stage, does the same without starting anything.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

STDIN, STDOUT = 0, 1
OPTIONS = ("daemon", "limit")
#: Bytes of Asterisk's environment block, at most; and how long a connect() may take.
LONGEST_BLOCK = 65536
CONNECT_SECONDS = 0.5
#: What ``limit`` may be; and how long, after it, Asterisk may take to hear that there is no id.
LONGEST_LIMIT = 300
LAST_SECONDS = 0.5


def main(arguments: list[str]) -> None:
    """One session, from Asterisk's environment block to the daemon's last command."""
    start = time.monotonic()
    options, query = parsed(arguments)
    limit = float(options.get("limit", "3"))
    if not 0 < limit <= LONGEST_LIMIT:
        raise ValueError(f"limit={limit}: expected seconds, at most {LONGEST_LIMIT}")
    end = start + limit
    host, _, port = options.get("daemon", "127.0.0.1:4573").rpartition(":")
    address = host.strip("[]"), int(port)
    block, rest = read_block(end)
    head = b"agi_network: yes\nagi_network_script: stage?%s\n" % query
    try:
        with socket.create_connection(address, CONNECT_SECONDS) as connection:
            connection.settimeout(max(0.1, end - time.monotonic()))
            connection.sendall(head + without_arguments(block) + b"\n" + rest)
            done = relay(connection, end)
    except OSError:
        done = False
    if not done:
        unavailable()


def parsed(arguments: list[str]) -> tuple[dict[str, str], bytes]:
    """Our own options, which come first, and all the rest as a query.

    A percent sign stays: the daemon decodes every value once, as it would without us.
    """
    options: dict[str, str] = {}
    given = list(arguments)
    while given and given[0].partition("=")[0] in OPTIONS:
        name, _, value = given.pop(0).partition("=")
        options[name] = value
    encoded = (
        "".join(
            chr(byte) if 0x21 <= byte <= 0x7E and byte != 0x26 else f"%{byte:02X}"
            for byte in argument.encode("utf-8", "surrogateescape")
        )
        for argument in given
    )
    return options, "&".join(encoded).encode()


def readable(descriptor: int, end: float) -> bool:
    """Whether there is something to read before the end."""
    return bool(select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0])


def read_block(end: float) -> tuple[bytes, bytes]:
    """The environment block, and what came after its blank line."""
    data = b""
    while b"\n\n" not in data and len(data) < LONGEST_BLOCK and readable(STDIN, end):
        more = os.read(STDIN, 65536)
        if not more:
            break
        data += more
    block, _, rest = data.partition(b"\n\n")
    return block, rest


def without_arguments(block: bytes) -> bytes:
    """The block's lines but for the arguments, which are in the query."""
    lines = block.rstrip(b"\n").split(b"\n")
    return b"".join(line + b"\n" for line in lines if not line.startswith(b"agi_arg_"))


def relay(connection: socket.socket, end: float) -> bool:
    """Commands to Asterisk and replies back; whether nobody waits for a status any more.

    Only whole lines go to Asterisk: at our end it would run half a line as if it were one.
    """
    told, held = False, b""
    sources: list[int | socket.socket] = [STDIN, connection]
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select(sources, [], [], left)
        for source in ready:
            if isinstance(source, int):
                try:
                    data = os.read(source, 65536)
                    if not data:  # Asterisk has closed its end
                        return True
                    connection.settimeout(max(0.1, end - time.monotonic()))
                    connection.sendall(data)
                except OSError:  # the daemon died; what it said before is still to be read
                    sources.remove(source)
                continue
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            if not data:  # the daemon is done, or died
                return told
            whole, newline, held = (held + data).rpartition(b"\n")
            try:
                write(whole + newline)
            except OSError:  # Asterisk died
                return True
            told = told or b"ROUNDED_STATUS" in whole
    return told


def unavailable() -> None:
    """What a dialplan that has preset nothing can go by."""
    end = time.monotonic() + LAST_SECONDS
    for name, value in ((b"ROUNDED_CALL_ID", b""), (b"ROUNDED_STATUS", b"UNAVAILABLE")):
        try:
            write(b'SET VARIABLE %s "%s"\n' % (name, value))
            if readable(STDIN, end):
                os.read(STDIN, 4096)
        except OSError:
            return


def write(data: bytes) -> None:
    """All of it, to Asterisk."""
    while data:
        data = data[os.write(STDOUT, data) :]


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:  # of a number in our own arguments
        sys.stderr.write(f"rounded-agi: {error}\n")
        unavailable()
