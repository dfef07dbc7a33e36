// Failures, newest first, with what to do.

import { get, has } from "./api.js";
import { fill, h } from "./dom.js";
import { count } from "./format.js";
import { repeat } from "./overview.js";
import { EMPTY, FAILURES, failureWords } from "./texts.js";
import { startTrace } from "./trace.js";
import { button, empty, failed, loading, select, table, time, toast } from "./ui.js";

/** @param {{signal: AbortSignal, operator: boolean, query: URLSearchParams}} context */
export function openFailures({ signal, operator, query }) {
  const body = h("div", {}, loading("failures"));
  const known = Object.entries(FAILURES).map(([kind, [title]]) => /** @type {[string, string]} */ ([kind, title]));
  const kind = select([["", "All kinds"], ...known], query.get("kind") ?? "", {
    "aria-label": "Kind",
    onchange: () => draw(),
  });
  const text = h("input", {
    type: "search",
    placeholder: "Device, address or reason",
    "aria-label": "Search failures",
    value: query.get("q") ?? "",
    oninput: () => draw(),
  });
  /** @type {any[] | null} */
  let list = null;
  const traces = has("/traces");
  const draw = () => {
    if (!list) return;
    const words = text.value.trim().toLowerCase();
    const shown = list.filter(
      (failure) =>
        (!kind.value || failure.kind === kind.value) &&
        (!words || JSON.stringify(failure).toLowerCase().includes(words)),
    );
    fill(
      body,
      shown.length
        ? rows(shown, operator && traces)
        : empty(list.length ? ["No failure matches", "Change or clear the filter."] : EMPTY.failures),
    );
  };
  const load = async () => {
    try {
      const fresh = (await get("/failures", signal)).failures;
      const same = JSON.stringify(fresh) === JSON.stringify(list);
      list = fresh;
      if (!same && !body.contains(document.activeElement)) draw();
    } catch (problem) {
      if (!signal.aborted) fill(body, failed(problem, load));
    }
  };
  repeat(signal, load);
  return h(
    "div",
    { class: "page" },
    h("h1", { tabindex: "-1" }, "Failures"),
    h("div", { class: "toolbar" }, text, kind),
    body,
  );
}

/** @param {any[]} list @param {boolean} traces */
function rows(list, traces) {
  const grid = table(
    [
      ["What happened", "what"],
      ["Who", "name"],
      ["Last", "num"],
      ["Times", "num"],
      ["What to do", "todo"],
      ["", "acts"],
    ],
    "Failures",
  );
  for (const failure of list) {
    const [title, todo] = failureWords(failure);
    const trace = async () => {
      /** @type {Record<string, string>} */
      const of = failure.address
        ? { address: address(failure.address) }
        : failure.identity
          ? { identity: failure.identity }
          : { endpoint: failure.endpoint };
      const started = await startTrace(of);
      if (!started) return;
      toast("The trace runs");
      location.hash = `#/trace/${encodeURIComponent(started.id)}`;
    };
    const label = failure.address ? "Trace this address" : "Trace";
    grid.body.append(
      grid.row(
        [
          [
            h("b", {}, title),
            " ",
            failure.code && h("span", { class: "tag num" }, failure.code),
            h("div", { class: "reason" }, failure.reason),
          ],
          [
            failure.endpoint && h("a", { href: `#/device/${encodeURIComponent(failure.endpoint)}` }, failure.endpoint),
            failure.identity && failure.identity !== failure.endpoint && h("div", {}, failure.identity),
            failure.address && h("div", { class: "muted num" }, failure.address),
          ],
          [
            time(failure.at, "ago"),
            failure.first && failure.count > 1 && h("div", { class: "muted" }, "first ", time(failure.first, "ago")),
          ],
          count(failure.count),
          todo,
          traces && (failure.address || failure.identity || failure.endpoint) ? button(label, trace) : "",
        ],
        { "data-row": true },
      ),
    );
  }
  return h("div", { class: "panel flush" }, grid.element);
}

/** @param {string} peer @returns {string} the address without its port */
function address(peer) {
  return peer.startsWith("[")
    ? peer.slice(1, peer.indexOf("]"))
    : peer.split(":").length === 2
      ? peer.split(":")[0]
      : peer;
}
