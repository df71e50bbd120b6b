/**
 * Polls every member: GET /status always, and GET /metrics while the view of the cluster is shown.
 */

import { parse } from "../core/metrics.js";

/** @typedef {import("./cluster.js").Cluster} Cluster */
/** @typedef {{id: string, url: string, at: number, status: any | null, error: string, samples: import("../core/metrics.js").Sample[] | null}} Seen */

const STATUS_MS = 1_000;
const METRICS_MS = 2_000;
const PATIENCE_MS = 1_500;
/** Polls without an answer after which a member counts as unreachable. A browser under load misses single answers. */
const MISSES_MAX = 2;
/** A member that does not answer is polled only once in this many rounds. */
const LOST_EVERY = 4;

export class Statuses extends EventTarget {
  /** @param {Cluster} cluster */
  constructor(cluster) {
    super();
    this.cluster = cluster;
    /** @type {Map<string, Seen>} by URL */
    this.seen = new Map();
    /** @type {Map<string, number>} */
    this.misses = new Map();
    this.withMetrics = false;
    this.looks = 0;
    setInterval(() => void this.look(), STATUS_MS);
    setInterval(() => this.withMetrics && void this.measure(), METRICS_MS);
    cluster.addEventListener("members", () => void this.look());
  }

  /** All members in the order of their ids. @returns {Seen[]} */
  get all() {
    const listed = this.cluster.members.map((member) => this.seen.get(member.url) ?? { ...member, at: 0, status: null, error: "not asked yet", samples: null });
    return listed.sort((one, other) => one.id.localeCompare(other.id, undefined, { numeric: true }));
  }

  /** The latest status of a member that has a leader and a majority, or null. */
  get sound() {
    return this.all.find((seen) => seen.status?.node?.quorum && seen.status.node.leader_id)?.status ?? null;
  }

  /** Whether the member at a URL answered that it can serve. @param {string} url */
  serves(url) {
    const node = this.seen.get(url)?.status?.node;
    return node === undefined || (node.quorum && node.ready);
  }

  /** Poll every member once. */
  async look() {
    this.looks += 1;
    const lost = (/** @type {string} */ url) => (this.misses.get(url) ?? 0) >= MISSES_MAX && this.looks % LOST_EVERY !== 0;
    await Promise.all(this.cluster.members.filter((member) => !lost(member.url)).map((member) => this.#ask(member)));
    this.dispatchEvent(new Event("change"));
  }

  /** @param {{id: string, url: string}} member */
  async #ask(member) {
    const before = this.seen.get(member.url);
    const signed = this.cluster.keys.holder.operator;
    try {
      const headers = signed ? await this.cluster.keys.headers("GET", "/status", "", this.cluster.now().toFixed(6)) : {};
      const response = await fetch(`${member.url}/status`, { headers, signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store", credentials: "omit" });
      const status = await response.json();
      if (!response.ok) throw new Error(status.message);
      this.misses.set(member.url, 0);
      this.seen.set(member.url, { id: status.node_id, url: member.url, at: Date.now(), status, error: "", samples: before?.samples ?? null });
      if (status.history === undefined) this.cluster.historians.delete(member.url);
      else this.cluster.historians.add(member.url);
      if (status.members?.length) this.cluster.learn(member.url, status.node_id, status.members);
    } catch (error) {
      const misses = (this.misses.get(member.url) ?? 0) + 1;
      this.misses.set(member.url, misses);
      if (misses < MISSES_MAX) return;
      const text = error instanceof DOMException ? "no answer in time" : "not reachable";
      this.seen.set(member.url, { ...member, at: Date.now(), status: null, error: text, samples: null });
    }
  }

  /** Read the metrics of every member that answers. */
  async measure() {
    await Promise.all(
      this.all.map(async (seen) => {
        if (seen.status === null) return;
        try {
          const response = await fetch(`${seen.url}/metrics`, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store", credentials: "omit" });
          const kept = this.seen.get(seen.url);
          if (response.ok && kept) kept.samples = parse(await response.text());
        } catch {
          // Its status shows the reason.
        }
      }),
    );
    this.dispatchEvent(new Event("measured"));
  }
}
