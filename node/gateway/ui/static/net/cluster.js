/**
 * The members of the cluster, and requests that continue at another member after a failure.
 *
 * The first member is the one that served the page. GET /status names the others. Every member serves every call, so a request goes to the current
 * member, and after a failure to the next one.
 */

/** @typedef {import("./keys.js").Keys} Keys */
/** @typedef {{id: string, url: string}} Member */
/** @typedef {{status: number, body: any, headers: Headers}} Answer */
/** @typedef {{body?: unknown, signed?: boolean, once?: boolean, at?: string}} Options */

const READ_MS = 4_000;
const COMMAND_MS = 10_000;
/** Milliseconds for which a request is tried at one member after the other. */
const DEADLINE_MS = 20_000;
const PAUSE_MS = 250;
/** Milliseconds for which a failed member is tried last. */
const AVOID_MS = 3_000;
/** Statuses after which the next member is tried: nothing was done, or the request may be repeated. */
const ELSEWHERE = new Set([502, 503, 504]);

/** A refusal with the answer of the exchange. */
export class Refused extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    super(typeof body?.message === "string" ? body.message : `The node answered with status ${status}`);
    this.status = status;
    this.field = typeof body?.field === "string" ? body.field : "";
    this.reason = typeof body?.reason === "string" ? body.reason : "";
    this.detail = typeof body?.detail === "string" ? body.detail : "";
  }
}

/** No member answered in time. */
export class Unreachable extends Error {}

export class Cluster extends EventTarget {
  /** @param {string} origin of the page @param {Keys} keys */
  constructor(origin, keys) {
    super();
    this.keys = keys;
    /** @type {Member[]} */
    this.members = [{ id: "", url: origin }];
    this.current = origin;
    /** Milliseconds by which the servers' clock is ahead of the browser's. */
    this.skew = 0;
    /** @type {Set<string>} URLs of the members that keep a history */
    this.historians = new Set();
    /** @type {Map<string, number>} until when a URL is tried last */
    this.avoided = new Map();
  }

  /** The servers' time in seconds. */
  now() {
    return (Date.now() + this.skew) / 1000;
  }

  /** @param {string} url @returns {string} the member's id, or its URL before that is known */
  name(url) {
    return this.members.find((member) => member.url === url)?.id || url.replace(/^https?:\/\//, "");
  }

  /**
   * Store the members that a node's status names. `own` is the id of the node that answered at `url`.
   * @param {string} url
   * @param {string} own
   * @param {{node_id: string, http: string}[]} named
   */
  learn(url, own, named) {
    const found = named.filter((member) => member.http).map((member) => ({ id: member.node_id, url: new URL(member.http).origin }));
    const listed = found.some((member) => member.url === url);
    // The page keeps the URL that it already uses for a node, even if it is not the public one.
    const members = listed ? found : found.map((member) => (member.id === own ? { id: own, url } : member));
    if (members.length === 0 || JSON.stringify(members) === JSON.stringify(this.members)) return;
    this.members = members;
    this.dispatchEvent(new Event("members"));
  }

  /** The members' URLs: the current one first, recently failed ones last. */
  candidates() {
    const now = Date.now();
    const urls = this.members.map((member) => member.url);
    const place = Math.max(0, urls.indexOf(this.current));
    const turned = [...urls.slice(place), ...urls.slice(0, place)];
    const bad = (/** @type {string} */ url) => (this.avoided.get(url) ?? 0) > now;
    return [...turned.filter((url) => !bad(url)), ...turned.filter(bad)];
  }

  /** Whether a member has not failed recently. */
  get someAnswer() {
    const now = Date.now();
    return this.members.some((member) => (this.avoided.get(member.url) ?? 0) <= now);
  }

  /** Record a failure of a member. Other members are tried first for a while. @param {string} url */
  avoid(url) {
    this.avoided.set(url, Date.now() + AVOID_MS);
    const [next] = this.candidates();
    if (url === this.current && next !== url) {
      this.current = next;
      this.dispatchEvent(new CustomEvent("moved", { detail: { from: url, to: next } }));
    }
  }

  /**
   * Send a request to the first member that answers. Throws Refused for an answer other than success, and Unreachable if no member answers.
   *
   * A command is repeated after a failure only if it has an id or is idempotent, so that it is never carried out twice. With `once` it is sent to one
   * member only, and the outcome may stay unknown.
   * @param {string} method
   * @param {string} target
   * @param {Options} [options]
   * @returns {Promise<Answer>}
   */
  async request(method, target, options = {}) {
    const until = Date.now() + DEADLINE_MS;
    let failure = "no node is known";
    do {
      for (const url of options.at ? [options.at] : this.candidates()) {
        const found = await this.#attempt(url, method, target, options);
        if (typeof found !== "string") return found;
        failure = `${this.name(url)}: ${found}`;
        if (options.once || options.at) throw new Unreachable(failure);
        this.avoid(url);
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    } while (Date.now() < until);
    throw new Unreachable(`No node answered (${failure}).`);
  }

  /** @param {string} url @param {string} method @param {string} target @param {Options} options @returns {Promise<Answer | string>} */
  async #attempt(url, method, target, options) {
    const body = options.body === undefined ? "" : JSON.stringify(options.body);
    /** @type {Record<string, string>} */
    const headers = body ? { "Content-Type": "application/json" } : {};
    if (options.signed) Object.assign(headers, await this.keys.headers(method, target, body, this.now().toFixed(6)));
    const patience = AbortSignal.timeout(method === "GET" ? READ_MS : COMMAND_MS);
    try {
      const response = await fetch(url + target, { method, headers, body: body || undefined, signal: patience, cache: "no-store", credentials: "omit" });
      const text = await response.text();
      const answer = response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : text;
      if (response.ok) return { status: response.status, body: answer, headers: response.headers };
      if (ELSEWHERE.has(response.status)) return String(answer?.message ?? response.status);
      throw new Refused(response.status, answer);
    } catch (error) {
      if (error instanceof Refused) throw error;
      return error instanceof DOMException && error.name === "TimeoutError" ? "no answer in time" : "not reachable";
    }
  }

  /** The JSON of a read. @param {string} target @param {Options} [options] @returns {Promise<any>} */
  async read(target, options = {}) {
    return (await this.request("GET", target, options)).body;
  }

  /** Measure the difference between the clocks of servers and browser. */
  async setClock() {
    const begun = Date.now();
    const answer = await this.read("/time");
    const ended = Date.now();
    this.skew = answer.epoch * 1000 - (begun + ended) / 2;
  }
}
