"""Which node judges the greeting of a session: a node that lags behind may not know the latest keys."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from node.errors import RequestFailed
from node.native.protocol import FailCode, Hello
from tests.unit.node.engine.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


HELLO = Hello(1, "test", key_id="alice-1", signature="?", timestamp="100", passphrase="?")


@pytest.mark.parametrize(("ready", "code"), [(True, FailCode.UNAUTHORIZED), (False, FailCode.NO_LEADER)])
def test_only_a_node_that_has_caught_up_knows_that_a_key_is_wrong(desk: Desk, ready: bool, code: FailCode) -> None:
    desk.raft.leader_id = "n1" if ready else ""
    with pytest.raises(RequestFailed, match=r"invalid signature|cannot judge") as caught:
        desk.service.gate.authenticate(HELLO, 100.0, "192.0.2.1")
    assert caught.value.code == code


def test_a_follower_leaves_the_judgement_of_a_key_to_the_leader(desk: Desk) -> None:
    desk.raft.leader_id = "n2"
    with pytest.raises(RequestFailed, match="n2 leads") as caught:
        desk.service.gate.authenticate(HELLO, 100.0, "192.0.2.1")
    assert caught.value.code == FailCode.NOT_LEADER, "the key may have been made a moment ago"
    assert caught.value.leader is not None
    assert caught.value.leader.node_id == "n2"
    late = msgspec.structs.replace(HELLO, timestamp="1")
    with pytest.raises(RequestFailed, match="timestamp") as caught:
        desk.service.gate.authenticate(late, 100.0, "192.0.2.1")
    assert caught.value.code == FailCode.UNAUTHORIZED, "a node checks the timestamp by its own clock"


def test_the_operator_s_key_is_judged_at_any_time(desk: Desk) -> None:
    desk.raft.leader_id = ""
    hello = msgspec.structs.replace(HELLO, key_id=desk.service.config.admin.key_id)
    with pytest.raises(RequestFailed) as caught:
        desk.service.gate.authenticate(hello, 100.0, "192.0.2.1")
    assert caught.value.code == FailCode.UNAUTHORIZED
