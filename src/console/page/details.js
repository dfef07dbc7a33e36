// The registration of a device: facts that do not change from minute to minute.

import { h } from "./dom.js";
import { duration } from "./format.js";
import { show } from "./json.js";
import { PLAIN } from "./texts.js";
import { copyButton, facts, panel, time } from "./ui.js";

/** @typedef {import("./dom.js").Child} Child */

/** @param {string} text @param {string} what @returns {Child} */
const copied = (text, what) =>
  h(
    "span.copied",
    h("code", text),
    copyButton(() => text, what),
  );

/** @param {import("./api.js").Device} device */
export function details(device) {
  const { dtls, formats, observed } = device;
  const items = Object.entries(device.items ?? {}).map(
    ([name, value]) => /** @type {[string, Child]} */ ([name, show(value)]),
  );
  const topics = Object.entries(device.topics).map(
    ([name, topic]) => /** @type {[string, Child]} */ ([name, copied(topic, `topic ${name}`)]),
  );
  const observations = observed.map(({ path, paths, by, since }) =>
    h(
      "li",
      h("code", path ?? paths?.join(" ")),
      h("span.muted", ` by ${by}`, since && [", since ", time(since, "clock")]),
    ),
  );
  const registration = facts([
    ["Endpoint name", copied(device.endpoint, "endpoint name")],
    ["Registered", time(device.registered, "clock")],
    ["Last heard", time(device.lastHeard, "ago")],
    ["Lifetime", duration(Number(device.lifetime))],
    ["Expires", time(device.expires, "clock")],
    ["Address", device.address],
    ["Binding", device.binding],
    ["LwM2M", device.lwm2m],
    ["Alternate path", device.alternatePath],
    ["Content formats", formats?.length ? formats.join(", ") : "none announced"],
    ["Client ID", device.clientid],
    ["User name", device.username],
    ...items,
  ]);
  const security = facts([
    ["Kind", dtls?.kind],
    ["Identity", device.identity],
    ["Cipher suite", dtls?.suite],
    ["Session since", dtls?.since && time(dtls.since, "clock")],
    ["Resumed", dtls?.since && (dtls.resumed ? "yes" : "no")],
    ["Connection ID", dtls?.connectionId ? "yes" : "no"],
  ]);
  return h(
    "div.columns",
    panel("Registration", registration),
    h(
      "div",
      panel("Security", dtls ? security : h("p.pad", PLAIN)),
      panel("MQTT topics", facts(topics)),
      panel(
        "Observations",
        observed.length ? h("ul.plainlist", observations) : h("p.muted.pad", "Nothing is observed."),
      ),
    ),
  );
}
