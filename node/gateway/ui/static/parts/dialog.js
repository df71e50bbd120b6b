/**
 * Dialogs use the browser's dialog element, so that focus, Escape and screen readers work.
 */

import { el, newId } from "./dom.js";

/**
 * A dialog with a form. `done` runs when it is submitted; the dialog closes when that succeeds, else it shows the error.
 * @param {{title: string, body: any[], action: string, danger?: boolean, done: (form: HTMLFormElement) => Promise<void>}} wanted
 */
export function ask({ title, body, action, danger = false, done }) {
  const id = newId("dialog");
  const trouble = el("p", { class: "trouble", role: "alert" });
  const submit = el("button", { type: "submit", class: danger ? "button danger" : "button primary" }, action);
  const cancel = el("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel");
  const form = el("form", { method: "dialog" }, el("h2", { id }, title), ...body, trouble, el("div", { class: "buttons" }, cancel, submit));
  const dialog = el("dialog", { "aria-labelledby": id, onclose: () => dialog.remove() }, form);
  form.addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    submit.disabled = true;
    trouble.textContent = "";
    try {
      await done(form);
      dialog.close();
    } catch (error) {
      trouble.textContent = error instanceof Error ? sentence(error) : String(error);
    } finally {
      submit.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  if (danger) cancel.focus();
}

/** The text of an error: the exchange's message and what it expected. @param {Error & {detail?: string, reason?: string}} error @returns {string} */
export function sentence(error) {
  const message = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  const stop = /[.!?]$/.test(message) ? "" : ".";
  return error.detail ? `${message}${stop} ${error.detail.charAt(0).toUpperCase()}${error.detail.slice(1)}` : message + stop;
}

/** A labelled field. @param {string} words @param {HTMLElement} input @param {string} [hint] @returns {HTMLElement} */
export function field(words, input, hint) {
  input.id ||= newId("field");
  const note = hint ? el("small", { id: `${input.id}-hint`, class: "hint" }, hint) : null;
  if (note) input.setAttribute("aria-describedby", note.id);
  return el("div", { class: "field" }, el("label", { for: input.id }, words), input, note);
}
