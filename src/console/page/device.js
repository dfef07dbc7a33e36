// The page of one device.

import { call, devicePath, forgetDefinitions, get, has, stream } from "./api.js";
import { Commands, copyDevice, runList } from "./commands.js";
import { fill, h } from "./dom.js";
import { clock, duration, took } from "./format.js";
import { show } from "./json.js";
import { repeat } from "./overview.js";
import { ObjectTree } from "./objects.js";
import { CONFIRM, EMPTY, FAILURES } from "./texts.js";
import { TraceView } from "./trace.js";
import {
  button,
  copyButton,
  dialog,
  empty,
  facts,
  failed,
  loading,
  panel,
  select,
  stateBadge,
  table,
  time,
  toast,
  toastProblem,
} from "./ui.js";
import { valuesOf } from "./values.js";

/** @typedef {import("./api.js").Device} Device */
/** @typedef {{at: string, kind: string, text: string, path: string}} Entry */

const EVENTS = 300;

/** @param {{endpoint: string, tab: string, session: import("./api.js").Session, signal: AbortSignal}} context */
export function openDevice({ endpoint, tab, session, signal }) {
  const view = h("div", { class: "page device" }, loading("the device"));
  const start = () =>
    get(devicePath(endpoint), signal).then(
      (device) => new DevicePage(view, device, tab, session, signal).start(),
      (problem) => signal.aborted || fill(view, h("h1", { tabindex: "-1" }, endpoint), failed(problem, start)),
    );
  start();
  return view;
}

class DevicePage {
  /**
   * @param {HTMLElement} view
   * @param {Device} device
   * @param {string} tab
   * @param {import("./api.js").Session} session
   * @param {AbortSignal} signal
   */
  constructor(view, device, tab, session, signal) {
    this.view = view;
    this.device = device;
    this.tab = tab || "objects";
    this.signal = signal;
    this.operator = session.role === "operator";
    this.values = valuesOf(device.endpoint);
    /** @type {Entry[]} */
    this.entries = [];
    this.paused = false;
    this.kind = "";
    this.traces = this.operator && has("/traces");
    this.commands = new Commands(
      () => this.device,
      signal,
      (run) => this.ran(run),
    );
    this.tree = new ObjectTree(this.commands, this.values, this.operator && has("/devices/*/commands"));
    this.trace = new TraceView(device.endpoint, signal);
    this.bar = h("header", { class: "bar" });
    this.note = h("div");
    this.tabs = h("div", {
      role: "tablist",
      class: "tabs",
      "aria-label": "Parts of the device",
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.tabKey(event),
    });
    this.body = h("div", { role: "tabpanel", id: "part", class: "part", tabindex: "-1" });
    this.live = h("span", { class: "live", role: "status" });
    /** @type {number | undefined} */
    this.fetching = undefined;
  }

  async start() {
    fill(this.view, this.bar, this.note, this.tabs, this.body);
    this.draw();
    this.tree.load();
    if (has("/devices/*/events")) this.follow();
    else repeat(this.signal, async () => this.refetch());
    // The window of a device in queue mode ends without an event.
    const timer = setInterval(() => {
      const { state, awakeUntil } = this.device;
      if (state === "awake" && awakeUntil && new Date(awakeUntil) < new Date()) this.refetch();
    }, 1000);
    this.signal.addEventListener("abort", () => clearInterval(timer));
    if (this.traces) this.trace.look();
  }

  follow() {
    stream(
      `${devicePath(this.device.endpoint)}/events`,
      this.signal,
      (event) => this.event(event),
      (state, problem) => {
        this.live.className = `live ${state === "live" ? "on" : state}`;
        this.live.textContent = { live: "live", connecting: "connecting …", ended: "not live" }[state];
        if (state === "ended" && problem?.status === 404) this.gone("The device is not registered any more.");
      },
    );
  }

  refetch() {
    if (this.fetching) return;
    this.fetching = setTimeout(async () => {
      this.fetching = undefined;
      try {
        this.device = await get(devicePath(this.device.endpoint), this.signal);
        fill(this.note);
        this.drawBar();
        this.drawTabs();
        this.tree.load();
        if (this.tab !== "objects") this.drawPart();
      } catch (problem) {
        if (/** @type {any} */ (problem).status === 404) this.gone("The device is not registered any more.");
      }
    }, 300);
  }

  /** @param {string} words */
  gone(words) {
    this.device.state = "left";
    this.drawBar();
    fill(
      this.note,
      h(
        "div",
        { class: "notice" },
        h(
          "div",
          {},
          h("strong", {}, words),
          h("p", {}, "The page continues when it registers again. Failures has the reason if it tries and is refused."),
        ),
      ),
    );
  }

  /** @param {import("./api.js").StreamEvent} event */
  event({ event, data }) {
    const at = data?.at ?? new Date().toISOString();
    switch (event) {
      case "hello":
        return this.refetch();
      case "definitions":
        forgetDefinitions();
        return this.tree.load();
      case "message": {
        const payload = data.payload;
        this.tree.touch(this.values.take(payload, at), true);
        return this.log({
          at,
          kind: payload?.msgType === "notify" ? "notify" : "message",
          text: messageWords(payload, data),
          path: payload?.data?.reqPath ?? "",
        });
      }
      case "command": {
        const outcome = data.outcome ? ` ${data.outcome}` : "";
        this.refetch();
        if (data.state === "done") this.commands.hurry();
        const time = data.took ? `, ${took(Number(data.took))}` : "";
        return this.log({
          at,
          kind: "command",
          path: data.path ?? "",
          text: `${data.msgType} ${data.state}${outcome} (${data.by}${time})`,
        });
      }
      case "registered":
      case "updated":
        this.refetch();
        return this.log({ at, kind: event, text: "", path: "" });
      case "moved":
        this.refetch();
        return this.log({ at, kind: "moved", text: `${data.from} → ${data.to}`, path: "" });
      case "left":
        this.gone(`The registration ended: ${data.reason ?? "no reason given"}.`);
        return this.log({ at, kind: "left", text: data.reason ?? "", path: "" });
      case "failure":
        return this.log({
          at,
          kind: "failure",
          text: `${FAILURES[data.kind]?.[0] ?? data.kind}: ${data.reason ?? ""}`,
          path: "",
        });
      case "lost":
        return this.log({ at, kind: "lost", text: `${data.count} events did not fit and were dropped`, path: "" });
      case "coap":
      case "dtls":
        return this.trace.add(event, data);
      default:
        return undefined;
    }
  }

  /** @param {Entry} entry */
  log(entry) {
    this.entries.unshift(entry);
    this.entries.length = Math.min(this.entries.length, EVENTS);
    if (this.tab === "activity" && !this.paused) this.drawEvents();
  }

  /** @param {import("./commands.js").Run} run */
  ran(run) {
    const answer = run.command?.answer;
    if (answer) this.values.take(answer, new Date().toISOString());
    this.tree.ran(run);
    this.drawTabs();
    if (this.tab === "activity") this.drawRuns();
    if (run.command || run.problem) this.refetch();
  }

  draw() {
    this.drawBar();
    this.drawTabs();
    this.drawPart();
  }

  drawBar() {
    const { device } = this;
    const awake = device.state === "awake" && device.awakeUntil;
    const dtls = device.dtls;
    const busy = document.activeElement && this.bar.contains(document.activeElement);
    const focus = busy ? /** @type {HTMLElement} */ (document.activeElement).dataset.id : null;
    fill(
      this.bar,
      h(
        "div",
        { class: "headline" },
        h("a", { href: "#/devices", class: "back" }, "Devices"),
        h("h1", { tabindex: "-1" }, device.endpoint),
        this.live,
      ),
      h(
        "div",
        { class: "meta" },
        stateBadge(device.state),
        awake && h("span", {}, "for ", time(/** @type {string} */ (device.awakeUntil), "left")),
        device.state === "asleep" && h("span", {}, "wakes by itself, within ", time(device.expires, "left")),
        h("span", {}, "heard ", time(device.lastHeard, "ago")),
        h("span", {}, "lifetime left ", time(device.expires, "left")),
        h("span", {}, dtls ? `DTLS ${dtls.kind}${dtls.connectionId ? ", CID" : ""}` : device.transport.toUpperCase()),
        h("span", { class: "num" }, device.address),
        h("span", {}, `LwM2M ${device.lwm2m} ${device.binding ?? ""}`),
      ),
      h(
        "div",
        { class: "actions" },
        button("Copy as …", () => copyDevice(device), { "data-id": "copy" }),
        this.traces && button("Trace", () => this.go("trace"), { "data-key-trace": true, "data-id": "trace" }),
        this.operator &&
          device.state !== "left" &&
          button("Kick", () => this.kick(), { class: "danger", "data-id": "kick" }),
      ),
    );
    if (focus) /** @type {HTMLElement | null} */ (this.bar.querySelector(`[data-id=${focus}]`))?.focus();
  }

  drawTabs() {
    const waits = this.device.queue.length + (this.device.inFlight ? 1 : 0);
    /** @type {[string, string, boolean][]} */
    const names = [
      ["objects", "Objects", true],
      ["activity", "Activity", true],
      ["trace", "Trace", this.traces],
      ["details", "Details", true],
    ];
    const shown = names.filter(([, , there]) => there);
    if (!shown.some(([name]) => name === this.tab))
      this.tab = this.tab === "trace" && this.operator ? "trace" : "objects";
    const had = this.tabs.contains(document.activeElement);
    fill(
      this.tabs,
      shown.map(([name, label]) =>
        h(
          "button",
          {
            type: "button",
            role: "tab",
            id: `tab-${name}`,
            "aria-selected": String(name === this.tab),
            "aria-controls": "part",
            tabindex: name === this.tab ? "0" : "-1",
            onclick: () => this.go(name),
          },
          label,
          name === "activity" && waits > 0 && h("span", { class: "badge" }, `${waits} waiting`),
        ),
      ),
    );
    if (had) /** @type {HTMLElement | null} */ (this.tabs.querySelector("[aria-selected=true]"))?.focus();
    this.body.setAttribute("aria-labelledby", `tab-${this.tab}`);
  }

  /** @param {string} name */
  go(name) {
    this.tab = name;
    history.replaceState(null, "", `#/device/${encodeURIComponent(this.device.endpoint)}/${name}`);
    this.drawTabs();
    this.drawPart();
  }

  /** @param {KeyboardEvent} event */
  tabKey(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const all = /** @type {HTMLElement[]} */ (Array.from(this.tabs.children));
    all[(all.findIndex((tab) => tab.tabIndex === 0) + by + all.length) % all.length].click();
    event.preventDefault();
  }

  drawPart() {
    if (this.tab === "objects") {
      if (!this.body.contains(this.tree.element)) fill(this.body, this.tree.element);
    } else if (this.tab === "trace") {
      if (!this.body.contains(this.trace.element)) fill(this.body, this.trace.element);
    } else if (this.tab === "activity") this.drawActivity();
    else fill(this.body, this.details());
  }

  drawActivity() {
    if (!this.body.querySelector("[data-part=activity]")) {
      this.queueBox = h("div");
      this.runBox = h("div");
      this.eventBox = h("div");
      const pause = button("Pause", () => {
        this.paused = !this.paused;
        pause.textContent = this.paused ? "Go on" : "Pause";
        if (!this.paused) this.drawEvents();
      });
      const kinds = ["notify", "message", "command", "registered", "updated", "moved", "left", "failure"];
      const filter = select(
        [["", "All events"], .../** @type {[string, string][]} */ (kinds.map((kind) => [kind, kind]))],
        this.kind,
        {
          "aria-label": "Kind of events",
          onchange: () => {
            this.kind = filter.value;
            this.drawEvents();
          },
        },
      );
      fill(
        this.body,
        h(
          "div",
          { class: "columns", "data-part": "activity" },
          h("div", {}, panel("Queue", this.queueBox), panel("Your commands", this.runBox)),
          panel("Events", this.eventBox, filter, pause),
        ),
      );
    }
    this.drawQueue();
    this.drawRuns();
    this.drawEvents();
  }

  drawQueue() {
    const { inFlight, queue } = this.device;
    const list = table([["Command"], ["By"], ["Time", "num"], ["", "acts"]], "Commands that wait");
    if (inFlight)
      list.body.append(
        list.row([
          commandText(inFlight),
          inFlight.by,
          inFlight.for === undefined ? "in flight" : `in flight ${duration(Number(inFlight.for))}`,
          "",
        ]),
      );
    for (const entry of queue) {
      list.body.append(
        list.row([
          commandText(entry),
          entry.by,
          entry.expires ? h("span", {}, "expires in ", time(entry.expires, "left")) : "–",
          this.operator && has("/devices/*/queue/*")
            ? button("Withdraw", () => this.commands.withdraw(entry.number).then(() => this.refetch()), {
                "aria-label": `Withdraw ${entry.msgType} ${entry.path ?? ""}`,
              })
            : "",
        ]),
      );
    }
    if (this.queueBox) fill(this.queueBox, inFlight || queue.length ? list.element : empty(EMPTY.queue));
  }

  drawRuns() {
    if (this.runBox)
      fill(
        this.runBox,
        runList(this.commands.runs, async (run) => {
          try {
            await call("DELETE", `/commands/${run.command?.id}`);
            this.commands.hurry();
          } catch (problem) {
            toastProblem(problem);
          }
        }),
      );
  }

  drawEvents() {
    const list = this.entries.filter((entry) => !this.kind || entry.kind === this.kind);
    if (this.eventBox)
      fill(
        this.eventBox,
        list.length
          ? h(
              "ol",
              { class: "log events" },
              list.map((entry) =>
                h(
                  "li",
                  {},
                  h("time", { class: "muted num" }, clock(entry.at)),
                  h("span", { class: `tag k-${entry.kind}` }, entry.kind),
                  h("span", { class: "words" }, entry.path && h("code", {}, entry.path), entry.path && " ", entry.text),
                ),
              ),
            )
          : empty(EMPTY.events),
      );
  }

  details() {
    const { device } = this;
    const topics = Object.entries(device.topics).map(([name, topic]) =>
      h("div", {}, h("dt", {}, name), h("dd", {}, h("code", {}, topic), copyButton(topic, `topic ${name}`))),
    );
    const extra = Object.entries(device.items ?? {}).map(
      ([name, value]) => /** @type {[string, string]} */ ([name, show(value)]),
    );
    return h(
      "div",
      { class: "columns" },
      panel(
        "Registration",
        facts([
          ["Endpoint name", h("span", { class: "row" }, device.endpoint, copyButton(device.endpoint, "endpoint name"))],
          ["Registered", time(device.registered, "clock")],
          ["Last heard", time(device.lastHeard, "ago")],
          ["Lifetime", duration(Number(device.lifetime))],
          ["Expires", time(device.expires, "clock")],
          ["Address", device.address],
          ["Binding", device.binding],
          ["LwM2M", device.lwm2m],
          ["Alternate path", device.alternatePath],
          ["Content formats", device.formats?.length ? device.formats.join(", ") : "none announced"],
          ["Client ID", device.clientid],
          ["User name", device.username],
          ["Observations", String(device.observations)],
          ...extra,
        ]),
      ),
      panel(
        "Security",
        device.dtls
          ? facts([
              ["Kind", device.dtls.kind],
              ["Identity", device.identity],
              ["Cipher suite", device.dtls.suite],
              ["Connection ID", device.dtls.connectionId ? "yes" : "no"],
              ["Session since", device.dtls.since && time(device.dtls.since, "clock")],
              ["Resumed", device.dtls.resumed === undefined ? null : device.dtls.resumed ? "yes" : "no"],
            ])
          : h("p", { class: "pad" }, "Plain UDP: messages are neither encrypted nor authenticated."),
      ),
      panel("MQTT topics", topics.length ? h("dl", { class: "facts topics" }, topics) : empty(EMPTY.topics)),
      panel(
        "Observations",
        device.observed.length
          ? h(
              "ul",
              { class: "plainlist" },
              device.observed.map((one) =>
                h(
                  "li",
                  {},
                  h("code", {}, one.path ?? one.paths?.join(" ")),
                  h("span", { class: "muted" }, ` by ${one.by}`),
                ),
              ),
            )
          : h("p", { class: "muted pad" }, "Nothing is observed."),
      ),
    );
  }

  async kick() {
    const done = await dialog({
      title: `Kick ${this.device.endpoint}`,
      action: "Kick",
      danger: true,
      body: h("p", {}, CONFIRM.kick),
      submit: () => call("DELETE", devicePath(this.device.endpoint)).then(() => true),
    });
    if (done) toast("The registration ended");
  }
}

/** @param {import("./api.js").Queued} entry */
function commandText(entry) {
  return h(
    "span",
    {},
    h("span", { class: "muted num" }, `${entry.number} `),
    entry.msgType,
    " ",
    h("code", {}, entry.path ?? entry.paths?.join(" ") ?? ""),
    entry.bytes ? h("span", { class: "muted" }, ` ${entry.bytes} B`) : "",
  );
}

/** @param {any} payload @param {any} data */
function messageWords(payload, data) {
  if (typeof payload !== "object" || payload === null)
    return `${String(payload).slice(0, 200)}${data.truncated ? ` … (${data.truncated} bytes)` : ""}`;
  const content = payload.data?.content;
  const values = Array.isArray(content)
    ? content
        .slice(0, 3)
        .map((entry) =>
          typeof entry === "string"
            ? entry
            : content.length > 1
              ? `${entry.path} = ${show(entry.value)}`
              : show(entry.value),
        )
        .join(", ")
    : "";
  const more = Array.isArray(content) && content.length > 3 ? ` and ${content.length - 3} more` : "";
  const reason = payload.data?.reason ? ` ${payload.data.reason}` : "";
  const what = payload.msgType === "notify" ? "" : `${payload.msgType} ${payload.data?.code ?? ""} `;
  return what + values + more + reason;
}
