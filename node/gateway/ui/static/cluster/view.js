/**
 * The view of the cluster.
 */

import { el } from "../parts/dom.js";
import { access } from "./access.js";
import { controls } from "./controls.js";
import { members } from "./members.js";
import { nodes } from "./nodes.js";
import { operator } from "./operator.js";
import { rates } from "./rates.js";
import { ClusterState } from "./state.js";
import { timeline } from "./timeline.js";

/**
 * @param {import("../net/statuses.js").Statuses} statuses
 * @param {import("../market/state.js").Market} market
 * @param {import("../net/contract.js").Contract} contract
 * @returns {HTMLElement}
 */
export function clusterView(statuses, market, contract) {
  const state = new ClusterState(statuses);
  return el("div", { class: "cluster" }, nodes(state), timeline(state), el("div", { class: "rates" }, rates(state)), members(state), operator(market, contract, statuses), contract.has("GET", "/admin/controls") ? controls(market) : null, contract.has("GET", "/admin/proposals") ? access(market) : null);
}
