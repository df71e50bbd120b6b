/**
 * Creates elements. Texts are never parsed as HTML.
 */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Create an element. Names of `properties` that begin with "on" are listeners, names with a dash and `role` are attributes, all others are properties.
 * @param {string} name
 * @param {Record<string, any>} [properties]
 * @param {...(Child | Child[])} children
 * @returns {any}
 */
export function el(name, properties = {}, ...children) {
  /** @type {any} its properties depend on its name */
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else if (key.includes("-") || ATTRIBUTES.has(key)) made.setAttribute(key, String(value));
    else made[key] = value;
  }
  made.append(...shown(children));
  return made;
}

const ATTRIBUTES = new Set(["role", "for", "scope", "colspan", "list", "href", "inputmode"]);

/** @param {(Child | Child[])[]} children @returns {(Node | string)[]} */
function shown(children) {
  /** @type {(Node | string)[]} */
  const found = [];
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    found.push(typeof child === "number" ? String(child) : child);
  }
  return found;
}

/** Create an SVG element. @param {string} name @param {Record<string, string | number>} attributes @param {...Node} children @returns {SVGElement} */
export function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.append(...children);
  return made;
}

/** Set an element's text if it differs. Setting the same text again would cause a needless layout. @param {Element} element @param {string} value */
export function say(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Replace an element's children. @param {Element} element @param {...(Child | Child[])} children */
export function fill(element, ...children) {
  element.replaceChildren(...shown(children));
}

/** Announce a text to screen readers. @param {string} words */
export function announce(words) {
  const place = document.getElementById("said");
  if (place !== null) place.textContent = words;
}

let ids = 0;
/** An id that no other element has. @param {string} stem @returns {string} */
export function newId(stem) {
  ids += 1;
  return `${stem}-${ids}`;
}

/** Return a function that runs `work` at most once in `ms`, in an animation frame. @param {() => void} work @param {number} ms @returns {() => void} */
export function paced(work, ms) {
  let waiting = false;
  let last = 0;
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      requestAnimationFrame(() => {
        waiting = false;
        last = performance.now();
        work();
      });
    }, Math.max(0, ms - (performance.now() - last)));
  };
}

/** A panel with a heading. @param {string} title @param {string} kind a class @param {...(Child | Child[])} children @returns {HTMLElement} */
export function panel(title, kind, ...children) {
  const id = newId("panel");
  return el("section", { class: `panel ${kind}`, "aria-labelledby": id }, el("h2", { id, class: "panel-title" }, title), ...children);
}

/** A table with column headings. @param {string} caption @param {{label: string, kind?: string}[]} columns @returns {{table: HTMLTableElement, body: HTMLTableSectionElement}} */
export function table(caption, columns) {
  const body = el("tbody");
  const head = el("tr", {}, columns.map(({ label, kind }) => el("th", { scope: "col", class: kind }, label)));
  const made = el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, head), body);
  return { table: made, body };
}
