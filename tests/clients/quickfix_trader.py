"""QuickFIX's client, in a process of its own: `python -m tests.clients.quickfix_trader SPEC.json`.

Two of its sessions trade with each other: one offers, the other takes. It knows all nodes, and connects to the next one
when it loses its node. It trades until a line arrives on its standard input. Then it waits until every order is done, and
prints all execution reports as one JSON object: session -> [[MsgSeqNum, PossDup, ClOrdID, ExecType, OrdStatus, ExecID,
LastQty, CumQty, LeavesQty], ...], in the order in which QuickFIX delivered them.
"""

from __future__ import annotations

import base64
import hmac
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import quickfix

SOH = "\x01"
PRICE, SIZE = "100", "0.01"
PACE = 0.02
"""Seconds between two pairs of orders."""
END_SECONDS = 60.0
"""Seconds for the last orders to be done."""
FIELDS = (34, 43, 11, 150, 39, 17, 32, 14, 151)


class Person(msgspec.Struct, frozen=True):
    """An API key."""

    key_id: str
    secret: str
    passphrase: str


class Spec(msgspec.Struct, frozen=True):
    """The process's arguments. `nodes` are hosts and ports of FIX, `directory` is for the sessions' files, `symbol` is
    a product.
    """

    nodes: list[tuple[str, int]]
    ca: str
    directory: str
    dictionaries: str
    symbol: str
    maker: Person
    taker: Person
    price: str = PRICE
    size: str = SIZE


class Application(quickfix.Application):  # type: ignore[misc]  # QuickFIX has no types
    """Signs the Logons, and keeps the execution reports."""

    def __init__(self, people: dict[str, Person]) -> None:
        super().__init__()
        self._people = people
        self.lock = threading.Lock()
        self.reports: dict[str, list[list[str]]] = {key_id: [] for key_id in people}
        self.logons: dict[str, int] = dict.fromkeys(people, 0)
        self.others: list[str] = []

    def onCreate(self, session_id: Any) -> None:  # noqa: N802 - as QuickFIX calls it
        pass

    def onLogon(self, session_id: Any) -> None:  # noqa: N802
        with self.lock:
            self.logons[session_id.getSenderCompID().getValue()] += 1

    def onLogout(self, session_id: Any) -> None:  # noqa: N802
        pass

    def toAdmin(self, message: Any, session_id: Any) -> None:  # noqa: N802
        header = message.getHeader()
        if header.getField(35) != "A":
            return
        person = self._people[header.getField(49)]
        signed = SOH.join((*(header.getField(tag) for tag in (52, 35, 34, 49, 56)), person.passphrase))
        mac = base64.b64encode(hmac.digest(base64.b64decode(person.secret), signed.encode(), "sha256")).decode()
        for tag, value in ((95, str(len(mac))), (96, mac), (553, person.key_id), (554, person.passphrase)):
            message.setField(tag, value)

    def fromAdmin(self, message: Any, session_id: Any) -> None:  # noqa: N802
        if message.getHeader().getField(35) in ("3", "5"):
            with self.lock:
                self.others.append(message.toString())

    def toApp(self, message: Any, session_id: Any) -> None:  # noqa: N802
        pass

    def fromApp(self, message: Any, session_id: Any) -> None:  # noqa: N802
        header = message.getHeader()
        with self.lock:
            if header.getField(35) != "8":
                self.others.append(message.toString())
                return
            row = [header.getField(tag) if header.isSetField(tag) else _field(message, tag) for tag in FIELDS]
            self.reports[session_id.getSenderCompID().getValue()].append(row)

    def done(self) -> dict[str, int]:
        """Return the number of done orders of each session."""
        with self.lock:
            return {key: sum(1 for row in rows if row[4] in ("2", "4", "8", "C")) for key, rows in self.reports.items()}


def _field(message: Any, tag: int) -> str:
    return str(message.getField(tag)) if message.isSetField(tag) else ""


def settings(spec: Spec) -> quickfix.SessionSettings:
    """Return QuickFIX's configuration."""
    lines = [
        *("[DEFAULT]", "ConnectionType=initiator", "ReconnectInterval=1", "HeartBtInt=5", "LogonTimeout=10", "LogoutTimeout=5"),
        *("StartTime=00:00:00", "EndTime=00:00:00", "BeginString=FIXT.1.1", "DefaultApplVerID=FIX.5.0SP2"),
        *(f"FileStorePath={spec.directory}/store", f"FileLogPath={spec.directory}/log", "TargetCompID=QUORUMBOOK"),
        *("UseDataDictionary=Y", f"TransportDataDictionary={spec.dictionaries}/FIXT11.xml"),
        *(f"AppDataDictionary={spec.dictionaries}/FIX50SP2.xml", f"CertificationAuthoritiesFile={spec.ca}", "SocketNodelay=Y"),
        "CertificateVerifyLevel=1",
    ]
    for number, (host, port) in enumerate(spec.nodes):
        suffix = str(number) if number else ""
        lines += [f"SocketConnectHost{suffix}={host}", f"SocketConnectPort{suffix}={port}"]
    for person in (spec.maker, spec.taker):
        lines += ["[SESSION]", f"SenderCompID={person.key_id}"]
    path = Path(spec.directory) / "quickfix.cfg"
    path.write_text("\n".join(lines) + "\n")
    return quickfix.SessionSettings(str(path))


def order(spec: Spec, name: str, side: str) -> Any:
    """Return a NewOrderSingle."""
    message = quickfix.Message()
    message.getHeader().setField(35, "D")
    fields = ((11, name), (55, spec.symbol), (54, side), (40, "2"), (44, spec.price), (38, spec.size), (59, "1"))
    for tag, value in fields:
        message.setField(tag, value)
    return message


def trade(spec: Spec, application: Application, stop: threading.Event) -> int:
    """Send pairs of orders until `stop`. Returns the number of pairs."""
    maker, taker = (quickfix.SessionID("FIXT.1.1", person.key_id, "QUORUMBOOK") for person in (spec.maker, spec.taker))
    while not stop.is_set() and not all(application.logons.values()):
        time.sleep(PACE)
    pairs = 0
    while not stop.is_set():
        pairs += 1
        quickfix.Session.sendToTarget(order(spec, f"m{pairs}", "2"), maker)
        quickfix.Session.sendToTarget(order(spec, f"t{pairs}", "1"), taker)
        if pairs % 10 == 0:
            sys.stderr.write(f"{pairs} {min(application.done().values())}\n")
            sys.stderr.flush()
        time.sleep(PACE)
    return pairs


def _stop_at_a_line(stop: threading.Event) -> None:
    sys.stdin.readline()
    stop.set()


def main(path: str) -> None:
    """Trade as the specification says."""
    spec = msgspec.json.decode(Path(path).read_bytes(), type=Spec)
    application = Application({person.key_id: person for person in (spec.maker, spec.taker)})
    configured = settings(spec)
    initiator = quickfix.SSLSocketInitiator(
        application, quickfix.FileStoreFactory(configured), configured, quickfix.FileLogFactory(configured)
    )
    initiator.start()
    stop = threading.Event()
    threading.Thread(target=_stop_at_a_line, args=[stop], daemon=True).start()
    pairs = trade(spec, application, stop)
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until and min(application.done().values()) < pairs:
        time.sleep(PACE)
    with application.lock:
        result = {"pairs": pairs, "reports": application.reports, "logons": application.logons, "others": application.others}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    initiator.stop(True)


if __name__ == "__main__":
    main(sys.argv[1])
