/**
 * The view of one product.
 */

import { el } from "../parts/dom.js";
import { tabs } from "../parts/tabs.js";
import { auction } from "./auction.js";
import { chart } from "./chart.js";
import { depth } from "./depth.js";
import { ladder } from "./ladder.js";
import { balances, fills, openOrders } from "./orders.js";
import { tape } from "./tape.js";
import { ticket } from "./ticket.js";

/** @typedef {import("./state.js").Market} Market */
/** @typedef {import("../net/contract.js").Contract} Contract */

/** @param {Market} market @param {Contract} contract @returns {HTMLElement} */
export function marketView(market, contract) {
  const form = ticket(market, contract);
  const own = tabs("Your account", [
    ["Open orders", openOrders(market, contract)],
    ["Fills", fills(market)],
    ["Balances", balances(market)],
  ]);
  return el(
    "div",
    { class: "market" },
    el("div", { class: "drawings" }, chart(market), depth(market)),
    ladder(market, form.setPrice),
    tape(market),
    el("div", { class: "trading" }, auction(market), form.element),
    own,
  );
}
