// Commands to a device: asking for what they need, sending them, waiting for their answers.

import { call, devicePath, get, Problem } from "./api.js";
import { h } from "./dom.js";
import { counted } from "./format.js";
import { input, several, TYPES, untyped } from "./inputs.js";
import { result, verb } from "./results.js";
import { ATTRIBUTES, CONFIRM, UNDEFINED } from "./texts.js";
import { announce, dialog, field, select, time, toastProblem } from "./ui.js";

/** @typedef {import("./api.js").Command} Command */
/** @typedef {import("./api.js").Resource} Resource */
/** @typedef {import("./api.js").Definition} Definition */
/** @typedef {{id: string, msgType: string, path: string, at: string, command: Command | null, problem: any}} Run */

/** Seconds that a request waits for the answer of the device; then the page asks again. */
const WAIT = 20;
const TTLS = {
  600: "10 minutes",
  3600: "1 hour",
  86400: "1 day",
  604800: "1 week",
};
let lastTtl = "";
let runs = 0;

/** Sends the commands of one device and keeps their results. */
export class Commands {
  /** @param {() => import("./api.js").Device} device @param {AbortSignal} signal @param {(run: Run) => void} changed */
  constructor(device, signal, changed) {
    this.device = device;
    this.signal = signal;
    this.changed = changed;
    /** The last runs, the newest first. @type {Run[]} */
    this.runs = [];
  }

  asleep() {
    return this.device().state === "asleep";
  }

  /** The word on a button that sends, or asks first how long the command may wait. @param {string} word */
  action(word) {
    return this.asleep() ? "Next" : word;
  }

  /**
   * Sends a command. A sleeping device gets it in its queue: then it is asked for how long it may wait.
   * @param {string} msgType
   * @param {any} data
   */
  async send(msgType, data) {
    const path = data.path ?? data.basePath ?? "";
    const asleep = this.asleep();
    /** @type {any} */
    const body = { msgType, data };
    if (asleep) {
      const ttl = await this.askTtl(`${verb(msgType)} ${path}`);
      if (ttl === null) return;
      if (ttl) body.mheaders = { ttl: Number(ttl) };
    }
    /** @type {Run} */
    const run = { id: `run${++runs}`, msgType, path, at: new Date().toISOString(), command: null, problem: null };
    this.runs = [run, ...this.runs].slice(0, 50);
    this.changed(run);
    const query = `wait=${asleep ? 0 : WAIT}${msgType === "observe" ? "&while=stream" : ""}`;
    const target = `${devicePath(this.device().endpoint)}/commands?${query}`;
    try {
      run.command = await call("POST", target, { body, signal: this.signal });
    } catch (problem) {
      if (this.signal.aborted) return;
      run.problem = problem;
    }
    this.settled(run);
  }

  /** @param {Run} run */
  settled(run) {
    this.changed(run);
    announce(`${verb(run.msgType)} ${run.path}: ${result(run).text}`);
    this.later(run);
  }

  /** @param {Run} run */
  later(run) {
    if (run.command?.state === "pending" && !run.problem)
      setTimeout(() => this.ask(run), document.hidden ? 15000 : 3000);
  }

  /** Asks for the state of a command that still waits. @param {Run} run */
  async ask(run) {
    if (this.signal.aborted || run.command?.state !== "pending") return;
    try {
      run.command = await get(`/commands/${run.command.id}`, this.signal);
    } catch (problem) {
      if (this.signal.aborted) return;
      if (problem instanceof Problem && problem.status === 404) run.problem = problem;
    }
    if (run.command?.state === "pending" && !run.problem) this.later(run);
    else this.settled(run);
  }

  /** Asks at once for all that wait. */
  hurry() {
    for (const run of this.runs) this.ask(run);
  }

  /** @param {string} title @returns {Promise<string | null>} seconds, or nothing for as long as the gateway allows */
  askTtl(title) {
    const { expires, waiting } = this.device();
    const ttl = select(TTLS, lastTtl, {}, "As long as the gateway allows");
    return dialog({
      title,
      action: "Queue until it wakes",
      body: [
        h("p", CONFIRM.asleep, time(expires, "left"), "."),
        waiting > 0 && h("p", `${counted(waiting, "command")} will be sent before it.`),
        field("It may wait for", ttl),
      ],
      submit: () => (lastTtl = ttl.value),
    });
  }

  /** Withdraws what waits, by its own address. @param {string} path @param {string} what */
  async withdraw(path, what) {
    try {
      await call("DELETE", path);
      announce(`${what} is withdrawn`);
      this.hurry();
    } catch (problem) {
      toastProblem(problem);
    }
  }

  /**
   * @param {string} path
   * @param {Resource | null} resource
   * @param {[string, string][]} current path and text of the values that are known
   */
  async write(path, resource, current) {
    const [, object, instance, id] = path.split("/");
    const about = { label: resource?.name ?? path, range: resource?.range, current: current[0]?.[1] };
    const typed = TYPES.find((type) => type === resource?.type) ?? null;
    const free = typed ? null : untyped(about);
    const rows = current.map(([at, text]) => /** @type {[string, string]} */ ([at.split("/")[4] ?? "0", text]));
    const many = typed && resource?.multiple ? several(typed, about, rows) : null;
    const one = many ?? free ?? input(typed ?? "String", about);
    const words = resource ? [resource.name, resource.type, resource.units, resource.range] : [UNDEFINED.resource];
    const data = await dialog({
      title: `Write ${path}`,
      action: this.action("Write"),
      body: [
        h("p.muted", words.filter(Boolean).join(" · ")),
        one.element,
        object === "1" && h("p.caution", CONFIRM.server),
      ],
      submit: async () => {
        const value = await one.value();
        const type = free?.type() ?? typed;
        if (!many) return { path, type, value };
        const content = value.map((/** @type {any} */ [n, item]) => ({ path: `${id}/${n}`, type, value: item }));
        return { basePath: `/${object}/${instance}`, content };
      },
    });
    if (data) await this.send("write", data);
  }

  /** @param {string} path @param {string} name */
  async execute(path, name) {
    const args = h("input", { autocomplete: "off", placeholder: "0='now'" });
    const typed = h("input", { autocomplete: "off", spellcheck: "false" });
    const { endpoint } = this.device();
    const reset = path === "/3/0/5";
    const data = await dialog({
      title: `Execute ${name}`,
      action: "Execute",
      danger: true,
      body: [
        h("p", reset ? CONFIRM.reset : CONFIRM.execute),
        field("Arguments (optional)", args),
        reset && field(`Type the name of the device: ${endpoint}`, typed),
      ],
      submit: () => {
        if (reset && typed.value !== endpoint) throw new Error("This is not the name of the device");
        return args.value ? { path, args: args.value } : { path };
      },
    });
    if (data) await this.send("execute", data);
  }

  /** @param {string} path */
  async remove(path) {
    const body = h("p", CONFIRM.delete);
    const sure = await dialog({ title: `Delete ${path}`, action: "Delete", danger: true, body, submit: () => true });
    if (sure) await this.send("delete", { path });
  }

  /** @param {string} path */
  async attributes(path) {
    const inputs = Object.entries(ATTRIBUTES).map(([name, hint]) => {
      const text = h("input.num", { inputmode: "decimal", autocomplete: "off", "aria-label": name });
      return { name, text, element: field(name, text, hint) };
    });
    const data = await dialog({
      title: `Attributes of ${path}`,
      action: this.action("Write attributes"),
      body: [
        h("p.muted", CONFIRM.attributes),
        h(
          "div.grid2",
          inputs.map((one) => one.element),
        ),
      ],
      submit: () => {
        const set = inputs.filter(({ text }) => text.value.trim());
        if (!set.length) throw new Error("Fill in at least one attribute");
        const wrong = set.find(({ text }) => !Number.isFinite(Number(text.value)));
        if (wrong) throw new Error(`${wrong.name}: "${wrong.text.value}" is not a number`);
        return { path, ...Object.fromEntries(set.map(({ name, text }) => [name, Number(text.value)])) };
      },
    });
    if (data) await this.send("write-attr", data);
  }

  /** @param {number} object @param {Definition | null} definition */
  async create(object, definition) {
    const number = h("input.num.short", { inputmode: "numeric", placeholder: "*", "aria-label": "Instance" });
    const writable = (definition?.resources ?? []).filter((one) => one.operations.includes("W") && !one.multiple);
    const inputs = writable.map(({ id, name, type, range, mandatory }) => {
      const set = h("input", { type: "checkbox", checked: mandatory, "aria-label": `Set ${name}` });
      const { element, value } = input(type ?? "String", { label: name, range });
      const label = h("label.check", set, h("span", h("span.muted.num", `${id} `), name));
      return { id, type, set, value, element: h("div.setting", label, element) };
    });
    const data = await dialog({
      title: `New instance of /${object}`,
      action: this.action("Create"),
      wide: true,
      body: [
        field("Instance", number, "Empty: the device chooses the number"),
        inputs.map((one) => one.element),
        !definition && h("p.muted", UNDEFINED.object),
      ],
      submit: async () => {
        const instance = number.value.trim() || "*";
        if (!/^(\*|\d{1,5})$/.test(instance)) throw new Error("The instance is a number from 0 to 65535");
        const content = [];
        for (const { id, type, set, value } of inputs)
          if (set.checked) content.push({ path: `${instance}/${id}`, type, value: await value() });
        return { basePath: `/${object}`, content };
      },
    });
    if (data) await this.send("create", data);
  }
}
