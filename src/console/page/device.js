// The page of one device: a bar that stays, and its parts as tabs.

import { Activity } from "./activity.js";
import { call, devicePath, forgetDefinitions, get, has, repeat, stream } from "./api.js";
import { Commands } from "./commands.js";
import { copyDevice } from "./copy.js";
import { details } from "./details.js";
import { fill, h } from "./dom.js";
import { ObjectTree } from "./objects.js";
import { CONFIRM, GONE } from "./texts.js";
import { TraceView } from "./trace.js";
import { button, dialog, failed, loading, stateBadge, time, toast } from "./ui.js";
import { valuesOf } from "./values.js";

/** @typedef {import("./api.js").Device} Device */

/** @type {Record<string, string>} */
const LIVE = { live: "live", connecting: "connecting …", ended: "not live" };

/** @param {{endpoint: string, tab: string, operator: boolean, signal: AbortSignal}} context */
export function openDevice({ endpoint, tab, operator, signal }) {
  const view = h("div.page.device", loading("the device"));
  const start = async () => {
    try {
      const device = await get(devicePath(endpoint), signal);
      new DevicePage(view, device, tab, operator, signal).start();
    } catch (problem) {
      if (!signal.aborted) fill(view, h("h1", { tabindex: "-1" }, endpoint), failed(problem, start));
    }
  };
  start();
  return view;
}

class DevicePage {
  /**
   * @param {HTMLElement} view
   * @param {Device} device
   * @param {string} tab
   * @param {boolean} operator
   * @param {AbortSignal} signal
   */
  constructor(view, device, tab, operator, signal) {
    this.view = view;
    this.device = device;
    this.signal = signal;
    this.operator = operator;
    /** Whether the registration has ended while the page was open. */
    this.left = false;
    this.values = valuesOf(device.endpoint);
    this.traces = operator && has("/traces");
    /** @type {Record<string, string>} */
    this.names = {
      objects: "Objects",
      activity: "Activity",
      ...(this.traces && { trace: "Trace" }),
      details: "Details",
    };
    this.tab = this.names[tab] ? tab : "objects";
    this.commands = new Commands(
      () => this.device,
      signal,
      (run) => this.ran(run),
    );
    this.tree = new ObjectTree(this.commands, this.values, operator && has("/devices/*/commands"));
    this.activity = new Activity(this.commands, operator, () => this.refetch());
    this.trace = new TraceView(device.endpoint, signal);
    this.bar = h("header.bar");
    this.note = h("div");
    const onkeydown = (/** @type {KeyboardEvent} */ event) => this.tabKey(event);
    this.tabs = h("div.tabs", { role: "tablist", "aria-label": "Parts of the device", onkeydown });
    this.body = h("div.part", { role: "tabpanel", id: "part", tabindex: "-1" });
    this.live = h("span.live", { role: "status" });
    /** @type {number | undefined} */
    this.fetching = undefined;
  }

  start() {
    fill(this.view, this.bar, this.note, this.tabs, this.body);
    this.draw();
    this.tree.load();
    if (has("/devices/*/events")) this.follow();
    else repeat(this.signal, () => this.refetch());
    // The window of a device in queue mode ends without an event.
    const timer = setInterval(() => {
      const { state, awakeUntil } = this.device;
      if (state === "awake" && awakeUntil && new Date(awakeUntil) < new Date()) this.refetch();
    }, 1000);
    this.signal.addEventListener("abort", () => clearInterval(timer));
    if (this.traces) this.trace.look().then(() => this.trace.follow());
  }

  follow() {
    const path = `${devicePath(this.device.endpoint)}/events`;
    stream(
      path,
      this.signal,
      (event) => this.event(event),
      (state, problem) => {
        this.live.className = `live ${state === "live" ? "on" : state}`;
        this.live.textContent = LIVE[state];
        if (problem?.status === 404) this.gone(GONE.left);
      },
    );
  }

  /** Fetches the device anew, soon: several events are often one change. */
  refetch() {
    this.fetching ??= setTimeout(async () => {
      this.fetching = undefined;
      try {
        this.device = await get(devicePath(this.device.endpoint), this.signal);
        this.left = false;
        fill(this.note);
        this.drawBar();
        this.drawTabs();
        this.tree.load();
        if (this.tab === "activity" || this.tab === "details") this.drawPart();
      } catch (problem) {
        if (/** @type {any} */ (problem).status === 404) this.gone(GONE.left);
      }
    }, 300);
  }

  /** @param {string} words */
  gone(words) {
    this.left = true;
    this.drawBar();
    fill(this.note, h("div.notice", h("div", h("strong", words), h("p", GONE.again))));
  }

  /** @param {import("./api.js").StreamEvent} event */
  event({ event, data }) {
    switch (event) {
      case "hello":
        return this.refetch();
      case "definitions":
        forgetDefinitions();
        return this.tree.load();
      case "message":
        this.tree.touch(this.values.take(data.payload, data.at));
        break;
      case "command":
        this.refetch();
        if (data.state === "done") this.commands.hurry();
        break;
      case "registered":
      case "updated":
      case "moved":
        this.refetch();
        break;
      case "coap":
      case "dtls":
        // The trace asks for its messages itself.
        return undefined;
      case "left":
        this.gone(`The registration ended: ${data.reason ?? "no reason given"}.`);
    }
    this.activity.take(event, data);
  }

  /** @param {import("./commands.js").Run} run */
  ran(run) {
    const answer = run.command?.answer;
    if (answer) this.values.take(answer, new Date().toISOString());
    this.tree.ran(run);
    this.activity.drawRuns();
    if (run.command || run.problem) this.refetch();
  }

  draw() {
    this.drawBar();
    this.drawTabs();
    this.drawPart();
  }

  drawBar() {
    const { device } = this;
    const { state, awakeUntil, dtls } = device;
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    const id = focused && this.bar.contains(focused) ? focused.dataset.id : null;
    const facts = [
      state === "awake" && awakeUntil && h("span", "for ", time(awakeUntil, "left")),
      state === "asleep" && h("span", "wakes by itself, within ", time(device.expires, "left")),
      h("span", "heard ", time(device.lastHeard, "ago")),
      h("span", "lifetime left ", time(device.expires, "left")),
      h("span", dtls ? `DTLS ${dtls.kind}${dtls.connectionId ? ", CID" : ""}` : device.transport.toUpperCase()),
      h("span.num", device.address),
      h("span", `LwM2M ${device.lwm2m} ${device.binding ?? ""}`),
    ];
    const kick = this.operator && !this.left;
    fill(
      this.bar,
      h(
        "div.headline",
        h("a.back", { href: "#/devices" }, "Devices"),
        h("h1", { tabindex: "-1" }, device.endpoint),
        this.live,
      ),
      h("div.meta", stateBadge(this.left ? "left" : state), facts),
      h(
        "div.actions",
        button("Copy as …", () => copyDevice(this.device), { "data-id": "copy" }),
        this.traces && button("Trace", () => this.go("trace"), { "data-key-trace": true, "data-id": "trace" }),
        kick && button("Kick", () => this.kick(), { class: "danger", "data-id": "kick" }),
      ),
    );
    if (id) /** @type {HTMLElement | null} */ (this.bar.querySelector(`[data-id=${id}]`))?.focus();
  }

  drawTabs() {
    const waits = this.device.queue.length + (this.device.inFlight ? 1 : 0);
    const had = this.tabs.contains(document.activeElement);
    const tabs = Object.entries(this.names).map(([name, label]) => {
      const chosen = name === this.tab;
      const props = {
        type: "button",
        role: "tab",
        id: `tab-${name}`,
        "aria-selected": String(chosen),
        "aria-controls": "part",
        tabindex: chosen ? "0" : "-1",
        onclick: () => this.go(name),
      };
      return h("button", props, label, name === "activity" && waits > 0 && h("span.badge", `${waits} pending`));
    });
    fill(this.tabs, tabs);
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
    const all = Object.keys(this.names);
    this.go(all[(all.indexOf(this.tab) + by + all.length) % all.length]);
    event.preventDefault();
  }

  drawPart() {
    if (this.tab === "activity") this.activity.draw();
    const parts = { objects: this.tree.element, activity: this.activity.element, trace: this.trace.element };
    const part = this.tab === "details" ? details(this.device) : parts[/** @type {keyof typeof parts} */ (this.tab)];
    if (!this.body.contains(part)) fill(this.body, part);
  }

  async kick() {
    const { endpoint } = this.device;
    const done = await dialog({
      title: `Kick ${endpoint}`,
      action: "Kick",
      danger: true,
      body: h("p", CONFIRM.kick),
      submit: () => call("DELETE", devicePath(endpoint)).then(() => true),
    });
    if (!done) return;
    toast("The registration ended");
    this.refetch();
  }
}
