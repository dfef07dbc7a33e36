// The client of /api/v1: requests, problems and event streams.

import { compact, parse, quietly } from "./json.js";
import { problemWords } from "./texts.js";

// Types are those of docs/openapi.json: the page cannot use a member that the API does not have.
/** @typedef {import("openapi").components["schemas"]} Schemas */
/** @typedef {Schemas["Session"]} Session */
/** @typedef {Schemas["DeviceListRow"]} Row */
/** @typedef {Schemas["Device"]} Device */
/** @typedef {Schemas["DeviceObject"]} DeviceObject */
/** @typedef {Schemas["CommandFacts"]} Queued */
/** @typedef {Schemas["ObjectDefinition"]} Definition */
/** @typedef {Schemas["ResourceDefinition"]} Resource */
/** @typedef {Schemas["Command"] & {answer?: any}} Command */
/** @typedef {{event: string, data: any}} StreamEvent */

// The plugin of EMQX serves the page below an address of EMQX.
const BASE = new URL("api/v1", document.baseURI).pathname;
/** Whether EMQX has logged the user in, and passes requests on but no streams. */
export const HOSTED = BASE !== "/api/v1";
const KEY = "lwm2m-gateway-token";

/** A request that did not succeed, in words. */
export class Problem extends Error {
  /** @param {number} status @param {any} body @param {number} [retryAfter] in seconds */
  constructor(status, body, retryAfter) {
    const type = String(body?.type ?? "").replace(/.*:/, "") || `http-${status}`;
    const words = problemWords(type, status);
    super(body?.detail || body?.title || words.what);
    this.status = status;
    this.type = type;
    this.what = body?.title || words.what;
    this.todo = words.todo;
    this.retryAfter = retryAfter;
  }
}

/** @type {() => void} */
let signedOut = () => {};

/** @param {() => void} callback is called when the gateway does not accept the token. */
export function onSignedOut(callback) {
  signedOut = callback;
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  /** @param {string} value */
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

/**
 * Sends a request.
 * @param {string} method
 * @param {string} path
 * @param {{body?: any, signal?: AbortSignal, accept?: string}} [options]
 * @returns {Promise<Response>}
 */
async function send(method, path, { body, signal, accept } = {}) {
  /** @type {Record<string, string>} */
  const headers = { Accept: accept ?? "application/json" };
  const secret = token.get();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  if (method === "POST") headers["Content-Type"] = "application/json";
  let response;
  try {
    const text = body === undefined ? undefined : compact(body);
    response = await fetch(BASE + path, { method, headers, body: text, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, { type: "unreachable" });
  }
  if (response.ok) return response;
  const problem = await response.text().then(quietly);
  if (response.status === 401 && !HOSTED) {
    token.clear();
    signedOut();
  }
  throw new Problem(response.status, problem, Number(response.headers.get("Retry-After")));
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{body?: any, signal?: AbortSignal}} [options]
 * @returns {Promise<any>} the parsed body, or null if there is none
 */
export async function call(method, path, options) {
  const response = await send(method, path, options);
  const text = await response.text();
  return text ? parse(text) : null;
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export const get = (path, signal) => call("GET", path, { signal });

/** @param {string} path @returns {Promise<Blob>} */
export const download = async (path) => (await send("GET", path, { accept: "*/*" })).blob();

/** @param {string} endpoint */
export const devicePath = (endpoint) => `/devices/${encodeURIComponent(endpoint)}`;

/** @returns {string} the address of the API, for commands that people copy */
export const apiAddress = () => location.origin + BASE;

/** @type {Map<string, Promise<Definition | null>>} */
const definitions = new Map();

/**
 * Returns the definition of an object, or null if the gateway has none.
 * @param {number} id
 * @param {string} version
 */
export function definition(id, version) {
  const key = `${id}/${version}`;
  let found = definitions.get(key);
  if (!found) {
    found = get(`/objects/${id}?version=${encodeURIComponent(version)}`).catch((problem) => {
      if (problem.status !== 404) definitions.delete(key);
      return null;
    });
    definitions.set(key, found);
  }
  return found;
}

export function forgetDefinitions() {
  definitions.clear();
}

/** @type {Set<string>} */
let resources = new Set();

/** Learns which resources the API of this gateway has. */
export async function learnResources() {
  const { paths } = await get("/openapi.json");
  resources = new Set(Object.keys(paths ?? {}).map((path) => path.replace("/api/v1", "").replace(/\{[^}]*\}/g, "*")));
}

/**
 * Tells whether the API has a resource; `*` stands for a name. The page shows nothing that the gateway cannot do.
 * @param {string} path
 */
export const has = (path) => resources.has(path);

/**
 * Waits until `done` calls back, or `signal` aborts.
 * @param {AbortSignal} signal
 * @param {(resolve: any) => void} done
 */
const until = (signal, done) =>
  new Promise((resolve) => {
    signal.addEventListener("abort", resolve, { once: true });
    done(resolve);
  });

/** @param {number} ms @param {AbortSignal} signal */
const pause = (ms, signal) => until(signal, (resolve) => setTimeout(resolve, ms));

/** @param {AbortSignal} signal */
const visible = (signal) =>
  document.hidden
    ? until(signal, (resolve) => document.addEventListener("visibilitychange", resolve, { once: true }))
    : undefined;

/**
 * Repeats `load` while the page is open and the tab visible.
 * @param {AbortSignal} signal
 * @param {() => any} load
 * @param {number} [each] in milliseconds
 */
export async function repeat(signal, load, each = 5000) {
  while (!signal.aborted) {
    await load();
    await pause(each, signal);
    await visible(signal);
  }
}

/**
 * Reads an event stream until `signal` aborts. It reconnects, and it is closed while the tab is hidden: browsers have
 * six connections to a host. Where the page is below EMQX, only the events of a device can be followed.
 * @param {string} path
 * @param {AbortSignal} signal
 * @param {(event: StreamEvent) => void} onEvent
 * @param {(state: "live" | "connecting" | "ended", problem?: Problem) => void} [onState]
 */
export async function stream(path, signal, onEvent, onState = () => {}) {
  let wait = 1000;
  const live = () => {
    onState("live");
    wait = 1000;
  };
  if (HOSTED && !path.startsWith("/devices/")) return onState("ended");
  for (;;) {
    await visible(signal);
    if (signal.aborted) return;
    const inner = new AbortController();
    const close = () => (signal.aborted || document.hidden) && inner.abort();
    signal.addEventListener("abort", close);
    document.addEventListener("visibilitychange", close);
    try {
      if (HOSTED) await poll(path, inner.signal, onEvent, live);
      const response = await send("GET", path, { signal: inner.signal, accept: "text/event-stream" });
      live();
      await readEvents(response, onEvent);
      onState("connecting");
    } catch (error) {
      if (signal.aborted) return;
      const problem = error instanceof Problem ? error : undefined;
      if ([401, 403, 404].includes(problem?.status ?? 0)) return onState("ended", problem);
      wait = Math.max(wait, (problem?.retryAfter ?? 0) * 1000);
      onState("connecting", problem);
    } finally {
      signal.removeEventListener("abort", close);
      document.removeEventListener("visibilitychange", close);
    }
    if (!document.hidden) await pause(wait * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, 30000);
  }
}

/**
 * Asks for events again and again, until it fails or `signal` aborts.
 * @param {string} path
 * @param {AbortSignal} signal
 * @param {(event: StreamEvent) => void} onEvent
 * @param {() => void} onAnswer
 */
async function poll(path, signal, onEvent, onAnswer) {
  for (let since = 0; ; ) {
    const { events, last } = await get(`${path}?since=${since}&max=3s`, signal);
    onAnswer();
    events.forEach(onEvent);
    since = last;
  }
}

/** @param {Response} response @param {(event: StreamEvent) => void} onEvent */
async function readEvents(response, onEvent) {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replace(/\r\n?/g, "\n").split("\n\n");
    rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event) onEvent(event);
    }
  }
}

/** @param {string} block @returns {StreamEvent | null} */
function parseEvent(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? { event, data: parse(data.join("\n")) } : null;
}
