/**
 * The common settings of all uPlot charts.
 */

import UPlot from "../vendor/uplot-1.6.32/uPlot.js";
import { timeOfDay } from "./format.js";
import { theme } from "./theme.js";

/** The library; it comes without types. @type {any} */
export const uPlot = UPlot;

/**
 * A horizontal and a vertical axis in the colours of the page.
 * @param {string[]} words what is counted on the vertical one, and the unit
 * @param {(value: number) => string} [format] of the vertical one's values
 * @param {boolean} [timed] whether the horizontal one is the time
 * @returns {any[]}
 */
export function axes([name, unit], format, timed = false) {
  const base = {
    stroke: theme.colour("text-soft"),
    grid: { stroke: theme.colour("line-soft"), width: 1 },
    ticks: { show: false },
    font: `11px ${theme.font}`,
  };
  const shown = format ?? ((/** @type {number} */ value) => (value >= 1000 ? `${value / 1000}k` : String(value)) + (unit ? ` ${unit}` : ""));
  return [
    { ...base, size: 28, space: timed ? 90 : 70, values: timed ? moments : undefined },
    { ...base, side: 1, size: 64, label: name || undefined, values: (/** @type {any} */ _plot, /** @type {number[]} */ values) => values.map((value) => (value === null ? "" : shown(value))) },
  ];
}

/** @param {any} _plot @param {number[]} values in seconds */
function moments(_plot, values) {
  return values.map((value) => timeOfDay(value * 1000));
}

/** Keep a chart as large as its container. @param {any} plot @param {HTMLElement} place */
export function resized(plot, place) {
  const fit = () => {
    const { width, height } = place.getBoundingClientRect();
    if (width > 0 && height > 0 && plot.root.isConnected) plot.setSize({ width: Math.floor(width), height: Math.floor(height) });
  };
  const watcher = new ResizeObserver(fit);
  watcher.observe(place);
  plot.hooks.destroy = [() => watcher.disconnect()];
  fit();
}
