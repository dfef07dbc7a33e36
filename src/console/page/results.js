// What came of the commands, in words.

import { Problem } from "./api.js";
import { h } from "./dom.js";
import { clock, took } from "./format.js";
import { show } from "./json.js";
import { codeWords, OUTCOMES, WAITING } from "./texts.js";
import { button, inWords } from "./ui.js";

/** @typedef {import("./commands.js").Run} Run */
/** @typedef {{kind: "wait" | "good" | "bad", text: string, code?: string, time?: string}} Result */

/** @param {string} msgType @returns {string} "Write attr" */
export const verb = (msgType) => msgType.replace("-", " ").replace(/^./, (letter) => letter.toUpperCase());

/** @param {Run} run @returns {Result} */
export function result({ command, problem }) {
  if (problem) {
    const known = problem instanceof Problem;
    const kind = known && problem.type === "observed-already" ? "wait" : "bad";
    return { kind, code: known && problem.status ? String(problem.status) : "", text: inWords(problem) };
  }
  if (!command) return { kind: "wait", text: WAITING.sent };
  if (command.state === "pending") {
    const where = command.place ? ` at place ${command.place}` : "";
    const why = command.device === "asleep" ? WAITING.asleep : WAITING.busy;
    const expires = command.expires ? ` Expires ${clock(command.expires)}.` : "";
    return { kind: "wait", text: `Pending${where}. ${why}${expires}` };
  }
  const data = command.answer?.data ?? {};
  const time = command.took === undefined ? "" : took(command.took);
  const reason = data.reason ? ` ${data.reason}.` : "";
  if (command.outcome !== "answered")
    return { kind: "bad", text: (OUTCOMES[command.outcome ?? ""] ?? `${command.outcome}.`) + reason, time };
  const code = String(data.code ?? "");
  return { kind: code.startsWith("2.") ? "good" : "bad", code, text: codeWords(code) + reason, time };
}

/** @param {Run} run */
export function runLine(run) {
  const { kind, code, text, time } = result(run);
  const location = run.command?.answer?.data?.location;
  return h(
    `div.result.${kind}`,
    kind === "wait" && !run.problem && h("span.spinner"),
    code && h("b.num", code),
    h("span", text),
    location && h("code", show(location)),
    time && h("span.muted.num", time),
  );
}

/** @param {Run[]} runs @param {(run: Run) => void} withdraw */
export function runList(runs, withdraw) {
  const lines = runs.map((run) => {
    const content = run.command?.answer?.data?.content;
    const links = Array.isArray(content) && typeof content[0] === "string" && content.join("  ");
    return h(
      "li",
      h("span.muted.num", clock(run.at)),
      h("span", h("b", verb(run.msgType)), " ", h("code", run.path)),
      runLine(run),
      links && h("code.links", links),
      run.command?.state === "pending" && button("Withdraw", () => withdraw(run), { class: "quiet" }),
    );
  });
  return lines.length ? h("ol.log", lines) : h("p.muted.pad", WAITING.none);
}
