"""QuickFIX's client reads every type of message that the server sends: `python -m tests.clients.quickfix_tour
SPEC.json`.

It sends a scripted set of requests over three sessions, without TLS, and prints the number of messages that it got of
each type. QuickFIX checks each message against our dictionaries and answers one that does not fit with a Reject. These
are printed too.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import quickfix

from tests.clients.quickfix_trader import Application, Person

SECONDS = 30.0


class TourSpec(msgspec.Struct, frozen=True):
    """The address, the keys, and the directory of the files."""

    port: int
    directory: str
    dictionaries: str
    symbol: str
    person: Person


class Tour(Application):
    """Counts the messages."""

    def __init__(self, person: Person) -> None:
        super().__init__({person.key_id: person})
        self.got: Counter[str] = Counter()
        self.rejected: list[str] = []
        self.on: set[str] = set()

    def onLogon(self, session_id: Any) -> None:  # noqa: N802 - as QuickFIX calls it
        self.on.add(session_id.getTargetCompID().getValue())

    def toAdmin(self, message: Any, session_id: Any) -> None:  # noqa: N802
        if message.getHeader().getField(35) == "3":
            self.rejected.append(message.toString().replace("\x01", "|"))
        super().toAdmin(message, session_id)

    def fromApp(self, message: Any, session_id: Any) -> None:  # noqa: N802
        kind = message.getHeader().getField(35)
        self.got[kind + (message.getField(150) if kind == "8" else "")] += 1

    def wait(self, kind: str, count: int = 1) -> None:
        """Wait for messages of a type."""
        until = time.monotonic() + SECONDS
        while self.got[kind] < count and time.monotonic() < until:
            time.sleep(0.01)


def send(target: str, key_id: str, kind: str, *fields: tuple[int, str]) -> None:
    """Send a message without groups."""
    message = quickfix.Message()
    message.getHeader().setField(35, kind)
    for tag, value in fields:
        message.setField(tag, value)
    quickfix.Session.sendToTarget(message, quickfix.SessionID("FIXT.1.1", key_id, target))


def subscribe(key_id: str, symbol: str) -> None:
    """Send a MarketDataRequest for everything."""
    message = quickfix.Message()
    message.getHeader().setField(35, "V")
    for tag, value in ((262, "all"), (263, "1"), (264, "0")):
        message.setField(tag, value)
    for kind in "012":
        group = quickfix.Group(267, 269)
        group.setField(269, kind)
        message.addGroup(group)
    group = quickfix.Group(146, 55)
    group.setField(55, symbol)
    message.addGroup(group)
    quickfix.Session.sendToTarget(message, quickfix.SessionID("FIXT.1.1", key_id, "QUORUMBOOK-MD"))


def tour(spec: TourSpec, application: Tour) -> None:
    """Request one of everything."""
    key, symbol = spec.person.key_id, spec.symbol
    until = time.monotonic() + SECONDS
    while len(application.on) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    subscribe(key, symbol)
    application.wait("W")
    order: list[tuple[int, str]] = [(55, symbol), (54, "1"), (40, "2"), (44, "100"), (38, "0.05"), (59, "1")]
    send("QUORUMBOOK", key, "D", (11, "one"), *order)
    application.wait("80")
    send("QUORUMBOOK", key, "G", (11, "g"), (41, "one"), (55, symbol), (54, "1"), (40, "2"), (38, "0.04"))
    application.wait("85")
    send("QUORUMBOOK", key, "D", (11, "stop"), (55, symbol), (54, "1"), (40, "4"), (44, "200"), (99, "150"), (38, "0.05"))
    send("QUORUMBOOK", key, "D", (11, "taker"), (55, symbol), (54, "1"), (40, "2"), (44, "120"), (38, "0.01"), (59, "3"))
    application.wait("8F")
    send("QUORUMBOOK", key, "D", (11, "much"), (55, symbol), (54, "1"), (40, "2"), (44, "100"), (38, "99999999"))
    application.wait("88")
    send("QUORUMBOOK", key, "H", (11, "g"), (55, symbol), (54, "1"), (790, "s"))
    application.wait("8I")
    send("QUORUMBOOK", key, "F", (11, "f"), (41, "nobody"), (55, symbol), (54, "1"))
    application.wait("9")
    send("QUORUMBOOK", key, "q", (11, "q"), (530, "7"))
    application.wait("r")
    send("QUORUMBOOK-DC", key, "D", (11, "copy"), *order)
    application.wait("j")
    send("QUORUMBOOK-MD", key, "V", (262, "none"), (263, "2"))
    application.wait("Y")
    application.wait("X", 2)


def main(path: str) -> None:
    """Run the tour, and print what came."""
    spec = msgspec.json.decode(Path(path).read_bytes(), type=TourSpec)
    application = Tour(spec.person)
    lines = [
        *("[DEFAULT]", "ConnectionType=initiator", "HeartBtInt=5", "StartTime=00:00:00", "EndTime=00:00:00"),
        *("BeginString=FIXT.1.1", "DefaultApplVerID=FIX.5.0SP2", f"SenderCompID={spec.person.key_id}", "ResetOnLogon=Y"),
        *("SocketConnectHost=127.0.0.1", f"SocketConnectPort={spec.port}", "UseDataDictionary=Y"),
        *(f"FileStorePath={spec.directory}/store", f"TransportDataDictionary={spec.dictionaries}/FIXT11.xml"),
        f"AppDataDictionary={spec.dictionaries}/FIX50SP2.xml",
    ]
    for target in ("QUORUMBOOK", "QUORUMBOOK-DC", "QUORUMBOOK-MD"):
        lines += ["[SESSION]", f"TargetCompID={target}"]
    configuration = Path(spec.directory) / "tour.cfg"
    configuration.write_text("\n".join(lines) + "\n")
    settings = quickfix.SessionSettings(str(configuration))
    initiator = quickfix.SocketInitiator(application, quickfix.FileStoreFactory(settings), settings)
    initiator.start()
    tour(spec, application)
    sys.stdout.write(json.dumps({"got": application.got, "rejected": application.rejected}) + "\n")
    sys.stdout.flush()
    initiator.stop(True)


if __name__ == "__main__":
    main(sys.argv[1])
