/**
 * Formats times, durations and rates.
 */

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** @param {number | string | Date} moment @returns {string} the time of day */
export function timeOfDay(moment) {
  return clock.format(new Date(moment));
}

/** @param {number} value @returns {string} with groups of thousands */
export function count(value) {
  return whole.format(value);
}

/** @param {number | null} seconds @returns {string} in the unit that fits */
export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 2 : 1)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** @param {string} words a name of the API @returns {string} as a label */
export function label(words) {
  const plain = words.replaceAll("_", " ");
  return plain.charAt(0).toUpperCase() + plain.slice(1);
}
