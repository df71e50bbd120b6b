"""`config check | show`: configurations of nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from node.cli.output import print_json
from node.cli.program import Commands
from node.cli.target import Target, json_option, place_option
from node.config.checks import advice
from node.config.file import load, read_toml
from node.config.settings import NodeConfig
from node.data_directory import identity
from node.diagnosis.redaction import flat, settings
from node.errors import ConfigError, DataDirectoryError, DirectoryError

path_option = click.option("--config", "path", type=click.Path(path_type=Path), help="Only this node.toml.")


@click.group(cls=Commands)
def config() -> None:
    """Configurations: check them, show the settings in effect."""


@config.command()
@place_option
@path_option
@json_option
def check(target: Target, path: Path | None, as_json: bool) -> None:
    """Check the configurations of the nodes on this machine and the identities of their data directories, as a start
    does, and that the configurations agree with each other. Exit code 1 if one is wrong.
    """
    faults: dict[str, str] = {}
    configs: dict[str, NodeConfig] = {}
    notes: dict[str, list[str]] = {}
    for each in _paths(target, path):
        try:
            configs[str(each)] = load(each)
            notes[str(each)] = advice(configs[str(each)], each)
            identity.check_usable(configs[str(each)])
        except (ConfigError, DataDirectoryError) as error:
            faults[str(each)] = str(error)
    contradictions = _contradictions(configs)
    if as_json:
        print_json(
            {
                "sound": [name for name in configs if name not in faults],
                "faults": faults,
                "contradictions": contradictions,
                "advice": notes,
            }
        )
    else:
        for name, one in configs.items():
            if name not in faults:
                click.echo(f"{name}: {one.node_id} of {one.cluster_id} can start")
        for lines in notes.values():
            for line in lines:
                click.echo(f"note: {line}", err=True)
        for line in (*faults.values(), *contradictions):
            click.echo(f"error: {line}", err=True)
    if faults or contradictions:
        raise click.exceptions.Exit(1)


def _contradictions(found: dict[str, NodeConfig]) -> list[str]:
    """Return settings that must be the same on all nodes of a cluster and are not."""
    lines = []
    first = next(iter(found.items()), None)
    for name, one in list(found.items())[1:]:
        assert first is not None
        other_name, other = first
        lines += [
            f"{key} differs between {other_name} and {name}"
            for key in ("cluster_id", "admin")
            if getattr(one, key) != getattr(other, key)
        ]
        places = {node.node_id: node for node in one.nodes}
        lines += [
            f"the addresses of {node.node_id} differ between {other_name} and {name}"
            for node in other.nodes
            if node.node_id in places and places[node.node_id] != node
        ]
    return lines


@config.command("show")
@place_option
@path_option
@click.option("--changed", is_flag=True, help="Only keys that differ from their default.")
@json_option
def show_config(target: Target, path: Path | None, changed: bool, as_json: bool) -> None:
    """Show every key in effect, including defaults that the file does not name. Secrets are hidden."""
    views = {str(each): _view(load(each), changed) for each in _paths(target, path)}
    if as_json:
        print_json(views)
        return
    for position, (name, view) in enumerate(views.items()):
        click.echo(("\n" if position else "") + f"# {name}")
        named = set(flat(read_toml(Path(name))))
        for key, value in view.items():
            text = msgspec.json.encode(value).decode()
            click.echo(f"{key} = {text}" + ("" if key in named else "  # default"))


def _view(one: NodeConfig, changed: bool) -> dict[str, Any]:
    """Return keys and values with secrets hidden."""
    shown = settings(one)
    defaults = flat(msgspec.to_builtins(_defaults(one))) if changed else {}
    return {key: value for key, value in shown.items() if not changed or key not in defaults or defaults[key] != value}


def _defaults(one: NodeConfig) -> dict[str, Any]:
    """Return the defaults of all sections that have any."""
    found: dict[str, Any] = {}
    for section in (one, *(getattr(one, field.name) for field in msgspec.structs.fields(one))):
        if isinstance(section, msgspec.Struct):
            prefix = next(
                (f"{field.encode_name}." for field in msgspec.structs.fields(one) if getattr(one, field.name) is section), ""
            )
            for field in msgspec.structs.fields(section):
                if field.default is not msgspec.NODEFAULT:
                    found[prefix + field.encode_name] = msgspec.to_builtins(field.default)
    return found


def _paths(target: Target, path: Path | None) -> list[Path]:
    """Return the configuration named by `path`, or those of all nodes in the cluster's directory. Raises
    DirectoryError.
    """
    if path is not None:
        return [path]
    found = sorted(target.directory.glob("*/node.toml"))
    if not found:
        raise DirectoryError(f"{target.directory}: no node in it (expected {target.directory}/n1/node.toml)")
    return found
