"""Plain-text scripts: what a trader types, and below it, indented, what the exchange answers.

A line that begins in the first column is a command, a remark (`#`) or blank; indented lines are the trace of the
command above. Amounts are decimals in whole coins; with a `u` behind them they are smallest units, for numbers that no
decimal can say.

    currency USD 2                                       the operator adds a currency with two decimal digits
    product BTC-USD tick=0.01 lot=0.001 min=0.001 max=50 maker=1000 taker=2000 status=online     fees in parts per million
    product ... keep=yes expected=3                      keeps the status it has; refused unless the product is at this version
    accounts ann bob with 1000 USD, 5 BTC                opens accounts and pays in; silent unless something is refused
    key k1 for ann secret=c2VjcmV0 permissions=3         gives ann an API key
    key k1 for ann addresses=192.0.2.0/24,2001:db8::/32 sealed=1        from these networks alone, sealed by cluster key 1
    deposit ann 100 USD id=t1     withdraw ann 100 USD id=t2     transfer ann 100 USD bob id=t3
    ann buy 2 BTC-USD @ 100 [ioc|fok|post] [stp=co] [oid=a] [id=x]
    ann buy 2 BTC-USD @ 100 gtt=60                        good for 60 seconds; the clock steps by one with each line
    ann sell 2 BTC-USD @ 90 stop=loss@95                  waits for a trade at 95 or below; stop=entry@95: or above
    ann sell 2 BTC-USD market     ann buy BTC-USD market funds=50
    ann cancel #3     ann cancel oid=a     ann cancel-all [BTC-USD] [side=buy] [from=90] [to=95]
    ann buy 2 BTC-USD @ 100 [show=0.5] [session=s] [profit=110] [loss=90] [loss-limit=89] [for=day|auction] [until=600]
    ann sell 2 BTC-USD market stop=loss@0 trail=5         ann pair sell 1 BTC-USD @ 110 stop=90 [limit=89] [oid=a] [stop-oid=b]
    ann cancel-after 10 [session=s]                      unless this comes again within ten seconds; 0: no more
    ann amend #3 size=2 price=99 stop=95      ann replace #3 buy 2 BTC-USD @ 100 [oid=b] [old=a]
    auction BTC-USD                                      what it would do if it opened now
    book BTC-USD      balances ann bob     fees USD      order #3
    firm acme     member ann acme                        a firm, and an account of it
    switches account ann kill note=why                   also: venue, firm NAME, product NAME; buy-off, sell-off, cancel-only, on
    limits BTC-USD dynamic=50000 static=0 action=auction halt=60 call=300 random=30 extensions=1 size=5 notional=1000 distance=100000
                                                         collars in parts per million, times in seconds; nothing behind
                                                         the product: no limits; limit=15: a limit state of 15 seconds before
    risk account ann USD open=100 volume=1000            also: firm NAME; position of a base currency; without a currency: orders, rate
    calendar c week=08:00:pre_open,08:50:auction,09:00:continuous offset=3600 holidays=4 random=30 late=60 move=10000 extend=120 extensions=1
                                                         also: imbalance=60
    follows venue c     follows group g c     follows product BTC-USD c     group BTC-USD g     follow BTC-USD
    phase BTC-USD                                        where it is in its calendar
    bust BTC-USD 3 buyer=ann seller=bob price=100 size=1 fees=0.1,0.2 [to=99]
    tiers USD 0:1000:2000 50000:-200:1500                fee tiers: 30-day volume, maker's and taker's rate in parts per million;
                                                         tiers BTC-USD ...: of one product; no tiers behind the name: none
    override ann BTC-USD 0:500                           rates of an account; `all` for the product: all; no rates: none
    rates ann BTC-USD                                    what an account pays, and its 30-day volume
    user rita risk-officer@firm:acme trader@account:ann  a user and the roles; roles of the venue: administrator@venue
    key k2 for operator permissions=8 user=rita          a key of the user
    as rita switches firm acme kill                      the line, sent by a user; as key/k1: by a key without a user
    access bootstrap=off consent=switch+correct life=600 whose commands need consent
    proposals     approve 9     reject last  drop last   the proposals that wait, and what becomes of one
    clock 1 08:50                                        the clock goes on to this time of the day 1970-01-02, in UTC
    wait 60                                              a log entry without commands moves the time by 60 seconds
    restart                                              the engine goes on from its tables

Each trace shows the events with their product sequence, then `=` and the outcome. The whole state is checked after
every line.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    Batch,
    CancelAll,
    CancelAllAfter,
    CancelOrder,
    CorrectTrade,
    DecideProposal,
    Deposit,
    FollowCalendar,
    Grant,
    NewOrder,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutApiKey,
    PutCalendar,
    PutCurrency,
    PutFeeOverride,
    PutFeeTiers,
    PutFirm,
    PutGroup,
    PutMember,
    PutProduct,
    PutProductLimits,
    PutRiskLimits,
    PutUser,
    ReplaceOrder,
    SetAccess,
    SetCalendar,
    SetSwitches,
    Transfer,
    Withdraw,
    command_decoder,
    decode_batch,
    encode_batch,
)
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.types import (
    CollarAction,
    Decision,
    GoodFor,
    OrderType,
    Permission,
    Phase,
    ProductStatus,
    Role,
    Scope,
    SelfTradePrevention,
    Side,
    StopType,
    Switch,
    TimeInForce,
)
from tests.interaction.traces import SECOND, Traces

_SWITCHES = {
    "on": 0,
    "buy-off": Switch.BUY_OFF,
    "sell-off": Switch.SELL_OFF,
    "cancel-only": Switch.BUY_OFF + Switch.SELL_OFF,
    "kill": int(Switch.KILL),
}
_FLAGS = {"ioc": TimeInForce.IOC, "fok": TimeInForce.FOK}


class Script(Traces):
    """One exchange, driven by lines of text."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine()
        self.ids = 0
        self.sender = OPERATOR

    def run(self, text: str) -> str:
        """Run the script, and return it with its traces as they are now."""
        out: list[str] = []
        for line in text.splitlines():
            if line.startswith((" ", "\t")):
                continue
            out.append(line)
            if line.strip() and not line.startswith("#"):
                out.extend(f"  {trace}" for trace in self.line(line))
        return "\n".join(out) + "\n"

    def line(self, line: str) -> list[str]:
        """Carry out one line, and return its trace."""
        self.seconds += 1
        words = line.split()
        special = getattr(self, f"do_{words[0]}", None)
        trace: list[str] = special(words[1:]) if special is not None else self.send(self.trader(words))
        self.engine.check()
        return trace

    # -- lines
    # -------------------------------------------------------------------------------------------------------------------

    def do_currency(self, words: list[str]) -> list[str]:
        name, scale = words
        self.scales.setdefault(name, int(scale))
        return self.send(PutCurrency(OPERATOR, self.new_id(), name, int(scale)))

    def do_product(self, words: list[str]) -> list[str]:
        name, given = words[0], dict(word.split("=") for word in words[1:])
        base, quote = given.get("base", name.split("-")[0]), given.get("quote", name.split("-")[1])
        self.pairs.setdefault(name, (base, quote))
        lot, least, most = (self.units(given[key], base) for key in ("lot", "min", "max"))
        maker, taker = int(given.get("maker", 0)), int(given.get("taker", 0))
        status = ProductStatus[given.get("status", "online").upper()]
        tick = self.units(given["tick"], quote)
        keep, expected = given.get("keep") == "yes", int(given.get("expected", -1))
        sizes = (tick, lot, least, most)
        return self.send(PutProduct(OPERATOR, self.new_id(), name, base, quote, *sizes, maker, taker, status, keep, expected))

    def do_accounts(self, words: list[str]) -> list[str]:
        split = words.index("with") if "with" in words else len(words)
        commands: list[AnyCommand] = [OpenAccount(OPERATOR, self.new_id(), name) for name in words[:split]]
        for pair in " ".join(words[split + 1 :]).split(","):
            for name in words[:split] if pair else []:
                amount, currency = pair.split()
                commands.append(Deposit(name, self.new_id(), currency, self.units(amount, currency)))
        traces = [trace for command in commands for trace in self.send(command)]
        return [trace for trace in traces if "rejected" in trace]

    def do_key(self, words: list[str]) -> list[str]:
        key, _, owner, *rest = words
        given = dict(word.split("=", 1) for word in rest)
        secret, permissions = given.get("secret", "c2VjcmV0"), int(given.get("permissions", 1))
        passphrase, addresses = given.get("passphrase", ""), given.get("addresses", "")
        sealed_by = int(given.get("sealed", 0))
        key_fields = (secret, passphrase, permissions, addresses, sealed_by, given.get("user", ""))
        return self.send(PutApiKey(OPERATOR, self.new_id(), key, owner, *key_fields))

    def do_as(self, words: list[str]) -> list[str]:
        """Send the rest of the line as a user ("rita") or a key ("key/k1")."""
        self.sender = f"{OPERATOR}/{words[0]}"
        self.seconds -= 1
        trace = self.line(" ".join(words[1:]))
        self.sender = OPERATOR
        return trace

    def do_user(self, words: list[str]) -> list[str]:
        grants = []
        for word in words[1:]:
            role, _, place = word.partition("@")
            scope, _, name = place.partition(":")
            grants.append(Grant(Role[role.upper().replace("-", "_")], Scope[scope.upper()], name))
        return self.send(PutUser(OPERATOR, self.new_id(), words[0], grants))

    def do_access(self, words: list[str]) -> list[str]:
        given = dict(word.split("=") for word in words)
        consent = sum(Permission[name.upper()] for name in given["consent"].split("+")) if given.get("consent") else 0
        life = int(given.get("life", 0)) * SECOND
        return self.send(SetAccess(OPERATOR, self.new_id(), given["bootstrap"] == "off", consent, life))

    def do_approve(self, words: list[str]) -> list[str]:
        return self.send(DecideProposal(OPERATOR, self.new_id(), self.proposal(words[0]), Decision.APPROVE))

    def do_reject(self, words: list[str]) -> list[str]:
        return self.send(DecideProposal(OPERATOR, self.new_id(), self.proposal(words[0]), Decision.REJECT))

    def do_drop(self, words: list[str]) -> list[str]:
        return self.send(DecideProposal(OPERATOR, self.new_id(), self.proposal(words[0]), Decision.WITHDRAW))

    def proposal(self, word: str) -> int:
        """Return the id of a proposal. "last" is the one made last."""
        return self.proposed if word == "last" else int(word)

    def do_proposals(self, words: list[str]) -> list[str]:
        rows = self.engine.records("proposal")
        return [
            f"{row.proposal_id} by {row.proposer}: {type(command_decoder.decode(row.command)).__name__}, until {row.expires_at // SECOND}"
            for row in rows
        ] or ["none"]

    def do_deposit(self, words: list[str]) -> list[str]:
        account, amount, currency, *rest = words
        return self.send(Deposit(account, self.given_id(rest), currency, self.units(amount, currency)))

    def do_withdraw(self, words: list[str]) -> list[str]:
        account, amount, currency, *rest = words
        return self.send(Withdraw(account, self.given_id(rest), currency, self.units(amount, currency)))

    def do_transfer(self, words: list[str]) -> list[str]:
        account, amount, currency, receiver, *rest = words
        return self.send(Transfer(account, self.given_id(rest), receiver, currency, self.units(amount, currency)))

    def do_firm(self, words: list[str]) -> list[str]:
        return self.send(PutFirm(OPERATOR, self.new_id(), words[0]))

    def do_member(self, words: list[str]) -> list[str]:
        return self.send(PutMember(OPERATOR, self.new_id(), words[0], words[1] if len(words) > 1 else ""))

    def do_switches(self, words: list[str]) -> list[str]:
        scope, rest = self.scope(words)
        note = next((word.removeprefix("note=") for word in rest if word.startswith("note=")), "")
        switches = _SWITCHES[rest[1]] if rest[1] in _SWITCHES else int(rest[1])
        return self.send(SetSwitches(OPERATOR, self.new_id(), scope, rest[0], switches, note))

    @staticmethod
    def scope(words: list[str]) -> tuple[Scope, list[str]]:
        """Return the scope, and the words from its name on."""
        scope = Scope[words[0].upper()]
        return scope, ["", *words[1:]] if scope is Scope.VENUE else words[1:]

    def do_limits(self, words: list[str]) -> list[str]:
        name, given = words[0], dict(word.split("=") for word in words[1:])
        base, quote = self.pairs.get(name, ("BTC", "USD"))
        dynamic, static = (int(given.get(field, 0)) for field in ("dynamic", "static"))
        halt, call, chance = (int(given.get(field, 0)) * SECOND for field in ("halt", "call", "random"))
        size, notional = self.units(given.get("size", "0"), base), self.units(given.get("notional", "0"), quote)
        price, distance = self.units(given.get("price", "0"), quote), int(given.get("distance", 0))
        action, times = CollarAction[given.get("action", "reject").upper()], int(given.get("extensions", 0))
        sizes = (times, size, notional, distance, price, int(given.get("limit", 0)) * SECOND)
        return self.send(PutProductLimits(OPERATOR, self.new_id(), name, dynamic, static, action, halt, call, chance, *sizes))

    def do_risk(self, words: list[str]) -> list[str]:
        scope, (name, *rest) = self.scope(words)
        currency = next((word for word in rest if "=" not in word), "")
        given = dict(word.split("=") for word in rest if "=" in word)
        counts = [int(given.get(field, 0)) for field in ("orders", "rate")]
        money = [self.units(given.get(field, "0"), currency) for field in ("open", "volume", "position")]
        return self.send(PutRiskLimits(OPERATOR, self.new_id(), scope, name, currency, *counts, *money))

    def do_tiers(self, words: list[str]) -> list[str]:
        name, *given = words
        product, currency = (name, self.pairs[name][1]) if name in self.pairs else ("", name)
        tiers = [(self.units(v, currency), int(maker), int(taker)) for v, maker, taker in (word.split(":") for word in given)]
        return self.send(PutFeeTiers(OPERATOR, self.new_id(), currency, product, tiers))

    def do_override(self, words: list[str]) -> list[str]:
        name, product, *given = words
        maker, taker = map(int, given[0].split(":")) if given else (0, 0)
        of = "" if product == "all" else product
        return self.send(PutFeeOverride(OPERATOR, self.new_id(), name, of, maker, taker, not given))

    def do_rates(self, words: list[str]) -> list[str]:
        found = self.engine.fees_of(*words)
        if found is None:
            return ["unknown"]
        volumes = ", ".join(f"{self.text(volume, currency)} {currency}" for currency, volume in found.volumes)
        return [f"maker {found.maker_fee_ppm}, taker {found.taker_fee_ppm} ppm; traded in 30 days: {volumes or 'not counted'}"]

    def do_calendar(self, words: list[str]) -> list[str]:
        name, given = words[0], dict(word.split("=") for word in words[1:])
        day: list[tuple[int, Phase]] = []
        for text in given.get("week", "").split(",") if given.get("week") else []:
            hour, minute, phase = text.split(":")
            day.append((int(hour) * 3600 + int(minute) * 60, Phase[phase.upper()]))
        holidays: list[tuple[int, list[tuple[int, Phase]]]] = [
            (int(number), []) for number in given.get("holidays", "").split(",") if number
        ]
        times = [int(given.get(field, 0)) * SECOND for field in ("random", "late", "extend", "imbalance")]
        numbers = (times[0], times[1], int(given.get("move", 0)), times[2], int(given.get("extensions", 0)), times[3])
        offsets = [(0, int(given.get("offset", 0)))]
        return self.send(PutCalendar(OPERATOR, self.new_id(), name, "UTC", offsets, [day] * 7, holidays, *numbers))

    def do_follows(self, words: list[str]) -> list[str]:
        scope, (name, *rest) = self.scope(words)
        return self.send(SetCalendar(OPERATOR, self.new_id(), scope, name, rest[0] if rest else ""))

    def do_group(self, words: list[str]) -> list[str]:
        return self.send(PutGroup(OPERATOR, self.new_id(), words[0], words[1] if len(words) > 1 else ""))

    def do_follow(self, words: list[str]) -> list[str]:
        return self.send(FollowCalendar(OPERATOR, self.new_id(), words[0]))

    def do_phase(self, words: list[str]) -> list[str]:
        row = self.engine.phase(words[0])
        if row is None:
            return ["no calendar"]
        ends = f"until {Decimal(row.ends_at) / SECOND:f}" if row.ends_at else ""
        return [f"{row.phase.name.lower()} {ends}{', status by hand' if row.by_hand else ''}"]

    def do_bust(self, words: list[str]) -> list[str]:
        name, trade, *rest = words
        given = dict(word.split("=") for word in rest)
        base, quote = self.pairs.get(name, ("BTC", "USD"))
        fees = [self.units(fee, quote) for fee in given.get("fees", "0,0").split(",")]
        price, size, to = (
            self.units(given["price"], quote),
            self.units(given["size"], base),
            self.units(given.get("to", "0"), quote),
        )
        who = (given["buyer"], given["seller"])
        return self.send(CorrectTrade(OPERATOR, self.new_id(), name, int(trade), *who, price, size, fees[0], fees[1], to))

    def do_clock(self, words: list[str]) -> list[str]:
        hour, minute, *second = map(int, words[1].split(":"))
        self.seconds = int(words[0]) * 86_400 + hour * 3600 + minute * 60 + (second[0] if second else 0)
        applied = self.engine.apply(decode_batch(encode_batch(Batch(self.seconds * SECOND, []))))
        return [self.event(event) for event in applied.events]

    def do_book(self, words: list[str]) -> list[str]:
        trace = []
        for side, name in ((Side.SELL, "asks"), (Side.BUY, "bids")):
            orders = self.engine.book_orders(words[0], side)
            base, quote = self.pairs[words[0]]
            shown = [f"{self.text(size, base)} @ {self.text(price, quote)} #{order_id}" for price, size, order_id in orders]
            trace.append(f"{name}: {', '.join(shown) or 'none'}")
        return trace

    def do_auction(self, words: list[str]) -> list[str]:
        found = self.engine.auction(words[0])
        if found is None:
            return ["no auction"]
        base, quote = self.pairs[words[0]]
        sides = [
            f"{name} {self.text(size, base)} @ {self.text(price, quote)}" if size else f"no {name}s"
            for name, price, size in (("bid", found.best_bid, found.best_bid_size), ("ask", found.best_ask, found.best_ask_size))
        ]
        opens = f"{self.text(found.size, base)} @ {self.text(found.price, quote)}" if found.size else "nothing"
        surplus = f"{self.text(abs(found.surplus), base)} more to {'buy' if found.surplus > 0 else 'sell'}"
        return [f"would trade {opens}{f', {surplus}' if found.surplus else ''}; {', '.join(sides)}"]

    def do_balances(self, words: list[str]) -> list[str]:
        trace = []
        for account in words:
            rows = self.engine.balances(account)
            shown = [
                f"{self.text(row.available, row.currency)} {row.currency} + {self.text(row.hold, row.currency)} on hold"
                for row in rows
            ]
            trace.append(f"{account}: {', '.join(shown) or 'nothing'}")
        return trace

    def do_fees(self, words: list[str]) -> list[str]:
        row = self.engine.currency(words[0])
        assert row is not None
        return [f"{self.text(row.fees, row.currency)} {row.currency} earned"]

    def do_order(self, words: list[str]) -> list[str]:
        order = self.engine.order(int(words[0].removeprefix("#")))
        return [self.order(order) if order is not None else "not known"]

    def do_restart(self, words: list[str]) -> list[str]:
        before = self.engine.full_hash()
        self.engine = Engine.restore(dict(self.engine.tables()))
        return ["the same state" if self.engine.full_hash() == before else "ANOTHER STATE"]

    def trader(self, words: list[str]) -> AnyCommand:
        account, verb, *rest = words
        options = dict(word.split("=") for word in rest if "=" in word)
        plain = [word for word in rest if "=" not in word]
        command_id = options.get("id") or self.new_id()
        if verb == "cancel-all":
            name = plain[0] if plain else ""
            side = int(Side[options["side"].upper()]) if "side" in options else 0
            quote = self.pairs.get(name, ("BTC", "USD"))[1]
            low, high = (self.units(options.get(key, "0"), quote) for key in ("from", "to"))
            return CancelAll(account, command_id, name, side, low, high, options.get("session", ""))
        if verb == "cancel-after":
            return CancelAllAfter(account, command_id, int(plain[0]) * SECOND, options.get("session", ""))
        if verb == "pair":
            buys, size, name, _, price = plain
            base, quote = self.pairs[name]
            return PlacePair(
                account,
                command_id,
                name,
                Side[buys.upper()],
                self.units(size, base),
                self.units(price, quote),
                self.units(options["stop"], quote),
                self.units(options.get("limit", "0"), quote),
                SelfTradePrevention[options.get("stp", "dc").upper()],
                options.get("oid", ""),
                options.get("stop-oid", ""),
                options.get("session", ""),
            )
        if verb in ("amend", "replace"):
            return self.change(account, command_id, verb, plain, options)
        if verb == "cancel":
            order_id = next((int(word[1:]) for word in plain if word.startswith("#")), 0)
            product = next((word for word in plain if not word.startswith("#")), "")
            return CancelOrder(account, command_id, order_id, options.get("oid", ""), product)
        size = plain.pop(0) if plain[1] not in ("@", "market") else "0"
        return self.place(account, command_id, verb, size, plain, options)

    def change(self, account: str, command_id: str, verb: str, plain: list[str], options: dict[str, str]) -> AnyCommand:
        order_id = int(plain.pop(0)[1:]) if plain and plain[0].startswith("#") else 0
        if verb == "replace":
            size = plain.pop(1) if plain[2] not in ("@", "market") else "0"
            placed = self.place(account, command_id, plain.pop(0), size, plain, options)
            fields = msgspec.structs.asdict(placed)
            new = NewOrder(**{name: fields[name] for name in NewOrder.__struct_fields__})
            return ReplaceOrder(account, command_id, order_id, options.get("old", ""), "", new)
        known = self.engine.order(order_id) or self.engine.order_by_client_oid(account, options.get("oid", ""))
        base, quote = self.pairs[known.product_id if known is not None else "BTC-USD"]
        keys = (("size", base), ("price", quote), ("stop", quote))
        whole, limit, trigger = (self.units(options.get(key, "0"), unit) for key, unit in keys)
        named = order_id, options.get("oid", ""), options.get("product", "")
        return AmendOrder(account, command_id, *named, whole, limit, trigger, options.get("as", ""))

    def place(self, account: str, command_id: str, verb: str, size: str, plain: list[str], options: dict[str, str]) -> PlaceOrder:
        name, kind, *flags = plain
        base, quote = self.pairs.get(name, ("BTC", "USD"))
        price = self.units(flags.pop(0), quote) if kind == "@" else 0
        price = self.units(options["price"], quote) if "price" in options else price
        stop, _, stop_price = options.get("stop", "none").partition("@")
        lasts = "gtt" in options or "until" in options or options.get("for") == "day"
        return PlaceOrder(
            account,
            command_id,
            name,
            Side[verb.upper()],
            OrderType.LIMIT if kind == "@" else OrderType.MARKET,
            price,
            self.units(size, base),
            self.units(options.get("funds", "0"), quote),
            next(
                (_FLAGS[flag] for flag in flags if flag in _FLAGS),
                TimeInForce.GTT if lasts else TimeInForce.GTC,
            ),
            "post" in flags,
            SelfTradePrevention[options.get("stp", "dc").upper()],
            options.get("oid", ""),
            StopType[stop.upper()],
            self.units(stop_price or "0", quote),
            int(Decimal(options.get("gtt") or options.get("cancel-after") or "0") * SECOND),
            self.options(options, base, quote),
        )

    def options(self, given: dict[str, str], base: str, quote: str) -> OrderOptions | None:
        found = OrderOptions(
            given.get("session", ""),
            self.units(given.get("show", "0"), base),
            self.units(given.get("trail", "0"), quote),
            GoodFor[given.get("for", "any").upper()],
            int(given.get("until", "0")) * SECOND,
            *(self.units(given.get(key, "0"), quote) for key in ("profit", "loss", "loss-limit")),
        )
        return found if found != OrderOptions() else None

    # -- numbers and ids
    # ---------------------------------------------------------------------------------------------------------

    def units(self, text: str, currency: str) -> int:
        if text.endswith("u"):
            return int(text[:-1])
        exact = Decimal(text).scaleb(self.scales.get(currency, 0))
        assert exact == int(exact), f"{text} {currency} is not a whole number of units: write units"
        return int(exact)

    def new_id(self) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    def given_id(self, words: list[str]) -> str:
        return next((word.removeprefix("id=") for word in words if word.startswith("id=")), "") or self.new_id()

    # -- traces
    # ------------------------------------------------------------------------------------------------------------------

    def send(self, command: AnyCommand) -> list[str]:
        """Through the same bytes as in the log; a number that these cannot carry never reaches the engine."""
        if command.account_id == OPERATOR:
            command = msgspec.structs.replace(command, account_id=self.sender)
        try:
            batch = decode_batch(encode_batch(Batch(self.seconds * SECOND, [command])))
        except OverflowError:
            return ["= refused before the log: the number is too large for any field"]
        applied = self.engine.apply(batch)
        return [*map(self.event, applied.events), f"= {self.outcome(applied.outcomes[0])}"]

    def do_wait(self, words: list[str]) -> list[str]:
        self.seconds += int(words[0]) - 1
        applied = self.engine.apply(decode_batch(encode_batch(Batch(self.seconds * SECOND, []))))
        return [*map(self.event, applied.events), f"= {self.expiry()}"]

    def expiry(self) -> str:
        left = self.engine.next_expiry - self.seconds * SECOND
        return (
            f"the next order leaves in {Decimal(left) / SECOND:f} seconds" if self.engine.next_expiry else "nothing will expire"
        )
