// Lines of numbers: small ones in tables, large ones with a table of their values behind.

import { h, svg } from "./dom.js";
import { clock, count } from "./format.js";
import { dialog } from "./ui.js";

/** @typedef {[number, number, string?]} Point time in ms, value, and the digits of the value */

/**
 * Averages neighbours, so that a line has no more points than it can show.
 * @param {number[]} values
 * @param {number} width
 */
function smooth(values, width) {
  const each = Math.ceil(values.length / (width / 2.5));
  if (each < 2) return values;
  return Array.from({ length: Math.ceil(values.length / each) }, (_, n) => {
    const part = values.slice(n * each, (n + 1) * each);
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

/**
 * @param {number[]} values
 * @param {string} label
 * @param {number} [width]
 * @param {number} [height]
 */
export function sparkline(values, label, width = 120, height = 28) {
  values = smooth(values, width);
  const known = values.filter((value) => Number.isFinite(value));
  const low = Math.min(...known);
  const high = Math.max(...known);
  const span = high - low || 1;
  const step = width / Math.max(1, values.length - 1);
  const y = (/** @type {number} */ value) => height - 2 - ((value - low) / span) * (height - 4);
  const points = values.flatMap((value, n) => (Number.isFinite(value) ? [[n * step, y(value)]] : []));
  const line = points.map(([at, value]) => `${at.toFixed(1)},${value.toFixed(1)}`).join(" ");
  const area = points.length > 1 && high > low && `${points[0][0]},${height} ${line} ${points.at(-1)?.[0]},${height}`;
  return svg(
    "svg.spark",
    {
      viewBox: `0 0 ${width} ${height}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": known.length ? `${label}: ${count(low)} to ${count(high)}` : `${label}: no values`,
    },
    area && svg("polygon.area", { points: area }),
    svg("polyline.line", { points: line }),
  );
}

/** @param {number} low @param {number} high @returns {number[]} round numbers between */
function marks(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? rough;
  const list = [];
  for (let mark = Math.ceil(low / step) * step; mark <= high + step / 1e6; mark += step)
    list.push(Number(mark.toPrecision(12)));
  return list;
}

/** @param {Point[]} points @param {string} label @param {string} units */
function chart(points, label, units) {
  const [width, height, edge, foot] = [innerWidth < 640 ? 320 : 640, 240, 56, 24];
  const times = points.map((point) => point[0]);
  const values = points.map((point) => point[1]);
  const [start, end] = [times[0], times[times.length - 1]];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.1 || Math.abs(high) * 0.1 || 1;
  [low, high] = [low - margin, high + margin];
  const x = (/** @type {number} */ at) => edge + ((at - start) / (end - start || 1)) * (width - edge - 8);
  const y = (/** @type {number} */ value) => 8 + ((high - value) / (high - low)) * (height - foot - 8);
  return svg(
    "svg.chart",
    {
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `${label}, ${points.length} values`,
    },
    marks(low, high).map((mark) => [
      svg("line.grid", { x1: edge, x2: width - 8, y1: y(mark), y2: y(mark) }),
      svg("text", { x: edge - 8, y: y(mark) + 4, "text-anchor": "end" }, String(mark)),
    ]),
    svg("text", { x: edge, y: height - 4 }, clock(start)),
    svg("text", { x: width - 8, y: height - 4, "text-anchor": "end" }, clock(end)),
    svg("polyline.line", {
      points: points.map((point) => `${x(point[0]).toFixed(1)},${y(point[1]).toFixed(1)}`).join(" "),
    }),
    points.length <= 60 &&
      points.map((point) =>
        svg(
          "circle.dot",
          { cx: x(point[0]), cy: y(point[1]), r: 2.5 },
          svg("title", {}, `${clock(point[0])}  ${point[2] ?? point[1]} ${units}`),
        ),
      ),
  );
}

/** @param {Point[]} points @param {string} label @param {string} units */
export function openChart(points, label, units) {
  const rows = points
    .slice()
    .reverse()
    .map((point) => h("tr", h("td", clock(point[0])), h("td.num", `${point[2] ?? point[1]} ${units}`)));
  dialog({
    title: label,
    wide: true,
    body: [
      chart(points, label, units),
      h(
        "details",
        h("summary", `${points.length} values as a table`),
        h(
          "div.scroll",
          { tabindex: "0", role: "region", "aria-label": "Values" },
          h(
            "table.plain",
            h("thead", h("tr", h("th", { scope: "col" }, "Time"), h("th.num", { scope: "col" }, "Value"))),
            h("tbody", rows),
          ),
        ),
      ),
    ],
  });
}
