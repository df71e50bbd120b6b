/**
 * The user's API key. Only this object holds it, and no storage, cookie or URL does. A reload drops it.
 * The secret becomes a WebCrypto key that can sign and cannot be exported.
 */

/** @typedef {{account: string, permissions: string[], operator: boolean}} Holder what the exchange says of the key */

const HMAC = { name: "HMAC", hash: "SHA-256" };

/** Whether the browser provides WebCrypto, which needs HTTPS or a local page. */
export function canSign() {
  return globalThis.crypto?.subtle !== undefined;
}

/** @param {string} text in base64 @returns {Uint8Array<ArrayBuffer>} */
function bytes(text) {
  let plain;
  try {
    plain = atob(text.trim());
  } catch {
    throw new Error("The secret is not base64. Copy all of it, also the = at its end.");
  }
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

/** @param {ArrayBuffer} data @returns {string} */
function base64(data) {
  return btoa(String.fromCharCode(...new Uint8Array(data)));
}

export class Keys extends EventTarget {
  #id = "";
  #passphrase = "";
  /** @type {CryptoKey | null} */
  #secret = null;
  /** @type {Holder} */
  holder = { account: "", permissions: [], operator: false };

  /** Whether a key is set. */
  get present() {
    return this.#secret !== null;
  }

  get id() {
    return this.#id;
  }

  /**
   * Set the key. Throws Error if the secret does not have the form of the exchange's secrets.
   * @param {string} id
   * @param {string} secret
   * @param {string} passphrase
   */
  async take(id, secret, passphrase) {
    if (!canSign()) throw new Error("This browser signs on HTTPS only. Open the page by its https address, or on the node's own machine.");
    const raw = bytes(secret);
    this.#secret = await crypto.subtle.importKey("raw", raw, HMAC, false, ["sign"]);
    raw.fill(0);
    this.#id = id.trim();
    this.#passphrase = passphrase;
    this.holder = { account: "", permissions: [], operator: false };
  }

  /** Whether the key has a permission of the operator. @param {string} permission @returns {boolean} */
  may(permission) {
    return this.holder.permissions.includes(permission) || this.holder.permissions.includes("admin");
  }

  /** Notify the listeners of a change of the key or its holder. */
  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Drop the key. */
  forget() {
    this.#secret = null;
    this.#id = this.#passphrase = "";
    this.holder = { account: "", permissions: [], operator: false };
    this.changed();
  }

  /**
   * The signature of a request at a time in seconds (docs/api.md).
   * @param {string} method
   * @param {string} target
   * @param {string} body
   * @param {string} timestamp
   */
  async sign(method, target, body, timestamp) {
    if (this.#secret === null) throw new Error("Enter an API key first.");
    const message = new TextEncoder().encode(timestamp + method + target + body);
    return base64(await crypto.subtle.sign("HMAC", this.#secret, message));
  }

  /**
   * The headers of a signed request.
   * @param {string} method
   * @param {string} target
   * @param {string} body
   * @param {string} timestamp
   * @returns {Promise<Record<string, string>>}
   */
  async headers(method, target, body, timestamp) {
    return {
      "CB-ACCESS-KEY": this.#id,
      "CB-ACCESS-SIGN": await this.sign(method, target, body, timestamp),
      "CB-ACCESS-TIMESTAMP": timestamp,
      "CB-ACCESS-PASSPHRASE": this.#passphrase,
    };
  }

  /**
   * The fields that sign a subscription.
   * @param {string} timestamp
   * @returns {Promise<Record<string, string>>}
   */
  async subscription(timestamp) {
    const signature = await this.sign("GET", "/users/self/verify", "", timestamp);
    return { key: this.#id, passphrase: this.#passphrase, timestamp, signature };
  }
}
