"""The sandbox's HTTP face, after the contract in ``openapi.yaml`` beside this file.

Beside the API it has ``/sandbox``: GET and PUT its behaviour, GET the newest calls, and POST that
an INVITE came, since no SIP reaches it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..numbers import E164
from ..staging import valid_uuid
from .calls import Call, Calls
from .faults import Behaviour, Fault, reset, spoil

_RAW_SEND = "rounded_pbx.send"

#: Told of every answer: method, path, status, and the call where there is one.
OnAnswer = Callable[[str, str, int, Call | None], None]


def _uuid(value: str) -> str:
    if valid_uuid(value) is None:
        raise ValueError("is not a UUID")
    return value


Body = TypeVar("Body", bound=pydantic.BaseModel)
_Number = Annotated[str, pydantic.StringConstraints(pattern=f"^{E164.pattern}$")]


class _StageBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    from_number: _Number
    to_number: _Number
    agent_id: Annotated[str, pydantic.AfterValidator(_uuid)]
    direction: Literal["inbound", "outbound"] = "inbound"
    dynamic_variables_values: dict[str, Any] = pydantic.Field(default_factory=dict)
    custom_headers: dict[str, str] = pydantic.Field(default_factory=dict)


class _PatchBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    metadata: dict[str, Any] | None = None
    override: bool = False


class Sandbox:
    """The emulated API, an ASGI application; ``hanging`` counts the requests that it lets wait.

    Args:
        key: the API key that it accepts.
        behaviour: how it behaves at first; ``PUT /sandbox/behaviour`` changes it.
        on_answer: told of every answer of the API.
        calls: the calls, with a clock of their own in tests.
    """

    def __init__(
        self,
        key: str = "sandbox",
        behaviour: Behaviour | None = None,
        *,
        on_answer: OnAnswer | None = None,
        calls: Calls | None = None,
    ) -> None:
        self.calls = calls or Calls()
        self.on_answer = on_answer
        self.hanging = 0
        self._key = key
        self.behave(behaviour or Behaviour())
        operations = (
            ("/v1/calls/stage", "POST", "stageCall", self._stage),
            ("/v1/calls/{call_id}", "GET", "getCall", self._get_call),
            ("/v1/calls/{call_id}", "PATCH", "updateCall", self._update_call),
            ("/v1/calls/{call_id}/terminate", "POST", "terminateCall", self._terminate_call),
            ("/v1/phone-numbers", "GET", "listPhoneNumbers", self._list_phone_numbers),
        )
        self._app = Starlette(
            routes=[
                *(
                    Route(path, _Operation(self, name, answer), methods=[method])
                    for path, method, name, answer in operations
                ),
                Route("/sandbox/behaviour", self._behave, methods=["GET", "PUT"]),
                Route("/sandbox/calls", self._list_calls),
                Route("/sandbox/calls/{call_id}/invite", self._invite, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _http_error},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; the server's own ``send`` stays at hand for faults."""
        await self._app({**scope, _RAW_SEND: send}, receive, send)

    def behave(self, behaviour: Behaviour) -> None:
        """Behave like this from now on."""
        self.behaviour = behaviour
        self._faults_left = behaviour.fault_times

    def take_fault(self, operation: str) -> Fault | None:
        """The fault that this request is to meet."""
        behaviour = self.behaviour
        if behaviour.fault is None or operation not in behaviour.fault_on:
            return None
        if self._faults_left is not None:
            if self._faults_left == 0:
                return None
            self._faults_left -= 1
        return behaviour.fault

    def admits(self, request: Request) -> bool:
        """Whether the request carries the key."""
        given = request.headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode(), self._key.encode())

    async def _stage(self, request: Request) -> Response:
        body = await _parse(request, _StageBody)
        if isinstance(body, Response):
            return body
        behaviour = self.behaviour
        sync = request.query_params.get("sync", "false")
        if sync not in ("true", "false"):
            return _error(422, "Validation failed", [("sync", "is not true or false")])
        call = self.calls.create(body.model_dump(exclude_unset=True), behaviour.staging_time)
        request.scope["call"] = call
        if sync == "true":
            await asyncio.sleep(min(behaviour.staging_time, behaviour.sync_limit))
            if behaviour.staging_time > behaviour.sync_limit:
                return _error(408, "Call was not staged in time")
        return _ok(201, "Call staged", {"call_id": call.id})

    async def _get_call(self, request: Request) -> Response:
        call = self._call(request)
        return _ok(200, "Call found", call.public(self.calls.clock()))

    async def _update_call(self, request: Request) -> Response:
        call = self._call(request)
        body = await _parse(request, _PatchBody)
        if isinstance(body, Response):
            return body
        call.metadata = {**({} if body.override else call.metadata), **(body.metadata or {})}
        return _ok(200, "Call updated", call.public(self.calls.clock()))

    async def _terminate_call(self, request: Request) -> Response:
        self.calls.terminate(self._call(request))
        return _ok(200, "Call terminated", None)

    async def _list_phone_numbers(self, request: Request) -> Response:
        return _ok(200, "Phone numbers found", [])

    async def _behave(self, request: Request) -> Response:
        if request.method == "PUT":
            behaviour = await _parse(request, Behaviour)
            if isinstance(behaviour, Response):
                return behaviour
            self.behave(behaviour)
        return _ok(200, "Behaviour", self.behaviour.model_dump(mode="json"))

    async def _list_calls(self, request: Request) -> Response:
        now = self.calls.clock()
        shown = [call.public(now) | {"request": call.request} for call in self.calls.newest(200)]
        return _ok(200, "Calls, newest first", shown)

    async def _invite(self, request: Request) -> Response:
        if not self.calls.invite(self._call(request)):
            return _error(404, "Call is not staged any more")
        return _ok(200, "INVITE noted", None)

    def _call(self, request: Request) -> Call:
        call = self.calls.find(request.path_params["call_id"])
        if call is None:
            raise HTTPException(404, "Call not found")
        request.scope["call"] = call
        return call


class _Operation:
    """An operation of the API as an ASGI application: the key, the latency, the faults."""

    def __init__(
        self, sandbox: Sandbox, name: str, answer: Callable[[Request], Awaitable[Response]]
    ) -> None:
        self._sandbox = sandbox
        self._name = name
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await asyncio.sleep(self._sandbox.behaviour.latency)
        fault = self._sandbox.take_fault(self._name)
        if fault is Fault.RESET:
            await reset(scope[_RAW_SEND])
            return
        if fault is Fault.HANG:
            self._sandbox.hanging += 1
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                self._sandbox.hanging -= 1
            return
        response = await self._respond(request, fault)
        if self._sandbox.on_answer is not None:
            self._sandbox.on_answer(
                request.method, request.url.path, response.status_code, scope.get("call")
            )
        if fault in (Fault.DRIP, Fault.HTML, Fault.HALF_JSON):
            await spoil(fault, response, scope, receive, scope[_RAW_SEND])
        else:
            await response(scope, receive, send)

    async def _respond(self, request: Request, fault: Fault | None) -> Response:
        if fault is not None and fault.status is not None:
            retry_after = self._sandbox.behaviour.retry_after
            response = _error(fault.status, "Fault on demand", [("fault", fault.value)])
            if fault in (Fault.LIMITED, Fault.UNAVAILABLE) and retry_after is not None:
                response.headers["Retry-After"] = str(retry_after)
            return response
        if not self._sandbox.admits(request):
            return _error(401, "Invalid API key")
        if fault is Fault.BAD_ID:
            return _ok(201, "Call staged", {"call_id": "42", "id": "42", "status": "staged"})
        try:
            return await self._answer(request)
        except HTTPException as error:
            return _http_error(request, error)


async def _parse(request: Request, model: type[Body]) -> Body | Response:
    """The request's body, or the answer that says what is wrong with it."""
    try:
        body = json.loads(await request.body())
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        return model.model_validate(body)
    except pydantic.ValidationError as error:
        details = [
            (".".join(map(str, item["loc"])), item["msg"])
            for item in error.errors(include_url=False)
        ]
        return _error(422, "Validation failed", details)
    except (ValueError, RecursionError):
        return _error(400, "The body is no JSON")
    except ClientDisconnect:
        return _error(400, "The body is cut off")


def _ok(status: int, message: str, data: object) -> JSONResponse:
    return JSONResponse({"message": message, "data": data, "error": None, "status": status}, status)


def _error(status: int, message: str, details: list[tuple[str, str]] | None = None) -> JSONResponse:
    error = {
        "message": message,
        "status": status,
        "type": "generic_error",
        "details": [{"field": field, "message": text} for field, text in details or []],
    }
    return JSONResponse(
        {"message": message, "data": None, "error": error, "status": status}, status
    )


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    response = _error(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response
