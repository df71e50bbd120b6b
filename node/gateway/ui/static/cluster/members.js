/**
 * The members of the cluster as a node with a majority sees them, and the change under way.
 */

import { el, fill, panel, table } from "../parts/dom.js";
import { count, label } from "../parts/format.js";

/** @typedef {import("./state.js").ClusterState} ClusterState */

/** @param {ClusterState} state @returns {HTMLElement} */
export function members(state) {
  const { table: made, body } = table("Members of the cluster", [
    { label: "Member" },
    { label: "Role" },
    { label: "Connected" },
    { label: "Confirmed log", kind: "number" },
    { label: "Clock", kind: "number" },
    { label: "Address" },
  ]);
  const change = el("p", { class: "hint" });
  const draw = () => {
    const leader = state.statuses.all.find((seen) => seen.status?.node?.role === "leader" && seen.status.node.quorum)?.status;
    const status = leader ?? state.statuses.sound;
    if (status === null) return;
    fill(body, status.members.map((/** @type {any} */ member) => row(member, status)));
    const { members_index: index, change_under_way: under } = status.node;
    change.textContent = under
      ? `A change of the members is under way at log entry ${count(index)}.`
      : index
        ? `The members were changed last at log entry ${count(index)}.`
        : "The members are those that the cluster began with.";
  };
  state.addEventListener("change", draw);
  return panel("Members", "members-panel", el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Members of the cluster" }, made), change);
}

/** @param {any} member @param {any} status */
function row(member, status) {
  const skew = member.clock_skew === null || member.clock_skew === undefined ? "–" : `${(member.clock_skew * 1000).toFixed(1)} ms`;
  const sending = member.snapshot_size > 0 ? `, gets a snapshot: ${Math.floor((100 * member.snapshot_sent) / member.snapshot_size)} %` : "";
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, member.node_id),
    el("td", {}, label(member.role) + sending),
    el("td", {}, member.connected ? "Yes" : "No"),
    el("td", { class: "number" }, status.node.role === "leader" && member.match_index ? count(member.match_index) : "–"),
    el("td", { class: "number" }, skew),
    el("td", {}, member.http),
  );
}
