// The sentences of the page: what happened, and what to do.

/**
 * CoAP response codes in words (RFC 7252 section 12.1.2, OMA LwM2M Core 1.1 section 6).
 * @type {Record<string, string>}
 */
const CODES = {
  2.01: "Created. The device has a new instance.",
  2.02: "Deleted. The device removed it.",
  2.04: "Changed. The device did it.",
  2.05: "Content. The device returned the value.",
  "4.00": "Bad request. The device or the gateway did not understand the command.",
  4.01: "Unauthorized. The device does not allow this server to do that: see its access control object (2).",
  4.02: "Bad option. The device does not know an option of the request.",
  4.03: "Forbidden. The device does not allow it.",
  4.04: "Not found. The device does not have this path. Discover lists what it has.",
  4.05: "Method not allowed. The device does not support this operation here.",
  4.06: "Not acceptable. The device cannot answer in the requested format.",
  4.08: "Request incomplete. The device did not receive all blocks. Try again.",
  4.09: "Conflict. The state of the device does not allow it now.",
  4.12: "Precondition failed. The state of the device does not allow it.",
  4.13: "Too large. The value is larger than the device accepts.",
  4.15: "Unsupported format. The device cannot read this content format.",
  4.29: "Too many requests. Wait, then try again.",
  "5.00": "Internal error of the device. Try again, then look at the log of the device.",
  5.01: "Not implemented by the device.",
  5.03: "The device is not available now. Try again later.",
};

/** @param {string} code */
export const codeWords = (code) =>
  CODES[code] ?? (code.startsWith("2.") ? "Success." : "The device answered with an error.");

/** Outcomes of commands that the device did not answer. @type {Record<string, string>} */
export const OUTCOMES = {
  reset:
    "The device rejected the message (CoAP reset). It does not know the request, or it has restarted: let it " +
    "register again, or observe again.",
  timedOut:
    "No answer after all retransmissions. The device is off, out of reach, or asleep without queue mode. Try again " +
    "after its next message.",
  expired: "The command expired before it could be sent. Queue it again with a longer time.",
  refused: "The gateway did not execute the command.",
  transferFailed: "The block-wise transfer failed. Try again; a trace shows at which block.",
  withdrawn: "An operator withdrew the command before it was sent.",
  left: "The registration of the device ended before the command was sent.",
};

/** Problem types: what happened, what to do. @type {Record<string, [string, string]>} */
const PROBLEMS = {
  unreachable: [
    "The gateway cannot be reached",
    "Check that it runs and that this address is still right. The page tries again by itself.",
  ],
  "invalid-request": [
    "The gateway did not understand the request",
    "Correct the input. If you did not type it, page and gateway may have different versions: reload the page.",
  ],
  "command-invalid": ["The command is not valid", "Correct the value or the path."],
  "not-authenticated": ["You are not logged in", "Log in with a valid token."],
  "not-allowed": [
    "Your token does not allow this",
    "Log in with an operator token, or ask for one whose prefix includes this device.",
  ],
  "cross-site": ["The request came from another site", "Open the console by its own address."],
  "wrong-host": ["The gateway does not know this host name", "Add the name to console.hosts, or use the address."],
  "device-not-registered": [
    "The device is not registered",
    "It may have deregistered, or its lifetime ended. Search Failures for its name, or trace its address.",
  ],
  "device-elsewhere": [
    "Another node of the cluster has the device",
    "Open the console of that node.",
  ],
  "no-such-node": ["The cluster has no such node", "Look at `lwm2m-gateway cluster status`."],
  "last-node": ["No other node takes the devices", "Start another node first."],
  "store-silent": ["The store of the cluster does not answer", "Look at Health and at the log."],
  "no-such-command": [
    "The gateway has no record of this command",
    "Records are kept for 10 minutes after a command ended, and not across a restart.",
  ],
  "no-such-trace": ["This trace has ended", "Start a new one."],
  "not-found": ["There is nothing here", "The gateway may have another version than this page: reload the page."],
  "observed-already": [
    "An application observes this already",
    "Nothing to do: its notifications appear here as they arrive.",
  ],
  "device-asleep": [
    "The device is asleep or busy, and the command may not wait",
    "Queue the command until the device wakes.",
  ],
  "not-pending": ["The command is not pending any more", "It was sent, or it has ended."],
  "queue-full": [
    "The places of the console in the queue of this device are taken",
    "Withdraw a pending command, or wait until one is sent.",
  ],
  "body-too-large": ["The value is too large", "Send it through MQTT, or raise the limit of the gateway."],
  "not-json": ["The request was not JSON", "Reload the page."],
  "too-many": ["Too many requests", "Wait a moment, then try again."],
  "driver-silent": [
    "The gateway is busy and did not answer within 2 s",
    "Try again. If it happens often, look at Health and at the log.",
  ],
  ending: ["The gateway is shutting down", "Wait until it runs again."],
};

/** @param {string} type @param {number} status */
export function problemWords(type, status) {
  const unknown = [
    `The gateway answered with HTTP status ${status}`,
    "Try again, then look at the log of the gateway.",
  ];
  const [what, todo] = PROBLEMS[type] ?? unknown;
  return { what, todo };
}

/** Kinds of failures: title, what to do. @type {Record<string, [string, string]>} */
export const FAILURES = {
  register: ["Registration rejected", "Correct what the reason names."],
  forbidden: [
    "Device not allowed",
    "Check the password of the device, bans and access rules, and whether the device must use DTLS.",
  ],
  handshake: [
    "DTLS handshake failed",
    "Compare identity and key with dtls.psk_file, and the cipher suites of both sides. Identities with a colon need " +
      "another dtls.psk_separator.",
  ],
  timeout: [
    "No answer",
    "The device sleeps without queue mode, or a NAT dropped its mapping: register with binding UQ, or send Updates " +
      "more often.",
  ],
  undecodable: [
    "Payload not understood",
    "Put the OMA XML file of the object into xml_dir, in the version that the device announces. If it is there, the " +
      "payload of the device is malformed.",
  ],
  publish: [
    "Publication refused by the broker",
    "An access rule denies the topic, or the queue is full: correct the rule, or raise queue_per_device and " +
      "queue_total.",
  ],
  transfer: [
    "Block-wise transfer failed",
    "Send a smaller body, or raise coap.received_body_size or limits.sent_body_size.",
  ],
  bootstrap: [
    "Bootstrap failed",
    "The reason names what is missing: an account for the endpoint name, a key for bootstrap, DTLS, or a value that the " +
      "device accepts.",
  ],
  notRestored: ["Not restored after the restart", "The device registers again by itself, at its next Update."],
};

/** What to do when a Register was answered with a code. @type {Record<string, string>} */
const REGISTER = {
  "4.00": "Correct the endpoint name, the lifetime or the object list of the device.",
  4.03: "Correct the password of the device, or the ban or access rule in the broker.",
  4.13: "Raise limits.registration_size, or let the device announce less.",
  4.29: "Raise limits.registers.address_burst if many devices share this address.",
  5.03: "Look at Health: the broker is unavailable, or a limit is reached.",
};

/** @param {{kind: string, code?: string | null}} failure @returns {[string, string]} what happened, what to do */
export function failureWords({ kind, code }) {
  const [what, todo] = FAILURES[kind] ?? [kind, "Look at the log of the gateway."];
  return [what, (kind === "register" && REGISTER[code ?? ""]) || todo];
}

/** What is shown when there is nothing: title, what to do. */
export const EMPTY = {
  devices: [
    "No devices are registered",
    'Point a device to this gateway, or start the gateway with "lwm2m-gateway run --embedded --simulate 10". ' +
      "If a device tries and fails, Failures has the reason.",
  ],
  found: ["No device matches", "Change or clear the filters."],
  failures: [
    "No failures",
    "Rejected registrations, failed handshakes, time-outs and undecodable payloads appear here with their reason.",
  ],
  foundFailures: ["No failure matches", "Change or clear the filter."],
  objects: [
    "The device announced no objects",
    "Its registration had an empty object list. Correct the device, or give it a profile ID that the gateway knows.",
  ],
  foundResources: ["No resource matches", "Change or clear the filter."],
  queue: ["No pending commands", "Commands that are not sent or not answered yet are listed here."],
  events: [
    "No events yet",
    "Registrations, notifications, answers and failures of this device appear here while the page is open.",
  ],
  trace: [
    "No trace runs for this device",
    "A trace shows each CoAP message after decryption. It is off until you start it, and it ends by itself.",
  ],
  ended: ["This trace has ended", "Start a new one at a device or at a failure."],
  traces: ["No trace runs", "Start one at a device or at a failure."],
  messages: ["No message yet", "Messages appear as the device sends and receives them."],
  tokens: ["No token in force", "The command lwm2m-gateway token makes one, and its line for the tokens file."],
  audit: ["No entry yet", "Each command, kick and trace is listed here with its token."],
};

/** Commands that have no answer yet. */
export const WAITING = {
  none: "Commands that you send from this page appear here with their answers.",
  sent: "Sent. Waiting for the device …",
  asleep: "The device sleeps: the command is sent when it wakes.",
  busy: "The device has not answered yet.",
};

/** What there is no definition of. */
export const UNDEFINED = {
  resource: "The gateway has no definition of this resource: choose the type.",
  object: "The gateway has no definition of this object: the instance is created without values.",
};

/** Attributes that say when a device notifies (OMA LwM2M Core 1.1 section 5.1.2). @type {Record<string, string>} */
export const ATTRIBUTES = {
  pmin: "Seconds, at least, between notifications",
  pmax: "Seconds, at most, between notifications",
  gt: "Notify when the value rises above",
  lt: "Notify when it falls below",
  st: "Notify when it changes by",
};

/** A device that is not registered any more. */
export const GONE = {
  left: "The device is not registered any more.",
  again: "The page continues when it registers again. If it is rejected, Failures has the reason.",
};

export const PLAIN = "Plain UDP: messages are neither encrypted nor authenticated.";

/** What the dialogs say before they act. */
export const CONFIRM = {
  asleep:
    "The device sleeps. The gateway sends the command after the next message of the device. The lifetime of the " +
    "device ends in ",
  attributes: "Attributes say when the device notifies. Attributes that stay empty are not changed.",
  kick:
    "The registration ends now, and the next Update of the device is answered 4.04. A healthy device registers again " +
    "by itself.",
  execute: "The device executes this at once.",
  delete: "The device removes the instance and its values. This cannot be undone.",
  server: "This changes how the device talks to the gateway. A wrong value can make it unreachable.",
  reset: "Factory reset: the device forgets its settings and may not come back.",
  trace:
    "The newest 512 messages are kept in memory, after decryption. Passwords and values of hidden paths are covered.",
};

export const LOGIN = {
  title: "Log in",
  lead: "Paste a token of this gateway. It is kept in this tab, and forgotten when the tab is closed.",
  how:
    'A new token: run "lwm2m-gateway token NAME --role operator" on the machine of the gateway, ' +
    "and add the line that it prints to the file of console.tokens.",
  none: "Paste a token first.",
  wrong:
    "The gateway does not accept this token. Check that you copied all of it, that its line is in the file of " +
    "console.tokens, and that it was not removed.",
  out: "You are logged out.",
};

/** @type {[string, string][]} */
export const KEYS = [
  ["/", "Search; ↓ leads to what it found"],
  ["g o", "Overview"],
  ["g d", "Devices"],
  ["g f", "Failures"],
  ["g s", "Health"],
  ["j  k", "Next and previous row"],
  ["Enter", "Open the row, or expand it"],
  ["r  w  o  x", "Read, write, observe, execute the chosen resource"],
  ["t", "Trace of the device"],
  ["?", "This help"],
];
