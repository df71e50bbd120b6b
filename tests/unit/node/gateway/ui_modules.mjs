// The parts of the page that need no browser, run by Node.js: see test_ui_modules.py.

import assert from "node:assert/strict";
import { test } from "node:test";

const core = new URL("../../../../node/gateway/ui/static/core/", import.meta.url);
const net = new URL("../net/", core);
const { Book } = await import(new URL("book.js", core));
const { Candles } = await import(new URL("candles.js", core));
const decimal = await import(new URL("decimal.js", core));
const metrics = await import(new URL("metrics.js", core));
const { SequenceCounter } = await import(new URL("sequence.js", core));
const { Series } = await import(new URL("series.js", core));
const { KEPT_MS, Timeline } = await import(new URL("timeline.js", core));
const { Cluster, Refused, Unreachable } = await import(new URL("cluster.js", net));
const { Contract } = await import(new URL("contract.js", net));
const { Keys } = await import(new URL("keys.js", net));

const { units, text } = decimal;

test("decimals are exact", () => {
  assert.equal(text(units("0.1") + units("0.2")), "0.3");
  assert.equal(text(units("123456789012345678.000000000001")), "123456789012345678.000000000001");
  assert.equal(text(units("5"), 2), "5.00");
  assert.equal(text(units("-1.50")), "-1.5");
  assert.equal(text(decimal.product(units("60000.01"), units("0.000001"))), "0.06000001");
  assert.equal(decimal.digits("0.0100"), 2);
  assert.equal(decimal.digits("1"), 0);
  assert.equal(decimal.digits("10"), 0);
  assert.equal(decimal.grouped("1234567.891"), "1,234,567.891");
});

test("what is no decimal is refused", () => {
  for (const bad of ["", "1e5", ".5", "1.", "NaN", "0x1", " 1", "1.0000000000001", "--1"]) assert.throws(() => units(bad), RangeError, bad);
});

/** A deterministic source of numbers below 2^31. */
function numbers(seed) {
  let state = seed;
  return (below) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return state % below;
  };
}

/** The book as a list of orders: slow and obvious. */
class SlowBook {
  constructor() {
    this.orders = new Map();
  }

  apply(event) {
    const order = this.orders.get(event.order_id ?? event.maker_order_id);
    if (event.type === "open") this.orders.set(event.order_id, { side: event.side, price: Number(event.price), size: Number(event.remaining_size) });
    if (event.type === "match" && order) order.size -= Number(event.size);
    if (event.type === "change" && order) order.size = Number(event.new_size);
    if (event.type === "done") this.orders.delete(event.order_id);
  }

  levels(side) {
    const found = new Map();
    for (const order of this.orders.values()) {
      if (order.side !== side) continue;
      const level = found.get(order.price) ?? { size: 0, orders: 0 };
      found.set(order.price, { size: level.size + order.size, orders: level.orders + 1 });
    }
    return [...found].sort(([one], [other]) => (side === "buy" ? other - one : one - other)).map(([price, level]) => [price, level.size, level.orders]);
  }
}

test("the book equals its slow twin after each event", () => {
  const next = numbers(7);
  const [book, slow] = [new Book(), new SlowBook()];
  book.load({ sequence: 0, bids: [], asks: [] });
  for (let sequence = 1; sequence <= 3_000; sequence += 1) {
    const ids = [...slow.orders.keys()];
    const id = ids[next(Math.max(1, ids.length))];
    const kind = ids.length < 5 ? 0 : next(5);
    const order = slow.orders.get(id);
    const event =
      kind <= 1
        ? { type: "open", order_id: `o${sequence}`, side: next(2) ? "buy" : "sell", price: String(100 + next(20)), remaining_size: String(2 + next(50)) }
        : kind === 2 && order.size > 1
          ? { type: "match", maker_order_id: id, size: "1" }
          : kind === 3
            ? { type: "change", order_id: id, new_size: String(1 + next(order.size)) }
            : { type: "done", order_id: id };
    const numbered = { ...event, sequence };
    book.apply(numbered);
    slow.apply(numbered);
    for (const [side, levels] of [["buy", book.buys.best(1000)], ["sell", book.sells.best(1000)]]) {
      assert.deepEqual(levels.map((level) => [Number(text(level.price)), Number(text(level.size)), level.orders]), slow.levels(side));
    }
  }
  assert.equal(book.sequence, 3_000);
});

test("a book begins with a snapshot, and events about unknown orders change nothing", () => {
  const book = new Book();
  book.load({ sequence: 9, bids: [["100", "1", "a"], ["100", "2", "b"], ["99", "5", "c"]], asks: [["101", "1", "d"]] });
  assert.deepEqual(book.buys.best(1), [{ price: units("100"), size: units("3"), orders: 2 }]);
  book.apply({ type: "done", order_id: "nobody", sequence: 10 });
  book.apply({ type: "match", maker_order_id: "nobody", size: "1", sequence: 11 });
  book.apply({ type: "auction_match", maker_order_id: "a", size: "1", sequence: 12 });
  book.apply({ type: "change", order_id: "a", new_size: "4", new_price: "98", requeued: true, sequence: 13 });
  book.apply({ type: "open", order_id: "a", side: "buy", price: "98", remaining_size: "4", sequence: 14 });
  book.apply({ type: "change", order_id: "c", new_size: "5", sequence: 15 });
  assert.deepEqual(book.buys.best(9).map((level) => [text(level.price), text(level.size)]), [["100", "2"], ["99", "5"], ["98", "4"]]);
  book.load({ sequence: 20, bids: [], asks: [] });
  assert.equal(book.orders.size, 0);
});

test("the counter tells gaps and repetitions", () => {
  const counter = new SequenceCounter();
  counter.begin(10);
  assert.equal(counter.next, 11);
  assert.equal(counter.take(11), "next");
  assert.equal(counter.take(11), "old");
  assert.equal(counter.take(13), "gap");
  assert.deepEqual([counter.last, counter.seen, counter.gaps, counter.repeated], [11, 1, 1, 1]);
  for (let move = 0; move < 30; move += 1) counter.moved("n1", "n2", move);
  assert.equal(counter.moves.length, 20);
  assert.equal(counter.moves[0].sequence, 12);
});

test("candles continue the history's by trades", () => {
  const candles = new Candles(60);
  candles.load([
    ["120", "9", "12", "10", "11", "3"],
    ["60", "8", "10", "9", "10", "5"],
  ]);
  assert.equal(candles.add({ time: 50, price: 1, size: 1 }), null);
  candles.add({ time: 179, price: 13, size: 1 });
  assert.deepEqual(candles.bars.at(-1), { time: 120, open: 10, high: 13, low: 9, close: 13, volume: 4 });
  candles.add({ time: 240.5, price: 12, size: 2 });
  assert.deepEqual(candles.bars.at(-1), { time: 240, open: 12, high: 12, low: 12, close: 12, volume: 2 });
  assert.equal(candles.bars.length, 3);
});

test("quantiles are of what came between two looks", () => {
  const page = (a, b, c) => `# HELP x\nx_bucket{node="n1",le="0.001"} ${a}\nx_bucket{node="n1",le="0.01"} ${b}\nx_bucket{node="n1",le="+Inf"} ${c}\ny{a="q\\"uo,te"} 4\ny{a="b"} 5\n`;
  const [before, after] = [metrics.parse(page(10, 10, 10)), metrics.parse(page(60, 110, 110))];
  const [old, now] = [metrics.histogram(before, "x"), metrics.histogram(after, "x")];
  assert.equal(metrics.quantile(old, now, 0.25), 0.0005);
  assert.equal(metrics.quantile(old, now, 0.5), 0.001);
  assert.ok(Math.abs(metrics.quantile(old, now, 0.75) - 0.0055) < 1e-12);
  assert.equal(metrics.quantile(now, now, 0.5), null);
  assert.equal(metrics.histogram(after, "x", (labels) => labels.node === "n2").size, 0);
  assert.equal(metrics.total(after, "y"), 9);
  assert.equal(metrics.total(after, "y", { a: "b" }), 5);
  assert.equal(metrics.total(after, "z"), null);
  assert.equal(metrics.quantile(new Map(), new Map([[0.1, 0], [Infinity, 4]]), 0.99), 0.1);
});

test("the time line keeps changes of leader and forgets what is old", () => {
  const line = new Timeline();
  line.note("n1", "leader", 1, 1_000);
  line.note("n2", "follower", 1, 1_000);
  line.note("n1", "unreachable", 0, 2_000);
  line.note("n2", "leader", 2, 2_500);
  line.note("n1", "leader", 1, 2_600); // the old leader has not noticed yet
  assert.deepEqual(line.changes.map((change) => [change.before, change.leader, change.term]), [["", "n1", 1], ["n1", "n2", 2]]);
  assert.equal(line.leader, "n2");
  line.note("n1", "follower", 2, 3_000 + KEPT_MS);
  assert.deepEqual(line.spans.get("n1").map((span) => span.role), ["leader", "follower"]);
});

test("series are bounded", () => {
  const series = new Series(2, 3);
  for (let time = 0; time < 5; time += 1) series.add(time, [time * 2, null]);
  assert.deepEqual(series.data, [[2, 3, 4], [4, 6, 8], [null, null, null]]);
});

test("a signature is the one that docs/api.md describes", async () => {
  const keys = new Keys();
  await keys.take(" alice-1 ", "YS1zZWNyZXQtb2YtYS10cmFkZXI=", "walrus");
  const headers = await keys.headers("POST", "/orders", '{"a":1}', "1795304779.123");
  const { createHmac } = await import("node:crypto");
  const expected = createHmac("sha256", Buffer.from("YS1zZWNyZXQtb2YtYS10cmFkZXI=", "base64")).update('1795304779.123POST/orders{"a":1}').digest("base64");
  assert.deepEqual(headers, { "CB-ACCESS-KEY": "alice-1", "CB-ACCESS-SIGN": expected, "CB-ACCESS-TIMESTAMP": "1795304779.123", "CB-ACCESS-PASSPHRASE": "walrus" });
  assert.equal(JSON.stringify(keys).includes("walrus"), false);
  keys.forget();
  await assert.rejects(keys.headers("GET", "/", "", "1"), /Enter an API key/);
  await assert.rejects(keys.take("k", "not base64!", "p"), /not base64/);
});

/** A cluster of three whose answers `answer` makes. */
function clusterOf(answer) {
  const cluster = new Cluster("http://h:1", new Keys());
  cluster.learn("http://h:1", "n1", [1, 2, 3].map((number) => ({ node_id: `n${number}`, http: `http://h:${number}` })));
  const asked = [];
  globalThis.fetch = async (url, options) => {
    asked.push(url);
    return answer(url, options);
  };
  return { cluster, asked };
}

const json = (body, status = 200) => new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });

test("a request goes on at the next member, and stays there", async () => {
  const { cluster, asked } = clusterOf((url) => {
    if (url.startsWith("http://h:1")) throw new TypeError("connection refused");
    return json(url.startsWith("http://h:2") ? { message: "No leader" } : { ok: true }, url.startsWith("http://h:2") ? 503 : 200);
  });
  assert.deepEqual(await cluster.read("/x"), { ok: true });
  assert.deepEqual(await cluster.read("/y"), { ok: true });
  assert.deepEqual(asked, ["http://h:1/x", "http://h:2/x", "http://h:3/x", "http://h:3/y"]);
  assert.equal(cluster.name(cluster.current), "n3");
});

test("a reject is shown at once, with its field", async () => {
  const { cluster, asked } = clusterOf(() => json({ message: "price too precise", field: "price", reason: "price_off_tick", detail: "0.01" }, 400));
  await assert.rejects(cluster.request("POST", "/orders", { body: {} }), (error) => error instanceof Refused && error.field === "price" && error.reason === "price_off_tick" && error.status === 400);
  assert.equal(asked.length, 1);
});

test("what may be done once only is sent to one member only", async () => {
  const { cluster, asked } = clusterOf(() => {
    throw new TypeError("connection refused");
  });
  await assert.rejects(cluster.request("POST", "/withdrawals", { body: {}, once: true }), Unreachable);
  assert.equal(asked.length, 1);
});

test("members that a node names are learnt, its own under the name that the page was opened by", () => {
  const { cluster } = clusterOf(() => json({}));
  cluster.learn("http://localhost:1", "n1", [{ node_id: "n1", http: "http://h:1" }, { node_id: "n2", http: "https://n2.example/" }, { node_id: "n3", http: "" }]);
  assert.deepEqual(cluster.members, [{ id: "n1", url: "http://localhost:1" }, { id: "n2", url: "https://n2.example" }]);
});

test("forms follow the OpenAPI document", () => {
  const contract = new Contract({
    paths: { "/orders": { post: { requestBody: { content: { "application/json": { schema: { $ref: "#/components/schemas/OrderRequest" } } } } } }, "/orders/{id}": { put: {} } },
    components: {
      schemas: {
        OrderRequest: {
          required: ["side"],
          properties: { side: { enum: ["buy", "sell"], type: "string" }, price: { anyOf: [{ type: "string" }, { type: "number" }] }, hidden: { anyOf: [{ type: "boolean" }, { type: "null" }] }, note: { type: "string" } },
        },
      },
    },
  });
  assert.deepEqual(contract.fields("POST", "/orders").map((field) => [field.name, field.kind, field.required]), [["side", "choice", true], ["price", "decimal", false], ["hidden", "boolean", false], ["note", "text", false]]);
  assert.deepEqual(contract.choices("POST", "/orders", "side", []), ["buy", "sell"]);
  assert.deepEqual(contract.choices("POST", "/orders", "nothing", ["x"]), ["x"]);
  assert.deepEqual(contract.first("PATCH /orders/{id}", "PUT /orders/{id}"), { method: "PUT", path: "/orders/{id}" });
  assert.equal(contract.first("POST /admin/kill"), null);
});

test("a large book is loaded at once, and what is drawn of it costs the same as of a small one", () => {
  const levels = 100_000;
  const at = (price) => [String(price), "1", `o${price}`];
  const snapshot = { sequence: 1, bids: Array.from({ length: levels }, (_, place) => at(levels - place)), asks: Array.from({ length: levels }, (_, place) => at(levels + 1 + place)) };
  const book = new Book();
  const begun = performance.now();
  book.load(snapshot);
  assert.ok(performance.now() - begun < 5_000, "sorted once");
  assert.deepEqual(book.buys.best(3).map((level) => text(level.price)), ["100000", "99999", "99998"]);
  assert.deepEqual(book.sells.best(3).map((level) => text(level.price)), ["100001", "100002", "100003"]);
  const one = performance.now();
  for (let drawn = 0; drawn < 1_000; drawn += 1) {
    assert.equal(book.buys.best(12).length, 12);
    assert.equal(book.sells.best(60).length, 60);
  }
  assert.ok(performance.now() - one < 2_000, "a frame looks at the best levels only");
  const changes = performance.now();
  for (let number = 0; number < 2_000; number += 1) {
    book.apply({ type: "open", sequence: 2 + 2 * number, order_id: `n${number}`, side: "buy", price: String(1 + number * 40 + 0.5), remaining_size: "1" });
    book.apply({ type: "done", sequence: 3 + 2 * number, order_id: `n${number}` });
  }
  assert.ok(performance.now() - changes < 2_000, "an event far from the best price, too");
});

test("settings of the operator are shown in words", async () => {
  const { linesOf } = await import(new URL("../cluster/controls.js", core));
  const found = {
    switch: [{ scope: 1, name: "", switches: 4, note: "a drill", cancelling: true }, { scope: 3, name: "ann", switches: 3, note: "" }],
    product_limits: [{ product_id: "BTC-USD", dynamic_ppm: 50_000, static_ppm: 0, action: 2 }],
    risk: [{ scope: 2, name: "acme", currency: "", orders_max: 10, rate_max: 0 }],
    interruption: [{ product_id: "BTC-USD", halted: true, ends_at: 0, extensions: 2 }],
    correction: [{ product_id: "BTC-USD", trade_id: 7, new_price: 0, note: "a wrong price" }],
    something_newer: [{}],
  };
  assert.deepEqual(linesOf(found).map((one) => `${one.what}, ${one.of}: ${one.words}`), [
    "Switch, The whole venue: kill switch, still cancelling (a drill)",
    "Switch, Account ann: no buy orders, no sell orders",
    "Interruption, BTC-USD: halted, extended 2 times",
    "Collar and limits, BTC-USD: at most 5 % from the last trade; else it calls an auction",
    "Risk limit, Firm acme: At most: 10 open orders",
    "Busted trade, BTC-USD 7: a wrong price",
  ]);
  assert.deepEqual(linesOf({}), []);
});

test("proposals and roles are shown in words", async () => {
  const { commandWords, rolesOf } = await import(new URL("../cluster/access.js", core));
  const fields = { product_id: "BTC-USD", switches: 4, note: "", static_price: 0, keep: false };
  assert.equal(commandWords({ command: "SetSwitches", fields }), "Set Switches: product id BTC-USD, switches 4");
  assert.equal(rolesOf({ roles: [{ role: "risk_officer", scope: "firm", id: "acme" }, { role: "viewer", scope: "venue", id: "" }] }), "risk officer of firm acme, viewer of the venue");
  assert.equal(rolesOf({ roles: [] }), "none");
});
