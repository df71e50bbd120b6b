/**
 * Decimals as whole numbers. A price or a size of the API is text; here it is a BigInt in units of 10^-SCALE, so that sums and comparisons are exact.
 * No currency has more than twelve digits.
 */

export const SCALE = 12;
const ONE = 10n ** BigInt(SCALE);
const FORM = /^(-?)([0-9]+)(?:\.([0-9]+))?$/;

/**
 * Convert a decimal text to units. Throws RangeError if it is not a plain decimal, or has more than SCALE decimal places.
 * @param {string} text
 * @returns {bigint}
 */
export function units(text) {
  const match = FORM.exec(text);
  const fraction = match?.[3] ?? "";
  if (match === null || fraction.length > SCALE) throw new RangeError(`${text} is not a decimal with at most ${SCALE} digits`);
  const value = BigInt(match[2] + fraction.padEnd(SCALE, "0"));
  return match[1] ? -value : value;
}

/**
 * Convert units to text with at least `digits` decimal places.
 * @param {bigint} value
 * @param {number} [digits]
 * @returns {string}
 */
export function text(value, digits = 0) {
  const sign = value < 0n ? "-" : "";
  const all = (value < 0n ? -value : value).toString().padStart(SCALE + 1, "0");
  const fraction = all.slice(-SCALE).replace(/0+$/, "").padEnd(digits, "0");
  return sign + all.slice(0, -SCALE) + (fraction ? `.${fraction}` : "");
}

/**
 * Price times size, exact up to SCALE decimal places, else rounded down.
 * @param {bigint} price
 * @param {bigint} size
 * @returns {bigint}
 */
export function product(price, size) {
  return (price * size) / ONE;
}

/**
 * The nearest JavaScript number, for drawing only.
 * @param {bigint} value
 * @returns {number}
 */
export function approximate(value) {
  return Number(value) / Number(ONE);
}

/**
 * The number of decimal places of an increment such as "0.01".
 * @param {string} increment
 * @returns {number}
 */
export function digits(increment) {
  return increment.replace(/^[0-9]+\.?/, "").replace(/0+$/, "").length;
}

/**
 * Group the thousands of a decimal text with thin spaces.
 * @param {string} plain
 * @returns {string}
 */
export function grouped(plain) {
  const [whole, fraction] = plain.split(".");
  const parted = whole.replace(/\B(?=([0-9]{3})+$)/g, ",");
  return fraction === undefined ? parted : `${parted}.${fraction}`;
}
