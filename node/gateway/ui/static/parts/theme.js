/**
 * Light or dark: the system's setting until the user chooses. The choice lasts until the page is closed. Nothing is stored.
 */

const WORDS = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
/** @type {("auto" | "light" | "dark")[]} */
const ORDER = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");

class Theme extends EventTarget {
  /** @type {"auto" | "light" | "dark"} */
  chosen = "auto";

  constructor() {
    super();
    system.addEventListener("change", () => this.#notify());
  }

  get words() {
    return WORDS[this.chosen];
  }

  /** Switch to the next choice. */
  next() {
    this.chosen = ORDER[(ORDER.indexOf(this.chosen) + 1) % ORDER.length];
    this.#notify();
  }

  #notify() {
    document.documentElement.dataset.theme = this.chosen;
    this.dispatchEvent(new Event("change"));
  }

  /** A colour of the style sheet for charts. @param {string} name without the dashes @returns {string} */
  colour(name) {
    probe.style.color = `var(--${name})`;
    if (!probe.isConnected) document.body.append(probe);
    return getComputedStyle(probe).color;
  }

  /** The font of texts. @returns {string} */
  get font() {
    return getComputedStyle(document.documentElement).getPropertyValue("--sans").trim();
  }
}

/** An invisible element with which the browser computes colours of the style sheet. */
const probe = document.createElement("span");
probe.hidden = true;

export const theme = new Theme();
