"""API keys, for the operator: made, put, listed and revoked. A secret is told once, by the call that made it."""

from __future__ import annotations

from collections.abc import Sequence

from node.errors import RequestFailed, UnfitSecretError
from node.gateway.admin import put
from node.gateway.errors import BadRequestError, UnknownHereError
from node.gateway.ids import check_name
from node.gateway.requests import KeyRequest, NewKeyRequest, page_limit, parse
from node.gateway.shapes import KeyJson, NewKeyJson, PutJson
from node.gateway.web import Answer, Call
from node.keys import addresses
from node.keys.issue import PERMISSIONS, generate, names, revocation
from node.keys.sealing import TEXT_BYTES_MAX, check_texts
from node.native.protocol import ApiKeyQuery, ApiKeysQuery, FailCode
from statemachine.commands import PutApiKey
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow


async def key_list(call: Call) -> Answer[list[KeyJson]]:
    """GET /admin/keys: by id, behind `after`. Without secrets; a revoked key has no permissions."""
    query = call.parameters()
    limit = page_limit(query)
    after = check_name(query["after"], "after") if "after" in query else ""
    rows: list[ApiKeyRow] = await call.read(ApiKeysQuery(after, limit))
    return Answer([_key_json(row) for row in rows], {"cb-after": rows[-1].key_id} if len(rows) == limit else {})


def _key_json(row: ApiKeyRow) -> KeyJson:
    return {
        "id": row.key_id,
        "account_id": row.owner_id,
        "permissions": names(row.permissions),
        "addresses": row.addresses.split(",") if row.addresses else [],
        "encrypted": row.sealed_by != 0,
    }


async def create_key(call: Call) -> Answer[NewKeyJson]:
    """POST /admin/keys: make an API key. Its secret and passphrase are in this answer and in no other."""
    request = parse(call.body, NewKeyRequest)
    key = generate()
    permissions, limits = _permissions(request.permissions), _addresses(request.addresses)
    owner = check_name(request.account_id, "account_id")
    command = PutApiKey(OPERATOR, call.command_id(), key.key_id, owner, key.secret, key.passphrase, permissions, limits)
    done = (await put(call, command, key.key_id)).body
    return Answer({"id": key.key_id, "secret": key.secret, "passphrase": key.passphrase, "sequence": done["sequence"]})


async def put_key(call: Call) -> Answer[PutJson]:
    """PUT /admin/keys/{id}: add or replace an API key with a secret of the caller's. It is not repeated in the answer."""
    key_id = check_name(call.path("id"), "id")
    request = parse(call.body, KeyRequest)
    owner = check_name(request.account_id, "account_id")
    if not (request.passphrase and request.passphrase.isprintable()):
        raise BadRequestError(f"passphrase must be 1 to {TEXT_BYTES_MAX} printable characters", "passphrase")
    try:
        check_texts(request.secret, request.passphrase)
    except UnfitSecretError as error:
        field, _, expected = str(error).partition(": expected ")
        raise BadRequestError(f"{field} must be {expected}", field) from None
    permissions, limits = _permissions(request.permissions), _addresses(request.addresses)
    texts = (request.secret, request.passphrase)
    return await put(call, PutApiKey(OPERATOR, call.command_id(), key_id, owner, *texts, permissions, limits), key_id)


async def revoke_key(call: Call) -> Answer[PutJson]:
    """DELETE /admin/keys/{id}: revoke an API key, at once and on every node. Its secret is gone; the id stays in the list."""
    key_id = check_name(call.path("id"), "id")
    try:
        row: ApiKeyRow = await call.gateway.backend.query(ApiKeyQuery(key_id))
    except RequestFailed as failure:
        if failure.code is not FailCode.NOT_FOUND:
            raise
        raise UnknownHereError(404, "NotFound", "id") from None
    return await put(call, revocation(row, call.command_id()), key_id)


def _permissions(given: Sequence[str]) -> int:
    if not given or not set(given) <= set(PERMISSIONS):
        raise BadRequestError(f"permissions must be some of {', '.join(PERMISSIONS)}", "permissions")
    return sum({PERMISSIONS[name] for name in given})


def _addresses(given: Sequence[str]) -> str:
    """Networks as the exchange keeps them. Raises BadRequestError naming the one that is none."""
    found = []
    for place, text in enumerate(given):
        try:
            found.append(str(addresses.network(text)))
        except ValueError:
            expected = "a network such as 192.0.2.0/24 or 2001:db8::/32, or an address"
            raise BadRequestError(f"addresses[{place}] must be {expected}", f"addresses[{place}]") from None
    return ",".join(found)
