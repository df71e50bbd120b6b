"""The demo: clients trade on three nodes, the leader is killed with SIGKILL, and trading continues. A verdict follows,
each line of which is checked.

    python -m loadtest.demo [--flow FILE] [--keep] [--seed N] [--seconds N] [--repeat N --results FILE]
    python -m loadtest.demo --ui MINUTES      a market to look at in a browser

Exit code 0: the verdict holds. 1: it does not. 2: the run could not be made.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from shlex import quote

import click
import msgspec
from rich.console import Console

from loadtest.access import ClusterAccess
from loadtest.errors import LoadTestError
from loadtest.flow import recorded_flow
from loadtest.ground import Ground, prepare
from loadtest.market import CURRENCIES, PRODUCTS, RECORDED, Trader
from loadtest.recorder import percentile
from loadtest.scenario import Kill, Plan, Scenario
from loadtest.view import NodeLine, TopOfBook, View
from loadtest.watch import Statuses, leader_of
from node.errors import QuorumbookError
from node.native.protocol import NodeStatus
from node.system import tasks as background
from statemachine.decimals import to_text
from statemachine.types import ProductStatus

RECENT_SECONDS = 2.0
"""Seconds over which the view shows orders a second and latencies."""

REFRESH_SECONDS = 0.25
READY_SECONDS = 30.0

UI_RATE = 150.0
"""Commands a second of the market in a browser: prices move, and the browser has enough CPU."""

AUCTION_PART = 0.1
"""The share of the trading time for which an opening auction collects orders first."""


class DemoResult(msgspec.Struct, kw_only=True):
    """The figures of a run. All durations are in seconds."""

    seed: int
    holds: bool
    gap: float
    acknowledged: int
    retried: int
    p50: float
    p99: float
    seconds: float


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a run."""

    directory: Path
    seed: int
    seconds: float
    flow: Path | None
    keep: bool


class Demo:
    """One run of the demonstration."""

    def __init__(self, settings: Settings, ground: Ground, scenario: Scenario, view: View) -> None:
        self._settings = settings
        self._ground = ground
        self._scenario = scenario
        self._view = view

    async def run(self) -> DemoResult:
        """Trade, kill the leader, continue, start the killed node again, and judge."""
        begin = time.monotonic()
        scenario, view = self._scenario, self._view
        leader = await scenario.watcher.wait_leader(READY_SECONDS)
        view.event(f"three nodes are up, {leader} leads")
        await scenario.put_market()
        view.event(f"{len(PRODUCTS) + 1} products, {len(scenario.people)} accounts with money and keys")
        scenario.start_readers(leader)
        async with self._watched():
            await self._begin_trading()
            kill = await self._play(leader)
            await scenario.stop_trading()
            view.event("no new orders; waiting until all nodes have caught up")
            statuses = await scenario.settle()
        verdict = await scenario.judge(statuses, visits_min=3)
        self._closing_words(kill)
        verdict.print(view.console)
        latencies = scenario.recorder.latencies()
        return DemoResult(
            seed=self._settings.seed,
            holds=verdict.holds,
            gap=round(kill.gap, 4),
            acknowledged=scenario.recorder.acknowledged,
            retried=scenario.desk.retried,
            p50=round(percentile(latencies, 50), 5),
            p99=round(percentile(latencies, 99), 5),
            seconds=round(time.monotonic() - begin, 2),
        )

    async def _begin_trading(self) -> None:
        """Begin with an auction, or with a recorded flow."""
        scenario, path = self._scenario, self._settings.flow
        if path is None:
            await self._open_market()
            return
        buyer, seller = scenario.people[0].account_id, scenario.people[1].account_id
        scenario.start_client(scenario.access.client(), recorded_flow(path, buyer, seller), chunk=50)

    async def _open_market(self) -> None:
        """Collect orders in an opening auction, and then open each product at one price."""
        scenario = self._scenario
        await scenario.put_status(ProductStatus.AUCTION)
        scenario.start_trading()
        self._view.event("an opening auction collects orders")
        await asyncio.sleep(self._settings.seconds * AUCTION_PART)
        await scenario.put_status(ProductStatus.ONLINE)
        for spec in PRODUCTS:
            price, size = await scenario.opened(spec.product_id)
            base, quote = CURRENCIES[spec.base], CURRENCIES[spec.quote]
            self._view.event(f"{spec.product_id} opened: {to_text(size, base)} at {to_text(price, quote)}")

    async def _play(self, leader: str) -> Kill:
        """Trade, kill the leader, start it again, and move the readers between nodes."""
        scenario, view, seconds = self._scenario, self._view, self._settings.seconds
        others = sorted(set(scenario.access.natives) - {leader})
        view.event(f"{len(scenario.readers)} feed readers at {leader}; trading for {seconds:.0f} s")
        await asyncio.sleep(seconds * 0.35)
        scenario.check_tasks()
        view.event(f"SIGKILL to every process of {leader}, the leader")
        kill = await scenario.kill(leader)
        view.event(f"{kill.new_leader} leads in term {kill.new_term}")
        await scenario.measure(kill)
        view.event(f"gap in acknowledgements: {kill.gap * 1e3:.0f} ms")
        await asyncio.sleep(seconds * 0.15)
        scenario.move_readers(others[0])
        await scenario.restart(leader)
        view.event(f"{leader} started again; the readers move to {others[0]}")
        await asyncio.sleep(seconds * 0.25)
        scenario.move_readers(leader)
        view.event(f"the readers move to {leader}, which is back")
        await asyncio.sleep(seconds * 0.25)
        scenario.check_tasks()
        return kill

    def _closing_words(self, kill: Kill) -> None:
        """Print the counts, the latencies and the gap at the kill."""
        recorder = self._scenario.recorder
        latencies = recorder.latencies()
        self._view.console.print(
            f"{recorder.acknowledged:,} commands acknowledged, latency p50 {percentile(latencies, 50) * 1e3:.1f} ms, "
            f"p99 {percentile(latencies, 99) * 1e3:.1f} ms; leader {kill.node_id} killed, {kill.new_leader} took over: "
            f"{kill.gap * 1e3:.0f} ms without an acknowledgement",
            soft_wrap=True,
        )

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Refresh the view during the block."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            await background.cancel([task])

    async def _watch(self) -> None:
        while True:
            statuses = await self._scenario.watcher.statuses()
            await self._fill(statuses)
            self._view.refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    async def _fill(self, statuses: Statuses) -> None:
        """Fill the scene that is shown."""
        scene, recorder = self._view.scene, self._scenario.recorder
        scene.nodes = [_node_line(name, status) for name, status in statuses.items()]
        recent = recorder.since(time.monotonic() - RECENT_SECONDS)
        latencies = recorder.latencies(recent) if recent else []
        scene.rate = recent / RECENT_SECONDS
        scene.p50, scene.p99 = percentile(latencies, 50), percentile(latencies, 99)
        scene.acknowledged = recorder.acknowledged
        tallies = [reader.tally for reader in self._scenario.readers]
        scene.feed = f"{sum(tally.events for tally in tallies):,} events"
        leader = leader_of(statuses)
        if leader:
            tops = [await self._top(leader, product_id) for product_id in self._scenario.plan.followed]
            scene.tops = [top for top in tops if top is not None]

    async def _top(self, leader: str, product_id: str) -> TopOfBook | None:
        """Return the best prices of a product at a node."""
        book = await self._scenario.watcher.book(leader, product_id)
        if book is None:
            return None
        scale = CURRENCIES[product_id.rpartition("-")[2]]
        bid, ask = (to_text(levels[0].price, scale) if levels else "-" for levels in (book.bids, book.asks))
        return TopOfBook(product_id, bid, ask)


def _node_line(name: str, status: NodeStatus | None) -> NodeLine:
    if status is None:
        return NodeLine(name, "down")
    return NodeLine(name, status.role, status.term, status.commit_index, status.applied_index, status.sequence, status.state_hash)


async def demonstrate(settings: Settings, console: Console) -> DemoResult:
    """Make one run in `settings.directory`, from an empty directory to the verdict. The nodes are stopped at the end,
    unless they are to be kept.
    """
    view = View(console)
    ground = prepare(settings.directory, usual_ports=settings.keep)
    kept = False
    try:
        view.event(f"starting three nodes in {settings.directory}")
        await ground.start()
        followed = (RECORDED.product_id,) if settings.flow else tuple(spec.product_id for spec in PRODUCTS)
        plan = Plan(seed=settings.seed, run=f"demo{settings.seed}", followed=followed)
        async with Scenario(ground.cluster, settings.directory, plan) as scenario:
            with view:
                result = await Demo(settings, ground, scenario, view).run()
        kept = settings.keep
        return result
    finally:
        if not kept:
            await asyncio.to_thread(ground.stop)


async def open_for_people(settings: Settings, minutes: float, console: Console) -> None:
    """Run a market for `minutes`, and print its address and keys. The nodes keep a history, which the candles need."""
    ground = prepare(settings.directory, usual_ports=True, settings={"history.enabled": True})
    try:
        console.print(f"starting three nodes in {settings.directory}", markup=False)
        await ground.start()
        plan = Plan(seed=settings.seed, run=f"ui{settings.seed}", rate=UI_RATE, history=0)
        async with Scenario(ground.cluster, settings.directory, plan) as scenario:
            await scenario.watcher.wait_leader(READY_SECONDS)
            await scenario.put_market()
            by_hand = scenario.people.pop()  # has money and a key, and trades by hand
            scenario.start_trading()
            _print_page(scenario, by_hand, minutes, console)
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                await asyncio.sleep(min(1.0, max(0.0, end - time.monotonic())))
                scenario.check_tasks()
    finally:
        await asyncio.to_thread(ground.stop)


def _print_page(scenario: Scenario, person: Trader, minutes: float, console: Console) -> None:
    """Print where to look at the market, with which keys, and how to kill a node."""
    access = scenario.access
    directory = access.directory
    url = next(iter(access.https.values()))
    console.print(
        f"\nThe market trades for {minutes:g} minutes, or until Ctrl-C. Open it in a browser:\n\n  {url}/ui/\n", markup=False
    )
    console.print("To trade, or to act on the cluster, enter one of these keys there:", markup=False)
    for role, key in (("a trader", person), ("the operator", access.admin)):
        console.print(
            f"  {role}: key id {key.key_id}  secret {key.secret}  passphrase {key.passphrase}", markup=False, soft_wrap=True
        )
    program = Path(sys.executable).with_name("quorumbook")
    console.print("To kill a node while you look, n1 for example, and to start it again:", markup=False)
    console.print(f"  kill -9 $(cat {quote(str(directory))}/n1/data/node.pid)", markup=False, soft_wrap=True)
    console.print(f"  {program} cluster up --cluster {quote(str(directory))}\n", markup=False, soft_wrap=True)


def _print_kept(settings: Settings, console: Console) -> None:
    """Print commands that can be copied to a shell."""
    directory = settings.directory
    urls = ClusterAccess(directory).https
    program = Path(sys.executable).with_name("quorumbook")
    console.print(f"\nThe cluster stays up. To look at it: {next(iter(urls.values()))}/ui/", markup=False)
    console.print("To trade on it:", markup=False)
    for line in (
        f"export QUORUMBOOK_CLUSTER={quote(str(directory.resolve()))}",
        f"{program} cluster status",
        f"{program} book BTC-USD",
        f"{program} account trader-000",
        f"{program} order place BTC-USD sell --price 70000 --size 0.01 --as trader-000",
        f"{program} order place BTC-USD buy --funds 250 --as trader-001",
        f"curl '{next(iter(urls.values()))}/products/BTC-USD/book?level=2'",
        f"{program} cluster down --cluster {quote(str(directory))}",
    ):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _repeat(settings: Settings, times: int, results: Path | None, console: Console) -> bool:
    """Make `times` runs, each with the next seed. Returns whether every verdict holds."""
    done: list[DemoResult] = []
    for number in range(times):
        one = msgspec.structs.replace(settings, seed=settings.seed + number)
        result = asyncio.run(demonstrate(one, console))
        done.append(result)
        if results is not None:
            with results.open("a", encoding="ascii") as file:
                file.write(msgspec.json.encode(result).decode() + "\n")
    if times > 1:
        gaps = [result.gap for result in done]
        held = sum(result.holds for result in done)
        console.print(
            f"{held} of {times} verdicts held; gap p50 {percentile(gaps, 50) * 1e3:.0f} ms, max {max(gaps) * 1e3:.0f} ms"
        )
    return all(result.holds for result in done)


@click.command()
@click.option(
    "--flow", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A recording to send instead of generated flow."
)
@click.option("--keep", is_flag=True, help="Leave the cluster up.")
@click.option("--seed", default=1, show_default=True, help="Of the generated flow.")
@click.option("--seconds", default=18.0, show_default=True, help="How long to trade.")
@click.option("--repeat", default=1, show_default=True, help="Runs, one after the other.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), help="Append each run's figures here, as JSON lines.")
@click.option("--ui", "minutes", type=click.FloatRange(min=0), default=0.0, help="A market for so many minutes, for the page.")
@click.option("--directory", type=click.Path(path_type=Path), default=Path("run/demo"), show_default=True)
def main(
    flow: Path | None, keep: bool, seed: int, seconds: float, repeat: int, results: Path | None, minutes: float, directory: Path
) -> None:
    """Trade on three nodes, kill the leader, continue, and print a verdict."""
    console = Console(highlight=False)
    settings = Settings(directory=directory, seed=seed, seconds=seconds, flow=flow, keep=keep and repeat == 1)
    try:
        if minutes:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(open_for_people(settings, minutes, console))
            return
        holds = _repeat(settings, repeat, results, console)
    except (LoadTestError, QuorumbookError) as error:
        console.print(f"demo: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    if settings.keep:
        _print_kept(settings, console)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
