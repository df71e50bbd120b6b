"""The cluster and the identity that a command uses: options that are the same for every command.

`--cluster` (or `QUORUMBOOK_CLUSTER`) names either the directory that `quorumbook init` made, or a key file with the
nodes' addresses. With such a file alone, a command works from any machine. `--url` names other nodes than the file, and
`--key` another key than the operator's.

The types of arguments that several commands share are here too. Each has bounds: a value outside them is
a usage error, never an exception.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import click
import msgspec

from node.cluster_directory import Access, ClusterDirectory, KeyFile, read_key
from node.config.checks import split_address
from node.errors import DirectoryError
from statemachine.limits import SECOND_NS

CLUSTER_VARIABLE = "QUORUMBOOK_CLUSTER"
URL_VARIABLE = "QUORUMBOOK_URL"

DEFAULT_CLUSTER = "exchange"
"""The default directory. No package of the source tree has this name."""

EARLIER_DEFAULT = "cluster"
"""The default directory of version 0.2.0. It is still used, with a note on stderr, if `DEFAULT_CLUSTER` does not exist.
"""

SCHEME = "tls://"

INT64_MAX = 2**63 - 1
COUNT = click.IntRange(0, INT64_MAX)
"""A count or an id: a number that a command of the exchange can hold."""
WHOLE_SECONDS = click.IntRange(0, INT64_MAX // SECOND_NS)
"""A duration of the exchange, which stores nanoseconds."""

Function = Callable[..., Any]


class Target(msgspec.Struct, frozen=True):
    """The cluster, the acting account, and the signing key (None: the operator's).

    `place` is a cluster's directory or a key file. `nodes` are native addresses that replace those found there.
    """

    place: Path
    account_id: str = ""
    key: KeyFile | None = None
    nodes: tuple[str, ...] = ()
    authority: str = ""

    def account(self) -> str:
        """Return the acting account.

        Raises:
            click.UsageError: none was named.
        """
        name = self.account_id or (self.key.account_id if self.key else "")
        if not name:
            raise click.UsageError("Name the account that acts: --as ACCOUNT, or a --key file that names it.")
        return name

    @property
    def is_remote(self) -> bool:
        """Whether the cluster is reached by addresses, and not through its directory."""
        return bool(self.nodes) or self.place.is_file()

    @property
    def directory(self) -> Path:
        """The cluster's directory.

        Raises:
            click.UsageError: none was named.
        """
        if self.is_remote:
            raise click.UsageError(
                "This command works on the files of nodes: run it where the cluster's directory is, and name that with --cluster."
            )
        return self.place

    def access(self) -> Access:
        """Return how a client reaches the cluster.

        Raises:
            DirectoryError: there is no cluster in the directory, or the key file does not say where the nodes are or
                whom to trust.
            click.UsageError: `--url` without a key to sign with.
        """
        if not self.is_remote:
            return ClusterDirectory(self.place).access(self.key.credentials() if self.key else None)
        file = read_key(self.place) if self.place.is_file() else None
        key = self.key or file
        if key is None:
            raise click.UsageError("--url needs a key to sign with: --key FILE, such as admin.json of the cluster.")
        authority = self.authority or key.ca or (file.ca if file is not None else "")
        addresses = {address: address for address in self.nodes} or key.nodes or (file.nodes if file is not None else {})
        if not addresses:
            raise DirectoryError(
                f"{self.place}: the nodes' addresses are missing; name one with --url HOST:PORT (its native address)"
            )
        if not authority:
            raise DirectoryError("the key file has no certificate authority (ca) to trust; name the cluster's ca.pem with --ca")
        return Access(addresses, authority, key.credentials())


def deprecated(old: str, new: str) -> None:
    """Say on stderr that a spelling is deprecated."""
    click.echo(f"note: {old} is deprecated; use {new}", err=True)


def default_place() -> Path:
    """Return the default cluster."""
    if not Path(DEFAULT_CLUSTER).exists() and any(Path(EARLIER_DEFAULT).glob("*/node.toml")):
        deprecated(f"./{EARLIER_DEFAULT} as the default cluster", f"--cluster {EARLIER_DEFAULT}")
        return Path(EARLIER_DEFAULT)
    return Path(DEFAULT_CLUSTER)


_key_option = click.option(
    "--key",
    "key_path",
    type=click.Path(path_type=Path),
    help="Sign with this API key (a file of `key put`) instead of the operator's.",
)


def _addresses(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> tuple[str, ...]:
    """Parse the native addresses of `--url`."""
    found = []
    for text in (part.strip() for value in texts for part in value.split(",")):
        if text.startswith(("http://", "https://")):
            raise click.BadParameter(
                f"expected a node's native address, {SCHEME}HOST:PORT or HOST:PORT, not its HTTP address {text}"
            )
        address = text.removeprefix(SCHEME).rstrip("/")
        if split_address(address) is None:
            raise click.BadParameter(f"expected {SCHEME}HOST:PORT or HOST:PORT, not {text!r}")
        found.append(address)
    return tuple(found)


def place_option(function: Function) -> Function:
    """Add `--cluster` alone, for commands that work on the files of a cluster. It is passed on as `target`."""
    return _with_target(function, remote=False)


def keyed_place_option(function: Function) -> Function:
    """Add `--cluster` and `--key`, for commands that work on the files of a cluster and also ask its leader."""
    return _with_target(function, remote=False, keyed=True)


def cluster_option(function: Function) -> Function:
    """Add `--cluster`, `--url`, `--key` and `--ca`, passed on as `target`."""
    return _with_target(function, remote=True)


def _with_target(function: Function, *, remote: bool, keyed: bool = False) -> Function:
    """Give a command the options that name a cluster, and pass their values to it as one `Target`. `remote` adds the
    options for nodes on other machines. `keyed` adds only the option for a key.
    """

    @functools.wraps(function)
    def wrapper(
        *args: Any,
        place: Path | None,
        urls: tuple[str, ...] = (),
        key_path: Path | None = None,
        ca_path: Path | None = None,
        **kwargs: Any,
    ) -> Any:
        key = read_key(key_path) if key_path else None
        authority = _authority(ca_path) if ca_path else ""
        if remote and place is None and key_path is not None and key is not None and key.nodes:
            place = key_path
        return function(*args, target=Target(place or default_place(), "", key, urls, authority), **kwargs)

    options = [
        click.option(
            "--cluster",
            "place",
            type=click.Path(path_type=Path),
            envvar=CLUSTER_VARIABLE,
            show_envvar=True,
            help=f"The directory that `quorumbook init` made, or a key file such as its admin.json. [default: {DEFAULT_CLUSTER}]"
            if remote
            else f"The directory that `quorumbook init` made. [default: {DEFAULT_CLUSTER}]",
        )
    ]
    if remote:
        options += [
            click.option(
                "--url",
                "urls",
                multiple=True,
                metavar="HOST:PORT",
                envvar=URL_VARIABLE,
                show_envvar=True,
                callback=_addresses,
                help="Native address of a node, instead of those in the key file. May repeat; one reachable node is enough.",
            ),
            _key_option,
            click.option(
                "--ca",
                "ca_path",
                type=click.Path(path_type=Path),
                help="The cluster's ca.pem, if the key file does not contain it.",
            ),
        ]
    elif keyed:
        options.append(_key_option)
    wrapped: Function = wrapper
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def _authority(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise DirectoryError(f"{path}: expected a certificate in PEM") from error


def account_options(function: Function) -> Function:
    """Add the options of `cluster_option` and `--as`, passed on as `target`."""

    @click.option("--as", "--account", "acting", metavar="ACCOUNT", default="", help="The account that acts. Default: the key's.")
    @cluster_option
    @functools.wraps(function)
    def wrapper(*args: Any, target: Target, acting: str, **kwargs: Any) -> Any:
        return function(*args, target=msgspec.structs.replace(target, account_id=acting), **kwargs)

    return wrapper


def earlier_place(name: str = "", *declarations: str) -> Callable[[Function], Function]:
    """Add the cluster's directory as older versions took it, a deprecated alias of `--cluster`: an argument, or the
    options `declarations`.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def wrapper(*args: Any, target: Target, earlier: Path | None, **kwargs: Any) -> Any:
            if earlier is not None:
                deprecated(f"{name} {earlier}".strip(), f"--cluster {quote(str(earlier))}")
                target = msgspec.structs.replace(target, place=earlier)
            return function(*args, target=target, **kwargs)

        kind = click.Path(path_type=Path)
        if declarations:
            return click.option(*declarations, "earlier", type=kind, hidden=True)(wrapper)
        return click.argument("earlier", type=kind, required=False, metavar="")(wrapper)

    return decorate


def json_option(function: Function) -> Function:
    """Add `--json`, passed on as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def above_zero(units: int, option: str, omitted: str = "") -> int:
    """Return the amount that an option gives. It must not be 0, because 0 in a command means that there is no amount.

    Args:
        omitted: a sentence of the error that says how to give no amount, after a space.

    Raises:
        click.UsageError: it is 0.
    """
    if not units:
        raise click.UsageError(f"--{option}: expected more than 0.{omitted}")
    return units


class Finite(click.FloatRange):
    """A number within bounds. Not NaN, which compares with no bound, and not infinity, for which no clock can wait."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Raises click.BadParameter."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, not {value!r}", param, ctx)
        return float(number)
