/**
 * The roles of the last minutes as one line for each node, and every change of the leader as text.
 */

import { KEPT_MS } from "../core/timeline.js";
import { el, fill, panel, svg } from "../parts/dom.js";
import { count, timeOfDay } from "../parts/format.js";

/** @typedef {import("./state.js").ClusterState} ClusterState */

/** Pixels where the place has no width yet: it is hidden. */
const WIDTH = 1_000;
const ROW = 24;
const LEFT = 40;
const SHORTEST_MS = 60_000;

/** @param {ClusterState} state @returns {HTMLElement} */
export function timeline(state) {
  const place = el("div", { class: "timeline" });
  const changes = el("ul", { class: "changes", "aria-label": "Changes of leader, the latest first" });
  const none = el("p", { class: "none" }, "No change of leader since the page was opened.");
  const draw = () => {
    const { timeline: lines } = state;
    if (place.isConnected) place.replaceChildren(drawing(lines, place.clientWidth || WIDTH));
    const seen = lines.changes.filter((change) => change.before !== "");
    none.hidden = seen.length > 0;
    fill(
      changes,
      [...seen].reverse().map((change) => el("li", {}, `${timeOfDay(change.at)}: ${change.leader} leads in term ${count(change.term)}, after ${change.before}`)),
    );
  };
  state.addEventListener("change", draw);
  draw();
  const legend = el(
    "p",
    { class: "legend" },
    ["leader", "follower", "candidate", "unreachable"].map((role) => el("span", { class: `key ${role}` }, role)),
  );
  return panel("Leadership", "timeline-panel", place, legend, none, changes);
}

/** @param {import("../core/timeline.js").Timeline} lines @param {number} width in pixels */
function drawing(lines, width) {
  const names = [...lines.spans.keys()].sort();
  const all = [...lines.spans.values()].flat();
  const until = Math.max(0, ...all.map((span) => span.until));
  const from = Math.max(until - KEPT_MS, Math.min(until - SHORTEST_MS, ...all.map((span) => span.from)));
  const at = (/** @type {number} */ moment) => LEFT + ((Math.max(moment, from) - from) / Math.max(1, until - from)) * (width - LEFT);
  const height = Math.max(1, names.length) * ROW + 18;
  const words = lines.leader ? `${lines.leader} leads in term ${lines.term}` : "No leader is known";
  const made = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Roles of the nodes over time. ${words}.` });
  names.forEach((name, row) => {
    const y = row * ROW + 4;
    const title = svg("text", { x: 0, y: y + 13, class: "name" });
    title.textContent = name;
    made.append(title);
    for (const span of lines.spans.get(name) ?? []) {
      if (span.until < from) continue;
      const length = Math.max(2, at(span.until) - at(span.from));
      made.append(svg("rect", { x: at(span.from), y, width: length, height: ROW - 8, rx: 2, class: `span ${span.role}` }));
    }
  });
  for (const [moment, anchor] of /** @type {[number, string][]} */ ([[from, "start"], [until, "end"]])) {
    const label = svg("text", { x: at(moment), y: height - 2, class: "moment", "text-anchor": anchor });
    label.textContent = until > 0 ? timeOfDay(moment) : "";
    made.append(label);
  }
  return made;
}
