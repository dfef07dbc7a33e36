// The frame of the page: login, navigation, routes.

import { get, has, learnResources, onSignedOut, Problem, token } from "./api.js";
import { openDevice } from "./device.js";
import { openDevices } from "./devices.js";
import { fill, h } from "./dom.js";
import { openFailures } from "./failures.js";
import { openHealth } from "./health.js";
import { help, installKeys } from "./keys.js";
import { openOverview } from "./overview.js";
import { LOGIN } from "./texts.js";
import { TraceView } from "./trace.js";
import { button, failed, field, loading, select, tick } from "./ui.js";

const SCHEME = "lwm2m-gateway-scheme";
/** @type {[string, string][]} */
const PAGES = [
  ["overview", "Overview"],
  ["devices", "Devices"],
  ["failures", "Failures"],
  ["health", "Health"],
];

/** @type {import("./api.js").Session | null} */
let session = null;
let current = new AbortController();

/** Takes the token out of the address bar, so that it is neither seen nor bookmarked. */
function takeToken() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (!found) return;
  token.set(found[1]);
  session = null;
  history.replaceState(null, "", `${location.pathname}#/overview`);
}

/** @param {string} scheme */
function setScheme(scheme) {
  if (scheme === "auto") localStorage.removeItem(SCHEME);
  else localStorage.setItem(SCHEME, scheme);
  document.documentElement.dataset.scheme = scheme;
}

/** @param {Node | ""} content */
function frame(content) {
  document.querySelectorAll("dialog").forEach((box) => box.close());
  const main = h("main", { id: "main", tabindex: "-1" }, content);
  const old = document.querySelector("main");
  if (old && document.querySelector("nav") && session) old.replaceWith(main);
  else fill(document.body, session && skip(), session && navigation(), main);
  return main;
}

const skip = () =>
  h(
    "a",
    {
      class: "skip",
      href: "#main",
      onclick: (/** @type {Event} */ event) => {
        event.preventDefault();
        document.getElementById("main")?.focus();
      },
    },
    "Skip to the content",
  );

function navigation() {
  const scheme = select(
    [
      ["auto", "System"],
      ["light", "Light"],
      ["dark", "Dark"],
    ],
    localStorage.getItem(SCHEME) ?? "auto",
    { "aria-label": "Colours", onchange: () => setScheme(scheme.value) },
  );
  const out = () => {
    token.clear();
    signOut();
  };
  return h(
    "header",
    { class: "top" },
    h(
      "a",
      { class: "brand", href: "#/overview" },
      h("span", { class: "mark", "aria-hidden": "true" }),
      "LwM2M gateway",
    ),
    h(
      "nav",
      { "aria-label": "Pages" },
      PAGES.filter(
        ([name]) => name === "devices" || (session?.prefix === null && (name !== "failures" || has("/failures"))),
      ).map(([name, title]) => h("a", { href: `#/${name}`, "data-page": name }, title)),
    ),
    h(
      "div",
      { class: "who" },
      h("span", { class: "muted user" }, `${session?.name} (${session?.role})`),
      scheme,
      button("?", help, { class: "quiet", "aria-label": "Keyboard help" }),
      button("Log out", out, { class: "quiet" }),
    ),
  );
}

async function route() {
  takeToken();
  current.abort();
  current = new AbortController();
  const { signal } = current;
  if (!token.get()) return login();
  if (!session) {
    frame(loading("the console"));
    try {
      await learnResources();
      session = await get("/session", signal);
    } catch (problem) {
      if (!signal.aborted && token.get()) frame(failed(problem, route));
      return;
    }
    if (session) session.prefix ??= null;
  }
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const [page, name, tab] = path.split("/").map(part);
  const known =
    page === "device" ? "devices" : page === "trace" ? "health" : page || (session?.prefix ? "devices" : "overview");
  const main = frame(view(page || known, name, tab, new URLSearchParams(search), signal));
  for (const link of document.querySelectorAll("nav a")) {
    if (/** @type {HTMLElement} */ (link).dataset.page === known) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name || PAGES.find(([one]) => one === known)?.[1] || "Not found"} – LwM2M gateway`;
  scrollTo(0, 0);
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

/** @param {string} text */
function part(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * @param {string} page
 * @param {string} name
 * @param {string} tab
 * @param {URLSearchParams} query
 * @param {AbortSignal} signal
 */
function view(page, name, tab, query, signal) {
  if (!session) return "";
  const operator = session.role === "operator";
  switch (page) {
    case "overview":
      return openOverview(signal);
    case "devices":
      return openDevices({ query, signal, prefix: session.prefix });
    case "device":
      return openDevice({ endpoint: name, tab, session, signal });
    case "failures":
      return openFailures({ signal, operator, query });
    case "health":
      return openHealth({ signal, operator });
    case "trace": {
      const trace = new TraceView("", signal, name);
      trace.look().then(() => trace.follow());
      return h("div", { class: "page" }, h("h1", { tabindex: "-1" }, "Trace"), trace.element);
    }
    default:
      return h(
        "div",
        { class: "page" },
        h("h1", { tabindex: "-1" }, "There is no such page"),
        h("p", {}, h("a", { href: "#/overview" }, "Go to the overview")),
      );
  }
}

function signOut() {
  session = null;
  current.abort();
  login(true);
}

/** @param {boolean} [wrong] */
function login(wrong) {
  const input = h("input", {
    type: "password",
    autocomplete: "current-password",
    name: "token",
    required: true,
    spellcheck: "false",
  });
  const error = h("p", { class: "error", role: "alert" });
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return void (error.textContent = "Paste a token first.");
    // A header has no other characters.
    if (!/^[\x21-\x7e]+$/.test(text)) return void (error.textContent = LOGIN.wrong);
    token.set(text);
    onSignedOut(() => (error.textContent = LOGIN.wrong));
    try {
      await learnResources();
      session = await get("/session");
      onSignedOut(signOut);
      await route();
    } catch (problem) {
      onSignedOut(signOut);
      token.clear();
      if (!(problem instanceof Problem && problem.status === 401))
        fill(error, `${/** @type {Error} */ (problem).message}. ${/** @type {any} */ (problem).todo ?? ""}`);
    }
  };
  session = null;
  frame(
    h(
      "form",
      { class: "login", onsubmit: submit },
      h("span", { class: "mark", "aria-hidden": "true" }),
      h("h1", {}, LOGIN.title),
      h("p", {}, LOGIN.lead),
      field("Token", input),
      error,
      h("button", { type: "submit", class: "primary" }, "Log in"),
      h("p", { class: "muted" }, LOGIN.how),
    ),
  );
  document.title = "Log in – LwM2M gateway";
  if (wrong) error.textContent = "You are logged out.";
  input.focus();
}

setScheme(localStorage.getItem(SCHEME) ?? "auto");
onSignedOut(signOut);
installKeys();
setInterval(tick, 1000);
addEventListener("hashchange", route);
route();
