/**
 * The auction of a product while it collects orders, and what it opened with.
 */

import { digits, grouped, text, units } from "../core/decimal.js";
import { el, fill, panel } from "../parts/dom.js";
import { label } from "../parts/format.js";
import { statusOf } from "./state.js";

/** @typedef {import("./state.js").Market} Market */

/** @param {Market} market @returns {HTMLElement} */
export function auction(market) {
  const list = el("dl", { class: "facts" });
  const words = el("p", { class: "hint" });
  const element = panel("Auction", "auction-panel", words, list);
  element.hidden = true;
  const draw = () => {
    const { auction: found, product } = market;
    element.hidden = found === null || product === null;
    if (element.hidden) return;
    const collects = statusOf(product) === "auction";
    element.dataset.state = collects ? "collection" : "complete";
    words.textContent = collects
      ? found.can_open === "no"
        ? "Orders are collected. Nothing would trade if it opened now."
        : "Orders are collected. If it opened now, this would trade:"
      : "The auction opened with:";
    const [tick, lot] = [digits(product.quote_increment), digits(product.base_increment)];
    const price = (/** @type {string} */ value) => grouped(text(units(value), tick));
    const size = (/** @type {string} */ value) => text(units(value), lot);
    const rows = [[collects ? "Indicative price" : "Opening price", price(found.open_price ?? "0")], [collects ? "Indicative size" : "Traded", size(found.open_size ?? "0")]];
    if (collects && found.best_bid_price !== undefined) {
      rows.push(["Best bid", `${price(found.best_bid_price)} × ${size(found.best_bid_size)}`], ["Best ask", `${price(found.best_ask_price)} × ${size(found.best_ask_size)}`]);
    }
    if (collects) rows.push(...imbalance(found));
    fill(list, rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  };
  for (const event of ["auction", "status", "product", "book"]) market.addEventListener(event, draw);
  return element;
}

/** Every field about an imbalance that the exchange tells. @param {any} found @returns {string[][]} */
function imbalance(found) {
  const names = Object.keys(found).filter((name) => name.includes("imbalance"));
  return names.map((name) => [label(name), String(found[name])]);
}
