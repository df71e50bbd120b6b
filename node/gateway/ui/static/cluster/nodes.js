/**
 * One card for each node: its role, its progress, whether its state equals that of the others, and the latency of its disk.
 */

import { el, fill, panel } from "../parts/dom.js";
import { count, duration, label } from "../parts/format.js";

/** @typedef {import("./state.js").ClusterState} ClusterState */
/** @typedef {import("../net/statuses.js").Seen} Seen */

/** @param {ClusterState} state @returns {HTMLElement} */
export function nodes(state) {
  const place = el("div", { class: "nodes" });
  const draw = () => {
    const all = state.statuses.all;
    fill(place, all.map((seen) => card(seen, all, state)));
  };
  state.addEventListener("change", draw);
  state.addEventListener("measured", draw);
  draw();
  return panel("Nodes", "nodes-panel", place);
}

/** @param {Seen} seen @param {Seen[]} all @param {ClusterState} state */
function card(seen, all, state) {
  const node = seen.status?.node;
  const role = node?.role ?? (seen.status ? "starting" : "unreachable");
  const head = el("h3", {}, el("span", { class: "node-name" }, seen.id || seen.url), el("span", { class: `pill ${role}` }, label(role)));
  if (node === undefined) {
    const words = seen.status ? `The engine does not answer. Mode: ${seen.status.mode || "not running"}.` : `${label(seen.error)}.`;
    const link = el("a", { href: `${seen.url}/status`, target: "_blank", rel: "noopener noreferrer" }, "Open its status");
    const why = seen.url.startsWith("https") ? el("p", { class: "hint" }, "If the node runs, the browser may not trust its certificate: trust the cluster's ca.pem. ", link) : null;
    return el("article", { class: `node ${role}`, "data-node": seen.id, "data-role": role }, head, el("p", { class: "hint" }, words), why);
  }
  const [equal, equalWords] = agreement(seen, all);
  const facts = [
    ["Term", count(node.term)],
    ["Applied", count(node.applied_index)],
    ["Lag", lag(node, all)],
    ["Sequence", count(node.sequence)],
    ["State hash", el("span", { class: `check-${equal}` }, equalWords)],
    ["fsync p50 / p99", quantiles(state, seen, "fsync")],
    ["Commit p50 / p99", node.role === "leader" ? quantiles(state, seen, "commit") : "–"],
    ["Last snapshot", snapshot(node, seen, state)],
    ["Log kept", `${count(node.last_log_index - node.first_log_index + 1)} entries`],
    ["Version", seen.status.software],
    ["Schema", el("span", { title: seen.status.abi }, String(seen.status.abi).slice(0, 12))],
    ["Disk free", free(seen, state)],
    ["Up for", duration(node.uptime)],
  ];
  const troubles = [
    ...(node.quorum ? [] : ["No majority is reachable."]),
    ...(node.ready ? [] : ["It has not caught up."]),
    ...(node.voter ? [] : ["It has no vote."]),
    ...(node.warnings ?? []),
  ];
  return el(
    "article",
    { class: `node ${role}`, "data-node": seen.id, "data-role": role },
    head,
    el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    troubles.map((words) => el("p", { class: "trouble" }, words)),
  );
}

/** @param {any} node @param {Seen} seen @param {ClusterState} state */
function snapshot(node, seen, state) {
  if (!node.snapshot_index) return "none yet";
  const taken = state.value(seen, "quorumbook_snapshot_timestamp_seconds");
  const age = taken ? `, ${duration(Math.max(0, Date.now() / 1000 - taken))} ago` : "";
  return `at ${count(node.snapshot_index)}${age}`;
}

/** @param {Seen} seen @param {ClusterState} state */
function free(seen, state) {
  const bytes = state.value(seen, "quorumbook_disk_free_bytes");
  return bytes === null ? "–" : `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

/** Log entries that the node is behind the furthest one. @param {any} node @param {Seen[]} all */
function lag(node, all) {
  const furthest = Math.max(...all.map((seen) => seen.status?.node?.applied_index ?? 0));
  const behind = furthest - node.applied_index;
  return behind <= 0 ? "none" : `${count(behind)} ${behind === 1 ? "entry" : "entries"}`;
}

/**
 * Whether the node's state equals that of the others. Only hashes at the same sequence are compared.
 * @param {Seen} seen
 * @param {Seen[]} all
 * @returns {["yes" | "no" | "unknown", string]}
 */
function agreement(seen, all) {
  const { node } = seen.status;
  if (!node.state_hash) {
    const found = node.counters?.state_digests_differing;
    return found ? ["no", "differs"] : ["unknown", "shown to an operator"];
  }
  if ((node.counters?.state_digests_differing ?? 0) > 0) return ["no", "differed from a majority"];
  const same = all.filter((other) => other.url !== seen.url && other.status?.node?.sequence === node.sequence && other.status.node.state_hash);
  if (same.some((other) => other.status.node.state_hash !== node.state_hash)) return ["no", "differs"];
  const compared = node.counters?.state_digests_compared ?? 0;
  const short = node.state_hash.slice(0, 8);
  if (same.length > 0) return ["yes", `equal (${short})`];
  return compared > 0 ? ["yes", `equal at ${count(compared)} comparisons`] : ["unknown", `${short}, moving`];
}

/** @param {ClusterState} state @param {Seen} seen @param {string} what */
function quantiles(state, seen, what) {
  const found = state.quantiles.get(seen.url)?.[what];
  return found ? `${duration(found.p50)} / ${duration(found.p99)}` : "–";
}
