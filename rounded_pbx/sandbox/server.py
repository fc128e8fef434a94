"""The sandbox on a port, inside a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn

from ..config_types import Address
from .app import Sandbox


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the signals to whoever runs the loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    sandbox: Sandbox,
    listen: Address,
    *,
    certificate: tuple[Path, Path] | None = None,
) -> AsyncIterator[str]:
    """Serve ``sandbox`` and yield its URL; ``certificate`` is (chain, key) for HTTPS."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    listener = socket.create_server((listen.host, listen.port), family=family, backlog=1024)
    # asyncio does so only where the socket names its protocol; without it, each answer on a kept
    # connection waits 40 ms for the peer's delayed ACK. What is accepted inherits it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = _Server(
        uvicorn.Config(
            sandbox,
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
            ssl_certfile=certificate[0] if certificate else None,
            ssl_keyfile=certificate[1] if certificate else None,
        )
    )
    running = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if running.done():
                running.result()
            await asyncio.sleep(0.01)
        scheme = "https" if certificate else "http"
        yield f"{scheme}://{Address(*listener.getsockname()[:2])}"
    finally:
        server.should_exit = True
        try:
            await running
        finally:
            listener.close()
