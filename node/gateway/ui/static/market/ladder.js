/**
 * The best prices of both sides, with the account's own orders highlighted. A click on a price sets the price of the order ticket.
 */

import { digits, grouped, text, units } from "../core/decimal.js";
import { el, fill, paced, panel, say, table } from "../parts/dom.js";

/** @typedef {import("./state.js").Market} Market */
/** @typedef {import("../core/book.js").Level} Level */
/** @typedef {{row: HTMLTableRowElement, own: HTMLElement, price: HTMLElement, size: HTMLElement, sum: HTMLElement, bar: HTMLElement}} Line */

const PACE_MS = 120;
const LEVELS = 12;

/** @param {Market} market @param {(price: string) => void} onPrice @returns {HTMLElement} */
export function ladder(market, onPrice) {
  const { table: made, body } = table("Order book, best prices next to the spread", [
    { label: "Own", kind: "own" },
    { label: "Price", kind: "number" },
    { label: "Size", kind: "number" },
    { label: "Sum", kind: "number" },
  ]);
  const asks = Array.from({ length: LEVELS }, () => line("ask", onPrice));
  const bids = Array.from({ length: LEVELS }, () => line("bid", onPrice));
  const spread = el("td", { colspan: 4 });
  fill(body, [...asks].reverse().map((one) => one.row), el("tr", { class: "spread" }, spread), bids.map((one) => one.row));

  const draw = () => {
    if (market.product === null) return;
    const own = ownSizes(market);
    const [sells, buys] = [market.book.sells.best(LEVELS), market.book.buys.best(LEVELS)];
    const most = greatest(sells, buys);
    show(asks, sells, most, own, market);
    show(bids, buys, most, own, market);
    const gap = sells.length > 0 && buys.length > 0 ? sells[0].price - buys[0].price : null;
    say(spread, gap === null ? "One side is empty" : `Spread ${grouped(text(gap, digits(market.product.quote_increment)))}`);
  };
  const soon = paced(draw, PACE_MS);
  for (const event of ["book", "own", "product"]) market.addEventListener(event, soon);
  return panel("Order book", "ladder-panel", el("div", { class: "scroll ladder" }, made));
}

/** @param {"ask" | "bid"} kind @param {(price: string) => void} onPrice @returns {Line} */
function line(kind, onPrice) {
  const own = el("td", { class: "own" });
  const price = el("button", { type: "button", class: "price", tabIndex: -1, onclick: () => price.dataset.price && onPrice(price.dataset.price) });
  const size = el("td", { class: "number" });
  const bar = el("span", { class: "depth-bar", "aria-hidden": "true" });
  const sum = el("span");
  const row = el("tr", { class: `level ${kind}` }, own, el("td", { class: "number" }, price), size, el("td", { class: "number sum" }, bar, sum));
  return { row, own, price, size, sum, bar };
}

/** @param {Line[]} lines @param {Level[]} levels @param {bigint} most @param {Map<string, bigint>} own @param {Market} market */
function show(lines, levels, most, own, market) {
  const [tick, lot] = [digits(market.product.quote_increment), digits(market.product.base_increment)];
  const side = lines[0].row.classList.contains("bid") ? "buy" : "sell";
  let sum = 0n;
  lines.forEach((one, place) => {
    const level = levels[place];
    one.row.classList.toggle("empty", level === undefined);
    if (level === undefined) {
      for (const cell of [one.own, one.price, one.size, one.sum]) say(cell, "");
      one.price.dataset.price = "";
      one.price.hidden = true;
      one.bar.style.inlineSize = "0";
      return;
    }
    sum += level.size;
    const mine = own.get(`${side}${level.price}`);
    say(one.own, mine === undefined ? "" : "●");
    one.row.title = mine === undefined ? "" : `${text(mine)} of it is yours`;
    one.own.setAttribute("aria-label", mine === undefined ? "" : `${text(mine)} of it is yours`);
    one.row.classList.toggle("mine", mine !== undefined);
    one.price.hidden = false;
    say(one.price, grouped(text(level.price, tick)));
    one.price.dataset.price = text(level.price, tick);
    say(one.size, text(level.size, lot));
    say(one.sum, text(sum, lot));
    one.bar.style.inlineSize = `${Number((sum * 1000n) / (most || 1n)) / 10}%`;
  });
}

/** @param {Level[]} sells @param {Level[]} buys @returns {bigint} */
function greatest(sells, buys) {
  const sum = (/** @type {Level[]} */ levels) => levels.reduce((all, level) => all + level.size, 0n);
  const [one, other] = [sum(sells), sum(buys)];
  return one > other ? one : other;
}

/** The size of the account's open orders at each price. @param {Market} market @returns {Map<string, bigint>} */
export function ownSizes(market) {
  const found = new Map();
  for (const order of market.orders) {
    if (order.status !== "open" || !order.price || !order.size) continue;
    const key = `${order.side}${units(order.price)}`;
    found.set(key, (found.get(key) ?? 0n) + units(order.size) - units(order.filled_size));
  }
  return found;
}
