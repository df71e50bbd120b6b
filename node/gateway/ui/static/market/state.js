/**
 * The state of one product: its book, trades, candles, auction and status, and the orders, fills and balances of the key's account.
 *
 * Public data follows from the feed's events. For the account's data, an event says that it changed, and the page reads it again from the same node, which
 * has applied the event.
 */

import { Book } from "../core/book.js";
import { Candles } from "../core/candles.js";
import { Feed } from "../net/feed.js";
import { Refused } from "../net/cluster.js";
import { announce } from "../parts/dom.js";

/** @typedef {import("../net/cluster.js").Cluster} Cluster */
/** @typedef {{id: number, time: number, price: string, size: string, side: string}} Trade `side` is the taker's, `time` in seconds */

export const INTERVALS = [1, 5, 60, 300, 900, 3600, 21600, 86400];
/** Intervals that a history keeps. Candles of shorter ones are computed from trades. */
const KEPT_INTERVALS = new Set([60, 300, 900, 3600, 21600, 86400]);
const TRADES_KEPT = 2_000;
const FILLS_KEPT = 200;
const OWN_MS = 200;
const HISTORY_MS = 3_000;
const ORDERS_SHOWN = 200;
const COMPARED_MAX = 20;
const BARS_FEW = 8;
const YOUNG_INTERVAL = 5;

export class Market extends EventTarget {
  /** @param {Cluster} cluster */
  constructor(cluster) {
    super();
    this.cluster = cluster;
    /** @type {any[]} as GET /products has them */
    this.products = [];
    /** @type {any | null} */
    this.product = null;
    this.book = new Book();
    /** @type {Trade[]} oldest first */
    this.trades = [];
    this.candles = new Candles(60);
    this.interval = 60;
    /** Whether the user chose the interval. Until then a new market is drawn in short bars. */
    this.intervalChosen = false;
    /** @type {any | null} */
    this.auction = null;
    /** @type {any | null} the latest event about the auction's imbalance and its end */
    this.indication = null;
    /** @type {any | null} */
    this.stats = null;
    /** @type {any[]} */
    this.orders = [];
    /** @type {any[]} */
    this.fills = [];
    /** @type {any[]} */
    this.balances = [];
    /** @type {any | null} the key's fee rates */
    this.fees = null;
    this.ownDue = false;
    this.feed = new Feed(cluster, {
      onBook: (book, again) => this.#begin(book, again),
      onEvent: (event) => this.#event(event),
      onOther: (message) => this.#other(message),
      onState: () => this.#notify("state"),
    });
    cluster.keys.addEventListener("change", () => {
      this.orders = this.fills = this.balances = [];
      this.fees = null;
      this.feed.again();
      this.#notify("own");
      this.#ownChanged();
    });
  }

  /** Whether the current node keeps a history. */
  get hasHistory() {
    return this.cluster.historians.has(this.cluster.current);
  }

  /** @param {string} what */
  #notify(what) {
    this.dispatchEvent(new Event(what));
  }

  /** Read the products, and follow the wanted one, or else the first. @param {string} [wanted] */
  async open(wanted) {
    this.products = (await this.cluster.read("/products")).sort((/** @type {any} */ one, /** @type {any} */ other) => one.id.localeCompare(other.id));
    this.#notify("products");
    const found = this.products.find((product) => product.id === wanted) ?? (await this.#busiest());
    if (found !== undefined) this.follow(found.id);
  }

  /** The product with the most trades among the first ones. */
  async #busiest() {
    const listed = this.products.slice(0, COMPARED_MAX);
    const trades = await Promise.all(listed.map((product) => this.cluster.read(`/products/${encodeURIComponent(product.id)}/ticker`).then((ticker) => ticker.trade_id, () => 0)));
    return listed[Math.max(0, trades.indexOf(Math.max(...trades)))];
  }

  /** @param {string} id of a product */
  follow(id) {
    this.product = this.products.find((product) => product.id === id) ?? null;
    this.trades = [];
    this.auction = this.indication = this.stats = null;
    this.orders = this.fills = [];
    if (!this.intervalChosen) this.interval = 60;
    this.candles = new Candles(this.interval);
    this.#notify("product");
    this.feed.follow(id);
  }

  /** Change the length of the bars. @param {number} seconds */
  async draw(seconds) {
    this.interval = seconds;
    this.intervalChosen = true;
    await this.#loadCandles();
  }

  /** @param {any} book @param {boolean} again */
  #begin(book, again) {
    this.book.load(book);
    if (book.auction) this.auction = book.auction;
    this.#notify("book");
    if (again) announce("Events were missed: the book was read again");
    void this.#loadPast();
  }

  async #loadPast() {
    const { id } = this.product;
    try {
      const rows = await this.cluster.read(`/products/${encodeURIComponent(id)}/trades?limit=1000`);
      if (this.product?.id !== id) return;
      const known = new Set(this.trades.map((trade) => trade.id));
      // The API's side is the maker's.
      const past = rows
        .filter((/** @type {any} */ row) => !known.has(row.trade_id))
        .map((/** @type {any} */ row) => ({ id: row.trade_id, time: Date.parse(row.time) / 1000, price: row.price, size: row.size, side: row.side === "buy" ? "sell" : "buy" }))
        .reverse();
      this.trades = [...past, ...this.trades].sort((one, other) => one.id - other.id).slice(-TRADES_KEPT);
      this.#notify("trades");
      await Promise.all([this.#loadCandles(), this.#loadStats()]);
    } catch (error) {
      if (!(error instanceof Refused)) console.debug("the past could not be read", error);
    }
    this.#ownChanged();
  }

  async #loadStats() {
    this.stats = await this.cluster.read(`/products/${encodeURIComponent(this.product.id)}/stats`);
    this.#notify("trades");
  }

  async #loadCandles() {
    const { id } = this.product;
    const seconds = this.interval;
    const candles = new Candles(seconds);
    if (this.hasHistory && KEPT_INTERVALS.has(seconds)) {
      try {
        candles.load(await this.cluster.read(`/products/${encodeURIComponent(id)}/candles?granularity=${seconds}`));
      } catch (error) {
        if (!(error instanceof Refused)) throw error; // the node changed meanwhile, and the next one keeps no history
      }
    }
    if (this.product.id !== id || this.interval !== seconds) return;
    // Bars of the history may be slightly old, so the last one is computed again from the known trades.
    const last = candles.bars.at(-1)?.time ?? -Infinity;
    const whole = this.trades.length > 0 && this.trades[0].time < last;
    if (whole) candles.bars.pop();
    const from = whole ? last : last + seconds;
    for (const trade of this.trades) {
      if (trade.time >= from) candles.add({ time: trade.time, price: Number(trade.price), size: Number(trade.size) });
    }
    if (!this.intervalChosen && seconds === 60 && candles.bars.length < BARS_FEW && this.trades.length > 0) {
      this.interval = YOUNG_INTERVAL;
      await this.#loadCandles();
      return;
    }
    this.candles = candles;
    this.#notify("candles");
  }

  /** @param {any} event the next one of `full` */
  #event(event) {
    this.book.apply(event);
    if (event.type === "match" || event.type === "auction_match") this.#trade(event);
    if (event.type === "auction_imbalance") this.#indicated(event);
    if (event.type === "status_change") this.#statusChanged(event);
    if (event.user_id !== undefined || event.taker_user_id !== undefined || event.maker_user_id !== undefined) this.#own(event);
    this.#notify("book");
  }

  /** @param {any} event */
  #trade(event) {
    const side = event.side === "buy" ? "sell" : "buy";
    const trade = { id: event.trade_id, time: Date.parse(event.time) / 1000, price: event.price, size: event.size, side };
    const last = this.trades.at(-1);
    if (last !== undefined && trade.id <= last.id) return;
    this.trades.push(trade);
    if (this.trades.length > TRADES_KEPT) this.trades.splice(0, this.trades.length - TRADES_KEPT);
    this.candles.add({ time: trade.time, price: Number(trade.price), size: Number(trade.size) });
    this.#notify("trades");
  }

  /** Handle an announcement of an auction's result and end by the calendar or a collar. @param {any} event */
  #indicated(event) {
    this.indication = event;
    if (event.extended) announce(`The auction of ${this.product.id} is extended`);
    this.#notify("auction");
  }

  /** @param {any} event */
  #statusChanged(event) {
    this.indication = null;
    announce(`${this.product.id} is now ${String(event.status).replaceAll("_", " ")}`);
    if (event.open_price !== undefined) this.auction = { ...this.auction, auction_state: "complete", open_price: event.open_price, open_size: event.open_size };
    void this.#readProduct();
  }

  async #readProduct() {
    const { id } = this.product;
    const row = await this.cluster.read(`/products/${encodeURIComponent(id)}`).catch(() => null);
    if (row !== null) this.#products([row]);
  }

  /** @param {any[]} rows */
  #products(rows) {
    let changed = false;
    for (const row of rows) {
      const place = this.products.findIndex((product) => product.id === row.id);
      if (place >= 0 && JSON.stringify(this.products[place]) === JSON.stringify(row)) continue;
      if (place >= 0) this.products[place] = row;
      else this.products.push(row);
      changed = true;
      if (this.product?.id === row.id) this.product = row;
    }
    if (changed) {
      this.#notify("products");
      this.#notify("status");
    }
  }

  /** @param {any} message of a channel without sequences of its own */
  #other(message) {
    if (message.type === "auction" && message.product_id === this.product?.id) {
      this.auction = message;
      this.#notify("auction");
    }
    if (message.type === "status") this.#products(message.products);
    if (message.type === "heartbeat") this.#notify("state");
  }

  // ---------------------------------------------------------------- the account's data

  /** @param {any} event */
  #own(event) {
    if (event.type === "match" || event.type === "auction_match") this.#filled(event);
    this.#ownChanged();
  }

  /** Add a fill from the feed, for nodes without a history. @param {any} event */
  #filled(event) {
    const { account } = this.cluster.keys.holder;
    const maker = event.maker_user_id === account;
    const side = maker ? event.side : event.side === "buy" ? "sell" : "buy";
    const fill = {
      trade_id: event.trade_id,
      order_id: maker ? event.maker_order_id : event.taker_order_id,
      product_id: event.product_id,
      side,
      price: event.price,
      size: event.size,
      fee: maker ? event.maker_fee : event.taker_fee,
      liquidity: maker ? "M" : "T",
      created_at: event.time,
    };
    this.fills = [fill, ...this.fills.filter((one) => one.trade_id !== fill.trade_id)].slice(0, FILLS_KEPT);
    announce(`Filled: ${side} ${event.size} at ${event.price}`);
  }

  /** Read the account's data again soon. One read serves many events. */
  #ownChanged() {
    if (!this.cluster.keys.holder.account || this.ownDue || this.product === null) return;
    this.ownDue = true;
    setTimeout(() => {
      this.ownDue = false;
      void this.readOwn();
    }, OWN_MS);
  }

  /** Read orders, balances, fees and, where they are kept, fills. */
  async readOwn() {
    const { id } = this.product;
    const read = (/** @type {string} */ target) => this.cluster.read(target, { signed: true });
    try {
      const product = encodeURIComponent(id);
      const [orders, balances, fees] = await Promise.all([read(`/orders?product_id=${product}&limit=${ORDERS_SHOWN}`), read("/accounts"), read(`/fees?product_id=${product}`)]);
      if (this.product?.id !== id) return;
      this.orders = orders;
      this.balances = balances;
      this.fees = fees;
      if (this.hasHistory) await this.#readFills(id);
    } catch (error) {
      if (!(error instanceof Refused)) setTimeout(() => this.#ownChanged(), HISTORY_MS);
    }
    this.#notify("own");
  }

  /** @param {string} id */
  async #readFills(id) {
    try {
      const kept = await this.cluster.read(`/fills?product_id=${encodeURIComponent(id)}&limit=100`, { signed: true });
      const known = new Set(kept.map((/** @type {any} */ fill) => fill.trade_id));
      this.fills = [...this.fills.filter((fill) => !known.has(fill.trade_id)), ...kept].slice(0, FILLS_KEPT);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
  }
}

/** The status of a product as a word of the API. @param {any} product @returns {string} */
export function statusOf(product) {
  if (product.status === "offline" || product.trading_disabled) return "offline";
  if (product.auction_mode) return "auction";
  if (product.cancel_only) return "cancel_only";
  if (product.post_only) return "post_only";
  if (product.limit_only) return "limit_only";
  return product.status;
}
