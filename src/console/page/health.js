// Conditions, reloads, bounds, traces, tokens and the audit log.

import { call, get, has, repeat } from "./api.js";
import { fill, h } from "./dom.js";
import { count, counted, duration, size } from "./format.js";
import { EMPTY } from "./texts.js";
import { button, conditionLine, deviceLink, empty, failed, loading, panel, table, time, toastProblem } from "./ui.js";

/** @typedef {import("./api.js").Schemas["Overview"]} Overview */

/** @param {{signal: AbortSignal, operator: boolean}} context */
export function openHealth({ signal, operator }) {
  const parts = { overview: h("div", loading("health")), traces: h("div"), tokens: h("div"), audit: h("div") };
  /** @param {string} path @param {(found: any) => void} draw */
  const listed = async (path, draw) => operator && has(path) && draw(await get(path, signal));
  const load = async () => {
    try {
      const overview = await get("/overview", signal);
      fill(parts.overview, h("div.columns", conditions(overview), bounds(overview)));
      await Promise.all([
        listed("/traces", (found) => fill(parts.traces, traces(found.traces, load))),
        listed("/tokens", (found) => fill(parts.tokens, tokens(found.tokens))),
        listed("/audit", (found) => fill(parts.audit, audit(found.entries))),
      ]);
    } catch (problem) {
      if (!signal.aborted) fill(parts.overview, failed(problem, load));
    }
  };
  repeat(signal, load);
  const api = h("a", { href: "/api/v1/openapi.json", target: "_blank", rel: "noopener" }, "its OpenAPI document");
  return h(
    "div.page",
    h("h1", { tabindex: "-1" }, "Health"),
    Object.values(parts),
    h("p.muted", "The API is described by ", api, "."),
  );
}

/** @param {Overview} overview */
function conditions({ conditions, definitions, reload, version, uptime }) {
  const list = Object.entries(conditions).map(([name, condition]) => conditionLine(name, condition));
  const { total, broken } = definitions;
  const found = `${count(total)} in force${broken.length ? `, ${counted(broken.length, "file")} rejected` : ""}`;
  list.push(conditionLine("object definitions", { state: broken.length ? "degraded" : "ok", detail: found }));
  const detail = reload.at && time(reload.at, "ago");
  if (reload.at) list.push(conditionLine("last reload", { state: reload.failing ? "failing" : "ok", detail }));
  const texts = [...broken.map(({ file, reason }) => `${file}: ${reason}`), ...reload.mistakes];
  const mistakes = Array.from(new Set(texts), (text) => h("li", text));
  const about = `lwm2m-gateway ${version}, up ${duration(Number(uptime))}`;
  return panel("Conditions", [
    h("div.pad", list, mistakes.length > 0 && h("ul.mistakes", mistakes)),
    h("footer.muted", about),
  ]);
}

/** @param {Overview} overview */
function bounds(overview) {
  const list = overview.bounds.map(({ name, used, limit, unit }) => {
    const share = limit ? used / limit : 0;
    const words = unit === "bytes" ? size : count;
    const percent = share > 0 && share < 0.01 ? "< 1" : Math.round(share * 100);
    const range = { min: "0", max: "1", low: "0.7", high: "0.9", optimum: "0" };
    return h(
      "div.bound",
      h("span", name),
      h("meter", { ...range, value: String(share), "aria-label": name }),
      h("span.num", `${words(used)} / ${words(limit)}`),
      h("span.num.muted", `${percent} %`),
    );
  });
  return panel("Bounds", list.length ? h("div.pad", list) : h("p.pad.muted", "The gateway reports no bounds."));
}

/** @param {any[]} list @param {() => void} again */
function traces(list, again) {
  const grid = table([["Trace of", "name"], ["By"], ["Ends in", "num"], ["", "acts"]], "Traces");
  for (const { id, endpoint, address, identity, by, ends } of list) {
    const of = endpoint ?? address ?? identity;
    const end = () => call("DELETE", `/traces/${id}`).then(again, toastProblem);
    const href = endpoint ? `#/device/${encodeURIComponent(endpoint)}/trace` : `#/trace/${encodeURIComponent(id)}`;
    const stop = button("End", end, { "aria-label": `End the trace of ${of}` });
    grid.row([h("a", { href }, of), by, time(ends, "left"), stop]);
  }
  return panel("Traces", list.length ? grid.element : empty(EMPTY.traces));
}

/** @param {any[]} list */
function tokens(list) {
  const grid = table([["Token", "name"], ["Role"], ["Devices", "name"], ["Last use", "when"]], "Tokens");
  for (const { name, role, prefix, lastUse } of list) {
    grid.row([name, role, prefix ? h("code", `${prefix}…`) : "all", lastUse ? time(lastUse, "ago") : "not since the start"]);
  }
  return panel("Tokens", list.length ? grid.element : empty(EMPTY.tokens));
}

/** @param {any[]} entries */
function audit(entries) {
  const grid = table(
    [["Time", "when"], ["Who"], ["What"], ["Device", "name"], ["Path"], ["Bytes", "num"], ["Result"]],
    "Audit log",
  );
  for (const { at, by, from, msgType, action, force, endpoint, path, bytes, result } of entries) {
    const who = [by, h("div.muted.num", from)];
    const what = [msgType ?? action, force && h("span.tag", "force")];
    // A trace can be of an address or an identity.
    const device = endpoint && (/^(address|identity) /.test(endpoint) ? endpoint : deviceLink(endpoint));
    grid.row([time(at, "clock"), who, what, device, path && h("code", path), bytes ? count(bytes) : "", result]);
  }
  return panel("Audit log", entries.length ? grid.element : empty(EMPTY.audit));
}
