// Numbers, durations and times for people.

const COUNT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const SMALL = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });
const SIZES = /** @type {[number, string][]} */ ([
  [1 << 30, "GiB"],
  [1 << 20, "MiB"],
  [1 << 10, "KiB"],
]);

/** @param {number | null | undefined} value */
export function count(value) {
  if (value === null || value === undefined || Number.isNaN(Number(value))) return "–";
  return (Math.abs(value) < 10 ? SMALL : COUNT).format(Number(value));
}

/** @param {number} bytes */
export function size(bytes) {
  const unit = SIZES.find(([least]) => bytes >= least);
  return unit ? `${SMALL.format(bytes / unit[0])} ${unit[1]}` : `${COUNT.format(bytes)} B`;
}

/** @param {number} seconds @returns {string} two units at most: "23 h 59 min" */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return s < 600 && s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 60)} min`;
  if (s < 86400) return joined(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return s < 86400 * 30
    ? joined(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h")
    : `${COUNT.format(s / 86400)} d`;
}

/** @param {number} a @param {string} unit @param {number} b @param {string} smaller */
const joined = (a, unit, b, smaller) => (b ? `${a} ${unit} ${b} ${smaller}` : `${a} ${unit}`);

/** @param {number} seconds @returns {string} the time a command took: "0.41 s" */
export const took = (seconds) => (seconds < 10 ? `${Number(seconds).toFixed(2)} s` : duration(seconds));

/** @param {string | number | Date} at @returns {string} "20:31:05", with the date if it is not today */
export function clock(at) {
  const date = new Date(at);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${day(date)} ${time}`;
}

/** @param {Date} date */
function day(date) {
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/** @param {string | number} at @returns {string} local date and time with seconds */
export const moment = (at) => `${day(new Date(at))} ${new Date(at).toLocaleTimeString("en-GB")}`;

/** @param {string | number} at */
export const secondsSince = (at) => (Date.now() - new Date(at).getTime()) / 1000;

/** @param {string | number} at @returns {string} "3 s ago" */
export function ago(at) {
  const seconds = secondsSince(at);
  return seconds < 1 ? "now" : `${duration(seconds)} ago`;
}

/** @param {string | number} at @returns {string} the time left until then */
export function left(at) {
  const seconds = -secondsSince(at);
  return seconds <= 0 ? "over" : duration(seconds);
}
