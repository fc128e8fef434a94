"""The gate of the status page: what every request must show before it is answered.

A browser can be made to ask for any address by any web page. So the name by which it asks must be
one of ours, or a foreign name could be made to mean us (DNS rebinding); and what another page asks
for, other than by a link, is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import re
from collections import Counter

import h11
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .door import ANSWER_TIME, Connection, peer_of

#: What a load balancer asks for, which has no token.
OPEN_PATHS = frozenset(["/healthz", "/readyz"])
#: Wrong tokens of one address at any time, and the seconds for which each of them counts.
TRIES, PENALTY = 8, 1.0

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,255})(?::[0-9]{1,5})?")


def is_ours(host: str, hosts: frozenset[str], connected_to: str) -> bool:
    """Whether a Host header names this machine.

    That is as loopback, by one of ``hosts``, or as the address that the connection came to.
    """
    found = _HOST.fullmatch(host)
    if not found:
        return False
    name = found[1].strip("[]").lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name in hosts
    return address.is_loopback or str(address) in {*hosts, _plain(connected_to)}


def _plain(host: str) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def given_token(authorization: str) -> bytes:
    """The token of a Bearer, or the password of a Basic; empty where there is neither."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value.encode("utf-8", "surrogatepass")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


class Gate:
    """An ASGI application before another one.

    Args:
        hosts: names by which we may be asked, beside loopback and the address that listens.
        token: None where none is wanted.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str | None) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token.encode() if token is not None else None
        self._wrong: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do it."""
        connection: Connection = scope["state"]["connection"]
        connection.end_within(ANSWER_TIME)
        refusal = self._stranger(scope) or await self._token_refusal(scope, connection)
        try:
            await (refusal or self._app)(scope, receive, send)
        except h11.ProtocolError:  # junk came behind the request, and uvicorn has given it up
            connection.transport.abort()
            await connection.gone

    def _stranger(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host")
        # Of HTTP/1.0, without a Host, as some load balancers speak it. A browser always has one.
        if host is None and scope["path"] in OPEN_PATHS:
            return None
        if host is None or not is_ours(host, self._hosts, scope["server"][0]):
            return Response(status_code=421)
        by_link = headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not by_link:
            return Response(status_code=403)
        return None

    async def _token_refusal(self, scope: Scope, connection: Connection) -> Response | None:
        if self._token is None or scope["path"] in OPEN_PATHS:
            return None
        authorization = Headers(scope=scope).get("authorization")
        if authorization is not None:
            peer = peer_of(connection.host)
            if self._wrong[peer] >= TRIES:  # unseen: or it could be guessed all the same
                return PlainTextResponse("Too many wrong tokens\n", 429, {"retry-after": "2"})
            if hmac.compare_digest(given_token(authorization), self._token):
                return None
            self._wrong[peer] += 1
            connection.loop.call_later(PENALTY, self._forget, peer)
            await asyncio.wait([connection.gone], timeout=PENALTY)
        challenge = {"www-authenticate": 'Basic realm="rounded_pbx", charset="UTF-8"'}
        return PlainTextResponse("A token is required\n", 401, challenge)

    def _forget(self, peer: str) -> None:
        self._wrong[peer] -= 1
        if not self._wrong[peer]:
            del self._wrong[peer]
