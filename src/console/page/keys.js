// The keyboard. Single keys do nothing in inputs, and they can be switched off (WCAG 2.1.4). The arrow down leads from
// a search to the rows that it found.

import { h } from "./dom.js";
import { KEYS } from "./texts.js";
import { dialog } from "./ui.js";

const SETTING = "lwm2m-gateway-keys";
/** @type {Record<string, string>} */
const PAGES = { o: "#/overview", d: "#/devices", f: "#/failures", s: "#/health" };
/** @type {Record<string, string>} */
const ACTIONS = { r: "read", w: "write", o: "observe", x: "execute" };
let afterG = false;

const keysOn = () => localStorage.getItem(SETTING) !== "off";

export function installKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const target = /** @type {HTMLElement} */ (event.target);
    const down = event.key === "ArrowDown" && target.matches("input[type=search]");
    const typing = target.closest("input:not([type=checkbox]), select, textarea, dialog");
    if (down ? step(1) : !typing && keysOn() && press(event.key)) event.preventDefault();
  });
}

/** @param {string} key @returns {boolean} whether the key meant something */
function press(key) {
  if (afterG) {
    afterG = false;
    if (!PAGES[key]) return false;
    location.hash = PAGES[key];
    return true;
  }
  switch (key) {
    case "g":
      afterG = true;
      setTimeout(() => (afterG = false), 1500);
      return true;
    case "/":
      search();
      return true;
    case "j":
      return step(1);
    case "k":
      return step(-1);
    case "t":
      return click("[data-key-trace]");
    case "?":
      help();
      return true;
    default:
      return ACTIONS[key] !== undefined && act(ACTIONS[key]);
  }
}

function search() {
  const box = /** @type {HTMLElement | null} */ (document.querySelector("input[type=search]"));
  if (box) box.focus();
  else location.hash = "#/devices?focus=1";
}

/** @param {string} selector */
function click(selector) {
  const element = /** @type {HTMLElement | null} */ (document.querySelector(selector));
  element?.click();
  return element !== null;
}

/** @param {number} by */
function step(by) {
  const rows = Array.from(document.querySelectorAll("main [data-row]")).filter((row) => row.checkVisibility());
  if (!rows.length) return false;
  const now = rows.findIndex((row) => row.contains(document.activeElement));
  const next = rows[Math.max(0, Math.min(rows.length - 1, now < 0 ? 0 : now + by))];
  const focus = /** @type {HTMLElement} */ (next.matches("[tabindex]") ? next : next.querySelector("a, button"));
  focus?.focus();
  next.scrollIntoView({ block: "nearest" });
  return true;
}

/** @param {string} name */
function act(name) {
  const row = document.activeElement?.closest("[data-row]");
  const action = /** @type {HTMLElement | null | undefined} */ (row?.querySelector(`[data-action=${name}]`));
  action?.click();
  return Boolean(action);
}

export function help() {
  const toggle = h("input", {
    type: "checkbox",
    checked: keysOn(),
    onchange: () => localStorage.setItem(SETTING, toggle.checked ? "on" : "off"),
  });
  dialog({
    title: "Keyboard",
    body: [
      h(
        "dl.keys",
        KEYS.map(([key, text]) =>
          h(
            "div",
            h(
              "dt",
              key
                .split(" ")
                .filter(Boolean)
                .map((part) => h("kbd", part)),
            ),
            h("dd", text),
          ),
        ),
      ),
      h("label.check", toggle, "Single-key shortcuts"),
    ],
  });
}
