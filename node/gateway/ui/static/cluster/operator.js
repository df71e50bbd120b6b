/**
 * The actions of an operator's key. Each action asks for confirmation, and describes its effect.
 */

import { ask, field } from "../parts/dialog.js";
import { announce, el, fill, panel, say } from "../parts/dom.js";
import { label } from "../parts/format.js";
import { statusOf } from "../market/state.js";

/** @typedef {import("../market/state.js").Market} Market */
/** @typedef {import("../net/contract.js").Contract} Contract */
/** @typedef {import("../net/statuses.js").Statuses} Statuses */

/** What each status of a product means for those who trade it. */
const STATUS_ACTS = new Map([
  ["online", { action: "Resume", means: "All orders are taken again. An auction that collects opens now, at one price." }],
  ["cancel_only", { action: "Cancel only", means: "No new order is taken. Open orders stay, and their owners may cancel them." }],
  ["offline", { action: "Halt", means: "Neither orders nor cancels are taken. Open orders stay where they are." }],
  ["auction", { action: "Collect for an auction", means: "Limit orders are collected and nothing trades, until the product is resumed." }],
  ["post_only", { action: "Post only", means: "Only orders that rest are taken." }],
  ["limit_only", { action: "Limit only", means: "Only limit orders are taken." }],
]);
const EVERY = "";
const VENUE = "venue";
/** The switches and their meanings. */
const SWITCHES = new Map([
  ["kill", { words: "Kill switch", on: "Every open order is cancelled. New orders are refused until the switch is released. Cancels go through." }],
  ["buy_off", { words: "Buy orders off", on: "New buy orders are refused until trading is switched on. Open orders stay, and may be cancelled." }],
  ["sell_off", { words: "Sell orders off", on: "New sell orders are refused until trading is switched on. Open orders stay, and may be cancelled." }],
  ["cancel_only", { words: "Both off: cancels only", on: "New orders are refused until trading is switched on. Open orders stay, and may be cancelled." }],
]);
/** The scopes of a switch. */
const SCOPES = [
  [VENUE, "The whole venue"],
  ["product", "A product"],
  ["account", "An account"],
  ["firm", "A firm"],
];

/** Nothing was done: the command waits for the consent of another user. */
class Waits extends Error {
  /** @param {{proposal_ids: number[]}} body of the answer */
  constructor(body) {
    super(`Nothing is changed yet: the command waits for another user's consent, as proposal ${body.proposal_ids.join(", ")}.`);
  }
}

/** @param {Market} market @param {Contract} contract @param {Statuses} statuses @returns {HTMLElement} */
export function operator(market, contract, statuses) {
  const place = el("div", { class: "operator" });
  const outcome = el("p", { class: "outcome", role: "status" });
  /** Updates the values of the panel. */
  const updates = { products: () => {}, leader: () => {} };
  const may = (/** @type {string} */ permission) => market.cluster.keys.may(permission);
  const draw = () => {
    const { operator: allowed } = market.cluster.keys.holder;
    if (!allowed) fill(place, el("p", { class: "none" }, "Enter an operator's key to act on the cluster. Everything else on this page can be read without one."));
    else fill(place, may("market") && products(), may("cluster") && leadership(), may("market") && productForms(), may("switch") && killSwitch());
  };

  /** Ask for confirmation, act, and show the result. @param {string} title @param {string} action @param {string[]} words @param {() => Promise<string>} act @param {boolean} [danger] */
  const confirm = (title, action, words, act, danger = true) =>
    ask({
      title,
      action,
      danger,
      body: words.map((sentence) => el("p", {}, sentence)),
      done: async () => {
        try {
          show(await act());
        } catch (error) {
          if (!(error instanceof Waits)) throw error;
          show(error.message);
        }
      },
    });
  const show = (/** @type {string} */ words) => {
    outcome.className = "outcome accepted";
    outcome.textContent = words;
    announce(words);
  };
  const command = async (/** @type {string} */ method, /** @type {string} */ target, /** @type {unknown} */ body) => {
    const answer = await market.cluster.request(method, target, { body, signed: true });
    if (answer.status === 202) throw new Waits(answer.body);
    return answer;
  };

  const products = () => {
    const which = el("select");
    // The user's choice stays. Only the texts of the options change while the panel is in use.
    updates.products = () => {
      const chosen = which.options.length > 0 ? which.value : (market.product?.id ?? EVERY);
      fill(which, el("option", { value: EVERY }, "Every product"), market.products.map((one) => el("option", { value: one.id }, `${one.id} (${label(statusOf(one)).toLowerCase()})`)));
      which.value = chosen;
    };
    updates.products();
    const choices = contract.choices("PUT", "/admin/products/{id}", "status", [...STATUS_ACTS.keys()]);
    const buttons = choices.map((status) => {
      const { action, means } = STATUS_ACTS.get(status) ?? { action: label(status), means: "" };
      const run = () => {
        const what = which.value || `all ${market.products.length} products`;
        const words = [`${what} ${which.value ? "gets" : "get"} the status “${label(status).toLowerCase()}”.`, means, "Everybody sees the change on the feed at once."].filter(Boolean);
        confirm(`${action}: ${what}`, `${action} ${what}`, words, async () => {
          await command("PATCH", which.value ? `/admin/products/${encodeURIComponent(which.value)}` : "/admin/products", { status });
          return `${action}: ${what}. Done.`;
        });
      };
      const kind = status === "offline" ? "button danger" : "button";
      return el("button", { type: "button", class: kind, "data-status": status, onclick: run }, action);
    });
    return el("fieldset", {}, el("legend", {}, "Trading"), field("Product", which), el("div", { class: "buttons start" }, buttons));
  };

  const leadership = () => {
    const call = contract.first("POST /admin/leadership");
    if (call === null) return el("fieldset", {}, el("legend", {}, "Leadership"), el("p", { class: "hint" }, "This version hands leadership over on the command line: quorumbook cluster transfer-leadership."));
    const now = () => statuses.sound?.node.leader_id ?? "";
    const run = () => {
      const leader = now();
      return confirm(
        "Hand over leadership",
        "Hand over leadership",
        [`${leader || "The leader"} gives the leadership to the member whose log is the longest, and becomes a follower.`, "Commands pause for some milliseconds. None is lost."],
        async () => {
          const { body } = await command(call.method, call.path, {});
          return body?.leader ? `${body.leader} leads now.` : "Leadership was handed over.";
        },
        false,
      );
    };
    const button = el("button", { type: "button", class: "button", id: "hand-over", onclick: run });
    updates.leader = () => say(button, `Hand over leadership${now() ? ` of ${now()}` : ""}`);
    updates.leader();
    return el("fieldset", {}, el("legend", {}, "Leadership"), el("div", { class: "buttons start" }, button));
  };

  const productForms = () =>
    el(
      "fieldset",
      {},
      el("legend", {}, "Products"),
      el(
        "div",
        { class: "buttons start" },
        el("button", { type: "button", class: "button", onclick: () => addProduct(market, contract, show) }, "Add a product"),
        el("button", { type: "button", class: "button danger", onclick: () => removeProduct(market, contract, confirm) }, "Remove a product"),
      ),
    );

  const killSwitch = () => {
    if (!contract.has("PUT", "/admin/switches")) return null;
    const scope = el("select", {}, SCOPES.map(([value, words]) => el("option", { value }, words)));
    const name = el("input", { type: "text", autocomplete: "off", spellcheck: false });
    const named = field("Id", name);
    const update = () => {
      named.hidden = scope.value === VENUE;
      if (scope.value === "product") name.value = market.product?.id ?? "";
    };
    scope.addEventListener("change", update);
    update();
    const which = el("select", {}, [...SWITCHES].map(([value, { words }]) => el("option", { value }, words)));
    const note = el("input", { type: "text", autocomplete: "off", maxLength: 200 });
    const act = (/** @type {boolean} */ on) => {
      const id = name.value.trim();
      if (scope.value !== VENUE && id === "") {
        name.focus();
        return;
      }
      const what = scope.value === VENUE ? "the whole venue" : `${scope.value} ${id}`;
      const target = scope.value === VENUE ? "/admin/switches" : `/admin/switches/${scope.value}/${encodeURIComponent(id)}`;
      const chosen = which.value;
      const { words: called, on: means } = /** @type {{words: string, on: string}} */ (SWITCHES.get(chosen));
      const words = on
        ? [`${called} for ${what}.`, chosen === "kill" ? means.replace("Every open order is", `Every open order of ${what} is`) : means]
        : [`All switches of ${what} are released: new orders are taken again. Orders that were cancelled do not come back.`];
      const title = on ? `${called}: ${what}` : `Release the switches: ${what}`;
      const action = on ? (chosen === "kill" ? `Cancel every order of ${what}` : `Switch off for ${what}`) : "Release the switch";
      confirm(title, action, words, async () => {
        const switches = on ? (chosen === "cancel_only" ? ["buy_off", "sell_off"] : [chosen]) : [];
        const { body } = await command("PUT", target, { switches, note: note.value.trim() });
        if (!on) return `The kill switch of ${what} is released, and all others.`;
        const cancelled = chosen === "kill" ? `: ${body.cancelled} orders were cancelled${body.pending ? ", more follow" : ""}` : "";
        return `${chosen === "kill" ? "The kill switch" : `“${called}”`} of ${what} is on${cancelled}.`;
      }, on);
    };
    return el(
      "fieldset",
      {},
      el("legend", {}, "Emergency"),
      field("Switch", which),
      field("For", scope),
      named,
      field("Why, for people", note),
      el(
        "div",
        { class: "buttons start" },
        el("button", { type: "button", class: "button danger", id: "kill", onclick: () => act(true) }, "Switch off"),
        el("button", { type: "button", class: "button", id: "release", onclick: () => act(false) }, "Release"),
      ),
    );
  };

  market.cluster.keys.addEventListener("change", draw);
  market.addEventListener("products", () => updates.products());
  statuses.addEventListener("change", () => updates.leader());
  draw();
  return panel("Operator", "operator-panel", place, outcome);
}

/** @param {Market} market @param {Contract} contract @param {(words: string) => void} show */
function addProduct(market, contract, show) {
  const input = (/** @type {string} */ name, value = "") => el("input", { name, type: "text", value, autocomplete: "off", required: value === "" });
  const rows = [
    field("Product id", input("id"), "such as SOL-USD"),
    field("Base currency", input("base_currency"), "must exist"),
    field("Quote currency", input("quote_currency"), "must exist"),
    field("Smallest step of sizes", input("base_increment", "0.0001")),
    field("Smallest step of prices", input("quote_increment", "0.01")),
    field("Maker fee rate", input("maker_fee_rate", "0.001")),
    field("Taker fee rate", input("taker_fee_rate", "0.002")),
  ];
  const status = el("select", { name: "status" }, contract.choices("PUT", "/admin/products/{id}", "status", ["online"]).map((value) => el("option", { value, selected: value === "offline" }, label(value))));
  const hint = "Currencies, steps and the id stay as they are once the product exists. Everybody may trade it as soon as it is online.";
  ask({
    title: "Add a product",
    action: "Add this product",
    body: [el("p", { class: "hint" }, hint), el("div", { class: "pairs" }, rows, field("Begins as", status))],
    done: async (form) => {
      const given = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value).trim()]));
      const { id, ...body } = given;
      if (market.products.some((product) => product.id === id)) throw new Error(`${id} exists already.`);
      const answer = await market.cluster.request("PUT", `/admin/products/${encodeURIComponent(id)}`, { body, signed: true });
      if (answer.status === 202) {
        show(new Waits(answer.body).message);
        return;
      }
      market.products = await market.cluster.read("/products");
      market.dispatchEvent(new Event("products"));
      show(`${id} was added.`);
    },
  });
}

/** @param {Market} market @param {Contract} contract @param {(title: string, action: string, words: string[], act: () => Promise<string>) => void} confirm */
function removeProduct(market, contract, confirm) {
  const call = contract.first("DELETE /admin/products/{id}");
  const { product } = market;
  if (product === null) return;
  const words = call
    ? [`${product.id} is removed.`, "This cannot be undone."]
    : [
        `${product.id} is taken out of trading: its status becomes “offline”.`,
        "A product stays in the log and in the history for good, so its orders and trades can be accounted for. Its open orders stay until it is resumed.",
      ];
  confirm(`Remove ${product.id}`, `Remove ${product.id} from trading`, words, async () => {
    const path = `/admin/products/${encodeURIComponent(product.id)}`;
    await market.cluster.request(call ? "DELETE" : "PATCH", path, { body: call ? undefined : { status: "offline" }, signed: true });
    return `${product.id} was removed from trading.`;
  });
}

