/**
 * The roles of the nodes over time, as far as the page has seen them.
 */

/** @typedef {{from: number, until: number, role: string, term: number}} Span times in milliseconds */
/** @typedef {{at: number, leader: string, term: number, before: string}} Change */

export const KEPT_MS = 10 * 60 * 1000;
const CHANGES_KEPT = 50;

export class Timeline {
  constructor() {
    /** @type {Map<string, Span[]>} by node */
    this.spans = new Map();
    /** @type {Change[]} the latest last */
    this.changes = [];
    this.leader = "";
    this.term = 0;
  }

  /**
   * Record the role of a node, or "unreachable" if it did not answer.
   * @param {string} node
   * @param {string} role
   * @param {number} term
   * @param {number} at
   */
  note(node, role, term, at) {
    const spans = this.spans.get(node) ?? [];
    this.spans.set(node, spans);
    const last = spans.at(-1);
    if (last !== undefined) last.until = at;
    if (last === undefined || last.role !== role || (role === "leader" && last.term !== term)) spans.push({ from: at, until: at, role, term });
    while (spans.length > 0 && spans[0].until < at - KEPT_MS) spans.shift();
    if (role === "leader" && term > this.term) {
      this.changes.push({ at, leader: node, term, before: this.leader });
      if (this.changes.length > CHANGES_KEPT) this.changes.shift();
      this.leader = node;
      this.term = term;
    }
  }
}
