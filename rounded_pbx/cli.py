"""The ``rounded-pbx`` command: one function a subcommand, each importing what it needs itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from . import __version__
from .errors import ConfigError, RoundedPbxError

if TYPE_CHECKING:
    from .config import Config
    from .config_types import Address
    from .sandbox import Behaviour

_ABOUT = """\
Hand calls from Asterisk or FreeSWITCH to a Rounded voice agent with no cold start.

In the order in which they are needed: **init** makes a configuration; **check**, **route** and
**stage** try it; **systemd** runs the daemon, which is **serve**; **dialplan** leads calls to it;
**doctor** shows that they arrive, or why not. `rounded-pbx COMMAND --help` tells all of a command.

Exit status: 0, it is done; 1, it is not, or there is something to look at; 2, a mistake in the
configuration or on the command line. Errors go to standard error.

The configuration is /etc/rounded_pbx/config.yml, unless --config or $ROUNDED_PBX_CONFIG names
another. Where it names a `credential`, the service gets that from systemd, and a shell from the
folder that $CREDENTIALS_DIRECTORY names:

    export CREDENTIALS_DIRECTORY=/etc/rounded_pbx
"""

app = typer.Typer(
    name="rounded-pbx",
    help=_ABOUT,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# What comes from files, callers or the API is escape()d, or it could be taken for markup.
# Tables in a pipe or a file are not cut to the width of a terminal that is not there.
out = Console(
    highlight=False, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else 200
)
err = Console(stderr=True, highlight=False, emoji=False)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The configuration; else $ROUNDED_PBX_CONFIG, else /etc/rounded_pbx/config.yml.",
    ),
]
DidOption = Annotated[str, typer.Option("--did", help="The number that was dialled.")]
FromOption = Annotated[
    str, typer.Option("--from", help="The caller's number; without one, it is withheld.")
]
NameOption = Annotated[str, typer.Option("--name", help="The caller's name.")]
RouteOption = Annotated[
    str | None, typer.Option("--route", help="A route by its name, whatever the DID.")
]
ChannelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--channel",
        metavar="NAME=VALUE",
        help="A channel variable, for templates; may be repeated.",
    ),
]
ContextOption = Annotated[
    str, typer.Option("--context", help="The dialplan's context, where accounts go by it.")
]
DomainOption = Annotated[
    str, typer.Option("--domain", help="The call's domain, where accounts go by it.")
]
CodeOption = Annotated[
    str, typer.Option("--account-code", help="The channel's account code, where accounts go by it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def _flavours() -> list[str]:
    """For the shell's completion."""
    from .dialplan.flavours import Flavour

    return [*Flavour]


def main() -> None:
    """The command's entry: configuration errors, one a line, and exit status 2."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            place = f"[bold red]{escape(problem.file)}:{problem.line}:[/]"
            err.print(f"{place} {escape(problem.text)}", soft_wrap=True)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"rounded-pbx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


def _load(config: Path | None) -> tuple[Path, Config]:
    from .config import config_path, load

    path = config_path(config)
    return path, load(path)


@contextlib.contextmanager
def _saying_why() -> Iterator[None]:
    """What the system refuses is one line; a defect of ours keeps its traceback."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, RoundedPbxError) as error:
        err.print(f"[bold red]error[/] cannot start: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def serve(
    config: ConfigOption = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log more, as how each lookup went.")
    ] = False,
) -> None:
    """Run the daemon that the dialplan asks, until SIGTERM.

    It listens on 127.0.0.1:4573 for Asterisk and on 127.0.0.1:8084 for FreeSWITCH, unless the
    configuration says otherwise, or on the sockets that systemd hands to it, and logs to standard
    error. It writes no file.

    SIGHUP reads the configuration again, whole or not at all. SIGTERM lets the calls in flight end,
    within `calls.deadline` and a second; a second SIGTERM does not wait for them.

    Exit status 1: it cannot start, as where its port is taken; 2: the configuration has mistakes.
    """
    from . import service
    from .config import config_path

    with _saying_why():
        asyncio.run(service.serve(config_path(config), verbose=verbose))


@app.command()
def init(config: ConfigOption = None) -> None:
    """Make a configuration to begin with, and a file for the API key that only its owner can read.

    They are /etc/rounded_pbx/config.yml and api_key beside it. What is there already stays as it
    is. Exit status 1: one of them cannot be made.
    """
    from .config import config_path
    from .examples import begin

    path = config_path(config)
    try:
        for file, made in begin(path):
            done = "[green]made[/]" if made else "is there already:"
            out.print(f"{done} {escape(str(file))}", soft_wrap=True)
    except OSError as error:
        err.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
    out.print(f"Write your key into {escape(str(path.parent / 'api_key'))}, one line, and your")
    out.print(f"DIDs and agents into {escape(str(path))}; then: rounded-pbx check")


@app.command()
def check(config: ConfigOption = None) -> None:
    """Check the configuration: every mistake with its line, exit status 2.

    Without a mistake, it shows each route and where it leads, and what leads to which account.
    Nothing is sent. The keys are read where they can be; what only the service can read is said.
    """
    from rich.table import Table

    from . import cli_accounts, cli_calls
    from .config import read_secrets
    from .tenants import DEFAULT

    path, settings = _load(config)
    unknown = read_secrets(path, settings).unknown
    table = Table(box=None)
    for column in ("route", "DIDs", "agent", "account", "on failure", "fallback"):
        table.add_column(column, overflow="fold")
    accounts = settings.account_table()
    for route in settings.route_table():
        table.add_row(
            route.name,
            "\n".join(route.dids) or "by name only",
            route.agent_id,
            route.account or ("by the call" if accounts.asks_the_call else DEFAULT),
            route.on_failure.value,
            "\n".join(cli_calls.fallbacks(route)) or "-",
        )
    out.print(table)
    if (second := cli_accounts.table(settings)) is not None:
        out.print()
        out.print(second)
    for note in unknown:
        out.print(f"[yellow]not checked:[/] {escape(note.text)}", soft_wrap=True)
    out.print(f"[green]{escape(str(path))}: no mistakes[/]", soft_wrap=True)


@app.command()
def route(
    did: DidOption,
    caller: FromOption = "",
    name: NameOption = "",
    route_name: RouteOption = None,
    channel: ChannelOption = None,
    context: ContextOption = "",
    domain: DomainOption = "",
    account_code: CodeOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show which route a call takes, and the exact request; nothing is sent.

    Examples:

        rounded-pbx route --did 0612345678 --from 0145678901
        rounded-pbx route --did +33612345678 --channel CUSTOMER=42 --json

    Exit status 1: no route takes this DID, or a number is none that could be sent.
    """
    from . import cli_calls

    _, settings = _load(config)
    call = cli_calls.call_of(did, caller, name, route_name, context, domain, account_code)
    routed = cli_calls.Routed.of(call, settings, cli_calls.pairs(channel))
    if as_json:
        print_json(routed.as_json())
    else:
        cli_calls.show(routed, did, settings, out)
    raise typer.Exit(0 if routed.request else 1)


@app.command()
def stage(
    did: DidOption,
    caller: FromOption = "",
    name: NameOption = "",
    route_name: RouteOption = None,
    channel: ChannelOption = None,
    context: ContextOption = "",
    domain: DomainOption = "",
    account_code: CodeOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Stage one call from the shell, as the dialplan would, and print what the dialplan would get.

    Example:

        rounded-pbx stage --did +33612345678 --from +33145678901

    It asks the API itself, and not the daemon, within `calls.deadline`. The call that it stages
    is a real one, which nobody takes up: the platform ends it after 60 seconds.

    Exit status 0: there is an id; 1: there is none, and ROUNDED_STATUS and ROUNDED_REASON say why.
    """
    from . import cli_calls
    from .config import config_path
    from .service import read

    settings, keys, headers = read(config_path(config))
    call = cli_calls.call_of(did, caller, name, route_name, context, domain, account_code)
    with _saying_why():
        variables = cli_calls.pairs(channel)
        answer = asyncio.run(cli_calls.staged(settings, keys, headers, call, variables))
    if as_json:
        print_json(dict(answer))
    else:
        for variable, value in answer:
            out.print(f"[bold]{variable}[/]={escape(value)}", soft_wrap=True)
    raise typer.Exit(0 if dict(answer)["ROUNDED_CALL_ID"] else 1)


@app.command()
def dialplan(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="FLAVOUR", help="The kind of PBX: see above.", autocompletion=_flavours
        ),
    ],
    install: Annotated[
        bool, typer.Option("--install", help="Write it into the switch's configuration.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what --install would change; exit status 1 if any.")
    ] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Take it out again.")] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="And let the switch read it: over AMI, ESL, fwconsole.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="The switch's configuration; else /etc/asterisk or /etc/freeswitch."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write the dialplan for asterisk, asterisk-chan-sip, freepbx, freeswitch or fusionpbx.

    Without an option it is shown, with what to put where. --install writes inside marked blocks,
    keeps a backup of each file that it changes, and writes nothing where nothing is to be done.

        rounded-pbx dialplan asterisk --diff
        rounded-pbx dialplan asterisk --install --reload

    Exit status 1: --diff found a difference, a file could not be written, or the switch did not
    read it; 2: the configuration has mistakes, or there is no `trunk` in it.
    """
    from . import cli_dialplan
    from .dialplan.flavours import ABOUT, Flavour
    from .dialplan.install import to_install, to_uninstall
    from .dialplan.rendering import render

    if reload and not (install or uninstall):
        raise typer.BadParameter("--reload goes with --install or --uninstall")
    if install + diff + uninstall > 1:
        raise typer.BadParameter("expected at most one of --install, --diff and --uninstall")
    try:
        flavour = Flavour(kind)
    except ValueError:
        known = ", ".join(Flavour)
        raise typer.BadParameter(f"{kind!r}: expected one of {known}") from None
    about = ABOUT[flavour]
    where = folder or (Path(about.folder) if about.folder else None)
    if where is None and (install or diff or uninstall):
        text = (
            f"{flavour} keeps its dialplans in a database: run this without an option, and import"
        )
        cli_dialplan.say_problems([text], err)
    if uninstall and where is not None:
        plan = to_uninstall(flavour, where)
        cli_dialplan.say_problems(plan.problems, err)
        reader = cli_dialplan.reader(flavour, _load(config)[1]) if reload else None
        cli_dialplan.make(plan, flavour, where, None, reader, out, err)
        return
    _, settings = _load(config)
    rendered = render(flavour, settings)
    cli_dialplan.say_problems(rendered.problems, err)
    if where is None or not (install or diff):
        if as_json:
            left = cli_dialplan.left_to_do(about, rendered)
            print_json({"files": rendered.files, "left": left, "reload": about.reload})
        else:
            cli_dialplan.show(flavour, rendered, where, out)
        return
    plan = to_install(flavour, where, rendered.files)
    cli_dialplan.say_problems(plan.problems, err)
    if diff:
        cli_dialplan.differences(plan, out)
    else:
        reader = cli_dialplan.reader(flavour, settings) if reload else None
        cli_dialplan.make(plan, flavour, where, rendered, reader, out, err)


@app.command()
def systemd(
    install: Annotated[
        bool, typer.Option("--install", help="Write the units; an older one is kept beside.")
    ] = False,
    uninstall: Annotated[
        bool,
        typer.Option(
            "--uninstall", help="Take them out; first: systemctl disable --now rounded-pbx."
        ),
    ] = False,
    folder: Annotated[
        Path, typer.Option(help="Where systemd looks for them.", show_default=True)
    ] = Path("/etc/systemd/system"),
    config: ConfigOption = None,
) -> None:
    """Write the units for systemd: the service, and a socket for each switch.

    Without an option they are shown, with what to put where. They name the very program that you
    run, the configuration that it reads, and the file of each credential that the configuration
    names: it is looked for beside the configuration.

    Exit status 0: done; 1: a file could not be written; 2: the configuration has mistakes, or the
    service could not run from here, as from a home directory.
    """
    from . import cli_systemd

    if install and uninstall:
        raise typer.BadParameter("expected at most one of --install and --uninstall")
    if uninstall:
        cli_systemd.install({}, folder, out, err)
        return
    path, settings = _load(config)
    units, runs = cli_systemd.units(settings, path, err)
    if not install:
        cli_systemd.show(units, folder, out)
    elif runs:
        cli_systemd.install(units, folder, out, err)
    raise typer.Exit(0 if runs else 2)


@app.command()
def doctor(
    prove: Annotated[
        bool, typer.Option("--prove", help="And place calls that end at a listener of ours.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="With --prove: stage one of them on the platform.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Look at all that a call depends on: what is seen, what is wrong, what to do.

    Exit status 0: all is right; 1: something wants a look; 2: something is wrong. Nothing is
    changed. --prove takes a copy of the switch's dialplan whose trunk is a SIP listener on
    loopback, and shows the INVITE with the daemon and without: nothing is dialled outside.
    """
    from . import cli_doctor

    if live and not prove:
        raise typer.BadParameter("--live goes with --prove")
    try:
        status = asyncio.run(
            cli_doctor.run(config, prove=prove, live=live, as_json=as_json, out=out)
        )
    except asyncio.CancelledError:  # SIGTERM or SIGHUP
        raise typer.Exit(130) from None
    raise typer.Exit(status)


@app.command()
def sandbox(
    listen: Annotated[str, typer.Option(help="Address and port.")] = "127.0.0.1:8700",
    key: Annotated[str, typer.Option(help="The API key that it accepts.")] = "sandbox",
    latency: Annotated[float, typer.Option(help="Seconds before any answer.")] = 0.0,
    staging_time: Annotated[float, typer.Option(help="Seconds until a call is staged.")] = 0.3,
    fault: Annotated[
        str | None,
        typer.Option(
            help="401 408 422 429 500 503: answers so; hang, drip, reset; html, half-json, bad-id.",
        ),
    ] = None,
    fault_times: Annotated[int | None, typer.Option(help="So many requests; else always.")] = None,
    retry_after: Annotated[int | None, typer.Option(help="Seconds, with 429 and 503.")] = 1,
) -> None:
    """Run an emulator of the Rounded API, well-behaved or not, until Ctrl-C.

    Example:

        rounded-pbx sandbox --latency 0.04 --fault 503 --fault-times 3

    It prints each request as it comes. While it runs, PUT /sandbox/behaviour changes how it
    behaves, and GET /sandbox/calls lists its calls:

        curl -X PUT 127.0.0.1:8700/sandbox/behaviour -d '{"fault": "hang"}'

    Point a daemon at it with `api: {base_url: "http://127.0.0.1:8700"}` and the key `sandbox`.
    Exit status 1: it cannot listen there.
    """
    import pydantic

    from .config_types import parse_address
    from .sandbox import Behaviour

    try:
        address = parse_address(listen)
        behaviour = Behaviour.model_validate(
            {
                "latency": latency,
                "staging_time": staging_time,
                "fault": fault,
                "fault_times": fault_times,
                "retry_after": retry_after,
            }
        )
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]}: {first['msg']}") from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from None
    try:
        asyncio.run(_sandbox(address, key, behaviour))
    except OSError as error:
        err.print(f"[bold red]error[/] cannot listen on {address}: {error.strerror}")
        raise typer.Exit(1) from None


@app.command()
def demo(
    asterisk: Annotated[
        Path | None,
        typer.Option(help="An Asterisk; else the one on PATH, or in $ROUNDED_PBX_CACHE."),
    ] = None,
    freeswitch: Annotated[
        Path | None,
        typer.Option(help="A FreeSWITCH; else the one that $FREESWITCH names, or on PATH."),
    ] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="Use no real switch.")] = False,
) -> None:
    """Show calls from the caller to the agent, with an API and switches of its own.

    Nothing leaves this machine. Where no Asterisk or no FreeSWITCH is found, a simulated one stands
    in, and says so. Exit status 1: a call did not go as it should.
    """
    from . import netns
    from .call import Switch
    from .demo import asterisk as asterisks
    from .demo import freeswitch as freeswitches
    from .demo import run

    with contextlib.suppress(OSError):  # it is loopback and free ports in any case
        netns.enter()
    binaries = {
        Switch.ASTERISK: None if simulated else asterisk or asterisks.find(),
        Switch.FREESWITCH: None if simulated else freeswitch or freeswitches.find(),
    }
    try:
        raise typer.Exit(0 if asyncio.run(run(out, binaries)) else 1)
    except asyncio.CancelledError:  # SIGTERM or SIGHUP
        raise typer.Exit(130) from None


async def _sandbox(address: Address, key: str, behaviour: Behaviour) -> None:
    from .sandbox import Call, Sandbox, serving
    from .service import stop_signals

    def show(method: str, path: str, status: int, call: Call | None) -> None:
        colour = "green" if status < 400 else "red"
        line = f"{method:5} {escape(path)}  [{colour}]{status}[/]  {call.id if call else ''}"
        out.print(line, soft_wrap=True)

    async with serving(Sandbox(key, behaviour, on_answer=show), address) as url:
        out.print(f"The sandbox of the Rounded API is at [bold]{url}[/], its key is {key!r}.")
        await stop_signals().wait()


def print_json(value: object) -> None:
    """JSON for machines, on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
