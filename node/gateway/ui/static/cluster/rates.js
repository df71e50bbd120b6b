/**
 * Commands a second and latencies over time, drawn by uPlot.
 */

import { el, panel } from "../parts/dom.js";
import { count } from "../parts/format.js";
import { axes, resized, uPlot } from "../parts/plot.js";
import { theme } from "../parts/theme.js";

/** @typedef {import("./state.js").ClusterState} ClusterState */

/** @param {ClusterState} state @returns {HTMLElement[]} */
export function rates(state) {
  const commands = plotted(
    "Commands a second",
    state,
    "change",
    () => state.rates.data,
    () => [line("commands", "accent", true)],
    (value) => count(value),
    (data) => `Commands a second: ${count(data[1].at(-1) ?? 0)} now`,
  );
  const latencies = plotted(
    "Latencies at the leader, p99",
    state,
    "measured",
    () => state.latencies.data,
    () => [line("fsync", "series-1"), line("commit", "series-2"), line("HTTP", "series-3")],
    (value) => `${value} ms`,
    (data) => `Latencies in milliseconds, p99: fsync ${words(data[1])}, propose to commit ${words(data[2])}, HTTP ${words(data[3])}`,
  );
  const legend = el("p", { class: "legend" }, [["series-1", "fsync of the log"], ["series-2", "propose to commit"], ["series-3", "HTTP request"]].map(([kind, name]) => el("span", { class: `key ${kind}` }, name)));
  latencies.append(legend);
  return [commands, latencies];
}

/** @param {(number | null)[]} column */
function words(column) {
  const last = column.at(-1);
  return last === null || last === undefined ? "unknown" : last.toFixed(1);
}

/** @param {string} label @param {string} colour @param {boolean} [filled] */
function line(label, colour, filled = false) {
  return { label, stroke: theme.colour(colour), width: 1.75, points: { show: false }, fill: filled ? theme.colour(`${colour}-soft`) : undefined, spanGaps: true };
}

/**
 * @param {string} title
 * @param {ClusterState} state
 * @param {string} event after which there is more to draw
 * @param {() => any[]} data
 * @param {() => any[]} lines
 * @param {(value: number) => string} format
 * @param {(data: (number | null)[][]) => string} describe
 */
function plotted(title, state, event, data, lines, format, describe) {
  const place = el("div", { class: "plot", role: "img", "aria-label": title });
  /** @type {any} */
  let plot = null;
  const make = () => {
    plot?.destroy();
    const options = {
      width: 300,
      height: 180,
      legend: { show: false },
      cursor: { show: false },
      scales: { y: { range: (/** @type {any} */ _plot, /** @type {number} */ _low, /** @type {number} */ high) => [0, high > 0 ? high * 1.15 : 1] } },
      series: [{}, ...lines()],
      axes: axes(["", ""], format, true),
    };
    plot = new uPlot(options, data(), place);
    resized(plot, place);
  };
  state.addEventListener(event, () => {
    if (plot === null || !place.isConnected) return;
    plot.setData(data());
    place.setAttribute("aria-label", describe(data()));
  });
  theme.addEventListener("change", make);
  queueMicrotask(make);
  return panel(title, "plot-panel", place);
}
