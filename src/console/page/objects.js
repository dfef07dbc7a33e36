// The objects of a device as a tree: instances, resources, their values and what one can do with them.

import { definition } from "./api.js";
import { openChart, sparkline } from "./chart.js";
import { copyCommand } from "./copy.js";
import { fill, h, keyed } from "./dom.js";
import { counted, moment } from "./format.js";
import { CORE, Lines, resourceOf } from "./lines.js";
import { runLine } from "./results.js";
import { button, dialog, empty, icon, time } from "./ui.js";
import { EMPTY } from "./texts.js";

/** @typedef {import("./lines.js").Line} Line */
/** @typedef {import("./commands.js").Run} Run */
/** @typedef {[name: string, label: string, act: () => void]} Action */

/** @type {[string, string][]} title and class */
const COLUMNS = [
  ["Resource", "name"],
  ["Value", "value num"],
  ["", "trend"],
  ["Age", "age"],
  ["Actions", "acts"],
];
/** Actions with a key. The first two of them are buttons, the others are in the menu. */
const DIRECT = ["read", "write", "execute", "observe"];

/** The tree of one device. */
export class ObjectTree {
  /**
   * @param {import("./commands.js").Commands} commands
   * @param {import("./values.js").Values} values
   * @param {boolean} operator
   */
  constructor(commands, values, operator) {
    this.commands = commands;
    this.values = values;
    this.operator = operator;
    this.lines = new Lines(values);
    this.begun = false;
    /** @type {Map<string, Run>} */
    this.runs = new Map();
    this.body = h("tbody", { role: "rowgroup" });
    const heads = COLUMNS.map(([title, kind]) =>
      h("th", { role: "columnheader", scope: "col", class: kind }, title || h("span.off", "Trend")),
    );
    this.grid = h(
      "table.tree",
      {
        role: "treegrid",
        "aria-label": "Objects",
        onkeydown: (event) => this.key(event),
        onfocusin: (event) => this.rove(event.target.closest("tr")),
      },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
      this.body,
    );
    const oninput = () => {
      this.lines.filter = search.value.trim().toLowerCase();
      this.draw();
    };
    const search = h("input", { placeholder: "Filter by number or name", "aria-label": "Filter resources", oninput });
    const expand = button("Expand all", () => this.all(true));
    const collapse = button("Collapse all", () => this.all(false));
    this.none = h("div");
    this.element = h("div.objects", h("div.toolbar", search, expand, collapse), this.grid, this.none);
  }

  objects() {
    return this.commands.device().objects;
  }

  async load() {
    const objects = this.objects();
    const load = objects.map(async (object) => {
      this.lines.definitions.set(object.id, object.definition ? await definition(object.id, object.definition) : null);
    });
    await Promise.all(load);
    if (!this.begun) this.lines.begin(objects);
    this.begun = true;
    this.draw();
  }

  /** @param {boolean} open */
  all(open) {
    this.lines.open.clear();
    if (open) this.objects().forEach((object) => this.lines.expand(object));
    this.draw();
  }

  draw() {
    const lines = this.lines.of(this.objects());
    keyed(
      this.body,
      lines,
      ({ path }) => path,
      (line) => this.row(line),
      (row, line) => this.refresh(row, line),
    );
    if (!this.body.querySelector("[tabindex='0']")) this.rove(this.body.querySelector("tr"));
    fill(this.none, !lines.length && empty(this.lines.filter ? EMPTY.foundResources : EMPTY.objects));
    this.grid.hidden = !lines.length;
  }

  /** Draws the rows anew and marks those whose value is new. @param {string[]} paths */
  touch(paths) {
    this.draw();
    const marked = new Set(paths.map(resourceOf));
    for (const row of this.body.rows) {
      if (!marked.has(row.dataset.key ?? "")) continue;
      row.cells[1].animate([{ background: "var(--flash)" }, { background: "transparent" }], 900);
    }
  }

  /** @param {Run} run */
  ran(run) {
    this.runs.set(run.path, run);
    this.draw();
  }

  /** @param {Line} line */
  row(line) {
    const { level, path } = line;
    const cells = COLUMNS.map(([, kind]) => h("td", { role: "gridcell", class: kind }));
    // The path of the event: the button itself may have been replaced by now.
    const onclick = (/** @type {MouseEvent} */ event) =>
      level < 3 && !event.composedPath().includes(cells[4]) && this.toggle(path);
    const props = { role: "row", "aria-level": level, "data-row": true, tabindex: "-1", onclick };
    const row = h(`tr.l${level}`, props, cells);
    this.refresh(row, line);
    return row;
  }

  /** @param {HTMLElement} row @param {Line} line */
  refresh(row, line) {
    const state = this.state(line);
    if (row.dataset.state === state) return;
    row.dataset.state = state;
    const [name, value, trend, age, acts] = Array.from(row.children);
    if (line.level < 3) row.setAttribute("aria-expanded", String(this.lines.open.has(line.path)));
    row.classList.toggle("absent", Boolean(line.absent));
    const run = this.runs.get(line.path);
    fill(name, this.title(line), run && h("div.under", runLine(run)));
    if (line.level === 3) this.fillValues(line, value, trend, age);
    // A button that has the focus stays: the row is drawn again when it has lost it.
    if (acts.contains(document.activeElement)) delete row.dataset.state;
    else fill(acts, this.buttons(line));
  }

  /** What a row shows, so that a row is drawn only when it changes. @param {Line} line */
  state({ path, level, absent, hidden }) {
    const run = this.runs.get(path);
    const values = level === 3 && this.values.of(path).map(([at, { text, at: since }]) => [at, text, since]);
    const open = level < 3 && this.lines.open.has(path);
    const shown = [run?.id, run?.command, run?.problem?.message, this.commands.asleep(), this.observedBy(path)];
    return JSON.stringify([open, absent, hidden, values, shown]);
  }

  /** @param {Line} line */
  title({ path, level, object, resource, absent, hidden }) {
    const by = this.observedBy(path);
    const observed =
      by && h("span.tag.eye", { title: "The device notifies when the value changes" }, `observed (${by})`);
    const { id, name, version, instances, defined } = object;
    if (level === 1)
      return h(
        "span.line",
        icon("chevron"),
        h("span.id", String(id)),
        defined ? h("b", name) : h("span.tag.warn", "no definition: put its XML into xml_dir"),
        h("span.muted", `v${version}`),
        instances.length !== 1 && h("span.muted", counted(instances.length, "instance")),
        observed,
      );
    if (level === 2) {
      const absentees =
        hidden &&
        h("span.muted", { title: "The definition has them, but the device does not" }, `${hidden} not on this device`);
      return h("span.line", icon("chevron"), h("code", path), absentees, observed);
    }
    return h(
      "span.line",
      h("span.id", path.split("/")[3]),
      h(
        "span.name",
        resource?.name ?? "unknown resource",
        resource && h("span.ops", { title: "Operations" }, resource.operations || "–"),
      ),
      absent && h("span.tag", "not on this device"),
      observed,
    );
  }

  /** @param {string} path */
  observedBy(path) {
    return this.commands.device().observed.find((one) => one.path === path || one.paths?.includes(path))?.by;
  }

  /** @param {Line} line @param {Element} value @param {Element} trend @param {Element} age */
  fillValues({ path, resource }, value, trend, age) {
    const list = this.values.of(path);
    const units = resource?.units ?? "";
    const shown = list.slice(0, 8).map(([at, { text }]) => {
      const instance = at !== path && h("span.muted", `${at.split("/")[4]}: `);
      const words = text === "" ? "(empty)" : readable(text, resource?.type);
      return h("div.one", instance, h("span.text", words), units && h("span.units", ` ${units}`));
    });
    fill(value, shown, list.length > 8 && h("div.muted", `and ${list.length - 8} more`));
    const points = list[0]?.[1].points ?? [];
    const label = resource?.name ?? path;
    const open = () => openChart(points, label, units);
    const numbers = points.map((point) => point[1]);
    fill(
      trend,
      points.length > 1 &&
        resource?.type !== "Time" &&
        h(
          "button.sparkbutton",
          { type: "button", "aria-label": `Chart of ${label}`, onclick: open },
          sparkline(numbers, label, 96, 24),
        ),
    );
    const newest = list.reduce((latest, [, { at }]) => (at > latest ? at : latest), "");
    fill(age, newest && time(newest, "ago"));
  }

  /** @param {Line} line */
  buttons(line) {
    const actions = this.actions(line);
    const direct = actions
      .filter(([name]) => DIRECT.includes(name))
      .map(([name, label, act], n) =>
        button(label, act, {
          "data-action": name,
          tabindex: "-1",
          "aria-label": `${label} ${line.path}`,
          hidden: n > 1,
        }),
      );
    const menu = () => this.menu(line, actions);
    const more = { class: "quiet more", tabindex: "-1", "aria-label": `More for ${line.path}` };
    return actions.length ? [...direct, button([icon("more")], menu, more)] : direct;
  }

  /** @param {Line} line @returns {Action[]} */
  actions({ path, level, object, resource }) {
    const { commands } = this;
    const operations = resource?.operations ?? (level === 3 ? "RWE" : "RW");
    const can = (/** @type {string} */ operation) => this.operator && operations.includes(operation);
    const by = this.observedBy(path);
    const own = by?.startsWith("console");
    const current = () => this.values.of(path).map(([at, { text }]) => /** @type {[string, string]} */ ([at, text]));
    const definition = this.lines.definitions.get(object.id) ?? null;
    const send = (/** @type {string} */ msgType) => () => commands.send(msgType, { path });
    /** @type {[boolean | undefined, ...Action][]} whether it is there, and the action */
    const all = [
      [can("R"), "read", level < 3 ? "Read all" : "Read", send("read")],
      [can("W") && level === 3, "write", "Write", () => commands.write(path, resource ?? null, current())],
      [can("E") && level === 3, "execute", "Execute", () => commands.execute(path, resource?.name ?? path)],
      [can("R") && !by, "observe", "Observe", send("observe")],
      [can("R") && own, "observe", "Stop", send("cancel-observe")],
      [this.operator, "discover", "Discover", send("discover")],
      [this.operator, "attributes", "Attributes", () => commands.attributes(path)],
      [this.operator && level === 1, "create", "Create an instance", () => commands.create(object.id, definition)],
      [this.operator && level === 2 && object.id !== CORE, "delete", "Delete", () => commands.remove(path)],
    ];
    const list = all.flatMap(([there, ...action]) => (there ? [action] : []));
    const first = list[0]?.[0] ?? "read";
    const copied = first === "write" || first === "execute" ? first : "read";
    if (this.operator || level > 1)
      list.push(["copy", "Copy as CLI / curl / mosquitto_pub", () => copyCommand(commands.device(), copied, { path })]);
    return list;
  }

  /** @param {Line} line @param {Action[]} actions */
  async menu(line, actions) {
    /** @type {(() => void) | undefined} */
    let chosen;
    const choose = (/** @type {() => void} */ act) => (/** @type {any} */ event) => {
      chosen = act;
      event.target.closest("dialog").close();
    };
    const body = h(
      "div.menu",
      actions.map(([, label, act]) => button(label, choose(act))),
    );
    await dialog({ title: line.resource?.name ?? line.path, body });
    chosen?.();
  }

  /** @param {string} path */
  toggle(path) {
    if (!this.lines.open.delete(path)) {
      this.lines.open.add(path);
      const object = this.objects().find(({ id }) => `/${id}` === path);
      if (object) this.lines.expand(object, 4);
    }
    this.draw();
  }

  /** Gives one row the place in the order of the Tab key. @param {HTMLElement | null} row */
  rove(row) {
    for (const other of this.body.rows)
      for (const element of [other, ...other.querySelectorAll("button")]) element.tabIndex = other === row ? 0 : -1;
  }

  /** @param {import("./dom.js").OnElement<KeyboardEvent>} event */
  key(event) {
    const row = event.target.closest("tr");
    if (!row || (event.target.closest("button") && event.key === "Enter")) return;
    const path = row.dataset.key ?? "";
    const open = row.getAttribute("aria-expanded");
    const parent = path.slice(0, path.lastIndexOf("/"));
    const near = {
      ArrowDown: row.nextElementSibling,
      ArrowUp: row.previousElementSibling,
      Home: this.body.firstElementChild,
      End: this.body.lastElementChild,
      ArrowLeft: open === "true" ? null : this.body.querySelector(`[data-key="${parent}"]`),
    }[event.key];
    const toggles = { Enter: open, ArrowRight: open === "false", ArrowLeft: open === "true" }[event.key];
    if (near) /** @type {HTMLElement} */ (near).focus();
    else if (toggles) this.toggle(path);
    else return;
    event.preventDefault();
  }
}

/** @param {string} text @param {string | null | undefined} type @returns {string} a time as people read it */
const readable = (text, type) =>
  type === "Time" && /^\d{9,11}$/.test(text) ? `${moment(Number(text) * 1000)} (${text})` : text;
