// Traces: each message of a device after decryption.

import { call, download, get, Problem, stream } from "./api.js";
import { fill, h } from "./dom.js";
import { clock, size } from "./format.js";
import { show } from "./json.js";
import { EMPTY } from "./texts.js";
import { button, copyButton, dialog, empty, failed, field, select, time, toast, toastProblem } from "./ui.js";

/**
 * @typedef {{id: string, endpoint?: string, address?: string, identity?: string, by?: string, started?: string,
 *  ends: string, messages?: any, lost?: number}} Trace
 */

const SHOWN = 512;

/**
 * Asks for a duration and starts a trace.
 * @param {Record<string, string>} of endpoint, address or identity
 * @returns {Promise<Trace | null>}
 */
export function startTrace(of) {
  const minutes = select(
    [
      ["10", "10 minutes"],
      ["30", "30 minutes"],
      ["120", "2 hours"],
    ],
    "30",
  );
  const [[kind, name]] = Object.entries(of);
  return dialog({
    title: "Start a trace",
    action: "Start",
    body: [
      h(
        "p",
        {},
        `Messages of ${kind} `,
        h("code", {}, name),
        " are kept in memory after decryption: 512 messages, the oldest goes. Passwords and hidden paths are covered.",
      ),
      field("It ends after", minutes),
    ],
    submit: () => call("POST", "/traces", { body: { ...of, minutes: Number(minutes.value) } }),
  });
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
    /** @type {any[]} */
    this.messages = [];
    this.head = h("div", { class: "toolbar" });
    this.list = h("ol", { class: "trace", "aria-label": "Messages" });
    this.none = h("div");
    this.element = h("div", {}, this.head, this.none, this.list);
    this.draw();
  }

  /** Looks whether a trace runs. */
  async look() {
    try {
      const { traces } = await get("/traces", this.signal);
      this.trace =
        traces.find((/** @type {Trace} */ trace) =>
          this.id ? trace.id === this.id : trace.endpoint === this.endpoint,
        ) ?? null;
      if (this.trace) await this.load();
    } catch (problem) {
      if (!this.signal.aborted)
        fill(
          this.none,
          failed(problem, () => this.look()),
        );
      return;
    }
    this.draw();
  }

  async load() {
    if (!this.trace) return;
    const whole = await get(`/traces/${this.trace.id}`, this.signal);
    this.messages = whole.messages ?? [];
    fill(
      this.list,
      this.messages.slice(-SHOWN).map((message) => this.line(message)),
    );
  }

  /** Follows the stream of a trace that is not of the open device. */
  follow() {
    if (this.trace)
      stream(
        `/traces/${this.trace.id}/events`,
        this.signal,
        ({ event, data }) => (event === "coap" || event === "dtls") && this.add(event, data),
        () => {},
      );
  }

  /** @param {string} event @param {any} data */
  add(event, data) {
    const message = event === "dtls" ? { ...data, dtls: true } : data;
    if (message.n !== undefined && this.messages.some((old) => old.n === message.n)) return;
    this.messages.push(message);
    if (this.messages.length > SHOWN) {
      this.messages.shift();
      this.list.firstElementChild?.remove();
    }
    this.list.append(this.line(message));
    fill(this.none);
  }

  draw() {
    const { trace } = this;
    if (!trace) {
      fill(this.head);
      fill(
        this.none,
        empty(
          EMPTY.trace,
          button("Start a trace", () => this.begin(), { class: "primary" }),
        ),
      );
      return;
    }
    const pcap = async () => {
      try {
        const url = URL.createObjectURL(await download(`/traces/${trace.id}.pcap`));
        h("a", { href: url, download: `${this.endpoint || trace.address || trace.identity || "trace"}.pcap` }).click();
        setTimeout(() => URL.revokeObjectURL(url), 10000);
      } catch (problem) {
        toastProblem(problem);
      }
    };
    fill(
      this.head,
      h("span", { class: "grow" }, "Trace runs, ends in ", time(trace.ends, "left")),
      button("Download pcap", pcap),
      copyButton(this.text(), "messages"),
      button("End", () => this.end(), { class: "danger" }),
    );
    fill(this.none, !this.messages.length && empty(EMPTY.messages));
  }

  text() {
    return this.messages.map((message) => summary(message)).join("\n");
  }

  async begin() {
    this.trace = await startTrace({ endpoint: this.endpoint });
    this.messages = [];
    fill(this.list);
    this.draw();
  }

  async end() {
    try {
      await call("DELETE", `/traces/${this.trace?.id}`);
    } catch (problem) {
      if (!(problem instanceof Problem) || problem.status !== 404) return toastProblem(problem);
    }
    this.trace = null;
    toast("The trace ended. Its messages stay in this page until you leave it.");
    this.draw();
  }

  /** @param {any} m */
  line(m) {
    if (m.dtls)
      return h(
        "li",
        { class: "dtls" },
        h(
          "div",
          { class: "flat" },
          h("span", { class: "muted num" }, clock(m.at)),
          h("span", { class: "tag" }, "DTLS"),
          h("span", {}, [m.event, m.peer, m.identity, m.reason].filter(Boolean).join(" · ")),
        ),
      );
    const values = (m.payload?.entries ?? [])
      .slice(0, 2)
      .map((/** @type {any} */ entry) => `${entry.path} = ${show(entry.value)}${entry.units ? ` ${entry.units}` : ""}`)
      .join(", ");
    const incoming = m.direction === "in";
    return h(
      "li",
      { class: incoming ? "in" : "out" },
      h(
        "details",
        {},
        h(
          "summary",
          {},
          h("span", { class: "muted num" }, clock(m.at)),
          h("span", { class: "dir" }, incoming ? "← in" : "→ out"),
          h("span", { class: "mono" }, m.type),
          h("b", {}, `${m.code} ${m.name ?? ""}`),
          h("span", { class: "muted mono" }, `mid ${m.mid}${m.token ? ` tok ${m.token}` : ""}`),
          h("span", { class: "values" }, values || pathOf(m)),
          m.again && h("span", { class: "tag" }, "again"),
          m.verdict && h("span", { class: "muted" }, m.verdict),
        ),
        h(
          "div",
          { class: "open" },
          h(
            "dl",
            { class: "facts" },
            (m.options ?? []).map((/** @type {any} */ option) =>
              h(
                "div",
                {},
                h("dt", {}, option.name ?? `Option ${option.number}`),
                h("dd", { class: "mono" }, show(option.value)),
              ),
            ),
            h(
              "div",
              {},
              h("dt", {}, "Peer"),
              h("dd", { class: "mono" }, `${m.peer}${m.secured ? ", decrypted" : ""}, ${size(Number(m.bytes))}`),
            ),
            m.answers !== undefined && h("div", {}, h("dt", {}, "Answers"), h("dd", {}, `message ${m.answers}`)),
          ),
          m.payload?.hex && h("pre", { tabindex: "0" }, hexdump(m.payload.hex)),
        ),
      ),
    );
  }
}

/** @param {any} m */
const pathOf = (m) =>
  (m.options ?? [])
    .filter((/** @type {any} */ option) => option.name === "Uri-Path")
    .map((/** @type {any} */ option) => `/${option.value}`)
    .join("");

/** @param {any} m */
function summary(m) {
  if (m.dtls) return `${m.at} DTLS ${[m.event, m.peer, m.reason].filter(Boolean).join(" ")}`;
  const options = (m.options ?? [])
    .map((/** @type {any} */ option) => `${option.name ?? option.number} ${show(option.value)}`)
    .join(", ");
  const arrow = m.direction === "in" ? "<-" : "->";
  const head = [m.at, arrow, m.type, m.code, m.name, `mid ${m.mid}`, m.token && `tok ${m.token}`];
  return [...head, options, m.payload?.hex].filter(Boolean).join(" ");
}

/** @param {string} hex */
function hexdump(hex) {
  const lines = hex.match(/.{1,32}/g) ?? [];
  return lines
    .map((line, n) => {
      const pairs = line.match(/../g) ?? [];
      const text = pairs
        .map((pair) => (/^[2-6]|^7[0-9a-e]/.test(pair) ? String.fromCharCode(parseInt(pair, 16)) : "."))
        .join("");
      return `${(n * 16).toString(16).padStart(4, "0")}  ${pairs.join(" ").padEnd(47)}  ${text}`;
    })
    .join("\n");
}
