"""HTTP lookups at work: a GET with a time limit, over few connections that are kept.

Whatever goes wrong, nothing is found and the call goes on. An origin that does not answer costs a
few calls their time and the next ones none: each has a breaker of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import httpx

from ..breaker import Breaker
from ..lookups import Lookup, found_in
from ..templates import Filled
from .client import proxy_for
from .transport import SENT, KeepAliveTransport

log = logging.getLogger(__name__)

#: Bytes that we read of an answer.
LONGEST_ANSWER = 64 * 1024
#: Connections to one origin, busy or idle.
MAX_CONNECTIONS = 50
#: Seconds between two lines of the log about one origin, for one that fails and works in turns.
QUIET = 10.0

_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "rounded_pbx",
}
_NOT_KNOWN = (204, 404, 410)


class _Origin:
    """The connections to one origin, its breaker, and what the log has said of it."""

    def __init__(self, url: str, transport: KeepAliveTransport, clock: Callable[[], float]) -> None:
        self.url = url
        self.transport = transport
        self.breaker = Breaker(clock=clock)
        self.quiet_until = 0.0
        self.said = ""

    def tell(self, problem: str, now: float) -> None:
        """One line for each change, and not a line a call."""
        if problem == self.said or now < self.quiet_until:
            return
        self.said, self.quiet_until = problem, now + QUIET
        if problem:
            log.warning("lookups at %s fail, calls go on without: %s", self.url, problem)
        else:
            log.info("lookups at %s work again", self.url)


class HttpLookups:
    """The lookups of every route; an asynchronous context manager that closes the connections.

    Args:
        origins: every origin that will be asked.
        secrets: for each route, the values of its secret headers.
        trust_env: let the environment's proxy settings in.
        clock: seconds, for the breakers and the log.

    Raises:
        RoundedPbxError: the environment's proxy is one that we cannot use.
    """

    def __init__(
        self,
        origins: Iterable[str],
        secrets: Mapping[str, Mapping[str, str]],
        *,
        trust_env: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        origins = set(origins)
        self._secrets = secrets
        self._clock = clock
        context = None
        if any(origin.startswith("https:") for origin in origins):
            context = httpx.create_ssl_context(trust_env=trust_env)
        self._origins = {
            origin: _Origin(
                origin,
                KeepAliveTransport(
                    origin,
                    ssl_context=context,
                    max_connections=MAX_CONNECTIONS,
                    proxy=proxy_for(origin) if trust_env else None,
                ),
                clock,
            )
            for origin in origins
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for origin in self._origins.values():
            await origin.transport.aclose()

    async def find(self, lookup: Lookup, seconds: float) -> Mapping[str, Filled]:
        """What is found within ``seconds``, else nothing; raises only CancelledError."""
        try:
            return await self._find(lookup, self._origins[lookup.origin], seconds)
        except Exception:
            log.exception("a defect of rounded_pbx in a lookup; the call goes on without")
            return {}

    async def _find(self, lookup: Lookup, origin: _Origin, seconds: float) -> Mapping[str, Filled]:
        # As its target it goes over the wire as it is: httpx would take dots out of a URL.
        request = httpx.Request(
            "GET",
            lookup.origin,
            headers=self._headers(lookup),
            extensions={"target": lookup.target.encode("ascii")},
        )
        permit = origin.breaker.ask()
        if permit is None:
            log.debug("route %s: no lookup: circuit breaker open", lookup.route)
            return {}
        begun = self._clock()
        found: dict[str, Filled] = {}
        worked: bool | None = None
        try:
            async with asyncio.timeout(seconds):
                status, raw = await _get(origin.transport, request)
            worked = status < 500 and status != 429
            found, problem = _judged(status, raw, lookup)
        except TimeoutError:
            problem = "no connection was free in time"
            if SENT in request.extensions:
                worked, problem = False, "no answer in time"
        except httpx.HTTPError as error:
            worked, problem = False, _in_words(error)
        finally:
            permit.close(worked)
        now = self._clock()
        origin.tell(problem, now)
        log.debug(
            "route %s: lookup at %s: %s, %.0f ms, found: %s",
            lookup.route,
            origin.url,
            problem or "answered",
            (now - begun) * 1000,
            ", ".join(found) or "nothing",
        )
        return found

    def _headers(self, lookup: Lookup) -> httpx.Headers:
        headers = httpx.Headers(_HEADERS)
        headers.update(lookup.headers)
        secrets = self._secrets.get(lookup.route, {})
        headers.update({name: secrets[name] for name in lookup.secret_headers})
        return headers


async def _get(transport: KeepAliveTransport, request: httpx.Request) -> tuple[int, bytes]:
    """The status and the body, which is longer than ``LONGEST_ANSWER`` where it was cut off."""
    response = await transport.handle_async_request(request)
    try:
        raw = bytearray()
        async for part in response.aiter_raw():
            raw += part
            if len(raw) > LONGEST_ANSWER:
                break
        return response.status_code, bytes(raw)
    finally:
        await response.aclose()


def _judged(status: int, raw: bytes, lookup: Lookup) -> tuple[dict[str, Filled], str]:
    """What an answer holds, and what is wrong with it; that nobody is known is no fault."""
    if status != 200:
        return {}, "" if status in _NOT_KNOWN else f"HTTP {status}"
    if len(raw) > LONGEST_ANSWER:
        return {}, f"an answer of more than {LONGEST_ANSWER} bytes"
    try:
        return found_in(raw, lookup.variables), ""
    except ValueError:
        return {}, "an answer that is no JSON"


def _in_words(error: BaseException) -> str:
    """What happened, in the system's words or by its kind: a server's own could say anything."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError | socket.gaierror) and cause.strerror:
            return cause.strerror
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
