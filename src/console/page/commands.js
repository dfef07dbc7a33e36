// Commands to a device: asking, sending, waiting, and saying in words what came of them.

import { apiAddress, call, devicePath, get, Problem } from "./api.js";
import { h } from "./dom.js";
import { clock, took } from "./format.js";
import { compact, show } from "./json.js";
import { codeWords, CONFIRM, OUTCOMES } from "./texts.js";
import { announce, button, dialog, field, select, snippet, time, toastProblem } from "./ui.js";
import { input, several, TYPES, untyped } from "./inputs.js";

/** @typedef {import("./api.js").Command} Command */
/** @typedef {import("./api.js").Device} Device */
/** @typedef {import("./api.js").Resource} Resource */
/** @typedef {import("./api.js").Definition} Definition */
/** @typedef {{id: string, msgType: string, path: string, at: string, command: Command | null, problem: any}} Run */

const WAIT = 20;
const CURL = 'curl -sS -H "Authorization: Bearer $LWM2M_GATEWAY_TOKEN"';
/** @type {[string, string][]} */
const TTLS = [
  ["", "As long as the gateway allows"],
  ["600", "10 minutes"],
  ["3600", "1 hour"],
  ["86400", "1 day"],
  ["604800", "1 week"],
];
let lastTtl = "";
let runs = 0;

/** @param {string} msgType */
const verb = (msgType) => msgType.replace("-", " ").replace(/^./, (letter) => letter.toUpperCase());

/**
 * Sends the commands of one device and keeps their results.
 */
export class Commands {
  /** @param {() => Device} device @param {AbortSignal} signal @param {(run: Run) => void} changed */
  constructor(device, signal, changed) {
    this.device = device;
    this.signal = signal;
    this.changed = changed;
    /** The last runs, the newest first. @type {Run[]} */
    this.runs = [];
  }

  asleep() {
    const device = this.device();
    return device.state === "asleep";
  }

  /**
   * Sends a command. A sleeping device gets it in its queue: then it is asked for how long it may wait.
   * @param {string} msgType
   * @param {any} data
   */
  async send(msgType, data) {
    const path = data.path ?? data.basePath ?? "";
    /** @type {any} */
    const body = { msgType, data };
    if (this.asleep()) {
      const ttl = await this.askTtl(verb(msgType), path);
      if (ttl === null) return;
      if (ttl) body.mheaders = { ttl: Number(ttl) };
    }
    /** @type {Run} */
    const run = { id: `run${++runs}`, msgType, path, at: new Date().toISOString(), command: null, problem: null };
    this.runs.unshift(run);
    this.runs.length = Math.min(this.runs.length, 50);
    this.changed(run);
    const query = `wait=${this.asleep() ? 0 : WAIT}${msgType === "observe" ? "&while=stream" : ""}`;
    try {
      run.command = await call("POST", `${devicePath(this.device().endpoint)}/commands?${query}`, {
        body,
        signal: this.signal,
      });
    } catch (problem) {
      if (this.signal.aborted) return;
      run.problem = problem;
    }
    this.settled(run);
  }

  /** @param {Run} run */
  settled(run) {
    this.changed(run);
    announce(`${verb(run.msgType)} ${run.path}: ${inWords(run).text}`);
    if (run.command?.state === "pending") setTimeout(() => this.ask(run), 3000);
  }

  /** Asks for the state of a command that still waits. @param {Run} run */
  async ask(run) {
    if (this.signal.aborted || run.command?.state !== "pending") return;
    try {
      run.command = await get(`/commands/${run.command.id}`, this.signal);
    } catch (problem) {
      if (this.signal.aborted) return;
      if (problem instanceof Problem && problem.type === "no-such-command") run.problem = problem;
    }
    if (run.command?.state === "pending" && !run.problem)
      setTimeout(() => this.ask(run), document.hidden ? 15000 : 3000);
    else this.settled(run);
  }

  /** Asks at once for all that wait. */
  hurry() {
    for (const run of this.runs) if (run.command?.state === "pending") this.ask(run);
  }

  /** @param {string} what @param {string} path */
  askTtl(what, path) {
    const device = this.device();
    const ttl = select(TTLS, lastTtl);
    return dialog({
      title: `${what} ${path}`,
      action: "Queue until it wakes",
      body: [
        h(
          "p",
          {},
          "The device sleeps. The command waits until it is heard from: by itself, and at the latest when its " +
            "lifetime ends, in ",
          time(device.expires, "left"),
          ".",
        ),
        device.waiting > 0 &&
          h("p", {}, `${device.waiting} ${device.waiting === 1 ? "command waits" : "commands wait"} before it.`),
        field("It may wait", ttl),
      ],
      submit: () => (lastTtl = ttl.value),
    });
  }

  /** @param {number} number */
  async withdraw(number) {
    try {
      await call("DELETE", `${devicePath(this.device().endpoint)}/queue/${number}`);
      announce(`Command ${number} is withdrawn`);
    } catch (problem) {
      toastProblem(problem);
    }
  }

  /**
   * @param {string} path
   * @param {Resource | null} resource
   * @param {[string, string][]} current path and text of values
   */
  async write(path, resource, current) {
    const label = resource?.name ?? path;
    const [, object, instance, id] = path.split("/");
    const about = { label, range: resource?.range, current: current[0]?.[1] };
    const many = resource?.multiple
      ? several(
          resource.type,
          about,
          current.map(([at, text]) => [at.split("/")[4] ?? "0", text]),
        )
      : null;
    const free = resource && TYPES.includes(resource.type) ? null : untyped(about);
    const one = many ?? free ?? input(/** @type {Resource} */ (resource).type, about);
    const type = () => free?.type() ?? resource?.type;
    const data = await dialog({
      title: `Write ${path}`,
      action: this.asleep() ? "Next" : "Write",
      body: [
        h(
          "p",
          { class: "muted" },
          resource
            ? [resource.name, resource.type, resource.units, resource.range].filter(Boolean).join(" · ")
            : "The gateway has no definition of this resource: choose the type.",
        ),
        one.element,
        object === "1" && h("p", { class: "caution" }, CONFIRM.server),
      ],
      submit: async () => {
        const value = await one.value();
        if (!many) return { path, type: type(), value };
        return {
          basePath: `/${object}/${instance}`,
          content: value.map((/** @type {any} */ [n, item]) => ({ path: `${id}/${n}`, type: type(), value: item })),
        };
      },
    });
    if (data) await this.send("write", data);
  }

  /** @param {string} path @param {string} name */
  async execute(path, name) {
    const args = h("input", { autocomplete: "off", placeholder: "0='now'" });
    const reset = path === "/3/0/5";
    const typed = h("input", { autocomplete: "off", spellcheck: "false" });
    const endpoint = this.device().endpoint;
    const data = await dialog({
      title: `Execute ${name}`,
      action: "Execute",
      danger: true,
      body: [
        h("p", {}, reset ? CONFIRM.reset : CONFIRM.execute),
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
    const sure = await dialog({
      title: `Delete ${path}`,
      action: "Delete",
      danger: true,
      body: h("p", {}, CONFIRM.delete),
      submit: () => true,
    });
    if (sure) await this.send("delete", { path });
  }

  /** @param {string} path */
  async attributes(path) {
    const names = /** @type {const} */ (["pmin", "pmax", "gt", "lt", "st"]);
    const hints = {
      pmin: "Seconds, at least, between notifications",
      pmax: "Seconds, at most, between notifications",
      gt: "Notify when the value rises above",
      lt: "Notify when it falls below",
      st: "Notify when it changes by",
    };
    const fields = names.map((name) =>
      h("input", { inputmode: "decimal", class: "num", autocomplete: "off", "aria-label": name }),
    );
    const data = await dialog({
      title: `Attributes of ${path}`,
      action: this.asleep() ? "Next" : "Write attributes",
      body: [
        h("p", { class: "muted" }, "Attributes say when the device notifies. What stays empty is not changed."),
        h(
          "div",
          { class: "grid2" },
          names.map((name, n) => field(name, fields[n], hints[name])),
        ),
      ],
      submit: () => {
        /** @type {any} */
        const data = { path };
        names.forEach((name, n) => {
          const text = fields[n].value.trim();
          if (!text) return;
          if (!Number.isFinite(Number(text))) throw new Error(`${name}: "${text}" is not a number`);
          data[name] = Number(text);
        });
        if (Object.keys(data).length === 1) throw new Error("Fill in at least one attribute");
        return data;
      },
    });
    if (data) await this.send("write-attr", data);
  }

  /** @param {number} object @param {Definition | null} definition */
  async create(object, definition) {
    const instance = h("input", {
      inputmode: "numeric",
      class: "num short",
      placeholder: "*",
      "aria-label": "Instance",
    });
    const inputs = (definition?.resources ?? [])
      .filter((resource) => resource.operations.includes("W") && !resource.multiple)
      .map((resource) => {
        const set = h("input", { type: "checkbox", checked: resource.mandatory, "aria-label": `Set ${resource.name}` });
        return { resource, set, field: input(resource.type, { label: resource.name, range: resource.range }) };
      });
    const data = await dialog({
      title: `New instance of /${object}`,
      action: this.asleep() ? "Next" : "Create",
      wide: true,
      body: [
        field("Instance", instance, "Empty: the device chooses the number"),
        inputs.map(({ resource, set, field: one }) =>
          h(
            "div",
            { class: "setting" },
            h(
              "label",
              { class: "check" },
              set,
              h("span", {}, h("span", { class: "muted num" }, `${resource.id} `), resource.name),
            ),
            one.element,
          ),
        ),
        !definition &&
          h(
            "p",
            { class: "muted" },
            "The gateway has no definition of this object: the instance is created without values.",
          ),
      ],
      submit: async () => {
        const id = instance.value.trim() || "*";
        if (!/^(\*|\d{1,5})$/.test(id)) throw new Error("The instance is a number from 0 to 65535");
        const content = [];
        for (const { resource, set, field: one } of inputs) {
          if (set.checked)
            content.push({ path: `${id}/${resource.id}`, type: resource.type, value: await one.value() });
        }
        return { basePath: `/${object}`, content };
      },
    });
    if (data) await this.send("create", data);
  }
}

/** @param {Run} run @returns {{kind: "wait" | "good" | "bad", code: string, text: string, took: string}} */
export function inWords({ command, problem }) {
  if (problem) {
    const words = problem instanceof Problem ? `${problem.message}. ${problem.todo}` : String(problem);
    return {
      kind: problem.type === "observed-already" ? "wait" : "bad",
      code: problem.status ? String(problem.status) : "",
      text: words,
      took: "",
    };
  }
  if (!command) return { kind: "wait", code: "", text: "Sent. Waiting for the device …", took: "" };
  if (command.state === "pending") {
    const where = command.place ? ` at place ${command.place}` : "";
    const why =
      command.device === "asleep"
        ? "The device sleeps: the command is sent when it wakes."
        : "The device has not answered yet.";
    return {
      kind: "wait",
      code: "",
      text: `Waits${where}. ${why}${command.expires ? ` Expires ${clock(command.expires)}.` : ""}`,
      took: "",
    };
  }
  const data = command.answer?.data ?? {};
  const time = command.took === undefined ? "" : took(Number(command.took));
  if (command.outcome === "answered") {
    const code = String(data.code ?? "");
    const reason = data.reason ? ` ${data.reason}.` : "";
    return { kind: code.startsWith("2.") ? "good" : "bad", code, text: codeWords(code) + reason, took: time };
  }
  const reason = data.reason ? ` ${data.reason}.` : "";
  return {
    kind: "bad",
    code: "",
    text: (OUTCOMES[command.outcome ?? ""] ?? String(command.outcome)) + reason,
    took: time,
  };
}

/** @param {Run} run @param {boolean} [brief] */
export function runLine(run, brief) {
  const words = inWords(run);
  const spin = words.kind === "wait" && !run.problem && h("span", { class: "spinner" });
  const location = run.command?.answer?.data?.location;
  return h(
    "div",
    { class: `result ${words.kind}` },
    spin,
    words.code && h("b", { class: "num" }, words.code),
    h("span", {}, brief ? brevity(words.text) : words.text),
    location && h("code", {}, show(location)),
    words.took && h("span", { class: "muted num" }, words.took),
  );
}

/** @param {string} text @returns {string} the first sentence */
const brevity = (text) => (text.length > 90 ? `${text.slice(0, 88)}…` : text);

/** @param {Run[]} runs @param {(run: Run) => void} withdraw */
export function runList(runs, withdraw) {
  if (!runs.length)
    return h("p", { class: "muted pad" }, "Commands that you send from this page appear here with their answers.");
  return h(
    "ol",
    { class: "log" },
    runs.map((run) =>
      h(
        "li",
        {},
        h("span", { class: "muted num" }, clock(run.at)),
        h("span", {}, h("b", {}, verb(run.msgType)), " ", h("code", {}, run.path)),
        runLine(run),
        links(run),
        run.command?.state === "pending" && button("Withdraw", () => withdraw(run), { class: "quiet" }),
      ),
    ),
  );
}

/** @param {Run} run */
function links(run) {
  const content = run.command?.answer?.data?.content;
  if (!Array.isArray(content) || typeof content[0] !== "string") return null;
  return h("code", { class: "links" }, content.join("  "));
}

/** @param {string} text */
const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/**
 * Shows a command as one line for the command line, curl and mosquitto_pub.
 * @param {Device} device
 * @param {string} msgType
 * @param {any} data
 */
export function copyAs(device, msgType, data) {
  const ep = quote(device.endpoint);
  const json = compact({ msgType, data });
  const words = { execute: "exec", "write-attr": "write-attr", "cancel-observe": "cancel" };
  const name = /** @type {Record<string, string>} */ (words)[msgType] ?? msgType;
  const rest = msgType === "write" ? " VALUE" : "";
  const topic = (device.topics.command ?? "").replace(/\/#$/, "");
  const url = `${apiAddress()}${devicePath(device.endpoint)}/commands?wait=${WAIT}`;
  dialog({
    title: `${verb(msgType)} ${data.path ?? ""} as a command`,
    wide: true,
    body: [
      h("h3", {}, "Command line"),
      snippet(`lwm2m-gateway ${name} ${ep} ${data.path ?? ""}${rest}`),
      h("h3", {}, "curl"),
      snippet(`${CURL} -H 'Content-Type: application/json' -d ${quote(json)} ${quote(url)}`),
      h("h3", {}, "mosquitto_pub"),
      snippet(`mosquitto_pub -t ${quote(topic)} -m ${quote(json)}`),
    ],
  });
}

/** Shows how to look at a device from elsewhere. @param {Device} device */
export function copyDevice(device) {
  const ep = quote(device.endpoint);
  const topic = (device.topics.command ?? "").replace(/\/#$/, "");
  dialog({
    title: "This device from elsewhere",
    wide: true,
    body: [
      h("h3", {}, "Command line"),
      snippet(`lwm2m-gateway show ${ep}`),
      snippet(`lwm2m-gateway events ${ep}`),
      h("h3", {}, "curl"),
      snippet(`${CURL} ${quote(apiAddress() + devicePath(device.endpoint))}`),
      h("h3", {}, "MQTT"),
      snippet(`mosquitto_sub -v -t ${quote(device.topics.response ?? "")} -t ${quote(device.topics.notify ?? "")}`),
      snippet(`mosquitto_pub -t ${quote(topic)} -m '{"msgType":"read","data":{"path":"/3/0/0"}}'`),
    ],
  });
}
