// The lines of the object tree: objects, instances and resources, as far as they are open.

/** @typedef {import("./api.js").DeviceObject} DeviceObject */
/** @typedef {import("./api.js").Resource} Resource */
/** @typedef {import("./api.js").Definition} Definition */
/**
 * @typedef {object} Line
 * @property {string} path
 * @property {1 | 2 | 3} level object, instance or resource
 * @property {DeviceObject} object
 * @property {Resource | null} [resource] its definition
 * @property {boolean} [absent] whether the definition has it, but not the device
 * @property {number} [hidden] at an instance: resources that are absent and not shown
 */

/** The object of the device itself; it has one instance. */
export const CORE = 3;

/** What is open, and which resources there are. */
export class Lines {
  /** @param {import("./values.js").Values} values */
  constructor(values) {
    this.values = values;
    /** @type {Map<number, Definition | null>} */
    this.definitions = new Map();
    /** @type {Set<string>} */
    this.open = new Set();
    this.filter = "";
  }

  /** @param {DeviceObject} object @param {number} [most] */
  expand({ id, instances }, most = Infinity) {
    this.open.add(`/${id}`);
    for (const instance of instances.slice(0, most)) this.open.add(`/${id}/${instance}`);
  }

  /** Opens what a person looks at first. @param {DeviceObject[]} objects */
  begin(objects) {
    const own = objects.filter(({ id }) => id > CORE).slice(0, 3);
    for (const object of own.length ? own : objects.slice(-1)) this.expand(object, 4);
  }

  /** @param {DeviceObject[]} objects @returns {Line[]} */
  of(objects) {
    return objects.flatMap((object) => {
      const path = `/${object.id}`;
      const inner = object.instances.flatMap((instance) => this.instance(object, `${path}/${instance}`));
      if (this.filter && !this.found(path, object.name) && !inner.some((line) => line.level === 3)) return [];
      return [{ path, level: 1, object }, ...(this.open.has(path) || this.filter ? inner : [])];
    });
  }

  /** @param {DeviceObject} object @param {string} path @returns {Line[]} */
  instance(object, path) {
    /** @type {Line} */
    const top = { path, level: 2, object };
    if (!this.open.has(path) && !this.filter) return [top];
    const present = this.values.present.get(path);
    const resources = this.definitions.get(object.id)?.resources ?? [];
    const known = new Map(resources.map((resource) => [`${path}/${resource.id}`, resource]));
    const seen = Array.from(this.values.seen.keys(), resourceOf).filter((at) => at.startsWith(`${path}/`));
    const number = (/** @type {string} */ at) => Number(at.split("/")[3]);
    const paths = Array.from(new Set([...known.keys(), ...(present ?? []), ...seen]));
    const lines = [top];
    for (const at of paths.sort((a, b) => number(a) - number(b))) {
      const resource = known.get(at) ?? null;
      if (this.filter && !this.found(at, resource?.name, object.name)) continue;
      const absent = Boolean(present && !present.has(at) && resource?.operations.includes("R"));
      if (absent && !this.filter) top.hidden = (top.hidden ?? 0) + 1;
      else lines.push({ path: at, level: 3, object, resource, absent });
    }
    return lines;
  }

  /** @param {...(string | null | undefined)} words */
  found(...words) {
    return words.join(" ").toLowerCase().includes(this.filter);
  }
}

/** @param {string} path of a resource or of an instance of it */
export const resourceOf = (path) => path.split("/").slice(0, 4).join("/");
