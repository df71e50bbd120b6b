"""`key put | list | revoke | reseal`: API keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from node.cli import session
from node.cli.output import Declined, Rejection, print_json, show, table
from node.cli.program import Commands
from node.cli.session import CliSession, fresh_id, run
from node.cli.target import Target, cluster_option, json_option
from node.cluster_directory import KeyFile
from node.errors import DirectoryError, QuorumbookError, RequestFailed
from node.keys import addresses
from node.keys.credentials import PERMISSIONS, generate, permission_names, revocation
from node.native.protocol import ApiKeysQuery, ControlAction, FailCode
from node.system import files
from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow

PAGE = 1_000
OF_USER = "view,trade,transfer,deposit,admin"
"""The permissions of a key that may do all that its user's roles allow."""


@click.group(cls=Commands)
def key() -> None:
    """API keys: put, list, revoke, reseal."""


@key.command()
@click.argument("key_id", metavar="KEY")
@click.option("--account", "account_id", default="", help="The account that the key acts for. Not needed with --user.")
@click.option("--user", "user_id", default="", help="The user whose key it is. It may do what the user's roles allow.")
@click.option(
    "--permissions",
    default="",
    help=f"Some of {', '.join(PERMISSIONS)}, with commas. Default: view,trade; with --user all that the user's roles allow.",
)
@click.option(
    "--address", "networks", multiple=True, help="A network it may be used from, such as 192.0.2.0/24. May repeat. Default: any."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the key to this new file instead of stdout.")
@click.option("--replace", is_flag=True, help="Replace an existing key; its old secret becomes invalid.")
@cluster_option
def put(
    target: Target,
    key_id: str,
    account_id: str,
    user_id: str,
    permissions: str,
    networks: Sequence[str],
    out: Path | None,
    replace: bool,
) -> None:
    """Make a new secret for KEY and store it. The file is for the option --key. The secret is shown only once.

    The file also has the nodes' addresses and the cluster's authority, so it is enough to reach the cluster from any
    machine.
    """
    if not account_id and not user_id:
        raise click.UsageError("Give --account, or --user, or both.")
    account_id = account_id or OPERATOR
    total, limits = _permissions(permissions or (OF_USER if user_id else "view,trade")), _addresses(networks)
    fresh = generate(key_id)
    access = session.reach(target)
    key_file = KeyFile(key_id, fresh.secret, fresh.passphrase, account_id, access.addresses, access.authority)
    if out is not None:
        files.write_new(out, msgspec.json.format(msgspec.json.encode(key_file), indent=2) + b"\n", 0o600)

    async def work(session: CliSession) -> None:
        if not replace and any(row.key_id == key_id for row in await _all(session)):
            raise Declined(
                f"key {key_id} exists already. Choose another id, or give --replace, which makes its old secret invalid"
            )
        await session.submit(
            PutApiKey(
                OPERATOR, fresh_id(), key_id, account_id, key_file.secret, key_file.passphrase, total, limits, user_id=user_id
            )
        )

    try:
        run(target, work)
    except BaseException as error:
        if not _may_be_stored(error):
            if out is not None:
                out.unlink()
        elif out is None:
            print_json(key_file)
        else:
            click.echo(f"note: {out} stays: its secret is the only copy if {key_id} is stored after all", err=True)
        raise
    if out is None:
        print_json(key_file)
    else:
        click.echo(f"{key_id} acts for {account_id}; its secret is in {out}")


@key.command("list")
@cluster_option
@json_option
def list_keys(target: Target, as_json: bool) -> None:
    """List every API key without its secret: its account, permissions and addresses, and the cluster key that encrypts
    it (0: none).
    """
    rows = run(target, _all)
    views = [
        {
            "key_id": row.key_id,
            "account_id": row.owner_id,
            "permissions": ",".join(permission_names(row.permissions)) or "revoked",
            "addresses": row.addresses or "any",
            "user": row.user_id,
            "cluster_key": row.sealed_by,
        }
        for row in rows
    ]
    if as_json:
        print_json(views)
    else:
        columns = ["key", "account", "permissions", "addresses", "user", "cluster key"]
        cells = [[str(value) for value in view.values()] for view in views]
        if not any(row.user_id for row in rows):  # a cluster without users
            for line in (columns, *cells):
                del line[4]
        show(table(columns, cells, title="API keys"))


@key.command()
@click.argument("key_id", metavar="KEY")
@cluster_option
@json_option
def revoke(target: Target, key_id: str, as_json: bool) -> None:
    """Revoke KEY at once on every node."""

    async def work(session: CliSession) -> None:
        for row in await _all(session):
            if row.key_id == key_id:
                await session.submit(revocation(row, fresh_id()))
                return
        raise DirectoryError(f"no API key {key_id!r}")

    run(target, work)
    if as_json:
        print_json({"key_id": key_id, "permissions": "revoked"})
    else:
        click.echo(f"{key_id} is revoked")


@key.command()
@cluster_option
@json_option
def reseal(target: Target, as_json: bool) -> None:
    """Encrypt every API key under the newest cluster key; see `cluster rotate-key`. May be repeated."""

    async def work(session: CliSession) -> list[ApiKeyRow]:
        await session.client.control(ControlAction.RESEAL)
        return await _all(session)

    rows = run(target, work)
    numbers = sorted({row.sealed_by for row in rows})
    if as_json:
        print_json({"keys": len(rows), "cluster_keys": numbers})
        return
    click.echo(f"{len(rows)} API keys, encrypted under cluster key {', '.join(map(str, numbers)) or 'none'}")


def _may_be_stored(error: BaseException) -> bool:
    """Return whether a key may be stored although storing it failed: it waits for consent, or the outcome is unknown."""
    if isinstance(error, RequestFailed):
        return error.code is FailCode.OUTCOME_UNKNOWN
    return not isinstance(error, Declined | Rejection | QuorumbookError)


async def _all(session: CliSession) -> list[ApiKeyRow]:
    """Return all API keys, page by page."""
    rows: list[ApiKeyRow] = []
    while True:
        page: list[ApiKeyRow] = await session.read(ApiKeysQuery(rows[-1].key_id if rows else "", PAGE))
        rows += page
        if len(page) < PAGE:
            return rows


def _permissions(text: str) -> int:
    """Return the permissions in an option. Raises click.UsageError."""
    total = 0
    for name in text.split(","):
        if name.strip().lower() not in PERMISSIONS:
            raise click.UsageError(f"--permissions: {name!r} is none of {', '.join(PERMISSIONS)}.")
        total |= PERMISSIONS[name.strip().lower()]
    return total


def _addresses(texts: Sequence[str]) -> str:
    try:
        return ",".join(str(network) for network in addresses.networks(texts))
    except ValueError as error:
        raise click.UsageError(f"--address: {error}.") from None
