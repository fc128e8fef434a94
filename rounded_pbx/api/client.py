"""The calls of the Rounded API that we use, each failure mapped to one error of ``errors``.

There are no time-outs here: httpx's hold for one read or one write, and a peer that drips a byte a
second never meets them. Whoever calls brings a deadline around the whole (``asyncio.timeout``).
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from time import time
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from ..errors import (
    OUR_QUEUE,
    ApiBadAnswer,
    ApiError,
    ApiLimited,
    ApiRejected,
    ApiServerError,
    ApiTimeout,
    ApiUnauthorized,
    ApiUnreachable,
    RoundedPbxError,
)
from ..staging import valid_uuid
from .transport import CONNECTION, NEW, OLDEST, SENT, KeepAliveTransport

#: Bytes that we read of an answer before we call it no answer of this API.
LONGEST_ANSWER = 64 * 1024
#: The same for a list, which grows with the organisation.
LONGEST_LIST = 16 * 1024 * 1024
_LONGEST_MESSAGE = 300


_CALL_ID = re.compile(r"(?<=^/v1/calls/)[0-9a-f-]{36}", re.IGNORECASE)

#: Told of a request: its endpoint, its status, its seconds.
Observe = Callable[[str, str, float], None]


def nobody(endpoint: str, status: str, seconds: float) -> None:
    """Is told, and keeps it to itself."""


class RoundedClient:
    """A client of one account.

    Args:
        base_url: the API's origin, without a path.
        key: the account's API key; it never stands in an error or in ``repr``.
        ca_file: certificates to trust instead of the usual ones.
        max_connections: open at any time, at most; further requests wait their turn.
        trust_env: let the environment's proxy settings in.
        observe: told of each request: its endpoint (``GET /v1/calls/{call_id}``), the status of its
            answer or what there was instead of one, and the seconds that it took.
        transport: any httpx transport, for tests.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        ca_file: str | None = None,
        max_connections: int = 200,
        trust_env: bool = False,
        observe: Observe = nobody,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._observe = observe
        if not re.fullmatch("[!-~]+", key):  # h11 would repeat it in an error of its own
            raise ValueError("the API key is not one word of visible ASCII")
        self._base_url = base_url.rstrip("/")
        self._key = key
        #: The Date of the last answer, as it came.
        self.date = ""
        self._kept: KeepAliveTransport | None = None
        context = None
        if base_url.startswith("https:") and ca_file:
            context = ssl.create_default_context(cafile=ca_file)
        elif base_url.startswith("https:"):
            context = httpx.create_ssl_context(trust_env=trust_env)
        # Without cookies, redirects and authentication, an AsyncClient adds nothing to its
        # transport but a tenth of a millisecond; and httpcore's own tunnels leak when cancelled.
        if transport is None:
            transport = self._kept = KeepAliveTransport(
                self._base_url,
                ssl_context=context,
                max_connections=max_connections,
                proxy=proxy_for(self._base_url) if trust_env else None,
            )
        self._send, self._close = transport.handle_async_request, transport.aclose
        # Only what is needed: a compressed answer could be huge, and httpx would unpack it.
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "rounded_pbx",
            "X-Api-Key": key,
        }

    def __repr__(self) -> str:
        return f"RoundedClient({self._base_url!r}, key='***')"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._close()

    async def stage(self, body: Mapping[str, object], *, sync: bool = False) -> str:
        """``POST /v1/calls/stage``: the id of the call that was staged, or is being staged.

        Raises:
            ApiError: one of its kinds; ApiBadAnswer also for an id that is no UUID.
        """
        path = "/v1/calls/stage?sync=true" if sync else "/v1/calls/stage"
        data = await self._data("POST", path, body)
        call_id = data.get("call_id")
        if not isinstance(call_id, str) or valid_uuid(call_id) is None:
            raise ApiBadAnswer("the API's call_id is no UUID")
        return call_id

    async def call_status(self, call_id: str) -> str:
        """``GET /v1/calls/{call_id}``: the call's status, an open enumeration.

        Raises:
            ApiError: one of its kinds.
        """
        status = (await self._data("GET", _call_path(call_id))).get("status")
        if not isinstance(status, str):
            raise ApiBadAnswer("the API's answer has no status")
        return status

    async def update_call(
        self, call_id: str, metadata: Mapping[str, object], *, override: bool = False
    ) -> None:
        """``PATCH /v1/calls/{call_id}``: merge ``metadata`` into the call's, or replace it.

        Raises:
            ApiError: one of its kinds.
        """
        await self._request(
            "PATCH", _call_path(call_id), {"metadata": dict(metadata), "override": override}
        )

    async def terminate_call(self, call_id: str) -> None:
        """``POST /v1/calls/{call_id}/terminate``: idempotent.

        Raises:
            ApiError: one of its kinds.
        """
        await self._request("POST", _call_path(call_id) + "/terminate")

    async def list_phone_numbers(self, connection: str | None = None) -> object:
        """``GET /v1/phone-numbers``: the account's numbers; free of side effects.

        Raises:
            ApiError: one of its kinds.
        """
        answer = await self._request(
            "GET", "/v1/phone-numbers", connection=connection, longest=LONGEST_LIST
        )
        return answer.get("data")

    async def _probe(self, connection: str) -> None:
        """The same, but the list is not parsed: that can hold the loop for seconds."""
        await self._request(
            "GET", "/v1/phone-numbers", connection=connection, longest=LONGEST_LIST, parse=False
        )

    async def open_connection(self) -> None:
        """Open one more connection, with a light GET.

        Raises:
            ApiError: one of its kinds.
        """
        await self._probe(NEW)

    async def refresh_connection(self) -> None:
        """Use the connection that has been idle for the longest time, with a light GET.

        Raises:
            ApiError: one of its kinds.
        """
        await self._probe(OLDEST)

    @property
    def open_connections(self) -> int:
        """How many connections are open, as far as we keep them ourselves."""
        return self._kept.open_connections if self._kept else 0

    async def stale_connections(self, seconds: float, keep: int) -> int:
        """How many idle connections want a GET; those beyond ``keep`` are closed."""
        if self._kept is None:
            return 0
        await self._kept.close_idle(keep=keep, seconds=seconds)
        return self._kept.idle_for(seconds)

    async def _data(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> Mapping[str, object]:
        data = (await self._request(method, path, body)).get("data")
        if not isinstance(data, dict):
            raise ApiBadAnswer("the API's answer has no data")
        return data

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        connection: str | None = None,
        longest: int = LONGEST_ANSWER,
        parse: bool = True,
    ) -> Mapping[str, object]:
        headers, content = self._headers, None
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
            content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
        request = httpx.Request(
            method,
            self._base_url + path,
            headers=headers,
            content=content,
            extensions={CONNECTION: connection},
        )
        clock = asyncio.get_running_loop().time
        asked, status = clock(), "cancelled"
        try:
            response = await self._send(request)
            self.date = response.headers.get("date", "")
            try:
                raw = await _read(response, longest)
            finally:
                await response.aclose()
            status = str(response.status_code)
        except asyncio.CancelledError:
            sent = request.extensions.get(SENT, clock())
            if sent - asked > clock() - sent:  # the time went by in our queue
                raise asyncio.CancelledError(OUR_QUEUE) from None
            raise
        except httpx.ConnectError as error:
            status = "unreachable"
            raise ApiUnreachable(self._network(error), safe_to_retry=True) from None
        except httpx.HTTPError as error:
            status = "broken"
            raise ApiUnreachable(self._network(error)) from None
        finally:
            self._observe(f"{method} {_CALL_ID.sub('{call_id}', path)}", status, clock() - asked)
        if not parse and response.is_success and raw.startswith(b"{"):
            return {}
        return self._check(response, raw)

    def _check(self, response: httpx.Response, raw: bytes) -> Mapping[str, object]:
        """The answer's JSON object if its status is 2xx, else the error that it stands for."""
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        status = response.status_code
        if 200 <= status < 300:
            if isinstance(answer, dict):
                return answer
            kind = response.headers.get("content-type", "no content type")
            raise ApiBadAnswer(self._hide(f"HTTP {status}, but no JSON object ({kind})"))
        message, details = _envelope(answer)
        message = f"HTTP {status}: {message}" if message else f"HTTP {status}"
        kind_of_error = _error_class(status)
        raise kind_of_error(
            self._hide(message),
            status=status,
            details=tuple((self._hide(field), self._hide(text)) for field, text in details),
            retry_after=_retry_after(response.headers.get("retry-after", "")),
        )

    def _hide(self, text: object) -> str:
        """``text``, cut, without the key: an API, or a proxy, may repeat what it was sent."""
        return str(text).replace(self._key, "***")[:_LONGEST_MESSAGE]

    def _network(self, error: httpx.HTTPError) -> str:
        """What happened, down to the operating system's word for it."""
        words, cause = [str(error) or type(error).__name__], error.__cause__ or error.__context__
        while cause is not None:
            if isinstance(cause, OSError) and cause.strerror and cause.strerror not in words[0]:
                words.append(cause.strerror)
            cause = cause.__cause__ or cause.__context__
        return self._hide(": ".join(dict.fromkeys(words)))


def proxy_for(base_url: str) -> httpx.Proxy | None:
    """The HTTP proxy that the environment names for an origin.

    Raises:
        RoundedPbxError: it is none that we can use.
    """
    url = httpx.URL(base_url)
    named = urllib.request.getproxies()
    proxy = named.get(url.scheme) or named.get("all")
    if not proxy or urllib.request.proxy_bypass(url.netloc.decode("ascii")):
        return None
    found = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
    if found.url.scheme != "http":
        raise RoundedPbxError(f"the environment's proxy is {found.url.scheme}://; expected http://")
    return found


def _call_path(call_id: str) -> str:
    return f"/v1/calls/{quote(call_id, safe='')}"


async def _read(response: httpx.Response, longest: int) -> bytes:
    raw = bytearray()
    async for part in response.aiter_raw():
        raw += part
        if len(raw) > longest:
            if response.is_success:
                raise ApiBadAnswer(f"the API's answer is longer than {longest} bytes")
            break  # its status says enough
    return bytes(raw)


def _error_class(status: int) -> type[ApiError]:
    named = {401: ApiUnauthorized, 403: ApiUnauthorized, 408: ApiTimeout, 429: ApiLimited}
    if status in named:
        return named[status]
    if status >= 500:
        return ApiServerError
    return ApiRejected if status >= 400 else ApiBadAnswer


def _envelope(answer: Any) -> tuple[str, list[tuple[str, str]]]:
    """The message and the field details of an error envelope, as far as they are there."""
    if not isinstance(answer, dict):
        return "", []
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    message = _text(error.get("message")) or _text(answer.get("message"))
    details = error.get("details")
    return message, [
        (_text(detail.get("field")), _text(detail.get("message")))
        for detail in (details[:20] if isinstance(details, list) else [])
        if isinstance(detail, dict)
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _retry_after(value: str) -> float | None:
    """Seconds to wait: RFC 9110 allows a number of them, or a date."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, OverflowError):
        return None
