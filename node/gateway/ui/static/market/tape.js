/**
 * Time and sales: the latest trades.
 */

import { digits, grouped, text, units } from "../core/decimal.js";
import { el, fill, paced, panel, say, table } from "../parts/dom.js";
import { timeOfDay } from "../parts/format.js";

/** @typedef {import("./state.js").Market} Market */

const PACE_MS = 150;
const SHOWN = 50;

/** @param {Market} market @returns {HTMLElement} */
export function tape(market) {
  const { table: made, body } = table("Latest trades, newest first", [{ label: "Time" }, { label: "Side" }, { label: "Price", kind: "number" }, { label: "Size", kind: "number" }]);
  const rows = Array.from({ length: SHOWN }, () => {
    const cells = [el("td"), el("td"), el("td", { class: "number" }), el("td", { class: "number" })];
    return { row: el("tr", { hidden: true }, cells), cells };
  });
  fill(body, rows.map((one) => one.row));
  const draw = () => {
    if (market.product === null) return;
    const [tick, lot] = [digits(market.product.quote_increment), digits(market.product.base_increment)];
    const { trades } = market;
    rows.forEach(({ row, cells }, place) => {
      const trade = trades[trades.length - 1 - place];
      row.hidden = trade === undefined;
      if (trade === undefined) return;
      row.className = trade.side;
      say(cells[0], timeOfDay(trade.time * 1000));
      say(cells[1], trade.side === "buy" ? "Buy" : "Sell");
      say(cells[2], grouped(text(units(trade.price), tick)));
      say(cells[3], text(units(trade.size), lot));
    });
  };
  const soon = paced(draw, PACE_MS);
  market.addEventListener("trades", soon);
  market.addEventListener("product", soon);
  return panel("Trades", "tape-panel", el("div", { class: "scroll tape", tabIndex: 0, role: "region", "aria-label": "Latest trades" }, made));
}
