"""The command line: every command a thin call into a room.

Mistakes of the user end with a sentence that says what to do, never with a traceback.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from bridge import process
from bridge.errors import BridgeError, ConfigError, UsageError

app = typer.Typer(
    name="voice-bridge",
    help="Puts a speech-to-speech model behind a phone number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(emoji=False)  # :-1: is a port
complaints = Console(stderr=True, emoji=False)

_KEY = "BRIDGE_REALTIME__API_KEY"
_PORTS = (errno.EADDRINUSE, errno.EACCES)  # of a port; else it is the host
_NOTHING_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="The folder of bridge.yaml, numbers.yaml and agents/.", show_default=False),
]
LoopOption = Annotated[Literal["auto", "uvloop", "asyncio"], typer.Option(help="The event loop.")]


def main() -> None:
    """The command `voice-bridge`. Mistakes of the user end with a sentence and exit code 1."""
    process.begin()
    sys.path.append(os.getcwd())  # tools of agents are looked for where one starts, after all that is installed
    try:
        app()
    except ConfigError as error:
        complaints.print("[bold red]The configuration has mistakes:[/]")
        for mistake in error.mistakes:
            complaints.print(f"  - {mistake}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
    except BridgeError as error:
        complaints.print(str(error), style="red", markup=False, soft_wrap=True)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        process.give_up_printing()
        where = f"{error.filename}: " if error.filename else ""
        complaints.print(f"{where}{error.strerror}. Make room and try again", style="red", markup=False, soft_wrap=True)
        raise SystemExit(1) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(process.exit_code(130)) from None
    except SystemExit as end:
        raise SystemExit(process.exit_code(end.code)) from None


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="The interface to listen on.", show_default=False)] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The port to listen on.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Processes that share the port, each with its own event loop.", show_default=False
        ),
    ] = None,
    loop: LoopOption = "auto",
    journal: Annotated[
        Path | None,
        typer.Option(help="Write a journal of every call into this folder: all that was said in it.", metavar="DIR"),
    ] = None,
) -> None:
    """Answer calls. With no configuration: port 8080, the sample agents, the model on this machine."""
    from bridge import log
    from bridge.settings import load

    process.in_large_pages()
    process.with_all_descriptors()
    asked = (("host", host), ("port", port), ("workers", workers))
    settings = load(config=config, given={name: value for name, value in asked if value is not None})
    log.configure(settings.log, secrets=settings.all_secrets())
    process.run(process.for_good(_serve(settings, loop, journal)), loop=loop)


async def _serve(settings: Any, loop: str, journal: Path | None) -> None:
    from bridge.records.journals import Journals
    from bridge.web.service import Service
    from bridge.web.welcome import welcome
    from bridge.web.workers import Workers

    service: Service | Workers
    if settings.workers == 1:
        service = Service(settings, journals=None if journal is None else Journals(journal))
    else:
        service = Workers(settings, loop=loop, journals=journal)
    try:
        await service.start()
    except OSError as error:
        await service.stop(grace_s=0)
        raise ConfigError([_not_started(settings, error)]) from None
    try:
        welcome(console, settings, service.port, service.directory)
    except (OSError, SystemExit):  # nobody reads it, or the disk is full: it is only a welcome
        process.give_up_printing()
    await service.run()


def _why(error: OSError) -> str | None:
    """In the system's own words; asyncio puts the address as Python writes it into them, a name server has others."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror


def _not_started(settings: Any, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):  # tempfile's, of all places it tried
        return "no folder for temporary files can be written to. Set TMPDIR to one (in a container: --tmpfs /tmp)"
    why = _why(error)
    if error.errno in _NOTHING_LEFT:
        return f"cannot start: {why}. Raise the limits of this process (ulimit -a)"
    remedy = (
        "Free it or set BRIDGE_PORT" if error.errno in _PORTS else "Set BRIDGE_HOST to an interface of this machine"
    )
    return f"cannot listen on {settings.host}:{settings.port}: {why}. {remedy}"


@app.command(hidden=True)
def worker(loop: LoopOption = "auto") -> None:
    """One of several processes of `serve`; only `serve` itself can start it."""
    from bridge.web import workers

    process.run(process.for_good(workers.work(workers.assignment())), loop=loop)


@app.command()
def model(
    config: ConfigOption = None,
    host: Annotated[str, typer.Option(help="The interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on; 0: any free one.")] = 8765,
    script: Annotated[
        Path | None,
        typer.Option(
            help="Scripted misbehaviour (YAML): python -m pydoc bridge.localmodel.script.", show_default=False
        ),
    ] = None,
    companion: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """The model on this machine alone: an OpenAI-Realtime-compatible server that needs no key."""
    process.run(_model(config, host, port, script, companion=companion))


async def _model(config: Path | None, host: str, port: int, script: Path | None, *, companion: bool) -> None:
    from bridge.localmodel import EXTRA
    from bridge.localmodel.server import LocalModel
    from bridge.rehearsal.brains import brains_of
    from bridge.settings import load

    local = LocalModel(brains_of(load(config=config)), script=script)
    if not local.listens:
        deaf = f"The model on this machine does not listen: it takes its lines in turn. To be understood, get {EXTRA}."
        complaints.print(deaf, markup=False, highlight=False, soft_wrap=True)
    try:
        at = await local.start(host, port)
    except OSError as error:
        asked_by = "BRIDGE_LOCAL_MODEL__PORT" if companion else "--port" if error.errno in _PORTS else "--host"
        raise ConfigError([f"cannot listen on {host}:{port}: {_why(error)}. Choose another {asked_by}"]) from None
    address = f"ws://{host}:{at}/v1/realtime"
    try:
        if companion:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # calls that say goodbye still need it
            print(address, flush=True)  # noqa: T201  (read by the parent process)
            await asyncio.to_thread(sys.stdin.buffer.read)
        else:
            told = f"The model on this machine listens at [bold]{address}[/]. Press Ctrl-C to stop it."
            console.print(told, soft_wrap=True)
            await _until_signalled()
    finally:
        await local.stop()


async def _until_signalled() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where call.wav, call.svg and call.json go.")] = Path("demo-call"),
) -> None:
    """A real spoken call through the whole path, with no key and no network."""
    from bridge.rehearsal.demo import demo as make_call

    raise SystemExit(process.run(make_call(out, console)))


@app.command()
def talk(
    config: ConfigOption = None,
    agent: Annotated[str, typer.Option(help="Which agent; without it the one that answers unlisted numbers.")] = "",
    wav: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Speak this WAV file to it, and write its answer to that one.", metavar="IN OUT"),
    ] = None,
) -> None:
    """Talk with an agent in the terminal, by typing; or let it answer a WAV file."""
    from bridge import log
    from bridge.rehearsal import talk as conversation
    from bridge.settings import load
    from bridge.tools.toolbox import Toolbox

    settings = load(config=config)
    log.configure(settings.log.model_copy(update={"level": "warning"}), secrets=settings.all_secrets())
    if wav is None:
        work = conversation.talk(settings, agent, console, toolbox=Toolbox())
    else:
        work = conversation.play(settings, agent, console, heard=wav[0], said=wav[1], toolbox=Toolbox())
    raise SystemExit(process.run(work))


@app.command()
def probe(
    where: Annotated[str, typer.Argument(help="A realtime server's address (wss://...), or a profile's name.")],
    config: ConfigOption = None,
    profile: Annotated[str, typer.Option(help="The profile to speak to this address with.")] = "",
    model: Annotated[str, typer.Option(help="The model to ask for.")] = "",
    key_from: Annotated[
        str,
        typer.Option(
            "--key-from",
            help="The variable (environment, .env, secrets folder) that holds the key; a key is never an argument.",
        ),
    ] = _KEY,
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of a table.")] = False,
    plain: Annotated[bool, typer.Option("--allow-plain", help="Allow ws:// to another machine.")] = False,
) -> None:
    """Find out what a realtime server can do, and whether a call through it would work (exit code 0 or 1)."""
    import msgspec

    from bridge.rehearsal import findings
    from bridge.rehearsal.probe import probe as examine
    from bridge.rehearsal.probe import target_of
    from bridge.settings import config_folder, profiles_in, variable

    known, key = profiles_in(config_folder(config)), variable(key_from, config=config)
    if not key and key_from != _KEY:
        raise UsageError(f"--key-from {key_from}: there is no such variable, or it is empty. Set it, or leave it out")
    url = ""
    if where == (variable("BRIDGE_REALTIME__PROFILE", config=config) or "openai"):  # as calls reach it
        url = variable("BRIDGE_REALTIME__URL", config=config)
        model = model or variable("BRIDGE_REALTIME__MODEL", config=config)
        plain = plain or variable("BRIDGE_ALLOW_PLAIN", config=config).lower() in ("true", "1", "yes", "on")
    target = target_of(where, known, url=url, profile=profile, model=model, key=key, plain=plain)
    if as_json:
        report = process.run(examine(target))
        print(msgspec.json.format(msgspec.json.encode(report.as_data()), indent=1).decode())  # noqa: T201  (data)
    else:
        with console.status("") as status:
            report = process.run(examine(target, lambda what: status.update(f"{what} ...")))
        findings.show(report, console)
    raise SystemExit(0 if report.would_work else 1)


@app.command()
def replay(file: Annotated[Path, typer.Argument(help="A journal that `serve --journal` has written.")]) -> None:
    """Give a call's journal to today's core, and show the first thing it decides otherwise (exit code 1)."""
    from bridge.records.journal import read, replay, torn_line

    try:
        difference = replay(file)
        facts = sum(1 for _ in read(file)[1])
        torn = torn_line(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    if difference is not None:
        console.print(str(difference), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1)
    console.print(f"{facts} facts, no difference: today's core decides the same.", highlight=False)
    if torn:
        told = f"Line {torn} is torn and was left out: its writer stopped there, and what followed is not known."
        console.print(told, style="yellow", highlight=False, soft_wrap=True)


@app.command()
def check(config: ConfigOption = None) -> None:
    """Look for mistakes in the configuration, and say what it means."""
    from bridge.rehearsal.brains import brains_of
    from bridge.settings import Directory, load
    from bridge.tools.toolbox import Toolbox
    from bridge.web.service import import_tools
    from bridge.web.welcome import summary

    settings = load(config=config)
    wrong: list[str] = []
    for look in (brains_of, lambda settings: import_tools(settings, Toolbox())):
        try:
            look(settings)
        except ConfigError as error:
            wrong += error.mistakes
    if wrong:
        raise ConfigError(wrong)
    summary(console, settings, Directory(settings))


@app.command()
def simulate(
    files: Annotated[list[Path], typer.Argument(help="Scenario files, or folders of them.", show_default=False)],
    clock: Annotated[
        str | None, typer.Option(help="virtual: in process, repeatable; real: over sockets.", show_default="virtual")
    ] = None,
    calls: Annotated[int, typer.Option(min=1, max=1000, help="Calls of each scenario at once.")] = 1,
    report: Annotated[
        str | None, typer.Option(help="html, json or junit; else as --out ends.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The report's file; else calls.html, .json, .xml.")] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="A folder for each call's timeline.", show_default=False)
    ] = None,
    update_golden: Annotated[bool, typer.Option(help="Renew the golden timelines instead of comparing.")] = False,
    against: Annotated[str, typer.Option(help="wss://host/path of any media-stream server.", show_default=False)] = "",
    config: ConfigOption = None,
) -> None:
    """Call the service as scenarios say, and judge what happened (exit code 1 if anything was not as expected).

    What a scenario can say: python -m pydoc bridge.sim.scenario
    """
    from bridge.rehearsal.simulate import simulate as run_all

    raise SystemExit(
        run_all(
            files,
            console,
            clock=clock,
            calls=calls,
            report=report,
            out=out,
            timeline=timeline,
            update_golden=update_golden,
            against=against,
            config=config,
        )
    )
