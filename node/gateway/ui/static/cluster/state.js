/**
 * The cluster over time, from the statuses of its members: roles, rates and latencies.
 */

import { histogram, quantile, total } from "../core/metrics.js";
import { Series } from "../core/series.js";
import { Timeline } from "../core/timeline.js";

/** @typedef {import("../net/statuses.js").Statuses} Statuses */
/** @typedef {import("../net/statuses.js").Seen} Seen */
/** @typedef {{p50: number | null, p99: number | null}} Quantiles seconds */

const ROWS_KEPT = 300;
/** The minimum time over which a rate is computed, because polls may be irregular. */
const RATE_MS = 800;
/** Histograms of a node, and what they measure. */
export const DURATIONS = /** @type {const} */ ({
  fsync: "quorumbook_fsync_duration_seconds",
  commit: "quorumbook_commit_duration_seconds",
  apply: "quorumbook_apply_duration_seconds",
  http: "quorumbook_http_request_duration_seconds",
});

export class ClusterState extends EventTarget {
  /** @param {Statuses} statuses */
  constructor(statuses) {
    super();
    this.statuses = statuses;
    this.timeline = new Timeline();
    this.rates = new Series(1, ROWS_KEPT);
    this.latencies = new Series(3, ROWS_KEPT);
    /** @type {Map<string, Map<string, Map<number, number>>>} by URL and histogram: the counts of a look before */
    this.before = new Map();
    /** @type {Map<string, Record<string, Quantiles>>} by URL and duration, of the latest look */
    this.quantiles = new Map();
    /** @type {{sequence: number, at: number} | null} */
    this.last = null;
    statuses.addEventListener("change", () => this.#looked());
    statuses.addEventListener("measured", () => this.#measured());
  }

  #looked() {
    const now = Date.now();
    for (const seen of this.statuses.all) {
      if (seen.at === 0) continue;
      const node = seen.status?.node;
      this.timeline.note(seen.id || seen.url, node?.role ?? (seen.status ? "starting" : "unreachable"), node?.term ?? 0, now);
    }
    this.#rate(now);
    this.dispatchEvent(new Event("change"));
  }

  /** Commands a second, by the sequence of the most advanced node. @param {number} now */
  #rate(now) {
    const sequence = Math.max(0, ...this.statuses.all.map((seen) => seen.status?.node?.sequence ?? 0));
    const { last } = this;
    if (sequence === 0 || (last !== null && now - last.at < RATE_MS)) return;
    this.last = { sequence, at: now };
    if (last === null) return;
    this.rates.add(now / 1000, [Math.max(0, (sequence - last.sequence) / ((now - last.at) / 1000))]);
  }

  #measured() {
    for (const seen of this.statuses.all) {
      if (seen.samples === null) continue;
      const before = this.before.get(seen.url) ?? new Map();
      /** @type {Record<string, Quantiles>} */
      const found = {};
      for (const [what, name] of Object.entries(DURATIONS)) {
        const counts = histogram(seen.samples, name, isRequest);
        const old = before.get(name) ?? new Map();
        // A restarted node counts from zero again.
        const base = (old.get(Infinity) ?? 0) > (counts.get(Infinity) ?? 0) ? new Map() : old;
        const latest = { p50: quantile(base, counts, 0.5), p99: quantile(base, counts, 0.99) };
        found[what] = latest.p50 === null ? (this.quantiles.get(seen.url)?.[what] ?? latest) : latest;
        before.set(name, counts);
      }
      this.before.set(seen.url, before);
      this.quantiles.set(seen.url, found);
    }
    const leader = this.statuses.all.find((seen) => seen.status?.node?.role === "leader");
    const of = (/** @type {string} */ what) => milliseconds(leader && this.quantiles.get(leader.url)?.[what]?.p99);
    this.latencies.add(Date.now() / 1000, [of("fsync"), of("commit"), of("http")]);
    this.dispatchEvent(new Event("measured"));
  }

  /** A counter or gauge of a node. @param {Seen} seen @param {string} name */
  value(seen, name) {
    return seen.samples === null ? null : total(seen.samples, name);
  }
}

/** Excludes WebSocket connections, which count as requests with the time for which they were open. @param {Record<string, string>} labels */
function isRequest(labels) {
  return labels.route !== "/" && labels.route !== "/ws";
}

/** @param {number | null | undefined} seconds */
function milliseconds(seconds) {
  return seconds === null || seconds === undefined ? null : seconds * 1000;
}
