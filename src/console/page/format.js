// Numbers, durations and times for people.

const COUNT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const SMALL = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });
const SIZES = /** @type {[number, string][]} */ ([
  [1 << 30, "GiB"],
  [1 << 20, "MiB"],
  [1 << 10, "KiB"],
]);

/** @param {any} value */
export function count(value) {
  const number = Number(value ?? NaN);
  return Number.isNaN(number) ? "–" : (Math.abs(number) < 10 ? SMALL : COUNT).format(number);
}

/** @param {number} n @param {string} one @param {string} [many] @returns {string} "1 device", "2 devices" */
export const counted = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** @param {number} bytes */
export function size(bytes) {
  const unit = SIZES.find(([least]) => bytes >= least);
  return unit ? `${SMALL.format(bytes / unit[0])} ${unit[1]}` : `${COUNT.format(bytes)} B`;
}

/** @param {number} seconds @returns {string} two units at most: "23 h 59 min" */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return joined(s, 60, "min", s < 600 ? 1 : 60, "s");
  if (s < 86400) return joined(s, 3600, "h", 60, "min");
  return joined(s, 86400, "d", s < 86400 * 30 ? 3600 : 86400, "h");
}

/** @param {number} s @param {number} large @param {string} unit @param {number} small @param {string} smaller */
function joined(s, large, unit, small, smaller) {
  const rest = Math.floor((s % large) / small);
  return rest && large !== small
    ? `${Math.floor(s / large)} ${unit} ${rest} ${smaller}`
    : `${Math.floor(s / large)} ${unit}`;
}

/** @param {any} seconds @returns {string} the time a command took: "410 ms" */
export const took = (seconds) =>
  seconds < 1
    ? `${Math.ceil(seconds * 1000)} ms`
    : seconds < 10
      ? `${Number(seconds).toFixed(2)} s`
      : duration(Number(seconds));

/** @param {number} n */
const two = (n) => String(n).padStart(2, "0");

/** @param {string | number} at @returns {string} local date and time with seconds */
export function moment(at) {
  const date = new Date(at);
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${date.toLocaleTimeString("en-GB")}`;
}

/** @param {string | number} at @returns {string} "20:31:05", with the date if it is not today */
export function clock(at) {
  const date = new Date(at);
  return date.toDateString() === new Date().toDateString() ? date.toLocaleTimeString("en-GB") : moment(at);
}

/** @param {string} at @returns {string} "3 s ago", in one unit: what changes every second is not read */
export function ago(at) {
  const seconds = (Date.now() - new Date(at).getTime()) / 1000;
  return seconds < 1 ? "now" : `${duration(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

/** @param {string} at @returns {string} the time left until then */
export function left(at) {
  const seconds = (new Date(at).getTime() - Date.now()) / 1000;
  return seconds <= 0 ? "over" : duration(seconds);
}
