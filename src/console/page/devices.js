// The list of devices: search, filters, pages.

import { get, has, stream } from "./api.js";
import { fill, h } from "./dom.js";
import { count, counted } from "./format.js";
import { EMPTY } from "./texts.js";
import { button, deviceLink, empty, failed, field, loading, select, stateBadge, table, time } from "./ui.js";

/** @typedef {import("./api.js").Row} Row */

const LIMIT = 100;
/** Rows that the page keeps; a longer list starts anew at the next page. */
const SHOWN = 2000;
/** @type {[string, string?][]} */
const COLUMNS = [
  ["Name", "name"],
  ["State", "when"],
  ["Last heard", "num"],
  ["Lifetime left", "num extra"],
  ["Address", "clip"],
  ["Transport"],
  ["Binding", "extra"],
  ["LwM2M", "num extra"],
  ["Identity", "clip extra"],
  ["Pending", "num"],
];
/** @type {[string, string, Record<string, string>][]} name, title and choices of the filters with a choice */
const CHOICES = [
  ["state", "State", { awake: "Awake", asleep: "Asleep" }],
  ["transport", "Transport", { dtls: "DTLS", udp: "UDP" }],
  ["silent", "Silent for", { 60: "1 minute", 3600: "1 hour", 86400: "1 day", 604800: "1 week" }],
];
/** @type {[string, string, string][]} name, title and class of the filters with a text */
const INPUTS = [
  ["object", "Object", "short num"],
  ["address", "Address", "medium"],
  ["identity", "Identity", "medium"],
];

/** @param {{query: URLSearchParams, signal: AbortSignal, prefix: string | null}} context */
export const openDevices = ({ query, signal, prefix }) => new DevicesPage(query, signal, prefix).view;

class DevicesPage {
  /** @param {URLSearchParams} query @param {AbortSignal} signal @param {string | null} prefix */
  constructor(query, signal, prefix) {
    this.signal = signal;
    /** @type {Map<string, HTMLElement>} */
    this.rows = new Map();
    this.examined = 0;
    this.total = 0;
    this.arrived = 0;
    /** @type {string | null} */
    this.next = null;
    /** Number of the request that counts: an answer to an older one is dropped. */
    this.run = 0;
    this.table = table(COLUMNS, "Devices");
    this.foot = h("div.foot", { "aria-live": "polite" });
    this.state = h("div");
    this.fresh = h("div");
    this.search = h("input", {
      type: "search",
      name: "q",
      placeholder: "Name, or part of it",
      value: query.get("q") ?? "",
      "aria-label": "Search by name",
      autocomplete: "off",
      spellcheck: "false",
    });
    this.form = this.filters(query);
    this.wide = h("div.panel.flush.devices", this.table.element);
    const title = h("h1", { tabindex: "-1" }, "Devices");
    const only = prefix && h("span.tag", `only ${prefix}…`);
    const refresh = button("Refresh", () => this.restart());
    const parts = [this.form, this.fresh, this.wide, this.state, this.foot];
    this.view = h("div.page", h("div.title", title, only, refresh), parts);
    if (query.get("focus")) queueMicrotask(() => this.search.focus());
    this.restart();
    if (prefix === null && has("/events")) stream("/events", signal, (event) => this.event(event));
  }

  /** @param {URLSearchParams} query */
  filters(query) {
    const value = (/** @type {string} */ name) => query.get(name) ?? "";
    const onchange = () => this.changed();
    /** @type {number | undefined} */
    let timer;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(onchange, 300);
    });
    const choices = CHOICES.map(([name, title, options]) =>
      field(title, select(options, value(name), { name, onchange }, "Any")),
    );
    const inputs = INPUTS.map(([name, title, kind]) =>
      field(title, h("input", { name, class: kind, value: value(name), onchange, autocomplete: "off" })),
    );
    const checked = value("waiting") === "true";
    const waiting = h("input", { type: "checkbox", name: "waiting", value: "true", checked, onchange });
    const clear = button("Clear", () => this.clear(), { class: "quiet" });
    const used = Array.from(query.keys()).some((name) => name !== "q" && name !== "focus");
    return h(
      "form.filters",
      { role: "search", onsubmit: (event) => (event.preventDefault(), onchange()) },
      this.search,
      h(
        "details",
        { open: used || matchMedia("(min-width: 640px)").matches },
        h("summary", "Filters"),
        h("div.choices", choices, inputs, h("label.check", waiting, "Only with pending commands"), clear),
      ),
    );
  }

  query() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(this.form)) {
      const text = String(value).trim();
      if (text) query.set(name, text);
    }
    return query;
  }

  clear() {
    for (const control of this.form.querySelectorAll("input")) {
      if (control.type === "checkbox") control.checked = false;
      else control.value = "";
    }
    for (const control of this.form.querySelectorAll("select")) control.value = "";
    this.changed();
  }

  changed() {
    const text = this.query().toString();
    history.replaceState(null, "", `#/devices${text ? `?${text}` : ""}`);
    this.restart();
  }

  restart() {
    this.empty();
    this.examined = 0;
    this.arrived = 0;
    this.next = null;
    fill(this.fresh);
    return this.more();
  }

  empty() {
    this.rows.clear();
    this.table.body.replaceChildren();
  }

  async more() {
    const run = ++this.run;
    const query = this.query();
    query.set("limit", String(LIMIT));
    if (this.next) query.set("cursor", this.next);
    if (this.rows.size + LIMIT > SHOWN) this.empty();
    this.wide.hidden = !this.rows.size;
    if (!this.rows.size) fill(this.state, loading("devices"));
    this.busy(true);
    try {
      const page = await get(`/devices?${query}`, this.signal);
      if (run !== this.run) return;
      this.examined += Number(page.examined);
      this.total = Number(page.total);
      this.next = page.next;
      for (const row of page.devices) this.append(row);
      this.drawFoot();
    } catch (problem) {
      if (run !== this.run || this.signal.aborted) return;
      const retry = () => this.more();
      fill(this.state, failed(problem, retry));
      this.busy(false);
    }
  }

  /** @param {Row} row */
  append(row) {
    const link = deviceLink(row.endpoint);
    const cells = [
      link,
      stateOf(row),
      time(row.lastHeard, "ago"),
      time(row.expires, "left"),
      h("span.num", { title: row.address }, row.address),
      row.transport.toUpperCase(),
      row.binding,
      row.lwm2m,
      row.identity && h("span", { title: row.identity }, row.identity),
      row.waiting ? h("b", count(row.waiting)) : h("span.muted", "0"),
    ];
    const onclick = (/** @type {any} */ { target }) =>
      target === link || getSelection()?.toString() || (location.hash = link.hash);
    this.rows.set(row.endpoint, this.table.row(cells, { "data-row": true, onclick }));
  }

  /** @param {boolean} busy */
  busy(busy) {
    this.view.setAttribute("aria-busy", String(busy));
    for (const element of this.foot.querySelectorAll("button")) element.disabled = busy;
  }

  drawFoot() {
    const filtered = this.query().size > 0;
    const none = !this.rows.size && !this.next;
    this.busy(false);
    this.wide.hidden = !this.rows.size;
    const clear = filtered && button("Clear filters", () => this.clear());
    fill(this.state, none && empty(filtered ? EMPTY.found : EMPTY.devices, clear));
    const shown = counted(this.rows.size, "device");
    const of = this.total ? ` of ${count(this.total)}` : "";
    const searched = `${shown} found. Searched ${count(this.examined)}${of}.`;
    const words = !this.next ? `${shown}. That is all.` : filtered ? searched : `${shown}${of}`;
    const more = this.next && button(filtered ? "Go on" : `Next ${LIMIT}`, () => this.more());
    fill(this.foot, !none && h("span.muted", words), more);
  }

  /** Marks what changed, and moves no row. @param {import("./api.js").StreamEvent} event */
  event({ event, data }) {
    const row = this.rows.get(data?.endpoint);
    if (row) {
      if (event === "left" || event === "registered") {
        row.classList.toggle("gone", event === "left");
        fill(row.children[1], event === "left" ? stateBadge("left") : stateOf(data));
      } else if (event === "moved") fill(row.children[4], h("span.num", { title: data.to }, data.to));
    } else if (event === "registered") {
      this.arrived += 1;
      const words = `${counted(this.arrived, "device has", "devices have")} registered since. `;
      const show = button("Show", () => this.restart(), { class: "link" });
      fill(this.fresh, h("div.notice.slim", { role: "status" }, words, show));
    }
  }
}

/** @param {Row} row */
function stateOf({ state, awakeUntil }) {
  const ends = state === "awake" && awakeUntil && new Date(awakeUntil) > new Date();
  return h("span", stateBadge(state), ends && h("span.muted", " ", time(awakeUntil, "left")));
}
