// The parts that several pages use: buttons, states, dialogs, messages.

import { Problem } from "./api.js";
import { h, svg } from "./dom.js";
import { ago, clock, left, moment } from "./format.js";
import { STATES } from "./texts.js";

/** @typedef {import("./dom.js").Child} Child */

/** Paths of the icons, in a box of 16. @type {Record<string, string>} */
const ICONS = {
  awake: "M8 4a4 4 0 1 1 0 8a4 4 0 0 1 0-8z",
  asleep: "M9.5 3.2a5 5 0 1 0 3.4 7.6a4.6 4.6 0 0 1-3.4-7.6z",
  joining: "M8 3.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 0 1 0-9zm0 1.8a2.7 2.7 0 1 0 0 5.4a2.7 2.7 0 0 0 0-5.4z",
  left: "M4.5 3.4l3.5 3.5 3.5-3.5 1.1 1.1-3.5 3.5 3.5 3.5-1.1 1.1L8 9.1l-3.5 3.5-1.1-1.1L6.9 8 3.4 4.5z",
  warn: "M8 1.8l6.7 12H1.3zM7.3 6.5v3.6h1.4V6.5zm0 4.7v1.4h1.4v-1.4z",
  up: "M6.3 12.5L2.5 8.7l1.2-1.2 2.6 2.6 6-6 1.2 1.2z",
  chevron: "M5.5 3.5l5 4.5-5 4.5z",
  more: "M3 6.7h2.6v2.6H3zm3.7 0h2.6v2.6H6.7zm3.7 0H13v2.6h-2.6z",
  copy: "M5 2h8v9h-2v3H3V5h2zm1.3 1.3v6.4h5.4V3.3zM4.3 6.3v6.4h5.4V11H5V6.3z",
  arrow: "M8.5 3.5L13 8l-4.5 4.5-1-1 2.7-2.8H3V7.3h7.2L7.5 4.5z",
};

/** @param {string} name */
export function icon(name) {
  return svg(
    "svg",
    { viewBox: "0 0 16 16", class: `icon i-${name}`, "aria-hidden": "true" },
    svg("path", { d: ICONS[name] ?? "" }),
  );
}

/**
 * @param {string} label
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, any>} [props]
 */
export function button(label, onclick, props) {
  return h("button", { type: "button", onclick, ...props }, label);
}

/** @param {string} state */
export function stateBadge(state) {
  return h("span", { class: `state s-${state}` }, icon(state), STATES[state] ?? state);
}

/** @param {string} state of a condition: "up" or "ok" is good, "degraded" needs a look */
export function conditionBadge(state) {
  const good = state === "up" || state === "ok";
  const kind = state === "off" ? "off" : good ? "awake" : state === "degraded" ? "joining" : "bad";
  return h("span", { class: `state s-${kind}` }, icon(good ? "up" : state === "off" ? "joining" : "warn"), state);
}

/** @param {string} name @param {{state: string, detail: string}} condition */
export function conditionLine(name, { state, detail }) {
  return h(
    "div",
    { class: "node" },
    conditionBadge(state),
    h("span", {}, name),
    detail && h("span", { class: state === "down" ? "badtext" : "muted" }, detail),
  );
}

/** Texts of times that change with the clock. @type {Record<string, (at: string) => string>} */
const TIMES = { ago, left, clock };

/**
 * Creates a time that is kept current.
 * @param {string} at
 * @param {"ago" | "left" | "clock"} mode
 */
export function time(at, mode) {
  if (!at) return h("span", { class: "muted" }, "–");
  return h("time", { datetime: at, "data-mode": mode, title: moment(at) }, TIMES[mode](at));
}

/** Updates the times in the page, once a second. */
export function tick() {
  if (document.hidden) return;
  for (const element of document.querySelectorAll("time[data-mode]")) {
    const node = /** @type {HTMLTimeElement} */ (element);
    const text = TIMES[node.dataset.mode ?? "ago"](node.dateTime);
    if (node.textContent !== text) node.textContent = text;
  }
}

/** @param {string} text @param {string} [what] */
export function copyButton(text, what) {
  const label = h("span", {}, "Copy");
  const copy = async () => {
    await copyText(text);
    label.textContent = "Copied";
    setTimeout(() => (label.textContent = "Copy"), 1500);
  };
  return h(
    "button",
    { type: "button", class: "quiet", onclick: copy, "aria-label": what && `Copy ${what}` },
    icon("copy"),
    label,
  );
}

/** @param {string} text */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain HTTP off loopback has no clipboard API.
    const area = h("textarea", { class: "off", value: text });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** @param {string} text @param {string} [what] */
export function snippet(text, what) {
  return h("div", { class: "snippet" }, h("code", { tabindex: "0" }, text), copyButton(text, what));
}

/** @param {string[]} words @param {...Child} actions */
export function empty([title, text], ...actions) {
  return h("div", { class: "empty" }, h("strong", {}, title), h("p", {}, text), actions);
}

/** @param {string} what */
export function loading(what) {
  return h("div", { class: "loading", role: "status" }, h("span", { class: "spinner" }), `Loading ${what} …`);
}

/** @param {any} error @param {(() => void) | null} [retry] */
export function failed(error, retry) {
  const problem = error instanceof Problem ? error : null;
  const what = problem?.what ?? "The page made a mistake";
  const detail = problem && problem.message !== what ? problem.message : problem ? "" : String(error);
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    icon("warn"),
    h(
      "div",
      {},
      h("strong", {}, what),
      detail && h("p", {}, detail),
      h("p", {}, problem?.todo ?? "Reload the page."),
      retry && button("Try again", retry),
    ),
  );
}

const announcer = h("div", { class: "off", role: "status", "aria-live": "polite" });

/** Says a result to screen readers. @param {string} text */
export function announce(text) {
  if (!announcer.isConnected) document.body.append(announcer);
  announcer.textContent = text;
}

/** @param {string} text @param {boolean} [bad] */
export function toast(text, bad) {
  let stack = document.querySelector(".toasts");
  if (!stack) document.body.append((stack = h("div", { class: "toasts", role: "status" })));
  const note = h("div", { class: bad ? "toast bad" : "toast" }, text);
  stack.append(note);
  setTimeout(() => note.remove(), bad ? 9000 : 4000);
}

/** @param {any} error */
export function toastProblem(error) {
  if (error instanceof Problem) toast(`${error.message}. ${error.todo}`.replace("..", "."), true);
  else if (error?.name !== "AbortError") toast(String(error), true);
}

/**
 * Opens a dialog with a form. It resolves to what `submit` returns, or to null if it was closed. An error of `submit`
 * is shown and leaves the dialog open.
 * @template T
 * @param {{title: string, body: Child, action?: string, danger?: boolean, wide?: boolean,
 *   submit?: () => T | Promise<T>}} options
 * @returns {Promise<T | null>}
 */
export function dialog({ title, body, action, danger, wide, submit }) {
  return new Promise((resolve) => {
    /** @type {T | null} */
    let result = null;
    const error = h("p", { class: "error", role: "alert" });
    const go = h("button", { type: "submit", class: danger ? "primary danger" : "primary" }, action ?? "OK");
    const form = h(
      "form",
      { novalidate: true },
      h("h2", { id: "dialog-title" }, title),
      h("div", { class: "body" }, body),
      error,
      h(
        "div",
        { class: "buttons" },
        button(submit ? "Cancel" : "Close", () => box.close()),
        submit && go,
      ),
    );
    const box = h("dialog", { class: wide ? "wide" : null, "aria-labelledby": "dialog-title" }, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!submit) return box.close();
      go.disabled = true;
      try {
        result = await submit();
        box.close();
      } catch (mistake) {
        error.textContent =
          mistake instanceof Problem
            ? `${mistake.message}. ${mistake.todo}`
            : String(/** @type {Error} */ (mistake).message);
      } finally {
        go.disabled = false;
      }
    });
    box.addEventListener("close", () => (box.remove(), resolve(result)));
    document.body.append(box);
    box.showModal();
  });
}

/**
 * A labelled control.
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} [hint]
 */
export function field(label, control, hint) {
  return h(
    "label",
    { class: "field" },
    h("span", { class: "label" }, label),
    control,
    hint && h("span", { class: "hint" }, hint),
  );
}

/** @param {[string, string][]} options value and text @param {string} chosen @param {Record<string, any>} [props] */
export function select(options, chosen, props) {
  const element = h(
    "select",
    props,
    options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
  );
  return element;
}

/** @param {[string, Child][]} pairs */
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/**
 * A table whose rows become cards on a phone: each cell carries the title of its column.
 * @param {[string, string?][]} columns title and class
 * @param {string} label
 */
export function table(columns, label) {
  const body = h("tbody", { role: "rowgroup" });
  const heads = columns.map(([title, kind]) =>
    h("th", { role: "columnheader", scope: "col", class: kind }, title || h("span", { class: "off" }, "Actions")),
  );
  const element = h(
    "table",
    { role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
    body,
  );
  /** @param {Child[]} cells @param {Record<string, any>} [props] */
  const row = (cells, props) =>
    h(
      "tr",
      { role: "row", ...props },
      cells.map((cell, n) => h("td", { role: "cell", class: columns[n][1], "data-title": columns[n][0] }, cell)),
    );
  return { element, body, row };
}

/** @param {string} title @param {Child} content @param {...Child} actions */
export function panel(title, content, ...actions) {
  return h(
    "section",
    { class: "panel" },
    h("header", {}, h("h2", {}, title), h("span", { class: "actions" }, actions)),
    content,
  );
}
