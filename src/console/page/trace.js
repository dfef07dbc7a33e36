// Traces: each message of a device after decryption.

import { call, download, get, Problem, repeat } from "./api.js";
import { fill, h } from "./dom.js";
import { clock, size } from "./format.js";
import { show } from "./json.js";
import { CONFIRM, EMPTY } from "./texts.js";
import { button, copyButton, dialog, empty, facts, failed, field, select, time, toastProblem } from "./ui.js";

/** @typedef {import("./api.js").Schemas} Schemas */
/** @typedef {Schemas["TraceDocument"]} Trace */
/** @typedef {Schemas["CoapDocument"]} Message */
/** @typedef {Schemas["DtlsDocument"]} DtlsEvent */

/** Messages in the page: as many as the gateway keeps. */
const SHOWN = 512;

/**
 * Asks for a duration and starts a trace.
 * @param {Record<string, string>} of endpoint, address or identity
 * @returns {Promise<Trace | null>}
 */
function startTrace(of) {
  const minutes = select({ 10: "10 minutes", 30: "30 minutes", 120: "2 hours" }, "30");
  const [[kind, name]] = Object.entries(of);
  return dialog({
    title: "Start a trace",
    action: "Start",
    body: [h("p", `Of ${kind} `, h("code", name), `. ${CONFIRM.trace}`), field("It ends after", minutes)],
    submit: () => call("POST", "/traces", { body: { ...of, minutes: Number(minutes.value) } }),
  });
}

/** Starts a trace and shows it. @param {Record<string, string>} of endpoint, address or identity */
export async function openTrace(of) {
  const trace = await startTrace(of);
  if (trace) location.hash = `#/trace/${encodeURIComponent(trace.id)}`;
}

/** The trace of one device, or a trace by its ID. */
export class TraceView {
  /** @param {string} endpoint @param {AbortSignal} signal @param {string} [id] */
  constructor(endpoint, signal, id) {
    this.endpoint = endpoint;
    this.signal = signal;
    this.id = id;
    /** @type {Trace | null} */
    this.trace = null;
    /** @type {(Message | DtlsEvent)[]} */
    this.messages = [];
    this.head = h("div.toolbar");
    this.list = h("ol.trace", { "aria-label": "Messages" });
    this.none = h("div");
    this.element = h("div", this.head, this.none, this.list);
    this.draw();
  }

  /** Looks whether there is a trace, and takes its messages as they come. */
  async look() {
    try {
      const { traces } = await get("/traces", this.signal);
      const wanted = (/** @type {Trace} */ one) => (this.id ? one.id === this.id : one.endpoint === this.endpoint);
      const found = traces.filter(wanted);
      this.trace = found.find((/** @type {Trace} */ one) => one.running) ?? found[0] ?? null;
      await this.fetch();
      this.draw();
    } catch (problem) {
      const retry = () => this.look();
      if (!this.signal.aborted) fill(this.none, failed(problem, retry));
    }
  }

  /** Looks for new messages while the trace runs and is shown. */
  follow() {
    const fetch = async () => {
      if (!this.trace?.running || !this.element.isConnected) return;
      try {
        await this.fetch();
        if (!this.trace?.running) this.draw();
      } catch (problem) {
        if (problem instanceof Problem && problem.status === 404) await this.look();
      }
    };
    repeat(this.signal, fetch, 2000);
  }

  async fetch() {
    if (!this.trace) return;
    const after = this.messages.at(-1)?.n ?? 0;
    const { messages, ...trace } = await get(`/traces/${this.trace.id}?after=${after}`, this.signal);
    this.trace = trace;
    for (const message of messages) this.add(message);
  }

  /** @param {Message | DtlsEvent} message */
  add(message) {
    this.messages.push(message);
    this.list.append(line(message));
    if (this.messages.length > SHOWN) {
      this.messages.shift();
      this.list.firstElementChild?.remove();
    }
    fill(this.none);
  }

  draw() {
    const { trace } = this;
    const running = trace?.running;
    const leftOut = trace?.leftOut ?? 0;
    const of = trace && (trace.endpoint ?? trace.address ?? trace.identity);
    const start = !this.id && button("Start a trace", () => this.begin(), { class: "primary" });
    const copy = copyButton(() => this.messages.map(summary).join("\n"), "messages");
    const some = this.messages.length > 0;
    if (trace || some)
      fill(
        this.head,
        h("span.grow", running ? [`Trace of ${of}, ends in `, time(trace.ends, "left")] : EMPTY.ended[0]),
        leftOut > 0 && h("span.tag.warn", `${leftOut} messages left out: more than 200 in a second`),
        trace && button("Download pcap", () => pcap(trace)),
        copy,
        running ? button("End", () => this.end(), { class: "danger" }) : start,
      );
    else fill(this.head);
    const words = running ? EMPTY.messages : this.id ? EMPTY.ended : EMPTY.trace;
    fill(this.none, !some && empty(words, !trace && start));
  }

  async begin() {
    const trace = await startTrace({ endpoint: this.endpoint });
    if (!trace) return;
    this.trace = trace;
    this.messages = [];
    fill(this.list);
    this.draw();
  }

  /** Ends the trace. The gateway forgets its messages; the page keeps those that it has. */
  async end() {
    try {
      await call("DELETE", `/traces/${this.trace?.id}`);
      this.trace = null;
      this.draw();
    } catch (problem) {
      toastProblem(problem);
    }
  }
}

/** @param {Trace} trace */
async function pcap(trace) {
  try {
    const href = URL.createObjectURL(await download(`/traces/${trace.id}.pcap`));
    const name = trace.endpoint ?? trace.address ?? trace.identity;
    h("a", { href, download: `${name}.pcap` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10000);
  } catch (problem) {
    toastProblem(problem);
  }
}

/** @param {Message | DtlsEvent} m */
function line(m) {
  const at = h("span.muted.num", clock(m.at));
  if ("dtls" in m) return h("li", h("div.flat", at, h("b.dir", "DTLS"), h("span.values", dtlsWords(m).join(" · "))));
  const incoming = m.direction === "in";
  const { options } = m;
  const mid = [m.mid, m.token].filter((one) => one !== undefined).join(" · ");
  const summary = h(
    "summary",
    at,
    h("span.dir", incoming ? "← in" : "→ out"),
    h("span.mono", m.type),
    h("b", m.type ? `${m.code} ${m.name ?? ""}` : "no CoAP message"),
    h("span.muted.mono", { title: "Message ID and token" }, mid),
    h("span.values", valuesOf(m) || pathOf(options), m.again && h("span.tag", "again")),
    h("span.muted", m.outcome),
  );
  const details = facts([
    ...options.map(
      ({ name, number, value }) => /** @type {[string, any]} */ ([name ?? `Option ${number}`, show(value)]),
    ),
    ["Peer", `${m.peer}${m.secured ? ", decrypted" : ""}, ${size(Number(m.bytes))}`],
    ["Message", `${m.n}${m.answers ? `, answers ${m.answers}` : ""}`],
  ]);
  const bytes = m.payload?.hex ?? m.hex;
  const hex = bytes && h("pre", { tabindex: "0" }, hexdump(bytes));
  return h(incoming ? "li.in" : "li.out", h("details", summary, h("div.open", details, hex)));
}

/** @param {DtlsEvent} m @returns {string[]} "handshake failed" and what else is known */
const dtlsWords = (m) => {
  const event = m.event.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  return [event, m.from ? `${m.from} → ${m.peer}` : m.peer, m.identity, m.suite, m.reason].flatMap((one) => one ?? []);
};

/** @param {Message} m @returns {string} the first values of its payload */
const valuesOf = (m) =>
  (m.payload?.entries ?? [])
    .slice(0, 2)
    .map(({ path, value, units }) => `${path} = ${show(value)}${units ? ` ${units}` : ""}`)
    .join(", ");

/** @param {Message["options"]} options */
const pathOf = (options) =>
  options
    .filter(({ name }) => name === "Uri-Path")
    .map(({ value }) => `/${value}`)
    .join("");

/** @param {Message | DtlsEvent} m */
function summary(m) {
  if ("dtls" in m) return [m.at, "DTLS", ...dtlsWords(m)].join(" ");
  const options = m.options.map(({ name, number, value }) => `${name ?? number} ${show(value)}`).join(", ");
  const arrow = m.direction === "in" ? "<-" : "->";
  const head = [
    m.at,
    arrow,
    m.type ?? m.hex,
    m.code,
    m.name,
    m.mid !== undefined && `mid ${m.mid}`,
    m.token && `tok ${m.token}`,
  ];
  return [...head, options, m.payload?.hex].filter(Boolean).join(" ");
}

/** @param {string} hex */
function hexdump(hex) {
  const lines = hex.match(/.{1,32}/g) ?? [];
  return lines
    .map((line, n) => {
      const pairs = line.match(/../g) ?? [];
      const printable = (/** @type {string} */ pair) => /^[2-6]|^7[0-9a-e]/.test(pair);
      const text = pairs.map((pair) => (printable(pair) ? String.fromCharCode(parseInt(pair, 16)) : ".")).join("");
      return `${(n * 16).toString(16).padStart(4, "0")}  ${pairs.join(" ").padEnd(47)}  ${text}`;
    })
    .join("\n");
}
