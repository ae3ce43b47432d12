// The last hour: two charts, and the same as a table.

import { $, dress, el, set, svg } from "./elements.js";
import { bytes, clockTime, now, number, percent, plural, sum } from "./words.js";

let drawn = "", lastHour = null;
/** Ends of the steps that are being read, by chart: they are still read when all is drawn anew. */
const read = {};

/** The steps with their beginnings. The last one is not over, and begins where the one before it ends. */
const begun = (points, step) => points.map((point, n) => ({ ...point, from: Math.max(point.at - step, points[n - 1]?.at ?? 0, points.at(-1).at - 3600) }));

export function charts(hour) {
  lastHour = hour;
  const told = JSON.stringify(hour) + $("requests-chart").clientWidth;
  if (drawn === told) return;
  drawn = told;
  const { step_seconds: step } = hour, points = begun(hour.points, step);
  const per = `per ${step} s`;
  const tell = (point) => `${clockTime(point.at * 1000)}: ${plural(point.hits, "hit")}${point.stale ? ` (${number(point.stale)} stale)` : ""}, ${plural(point.misses, "miss", "misses")}, ${plural(point.errors, "error")}`;
  const flow = (point) => `${clockTime(point.at * 1000)}: ${bytes(point.sent_bytes)} sent, ${bytes(point.fetched_bytes)} fetched`;
  legend($("requests-legend"), [["hits", "Hits", sum(points, "hits")], ["misses", "Misses", sum(points, "misses")], ["errors", "Errors", sum(points, "errors")], ["rate", "Hit rate over 5 min", null]]);
  legend($("traffic-legend"), [["sent", "Sent", bytes(sum(points, "sent_bytes"))], ["fetched", "Fetched", bytes(sum(points, "fetched_bytes"))]]);
  draw("requests", points, {
    per, tell, rate: true, top: Math.max(4, ...points.map((p) => p.hits + p.misses + p.errors)), label: number,
    paint(x, y) {
      return points.flatMap((point) => {
        const width = x(point.at) - x(point.from);
        let below = 0;
        return ["hits", "misses", "errors"].filter((key) => point[key]).map((key) => {
          const from = y(below), to = y((below += point[key]));
          return svg(`rect.${key}`, { x: x(point.from) + 0.5, y: to, width: Math.max(1, width - 1), height: Math.max(1, from - to) });
        });
      });
    },
  });
  draw("traffic", points, {
    per, tell: flow, top: Math.max(1024, ...points.map((p) => Math.max(p.sent_bytes, p.fetched_bytes))), label: bytes,
    paint(x, y) {
      const line = (key) => points.map((p, n) => `${n ? "L" : "M"}${x((p.from + p.at) / 2).toFixed(1)} ${y(p[key]).toFixed(1)}`).join("");
      if (!points.length) return [];
      const ends = [points.at(-1), points[0]].map((p) => `L${x((p.from + p.at) / 2).toFixed(1)} ${y(0)}`).join("");
      return [svg("path.sent.area", { d: line("sent_bytes") + ends + "Z" }), svg("path.sent", { d: line("sent_bytes") }), svg("path.fetched", { d: line("fetched_bytes") })];
    },
  });
  table(points, step);
}

function legend(node, parts) {
  node.replaceChildren(...parts.map(([key, name, total]) => el("span", {}, svg("svg.key", { viewBox: "0 0 14 10", "aria-hidden": "true" }, key === "rate" || key === "fetched" ? svg(`path.${key}`, { d: "M0 5H14" }) : svg(`rect.${key}`, { width: 14, height: 10, rx: 2 })), name, total === null ? "" : el("b", {}, typeof total === "number" ? number(total) : total))));
}

/** The next number above that is easy to read: 1, 2, 5 with zeros, and for bytes the same of a unit. */
function round125(top, isBytes) {
  const unit = isBytes ? 1024 ** Math.floor(Math.log(top) / Math.log(1024)) : 1;
  const ten = 10 ** Math.floor(Math.log10(top / unit));
  return unit * ten * [1, 2, 4, 6, 10].find((n) => n * ten * unit >= top);
}

function draw(name, points, { per, tell, rate, top, label, paint }) {
  const box = $(`${name}-chart`), readout = $(`${name}-readout`);
  const width = Math.max(240, box.clientWidth), height = 190, left = 58, bottom = height - 20, above = rate ? 62 : 12;
  const end = points.length ? points.at(-1).at : now() / 1000, most = round125(top, label === bytes);
  const x = (at) => left + ((at - end + 3600) / 3600) * (width - left - 4);
  const y = (value) => bottom - (value / most) * (bottom - above);
  const text = (at, up, words, anchor = "end") => svg("text", { x: at, y: up, "text-anchor": anchor }, words);
  const rule = (up) => svg("path.rule", { d: `M${left} ${Math.round(up) + 0.5}H${width}` });
  const parts = [0, most / 2, most].flatMap((value) => [rule(y(value)), text(left - 6, y(value) + 4, label(value))]);
  for (const minutes of width < 420 ? [60, 30, 0] : [60, 45, 30, 15, 0])
    parts.push(text(x(end - minutes * 60), height - 4, minutes ? `${minutes} min ago` : "now", minutes === 60 ? "start" : minutes ? "middle" : "end"));
  if (rate) {
    const up = (share) => 44 - share * 34;
    parts.push(rule(up(1)), rule(up(0)), text(left - 6, up(1) + 4, "100 %"), text(left - 6, up(0) + 4, "0 %"));
    let path = "", goes = false;
    points.forEach((point, n) => {
      const near = points.slice(Math.max(0, n - 9), n + 1), hits = sum(near, "hits"), found = hits + sum(near, "misses");
      if (found) path += `${goes ? "L" : "M"}${x((point.from + point.at) / 2).toFixed(1)} ${up(hits / found).toFixed(1)}`;
      goes = Boolean(found);
    });
    parts.push(svg("path.rate", { d: path || "M0 0" }));
  }
  parts.push(...paint(x, y));
  const cursor = svg("path.cursor", {});
  const spots = points.map((point, n) => svg("rect.spot", { x: x(point.from), y: 0, width: x(point.at) - x(point.from), height: bottom, "data-n": n }, svg("title", {}, tell(point))));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, parts, cursor, spots);
  const point = (n) => {
    read[name] = points[n]?.at;
    cursor.setAttribute("d", n === null ? "M0 0" : `M${x((points[n].from + points[n].at) / 2)} ${rate ? 8 : above}V${bottom}`);
    set(readout, n === null ? `${label === bytes ? "Bytes" : "Requests"} ${per}` : tell(points[n]));
    if (n !== null) dress(box, [], { "aria-valuenow": n, "aria-valuetext": tell(points[n]) }, []);
  };
  picture.addEventListener("pointermove", (event) => event.target.dataset?.n && point(Number(event.target.dataset.n)));
  picture.addEventListener("pointerleave", () => point(null));
  const said = points.length ? `${$(`${name}-legend`).textContent.replace(/([a-z])(\d)/g, "$1 $2")}; arrow keys read each step` : "nothing yet";
  dress(box, [], { tabindex: 0, role: "slider", "aria-label": `${$(`${name}-title`).textContent}: ${said}`, "aria-valuemin": 0, "aria-valuemax": Math.max(0, points.length - 1), "aria-valuenow": Math.max(0, points.length - 1) }, []);
  box.onkeydown = (event) => {
    const last = points.length - 1, from = Number(box.getAttribute("aria-valuenow"));
    const to = { ArrowLeft: from - 1, ArrowDown: from - 1, ArrowRight: from + 1, ArrowUp: from + 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    point(Math.min(last, Math.max(0, to)));
  };
  box.onblur = () => point(null);
  const again = points.findIndex((point) => point.at >= read[name]);
  box.replaceChildren(picture);
  point(again < 0 ? null : again);
}

/** The same in words, five minutes a row. */
function table(points, step) {
  const many = Math.max(1, Math.round(300 / step)), rows = [];
  for (let n = points.length; n > 0; n -= many) rows.push(points.slice(Math.max(0, n - many), n));
  const head = ["Until", "Hits", "Stale", "Misses", "Errors", "Hit rate", "Sent", "Fetched"];
  $("hour").replaceChildren(
    el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map((part) => {
      const of = (key) => sum(part, key);
      const cells = [number(of("hits")), number(of("stale")), number(of("misses")), number(of("errors")), percent(of("hits"), of("hits") + of("misses")), bytes(of("sent_bytes")), bytes(of("fetched_bytes"))];
      return el("tr", {}, el("th", { scope: "row" }, clockTime(part.at(-1).at * 1000)), cells.map((cell) => el("td", {}, cell)));
    })),
  );
}

addEventListener("resize", () => lastHour && charts(lastHour));
