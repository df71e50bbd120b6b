/**
 * The cumulative size up to each price of both sides, drawn by uPlot.
 */

import { approximate } from "../core/decimal.js";
import { el, paced, panel } from "../parts/dom.js";
import { axes, resized, uPlot } from "../parts/plot.js";
import { theme } from "../parts/theme.js";

/** @typedef {import("./state.js").Market} Market */

const PACE_MS = 400;
const LEVELS = 60;
/** The share of a side's levels whose distance from the best price counts as usual, and how many times that distance is drawn. */
const USUAL = 0.8;
const SPAN = 1.5;
/** The share of the width by which the outermost sums are extended, so that their steps are visible. */
const MARGIN = 0.03;

/** @param {Market} market @returns {HTMLElement} */
export function depth(market) {
  const place = el("div", { class: "plot", role: "img", "aria-label": "Depth of the book" });
  /** @type {any} */
  let plot = null;
  const make = () => {
    plot?.destroy();
    const stepped = uPlot.paths.stepped;
    const series = [
      {},
      { label: "Bids", stroke: theme.colour("buy"), fill: theme.colour("buy-soft"), paths: stepped({ align: -1 }), width: 1.5, points: { show: false } },
      { label: "Asks", stroke: theme.colour("sell"), fill: theme.colour("sell-soft"), paths: stepped({ align: 1 }), width: 1.5, points: { show: false } },
    ];
    const options = { width: 300, height: 160, legend: { show: false }, cursor: { show: false }, scales: { x: { time: false } }, series, axes: axes(["", ""]) };
    plot = new uPlot(options, sides(market), place);
    resized(plot, place);
  };
  const draw = () => {
    if (market.product === null || plot === null) return;
    const data = sides(market);
    plot.setData(data);
    const [bid, ask] = [market.book.buys.best(1)[0], market.book.sells.best(1)[0]];
    if (bid && ask) place.setAttribute("aria-label", `Depth of the book: best bid ${approximate(bid.price)}, best ask ${approximate(ask.price)}, ${market.book.orders.size} orders`);
  };
  market.addEventListener("book", paced(draw, PACE_MS));
  theme.addEventListener("change", make);
  queueMicrotask(make);
  return panel("Depth", "depth-panel", place);
}

/** @typedef {{price: number, sum: number}} Sum */

/**
 * The levels of both sides near the best prices. A single distant order would otherwise compress the rest.
 * @param {Sum[]} bids best first
 * @param {Sum[]} asks best first
 * @returns {[Sum[], Sum[]]}
 */
function near(bids, asks) {
  const reach = (/** @type {Sum[]} */ side) => (side.length > 0 ? Math.abs(side[Math.floor((side.length - 1) * USUAL)].price - side[0].price) : 0);
  const span = Math.max(reach(bids), reach(asks)) * SPAN;
  const close = (/** @type {Sum[]} */ side) => side.filter((level) => span === 0 || Math.abs(level.price - side[0].price) <= span);
  return [close(bids), close(asks)];
}

/** Prices in order, and the sums of both sides up to each. @param {Market} market @returns {(number | null)[][]} */
function sides(market) {
  const sums = (/** @type {import("../core/book.js").Level[]} */ levels) => {
    let sum = 0n;
    return levels.map((level) => {
      sum += level.size;
      return { price: approximate(level.price), sum: approximate(sum) };
    });
  };
  const [bids, asks] = near(sums(market.book.buys.best(LEVELS)), sums(market.book.sells.best(LEVELS)));
  bids.reverse();
  const [low, high] = [bids[0], asks.at(-1)];
  const margin = low && high ? (high.price - low.price) * MARGIN : 0;
  if (low && margin > 0) bids.unshift({ ...low, price: low.price - margin });
  if (high && margin > 0) asks.push({ ...high, price: high.price + margin });
  const none = (/** @type {any[]} */ rows) => rows.map(() => null);
  return [[...bids, ...asks].map((row) => row.price), [...bids.map((row) => row.sum), ...none(asks)], [...none(bids), ...asks.map((row) => row.sum)]];
}
