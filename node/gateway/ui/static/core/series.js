/**
 * Columns of values over time for a chart, with a bound on the number of rows.
 */

export class Series {
  /** @param {number} columns besides the time @param {number} kept rows */
  constructor(columns, kept) {
    this.kept = kept;
    /** @type {(number | null)[][]} the times in seconds first */
    this.data = Array.from({ length: columns + 1 }, () => []);
  }

  /** @param {number} time in seconds @param {(number | null)[]} values one a column */
  add(time, values) {
    [time, ...values].forEach((value, column) => {
      this.data[column].push(value);
      if (this.data[column].length > this.kept) this.data[column].shift();
    });
  }
}
