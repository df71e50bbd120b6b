/**
 * The auction of a product while it collects orders, and its opening price and size.
 */

import { digits, grouped, text, units } from "../core/decimal.js";
import { el, fill, panel } from "../parts/dom.js";
import { timeOfDay } from "../parts/format.js";
import { statusOf } from "./state.js";

/** @typedef {import("./state.js").Market} Market */

/** @param {Market} market @returns {HTMLElement} */
export function auction(market) {
  const list = el("dl", { class: "facts" });
  const words = el("p", { class: "hint" });
  const element = panel("Auction", "auction-panel", words, list);
  element.hidden = true;
  const draw = () => {
    const { product } = market;
    const found = market.auction ?? {};
    element.hidden = product === null || (market.auction === null && market.indication === null);
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
    if (collects && found.imbalance_side !== undefined) rows.push(["Imbalance", imbalance(found, size, product.base_currency)]);
    if (collects && market.indication?.until) rows.push(["Ends", ending(market.indication)]);
    fill(list, rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  };
  for (const event of ["auction", "status", "product", "book"]) market.addEventListener(event, draw);
  return element;
}

/** @param {any} found @param {(value: string) => string} size @param {string} base @returns {string} */
function imbalance(found, size, base) {
  return found.imbalance_side === "none" ? "None" : `${size(found.imbalance_size)} ${base} more to ${found.imbalance_side}`;
}

/** When a calendar or a collar ends the auction. @param {any} event @returns {string} */
function ending(event) {
  return `${timeOfDay(event.until)}${event.extended ? ", extended" : ""}, or a random moment later`;
}
