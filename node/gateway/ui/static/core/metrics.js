/**
 * The Prometheus text of GET /metrics, and quantiles of its histograms.
 */

/** @typedef {{name: string, labels: Record<string, string>, value: number}} Sample */

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;
const LINES_MAX = 20_000;

/**
 * Parse the samples of a text. Comments are skipped.
 * @param {string} body
 * @returns {Sample[]}
 */
export function parse(body) {
  const found = [];
  for (const line of body.split("\n", LINES_MAX)) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (match === null) continue;
    /** @type {Record<string, string>} */
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels[name] = value;
    found.push({ name: match[1], labels, value: Number(match[3].replace("Inf", "Infinity")) });
  }
  return found;
}

/**
 * The sum of all samples of a name with any labels, or null if there is none.
 * @param {Sample[]} samples
 * @param {string} name
 * @param {Record<string, string>} [labels] that they must have
 * @returns {number | null}
 */
export function total(samples, name, labels = {}) {
  let sum = null;
  for (const sample of samples) {
    if (sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value)) sum = (sum ?? 0) + sample.value;
  }
  return sum;
}

/**
 * A histogram: the number of samples up to each upper bound, summed over all label sets.
 * @param {Sample[]} samples
 * @param {string} name without `_bucket`
 * @param {(labels: Record<string, string>) => boolean} [counts] which label sets count
 * @returns {Map<number, number>}
 */
export function histogram(samples, name, counts = () => true) {
  const buckets = new Map();
  for (const sample of samples) {
    if (sample.name !== `${name}_bucket` || !counts(sample.labels)) continue;
    const bound = Number((sample.labels.le ?? "").replace("+Inf", "Infinity"));
    buckets.set(bound, (buckets.get(bound) ?? 0) + sample.value);
  }
  return buckets;
}

/**
 * A quantile of the samples that a histogram got between two reads, interpolated within the bucket as in Prometheus.
 * @param {Map<number, number>} before
 * @param {Map<number, number>} after
 * @param {number} share from 0 to 1
 * @returns {number | null} null where nothing came
 */
export function quantile(before, after, share) {
  const bounds = [...after.keys()].sort((one, other) => one - other);
  const counts = bounds.map((bound) => Math.max(0, (after.get(bound) ?? 0) - (before.get(bound) ?? 0)));
  const all = counts.at(-1) ?? 0;
  if (all <= 0) return null;
  const rank = share * all;
  const place = counts.findIndex((count) => count >= rank);
  const bound = bounds[place];
  const low = place > 0 ? bounds[place - 1] : 0;
  if (!Number.isFinite(bound)) return low;
  const below = place > 0 ? counts[place - 1] : 0;
  const inside = counts[place] - below;
  return inside > 0 ? low + ((bound - low) * (rank - below)) / inside : bound;
}
