// The list of devices: search, filters, pages.

import { get, has, stream } from "./api.js";
import { fill, h } from "./dom.js";
import { count } from "./format.js";
import { EMPTY } from "./texts.js";
import { button, empty, failed, field, loading, select, stateBadge, table, time } from "./ui.js";

/** @typedef {import("./api.js").Row} Row */

const LIMIT = 100;
/** Rows that the page keeps; a longer list starts anew at the next page. */
const SHOWN = 2000;
/** @type {[string, string?][]} */
const COLUMNS = [
  ["Name", "name"],
  ["State"],
  ["Last heard", "num"],
  ["Lifetime left", "num extra"],
  ["Address", "clip"],
  ["Transport"],
  ["Binding", "extra"],
  ["LwM2M", "num extra"],
  ["Identity", "clip extra"],
  ["Waiting", "num"],
];

/** @param {{query: URLSearchParams, signal: AbortSignal, prefix: string | null}} context */
export function openDevices({ query, signal, prefix }) {
  return new DevicesPage(query, signal, prefix).view;
}

class DevicesPage {
  /** @param {URLSearchParams} query @param {AbortSignal} signal @param {string | null} prefix */
  constructor(query, signal, prefix) {
    this.signal = signal;
    /** @type {Map<string, HTMLElement>} */
    this.rows = new Map();
    this.examined = 0;
    this.pages = 0;
    this.total = 0;
    this.arrived = 0;
    /** @type {string | null} */
    this.next = null;
    this.run = 0;
    this.table = table(COLUMNS, "Devices");
    this.foot = h("div", { class: "foot", "aria-live": "polite" });
    this.state = h("div");
    this.fresh = h("div");
    this.form = this.filters(query);
    this.wide = h("div", { class: "panel flush" }, this.table.element);
    this.view = h(
      "div",
      { class: "page" },
      h(
        "div",
        { class: "title" },
        h("h1", { tabindex: "-1" }, "Devices"),
        prefix && h("span", { class: "tag" }, `only ${prefix}…`),
        button("Refresh", () => this.restart()),
      ),
      this.form,
      this.fresh,
      this.wide,
      this.state,
      this.foot,
    );
    if (query.get("focus")) queueMicrotask(() => this.search?.focus());
    this.restart();
    if (prefix === null && has("/events"))
      stream(
        "/events",
        signal,
        (event) => this.event(event),
        () => {},
      );
  }

  /** @param {URLSearchParams} query */
  filters(query) {
    const value = (/** @type {string} */ name) => query.get(name) ?? "";
    const again = () => this.changed();
    this.search = h("input", {
      type: "search",
      name: "q",
      placeholder: "Name, or part of it",
      value: value("q"),
      "aria-label": "Search by name",
      autocomplete: "off",
      spellcheck: "false",
    });
    /** @type {number | undefined} */
    let timer;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(again, 300);
    });
    const choices = [
      field(
        "State",
        select(
          [
            ["", "Any"],
            ["awake", "Awake"],
            ["asleep", "Asleep"],
            ["joining", "Joining"],
          ],
          value("state"),
          { name: "state", onchange: again },
        ),
      ),
      field(
        "Transport",
        select(
          [
            ["", "Any"],
            ["dtls", "DTLS"],
            ["udp", "UDP"],
          ],
          value("transport"),
          { name: "transport", onchange: again },
        ),
      ),
      field(
        "Silent for",
        select(
          [
            ["", "–"],
            ["60", "1 minute"],
            ["3600", "1 hour"],
            ["86400", "1 day"],
            ["604800", "1 week"],
          ],
          value("silent"),
          { name: "silent", onchange: again },
        ),
      ),
      field(
        "Object",
        h("input", {
          name: "object",
          inputmode: "numeric",
          class: "short num",
          value: value("object"),
          onchange: again,
        }),
      ),
      field(
        "Address",
        h("input", { name: "address", class: "medium", value: value("address"), onchange: again, autocomplete: "off" }),
      ),
      field(
        "Identity",
        h("input", {
          name: "identity",
          class: "medium",
          value: value("identity"),
          onchange: again,
          autocomplete: "off",
        }),
      ),
    ];
    const waiting = h(
      "label",
      { class: "check" },
      h("input", {
        type: "checkbox",
        name: "waiting",
        value: "true",
        checked: value("waiting") === "true",
        onchange: again,
      }),
      "Only with waiting commands",
    );
    const open =
      ["state", "transport", "silent", "object", "address", "identity", "waiting"].some((name) => value(name)) ||
      matchMedia("(min-width: 640px)").matches;
    const form = h(
      "form",
      { class: "filters", role: "search", onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), again()) },
      this.search,
      h(
        "details",
        { open },
        h("summary", {}, "Filters"),
        h(
          "div",
          { class: "choices" },
          choices,
          waiting,
          button("Clear", () => this.clear(), { class: "quiet" }),
        ),
      ),
    );
    return form;
  }

  /** @returns {URLSearchParams} */
  query() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(this.form))
      if (String(value).trim()) query.set(name, String(value).trim());
    return query;
  }

  clear() {
    for (const control of Array.from(this.form.elements)) {
      if (control instanceof HTMLInputElement && control.type === "checkbox") control.checked = false;
      else if (control instanceof HTMLInputElement || control instanceof HTMLSelectElement) control.value = "";
    }
    this.changed();
  }

  changed() {
    const text = this.query().toString();
    history.replaceState(null, "", `#/devices${text ? `?${text}` : ""}`);
    this.restart();
  }

  restart() {
    this.rows.clear();
    this.table.body.replaceChildren();
    this.examined = 0;
    this.pages = 0;
    this.arrived = 0;
    this.next = null;
    fill(this.fresh);
    return this.more();
  }

  async more() {
    const run = ++this.run;
    const query = this.query();
    query.set("limit", String(LIMIT));
    if (this.next) query.set("cursor", this.next);
    if (this.rows.size + LIMIT > SHOWN) {
      this.rows.clear();
      this.table.body.replaceChildren();
    }
    if (!this.rows.size) fill(this.state, loading("devices"));
    this.busy(true);
    try {
      const page = await get(`/devices?${query}`, this.signal);
      if (run !== this.run) return;
      this.examined += Number(page.examined);
      this.pages += 1;
      this.total = Number(page.total);
      this.next = page.next;
      for (const row of page.devices) this.append(row);
      this.drawFoot();
    } catch (problem) {
      if (run !== this.run || this.signal.aborted) return;
      fill(
        this.state,
        failed(problem, () => this.more()),
      );
      this.busy(false);
    }
  }

  /** @param {Row} row */
  append(row) {
    const link = `#/device/${encodeURIComponent(row.endpoint)}`;
    const element = this.table.row(
      [
        h("a", { href: link, title: row.endpoint, class: "clamp" }, row.endpoint),
        this.stateOf(row),
        time(row.lastHeard, "ago"),
        time(row.expires, "left"),
        h("span", { title: row.address, class: "num" }, row.address),
        row.transport.toUpperCase(),
        row.binding,
        row.lwm2m,
        row.identity && h("span", { title: row.identity }, row.identity),
        row.waiting ? h("b", {}, count(row.waiting)) : h("span", { class: "muted" }, "0"),
      ],
      {
        "data-row": true,
        onclick: (/** @type {MouseEvent} */ event) => {
          if (!(/** @type {HTMLElement} */ (event.target).closest("a")) && !getSelection()?.toString())
            location.hash = link;
        },
      },
    );
    this.rows.set(row.endpoint, element);
    this.table.body.append(element);
  }

  /** @param {Row} row */
  stateOf(row) {
    return [
      stateBadge(row.state),
      row.state === "awake" &&
        row.awakeUntil &&
        new Date(row.awakeUntil) > new Date() &&
        h("span", { class: "muted" }, " ", time(row.awakeUntil, "left")),
    ];
  }

  /** @param {boolean} busy */
  busy(busy) {
    this.view.setAttribute("aria-busy", String(busy));
    for (const element of this.foot.querySelectorAll("button")) element.disabled = busy;
  }

  drawFoot() {
    const filtered = this.query().size > 0;
    this.busy(false);
    this.wide.hidden = !this.rows.size;
    fill(
      this.state,
      !this.rows.size &&
        !this.next &&
        empty(filtered ? EMPTY.found : EMPTY.devices, filtered && button("Clear filters", () => this.clear())),
    );
    const shown = `${count(this.rows.size)} ${this.rows.size === 1 ? "device" : "devices"}`;
    const of = this.total ? ` of ${count(this.total)}` : "";
    const words =
      this.next && filtered
        ? `${shown} found. Searched ${count(this.examined)}${of}.`
        : this.next
          ? `${shown}${of}`
          : `${shown}. That is all.`;
    fill(
      this.foot,
      h("span", { class: "muted" }, words),
      this.next && button(filtered ? "Go on" : `Next ${LIMIT}`, () => this.more()),
    );
  }

  /** @param {import("./api.js").StreamEvent} event */
  event({ event, data }) {
    const row = this.rows.get(data?.endpoint ?? "");
    if (event === "left" && row) {
      row.classList.add("gone");
      fill(row.children[1], stateBadge("left"));
    } else if (event === "registered" && row) {
      row.classList.remove("gone");
      fill(row.children[1], this.stateOf(data));
    } else if (event === "moved" && row) fill(row.children[4], h("span", { title: data.to, class: "num" }, data.to));
    else if (event === "registered") {
      this.arrived += 1;
      fill(
        this.fresh,
        h(
          "div",
          { class: "notice slim", role: "status" },
          `${count(this.arrived)} ${this.arrived === 1 ? "device has" : "devices have"} registered since. `,
          button("Show", () => this.restart(), { class: "link" }),
        ),
      );
    }
  }
}
