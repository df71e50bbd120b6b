"""Small worlds for property tests: two products, three accounts, few prices and sizes, so that every pair of things
meets.
"""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import strategies as st

from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    CancelAll,
    CancelAllAfter,
    CancelOrder,
    Deposit,
    NewOrder,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutCurrency,
    PutFeeOverride,
    PutFeeTiers,
    PutFirm,
    PutMember,
    PutProduct,
    PutProductLimits,
    PutRiskLimits,
    ReplaceOrder,
    SetSwitches,
    Transfer,
    Withdraw,
)
from statemachine.limits import OPERATOR
from statemachine.types import (
    CollarAction,
    GoodFor,
    OrderType,
    ProductStatus,
    Scope,
    SelfTradePrevention,
    Side,
    StopType,
    TimeInForce,
)

ACCOUNTS = ["ann", "bob", "eve"]
PRODUCTS = ["ETH-USD", "XBT-ETH"]
CURRENCIES = ["ETH", "USD", "XBT"]


def product(product_id: str, maker_ppm: int, taker_ppm: int, status: ProductStatus, command_id: str) -> PutProduct:
    """Return a product. ETH-USD: ETH has scale 2, so a tick of 4 and a lot of 25 make 1 quote unit. XBT-ETH: scale 0,
    all sizes are 1.
    """
    base, quote = product_id.split("-")
    tick, lot = (4, 25) if base == "ETH" else (1, 1)
    return PutProduct(OPERATOR, command_id, product_id, base, quote, tick, lot, lot, 40 * lot, maker_ppm, taker_ppm, status)


def foundations(rates: tuple[int, int], money: int) -> list[AnyCommand]:
    """Return the commands for currencies, products, accounts and money."""
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, "f:usd", "USD", 0),
        PutCurrency(OPERATOR, "f:eth", "ETH", 2),
        PutCurrency(OPERATOR, "f:xbt", "XBT", 0),
        *(product(name, *rates, ProductStatus.ONLINE, f"f:{name}") for name in PRODUCTS),
        *(OpenAccount(OPERATOR, f"f:{name}", name) for name in ACCOUNTS),
        PutFirm(OPERATOR, "f:acme", "acme"),
    ]
    commands.extend(Deposit(name, f"f:{currency}", currency, money) for name in ACCOUNTS for currency in CURRENCIES)
    return commands


rates = st.tuples(st.sampled_from([0, 1_000, 100_000]), st.sampled_from([0, 3_000, 33_333, 100_000]))
accounts = st.sampled_from(ACCOUNTS)
products = st.sampled_from(PRODUCTS)
command_ids = st.integers(0, 400).map(lambda number: f"c{number}")
SECOND = 10**9
LASTING = [TimeInForce.GTC, TimeInForce.GTC, TimeInForce.GTT]
client_oids = st.sampled_from(["", "", "o1", "o2", "o3", "o4"])


@st.composite
def stops(draw: st.DrawFn, tick: int) -> tuple[StopType, int]:
    """Draw stop options: often none, mostly valid ones, a few ticks away from the market."""
    kind = draw(st.sampled_from([StopType.NONE] * 4 + [StopType.LOSS] * 3 + [StopType.ENTRY] * 3))
    price = draw(st.integers(8, 12)) * tick if kind else 0
    return kind, price + draw(st.sampled_from([0] * 40 + [1, -60, tick]))


@st.composite
def limit_orders(draw: st.DrawFn) -> PlaceOrder:
    """Draw mostly well-formed limit orders around two prices."""
    product_id = draw(products)
    tick, lot = (4, 25) if product_id == "ETH-USD" else (1, 1)
    price = draw(st.integers(8, 12)) * tick + draw(st.sampled_from([0] * 30 + [1, -60]))
    size = draw(st.integers(1, 12)) * lot + draw(st.sampled_from([0] * 30 + [1, 2_000, -600]))
    post_only = draw(st.sampled_from([False, False, False, True]))
    tif = draw(st.sampled_from(LASTING if post_only else [*LASTING, TimeInForce.IOC, TimeInForce.FOK]))
    lasts = draw(st.integers(1, 12)) * SECOND if tif is TimeInForce.GTT else draw(st.sampled_from([0] * 60 + [SECOND]))
    lasts -= draw(st.sampled_from([0] * 60 + [1, 2 * SECOND]))
    return PlaceOrder(
        draw(accounts),
        draw(command_ids),
        product_id,
        draw(st.sampled_from(Side)),
        OrderType.LIMIT,
        price,
        size,
        draw(st.sampled_from([0] * 30 + [5])),
        tif,
        post_only,
        draw(st.sampled_from(SelfTradePrevention)),
        draw(client_oids),
        *draw(st.tuples(st.just(StopType.NONE), st.just(0)) if post_only else stops(tick)),
        lasts,
    )


@st.composite
def market_orders(draw: st.DrawFn) -> PlaceOrder:
    """Draw market orders by size, by funds, and (buys, and sometimes an invalid sell) by both."""
    product_id = draw(products)
    lot = 25 if product_id == "ETH-USD" else 1
    side = draw(st.sampled_from(Side))
    size = draw(st.integers(0, 12)) * lot
    with_funds = size == 0 or (side is Side.BUY and draw(st.booleans())) or draw(st.sampled_from([False] * 20 + [True]))
    funds = draw(st.integers(1, 150)) if with_funds else 0
    tif = draw(st.sampled_from([TimeInForce.GTC] * 4 + [TimeInForce.IOC] * 4 + [TimeInForce.FOK]))
    stp = draw(st.sampled_from(SelfTradePrevention))
    oid = draw(client_oids)
    stop = draw(stops(4 if product_id == "ETH-USD" else 1))
    market, account, command_id = OrderType.MARKET, draw(accounts), draw(command_ids)
    return PlaceOrder(account, command_id, product_id, side, market, 0, size, funds, tif, False, stp, oid, *stop)


cancels = st.builds(
    CancelOrder,
    accounts,
    command_ids,
    st.one_of(st.just(0), st.integers(1, 40)),
    client_oids,
    st.sampled_from(["", "", "", *PRODUCTS]),
)
cancel_alls = st.builds(
    CancelAll,
    accounts,
    command_ids,
    st.sampled_from(["", *PRODUCTS, "NO-SUCH"]),
    st.integers(0, 2),
    st.sampled_from([0, 0, 0, 9, 40]),
    st.sampled_from([0, 0, 0, 9, 40]),
)
transfers = st.one_of(
    st.builds(Deposit, accounts, command_ids, st.sampled_from(CURRENCIES), st.integers(-2, 400)),
    st.builds(Withdraw, accounts, command_ids, st.sampled_from(CURRENCIES), st.integers(-2, 400)),
    st.builds(
        Transfer, accounts, command_ids, st.sampled_from([*ACCOUNTS, "nobody"]), st.sampled_from(CURRENCIES), st.integers(-2, 400)
    ),
)


@st.composite
def product_changes(draw: st.DrawFn) -> PutProduct:
    """Draw other fees or another status. Resting orders keep the fees of their entry."""
    status = draw(st.sampled_from([ProductStatus.ONLINE] * 4 + [ProductStatus.AUCTION] * 4 + list(ProductStatus)))
    return product(draw(products), *draw(rates), status, draw(command_ids))


amends = st.builds(
    AmendOrder,
    accounts,
    command_ids,
    st.one_of(st.just(0), st.integers(1, 40)),
    client_oids,
    st.sampled_from(["", "", "", *PRODUCTS]),
    st.one_of(st.just(0), st.integers(-1, 12), st.integers(1, 12).map(lambda lots: 25 * lots)),
    st.one_of(st.just(0), st.integers(-1, 12), st.integers(8, 12).map(lambda ticks: 4 * ticks)),
    st.one_of(st.just(0), st.just(0), st.integers(8, 12).map(lambda ticks: 4 * ticks)),
)


@st.composite
def replacements(draw: st.DrawFn) -> ReplaceOrder:
    """Draw an order that replaces another one."""
    order = draw(st.one_of(limit_orders(), market_orders()))
    new = NewOrder(**{name: getattr(order, name) for name in NewOrder.__struct_fields__})
    number = draw(st.one_of(st.just(0), st.integers(1, 40)))
    return ReplaceOrder(order.account_id, order.command_id, number, draw(client_oids), "", new)


def control_command(random: Random, number: int) -> AnyCommand:
    """Return a command of a market whose operator sets switches and limits all the time, or an order for them."""
    command_id, kind = f"c{number}", random.random()
    scope = random.choice([Scope.VENUE, Scope.FIRM, Scope.ACCOUNT, Scope.ACCOUNT, Scope.PRODUCT, Scope.PRODUCT])
    names = {Scope.VENUE: [""], Scope.FIRM: ["acme", "none"], Scope.ACCOUNT: ACCOUNTS, Scope.PRODUCT: PRODUCTS}
    if kind < 0.05:
        switches = random.choice([0, 0, 0, 1, 2, 3, 4, 4, 8])
        return SetSwitches(OPERATOR, command_id, scope, random.choice(names[scope]), switches, random.choice(["", "why"]))
    if kind < 0.09:  # all on again, so that something happens
        on = [(scope, name) for scope, some in names.items() for name in some if name != "none"]
        return SetSwitches(OPERATOR, command_id, *random.choice(on), 0)
    if kind < 0.11:
        return PutMember(OPERATOR, command_id, random.choice(ACCOUNTS), random.choice(["acme", "acme", ""]))
    if kind < 0.16:
        ppm = random.choice([0, 50_000, 100_000, 200_000]), random.choice([0, 150_000])
        call, halt = random.choice([1, 3, 9]) * SECOND, random.choice([1, 5]) * SECOND
        sizes = random.choice([(0, 0, 0), (0, 0, 0), (200, 0, 0), (0, 60, 0), (0, 0, 150_000)])
        action = random.choice([CollarAction.REJECT, CollarAction.AUCTION, CollarAction.AUCTION, CollarAction.HALT])
        static = random.choice([0, 0, 40])
        limit = random.choice([0, 2, 15]) * SECOND if action is not CollarAction.REJECT else 0
        name, times = random.choice(PRODUCTS), random.choice([0, 0, 2])
        return PutProductLimits(OPERATOR, command_id, name, *ppm, action, halt, call, 0, times, *sizes, static, limit)
    if kind < 0.2:
        scope, account = random.choice([(Scope.FIRM, "acme"), (Scope.ACCOUNT, random.choice(ACCOUNTS))])
        if random.random() < 0.4:
            return PutRiskLimits(OPERATOR, command_id, scope, account, "", random.choice([0, 3, 8]), random.choice([0, 1]))
        money = [random.choice([0, 0, 100, 400]) for _ in range(3)]
        return PutRiskLimits(OPERATOR, command_id, scope, account, random.choice(CURRENCIES), 0, 0, *money)
    if kind < 0.24:
        return fee_command(random, command_id)
    return busy_command(random, number)


RATES = [(0, 0), (1_000, 3_000), (100_000, 50_000), (-1_000, 3_000), (-30_000, 33_333), (-33_333, 100_000), (-5, 4)]
"""Rates of makers and takers, in parts per million; the last are not sound."""


def fee_command(random: Random, command_id: str) -> AnyCommand:
    """Return fee tiers, an override, or rates of a product."""
    kind, name = random.random(), random.choice(PRODUCTS)
    if kind < 0.3:
        return product(name, *random.choice(RATES), ProductStatus.ONLINE, command_id)
    if kind < 0.5:
        account, of = random.choice(ACCOUNTS), random.choice(["", name, name, "NO-SUCH"])
        return PutFeeOverride(OPERATOR, command_id, account, of, *random.choice(RATES), random.random() < 0.4)
    currency = random.choice([name.split("-")[1]] * 6 + CURRENCIES)
    volumes = [0, *sorted(random.sample([100, 300, 900, 2_000], random.randrange(4)))]
    tiers = [(volume, *random.choice(RATES[:-1])) for volume in volumes]
    if random.random() < 0.6:  # rates that fit together
        tiers = [(volume, -1_000 * place, 50_000 - 1_000 * place) for place, volume in enumerate(volumes)]
    return PutFeeTiers(OPERATOR, command_id, currency, random.choice(["", name]), random.choice([tiers, tiers, tiers, []]))


def busy_command(random: Random, number: int) -> AnyCommand:
    """Return a command of a busy market, from a seeded generator: flows that are longer and denser than those that
    strategies draw.
    """
    account, command_id = random.choice(ACCOUNTS), f"c{number if random.random() < 0.95 else random.randrange(number + 1)}"
    kind = random.random()
    if kind < 0.10:
        return CancelOrder(
            account, command_id, *random.choice([(0, f"o{random.randrange(30)}"), (random.randrange(1, number + 2), "")])
        )
    if kind < 0.12:
        return CancelAll(account, command_id, random.choice(["", *PRODUCTS]), random.choice([0, 0, 1, 2]))
    if kind < 0.13:
        return _pair(random, account, command_id)
    if kind < 0.16:
        currency, amount = random.choice(CURRENCIES), random.randrange(0, 300)
        kind = random.random()
        if kind < 0.3:
            return Transfer(account, command_id, random.choice(ACCOUNTS), currency, amount)
        incoming = kind < 0.65
        return Deposit(account, command_id, currency, amount) if incoming else Withdraw(account, command_id, currency, amount)
    if kind < 0.18:
        status = random.choice([ProductStatus.ONLINE] * 12 + [ProductStatus.AUCTION] * 6 + list(ProductStatus))
        fees = random.choice([(0, 0), (1_000, 3_000), (100_000, 50_000), (33_333, 100_000)])
        return product(random.choice(PRODUCTS), *fees, status, command_id)
    if kind < 0.30:
        return _change(random, account, command_id, number)
    return _busy_order(random, account, command_id)


def _pair(random: Random, account: str, command_id: str) -> PlacePair:
    """Return a pair around the middle of the market."""
    product_id, side = random.choice(PRODUCTS), random.choice(list(Side))
    tick, lot = (4, 25) if product_id == "ETH-USD" else (1, 1)
    away = (random.randrange(0, 4), random.randrange(0, 4))
    price, stop = (10 - away[0], 10 + away[1]) if side is Side.BUY else (10 + away[0], 10 - away[1])
    limit = random.choice([0, stop + random.randrange(-1, 2)]) * tick
    ids = (random.choice(["", f"o{random.randrange(30)}"]), random.choice(["", f"o{random.randrange(30)}"]))
    size = random.randrange(1, 9) * lot
    return PlacePair(
        account,
        command_id,
        product_id,
        side,
        size,
        price * tick,
        stop * tick,
        limit,
        random.choice(list(SelfTradePrevention)),
        *ids,
    )


def options_command(random: Random, number: int) -> AnyCommand:
    """Return a command of a market whose orders have options: lifetimes, exits, trailing stops, sessions."""
    account, command_id = random.choice(ACCOUNTS), f"c{number}"
    kind, tag = random.random(), random.choice(["", "", "s1", "s2"])
    if kind < 0.05:
        timeout = random.choice([0, 1, 2, 5, 5, 20, 100_000]) * SECOND
        return CancelAllAfter(account, command_id, timeout, tag, random.random() < 0.3)
    if kind < 0.08:
        product_id = random.choice(["", *PRODUCTS])
        return CancelAll(account, command_id, product_id, 0, session=tag, disconnected=tag == "s2" and not product_id)
    if kind < 0.12:
        status = random.choice([ProductStatus.AUCTION] * 4 + [ProductStatus.ONLINE] * 6 + list(ProductStatus))
        return product(random.choice(PRODUCTS), *random.choice([(0, 0), (33_333, 100_000)]), status, command_id)
    if kind < 0.16:
        return msgspec.structs.replace(_pair(random, account, command_id), session=tag)
    if kind < 0.30:
        return _change(random, account, command_id, number)
    order = _busy_order(random, account, command_id)
    tick = 4 if order.product_id == "ETH-USD" else 1
    buys, chance = order.side is Side.BUY, random.random()
    options = OrderOptions(session=tag)
    if chance < 0.3:
        away = [(10 + random.randrange(0, 4)) * tick, (10 - random.randrange(0, 4)) * tick]
        profit, loss = away if buys else away[::-1]
        wanted = random.choice([(profit, loss), (profit, 0), (0, loss), (profit, loss)])
        limit = wanted[1] if not buys or random.random() < 0.3 else 0
        options = OrderOptions(tag, 0, 0, GoodFor.ANY, 0, *wanted, limit)
        if random.random() < 0.8:
            order = msgspec.structs.replace(order, stop=StopType.NONE, stop_price=0)
    elif chance < 0.55:
        stop, at = (StopType.ENTRY if buys else StopType.LOSS), random.choice([0, 0, (10 + random.randrange(-3, 4)) * tick])
        options = OrderOptions(tag, 0, random.choice([1, 1, 2, 3]) * tick, GoodFor.ANY, 0)
        order = msgspec.structs.replace(order, stop=stop, stop_price=at, post_only=False)
    elif chance < 0.65:
        options = OrderOptions(tag, 0, 0, GoodFor.AUCTION, 0)
    elif chance < 0.72:
        options = OrderOptions(tag, 0, 0, GoodFor.DAY, 0)
        order = msgspec.structs.replace(order, time_in_force=TimeInForce.GTT, cancel_after=0)
    elif chance < 0.8:
        options = OrderOptions(tag, 0, 0, GoodFor.ANY, random.randrange(number + 1, number + 60) * SECOND)
        order = msgspec.structs.replace(order, time_in_force=TimeInForce.GTT, cancel_after=0)
    return msgspec.structs.replace(order, options=options)


def _change(random: Random, account: str, command_id: str, number: int) -> AnyCommand:
    """Return an amendment, or sometimes a replacement, of an order that may exist."""
    named = random.choice([(0, f"o{random.randrange(30)}"), (random.randrange(max(1, number - 30), number + 2), "")])
    if random.random() < 0.25:
        order = _busy_order(random, account, command_id)
        return ReplaceOrder(
            account, command_id, *named, "", NewOrder(**{n: getattr(order, n) for n in NewOrder.__struct_fields__})
        )
    tick, lot = random.choice([(4, 25), (1, 1)])
    size = random.choice([0, random.randrange(1, 13) * lot])
    price = random.choice([0, 0, (10 + random.randrange(-3, 4)) * tick])
    stop = random.choice([0] * 6 + [(10 + random.randrange(-3, 4)) * tick])
    name = random.choice([""] * 5 + [f"o{number}", f"o{random.randrange(30)}", "not a name"])
    return AmendOrder(account, command_id, *named, "", size, price, stop, name)


def auction_command(random: Random, number: int) -> AnyCommand:
    """Return a command of a market that goes from auction to auction: orders of few accounts that cross, most of them
    in the auction book.
    """
    account, command_id = random.choice(ACCOUNTS), f"c{number}"
    kind = random.random()
    if kind < 0.08:
        status = random.choice([ProductStatus.AUCTION] * 6 + [ProductStatus.ONLINE] * 6 + list(ProductStatus))
        return product(random.choice(PRODUCTS), *random.choice([(0, 0), (33_333, 100_000)]), status, command_id)
    if kind < 0.12:
        return CancelOrder(account, command_id, random.randrange(1, number + 2), "")
    if kind < 0.18:
        return _change(random, account, command_id, number)
    if kind < 0.2:
        return _busy_order(random, account, command_id)
    if kind < 0.22:
        return _pair(random, account, command_id)
    product_id, side, stp = random.choice(PRODUCTS), random.choice(list(Side)), random.choice(list(SelfTradePrevention))
    tick, lot = (4, 25) if product_id == "ETH-USD" else (1, 1)
    price, size = (10 + random.randrange(-3, 4)) * tick, random.randrange(1, 9) * lot
    options = OrderOptions(display_size=lot) if random.random() < 0.2 else None
    return PlaceOrder(account, command_id, product_id, side, OrderType.LIMIT, price, size, stp=stp, options=options)


def _busy_order(random: Random, account: str, command_id: str) -> PlaceOrder:
    product_id = random.choice(PRODUCTS)
    tick, lot = (4, 25) if product_id == "ETH-USD" else (1, 1)
    side, stp = random.choice(list(Side)), random.choice(list(SelfTradePrevention))
    oid = random.choice(["", f"o{random.randrange(30)}"])
    size = random.randrange(1, 13) * lot
    stop = random.choice([StopType.NONE] * 6 + [StopType.LOSS, StopType.ENTRY])
    at = (10 + random.randrange(-3, 4)) * tick if stop else 0
    if random.random() < 0.25:
        size, funds = random.choice(
            [(size, 0), (0, random.randrange(1, 200)), (size, random.randrange(1, 200) if side is Side.BUY else 0)]
        )
        return PlaceOrder(
            account,
            command_id,
            product_id,
            side,
            OrderType.MARKET,
            0,
            size,
            funds,
            stp=stp,
            client_oid=oid,
            stop=stop,
            stop_price=at,
        )
    away = random.choice([-2, -1, -1, 0, 0, 0, 1, 1, 2]) * (-1 if side is Side.BUY else 1)
    price = (10 + away) * tick
    tif = random.choice([TimeInForce.GTC] * 6 + [TimeInForce.GTT] * 2 + [TimeInForce.IOC, TimeInForce.FOK, TimeInForce.FOK])
    post_only = tif in LASTING and not stop and random.random() < 0.1
    lasts = random.randrange(1, 40) * SECOND if tif is TimeInForce.GTT else 0
    limit = OrderType.LIMIT
    show = random.randrange(1, 5) * lot if random.random() < 0.2 else 0
    options = OrderOptions(display_size=show) if show else None
    return PlaceOrder(
        account, command_id, product_id, side, limit, price, size, 0, tif, post_only, stp, oid, stop, at, lasts, options
    )


commands: st.SearchStrategy[AnyCommand] = st.one_of(
    limit_orders(),
    limit_orders(),
    limit_orders(),
    limit_orders(),
    limit_orders(),
    market_orders(),
    market_orders(),
    cancels,
    cancel_alls,
    amends,
    amends,
    replacements(),
    transfers,
    product_changes(),
    st.builds(lambda seed, number: fee_command(Random(seed), f"c{number}"), st.integers(0, 2**32), st.integers(0, 400)),
    st.builds(lambda seed, number: options_command(Random(seed), number), st.integers(0, 2**32), st.integers(0, 400)),
)
