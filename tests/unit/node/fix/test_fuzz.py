"""Whatever arrives, the server answers it or ends that connection, and continues to serve all others."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.fix.fields import FieldError, FixMessage
from node.fix.wire import FixFrame, Framer, WireError
from tests.unit.node.fix.harness import Client, serving

VALUES = (
    "",
    "0",
    "1",
    "-1",
    "2",
    "9",
    "Y",
    "N",
    "x" * 300,
    "1e9",
    "99999999999999999999",
    "0.05",
    "NaN",
    "BTC-USD",
    "one",
    "\xe9",
    "a b",
)
TAGS = (
    1,
    7,
    11,
    16,
    34,
    36,
    37,
    38,
    40,
    41,
    43,
    44,
    52,
    54,
    55,
    59,
    95,
    96,
    99,
    112,
    122,
    123,
    126,
    146,
    152,
    324,
    262,
    263,
    264,
    267,
    269,
    530,
    790,
)
TYPES = ("0", "1", "2", "3", "4", "5", "A", "D", "F", "G", "H", "q", "V", "e", "f", "8", "ZZ", "j")


@given(st.binary(max_size=400), st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_frames_garbled_or_too_long(data: bytes, piece: int) -> None:
    framer = Framer()
    with contextlib.suppress(WireError):
        for at in range(0, len(data), piece):
            framer.feed(data[at : at + piece])
            assert framer.waiting <= len(data)


@given(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(VALUES)), max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_fields_are_read_or_refused_with_the_field(pairs: list[tuple[int, str]]) -> None:
    body = "".join(f"{tag}={value}\x01" for tag, value in pairs).encode("latin-1")
    message = FixMessage(FixFrame(b"8=FIXT.1.1\x019=5\x0135=D\x01" + body + b"10=000\x01"))
    with contextlib.suppress(FieldError):
        message.check()
    for tag in TAGS:
        with contextlib.suppress(FieldError):
            message.number(tag)
        with contextlib.suppress(FieldError):
            message.time(tag)


def nonsense(client: Client, random: Random) -> bytes:
    """Draw a message that may contain anything."""
    fields: list[tuple[int, object]] = [(random.choice(TAGS), random.choice(VALUES)) for _ in range(random.randrange(8))]
    number = None if random.random() < 0.8 else random.randrange(20)
    data = client.encode(random.choice(TYPES), *fields, number=number)
    if random.random() < 0.2:
        broken = bytearray(data)
        broken[random.randrange(len(broken))] = random.randrange(256)
        data = bytes(broken)
    return data if random.random() < 0.9 else data[: random.randrange(len(data))]


@pytest.mark.parametrize("seed", range(8))
async def test_nonsense_costs_only_its_sender(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    random = Random(seed)
    async with serving() as served:
        good = await served.logged_on("bob-key")
        for target in ("QUORUMBOOK", "QUORUMBOOK-MD", "QUORUMBOOK-DC"):
            client = await served.logged_on("alice-key", target)
            with contextlib.suppress(ConnectionError):
                for _ in range(40):
                    client.writer.write(nonsense(client, random))
                await client.writer.drain()
            client.writer.close()
        stranger = await served.connect()
        stranger.writer.write(random.randbytes(2_000))
        good.order("still-here")
        assert (await good.next("8"))[11] == "still-here"
        await asyncio.sleep(0)
    served.backend.engine.check()
    assert not [record for record in caplog.records if record.levelname == "ERROR"], "no session failed by a fault of ours"
