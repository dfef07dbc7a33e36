// The first page: what there is, how much of it, and what is wrong.

import { get, has, repeat } from "./api.js";
import { sparkline } from "./chart.js";
import { fill, h } from "./dom.js";
import { count, counted, duration, took } from "./format.js";
import { failureWords } from "./texts.js";
import { conditionLine, failed, icon, loading, panel } from "./ui.js";

/** @typedef {import("./api.js").Schemas["Overview"]} Overview */
/** @typedef {import("./api.js").Schemas["Failure"]} Failure */
/** @typedef {{series: Record<string, number[]>, last: (name: string) => number | undefined}} History */

/** @type {[string, string, string][]} series, title, link */
const RATES = [
  ["registersPerSecond", "Registers/s", "#/devices"],
  ["updatesPerSecond", "Updates/s", "#/devices"],
  ["notificationsPerSecond", "Notifications/s", "#/devices"],
  ["commandsPerSecond", "Commands/s", "#/devices?waiting=true"],
];

/** @param {AbortSignal} signal */
export function openOverview(signal) {
  const body = h("div.stack16", loading("the overview"));
  const load = async () => {
    try {
      const asked = has("/failures") ? get("/failures", signal) : { failures: [] };
      const [overview, { failures }] = await Promise.all([get("/overview", signal), asked]);
      const focus = document.activeElement?.getAttribute("data-id");
      fill(body, content(overview, failures));
      if (focus) /** @type {HTMLElement | null} */ (body.querySelector(`[data-id="${CSS.escape(focus)}"]`))?.focus();
    } catch (problem) {
      if (!signal.aborted) fill(body, failed(problem, load));
    }
  };
  repeat(signal, load);
  return h("div.page", h("h1", { tabindex: "-1" }, "Overview"), body);
}

/** @param {Overview} overview @param {Failure[]} failures */
function content(overview, failures) {
  const { devices } = overview;
  // JSON writes 40 as 40.0, whose digits are kept.
  const all = Object.entries(overview.history.series).map(([name, values]) => [name, values.map(Number)]);
  /** @type {Record<string, number[]>} */
  const series = Object.fromEntries(all);
  /** @type {History} */
  const history = { series, last: (name) => series[name]?.at(-1) };
  const latency = history.last("commandLatencyP95");
  const rates = RATES.map(([name, title, link]) => {
    const note = name === "commandsPerSecond" && latency ? `p95 ${took(latency)}` : "";
    return tile(title, history.last(name), link, series[name], note);
  });
  /** @type {HTMLElement[]} */
  const parts = /** @type {const} */ (["awake", "asleep"]).map((state) =>
    h(
      `a.state.s-${state}`,
      { href: `#/devices?state=${state}`, "data-id": state },
      icon(state),
      h("span.num", count(devices[state])),
      ` ${state}`,
    ),
  );
  if (devices.joining)
    parts.push(h("span.state.s-warn", icon("off"), h("span.num", count(devices.joining)), " joining"));
  const total = tile("Devices", devices.total, "#/devices", series.devices, `of ${count(devices.limit)}`, parts);
  return [
    problems(failures),
    h("section.tiles", { "aria-label": "Devices and rates" }, total, rates),
    h("div.columns", broker(overview, history), gateway(overview, history)),
    h(
      "p.muted",
      `lwm2m-gateway ${overview.version}, up ${duration(Number(overview.uptime))}. Curves show the last hour.`,
    ),
  ];
}

/**
 * @param {string} title
 * @param {number | undefined} value
 * @param {string} link
 * @param {number[] | undefined} history
 * @param {string} note
 * @param {HTMLElement[]} [parts] what the number consists of
 */
const tile = (title, value, link, history, note, parts) =>
  h(
    parts ? "div.tile.large" : "div.tile",
    h("a", { href: link, "data-id": title }, title),
    h("div.top", h("span.figure", count(value)), h("span.muted.num", note)),
    parts && h("div.parts", parts),
    history?.length ? sparkline(history, title, 240, 36) : null,
  );

/** @param {Failure[]} failures */
function problems(failures) {
  const recent = failures.filter(({ at }) => Date.now() - new Date(at).getTime() < 3600000);
  if (!recent.length) return null;
  const top = recent.slice().sort((a, b) => b.count - a.count);
  const lines = top.slice(0, 3).map((failure) => {
    const code = failure.code ? ` ${failure.code}` : "";
    const words = `${failureWords(failure)[0]}${code}: ${failure.reason} `;
    return h("li", words, h("span.num.muted", `× ${count(failure.count)}`));
  });
  const title = `${counted(recent.length, "kind of failure", "kinds of failure")} in the last hour`;
  return h(
    "section.notice.warnbox",
    { "aria-label": "Failures" },
    icon("warn"),
    h("div.grow", h("strong", title), h("ul", lines)),
    h("a", { href: "#/failures", "data-id": "failures" }, "All failures"),
  );
}

/** @param {string} label @param {import("./dom.js").Child} value @param {number[]} [history] */
const line = (label, value, history) =>
  h(
    "div.factline",
    h("span.muted", label),
    h("span.num", value),
    history?.length ? sparkline(history, label, 96, 20) : h("span"),
  );

/** @param {Overview} overview @param {History} history */
function broker({ upstream, conditions }, { series, last }) {
  const waiting = count(last("publicationsWaiting") ?? upstream.waiting);
  const nodes = upstream.nodes.map(({ name, up, devices, detail }) =>
    conditionLine(name, { state: up ? "up" : "down", detail: up ? counted(devices, "device") : detail }),
  );
  return panel(
    "Broker",
    h(
      "div.pad",
      nodes.length ? nodes : conditions.broker && conditionLine("broker", conditions.broker),
      line("Kind", upstream.kind),
      line(
        "Publications waiting",
        upstream.limit ? `${waiting} / ${count(upstream.limit)}` : waiting,
        series.publicationsWaiting,
      ),
      line("Published/s", count(last("publicationsPerSecond")), series.publicationsPerSecond),
    ),
  );
}

/** @param {Overview} overview @param {History} history */
function gateway({ conditions }, { series, last }) {
  const own = Object.entries(conditions).filter(([name]) => name !== "broker");
  const good = last("handshakesPerSecond") ?? 0;
  const bad = last("handshakesFailedPerSecond") ?? 0;
  const share = good + bad ? `${Math.round((100 * good) / (good + bad))} %` : "–";
  return panel(
    "Gateway",
    h(
      "div.pad",
      own.map(([name, condition]) => conditionLine(name, condition)),
      line("DTLS sessions", count(last("associations")), series.associations),
      line("Handshakes/s", count(good), series.handshakesPerSecond),
      line("Handshakes that succeed", share, series.handshakesFailedPerSecond),
    ),
  );
}
