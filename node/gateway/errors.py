"""What a request can fail with, as the answer that its client reads.

QuorumbookError
├── ApiError                 an answer other than 2xx: status, message, field
│   ├── BadRequestError      400: the request cannot be understood or obeyed
│   └── UnknownHereError     401 or 404: this node does not know a key, product or currency; one that is ahead of it may
├── NotLeaderError           nothing was sent: another node leads
└── UnavailableError         nobody can take the command at the moment, or its outcome is unknown
"""

from __future__ import annotations

from node.errors import QuorumbookError
from node.gateway.shapes import ErrorJson
from node.native.protocol import LeaderHint


class ApiError(QuorumbookError):
    """An answer other than 2xx. `field` names the field, parameter or header at fault ("" if none), `detail` what was expected."""

    def __init__(
        self,
        status: int,
        message: str,
        field: str = "",
        *,
        reason: str = "",
        detail: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.reason = reason
        self.detail = detail
        self.headers = headers or {}

    def body(self) -> ErrorJson:
        """The JSON object of the answer: `message` always, the rest where it says something."""
        body: ErrorJson = {"message": self.message}
        if self.field:
            body["field"] = self.field
        if self.reason:
            body["reason"] = self.reason
        if self.detail:
            body["detail"] = self.detail
        return body


class BadRequestError(ApiError):
    """400. The message names the field unless foreign clients know the text without it."""

    def __init__(self, message: str, field: str = "", *, reason: str = "", detail: str = "") -> None:
        super().__init__(400, message, field, reason=reason, detail=detail)


class UnknownHereError(ApiError):
    """This node does not know the key, product or currency. A follower may only be behind, so it sends commands on to the leader."""


class NotLeaderError(QuorumbookError):
    """Nothing was done: `leader` is where the command belongs."""

    def __init__(self, leader: LeaderHint) -> None:
        super().__init__(f"{leader.node_id} leads")
        self.leader = leader


class UnavailableError(QuorumbookError):
    """No answer before the deadline. With `outcome_unknown`, the command may or may not be carried out."""

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
