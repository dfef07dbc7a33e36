// Commands as lines for the command line, curl and mosquitto_pub.

import { apiAddress, devicePath } from "./api.js";
import { h } from "./dom.js";
import { compact } from "./json.js";
import { verb } from "./results.js";
import { dialog, snippet } from "./ui.js";

/** @typedef {import("./api.js").Device} Device */

/** Where the command line finds the console, if it is not where it looks by itself. */
const AT = location.host === "127.0.0.1:8086" ? "" : ` --at ${location.origin}`;
const CURL = 'curl -sS -H "Authorization: Bearer $LWM2M_GATEWAY_TOKEN"';
/** Names of commands on the command line, where they differ. @type {Record<string, string>} */
const NAMES = { execute: "exec", "cancel-observe": "cancel" };

/** @param {string | undefined} text */
const quote = (text) => `'${(text ?? "").replaceAll("'", "'\\''")}'`;

/** @param {Device} device @param {any} command */
const publish = ({ topics }, command) =>
  `mosquitto_pub -t ${quote(topics.command?.replace(/\/#$/, ""))} -m ${quote(compact(command))}`;

/** @param {string} title @param {Record<string, string[]>} parts */
function open(title, parts) {
  const body = Object.entries(parts).map(([name, lines]) => [h("h3", name), lines.map((line) => snippet(line))]);
  dialog({ title, wide: true, body });
}

/** @param {Device} device @param {string} msgType @param {any} data */
export function copyCommand(device, msgType, data) {
  const url = `${apiAddress()}${devicePath(device.endpoint)}/commands?wait=20`;
  const rest = msgType === "write" ? " VALUE" : "";
  const command = { msgType, data };
  open(`${verb(msgType)} ${data.path} as a command`, {
    "Command line": [`lwm2m-gateway ${NAMES[msgType] ?? msgType} ${quote(device.endpoint)} ${data.path}${rest}${AT}`],
    curl: [`${CURL} -H 'Content-Type: application/json' -d ${quote(compact(command))} ${quote(url)}`],
    mosquitto_pub: [publish(device, command)],
  });
}

/** Shows how to look at a device from elsewhere. @param {Device} device */
export function copyDevice(device) {
  const { endpoint, topics } = device;
  open("This device from elsewhere", {
    "Command line": ["show", "events"].map((name) => `lwm2m-gateway ${name} ${quote(endpoint)}${AT}`),
    curl: [`${CURL} ${quote(apiAddress() + devicePath(endpoint))}`],
    MQTT: [
      `mosquitto_sub -v -t ${quote(topics.response)} -t ${quote(topics.notify)}`,
      publish(device, { msgType: "read", data: { path: "/3/0/0" } }),
    ],
  });
}
