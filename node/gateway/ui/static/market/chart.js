/**
 * Candles with volume, drawn by lightweight-charts. Its licence requires a link to TradingView, which is below the chart.
 */

import { CandlestickSeries, HistogramSeries, createChart, createSeriesMarkers } from "../vendor/lightweight-charts-5.2.1/lightweight-charts.mjs";
import { digits } from "../core/decimal.js";
import { el, paced, panel } from "../parts/dom.js";
import { theme } from "../parts/theme.js";
import { INTERVALS } from "./state.js";

/** @typedef {import("./state.js").Market} Market */

const WORDS = new Map([
  [1, "1s"],
  [5, "5s"],
  [60, "1m"],
  [300, "5m"],
  [900, "15m"],
  [3600, "1h"],
  [21600, "6h"],
  [86400, "1d"],
]);
const PACE_MS = 200;
const BARS_SHOWN = 90;
const BARS_LEAST = 36;

/** @param {Market} market @returns {HTMLElement} */
export function chart(market) {
  const place = el("div", { class: "chart", role: "img", "aria-label": "Candles with volume" });
  const drawn = createChart(place, { autoSize: true, layout: { attributionLogo: false }, rightPriceScale: { borderVisible: false } });
  const candles = drawn.addSeries(CandlestickSeries, {});
  const volume = drawn.addSeries(HistogramSeries, { priceScaleId: "volume", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false });
  drawn.priceScale("volume").applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
  candles.priceScale().applyOptions({ scaleMargins: { top: 0.08, bottom: 0.24 } });
  const markers = createSeriesMarkers(candles, []);

  const colours = () => {
    const colour = (/** @type {string} */ name) => theme.colour(name);
    const [rise, fall] = [colour("buy"), colour("sell")];
    drawn.applyOptions({
      layout: { background: { color: colour("surface") }, textColor: colour("text-soft"), fontFamily: theme.font, fontSize: 11 },
      grid: { vertLines: { color: colour("line-soft") }, horzLines: { color: colour("line-soft") } },
      timeScale: { borderColor: colour("line"), timeVisible: true, secondsVisible: market.interval < 60 },
      crosshair: { vertLine: { color: colour("text-soft") }, horzLine: { color: colour("text-soft") } },
    });
    candles.applyOptions({ upColor: rise, downColor: fall, wickUpColor: rise, wickDownColor: fall, borderVisible: false });
    paint();
  };

  /** The series that was drawn last. It only gets new bars. */
  let shown = { candles: /** @type {any} */ (null), last: 0 };
  const bar = (/** @type {any} */ one) => ({ time: one.time, open: one.open, high: one.high, low: one.low, close: one.close });
  const column = (/** @type {any} */ one) => ({ time: one.time, value: one.volume, color: theme.colour(one.close >= one.open ? "buy-soft" : "sell-soft") });
  const paint = () => {
    const { bars } = market.candles;
    candles.setData(bars.map(bar));
    volume.setData(bars.map(column));
    shown = { candles: market.candles, last: bars.at(-1)?.time ?? 0 };
    mark();
  };
  const fit = () => drawn.timeScale().setVisibleLogicalRange({ from: Math.max(-2, market.candles.bars.length - BARS_SHOWN), to: Math.max(BARS_LEAST, market.candles.bars.length + 4) });
  const extend = () => {
    if (shown.candles !== market.candles) return;
    const fresh = market.candles.bars.filter((one) => one.time >= shown.last);
    for (const one of fresh) {
      candles.update(bar(one));
      volume.update(column(one));
    }
    shown.last = fresh.at(-1)?.time ?? shown.last;
    describe(place, market);
  };

  /** Marks the times at which the feed moved to another node. */
  const mark = () => {
    const { bars, seconds } = market.candles;
    const first = bars[0]?.time ?? Infinity;
    const moves = market.feed.counter.moves.map((move) => ({ ...move, time: Math.floor(move.at / 1000 / seconds) * seconds })).filter((move) => move.time >= first);
    markers.setMarkers(
      moves.map((move) => ({ time: /** @type {any} */ (move.time), position: "aboveBar", shape: "arrowDown", color: theme.colour("accent"), text: `${move.from} → ${move.to}` })),
    );
  };

  market.addEventListener("candles", () => {
    const step = market.product.quote_increment;
    candles.applyOptions({ priceFormat: { type: "price", precision: Math.max(digits(step), 0), minMove: Number(step) } });
    drawn.applyOptions({ timeScale: { secondsVisible: market.interval < 60 } });
    paint();
    fit();
    describe(place, market);
  });
  market.addEventListener("product", paint);
  market.addEventListener("trades", paced(extend, PACE_MS));
  let moves = 0;
  market.addEventListener("state", () => {
    if (market.feed.counter.moves.length !== moves) {
      moves = market.feed.counter.moves.length;
      mark();
    }
  });
  theme.addEventListener("change", colours);
  colours();

  const link = el("a", { href: "https://www.tradingview.com/", target: "_blank", rel: "noopener noreferrer" }, "TradingView");
  const thanks = el("p", { class: "thanks" }, "Charts by ", link, " Lightweight Charts™");
  return panel("Price", "price-panel", intervals(market), place, thanks);
}

/** @param {Market} market @returns {HTMLElement} */
function intervals(market) {
  /** @type {Map<number, HTMLInputElement>} */
  const inputs = new Map();
  market.addEventListener("candles", () => {
    const input = inputs.get(market.interval);
    if (input) input.checked = true;
  });
  const choice = (/** @type {number} */ seconds) => {
    const input = el("input", { type: "radio", name: "interval", value: seconds, checked: seconds === market.interval, onchange: () => void market.draw(seconds) });
    inputs.set(seconds, input);
    return el("label", { class: "segment" }, input, el("span", {}, WORDS.get(seconds)));
  };
  return el("fieldset", { class: "segments intervals" }, el("legend", { class: "unseen" }, "Length of a candle"), INTERVALS.map(choice));
}

/** Say in words what the chart shows. @param {HTMLElement} place @param {Market} market */
function describe(place, market) {
  const { bars } = market.candles;
  const last = bars.at(-1);
  const words = last === undefined ? "No trades yet" : `${bars.length} candles of ${WORDS.get(market.interval)}; last: open ${last.open}, high ${last.high}, low ${last.low}, close ${last.close}`;
  place.setAttribute("aria-label", words);
  place.dataset.bars = String(bars.length);
  place.dataset.last = String(last?.close ?? "");
}
