// The objects of a device as a tree: instances, resources, their values and what one can do with them.

import { definition } from "./api.js";
import { openChart, sparkline } from "./chart.js";
import { copyAs, runLine } from "./commands.js";
import { fill, h, keyed } from "./dom.js";
import { moment } from "./format.js";
import { button, dialog, empty, icon, time } from "./ui.js";
import { EMPTY } from "./texts.js";

/** @typedef {import("./api.js").Definition} Definition */
/** @typedef {import("./api.js").Resource} Resource */
/** @typedef {import("./api.js").DeviceObject} DeviceObject */
/** @typedef {import("./commands.js").Run} Run */
/**
 * @typedef {{path: string, level: 1 | 2 | 3, object: DeviceObject, resource?: Resource | null, absent?: boolean,
 *  hidden?: number}} Line
 */
/** @typedef {[name: string, label: string, act: () => void]} Action */

const CORE = 3;

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
    /** @type {Map<number, Definition | null>} */
    this.definitions = new Map();
    /** @type {Set<string>} */
    this.open = new Set();
    this.chosen = false;
    this.filter = "";
    /** @type {Map<string, Run>} */
    this.runs = new Map();
    this.body = h("tbody", { role: "rowgroup" });
    const head = ["Resource", "Value", "", "Age", "Actions"].map((title, n) =>
      h(
        "th",
        { role: "columnheader", scope: "col", class: ["", "num", "trend", "age", "acts"][n] },
        title || h("span", { class: "off" }, "Trend"),
      ),
    );
    this.grid = h(
      "table",
      {
        role: "treegrid",
        class: "tree",
        "aria-label": "Objects",
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
        onfocusin: (/** @type {FocusEvent} */ event) => this.rove(event),
      },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
      this.body,
    );
    const search = h("input", {
      type: "text",
      placeholder: "Filter by number or name",
      "aria-label": "Filter resources",
      oninput: () => {
        this.filter = search.value.trim().toLowerCase();
        this.draw();
      },
    });
    this.none = h("div");
    this.element = h(
      "div",
      { class: "objects" },
      h(
        "div",
        { class: "toolbar" },
        search,
        button("Expand all", () => this.all(true)),
        button("Collapse all", () => this.all(false)),
      ),
      this.grid,
      this.none,
    );
  }

  async load() {
    const objects = this.commands.device().objects;
    await Promise.all(
      objects.map(async (object) => {
        this.definitions.set(object.id, object.defined ? await definition(object.id, object.version) : null);
      }),
    );
    if (!this.chosen && objects.length) {
      this.chosen = true;
      const own = objects.filter((object) => object.id > CORE);
      const shown = own.slice(0, 3);
      for (const object of shown.length ? shown : objects.slice(-1)) this.expand(object);
    }
    this.draw();
  }

  /** @param {DeviceObject} object */
  expand(object) {
    this.open.add(`/${object.id}`);
    for (const instance of object.instances.slice(0, object.id === CORE ? 1 : 4))
      this.open.add(`/${object.id}/${instance}`);
  }

  /** @param {boolean} open */
  all(open) {
    this.open.clear();
    if (open)
      for (const object of this.commands.device().objects) {
        this.open.add(`/${object.id}`);
        for (const instance of object.instances) this.open.add(`/${object.id}/${instance}`);
      }
    this.draw();
  }

  /** @returns {Line[]} */
  lines() {
    /** @type {Line[]} */
    const lines = [];
    for (const object of this.commands.device().objects) {
      const top = `/${object.id}`;
      const inner = object.instances.flatMap((instance) => this.instance(object, `${top}/${instance}`));
      const named = `${top} ${object.name ?? ""}`.toLowerCase().includes(this.filter);
      if (this.filter && !named && !inner.some((line) => line.level === 3)) continue;
      lines.push({ path: top, level: 1, object });
      if (this.open.has(top) || this.filter) lines.push(...inner);
    }
    return lines;
  }

  /** @param {DeviceObject} object @param {string} path @returns {Line[]} */
  instance(object, path) {
    /** @type {Line[]} */
    const lines = [{ path, level: 2, object }];
    if (!this.open.has(path) && !this.filter) return lines;
    const present = this.values.present.get(path);
    const known = new Map(
      (this.definitions.get(object.id)?.resources ?? []).map((resource) => [`${path}/${resource.id}`, resource]),
    );
    const seen = Array.from(this.values.seen.keys(), (at) => at.split("/").slice(0, 4).join("/"));
    const paths = new Set([...known.keys(), ...(present ?? []), ...seen.filter((at) => at.startsWith(`${path}/`))]);
    const number = (/** @type {string} */ at) => Number(at.split("/")[3]);
    for (const at of Array.from(paths).sort((a, b) => number(a) - number(b))) {
      const resource = known.get(at) ?? null;
      const name = `${at} ${resource?.name ?? ""} ${object.name ?? ""}`.toLowerCase();
      if (this.filter && !name.includes(this.filter)) continue;
      const absent = Boolean(present && !present.has(at) && resource?.operations.includes("R"));
      if (absent && !this.filter) lines[0].hidden = (lines[0].hidden ?? 0) + 1;
      else lines.push({ path: at, level: 3, object, resource, absent });
    }
    return lines;
  }

  draw() {
    const lines = this.lines();
    keyed(
      this.body,
      lines,
      (line) => line.path,
      (line) => this.row(line),
      (row, line) => this.refresh(row, line),
    );
    const rows = Array.from(this.body.querySelectorAll("tr"));
    if (rows.length && !rows.some((row) => row.tabIndex === 0)) rows[0].tabIndex = 0;
    fill(
      this.none,
      !lines.length && empty(this.filter ? ["No resource matches", "Change or clear the filter."] : EMPTY.objects),
    );
    this.grid.hidden = !lines.length;
  }

  /** Draws the rows of some paths anew. @param {string[]} paths @param {boolean} [flash] */
  touch(paths, flash) {
    this.draw();
    if (!flash) return;
    for (const path of paths) {
      const key = path.split("/").slice(0, 4).join("/");
      const row = Array.from(this.body.children).find(
        (child) => /** @type {HTMLElement} */ (child).dataset.key === key,
      );
      row?.querySelector(".value")?.animate([{ background: "var(--flash)" }, { background: "transparent" }], 900);
    }
  }

  /** @param {Run} run */
  ran(run) {
    this.runs.set(run.path, run);
    this.draw();
  }

  /** @param {Line} line */
  row(line) {
    const cells = ["name", "value num", "trend", "age", "acts"].map((kind) =>
      h("td", { role: "gridcell", class: kind }),
    );
    const row = h(
      "tr",
      { role: "row", "aria-level": line.level, "data-row": true, tabindex: "-1", class: `l${line.level}` },
      cells,
    );
    if (line.level < 3)
      row.addEventListener("click", (event) => {
        // The path of the event: the button itself may have been replaced by now.
        if (!event.composedPath().includes(cells[4])) this.toggle(line.path);
      });
    this.refresh(row, line);
    return row;
  }

  /** @param {HTMLElement} row @param {Line} line */
  refresh(row, line) {
    const state = this.state(line);
    if (row.dataset.state === state) return;
    row.dataset.state = state;
    const [name, value, trend, age, acts] = Array.from(row.children);
    if (line.level < 3) row.setAttribute("aria-expanded", String(this.open.has(line.path)));
    row.classList.toggle("absent", Boolean(line.absent));
    const run = this.runs.get(line.path);
    fill(name, this.title(line), run && h("div", { class: "under" }, runLine(run)));
    if (line.level === 3) this.values3(line, value, trend, age);
    if (!acts.contains(document.activeElement)) fill(acts, this.buttons(line));
    else delete row.dataset.state;
  }

  /** What a row shows, so that a row is drawn only when it changes. @param {Line} line */
  state(line) {
    const run = this.runs.get(line.path);
    return JSON.stringify([
      line.level < 3 && this.open.has(line.path),
      line.absent,
      line.hidden,
      run?.id,
      run?.command,
      run?.problem?.message,
      this.commands.asleep(),
      line.level === 3 && this.values.of(line.path).map(([path, seen]) => [path, seen.text, seen.at]),
      this.observedBy(line.path),
    ]);
  }

  /** @param {Line} line */
  title({ path, level, object, resource, absent, hidden }) {
    const by = this.observedBy(path);
    const observed =
      by && h("span", { class: "tag eye", title: "The device notifies when the value changes" }, `observed (${by})`);
    const expander = level < 3 && icon("chevron");
    if (level === 1)
      return h(
        "span",
        { class: "line" },
        expander,
        h("span", { class: "id" }, String(object.id)),
        object.defined
          ? h("b", {}, object.name)
          : h("span", { class: "tag warn" }, "no definition: put its XML into xml_dir"),
        h("span", { class: "muted" }, `v${object.version}`),
        object.instances.length !== 1 && h("span", { class: "muted" }, `${object.instances.length} instances`),
        observed,
      );
    if (level === 2)
      return h(
        "span",
        { class: "line" },
        expander,
        h("code", {}, path),
        hidden &&
          h(
            "span",
            { class: "muted", title: "The definition has them, but the device does not" },
            `${hidden} not on this device`,
          ),
        observed,
      );
    return h(
      "span",
      { class: "line" },
      h("span", { class: "id" }, path.split("/")[3]),
      h("span", { class: "name" }, resource?.name ?? "unknown resource"),
      resource && h("span", { class: "ops", title: "Operations" }, resource.operations || "–"),
      absent && h("span", { class: "tag" }, "not on this device"),
      observed,
    );
  }

  /** @param {string} path */
  observedBy(path) {
    return this.commands.device().observed.find((one) => one.path === path || one.paths?.includes(path))?.by;
  }

  /** @param {Line} line @param {Element} value @param {Element} trend @param {Element} age */
  values3({ path, resource }, value, trend, age) {
    const list = this.values.of(path);
    const units = resource?.units ?? "";
    fill(
      value,
      list
        .slice(0, 8)
        .map(([at, seen]) =>
          h(
            "div",
            { class: "one" },
            at !== path && h("span", { class: "muted" }, `${at.split("/")[4]}: `),
            h("span", { class: "text" }, seen.text === "" ? "(empty)" : readable(seen.text, resource)),
            units && h("span", { class: "units" }, ` ${units}`),
          ),
        ),
      list.length > 8 && h("div", { class: "muted" }, `and ${list.length - 8} more`),
    );
    const points = list[0]?.[1].points ?? [];
    const label = resource?.name ?? path;
    fill(
      trend,
      points.length > 1 &&
        resource?.type !== "Time" &&
        h(
          "button",
          {
            type: "button",
            class: "sparkbutton",
            "aria-label": `Chart of ${label}`,
            onclick: () => openChart(points, label, units),
          },
          sparkline(
            points.map((point) => point[1]),
            label,
            96,
            24,
          ),
        ),
    );
    fill(
      age,
      list.length > 0 &&
        time(
          list.reduce((a, [, seen]) => (seen.at > a ? seen.at : a), ""),
          "ago",
        ),
    );
  }

  /** @param {Line} line @returns {HTMLElement[]} */
  buttons(line) {
    const actions = this.actions(line);
    const direct = actions.filter(([name]) => ["read", "write", "execute", "observe"].includes(name));
    const make = (/** @type {Action} */ [name, label, act]) =>
      button(label, act, { "data-action": name, tabindex: "-1", "aria-label": `${label} ${line.path}` });
    // The third and those after it are for the keyboard.
    const shown = direct.map((action, n) => {
      const element = make(action);
      element.hidden = n > 1;
      return element;
    });
    const more =
      actions.length > 0 &&
      button("", () => this.menu(line, actions), {
        class: "quiet more",
        tabindex: "-1",
        "aria-label": `More for ${line.path}`,
      });
    if (more) more.append(icon("more"));
    return more ? [...shown, more] : shown;
  }

  /** @param {Line} line @returns {Action[]} */
  actions({ path, level, object, resource }) {
    const { commands } = this;
    const send = (/** @type {string} */ msgType) => () => commands.send(msgType, { path });
    const operations = resource?.operations ?? (level === 3 ? "RWE" : "RW");
    const by = this.observedBy(path);
    const own = by?.startsWith("console");
    /** @type {Action[]} */
    const list = [];
    if (this.operator && operations.includes("R")) list.push(["read", level < 3 ? "Read all" : "Read", send("read")]);
    if (this.operator && operations.includes("W") && level === 3)
      list.push([
        "write",
        "Write",
        () =>
          commands.write(
            path,
            resource ?? null,
            this.values.of(path).map(([at, seen]) => [at, seen.text]),
          ),
      ]);
    if (this.operator && operations.includes("E") && level === 3)
      list.push(["execute", "Execute", () => commands.execute(path, resource?.name ?? path)]);
    if (this.operator && operations.includes("R") && (!by || own))
      list.push(own ? ["observe", "Stop", send("cancel-observe")] : ["observe", "Observe", send("observe")]);
    if (this.operator) {
      list.push(["discover", "Discover", send("discover")]);
      list.push(["attributes", "Attributes", () => commands.attributes(path)]);
      if (level === 1)
        list.push([
          "create",
          "Create an instance",
          () => commands.create(object.id, this.definitions.get(object.id) ?? null),
        ]);
      if (level === 2 && object.id !== CORE) list.push(["delete", "Delete", () => commands.remove(path)]);
    }
    const first = list[0]?.[0] ?? "read";
    if (level > 1 || this.operator)
      list.push([
        "copy",
        "Copy as CLI / curl / mosquitto_pub",
        () => copyAs(commands.device(), ["read", "write", "execute"].includes(first) ? first : "read", { path }),
      ]);
    return list;
  }

  /** @param {Line} line @param {Action[]} actions */
  async menu(line, actions) {
    /** @type {(() => void) | undefined} */
    let chosen;
    const body = h(
      "div",
      { class: "menu" },
      actions.map(([, label, act]) =>
        button(label, (event) => {
          chosen = act;
          /** @type {HTMLElement} */ (event.target).closest("dialog")?.close();
        }),
      ),
    );
    await dialog({ title: line.resource?.name ?? line.path, body });
    chosen?.();
  }

  /** @param {string} path */
  toggle(path) {
    if (!this.open.delete(path)) {
      this.open.add(path);
      const object = this.commands.device().objects.find((one) => `/${one.id}` === path);
      if (object) this.expand(object);
    }
    this.draw();
  }

  /** @param {FocusEvent} event */
  rove(event) {
    const row = /** @type {HTMLElement} */ (event.target).closest("tr");
    for (const other of this.body.querySelectorAll("tr")) {
      other.tabIndex = other === row ? 0 : -1;
      for (const element of other.querySelectorAll("button")) element.tabIndex = other === row ? 0 : -1;
    }
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const row = /** @type {HTMLTableRowElement | null} */ (
      /** @type {HTMLElement} */ (event.target).closest("tbody tr")
    );
    const onButton = /** @type {HTMLElement} */ (event.target).closest("button");
    if (!row || (onButton && event.key === "Enter")) return;
    const path = row.dataset.key ?? "";
    const open = row.getAttribute("aria-expanded");
    const near = {
      ArrowDown: row.nextElementSibling,
      ArrowUp: row.previousElementSibling,
      Home: this.body.firstElementChild,
      End: this.body.lastElementChild,
    }[event.key];
    if (near) /** @type {HTMLElement} */ (near).focus();
    else if (event.key === "Enter" && open) this.toggle(path);
    else if (event.key === "ArrowRight" && open === "false") this.toggle(path);
    else if (event.key === "ArrowLeft" && open === "true") this.toggle(path);
    else if (event.key === "ArrowLeft")
      /** @type {HTMLElement | undefined} */ (
        Array.from(this.body.children).find(
          (child) => /** @type {HTMLElement} */ (child).dataset.key === path.slice(0, path.lastIndexOf("/")),
        )
      )?.focus();
    else return;
    event.preventDefault();
  }
}

/** @param {string} text @param {Resource | null | undefined} resource */
function readable(text, resource) {
  return resource?.type === "Time" && /^\d{9,11}$/.test(text) ? `${moment(Number(text) * 1000)} (${text})` : text;
}
