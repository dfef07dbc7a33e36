// The first page: what there is, how much of it, and what is wrong.

import { get, has } from "./api.js";
import { sparkline } from "./chart.js";
import { fill, h } from "./dom.js";
import { count, duration, took } from "./format.js";
import { FAILURES } from "./texts.js";
import { conditionBadge, conditionLine, failed, icon, loading, panel } from "./ui.js";

const EACH = 5000;

/** @type {[string, string, string][]} series, title, link */
const RATES = [
  ["registersPerSecond", "Registers/s", "#/devices"],
  ["updatesPerSecond", "Updates/s", "#/devices"],
  ["notificationsPerSecond", "Notifications/s", "#/devices"],
  ["commandsPerSecond", "Commands/s", "#/devices?waiting=true"],
];

/**
 * Repeats `load` while the tab is visible and the page open.
 * @param {AbortSignal} signal
 * @param {() => Promise<void>} load
 */
export function repeat(signal, load) {
  const again = async () => {
    if (signal.aborted) return;
    if (!document.hidden) await load();
    setTimeout(again, EACH);
  };
  again();
}

/** @param {AbortSignal} signal */
export function openOverview(signal) {
  const body = h("div", { class: "stack16" }, loading("the overview"));
  const view = h("div", { class: "page" }, h("h1", { tabindex: "-1" }, "Overview"), body);
  const load = async () => {
    try {
      const [overview, failures] = await Promise.all([
        get("/overview", signal),
        has("/failures") ? get("/failures", signal) : { failures: [] },
      ]);
      const focus = document.activeElement?.getAttribute("data-id");
      fill(body, content(overview, failures.failures));
      if (focus) /** @type {HTMLElement | null} */ (body.querySelector(`[data-id="${CSS.escape(focus)}"]`))?.focus();
    } catch (problem) {
      if (!signal.aborted) fill(body, failed(problem, load));
    }
  };
  repeat(signal, load);
  return view;
}

/**
 * Series of the overviews that this page has fetched, for a gateway that keeps none.
 * @type {Record<string, number[]>}
 */
const own = {};
/** @type {{at: number, metrics: Record<string, number>} | null} */
let before = null;

/** Counters by the name of their series. @type {Record<string, string>} */
const COUNTERS = {
  registersPerSecond: "lwm2m_registrations_total",
  updatesPerSecond: "lwm2m_updates_total",
  notificationsPerSecond: "lwm2m_notifications_total",
  commandsPerSecond: "lwm2m_commands_total",
  publicationsPerSecond: "lwm2m_publishes_total",
  handshakesPerSecond: "lwm2m_dtls_handshakes_total",
};

/** @param {Record<string, number>} metrics @param {string} name @returns {number} the sum over all labels */
function sum(metrics, name) {
  const samples = Object.entries(metrics).filter(([sample]) => sample === name || sample.startsWith(`${name}{`));
  return samples.reduce((total, [, value]) => total + Number(value), 0);
}

/** @param {any} overview */
function ownHistory({ metrics, devices, upstream }) {
  const at = performance.now();
  /** @type {Record<string, number>} */
  const values = {
    devices: devices.total,
    publicationsWaiting: upstream.waiting,
    associations: sum(metrics, "lwm2m_dtls_associations"),
  };
  if (before) {
    const seconds = (at - before.at) / 1000;
    for (const [series, name] of Object.entries(COUNTERS)) {
      values[series] = Math.max(0, sum(metrics, name) - sum(before.metrics, name)) / seconds;
    }
  }
  before = { at, metrics };
  for (const [series, value] of Object.entries(values)) {
    own[series] = [...(own[series] ?? []), value].slice(-360);
  }
  return own;
}

/** @param {any} overview @param {any[]} failures */
function content(overview, failures) {
  const series = overview.history?.series ?? ownHistory(overview);
  const devices = overview.devices ?? {};
  const last = (/** @type {string} */ name) => series[name]?.at(-1);
  return [
    problems(failures),
    h(
      "section",
      { class: "tiles", "aria-label": "Devices and rates" },
      tile("Devices", devices.total, "#/devices", series.devices, `of ${count(devices.limit)}`, [
        ["awake", devices.awake],
        ["asleep", devices.asleep],
        ["joining", devices.joining],
      ]),
      RATES.map(([name, title, link]) =>
        tile(
          title,
          last(name),
          link,
          series[name],
          name === "commandsPerSecond" && last("commandLatencyP95") ? `p95 ${took(last("commandLatencyP95"))}` : "",
        ),
      ),
    ),
    h("div", { class: "columns" }, broker(overview, series, last), store(overview, series, last)),
    h(
      "p",
      { class: "muted" },
      `lwm2m-gateway ${overview.version}, up ${duration(Number(overview.uptime))}. `,
      overview.history ? "Curves show the last hour." : "Curves begin when this page is opened.",
    ),
  ];
}

/**
 * @param {string} title
 * @param {number} value
 * @param {string} link
 * @param {number[] | undefined} history
 * @param {string} note
 * @param {[string, number][]} [parts]
 */
function tile(title, value, link, history, note, parts) {
  return h(
    "div",
    { class: parts ? "tile large" : "tile" },
    h("div", { class: "top" }, h("a", { href: link, "data-id": title }, title)),
    h("div", { class: "top" }, h("span", { class: "figure" }, count(value)), h("span", { class: "muted num" }, note)),
    parts &&
      h(
        "div",
        { class: "parts" },
        parts
          .filter(([, n]) => n !== undefined)
          .map(([state, n]) =>
            h(
              "a",
              { href: `#/devices?state=${state}`, "data-id": state, class: `state s-${state}` },
              icon(state),
              h("span", { class: "num" }, count(n)),
              ` ${state}`,
            ),
          ),
      ),
    history?.length ? sparkline(history, title, 240, 36) : null,
  );
}

/** @param {any[]} failures */
function problems(failures) {
  const hour = failures.filter((failure) => Date.now() - new Date(failure.at).getTime() < 3600000);
  if (!hour.length) return null;
  const top = hour
    .slice()
    .sort((a, b) => b.count - a.count)
    .slice(0, 3);
  return h(
    "section",
    { class: "notice warnbox", "aria-label": "Failures" },
    icon("warn"),
    h(
      "div",
      { class: "grow" },
      h("strong", {}, `${hour.length} ${hour.length === 1 ? "kind of failure" : "kinds of failure"} in the last hour`),
      h(
        "ul",
        {},
        top.map((failure) =>
          h(
            "li",
            {},
            FAILURES[failure.kind]?.[0] ?? failure.kind,
            failure.code ? ` ${failure.code}` : "",
            `: ${failure.reason} `,
            h("span", { class: "num muted" }, `× ${count(failure.count)}`),
          ),
        ),
      ),
    ),
    h("a", { href: "#/failures", "data-id": "failures" }, "All failures"),
  );
}

/** @param {string} label @param {import("./dom.js").Child} value @param {number[] | undefined} [history] */
const line = (label, value, history) =>
  h(
    "div",
    { class: "factline" },
    h("span", { class: "muted" }, label),
    h("span", { class: "num" }, value),
    history?.length ? sparkline(history, label, 96, 20) : h("span"),
  );

/** @param {any} overview @param {Record<string, number[]>} series @param {(name: string) => number} last */
function broker(overview, series, last) {
  const nodes = overview.upstream?.nodes ?? [];
  const waiting = last("publicationsWaiting") ?? 0;
  return panel(
    "Broker",
    h(
      "div",
      { class: "pad" },
      nodes.map((/** @type {any} */ node) =>
        h(
          "div",
          { class: "node" },
          conditionBadge(node.up ? "up" : "down"),
          h("span", { class: "mono" }, node.name),
          node.up
            ? h("span", { class: "muted num" }, `${count(node.devices)} devices`)
            : h("span", { class: "badtext" }, node.detail),
        ),
      ),
      !nodes.length && overview.conditions?.broker && conditionLine("broker", overview.conditions.broker),
      overview.upstream?.nodesDown > 0 && line("Nodes down", count(overview.upstream.nodesDown)),
      overview.upstream?.nodesUp > 0 && line("Nodes up", count(overview.upstream.nodesUp)),
      line("Kind", overview.upstream?.kind),
      line(
        "Publications waiting",
        overview.upstream?.limit ? `${count(waiting)} / ${count(overview.upstream.limit)}` : count(waiting),
        series.publicationsWaiting,
      ),
      line("Published/s", count(last("publicationsPerSecond")), series.publicationsPerSecond),
    ),
  );
}

/** @param {any} overview @param {Record<string, number[]>} series @param {(name: string) => number} last */
function store(overview, series, last) {
  const conditions = Object.entries(overview.conditions ?? {}).filter(([name]) => name !== "broker");
  const good = last("handshakesPerSecond") ?? 0;
  const bad = last("handshakesFailedPerSecond") ?? 0;
  return panel(
    "Gateway",
    h(
      "div",
      { class: "pad" },
      conditions.map(([name, one]) => conditionLine(name, /** @type {any} */ (one))),
      line("DTLS sessions", count(last("associations")), series.associations),
      line("Handshakes/s", count(good), series.handshakesPerSecond),
      line(
        "Handshakes that succeed",
        good + bad ? `${Math.round((100 * good) / (good + bad))} %` : "–",
        series.handshakesFailedPerSecond,
      ),
    ),
  );
}
