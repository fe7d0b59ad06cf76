"""What a person sees when the service starts: what it is doing, what is unsafe, and what to do next."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from bridge.settings import Directory, Settings, insecure

_WIDE: Final = 1000


def welcome(console: Console, settings: Settings, port: int, directory: Directory) -> None:
    """Printed once, when the service listens."""
    where = settings.own_url(port) if ":" in settings.host else f"http://{settings.host}:{port}"
    console.print(f"voice-bridge listens on [bold]{escape(where)}[/]")
    summary(console, settings, directory)
    steps = next_steps(settings, directory)
    if steps:
        console.print("[bold]What to do next[/]")
        for number, step in enumerate(steps, 1):
            console.print(f"  {number}. {step}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C ends it; running calls get time to finish.", style="dim")


def summary(console: Console, settings: Settings, directory: Directory) -> None:
    """Who answers which number, through which model service; what keeps calls away, and what is unsafe."""
    table = Table(title=None, box=None, header_style="bold", pad_edge=False)
    for column in ("agent", "numbers", "model service", "model", "at"):
        table.add_column(column, overflow="fold")
    for name in sorted(settings.agents):
        numbers = [number for number, agent in settings.numbers.items() if agent == name]
        if name == settings.default_agent:
            numbers.append("all others")
        for first, (target, where) in enumerate(zip(directory.targets(name), directory.places(name), strict=True)):
            table.add_row(
                escape(name if not first else ""),
                escape(", ".join(numbers) or "none" if not first else "if that fails:"),
                escape(target.profile.title or target.profile.name),
                escape(target.model),
                escape(where),
            )
    if not console.is_terminal:  # a file has no edge to fold at
        table.width = Measurement.get(console, console.options.update(width=_WIDE), table).maximum
    console.print(table, crop=False)
    if settings.is_public and settings.twilio.validate_signatures and not settings.twilio.secrets:
        console.print(
            "[red]No call will get through:[/] BRIDGE_TWILIO__AUTH_TOKEN is not set, so every webhook that comes to "
            "BRIDGE_PUBLIC_URL is refused (403). Set it to your account's auth token.",
            highlight=False,
            soft_wrap=True,
        )
    for sentence in insecure(settings):
        console.print(f"[yellow]Unsafe:[/] {sentence}", highlight=False, soft_wrap=True)


def next_steps(settings: Settings, directory: Directory) -> list[str]:
    """What is still missing on the way to a real call."""
    steps = []
    if not settings.public_url:
        steps.append(
            "Give this port a public https address (a reverse proxy or a tunnel) and set BRIDGE_PUBLIC_URL to it."
        )
    address = settings.public_url or "<that address>"
    if not settings.twilio.secrets:
        steps.append(
            f'At Twilio, set your number\'s voice webhook ("A call comes in") to POST {address}/twilio/voice, '
            "and set BRIDGE_TWILIO__AUTH_TOKEN to your account's auth token."
        )
    if directory.needs_local_model:
        steps.append(
            "Calls are answered by the model on this machine. For a real one set BRIDGE_REALTIME__API_KEY "
            "(and BRIDGE_REALTIME__PROFILE for another service than OpenAI)."
        )
    return steps
