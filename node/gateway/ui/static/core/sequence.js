/**
 * Checks the sequences of one product's events: each is one more than the previous one, on every node.
 */

export class SequenceCounter {
  constructor() {
    this.last = 0;
    this.seen = 0;
    this.gaps = 0;
    this.repeated = 0;
    /** @type {{at: number, from: string, to: string, sequence: number}[]} nodes that the feed moved between, the latest last */
    this.moves = [];
  }

  /** Begin after a book's sequence. @param {number} sequence */
  begin(sequence) {
    this.last = sequence;
  }

  /** The sequence to request from the next node. */
  get next() {
    return this.last + 1;
  }

  /**
   * Check an event's sequence.
   * @param {number} sequence
   * @returns {"next" | "old" | "gap"} what it is: the one that was expected, one that came before, or a later one
   */
  take(sequence) {
    if (sequence <= this.last) {
      this.repeated += 1;
      return "old";
    }
    if (sequence !== this.last + 1) {
      this.gaps += 1;
      return "gap";
    }
    this.last = sequence;
    this.seen += 1;
    return "next";
  }

  /** Record that the feed continues at another node. @param {string} from @param {string} to @param {number} at milliseconds */
  moved(from, to, at) {
    this.moves.push({ at, from, to, sequence: this.next });
    if (this.moves.length > MOVES_KEPT) this.moves.shift();
  }
}

const MOVES_KEPT = 20;
