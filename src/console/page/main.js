// The frame of the page: login, navigation, routes.

import { get, has, HOSTED, learnResources, onSignedOut, Problem, token } from "./api.js";
import { openDevice } from "./device.js";
import { openDevices } from "./devices.js";
import { fill, h } from "./dom.js";
import { openFailures } from "./failures.js";
import { openHealth } from "./health.js";
import { help, installKeys } from "./keys.js";
import { openOverview } from "./overview.js";
import { LOGIN } from "./texts.js";
import { TraceView } from "./trace.js";
import { button, failed, field, inWords, loading, select, tick } from "./ui.js";

const SCHEME = "lwm2m-gateway-scheme";
/** @type {Record<string, string>} */
const PAGES = { overview: "Overview", devices: "Devices", failures: "Failures", health: "Health" };
/** The page that the navigation marks, for pages that it does not have. @type {Record<string, string>} */
const BELOW = { device: "devices", trace: "health" };

/** @type {import("./api.js").Session | null} */
let session = null;
let current = new AbortController();

/** Takes the token out of the address bar, so that it is neither seen nor bookmarked. */
function takeToken() {
  const found = /^#token=([\w-]+)$/.exec(location.hash);
  if (!found) return;
  token.set(found[1]);
  session = null;
  history.replaceState(null, "", `${location.pathname}#/`);
}

/** Asks which resources there are, and whose the token is. @param {AbortSignal} [signal] */
async function begin(signal) {
  await learnResources();
  session = await get("/session", signal);
  if (session) session.prefix ??= null;
}

/** @param {string} scheme */
function setScheme(scheme) {
  localStorage.setItem(SCHEME, scheme);
  document.documentElement.dataset.scheme = scheme;
}

/** Replaces what is below the navigation. @param {Node} content */
function frame(content) {
  document.querySelectorAll("dialog").forEach((box) => box.close());
  const main = h("main", { id: "main", tabindex: "-1" }, content);
  if (session && document.querySelector("nav")) document.querySelector("main")?.replaceWith(main);
  else fill(document.body, session && navigation(session), main);
  return main;
}

/** @param {import("./api.js").Session} session */
function navigation({ name, role, prefix }) {
  const onchange = () => setScheme(scheme.value);
  const choices = { auto: "System", light: "Light", dark: "Dark" };
  const scheme = select(choices, localStorage.getItem(SCHEME), { "aria-label": "Colours", onchange });
  const skip = (/** @type {Event} */ event) => (event.preventDefault(), document.getElementById("main")?.focus());
  const out = () => (token.clear(), signOut());
  const pages = Object.entries(PAGES).filter(
    ([page]) => page === "devices" || (prefix === null && (page !== "failures" || has("/failures"))),
  );
  const links = pages.map(([page, title]) => h("a", { href: `#/${page}`, "data-page": page }, title));
  return [
    h("a.skip", { href: "#main", onclick: skip }, "Skip to the content"),
    h(
      "header.top",
      h("a.brand", { href: "#/" }, h("span.mark", { "aria-hidden": "true" }), "LwM2M gateway"),
      h("nav", { "aria-label": "Pages" }, links),
      h(
        "div.who",
        h("span.muted.user", name === role ? name : `${name} (${role})`),
        scheme,
        button("?", help, { class: "quiet", "aria-label": "Keyboard help" }),
        !HOSTED && button("Log out", out, { class: "quiet" }),
      ),
    ),
  ];
}

async function route() {
  takeToken();
  current.abort();
  current = new AbortController();
  const { signal } = current;
  if (!token.get() && !HOSTED) return login();
  if (!session) {
    frame(loading("the console"));
    try {
      await begin(signal);
    } catch (problem) {
      if (!signal.aborted && (token.get() || HOSTED)) frame(failed(problem, route));
      return;
    }
  }
  if (!session) return;
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const [asked, name, tab] = path.split("/").map(decoded);
  const page = asked || (session.prefix === null ? "overview" : "devices");
  const main = frame(view(page, name, tab, new URLSearchParams(search), session, signal));
  const known = BELOW[page] ?? page;
  for (const link of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("nav a"))) {
    if (link.dataset.page === known) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name || PAGES[known] || "Not found"} – LwM2M gateway`;
  scrollTo(0, 0);
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

/** @param {string} text */
function decoded(text) {
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
 * @param {import("./api.js").Session} session
 * @param {AbortSignal} signal
 */
function view(page, name, tab, query, session, signal) {
  const operator = session.role === "operator";
  switch (page) {
    case "overview":
      return openOverview(signal);
    case "devices":
      return openDevices({ query, signal, prefix: session.prefix });
    case "device":
      return openDevice({ endpoint: name, tab, operator, signal });
    case "failures":
      return openFailures({ signal, operator, query });
    case "health":
      return openHealth({ signal, operator });
    case "trace": {
      const trace = new TraceView("", signal, name);
      trace.look().then(() => trace.follow());
      return h("div.page", h("h1", { tabindex: "-1" }, "Trace"), trace.element);
    }
    default: {
      const back = h("a", { href: "#/" }, "Go to the first page");
      return h("div.page", h("h1", { tabindex: "-1" }, "There is no such page"), h("p", back));
    }
  }
}

function signOut() {
  current.abort();
  login(LOGIN.out);
}

/** @param {string} [words] why there is no session any more */
function login(words = "") {
  session = null;
  const input = h("input", {
    type: "password",
    autocomplete: "current-password",
    name: "token",
    required: true,
    spellcheck: "false",
  });
  const error = h("p.error", { role: "alert" }, words);
  const onsubmit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = input.value.trim();
    // A header has no other characters.
    if (!/^[\x21-\x7e]+$/.test(text)) return void (error.textContent = text ? LOGIN.wrong : LOGIN.none);
    token.set(text);
    onSignedOut(() => {});
    try {
      await begin();
      await route();
    } catch (problem) {
      token.clear();
      const refused = problem instanceof Problem && problem.status === 401;
      error.textContent = refused ? LOGIN.wrong : inWords(problem);
    } finally {
      onSignedOut(signOut);
    }
  };
  frame(
    h(
      "form.login",
      { onsubmit, novalidate: true },
      h("span.mark", { "aria-hidden": "true" }),
      h("h1", LOGIN.title),
      h("p", LOGIN.lead),
      field("Token", input),
      error,
      h("button.primary", { type: "submit" }, "Log in"),
      h("p.muted", LOGIN.how),
    ),
  );
  document.title = "Log in – LwM2M gateway";
  input.focus();
}

setScheme(localStorage.getItem(SCHEME) ?? "auto");
onSignedOut(signOut);
installKeys();
setInterval(tick, 1000);
addEventListener("hashchange", route);
route();
