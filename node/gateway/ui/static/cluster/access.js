/**
 * Commands that wait for the consent of another user, and the users with their roles. Shown for a key with a permission of the operator.
 */

import { ask } from "../parts/dialog.js";
import { announce, el, fill, panel, table } from "../parts/dom.js";
import { Refused } from "../net/cluster.js";
import { label, timeOfDay } from "../parts/format.js";

/** @typedef {import("../market/state.js").Market} Market */

const EVERY_MS = 3_000;
const USERS_SHOWN = 100;
/** What may be done with a proposal, and what that means. @type {[string, string, string][]} */
const DECISIONS = [
  ["approve", "Approve", "The command is carried out at once, in your name as well."],
  ["reject", "Reject", "The command is not carried out. Its proposer may propose it again."],
  ["withdraw", "Withdraw", "You take your own proposal back."],
];

/** @param {Market} market @returns {HTMLElement} */
export function access(market) {
  const { table: waiting, body } = table("Commands that wait for consent", [{ label: "Command" }, { label: "Proposed by" }, { label: "Expires" }, { label: "Actions" }]);
  const { table: people, body: users } = table("Users", [{ label: "User" }, { label: "Roles" }, { label: "Note" }]);
  const none = el("p", { class: "none" }, "No command waits for consent.");
  const scroll = (/** @type {string} */ name, /** @type {HTMLElement} */ made) => el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": name }, made);
  const element = panel("Consent and users", "access-panel", none, scroll("Commands that wait for consent", waiting), scroll("Users", people));
  element.hidden = true;
  const read = async () => {
    element.hidden = !market.cluster.keys.holder.operator;
    if (element.hidden || element.offsetParent === null) return;
    try {
      const [proposals, known] = await Promise.all([market.cluster.read("/admin/proposals", { signed: true }), market.cluster.read("/admin/users", { signed: true })]);
      const focused = document.activeElement?.id;
      fill(body, proposals.map((/** @type {any} */ one) => row(market, one, soon)));
      if (focused) document.getElementById(focused)?.focus();
      none.hidden = proposals.length > 0;
      waiting.hidden = proposals.length === 0;
      fill(users, known.slice(0, USERS_SHOWN).map((/** @type {any} */ one) => el("tr", {}, el("th", { scope: "row" }, one.id), el("td", {}, rolesOf(one)), el("td", {}, one.note))));
      people.hidden = known.length === 0;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      element.hidden = true;
    }
  };
  const soon = () => void read().catch(() => undefined);
  market.cluster.keys.addEventListener("change", soon);
  setInterval(soon, EVERY_MS);
  return element;
}

/** @param {any} user @returns {string} */
export function rolesOf(user) {
  const words = user.roles.map((/** @type {any} */ one) => `${label(one.role).toLowerCase()} of ${one.scope === "venue" ? "the venue" : `${one.scope} ${one.id}`}`);
  return words.join(", ") || "none";
}

/** A proposed command as text: its kind, and the fields that are set. @param {any} proposal @returns {string} */
export function commandWords(proposal) {
  const kind = proposal.command.replace(/([a-z])([A-Z])/g, "$1 $2");
  const fields = Object.entries(proposal.fields).filter(([, value]) => value !== "" && value !== 0 && value !== null && value !== false);
  return `${kind}: ${fields.map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ")}`;
}

/** @param {Market} market @param {any} one @param {() => void} done */
function row(market, one, done) {
  const words = commandWords(one);
  const buttons = DECISIONS.map(([decision, action, means]) =>
    el(
      "button",
      {
        type: "button",
        class: "button small",
        id: `${decision}-${one.id}`,
        "aria-label": `${action} ${words}`,
        onclick: () =>
          ask({
            title: `${action} a proposal of ${one.proposer}`,
            action: `${action} proposal ${one.id}`,
            danger: decision === "approve",
            body: [el("p", {}, words), el("p", {}, means)],
            done: async () => {
              await market.cluster.request("POST", `/admin/proposals/${one.id}/${decision}`, { signed: true });
              announce(`${action}: proposal ${one.id}`);
              done();
            },
          }),
      },
      action,
    ),
  );
  return el("tr", { "data-proposal": one.id }, el("td", {}, words), el("td", {}, one.proposer), el("td", {}, timeOfDay(one.expires_at)), el("td", { class: "actions" }, buttons));
}
