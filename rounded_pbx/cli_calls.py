"""What ``rounded-pbx route`` and ``rounded-pbx stage`` do with a call of the shell's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from .call import CallContext, CallerId, Switch
from .config import Config
from .errors import BadNumber
from .routing import Route
from .staging import StagingRequest


def call_of(
    did: str,
    caller: str,
    name: str,
    route_name: str | None,
    context: str,
    domain: str,
    account_code: str,
) -> CallContext:
    """The call that the options tell of."""
    return CallContext(
        switch=Switch.ASTERISK,
        did=did,
        caller=CallerId(caller, name),
        context=context,
        account_code=account_code,
        domain=domain,
        route=route_name,
    )


def pairs(given: list[str] | None) -> dict[str, str]:
    """The channel variables that the options tell of."""
    split = [item.partition("=") for item in given or []]
    for name, equals, _ in split:
        if not equals or not name:
            raise typer.BadParameter("expected NAME=VALUE", param_hint="--channel")
    return {name: value for name, _, value in split}


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a call goes, and what would be sent; ``problem`` is why nothing could be."""

    route: Route | None
    account: str | None
    request: StagingRequest | None
    problem: str

    @classmethod
    def of(cls, call: CallContext, settings: Config, channel: Mapping[str, str]) -> Routed:
        """Where the call goes by a configuration."""
        route = settings.route_table().find(call)
        if route is None:
            return cls(None, None, None, "no route")
        account, policy = settings.account_table().choose(route, call), settings.numbers.policy
        try:
            request = StagingRequest.build(call, route, account, policy, channel)
        except BadNumber as error:
            return cls(route, account, None, str(error))
        return cls(route, account, request, "")

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "route": self.route.name if self.route else None,
            "account": self.account,
            "lookup": _lookup(self.request) if self.request else None,
            "request": self.request.body() if self.request else None,
            "problem": self.problem,
        }


def show(routed: Routed, did: str, settings: Config, out: Console) -> None:
    """All of it, for a person."""
    found, request = routed.route, routed.request
    if found is None:
        default = settings.calls.default_on_failure.value
        out.print(f"[red]no route[/] for {escape(did)}: {default}", soft_wrap=True)
        return
    failure = ", ".join([found.on_failure.value, *fallbacks(found)])
    out.print(f"[bold]route[/]       {found.name}")
    out.print(f"[bold]account[/]     {routed.account}")
    out.print(f"[bold]on failure[/]  {failure}", soft_wrap=True)
    if request is None:
        out.print(f"[red]BAD_NUMBER[/]  {escape(routed.problem)}", soft_wrap=True)
        return
    if found.lookup is not None:
        for label, text in _shown_lookup(request):
            out.print(f"[bold]{label:11}[/] {escape(text)}", soft_wrap=True)
    sync = "?sync=true" if request.wait.value == "sync" else ""
    out.print(f"[bold]POST[/] {escape(settings.api.base_url)}/v1/calls/stage{sync}")
    out.print_json(json.dumps(request.body()))


def fallbacks(route: Route) -> list[str]:
    """Where each switch goes on without an agent."""
    return [f"{switch}: {target}" for switch, target in route.fallback.items()]


async def staged(
    settings: Config,
    keys: Mapping[str, str],
    headers: Mapping[str, Mapping[str, str]],
    call: CallContext,
    channel: Mapping[str, str],
) -> tuple[tuple[str, str], ...]:
    """Stage it; returns the variables that the dialplan would get."""
    from . import handler
    from .generation import desk_of, generation, tickets_of

    class FromOptions:
        async def get_variables(self, names: Any) -> Mapping[str, str]:
            return channel

    accepted = asyncio.get_running_loop().time()
    async with generation(settings, keys, headers, warm=False) as begun:
        tickets = tickets_of(begun, begun.errands.dispose)
        answer = await handler.stage(
            call,
            desk_of(begun, tickets),
            FromOptions(),
            accepted=accepted,
            deadline=accepted + settings.calls.deadline,
        )
        await tickets.aclose(0.0)
    return answer.variables


def _lookup(request: StagingRequest) -> dict[str, Any] | None:
    """The lookup as it would be asked, each secret header as ***."""
    lookup = request.lookup
    if lookup is None:
        return None
    headers = {**lookup.headers, **dict.fromkeys(lookup.secret_headers, "***")}
    return {"url": lookup.url, "headers": headers, "variables": [*lookup.variables]}


def _shown_lookup(request: StagingRequest) -> Iterator[tuple[str, str]]:
    lookup = _lookup(request)
    if lookup is None:
        yield (
            "lookup",
            "none: a value of this call cannot stand in the path, or the URL is too long",
        )
        return
    yield "lookup", f"GET {lookup['url']}"
    for name, value in lookup["headers"].items():
        yield "", f"{name}: {value}"
    yield "", f"for {', '.join(lookup['variables'])}"
