/**
 * The header of the page: product, price, status, the feed's counter, and elements of all views.
 */

import { digits, grouped, text, units } from "../core/decimal.js";
import { el, fill, paced, say } from "./dom.js";
import { count, label } from "./format.js";
import { askForKey } from "./keyform.js";
import { theme } from "./theme.js";
import { statusOf } from "../market/state.js";

/** @typedef {import("../market/state.js").Market} Market */

const PACE_MS = 150;

/** @param {Market} market @param {HTMLElement} views the switch between them @returns {HTMLElement} */
export function header(market, views) {
  const brand = el("p", { class: "brand" }, el("img", { src: "icon.svg", alt: "", width: 22, height: 22 }), "Quorumbook");
  return el("header", { class: "top" }, brand, views, products(market), price(market), counter(market), el("div", { class: "tools" }, keyButton(market), themeButton()));
}

/** @param {Market} market */
function products(market) {
  const select = el("select", { id: "product", "aria-label": "Product", onchange: () => market.follow(select.value) });
  const pill = el("span", { class: "pill", id: "product-status" });
  const draw = () => {
    const listed = [...select.options].map((option) => option.value).join();
    if (listed !== market.products.map((product) => product.id).join()) fill(select, market.products.map((product) => el("option", { value: product.id }, product.id)));
    if (market.product === null) return;
    select.value = market.product.id;
    const status = statusOf(market.product);
    say(pill, label(status));
    pill.className = `pill status-${status}`;
    pill.title = market.product.status_message || `The product is ${label(status).toLowerCase()}`;
  };
  for (const event of ["products", "product", "status"]) market.addEventListener(event, draw);
  return el("div", { class: "product" }, select, pill);
}

/** @param {Market} market */
function price(market) {
  const last = el("strong", { class: "last" }, "–");
  const change = el("span", { class: "change" });
  const volume = el("span", { class: "volume" });
  const draw = () => {
    const trade = market.trades.at(-1);
    if (market.product === null) return;
    const tick = digits(market.product.quote_increment);
    say(last, trade ? grouped(text(units(trade.price), tick)) : "–");
    const open = Number(market.stats?.open ?? 0);
    const percent = trade && open > 0 ? (Number(trade.price) / open - 1) * 100 : null;
    say(change, percent === null ? "" : `${percent >= 0 ? "▲ +" : "▼ "}${percent.toFixed(2)} %`);
    change.className = `change ${percent !== null && percent < 0 ? "sell" : "buy"}`;
    say(volume, market.stats ? `24 h: ${grouped(Number(market.stats.volume).toFixed(2))} ${market.product.base_currency}` : "");
    document.title = trade ? `${last.textContent} ${market.product.id} · Quorumbook` : "Quorumbook";
  };
  const soon = paced(draw, PACE_MS);
  for (const event of ["trades", "product"]) market.addEventListener(event, soon);
  return el("div", { class: "price-now" }, last, change, volume);
}

/** The counter that shows that no event is missing across nodes. @param {Market} market */
function counter(market) {
  const number = el("strong", { id: "sequence", class: "number" }, "–");
  const gaps = el("span", { id: "gaps" });
  const node = el("span", { id: "feed-node" });
  const dot = el("span", { class: "dot", "aria-hidden": "true" });
  const element = el("div", { class: "counter", id: "counter" }, dot, el("div", {}, el("span", {}, "Sequence ", number), el("span", { class: "sub" }, gaps, " · ", node)));
  const draw = () => {
    const { counter: found, state, node: name, trouble } = market.feed;
    say(number, found.last ? count(found.last) : "–");
    say(gaps, found.gaps === 0 ? "no gap" : `${found.gaps} ${found.gaps === 1 ? "gap" : "gaps"}`);
    const moves = found.moves.length;
    say(node, state === "live" ? `from ${name}${moves ? `, moved ${moves}×` : ""}` : trouble ? `looking for a node (${trouble})` : "connecting");
    Object.assign(element.dataset, { state, last: found.last, seen: found.seen, gaps: found.gaps, moves, node: name });
    element.title = found.moves.map((move) => `${move.from} → ${move.to} from sequence ${count(move.sequence)}`).join("\n");
  };
  const soon = paced(draw, PACE_MS);
  for (const event of ["book", "state", "product"]) market.addEventListener(event, soon);
  return element;
}

/** @param {Market} market */
function keyButton(market) {
  const { keys } = market.cluster;
  const button = el("button", { type: "button", class: "button", id: "key", onclick: () => (keys.present ? keys.forget() : askForKey(market.cluster)) });
  const draw = () => {
    const { account, operator } = keys.holder;
    const who = account || (operator ? "operator" : "");
    fill(button, keys.present && who ? `Forget the key of ${who}` : "Use an API key");
  };
  keys.addEventListener("change", draw);
  draw();
  return button;
}

function themeButton() {
  const button = el("button", { type: "button", class: "button icon", id: "theme", onclick: () => theme.next() });
  const draw = () => {
    fill(button, { auto: "◐", light: "☀", dark: "☾" }[theme.chosen]);
    button.setAttribute("aria-label", theme.words);
    button.title = theme.words;
  };
  theme.addEventListener("change", draw);
  draw();
  return button;
}
