// Inputs for values by their type. Numbers travel as text: 64 bits do not fit a JavaScript number.

import { h } from "./dom.js";
import { button, select } from "./ui.js";

/** @typedef {{element: HTMLElement, value: () => any | Promise<any>}} Input */

export const TYPES = [
  "String",
  "Integer",
  "Unsigned Integer",
  "Float",
  "Boolean",
  "Time",
  "Opaque",
  "Objlnk",
  "Corelnk",
];

/** @type {Record<string, [bigint, bigint]>} */
const BITS = { Integer: [-(2n ** 63n), 2n ** 63n - 1n], "Unsigned Integer": [0n, 2n ** 64n - 1n] };

/** @param {string} words */
const wrong = (words) => new Error(words);

/** @param {string | null | undefined} range @returns {[string, string] | null} */
function limits(range) {
  const found = /^\s*([-+]?[\d.]+)\s*(?:\.\.\.?|-|to)\s*([-+]?[\d.]+)\s*$/.exec(
    (range ?? "").replace(/(\d)\.\.(\d)/, "$1 .. $2"),
  );
  return found && [found[1], found[2]];
}

/** @param {string} type @param {{range?: string | null, current?: string, label: string}} about @returns {Input} */
function number(type, { range, current, label }) {
  const field = h("input.num", {
    inputmode: type === "Float" ? "decimal" : "numeric",
    autocomplete: "off",

    "aria-label": label,
    value: current ?? "",
  });
  const bounds = limits(range);
  const value = () => {
    const text = field.value.trim();
    if (type === "Float") {
      if (!/^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/.test(text))
        throw wrong(`"${text}" is not a number. Write it like 21.5`);
      if (bounds && (Number(text) < Number(bounds[0]) || Number(text) > Number(bounds[1])))
        throw wrong(`${text} is outside ${bounds.join(" to ")}`);
      return text;
    }
    if (!/^[-+]?\d+$/.test(text)) throw wrong(`"${text}" is not a whole number`);
    const whole = BigInt(text.replace(/^\+/, ""));
    const [least, most] = bounds?.every((bound) => /^[-+]?\d+$/.test(bound))
      ? bounds.map((bound) => BigInt(bound))
      : BITS[type];
    if (whole < least || whole > most) throw wrong(`${text} is outside ${least} to ${most}`);
    return String(whole);
  };
  return { element: field, value };
}

/** @param {{current?: string, label: string}} about @returns {Input} */
function time({ current, label }) {
  const field = h("input", { type: "datetime-local", step: "1", "aria-label": label });
  const set = (/** @type {number} */ seconds) => {
    const local = new Date(seconds * 1000);
    field.value = new Date(local.getTime() - local.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
  };
  if (current && /^\d+$/.test(current)) set(Number(current));
  const value = () => {
    const at = new Date(field.value).getTime();
    if (Number.isNaN(at)) throw wrong("Choose a date and a time");
    return String(Math.floor(at / 1000));
  };
  return {
    element: h(
      "span.row",
      field,
      button("Now", () => set(Date.now() / 1000)),
    ),
    value,
  };
}

/** @param {Uint8Array} bytes */
function base64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** @param {{label: string}} about @returns {Input} */
function opaque({ label }) {
  const text = h("textarea.mono", { rows: "3", spellcheck: "false", "aria-label": label });
  const file = h("input", { type: "file", hidden: true, "aria-label": `${label}, file` });
  const onchange = () => {
    text.hidden = form.value === "file";
    file.hidden = !text.hidden;
  };
  const forms = { hex: "Hex", base64: "Base64", file: "File" };
  const form = select(forms, "hex", { "aria-label": "Form of the bytes", onchange });
  const value = async () => {
    if (form.value === "file") {
      const chosen = file.files?.[0];
      if (!chosen) throw wrong("Choose a file");
      return base64(new Uint8Array(await chosen.arrayBuffer()));
    }
    const compact = text.value.replace(/[\s:]/g, "");
    if (form.value === "base64") {
      if (!/^[A-Za-z0-9+/]*={0,2}$/.test(compact) || compact.length % 4) throw wrong("This is not base64");
      return compact;
    }
    if (!/^([0-9a-fA-F]{2})*$/.test(compact)) throw wrong("This is not hex: two digits for each byte");
    return base64(Uint8Array.from(compact.match(/../g) ?? [], (pair) => parseInt(pair, 16)));
  };
  return { element: h("span.stack", form, text, file), value };
}

/** @param {{current?: string, label: string}} about @returns {Input} */
function link({ current, label }) {
  const [object, instance] = (current ?? "").split(":");
  const parts = [object, instance].map((part, n) =>
    h("input.num.short", {
      inputmode: "numeric",
      value: part ?? "",
      "aria-label": `${label}, ${n ? "instance" : "object"}`,
    }),
  );
  const value = () => {
    if (parts.some((part) => !/^\d{1,5}$/.test(part.value.trim()) || Number(part.value) > 65535))
      throw wrong("Both numbers are 0 to 65535");
    return parts.map((part) => part.value.trim()).join(":");
  };
  return { element: h("span.row", parts[0], ":", parts[1]), value };
}

/**
 * Creates the input for one value.
 * @param {string} type
 * @param {{range?: string | null, current?: string, label: string}} about
 * @returns {Input}
 */
export function input(type, about) {
  switch (type) {
    case "Integer":
    case "Unsigned Integer":
    case "Float":
      return number(type, about);
    case "Boolean": {
      const box = h("input.switch", {
        type: "checkbox",
        role: "switch",

        checked: about.current === "true",
        "aria-label": about.label,
      });
      const word = h("span", box.checked ? "true" : "false");
      box.addEventListener("change", () => (word.textContent = String(box.checked)));
      return { element: h("label.row", box, word), value: () => box.checked };
    }
    case "Time":
      return time(about);
    case "Opaque":
      return opaque(about);
    case "Objlnk":
      return link(about);
    default: {
      const text = h("input", { autocomplete: "off", "aria-label": about.label, value: about.current ?? "" });
      return { element: text, value: () => text.value };
    }
  }
}

/**
 * An input with a choice of its type, for a resource without a definition.
 * @param {{label: string, current?: string}} about
 */
export function untyped(about) {
  let inner = input("String", about);
  const place = h("span.stack", inner.element);
  const onchange = () => {
    inner = input(type.value, about);
    place.replaceChildren(inner.element);
  };
  const types = Object.fromEntries(TYPES.map((name) => [name, name]));
  const type = select(types, "String", { "aria-label": "Type", onchange });
  return { element: h("span.stack", type, place), value: () => inner.value(), type: () => type.value };
}

/**
 * Rows of resource instances.
 * @param {string} type
 * @param {{range?: string | null, label: string}} about
 * @param {[string, string][]} current instance ID and value
 */
export function several(type, about, current) {
  /** @type {{id: HTMLInputElement, input: Input, row: HTMLElement}[]} */
  const rows = [];
  const list = h("div.stack");
  const append = (/** @type {string} */ id, /** @type {string | undefined} */ value) => {
    const entry = {
      id: h("input.num.short", { inputmode: "numeric", value: id, "aria-label": "Instance" }),
      input: input(type, { ...about, current: value }),
      row: h("div.row"),
    };
    const remove = () => {
      rows.splice(rows.indexOf(entry), 1);
      entry.row.remove();
    };
    entry.row.append(entry.id, entry.input.element, button("Remove", remove, { class: "quiet" }));
    rows.push(entry);
    list.append(entry.row);
  };
  for (const [id, value] of current.length ? current : [["0", ""]]) append(id, value);
  const next = () => String(Math.max(-1, ...rows.map((row) => Number(row.id.value) || 0)) + 1);
  const value = async () => {
    const entries = [];
    for (const row of rows) entries.push([row.id.value.trim(), await row.input.value()]);
    if (entries.some(([id]) => !/^\d{1,5}$/.test(id))) throw wrong("The number of an instance is 0 to 65535");
    return entries;
  };
  return {
    element: h(
      "div.stack",
      list,
      button("Add an instance", () => append(next(), "")),
    ),
    value,
  };
}
