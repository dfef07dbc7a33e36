// The values of resources that passed while the page was open. The gateway keeps none.

import { numeric, quietly, show } from "./json.js";

/** @typedef {import("./chart.js").Point} Point */
/** @typedef {{value: any, text: string, at: string, points: Point[]}} Seen */

const POINTS = 300;
const DEVICES = 8;
/** @type {Map<string, Values>} */
const all = new Map();

/** The last values of one device, by path. */
export class Values {
  constructor() {
    /** @type {Map<string, Seen>} */
    this.seen = new Map();
    /**
     * Paths of resources by instance, as Discover or a Read of the instance told them.
     * @type {Map<string, Set<string>>}
     */
    this.present = new Map();
  }

  /**
   * Takes the values of a publication.
   * @param {any} payload
   * @param {string} at
   * @returns {string[]} the paths that have new values
   */
  take(payload, at) {
    const message = typeof payload === "string" ? quietly(payload) : payload;
    const content = message?.data?.content;
    if (!Array.isArray(content)) return [];
    const paths = [];
    for (const entry of content) {
      if (typeof entry?.path !== "string" || entry.value === undefined) continue;
      this.put(entry.path, entry.value, entry.time ? new Date(Number(entry.time) * 1000).toISOString() : at);
      paths.push(entry.path);
    }
    this.learn(message.msgType, message.data, content);
    return paths;
  }

  /** @param {string} path @param {any} value @param {string} at */
  put(path, value, at) {
    const points = this.seen.get(path)?.points ?? [];
    const number = numeric(value);
    if (number !== null) points.push([new Date(at).getTime(), number, show(value)]);
    if (points.length > POINTS) points.shift();
    this.seen.set(path, { value, text: show(value), at, points });
  }

  /** @param {string} msgType @param {any} data @param {any[]} content */
  learn(msgType, data, content) {
    const base = String(data.reqPath ?? "");
    if (!/^\/\d+\/\d+$/.test(base) || !String(data.code).startsWith("2.")) return;
    const links = content.map((entry) => (typeof entry === "string" ? /<([^>]*)>/.exec(entry)?.[1] : entry.path));
    const found = links
      .filter((path) => path?.startsWith(`${base}/`))
      .map((path) => path.split("/").slice(0, 4).join("/"));
    if (msgType === "discover" || msgType === "read") this.present.set(base, new Set(found));
  }

  /** @param {string} path @returns {[string, Seen][]} the value of a resource, or those of its instances */
  of(path) {
    const one = this.seen.get(path);
    if (one) return [[path, one]];
    return Array.from(this.seen).filter(([other]) => other.startsWith(`${path}/`));
  }
}

/** @param {string} endpoint */
export function valuesOf(endpoint) {
  const values = all.get(endpoint) ?? new Values();
  all.delete(endpoint);
  all.set(endpoint, values);
  if (all.size > DEVICES) all.delete(all.keys().next().value ?? "");
  return values;
}
