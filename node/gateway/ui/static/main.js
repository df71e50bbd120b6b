/**
 * The page of an exchange: one view of a market and one of the cluster. It reads public calls from any available node.
 *
 *     core/     what needs no browser: decimals, the book, sequences, candles, metrics
 *     net/      the members of the cluster, signed requests, the feed, statuses
 *     market/   the view of one product
 *     cluster/  the view of the nodes
 *     parts/    elements that the views share
 */

import { clusterView } from "./cluster/view.js";
import { Market } from "./market/state.js";
import { marketView } from "./market/view.js";
import { Cluster } from "./net/cluster.js";
import { Contract } from "./net/contract.js";
import { Keys } from "./net/keys.js";
import { Statuses } from "./net/statuses.js";
import { el, fill } from "./parts/dom.js";
import { header } from "./parts/header.js";

const RETRY_MS = 2_000;

/** Views by the fragment of the URL: #market, #market/BTC-USD or #cluster. Views keep no other state in the URL. */
const VIEWS = new Map([
  ["market", "Market"],
  ["cluster", "Cluster"],
]);

async function begin() {
  const app = /** @type {HTMLElement} */ (document.getElementById("app"));
  const cluster = new Cluster(location.origin, new Keys());
  const statuses = new Statuses(cluster);
  const contract = await started(app, cluster, statuses);
  const market = new Market(cluster);
  const pages = { market: marketView(market, contract), cluster: clusterView(statuses, market, contract) };
  const links = [...VIEWS].map(([name, words]) => el("a", { href: `#${name}` }, words));
  const main = el("main", { id: "main", tabIndex: -1 }, el("h1", { class: "unseen" }, "Quorumbook"), Object.values(pages));
  const show = () => {
    const chosen = location.hash === "#cluster" ? "cluster" : "market";
    statuses.withMetrics = chosen === "cluster";
    for (const [name, page] of Object.entries(pages)) page.hidden = name !== chosen;
    for (const link of links) {
      if (link.hash.startsWith(`#${chosen}`)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (chosen === "cluster") void statuses.look().then(() => statuses.measure());
    scrollTo(0, 0);
  };
  fill(app, el("a", { class: "skip", href: "#main", onclick: skip }, "Skip to the content"), header(market, el("nav", { "aria-label": "Views" }, links)), main);
  addEventListener("hashchange", () => {
    show();
    const wanted = wantedProduct();
    if (wanted !== undefined && wanted !== market.product?.id && market.products.some((product) => product.id === wanted)) market.follow(wanted);
  });
  market.addEventListener("product", () => {
    links[0].hash = `#market/${encodeURIComponent(market.product.id)}`;
    if (location.hash !== "#cluster") history.replaceState(null, "", links[0].hash);
  });
  show();
  leaveUnsound(market, statuses);
  await market.open(wantedProduct());
}

/** The product that the fragment names. @returns {string | undefined} */
function wantedProduct() {
  const [view, product] = location.hash.slice(1).split("/");
  return view === "market" && product ? decodeURIComponent(product) : undefined;
}

/** Go to the content without changing the fragment, which names the view. @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

/** Read the contract of the exchange, and wait until a node answers. @param {HTMLElement} app @param {Cluster} cluster @param {Statuses} statuses */
async function started(app, cluster, statuses) {
  for (;;) {
    try {
      await statuses.look();
      await cluster.setClock();
      return await Contract.read(cluster);
    } catch (error) {
      fill(app, el("p", { class: "notice", role: "status" }, `Waiting for the exchange: ${error instanceof Error ? error.message : error}`));
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** A node without a majority still sends heartbeats, so leave it for one that has new events. @param {Market} market @param {Statuses} statuses */
function leaveUnsound(market, statuses) {
  let bad = 0;
  statuses.addEventListener("change", () => {
    const { cluster } = market;
    const better = statuses.all.some((seen) => seen.url !== cluster.current && seen.status?.node?.quorum && seen.status.node.ready);
    bad = statuses.serves(cluster.current) || !better ? 0 : bad + 1;
    if (bad >= 3) {
      bad = 0;
      market.feed.leave();
    }
  });
}

void begin();
