/**
 * Tabs by the pattern of the WAI-ARIA Authoring Practices: arrows move between them, and the chosen one's panel is shown.
 */

import { el, newId } from "./dom.js";

/** @param {string} name @param {[string, HTMLElement][]} pages @returns {HTMLElement} */
export function tabs(name, pages) {
  const buttons = pages.map(([words, page]) => {
    page.id ||= newId("tabpanel");
    const id = newId("tab");
    page.setAttribute("role", "tabpanel");
    page.setAttribute("aria-labelledby", id);
    page.tabIndex = 0;
    return el("button", { type: "button", role: "tab", id, "aria-controls": page.id }, words);
  });
  const choose = (/** @type {number} */ chosen, focus = true) => {
    buttons.forEach((button, place) => {
      button.setAttribute("aria-selected", String(place === chosen));
      button.tabIndex = place === chosen ? 0 : -1;
      pages[place][1].hidden = place !== chosen;
    });
    if (focus) buttons[chosen].focus();
  };
  buttons.forEach((button, place) => {
    button.addEventListener("click", () => choose(place));
    button.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose((to + buttons.length) % buttons.length);
    });
  });
  choose(0, false);
  return el("section", { class: "panel tabs-panel", "aria-label": name }, el("div", { role: "tablist", class: "tabs", "aria-label": name }, buttons), pages.map(([, page]) => page));
}
