/**
 * The form for an API key, and the lookup of its permissions.
 */

import { canSign } from "../net/keys.js";
import { announce, el } from "./dom.js";
import { ask, field } from "./dialog.js";

/** @typedef {import("../net/cluster.js").Cluster} Cluster */

/** The id of the operator, who has no account. */
const OPERATOR = "operator";

/** Ask for a key, and use it if the exchange accepts it. @param {Cluster} cluster */
export function askForKey(cluster) {
  const input = (/** @type {string} */ name, type = "password") => el("input", { name, type, required: true, autocomplete: "off", spellcheck: false });
  const words = "The key stays in the memory of this page. It is not stored, and a reload forgets it. A trader's key trades on the market; an operator's key acts on the cluster.";
  const body = [
    el("p", { class: "hint" }, words),
    canSign() ? null : el("p", { class: "trouble" }, "This page was opened without HTTPS from another machine: browsers do not sign there. Open its https address."),
    field("Key id", input("id", "text")),
    field("Secret", input("secret"), "base64, as the exchange gave it out"),
    field("Passphrase", input("passphrase")),
  ].filter((part) => part !== null);
  ask({
    title: "Use an API key",
    body,
    action: "Use this key",
    done: async (form) => {
      const text = (/** @type {string} */ name) => /** @type {HTMLInputElement} */ (form.elements.namedItem(name)).value;
      try {
        await cluster.keys.take(text("id"), text("secret"), text("passphrase"));
        await findHolder(cluster);
      } catch (error) {
        cluster.keys.forget();
        throw error;
      }
      cluster.keys.changed();
      announce(`The key ${cluster.keys.id} is in use`);
    },
  });
}

/** Permissions of the operator. A key has all of them with "admin", a user's key those of the user's roles. */
const OF_OPERATOR = new Set(["admin", "switch", "limit", "market", "correct", "accounts", "access", "cluster"]);

/** Return the holder and the permissions of the key. Throws Refused for an unknown key. @param {Cluster} cluster */
async function findHolder(cluster) {
  const { id, permissions } = await cluster.read("/users/self/verify", { signed: true });
  const holder = { account: id === OPERATOR ? "" : id, permissions, operator: permissions.some((/** @type {string} */ one) => OF_OPERATOR.has(one)) };
  cluster.keys.holder = holder;
}
