"""Starts each process other than the engine: its option, configuration, log, file descriptors, and the signals that
end it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from node import exit_codes
from node.config.file import load
from node.config.settings import NodeConfig
from node.errors import QuorumbookError
from node.system import logs
from node.system.processes import raise_limit, watch_parent

config_option = click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="The node's TOML file.")


def begin(path: Path, role: str) -> NodeConfig:
    """Read the configuration, set up the log under the node's id and `role`, and raise the limit of descriptors.

    Raises:
        QuorumbookError: the configuration is not usable, or the limit of descriptors is too low.
    """
    config = load(path)
    logs.set_up(config.log_level, f"{config.node_id} {role}", config.log_format)
    raise_limit()
    return config


def stop_event() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. Call it in the event loop, once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def serve(
    path: Path,
    role: str,
    run: Callable[[NodeConfig, asyncio.Event], Coroutine[Any, Any, None]],
    runner: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """Run a process that serves clients. `run` gets the configuration, and the event that SIGTERM and SIGINT set.

    Raises:
        click.ClickException: the configuration is not usable, or the address cannot be listened on.
    """

    async def until_signal(config: NodeConfig) -> None:
        await run(config, stop_event())

    watch_parent()
    try:
        config = begin(path, role)
        runner(until_signal(config))
    except QuorumbookError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error}") from None


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for some seconds, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


class GaveUp(click.ClickException):
    """The process cannot continue, and a restart does not change that. The message is its last line on stderr."""

    exit_code = exit_codes.CANNOT_START
