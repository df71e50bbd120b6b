/**
 * The events of one product without a gap, from any member.
 *
 * It reads a book of level 3, and subscribes to `full` from the next sequence on. If the connection ends or is silent for too long, it continues at
 * the next member with the next sequence. If that member no longer has the events, it begins with a new book, and notifies the listener.
 */

import { SequenceCounter } from "../core/sequence.js";

/** @typedef {import("./cluster.js").Cluster} Cluster */
/**
 * @typedef {object} Listener
 * @property {(book: any, again: boolean) => void} onBook a book to begin with; `again` where events before it were missed
 * @property {(event: any) => void} onEvent the next event of `full`
 * @property {(message: any) => void} onOther messages of other channels
 * @property {() => void} onState the connection or the counter changed
 */

/** Milliseconds without a heartbeat after which the connection counts as dead. Heartbeats arrive every second. */
const SILENCE_MS = 3_500;
const WATCH_MS = 500;
const RETRY_MS = 200;
const TOO_OLD = new Set(["sequence too old", "cannot resume"]);
const OTHER_CHANNELS = ["heartbeat", "auction", "status"];

export class Feed {
  /** @param {Cluster} cluster @param {Listener} listener */
  constructor(cluster, listener) {
    this.cluster = cluster;
    this.listener = listener;
    this.counter = new SequenceCounter();
    this.product = "";
    /** @type {"idle" | "connecting" | "live"} */
    this.state = "idle";
    this.node = "";
    this.trouble = "";
    /** @type {WebSocket | null} */
    this.socket = null;
    this.unsigned = false;
    this.turn = 0;
    this.heard = 0;
    setInterval(() => this.#watch(), WATCH_MS);
  }

  /** Follow a product, beginning with a new book. @param {string} product */
  follow(product) {
    this.product = product;
    this.counter = new SequenceCounter();
    this.#restart(true);
  }

  /** Subscribe again from the next sequence on after a change of the key. */
  again() {
    this.unsigned = false;
    if (this.product) this.#restart(false);
  }

  /** Switch to another member now. */
  leave() {
    if (this.state !== "idle") this.#lost("this node cannot serve");
  }

  /** @param {boolean} fresh */
  #restart(fresh) {
    this.turn += 1;
    this.socket?.close();
    this.socket = null;
    void this.#run(this.turn, fresh);
  }

  /** @param {number} turn @param {boolean} fresh whether to begin with a book */
  async #run(turn, fresh) {
    this.state = "connecting";
    this.listener.onState();
    const current = () => turn === this.turn;
    try {
      if (fresh) await this.#takeBook(current);
      if (!current()) return;
      const signed = this.cluster.keys.present && !this.unsigned ? await this.cluster.keys.subscription(this.cluster.now().toFixed(3)) : {};
      if (current()) this.#connect(turn, signed);
    } catch (error) {
      this.trouble = error instanceof Error ? error.message : String(error);
      this.listener.onState();
      setTimeout(() => current() && void this.#run(turn, fresh), RETRY_MS * 5);
    }
  }

  /** @param {() => boolean} current */
  async #takeBook(current) {
    const book = await this.cluster.read(`/products/${encodeURIComponent(this.product)}/book?level=3`);
    if (!current()) return;
    const again = this.counter.last > 0;
    this.counter.begin(book.sequence);
    this.listener.onBook(book, again);
  }

  /** @param {number} turn @param {Record<string, string>} signed */
  #connect(turn, signed) {
    const [url] = this.cluster.candidates();
    const socket = new WebSocket(`${url.replace(/^http/, "ws")}/ws`);
    this.socket = socket;
    this.heard = Date.now();
    socket.onopen = () => {
      const request = { type: "subscribe", product_ids: [this.product], channels: ["full", ...OTHER_CHANNELS], from_sequence: this.counter.next };
      socket.send(JSON.stringify({ ...request, ...signed }));
    };
    socket.onmessage = (message) => {
      if (turn === this.turn) this.#received(url, JSON.parse(message.data));
    };
    socket.onclose = (event) => {
      if (turn === this.turn) this.#lost(event.reason || "the connection ended", url);
    };
  }

  /** @param {string} url @param {any} message */
  #received(url, message) {
    this.heard = Date.now();
    if (message.type === "error") {
      this.#failed(message);
      return;
    }
    if (message.type === "subscriptions") {
      this.#live(url);
      return;
    }
    if (typeof message.sequence !== "number" || UNNUMBERED.has(message.type)) {
      this.listener.onOther(message);
      return;
    }
    const place = this.counter.take(message.sequence);
    if (place === "next") this.listener.onEvent(message);
    else if (place === "gap") this.#restart(true);
  }

  /** @param {string} url */
  #live(url) {
    const node = this.cluster.name(url);
    if (this.node && this.node !== node) this.counter.moved(this.node, node, Date.now());
    this.node = node;
    this.cluster.current = url;
    this.state = "live";
    this.trouble = "";
    this.listener.onState();
  }

  /** Handle a refusal. If the sequence is too old, begin with a new book. @param {any} message */
  #failed(message) {
    this.trouble = message.message;
    if (message.message === "Authentication Failed") {
      this.unsigned = true; // the key was revoked: what is public goes on
      this.#restart(false);
      return;
    }
    if (TOO_OLD.has(message.message)) {
      this.counter.gaps += 1;
      this.#restart(true);
      return;
    }
    this.listener.onState();
  }

  /** @param {string} reason @param {string} [url] */
  #lost(reason, url = this.cluster.current) {
    this.trouble = reason;
    this.cluster.avoid(url);
    this.turn += 1;
    const { turn } = this;
    this.socket?.close();
    this.socket = null;
    this.state = "connecting";
    this.listener.onState();
    const wait = this.cluster.someAnswer ? RETRY_MS : RETRY_MS * 5;
    setTimeout(() => turn === this.turn && void this.#run(turn, false), wait);
  }

  #watch() {
    if (this.socket !== null && Date.now() - this.heard > SILENCE_MS) this.#lost("no heartbeat");
  }
}

/** Types of messages whose `sequence` is the latest one at their time. All other messages with a sequence, including newer types, are events of `full`, which have no gaps. */
const UNNUMBERED = new Set(["heartbeat", "auction", "ticker", "last_match"]);
