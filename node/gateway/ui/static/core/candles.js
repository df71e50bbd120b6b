/**
 * Candles computed from trades, or candles of GET /products/{id}/candles continued by trades. Numbers are approximate, because they are only drawn.
 */

/** @typedef {{time: number, open: number, high: number, low: number, close: number, volume: number}} Bar */
/** @typedef {{time: number, price: number, size: number}} Deal `time` in seconds */

const BARS_MAX = 5_000;

export class Candles {
  /** @param {number} seconds of one bar */
  constructor(seconds) {
    this.seconds = seconds;
    /** @type {Bar[]} oldest first */
    this.bars = [];
  }

  /**
   * Begin with rows of the API, newest first: [time, low, high, open, close, volume].
   * @param {(string | number)[][]} rows
   */
  load(rows) {
    this.bars = rows
      .map(([time, low, high, open, close, volume]) => ({
        time: Number(time),
        open: Number(open),
        high: Number(high),
        low: Number(low),
        close: Number(close),
        volume: Number(volume),
      }))
      .reverse();
  }

  /**
   * Add a trade. A trade that is older than the last bar is ignored, because bars are drawn in order.
   * @param {Deal} deal
   * @returns {Bar | null} the bar that changed
   */
  add(deal) {
    const time = Math.floor(deal.time / this.seconds) * this.seconds;
    const last = this.bars.at(-1);
    if (last !== undefined && time < last.time) return null;
    if (last !== undefined && time === last.time) {
      last.high = Math.max(last.high, deal.price);
      last.low = Math.min(last.low, deal.price);
      last.close = deal.price;
      last.volume += deal.size;
      return last;
    }
    const bar = { time, open: deal.price, high: deal.price, low: deal.price, close: deal.price, volume: deal.size };
    this.bars.push(bar);
    if (this.bars.length > BARS_MAX) this.bars.shift();
    return bar;
  }
}
