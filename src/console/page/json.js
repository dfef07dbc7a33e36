// JSON that keeps the digits of numbers. LwM2M has 64-bit integers, which JavaScript numbers cannot hold.

const MARK = "\u0000#";
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** A number as it stands in the JSON text. */
export class Digits {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
  toString() {
    return this.text;
  }
  valueOf() {
    return Number(this.text);
  }
  toJSON() {
    return this.text;
  }
}

/**
 * Parses JSON. A number whose JavaScript form has other digits becomes `Digits`.
 * @param {string} text
 * @returns {any}
 */
export function parse(text) {
  const marked = text.replace(TOKEN, (token) =>
    token[0] === '"' || String(Number(token)) === token ? token : `"\\u0000#${token}"`,
  );
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(MARK) ? new Digits(value.slice(MARK.length)) : value,
  );
}

/** Parses JSON, and returns null if it is none. @param {string} text @returns {any} */
export function quietly(text) {
  try {
    return parse(text);
  } catch {
    return null;
  }
}

/**
 * Returns a JSON value as text for people: strings without quotation marks.
 * @param {any} value
 * @returns {string}
 */
export function show(value) {
  if (value === null || value === undefined) return "";
  if (value instanceof Digits || typeof value !== "object") return String(value);
  if (typeof value.bytes === "number") return `${value.bytes} bytes`;
  return compact(value);
}

/**
 * Returns the JSON text of a value, with the digits of its numbers.
 * @param {any} value
 * @returns {string}
 */
export function compact(value) {
  if (value instanceof Digits) return value.text;
  if (Array.isArray(value)) return `[${value.map(compact).join(",")}]`;
  if (value && typeof value === "object") {
    const members = Object.entries(value).filter(([, member]) => member !== undefined);
    return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${compact(member)}`).join(",")}}`;
  }
  return JSON.stringify(value ?? null);
}

/**
 * Returns the number in a value, or null if it is not a number.
 * @param {any} value
 * @returns {number | null}
 */
export function numeric(value) {
  return typeof value === "number" || value instanceof Digits ? Number(value) : null;
}
