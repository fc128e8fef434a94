"""The least that a FastAGI server can do: read the environment, send a command, read its reply.

``python -m benchmarks.parts.noop PORT``
"""

from __future__ import annotations

import asyncio
import sys


async def _session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\n\n")
        writer.write(b"NOOP\n")
        await reader.readline()
    finally:
        writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(_session, "127.0.0.1", port)
    print("listening", file=sys.stderr, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
