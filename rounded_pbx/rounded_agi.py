#!/usr/bin/env -S python3 -IS
"""The classic AGI script: ``AGI(rounded-agi,did=${DID},from=${CALLERID(num)})``.

It hands the session to the daemon, byte for byte, and holds no key itself. If the daemon is not
there, or not done within ``limit``, it sets ROUNDED_STATUS to UNAVAILABLE and ends. Its arguments
are the daemon's, and two of its own: ``daemon=127.0.0.1:4573`` and ``limit=3`` (seconds).

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
#: Bytes of Asterisk's environment block, at most; and how long a connect() may take.
LONGEST_BLOCK = 65536
CONNECT_SECONDS = 0.5


def main() -> None:
    """One session, from Asterisk's environment block to the daemon's last command."""
    start = time.monotonic()
    block, rest = read_block()
    lines, options = prepared(block)
    end = start + float(options.get("limit", "3"))
    host, _, port = options.get("daemon", "127.0.0.1:4573").rpartition(":")
    address = host, int(port)
    head = b"agi_network: yes\nagi_network_script: stage\n"
    try:
        with socket.create_connection(address, CONNECT_SECONDS) as connection:
            connection.settimeout(max(0.1, end - time.monotonic()))
            connection.sendall(head + lines + b"\n" + rest)
            done = relay(connection, end)
    except OSError:
        done = False
    if not done:
        unavailable()


def read_block() -> tuple[bytes, bytes]:
    """The environment block, and what came after its blank line."""
    data = b""
    while b"\n\n" not in data and len(data) < LONGEST_BLOCK:
        more = os.read(STDIN, 65536)
        if not more:
            break
        data += more
    block, _, rest = data.partition(b"\n\n")
    return block, rest


def prepared(block: bytes) -> tuple[bytes, dict[str, str]]:
    """The block without our own arguments, the others numbered anew; and our own."""
    lines: list[bytes] = []
    options: dict[str, str] = {}
    number = 0
    for line in block.rstrip(b"\n").split(b"\n"):
        if line.startswith(b"agi_arg_"):
            value = line.partition(b": ")[2]
            name, _, given = value.partition(b"=")
            if name in (b"daemon", b"limit"):
                options[name.decode()] = given.decode("utf-8", "replace")
                continue
            number += 1
            line = b"agi_arg_%d: %s" % (number, value)
        lines.append(line)
    return b"".join(line + b"\n" for line in lines), options


def relay(connection: socket.socket, end: float) -> bool:
    """Commands to Asterisk and replies back; whether the daemon said anything in time."""
    said = False
    sources: list[int | socket.socket] = [STDIN, connection]
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select(sources, [], [], left)
        for source in ready:
            try:
                if isinstance(source, int):
                    data = os.read(source, 65536)
                    if not data:  # Asterisk has closed its end
                        return True
                    connection.sendall(data)
                else:
                    data = source.recv(65536)
                    if not data:  # the daemon is done
                        return said
                    said = True
                    write(data)
            except OSError:  # the daemon died, or Asterisk did
                return said
    return said


def unavailable() -> None:
    """What a dialplan that has preset nothing can go by."""
    for name, value in ((b"ROUNDED_CALL_ID", b""), (b"ROUNDED_STATUS", b"UNAVAILABLE")):
        try:
            write(b'SET VARIABLE %s "%s"\n' % (name, value))
            os.read(STDIN, 4096)
        except OSError:
            return


def write(data: bytes) -> None:
    """All of it, to Asterisk."""
    while data:
        data = data[os.write(STDOUT, data) :]


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # of a number in our own arguments
        sys.stderr.write(f"rounded-agi: {error}\n")
        unavailable()
