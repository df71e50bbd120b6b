/**
 * The account's open orders, fills and balances.
 */

import { digits, grouped, text, units } from "../core/decimal.js";
import { Refused } from "../net/cluster.js";
import { ask, field } from "../parts/dialog.js";
import { announce, el, fill, table } from "../parts/dom.js";
import { label, timeOfDay } from "../parts/format.js";
import { failureWords } from "./ticket.js";

/** @typedef {import("./state.js").Market} Market */
/** @typedef {import("../net/contract.js").Contract} Contract */

const NO_KEY = "Enter an API key to see what is yours.";

/** @param {Market} market @param {Contract} contract @returns {HTMLElement} */
export function openOrders(market, contract) {
  const amendCall = contract.first("PUT /orders/{id}", "PATCH /orders/{id}");
  const trouble = el("p", { class: "trouble", role: "alert" });
  const { table: made, body } = table("Open orders", [
    { label: "Time" },
    { label: "Side" },
    { label: "Type" },
    { label: "Price", kind: "number" },
    { label: "Size", kind: "number" },
    { label: "Filled", kind: "number" },
    { label: "Status" },
    { label: "Actions" },
  ]);
  const none = el("p", { class: "none" });
  const all = el("button", { type: "button", class: "button small", onclick: () => void act(() => cancelAll(market)) }, "Cancel all");
  const act = async (/** @type {() => Promise<string>} */ work) => {
    trouble.textContent = "";
    try {
      announce(await work());
    } catch (error) {
      trouble.textContent = failureWords(error);
    }
    await market.readOwn();
  };
  const cancel = (/** @type {any} */ order) => act(() => cancelOrder(market, order));
  const draw = () => {
    const ready = Boolean(market.cluster.keys.holder.account);
    const { orders } = market;
    const focused = document.activeElement?.id;
    fill(body, orders.map((order) => row(order, market, cancel, amendCall ? () => amend(market, order, amendCall) : null)));
    if (focused) document.getElementById(focused)?.focus();
    none.textContent = ready ? "No open orders." : NO_KEY;
    none.hidden = orders.length > 0;
    made.hidden = orders.length === 0;
    all.hidden = orders.length === 0;
  };
  market.addEventListener("own", draw);
  market.addEventListener("product", draw);
  draw();
  return el("div", { class: "own" }, trouble, none, el("div", { class: "scroll" }, made), all);
}

/**
 * Cancel an order. If the first answer is lost with its node, the attempt at the next node finds the order done.
 * @param {Market} market
 * @param {any} order
 * @returns {Promise<string>} the text to show
 */
async function cancelOrder(market, order) {
  try {
    await market.cluster.request("DELETE", `/orders/${order.id}?product_id=${encodeURIComponent(order.product_id)}`, { signed: true });
    return "The order is cancelled";
  } catch (error) {
    if (error instanceof Refused && error.reason === "order_already_done") return "The order was done already";
    throw error;
  }
}

/** Cancel every order of the product. @param {Market} market @returns {Promise<string>} the text to show */
async function cancelAll(market) {
  const { body } = await market.cluster.request("DELETE", `/orders?product_id=${encodeURIComponent(market.product.id)}`, { signed: true });
  return `${body.length} ${body.length === 1 ? "order is" : "orders are"} cancelled`;
}

/** @param {any} order @param {Market} market @param {(order: any) => void} cancel @param {(() => void) | null} change */
function row(order, market, cancel, change) {
  const [tick, lot] = [digits(market.product.quote_increment), digits(market.product.base_increment)];
  const words = `${order.side} ${order.size ?? ""} at ${order.price ?? order.stop_price ?? "the market"}`;
  const type = [order.stop ? `Stop ${order.type} ${order.stop_price}` : label(order.type), ...optionWords(order)].join(", ");
  const actions = [
    change && order.status === "open" ? el("button", { type: "button", class: "button small", id: `amend-${order.id}`, "aria-label": `Amend ${words}`, onclick: change }, "Amend") : null,
    el("button", { type: "button", class: "button small", id: `cancel-${order.id}`, "aria-label": `Cancel ${words}`, onclick: () => cancel(order) }, "Cancel"),
  ];
  return el(
    "tr",
    { class: order.side, "data-order": order.id },
    el("td", {}, timeOfDay(order.created_at)),
    el("td", {}, label(order.side)),
    el("td", {}, `${type} ${order.time_in_force}`),
    el("td", { class: "number" }, order.price ? grouped(text(units(order.price), tick)) : "–"),
    el("td", { class: "number" }, order.size ? text(units(order.size), lot) : `${order.funds ?? order.specified_funds ?? "–"}`),
    el("td", { class: "number" }, text(units(order.filled_size), lot)),
    el("td", {}, label(order.status)),
    el("td", { class: "actions" }, actions.filter((one) => one !== null)),
  );
}

/** The options of an order, beyond its type. @param {any} order @returns {string[]} */
export function optionWords(order) {
  const words = [];
  if (order.post_only) words.push("post only");
  if (order.display_size) words.push(`iceberg, shows ${order.visible_size ?? order.display_size}`);
  if (order.trail) words.push(`trails by ${order.trail}`);
  if (order.take_profit_price) words.push(`takes profit at ${order.take_profit_price}`);
  if (order.stop_loss_price) words.push(`stops the loss at ${order.stop_loss_price}`);
  if (order.linked_order_id) words.push("one of a pair");
  if (order.good_for) words.push(`good for the ${order.good_for}`);
  return words;
}

/** @param {Market} market @param {any} order @param {{method: string, path: string}} call */
function amend(market, order, call) {
  const input = (/** @type {string} */ name) => el("input", { name, type: "text", inputmode: "decimal", autocomplete: "off", value: order[name] ?? "" });
  const hint = "A smaller size keeps the order's place in the queue. Another price or a larger size loses it. The size counts what has traded already.";
  ask({
    title: `Amend: ${order.side} ${order.size} ${market.product.base_currency} at ${grouped(order.price)}`,
    body: [el("p", { class: "hint" }, hint), field(`Price (${market.product.quote_currency})`, input("price")), field(`Size (${market.product.base_currency})`, input("size"))],
    action: "Amend the order",
    done: async (form) => {
      /** @type {Record<string, string>} */
      const body = {};
      for (const name of ["price", "size"]) {
        const { value } = /** @type {HTMLInputElement} */ (form.elements.namedItem(name));
        if (value.trim() !== "" && value.trim() !== order[name]) body[name] = value.trim();
      }
      if (Object.keys(body).length === 0) throw new Error("Nothing is changed.");
      await market.cluster.request(call.method, call.path.replace("{id}", order.id), { body, signed: true });
      announce("The order is amended");
      await market.readOwn();
    },
  });
}

/** @param {Market} market @returns {HTMLElement} */
export function fills(market) {
  const { table: made, body } = table("Fills", [
    { label: "Time" },
    { label: "Side" },
    { label: "Price", kind: "number" },
    { label: "Size", kind: "number" },
    { label: "Fee", kind: "number" },
    { label: "Role" },
    { label: "Trade", kind: "number" },
  ]);
  const none = el("p", { class: "none" });
  const draw = () => {
    fill(
      body,
      market.fills.map((one) =>
        el(
          "tr",
          { class: one.side },
          el("td", {}, timeOfDay(one.created_at)),
          el("td", {}, label(one.side)),
          el("td", { class: "number" }, grouped(one.price)),
          el("td", { class: "number" }, one.size),
          el("td", { class: "number" }, one.fee ?? "–"),
          el("td", {}, one.liquidity === "M" ? "Maker" : "Taker"),
          el("td", { class: "number" }, one.trade_id),
        ),
      ),
    );
    const kept = market.hasHistory ? "No fills." : "No fills since the page was opened: this node keeps no history.";
    none.textContent = market.cluster.keys.holder.account ? kept : NO_KEY;
    none.hidden = market.fills.length > 0;
    made.hidden = market.fills.length === 0;
  };
  market.addEventListener("own", draw);
  draw();
  return el("div", { class: "own" }, none, el("div", { class: "scroll" }, made));
}

/** @param {Market} market @returns {HTMLElement} */
export function balances(market) {
  const { table: made, body } = table("Balances", [{ label: "Currency" }, { label: "Available", kind: "number" }, { label: "On hold", kind: "number" }, { label: "Balance", kind: "number" }]);
  const none = el("p", { class: "none" });
  const draw = () => {
    fill(
      body,
      market.balances.map((one) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, one.currency),
          ...[one.available, one.hold, one.balance].map((value) => el("td", { class: "number" }, grouped(text(units(value))))),
        ),
      ),
    );
    none.textContent = market.cluster.keys.holder.account ? "No balances." : NO_KEY;
    none.hidden = market.balances.length > 0;
    made.hidden = market.balances.length === 0;
  };
  market.addEventListener("own", draw);
  draw();
  return el("div", { class: "own" }, none, el("div", { class: "scroll" }, made));
}
