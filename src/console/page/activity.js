// What happens at a device: its queue, the commands of this page, and its events.

import { devicePath, has } from "./api.js";
import { fill, h } from "./dom.js";
import { clock, duration, took } from "./format.js";
import { show } from "./json.js";
import { runList } from "./results.js";
import { EMPTY, failureWords } from "./texts.js";
import { button, empty, panel, select, table, time } from "./ui.js";

/** @typedef {import("./api.js").Device} Device */
/** @typedef {{at: string, kind: string, text: string, path: string}} Entry */

/** Events that the page keeps. */
const EVENTS = 300;
const KINDS = ["notify", "message", "command", "registered", "updated", "moved", "left", "failure"];

/** The activity of one device. */
export class Activity {
  /** @param {import("./commands.js").Commands} commands @param {boolean} operator @param {() => void} changed */
  constructor(commands, operator, changed) {
    this.commands = commands;
    this.withdraws = operator && has("/devices/*/queue/*");
    this.changed = changed;
    /** @type {Entry[]} */
    this.entries = [];
    this.paused = false;
    this.kind = "";
    this.queue = h("div");
    this.runs = h("div");
    this.events = h("div");
    const pause = button("Pause", () => {
      this.paused = !this.paused;
      pause.textContent = this.paused ? "Go on" : "Pause";
      this.drawEvents();
    });
    const kinds = Object.fromEntries(KINDS.map((kind) => [kind, kind]));
    const onchange = () => {
      this.kind = filter.value;
      this.drawEvents();
    };
    const filter = select(kinds, "", { "aria-label": "Kind of events", onchange }, "All events");
    const live = has("/devices/*/events") && panel("Events", this.events, filter, pause);
    const own = has("/devices/*/commands") && operator && panel("Your commands", this.runs);
    this.element = h("div.columns", h("div", panel("Queue", this.queue), own), live);
  }

  /** @param {string} event @param {any} data */
  take(event, data) {
    this.entries = [entryOf(event, data), ...this.entries].slice(0, EVENTS);
    if (this.element.isConnected && !this.paused) this.drawEvents();
  }

  draw() {
    const { inFlight, queue } = this.commands.device();
    const list = table([["Command"], ["By"], ["Time", "num"], ["", "acts"]], "Pending commands");
    if (inFlight) {
      const since = inFlight.for === undefined ? "" : ` ${duration(Number(inFlight.for))}`;
      list.row([commandText(inFlight), inFlight.by, `in flight${since}`, ""]);
    }
    for (const entry of queue) {
      const expires = entry.expires ? ["expires in ", time(entry.expires, "left")] : "–";
      list.row([commandText(entry), entry.by, expires, this.withdraws && this.withdraw(entry)]);
    }
    fill(this.queue, inFlight || queue.length ? list.element : empty(EMPTY.queue));
    this.drawRuns();
    this.drawEvents();
  }

  /** @param {import("./api.js").Queued} entry */
  withdraw({ number, msgType, path }) {
    const at = `${devicePath(this.commands.device().endpoint)}/queue/${number}`;
    const act = () => this.commands.withdraw(at, `Command ${number}`).then(this.changed);
    return button("Withdraw", act, { "aria-label": `Withdraw ${msgType} ${path ?? ""}` });
  }

  drawRuns() {
    const withdraw = (/** @type {import("./commands.js").Run} */ { command, msgType }) =>
      this.commands.withdraw(`/commands/${command?.id}`, msgType).then(this.changed);
    fill(this.runs, runList(this.commands.runs, withdraw));
  }

  drawEvents() {
    if (this.paused) return;
    const shown = this.entries.filter(({ kind }) => !this.kind || kind === this.kind);
    const lines = shown.map(({ at, kind, path, text }) =>
      h(
        "li",
        h("time.muted.num", clock(at)),
        h(`span.tag.k-${kind}`, kind),
        h("span.words", path && h("code", path), path && " ", text),
      ),
    );
    fill(this.events, lines.length ? h("ol.log.events", lines) : empty(EMPTY.events));
  }
}

/** @param {string} event @param {any} data @returns {Entry} */
function entryOf(event, data) {
  const entry = { at: data?.at ?? new Date().toISOString(), kind: event, text: "", path: data?.path ?? "" };
  switch (event) {
    case "message": {
      const { payload } = data;
      const kind = payload?.msgType === "notify" ? "notify" : event;
      return { ...entry, kind, text: messageWords(payload, data), path: payload?.data?.reqPath ?? "" };
    }
    case "command": {
      const time = data.took ? ` after ${took(data.took)}` : "";
      return { ...entry, text: `${data.msgType} ${data.outcome ?? data.state}${time}, by ${data.by}` };
    }
    case "moved":
      return { ...entry, text: `${data.from} → ${data.to}` };
    case "left":
      return { ...entry, text: data.reason ?? "" };
    case "failure":
      return { ...entry, text: `${failureWords(data)[0]}: ${data.reason ?? ""}` };
    case "lost":
      return { ...entry, text: `${data.count ?? "Some"} events did not fit and were dropped` };
    default:
      return entry;
  }
}

/** @param {import("./api.js").Queued} entry */
const commandText = ({ number, msgType, path, paths, bytes }) => [
  h("span.muted.num", `${number} `),
  `${msgType} `,
  h("code", path ?? paths?.join(" ")),
  bytes ? h("span.muted", ` ${bytes} B`) : "",
];

/** @param {any} payload @param {any} data */
function messageWords(payload, data) {
  if (typeof payload !== "object" || payload === null)
    return `${String(payload).slice(0, 200)}${data.truncated ? ` … (${data.truncated} bytes)` : ""}`;
  const { content, code, reason } = payload.data ?? {};
  const what = payload.msgType === "notify" ? "" : `${payload.msgType} ${code ?? ""}`;
  if (!Array.isArray(content)) return [what, reason].filter(Boolean).join(" ");
  const one = (/** @type {any} */ entry) =>
    content.length > 1 ? `${entry.path} = ${show(entry.value)}` : show(entry.value);
  const values = content.slice(0, 3).map((entry) => (typeof entry === "string" ? entry : one(entry)));
  const more = content.length > 3 ? `and ${content.length - 3} more` : "";
  return [what, values.join(", "), more, reason].filter(Boolean).join(" ");
}
