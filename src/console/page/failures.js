// Failures, newest first, with what to do.

import { get, has, repeat } from "./api.js";
import { fill, h } from "./dom.js";
import { count } from "./format.js";
import { EMPTY, FAILURES, failureWords } from "./texts.js";
import { openTrace } from "./trace.js";
import { button, deviceLink, empty, failed, loading, select, table, time } from "./ui.js";

/** @type {[string, string?][]} */
const COLUMNS = [
  ["What happened", "what"],
  ["Who", "name"],
  ["Last", "num"],
  ["Times", "num"],
  ["What to do", "todo"],
];

/** @param {{signal: AbortSignal, operator: boolean, query: URLSearchParams}} context */
export function openFailures({ signal, operator, query }) {
  const body = h("div", loading("failures"));
  const known = Object.fromEntries(Object.entries(FAILURES).map(([kind, [title]]) => [kind, title]));
  const onchange = () => draw();
  const kind = select(known, query.get("kind"), { "aria-label": "Kind", onchange }, "All kinds");
  const text = h("input", {
    type: "search",
    placeholder: "Device, address or reason",
    "aria-label": "Search failures",
    value: query.get("q") ?? "",
    oninput: onchange,
  });
  /** @type {any[] | null} */
  let list = null;
  const traces = operator && has("/traces");
  const draw = () => {
    const words = text.value.trim().toLowerCase();
    const shown = list?.filter(
      (one) => (!kind.value || one.kind === kind.value) && JSON.stringify(one).toLowerCase().includes(words),
    );
    if (shown?.length) fill(body, rows(shown, traces));
    else if (list) fill(body, empty(list.length ? EMPTY.foundFailures : EMPTY.failures));
  };
  const load = async () => {
    try {
      const { failures } = await get("/failures", signal);
      const same = JSON.stringify(failures) === JSON.stringify(list);
      list = failures;
      if (!same && !body.contains(document.activeElement)) draw();
    } catch (problem) {
      if (!signal.aborted) fill(body, failed(problem, load));
    }
  };
  repeat(signal, load);
  return h("div.page", h("h1", { tabindex: "-1" }, "Failures"), h("div.toolbar", text, kind), body);
}

/** @param {any[]} list @param {boolean} traces */
function rows(list, traces) {
  const grid = table(traces ? [...COLUMNS, ["", "acts"]] : COLUMNS, "Failures");
  for (const failure of list) {
    const { endpoint, identity, address, code, path, at, first } = failure;
    const [title, todo] = failureWords(failure);
    const what = [
      h("b", title),
      " ",
      code && h("span.tag.num", code),
      h("div.reason", failure.reason, path && [" ", h("code", path)]),
    ];
    const who = [
      endpoint && deviceLink(endpoint),
      identity && identity !== endpoint && h("div", identity),
      address && h("div.muted.num", address),
    ];
    const since = first && failure.count > 1 && h("div.muted", "first ", time(first, "ago"));
    const of = address ? { address: host(address) } : identity ? { identity } : endpoint && { endpoint };
    const trace = traces && of && button(address ? "Trace this address" : "Trace", () => openTrace(of));
    grid.row([what, who, [time(at, "ago"), since], count(failure.count), todo, ...(traces ? [trace] : [])], {
      "data-row": true,
    });
  }
  return h("div.panel.flush", grid.element);
}

/** @param {string} peer @returns {string} the address without its port */
const host = (peer) => /^\[(.*)\]/.exec(peer)?.[1] ?? (peer.split(":").length === 2 ? peer.split(":")[0] : peer);
