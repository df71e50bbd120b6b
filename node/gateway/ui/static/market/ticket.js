/**
 * The order ticket: all kinds of orders of the exchange, their estimated cost, and the text of a refusal.
 */

import { SCALE, digits, grouped, product, text, units } from "../core/decimal.js";
import { Refused, Unreachable } from "../net/cluster.js";
import { field, sentence } from "../parts/dialog.js";
import { announce, el, fill, newId, panel } from "../parts/dom.js";
import { label } from "../parts/format.js";

/** @typedef {import("./state.js").Market} Market */
/** @typedef {import("../net/contract.js").Contract} Contract */

/** @typedef {{words: string, type: string, fields: string[], hint?: string}} Kind */

const LIFE = ["time_in_force", "cancel_after", "expire_time"];
/** Kinds of orders as people name them, and the type and fields that the API has for each. A pair has no type, and a call of its own. @type {Map<string, Kind>} */
const KINDS = new Map([
  ["limit", { words: "Limit", type: "limit", fields: ["price", "size", ...LIFE, "post_only"] }],
  ["market", { words: "Market", type: "market", fields: ["size", "funds"] }],
  ["stop-limit", { words: "Stop limit", type: "limit", fields: ["stop_price", "stop", "price", "size", ...LIFE] }],
  ["stop-market", { words: "Stop market", type: "market", fields: ["stop_price", "stop", "size", "funds"] }],
  ["iceberg", { words: "Iceberg", type: "limit", fields: ["price", "size", "display_size", ...LIFE], hint: "The book shows one part of the order at a time. Each new part goes to the end of the queue." }],
  ["trailing", { words: "Trailing stop", type: "market", fields: ["stop_price", "trail", "size"], hint: "The stop price begins as given and follows the best price at this distance. It never moves back." }],
  [
    "exits",
    {
      words: "Limit with exits",
      type: "limit",
      fields: ["price", "size", "take_profit_price", "stop_loss_price", "stop_loss_limit_price", ...LIFE],
      hint: "When the order is done, orders of the other side enter for what it traded. The first exit that trades cancels the other.",
    },
  ],
  ["pair", { words: "Pair: one cancels the other", type: "", fields: ["price", "size", "stop_price", "stop_limit_price"], hint: "A limit order and a stop order. When one trades, is triggered or leaves, the other leaves. Their money is held once." }],
]);
/** Fields that the ticket shows elsewhere, or that are only for programs. */
const PLACED = new Set([...["product_id", "side", "type", "client_oid", "stp", "profile_id", "good_for"], ...[...KINDS.values()].flatMap(({ fields }) => fields)]);
/** Labels of fields under "More". Other fields are shown by their names. */
const WORDS = new Map([["session", "Tag, by which orders can be cancelled together"]]);
/** Lives that the API has in two fields. @type {Record<string, Record<string, string>>} */
const LIVES = { GTD: { time_in_force: "GTT" }, GFD: { good_for: "day" }, GFA: { time_in_force: "GTC", good_for: "auction" } };
/** Fields of Coinbase Exchange that servers without them refuse by name. */
const REFUSED_BY_NAME = new Set(["stop_limit_price", "max_floor"]);
const TIMES = { GTC: "Good till cancelled", GTT: "Good till time", IOC: "Immediate or cancel", FOK: "Fill or kill", GTD: "Good till date", GFD: "Good for the day", GFA: "Good for the auction" };
const STPS = { dc: "Decrease and cancel", co: "Cancel the oldest", cn: "Cancel the newest", cb: "Cancel both" };
const STOPS = { "": "As usual for the side", loss: "At it or below (loss)", entry: "At it or above (entry)" };
const AFTER = { min: "One minute", hour: "One hour", day: "One day" };

/** The values of time in force that the user may choose. @param {string[]} words of the API @param {Set<string>} names of its fields @returns {string[]} */
function lives(words, names) {
  const further = names.has("good_for") && names.has("expire_time") ? Object.keys(LIVES) : [];
  return [...words.filter((word) => word !== "PO" && !further.includes(word)), ...further];
}

/** @param {Record<string, string>} words @param {string[]} values @returns {HTMLOptionElement[]} */
function options(words, values) {
  return values.map((value) => el("option", { value }, words[value] ?? label(value)));
}

/** @param {Market} market @param {Contract} contract @returns {{element: HTMLElement, setPrice: (price: string) => void}} */
export function ticket(market, contract) {
  const known = contract.fields("POST", "/orders");
  const names = new Set(known.map((one) => one.name));
  const pairs = contract.has("POST", "/orders/pair");
  const kinds = [...KINDS].filter(([value, { fields }]) => (value === "pair" ? pairs : fields.every((name) => names.has(name) || LIFE.includes(name))));
  const choices = (/** @type {string} */ name, /** @type {string[]} */ fallback) => contract.choices("POST", "/orders", name, fallback);
  const number = (/** @type {string} */ name) => el("input", { name, type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: false });
  const select = (/** @type {string} */ name, /** @type {HTMLOptionElement[]} */ made) => el("select", { name }, made);

  /** @type {Record<string, HTMLInputElement | HTMLSelectElement>} */
  const inputs = {
    stop_price: number("stop_price"),
    stop: select("stop", options(STOPS, ["", ...choices("stop", ["loss", "entry"])])),
    price: number("price"),
    size: number("size"),
    funds: number("funds"),
    time_in_force: select("time_in_force", options(TIMES, lives(choices("time_in_force", ["GTC", "GTT", "IOC", "FOK"]), names))),
    expire_time: el("input", { name: "expire_time", type: "datetime-local", step: 1 }),
    display_size: number("display_size"),
    trail: number("trail"),
    take_profit_price: number("take_profit_price"),
    stop_loss_price: number("stop_loss_price"),
    stop_loss_limit_price: number("stop_loss_limit_price"),
    stop_limit_price: number("stop_limit_price"),
    cancel_after: select("cancel_after", options(AFTER, Object.keys(AFTER))),
    stp: select("stp", options(STPS, choices("stp", Object.keys(STPS)))),
    post_only: el("input", { name: "post_only", type: "checkbox" }),
  };
  const rows = new Map(
    [
      ["stop_price", "Stop price"],
      ["stop", "Triggered by a trade"],
      ["stop_limit_price", "Limit of the stop order"],
      ["trail", "Distance"],
      ["price", "Price"],
      ["size", "Size"],
      ["display_size", "Shown at a time"],
      ["funds", "Funds"],
      ["take_profit_price", "Take the profit at"],
      ["stop_loss_price", "Stop the loss at"],
      ["stop_loss_limit_price", "Limit of the stop"],
      ["time_in_force", "Time in force"],
      ["cancel_after", "Cancel after"],
      ["expire_time", "Until (your time)"],
    ].map(([name, words]) => [name, field(words, inputs[name])]),
  );
  const postOnly = el("label", { class: "check" }, inputs.post_only, " Post only: refuse the order rather than take");
  rows.set("post_only", postOnly);

  const kind = select("kind", kinds.map(([value, { words }]) => el("option", { value }, words)));
  const hint = el("p", { class: "hint" });
  const side = segments("side", [
    ["buy", "Buy"],
    ["sell", "Sell"],
  ]);
  const extra = moreFields(known.filter((one) => !PLACED.has(one.name) && !REFUSED_BY_NAME.has(one.name)));
  const cost = el("p", { class: "cost", "aria-live": "polite" });
  const outcome = el("p", { class: "outcome", role: "status" });
  const submit = el("button", { type: "submit", class: "button place" }, "Buy");
  const form = el(
    "form",
    { class: "ticket", noValidate: true },
    side.element,
    field("Order type", kind),
    hint,
    ...rows.values(),
    el("details", { class: "more" }, el("summary", {}, "More"), field("Where it meets an order of your own", inputs.stp), extra.element),
    cost,
    submit,
    outcome,
  );

  const shape = () => /** @type {Kind} */ (KINDS.get(kind.value));
  const update = () => {
    const { fields } = shape();
    const life = inputs.time_in_force.value;
    for (const [name, row] of rows) row.hidden = !fields.includes(name) || (name === "cancel_after" && life !== "GTT") || (name === "expire_time" && life !== "GTD");
    hint.textContent = shape().hint ?? "";
    hint.hidden = !shape().hint;
    const base = market.product?.base_currency ?? "";
    const quote = market.product?.quote_currency ?? "";
    say(rows, "size", `Size (${base})`);
    say(rows, "funds", `Funds (${quote}), in place of a size or as its ceiling`);
    say(rows, "price", `Price (${quote})`);
    say(rows, "stop_price", `Stop price (${quote})`);
    say(rows, "trail", `Distance (${quote})`);
    say(rows, "display_size", `Shown at a time (${base})`);
    fill(submit, `${side.value === "buy" ? "Buy" : "Sell"} ${base}`);
    submit.classList.toggle("sell", side.value === "sell");
    fill(cost, costWords(market, side.value, inputs, fields));
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    clearMarks(form);
    submit.disabled = true;
    show(outcome, "waiting", "Sent: waiting for a majority of the nodes.");
    try {
      const order = await place(market, body(market, side.value, shape(), inputs, extra.values()));
      show(outcome, "accepted", orderWords(order));
      announce(orderWords(order));
    } catch (error) {
      show(outcome, "refused", failureWords(error));
      if (error instanceof Refused) markField(form, error.field);
    } finally {
      submit.disabled = false;
    }
  });
  for (const event of ["product", "own", "trades"]) market.addEventListener(event, update);
  update();
  const setPrice = (/** @type {string} */ price) => {
    inputs.price.value = price;
    update();
    inputs.price.focus();
  };
  return { element: panel("Order ticket", "ticket-panel", form), setPrice };
}

/** @param {Map<string, HTMLElement>} rows @param {string} name @param {string} words */
function say(rows, name, words) {
  const made = rows.get(name)?.querySelector("label");
  if (made) fill(made, words);
}

/** Radio buttons that look like one switch. @param {string} name @param {string[][]} pairs */
function segments(name, pairs) {
  const group = newId(name);
  const inputs = pairs.map(([value], place) => el("input", { type: "radio", name: group, value, checked: place === 0 }));
  const labels = inputs.map((input, place) => el("label", { class: `segment ${pairs[place][0]}` }, input, el("span", {}, pairs[place][1])));
  const element = el("fieldset", { class: "segments sides" }, el("legend", { class: "unseen" }, label(name)), labels);
  return {
    element,
    get value() {
      return inputs.find((input) => input.checked)?.value ?? pairs[0][0];
    },
  };
}

/** Fields of the exchange that this ticket does not show elsewhere. @param {import("../net/contract.js").Field[]} fields */
function moreFields(fields) {
  const inputs = fields.map((one) => {
    if (one.kind === "boolean") return el("select", { name: one.name }, options({ "": "–", true: "Yes", false: "No" }, ["", "true", "false"]));
    if (one.kind === "choice") return el("select", { name: one.name }, options({ "": "–" }, ["", ...one.choices]));
    return el("input", { name: one.name, type: "text", autocomplete: "off", inputmode: one.kind === "text" ? undefined : "decimal" });
  });
  const element = el("div", { class: "extra" }, inputs.map((input, place) => field(WORDS.get(fields[place].name) ?? label(fields[place].name), input)));
  const values = () => {
    /** @type {Record<string, unknown>} */
    const found = {};
    inputs.forEach((input, place) => {
      const { kind, name } = fields[place];
      if (input.value.trim() === "") return;
      found[name] = kind === "boolean" ? input.value === "true" : kind === "integer" ? Number(input.value) : input.value.trim();
    });
    return found;
  };
  return { element, values };
}

/**
 * The body of POST /orders.
 * @param {Market} market
 * @param {string} side
 * @param {{type: string, fields: string[]}} shape
 * @param {Record<string, HTMLInputElement | HTMLSelectElement>} inputs
 * @param {Record<string, unknown>} extra
 */
function body(market, side, shape, inputs, extra) {
  /** @type {Record<string, unknown>} */
  const made = { product_id: market.product.id, side, stp: inputs.stp.value, client_oid: crypto.randomUUID(), ...extra };
  if (shape.type) made.type = shape.type;
  else made.stop_client_oid = crypto.randomUUID();
  const life = inputs.time_in_force.value;
  for (const name of shape.fields) {
    const input = inputs[name];
    if (input instanceof HTMLInputElement && input.type === "checkbox") {
      if (input.checked) made[name] = true;
    } else if (name === "time_in_force" && LIVES[life]) {
      Object.assign(made, LIVES[life]);
    } else if (name === "expire_time") {
      if (life === "GTD" && input.value) made[name] = new Date(input.value).toISOString();
    } else if (name !== "cancel_after" || life === "GTT") {
      const value = input.value.trim().replaceAll(",", "");
      if (value !== "") made[name] = value;
    }
  }
  return made;
}

/** Place an order. Its client_oid allows a repetition at another node without a second order. @param {Market} market @param {any} made */
async function place(market, made) {
  const answer = await market.cluster.request("POST", made.type ? "/orders" : "/orders/pair", { body: made, signed: true });
  void market.readOwn();
  return answer.body;
}

/** @param {any} order @returns {string} the result as text */
function orderWords(order) {
  if (order.limit && order.stop) return `${orderWords(order.limit)} ${orderWords(order.stop)} One cancels the other.`;
  const filled = order.filled_size !== "0" ? `, ${order.filled_size} traded for ${order.executed_value}` : "";
  const what = `${label(order.side)} ${order.size ?? order.funds ?? order.specified_funds ?? ""}${order.price ? ` at ${grouped(order.price)}` : ""}`;
  if (order.status === "done") return `${what}: ${order.done_reason === "filled" ? "filled" : "cancelled"}${filled}.`;
  return `${what}: ${order.status === "active" ? "accepted, waiting" : "on the book"}${filled}.`;
}

/** @param {unknown} error @returns {string} */
export function failureWords(error) {
  if (error instanceof Refused) return `Refused: ${sentence(error)}`;
  if (error instanceof Unreachable) return `${error.message} The order may have been placed: look at your open orders.`;
  return error instanceof Error ? error.message : String(error);
}

/** @param {HTMLElement} place @param {string} kind @param {string} words */
function show(place, kind, words) {
  place.className = `outcome ${kind}`;
  place.textContent = words;
}

/** @param {HTMLFormElement} form */
function clearMarks(form) {
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

/** Highlight the field that a refusal names. @param {HTMLFormElement} form @param {string} name */
function markField(form, name) {
  const input = form.elements.namedItem(name);
  if (input instanceof HTMLElement && input.offsetParent !== null) {
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }
}

/**
 * The notional of the order and its maximum fee.
 * @param {Market} market
 * @param {string} side
 * @param {Record<string, HTMLInputElement | HTMLSelectElement>} inputs
 * @param {string[]} fields
 */
function costWords(market, side, inputs, fields) {
  if (market.product === null || !fields.includes("price")) return fields.includes("price") ? "" : "A market order takes what there is, at any price.";
  try {
    const worth = product(units(inputs.price.value.trim()), units(inputs.size.value.trim()));
    const quote = market.product.quote_currency;
    const rate = market.fees?.taker_fee_rate ?? market.product.taker_fee_rate ?? "0";
    const fee = (worth * units(rate) + 10n ** BigInt(SCALE) - 1n) / 10n ** BigInt(SCALE);
    const places = Math.max(2, digits(market.product.quote_increment));
    return `${side === "buy" ? "Costs" : "Gives"} ${grouped(short(worth, places))} ${quote}; a taker's fee would be ${grouped(short(fee, places))} ${quote}.`;
  } catch {
    return "Enter a price and a size.";
  }
}

/** A decimal text with at most `places` decimal places. @param {bigint} value @param {number} places */
function short(value, places) {
  const unit = 10n ** BigInt(Math.max(0, SCALE - places));
  return text((value / unit) * unit, Math.min(places, 2));
}
