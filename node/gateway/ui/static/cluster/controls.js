/**
 * The operator's settings and their effects: switches, price collars, limits, interruptions, corrections. For an operator's key only.
 */

import { el, fill, panel, table } from "../parts/dom.js";
import { Refused } from "../net/cluster.js";
import { label, timeOfDay } from "../parts/format.js";

/** @typedef {import("../market/state.js").Market} Market */
/** @typedef {{what: string, of: string, words: string}} Line */

const EVERY_MS = 3_000;
const SHOWN = 100;
const SCOPES = ["", "venue", "firm", "account", "product", "group"];
const SWITCHES = [
  [4, "kill switch"],
  [1, "no buy orders"],
  [2, "no sell orders"],
];
const ACTIONS = ["", "rejects the order", "calls an auction", "halts, then calls an auction"];

/** @param {Market} market @returns {HTMLElement} */
export function controls(market) {
  const { table: made, body } = table("Controls that are set", [{ label: "Control" }, { label: "Of" }, { label: "What it does" }]);
  const none = el("p", { class: "none" }, "Nothing is switched off, and no limits are set.");
  const more = el("p", { class: "hint" });
  const element = panel("Controls", "controls-panel", none, el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Controls that are set" }, made), more);
  const read = async () => {
    const { operator } = market.cluster.keys.holder;
    element.hidden = !operator;
    if (!operator || element.offsetParent === null) return;
    try {
      const lines = linesOf(await market.cluster.read("/admin/controls", { signed: true }));
      fill(body, lines.slice(0, SHOWN).map((one) => el("tr", {}, el("td", {}, one.what), el("th", { scope: "row" }, one.of), el("td", {}, one.words))));
      none.hidden = lines.length > 0;
      made.hidden = lines.length === 0;
      more.textContent = lines.length > SHOWN ? `${lines.length - SHOWN} more: quorumbook limits show, risk show, firm show.` : "";
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      element.hidden = true;
    }
  };
  const soon = () => void read().catch(() => undefined);
  market.cluster.keys.addEventListener("change", soon);
  market.addEventListener("status", soon);
  setInterval(soon, EVERY_MS);
  element.hidden = true;
  soon();
  return element;
}

/** @param {any} row with a scope and a name @returns {string} */
function scopeWords(row) {
  const scope = SCOPES[row.scope] ?? String(row.scope);
  return scope === "venue" ? "The whole venue" : `${label(scope)} ${row.name}`;
}

/** Parts of a million as a percentage. @param {number} ppm @returns {string} */
function percent(ppm) {
  return `${Number((ppm / 10_000).toFixed(4))} %`;
}

/**
 * The answer of GET /admin/controls as text. Kinds that are newer than this page are left out.
 * @param {any} found
 * @returns {Line[]}
 */
export function linesOf(found) {
  /** @type {Line[]} */
  const lines = [];
  for (const row of found.switch ?? []) {
    const off = SWITCHES.filter(([bit]) => row.switches & Number(bit)).map(([, words]) => words);
    const note = row.note ? ` (${row.note})` : "";
    lines.push({ what: "Switch", of: scopeWords(row), words: `${off.join(", ")}${row.cancelling ? ", still cancelling" : ""}${note}` });
  }
  for (const row of found.interruption ?? []) {
    const until = row.ends_at ? ` until ${timeOfDay(row.ends_at / 1e6)}` : "";
    lines.push({ what: "Interruption", of: row.product_id, words: `${row.limit_side ? "limit state" : row.halted ? "halted" : "in an auction"}${until}${row.extensions ? `, extended ${row.extensions} times` : ""}` });
  }
  for (const row of found.product_limits ?? []) {
    const words = [
      row.dynamic_ppm ? `at most ${percent(row.dynamic_ppm)} from the last trade` : "",
      row.static_ppm ? `at most ${percent(row.static_ppm)} from the last auction` : "",
      row.dynamic_ppm || row.static_ppm ? `else it ${ACTIONS[row.action] ?? "acts"}` : "",
      row.distance_ppm ? `orders at most ${percent(row.distance_ppm)} from the market` : "",
      row.order_size_max ? "a largest size of orders" : "",
      row.order_notional_max ? "a largest value of orders" : "",
    ].filter(Boolean);
    if (words.length > 0) lines.push({ what: "Collar and limits", of: row.product_id, words: words.join("; ") });
  }
  for (const row of found.risk ?? []) {
    const words = [
      row.orders_max ? `${row.orders_max} open orders` : "",
      row.rate_max ? `${row.rate_max} orders a second` : "",
      row.open_max ? `${row.currency} held by open orders` : "",
      row.volume_max ? `${row.currency} traded a day` : "",
      row.position_max ? `${row.currency} owned` : "",
    ].filter(Boolean);
    if (words.length > 0) lines.push({ what: "Risk limit", of: scopeWords(row), words: `At most: ${words.join("; ")}` });
  }
  for (const row of found.correction ?? []) {
    lines.push({ what: row.new_price ? "Corrected trade" : "Busted trade", of: `${row.product_id} ${row.trade_id}`, words: row.note || "" });
  }
  return lines;
}
