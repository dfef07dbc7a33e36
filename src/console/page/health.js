// Conditions, reloads, bounds, traces, tokens and the audit log.

import { call, get, has } from "./api.js";
import { fill, h } from "./dom.js";
import { count, duration, size } from "./format.js";
import { repeat } from "./overview.js";
import { EMPTY } from "./texts.js";
import {
  button,
  conditionBadge,
  conditionLine,
  empty,
  failed,
  loading,
  panel,
  table,
  time,
  toastProblem,
} from "./ui.js";

/** @param {{signal: AbortSignal, operator: boolean}} context */
export function openHealth({ signal, operator }) {
  const parts = { conditions: h("div", {}, loading("health")), traces: h("div"), tokens: h("div"), audit: h("div") };
  /** @param {string} path @param {(found: any) => void} draw */
  const listed = async (path, draw) => has(path) && draw(await get(path, signal));
  const load = async () => {
    try {
      const overview = await get("/overview", signal);
      fill(parts.conditions, h("div", { class: "columns" }, conditions(overview), bounds(overview)));
      if (!operator) return;
      await Promise.all([
        listed("/traces", (found) => drawTraces(parts.traces, found.traces, load)),
        listed("/tokens", (found) => drawTokens(parts.tokens, found.tokens)),
        listed("/audit", (found) => drawAudit(parts.audit, found.entries)),
      ]);
    } catch (problem) {
      if (!signal.aborted) fill(parts.conditions, failed(problem, load));
    }
  };
  repeat(signal, load);
  return h(
    "div",
    { class: "page" },
    h("h1", { tabindex: "-1" }, "Health"),
    parts.conditions,
    parts.traces,
    parts.tokens,
    parts.audit,
    h(
      "p",
      { class: "muted" },
      "The API is described by ",
      h("a", { href: "/api/v1/openapi.json", target: "_blank", rel: "noopener" }, "its OpenAPI document"),
      ".",
    ),
  );
}

/** @param {any} overview */
function conditions(overview) {
  const list = Object.entries(overview.conditions ?? {}).map(([name, one]) =>
    conditionLine(name, /** @type {any} */ (one)),
  );
  const reload = overview.reload;
  return panel(
    "Conditions",
    h(
      "div",
      { class: "pad" },
      list,
      reload &&
        h(
          "div",
          { class: "node" },
          conditionBadge(reload.failing ? "failing" : "ok"),
          h("span", {}, "last reload"),
          reload.at && h("span", { class: "muted" }, time(reload.at, "ago")),
        ),
      reload?.mistakes?.length > 0 &&
        h(
          "ul",
          { class: "mistakes" },
          reload.mistakes.map((/** @type {string} */ text) => h("li", {}, text)),
        ),
      h("div", { class: "node muted" }, `lwm2m-gateway ${overview.version}, up ${duration(Number(overview.uptime))}`),
    ),
  );
}

/** @param {any} overview */
function bounds(overview) {
  const list = (overview.bounds ?? []).map((/** @type {any} */ bound) => {
    const share = bound.limit ? bound.used / bound.limit : 0;
    const words = (/** @type {number} */ n) => (bound.unit === "bytes" ? size(n) : count(n));
    const meter = h("meter", {
      min: "0",
      max: "1",
      low: "0.7",
      high: "0.9",
      optimum: "0",
      value: String(share),
      "aria-label": bound.name,
    });
    return h(
      "div",
      { class: "bound" },
      h("span", {}, bound.name),
      meter,
      h("span", { class: "num" }, `${words(bound.used)} / ${words(bound.limit)}`),
      h("span", { class: "num muted" }, `${share > 0 && share < 0.01 ? "< 1" : Math.round(share * 100)} %`),
    );
  });
  return panel(
    "Bounds",
    list.length ? h("div", { class: "pad" }, list) : h("p", { class: "pad muted" }, "The gateway reports no bounds."),
  );
}

/** @param {HTMLElement} box @param {any[]} traces @param {() => void} again */
function drawTraces(box, traces, again) {
  const grid = table([["Trace of", "name"], ["By"], ["Ends in", "num"], ["", "acts"]], "Traces");
  for (const trace of traces) {
    const of = trace.endpoint ?? trace.address ?? trace.identity;
    const end = () => call("DELETE", `/traces/${trace.id}`).then(again, toastProblem);
    grid.body.append(
      grid.row([
        h(
          "a",
          {
            href: trace.endpoint
              ? `#/device/${encodeURIComponent(trace.endpoint)}/trace`
              : `#/trace/${encodeURIComponent(trace.id)}`,
          },
          of,
        ),
        trace.by ?? "",
        time(trace.ends, "left"),
        button("End", end, { "aria-label": `End the trace of ${of}` }),
      ]),
    );
  }
  fill(box, panel("Traces", traces.length ? grid.element : empty(EMPTY.traces)));
}

/** @param {HTMLElement} box @param {any[]} tokens */
function drawTokens(box, tokens) {
  const grid = table([["Token", "name"], ["Role"], ["Prefix"], ["Last use", "num"]], "Tokens");
  for (const token of tokens)
    grid.body.append(
      grid.row([token.name, token.role, token.prefix ?? "", token.lastUsed ? time(token.lastUsed, "ago") : "never"]),
    );
  fill(box, panel("Tokens", grid.element));
}

/** @param {HTMLElement} box @param {any[]} entries */
function drawAudit(box, entries) {
  const grid = table(
    [["Time", "when"], ["Who"], ["What"], ["Device", "name"], ["Path"], ["Bytes", "num"], ["Result"]],
    "Audit log",
  );
  for (const one of entries) {
    grid.body.append(
      grid.row([
        time(one.at, "clock"),
        [one.by, h("div", { class: "muted num" }, one.from)],
        [one.msgType ?? one.action, one.force && h("span", { class: "tag" }, "force")],
        one.endpoint ? h("a", { href: `#/device/${encodeURIComponent(one.endpoint)}` }, one.endpoint) : "",
        one.path && h("code", {}, one.path),
        one.bytes ? count(one.bytes) : "",
        one.result,
      ]),
    );
  }
  fill(box, panel("Audit log", entries.length ? grid.element : empty(EMPTY.audit)));
}
