// The parts that several pages use: buttons, states, dialogs, tables, messages.

import { Problem } from "./api.js";
import { h, svg } from "./dom.js";
import { ago, clock, left, moment } from "./format.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {import("./dom.js").Props} Props */

/** Paths of the icons, in a box of 16. @type {Record<string, string>} */
const ICONS = {
  awake: "M8 4a4 4 0 1 1 0 8a4 4 0 0 1 0-8z",
  asleep: "M9.5 3.2a5 5 0 1 0 3.4 7.6a4.6 4.6 0 0 1-3.4-7.6z",
  off: "M8 3.5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 0 1 0-9zm0 1.8a2.7 2.7 0 1 0 0 5.4a2.7 2.7 0 0 0 0-5.4z",
  left: "M4.5 3.4l3.5 3.5 3.5-3.5 1.1 1.1-3.5 3.5 3.5 3.5-1.1 1.1L8 9.1l-3.5 3.5-1.1-1.1L6.9 8 3.4 4.5z",
  warn: "M8 1.8l6.7 12H1.3zM7.3 6.5v3.6h1.4V6.5zm0 4.7v1.4h1.4v-1.4z",
  up: "M6.3 12.5L2.5 8.7l1.2-1.2 2.6 2.6 6-6 1.2 1.2z",
  chevron: "M5.5 3.5l5 4.5-5 4.5z",
  more: "M3 6.7h2.6v2.6H3zm3.7 0h2.6v2.6H6.7zm3.7 0H13v2.6h-2.6z",
  copy: "M5 2h8v9h-2v3H3V5h2zm1.3 1.3v6.4h5.4V3.3zM4.3 6.3v6.4h5.4V11H5V6.3z",
};

/** @param {string} name */
export const icon = (name) =>
  svg(`svg.icon.i-${name}`, { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: ICONS[name] ?? "" }));

/** @param {string | Child[]} label @param {(event: any) => void} onclick @param {Props} [props] */
export const button = (label, onclick, props) => h("button", { type: "button", onclick, ...props }, label);

/** @param {string} state of a device */
export const stateBadge = (state) => h(`span.state.s-${state}`, icon(state), state);

/** A condition: "up" or "ok" is good, "degraded" needs a look. @param {string} name @param {any} condition */
export function conditionLine(name, { state, detail }) {
  const good = state === "up" || state === "ok";
  const kind = state === "off" ? "off" : good ? "awake" : state === "degraded" ? "warn" : "bad";
  const badge = h(`span.state.s-${kind}`, icon(good ? "up" : state === "off" ? "off" : "warn"), state);
  const words = detail && h(state === "down" ? "span.badtext" : "span.muted", detail);
  return h("div.node", badge, h("span.words", h("span", name), " ", words));
}

/** Texts of times that change with the clock. */
const TIMES = { ago, left, clock };

/** Creates a time that is kept current. @param {string | undefined | null} at @param {keyof typeof TIMES} mode */
export const time = (at, mode) =>
  at ? h("time", { datetime: at, "data-mode": mode, title: moment(at) }, TIMES[mode](at)) : h("span.muted", "–");

/** Updates the times in the page, once a second. */
export function tick() {
  if (document.hidden) return;
  for (const node of /** @type {NodeListOf<HTMLTimeElement>} */ (document.querySelectorAll("time[data-mode]"))) {
    const text = TIMES[/** @type {keyof typeof TIMES} */ (node.dataset.mode)](node.dateTime);
    if (node.textContent !== text) node.textContent = text;
  }
}

/** @param {() => string} text @param {string} [what] */
export function copyButton(text, what) {
  const label = h("span", "Copy");
  const copy = async () => {
    await copyText(text());
    label.textContent = "Copied";
    setTimeout(() => (label.textContent = "Copy"), 1500);
  };
  return button([icon("copy"), label], copy, { class: "quiet", "aria-label": what && `Copy ${what}` });
}

/** @param {string} text */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain HTTP off loopback has no clipboard API.
    const area = h("textarea.off", { value: text });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** @param {string} text */
export const snippet = (text) =>
  h(
    "div.snippet",
    h("code", { tabindex: "0" }, text),
    copyButton(() => text),
  );

/** @param {string[]} words @param {...Child} actions */
export const empty = ([title, text], ...actions) => h("div.empty", h("strong", title), h("p", text), actions);

/** @param {string} what */
export const loading = (what) => h("div.loading", { role: "status" }, h("span.spinner"), `Loading ${what} …`);

/** What happened and what to do, in one line. @param {any} error */
export const inWords = (error) =>
  error instanceof Problem ? `${error.message.replace(/\.$/, "")}. ${error.todo}` : (error?.message ?? String(error));

/** @param {any} error @param {() => void} [retry] */
export function failed(error, retry) {
  const problem = error instanceof Problem ? error : null;
  const what = problem?.what ?? "The page made a mistake";
  const detail = problem?.message === what ? "" : (problem?.message ?? String(error));
  return h(
    "div.notice.bad",
    { role: "alert" },
    icon("warn"),
    h(
      "div",
      h("strong", what),
      detail && h("p", detail),
      h("p", problem?.todo ?? "Reload the page."),
      retry && button("Try again", retry),
    ),
  );
}

const announcer = h("div.off", { role: "status", "aria-live": "polite" });

/** Says a result to screen readers. @param {string} text */
export function announce(text) {
  if (!announcer.isConnected) document.body.append(announcer);
  announcer.textContent = text;
}

/** @param {string} text @param {string} [kind] */
export function toast(text, kind = "good") {
  let stack = document.querySelector(".toasts");
  if (!stack) document.body.append((stack = h("div.toasts", { role: "status" })));
  const note = h(`div.toast.${kind}`, text);
  stack.append(note);
  setTimeout(() => note.remove(), kind === "bad" ? 9000 : 4000);
}

/** @param {any} error */
export const toastProblem = (error) => error?.name === "AbortError" || toast(inWords(error), "bad");

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
    const error = h("p.error", { role: "alert" });
    const go = h(danger ? "button.primary.danger" : "button.primary", { type: "submit" }, action);
    /** @param {SubmitEvent} event @returns {Promise<void>} */
    const onsubmit = async (event) => {
      event.preventDefault();
      if (!submit) return box.close();
      go.disabled = true;
      try {
        result = await submit();
        box.close();
      } catch (mistake) {
        error.textContent = inWords(mistake);
      } finally {
        go.disabled = false;
      }
    };
    const close = button(submit ? "Cancel" : "Close", () => box.close());
    /** @type {HTMLDialogElement} */
    const box = h(
      wide ? "dialog.wide" : "dialog",
      { "aria-labelledby": "dialog-title", onclose: () => (box.remove(), resolve(result)) },
      h(
        "form",
        { novalidate: true, onsubmit },
        h("h2", { id: "dialog-title" }, title),
        h("div.body", body),
        error,
        h("div.buttons", close, submit && go),
      ),
    );
    document.body.append(box);
    box.showModal();
  });
}

/** A labelled control. @param {string} label @param {HTMLElement} control @param {string} [hint] */
export const field = (label, control, hint) =>
  h("label.field", h("span.label", label), control, hint && h("span.hint", hint));

/**
 * @param {Record<string, string>} options value and text
 * @param {string | null} chosen
 * @param {Props} [props]
 * @param {string} [none] text of the empty choice
 */
export function select(options, chosen, props = {}, none) {
  const all = none === undefined ? [] : [["", none]];
  all.push(...Object.entries(options));
  return h(
    "select",
    props,
    all.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
  );
}

/** @param {[string, Child][]} pairs what has no value is left out */
export const facts = (pairs) =>
  h(
    "dl.facts",
    pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => h("div", h("dt", name), h("dd", value))),
  );

/** A link to a device. @param {string} endpoint */
export const deviceLink = (endpoint) =>
  h("a", { href: `#/device/${encodeURIComponent(endpoint)}`, title: endpoint }, endpoint);

/**
 * A table whose rows become cards on a phone: each cell carries the title of its column. The roles are named, because
 * a cell that is laid out as a block has none.
 * @param {[string, string?][]} columns title and class
 * @param {string} label
 */
export function table(columns, label) {
  const body = h("tbody", { role: "rowgroup" });
  const heads = columns.map(([title, kind]) =>
    h("th", { role: "columnheader", scope: "col", class: kind }, title || h("span.off", "Actions")),
  );
  const head = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads));
  const element = h("table.list", { role: "table", "aria-label": label }, head, body);
  /** Appends a row. @param {Child[]} cells @param {Props} [props] */
  const row = (cells, props) => {
    const fields = cells.map((cell, n) =>
      h("td", { role: "cell", class: columns[n][1], "data-title": columns[n][0] }, cell),
    );
    const line = h("tr", { role: "row", ...props }, fields);
    body.append(line);
    return line;
  };
  return { element, body, row };
}

/** @param {string} title @param {Child} content @param {...Child} actions */
export const panel = (title, content, ...actions) =>
  h("section.panel", h("header", h("h2", title), h("span.actions", actions)), content);
