/**
 * The order book as in docs/api.md: a snapshot of level 3, and the events of the channel `full` after its sequence.
 */

import { units } from "./decimal.js";

/** @typedef {{price: bigint, size: bigint, orders: number}} Level */
/** @typedef {{side: "buy" | "sell", price: bigint, size: bigint}} Resting */

class Side {
  /** @param {boolean} descending whether the best price is the highest */
  constructor(descending) {
    this.descending = descending;
    /** @type {Map<bigint, Level>} */
    this.levels = new Map();
    /** @type {bigint[]} prices, the best last: most changes are near the end */
    this.prices = [];
  }

  /** @param {bigint} price @param {bigint} size @param {number} orders what is added to the level */
  add(price, size, orders) {
    let level = this.levels.get(price);
    if (level === undefined) {
      level = { price, size: 0n, orders: 0 };
      this.levels.set(price, level);
      this.prices.splice(this.#place(price), 0, price);
    }
    level.size += size;
    level.orders += orders;
    if (level.orders <= 0) {
      this.levels.delete(price);
      this.prices.splice(this.#place(price), 1);
    }
  }

  /** Add an order without keeping the prices in order. @param {bigint} price @param {bigint} size */
  collect(price, size) {
    const level = this.levels.get(price);
    if (level === undefined) {
      this.levels.set(price, { price, size, orders: 1 });
    } else {
      level.size += size;
      level.orders += 1;
    }
  }

  /** Sort the prices after `collect`. */
  sort() {
    this.prices = [...this.levels.keys()].sort((one, other) => (one === other ? 0 : one < other === this.descending ? -1 : 1));
  }

  /** The first place whose price is as good or better. @param {bigint} price */
  #place(price) {
    let low = 0;
    let high = this.prices.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const worse = this.descending ? this.prices[middle] < price : this.prices[middle] > price;
      if (worse) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The best levels first. @param {number} count @returns {Level[]} */
  best(count) {
    const found = [];
    for (let place = this.prices.length - 1; place >= 0 && found.length < count; place -= 1) {
      found.push(/** @type {Level} */ (this.levels.get(this.prices[place])));
    }
    return found;
  }
}

export class Book {
  constructor() {
    /** @type {Map<string, Resting>} */
    this.orders = new Map();
    this.buys = new Side(true);
    this.sells = new Side(false);
    this.sequence = 0;
  }

  /**
   * Begin with an answer of GET /products/{id}/book?level=3.
   * @param {{sequence: number, bids: string[][], asks: string[][]}} snapshot
   */
  load(snapshot) {
    this.orders.clear();
    this.buys = new Side(true);
    this.sells = new Side(false);
    for (const [price, size, id] of snapshot.bids) this.#collect(id, "buy", units(price), units(size));
    for (const [price, size, id] of snapshot.asks) this.#collect(id, "sell", units(price), units(size));
    this.buys.sort();
    this.sells.sort();
    this.sequence = snapshot.sequence;
  }

  /**
   * Apply the next event of the channel `full`. `auction_match`, `received` and other types do not change the book.
   * @param {any} event
   */
  apply(event) {
    this.sequence = event.sequence;
    switch (event.type) {
      case "open":
        this.#put(event.order_id, event.side, units(event.price), units(event.remaining_size));
        break;
      case "match":
        this.#reduce(event.maker_order_id, units(event.size));
        break;
      case "change":
        this.#change(event);
        break;
      case "done":
        this.#remove(event.order_id);
        break;
      default:
    }
  }

  /** @param {"buy" | "sell"} side */
  #side(side) {
    return side === "buy" ? this.buys : this.sells;
  }

  /** Add an order of a snapshot. The prices are sorted after the last one. @param {string} id @param {"buy" | "sell"} side @param {bigint} price @param {bigint} size */
  #collect(id, side, price, size) {
    this.orders.set(id, { side, price, size });
    this.#side(side).collect(price, size);
  }

  /** @param {string} id @param {"buy" | "sell"} side @param {bigint} price @param {bigint} size */
  #put(id, side, price, size) {
    this.#remove(id);
    this.orders.set(id, { side, price, size });
    this.#side(side).add(price, size, 1);
  }

  /** @param {string} id @param {bigint} size */
  #reduce(id, size) {
    const order = this.orders.get(id);
    if (order === undefined) return;
    order.size -= size;
    this.#side(order.side).add(order.price, -size, 0);
  }

  /** Change the size of a resting order. An amended order that loses its priority leaves the book, and enters again with a later event. @param {any} event */
  #change(event) {
    const order = this.orders.get(event.order_id);
    if (order === undefined || event.new_size === undefined) return;
    if (event.requeued) this.#remove(event.order_id);
    else this.#reduce(event.order_id, order.size - units(event.new_size));
  }

  /** @param {string} id */
  #remove(id) {
    const order = this.orders.get(id);
    if (order === undefined) return;
    this.orders.delete(id);
    this.#side(order.side).add(order.price, -order.size, -1);
  }
}
