/**
 * Light or dark: as the system has it, until a person chooses. The choice lasts until the page is closed; nothing is stored.
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
    system.addEventListener("change", () => this.#tell());
  }

  get words() {
    return WORDS[this.chosen];
  }

  /** Go on to the next choice. */
  next() {
    this.chosen = ORDER[(ORDER.indexOf(this.chosen) + 1) % ORDER.length];
    this.#tell();
  }

  #tell() {
    document.documentElement.dataset.theme = this.chosen;
    this.dispatchEvent(new Event("change"));
  }

  /** A colour of the style sheet, as drawings take it. @param {string} name without the dashes @returns {string} */
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

/** An element that shows nothing: the browser works out colours of the style sheet on it. */
const probe = document.createElement("span");
probe.hidden = true;

export const theme = new Theme();
