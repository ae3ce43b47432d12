// The status page: asks /api/v1 and shows what it says. Names, paths and errors come from outside, so all of them are
// put in as text; the Content-Security-Policy forbids whatever would make markup of them.

/** Milliseconds between two looks; while something is being fetched or read, they are shorter. */
const EVERY = 5000, SOON = 1000;
/** Entries of a page, failures shown at first, most entries that one button changes. */
const PAGE = 25, FEW = 6, MOST = 1000;
const DAY = 86400e3;

const $ = (id) => document.getElementById(id);

// ---- making and changing elements ----

/** An element: "tag.class", attributes and listeners, and what is in it: elements, texts, or nothing. */
function el(what, attributes = {}, ...inside) {
  const [tag, ...classes] = what.split(".");
  return dress(document.createElement(tag), classes, attributes, inside);
}

function svg(what, attributes = {}, ...inside) {
  const [tag, ...classes] = what.split(".");
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), classes, attributes, inside);
}

function dress(node, classes, attributes, inside) {
  if (classes.length) node.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...inside.flat().filter((part) => part !== undefined && part !== null && part !== ""));
  return node;
}

/** Sets a text if it is another one: a live region is not told twice. */
function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const FOCUS = "button, summary, input, select, [tabindex]";

/** Makes the children of `parent` those of `items`. What has not changed stays, and so do focus and what is open. */
function list(parent, items, keyOf, make) {
  const active = document.activeElement;
  let focus = parent.contains(active) ? active : null;
  const old = new Map([...parent.children].filter((node) => node.told !== undefined).map((node) => [node.key, node]));
  const keys = new Set(items.map(keyOf));
  for (const [key, node] of old) if (!keys.has(key)) node.remove();
  let at = [...parent.children].find((node) => node.told !== undefined) ?? null;
  for (const item of items) {
    const key = keyOf(item), told = JSON.stringify(item);
    let node = old.get(key);
    if (!node || node.told !== told) {
      const made = make(item);
      Object.assign(made, { key, told });
      if (node) {
        const open = [...node.querySelectorAll("details")].map((details) => details.open);
        made.querySelectorAll("details").forEach((details, n) => (details.open = open[n] ?? details.open));
        if (focus && node.contains(focus)) focus = made.querySelectorAll(FOCUS)[[...node.querySelectorAll(FOCUS)].indexOf(focus)];
        node.replaceWith(made);
        if (at === node) at = made;
      }
      node = made;
    }
    if (at === node) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  if (focus && focus.isConnected && document.activeElement !== focus) focus.focus({ preventScroll: true });
}

// ---- words and numbers ----

/** Server's clock minus ours, in milliseconds. */
let skew = 0;
const now = () => Date.now() + skew;

const number = (n) => new Intl.NumberFormat("en").format(n);
const plural = (n, one, many = one + "s") => `${number(n)} ${n === 1 ? one : many}`;
const percent = (part, whole) => (whole ? `${(Math.floor((1000 * part) / whole) / 10).toFixed(part === whole ? 0 : 1)} %` : "–");

function bytes(n) {
  if (n === undefined || n === null) return "–";
  let unit = 0;
  for (; n >= 1000 && unit < 5; unit++) n /= 1024;
  return `${unit && n < 100 ? n.toFixed(1) : Math.round(n)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

function relative(at) {
  const gone = now() - at, size = Math.abs(gone);
  if (size < 5000) return "just now";
  const [unit, name] = [[DAY, "d"], [3600e3, "h"], [60e3, "min"], [1e3, "s"]].find(([unit]) => size >= unit);
  const span = `${Math.floor(size / unit)} ${name}`;
  return gone < 0 ? `in ${span}` : `${span} ago`;
}

/** A time in words, with the exact one as its title. */
function time(text) {
  const at = Date.parse(text);
  if (Number.isNaN(at)) return text ?? "–";
  return el("time", { datetime: text, title: `${new Date(at).toLocaleString()} (${text})` }, relative(at));
}

const clockTime = (at) => new Date(at).toLocaleTimeString([], { hour12: false });

// ---- asking ----

let token = "";
try {
  token = sessionStorage.getItem("larder-token") ?? "";
} catch { /* Storage may be forbidden; then the token lasts as long as the page. */ }

function keep(text) {
  token = text;
  try {
    if (text) sessionStorage.setItem("larder-token", text);
    else sessionStorage.removeItem("larder-token");
  } catch { /* As above. */ }
}

/** An answer that is a refusal; `problem` is its document (RFC 9457). */
class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `status ${status}`);
    Object.assign(this, { status, problem, hint: problem.hint ?? "", faults: problem.faults ?? [] });
  }
}

/** Asks the API. With a body it is a change. */
async function ask(path, body, method = body ? "POST" : "GET") {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const signal = AbortSignal.timeout(body ? 180e3 : 10e3);
  const answer = await fetch("api/v1/" + path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", redirect: "error", signal });
  const text = await answer.text();
  let content = {};
  try {
    content = JSON.parse(text);
  } catch {
    if (answer.ok && text) throw new Refusal(answer.status, { detail: "the answer is no JSON" });
  }
  if (!answer.ok) throw new Refusal(answer.status, content ?? {});
  return content;
}

// ---- the rounds ----

let timer, round = 0, seenAt = 0, trouble = null, isClosed = false;

async function refresh() {
  clearTimeout(timer);
  const own = ++round;
  let wait = EVERY;
  try {
    // Alone: who is refused is refused once, and not as often as there are questions.
    const status = await ask("status");
    const [hour, failures, jobs] = await Promise.all([ask("history"), ask("failures"), ask("prefetch"), entries(), catalog()]);
    if (own !== round) return;
    skew = Date.parse(status.now) - Date.now() || 0;
    seenAt = Date.now();
    trouble = null;
    opened();
    show(status, hour, failures.failures, jobs.jobs);
    const busy = status.fetching.length || jobs.jobs.some((job) => !job.finished_at) || (status.scrub && !status.scrub.finished_at);
    if (busy) wait = SOON;
  } catch (error) {
    if (own !== round) return;
    if (error.status === 401 || error.status === 403 || error.status === 429) return closed(error);
    trouble = error;
    unreachable();
  }
  age();
  if (document.visibilityState === "visible") timer = setTimeout(refresh, wait);
}

document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && !isClosed && refresh());

/** Nothing is shown to who may not see it; the reason is, and a field for a token where one would help. */
function closed(error) {
  isClosed = true;
  $("open").hidden = true;
  $("closed").hidden = false;
  const helps = error.status !== 403;
  set($("closed-title"), helps ? "Who are you?" : "Nobody may look here");
  set($("closed-detail"), error.status === 401 && !token ? "larder shows what it holds to who has a token." : error.message);
  set($("closed-hint"), error.hint);
  $("login").hidden = !helps;
  $("forget").hidden = !token;
  set($("age"), "Closed");
  if (helps) $("token").focus();
}

function opened() {
  isClosed = false;
  const wasClosed = !$("closed").hidden;
  $("closed").hidden = true;
  $("open").hidden = false;
  $("forget").hidden = !token;
  if (wasClosed) $("main").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(text)) return set($("closed-detail"), "A token has only printable ASCII characters, and no spaces.");
  keep(text);
  $("token").value = "";
  refresh();
});

$("forget").addEventListener("click", () => {
  keep("");
  refresh();
});

function age() {
  document.body.classList.toggle("old", Boolean(trouble));
  if (isClosed) return;
  const from = seenAt ? relative(seenAt + skew) : "never";
  set($("age"), trouble ? `Old: seen ${from}` : `Seen ${from}`);
  for (const node of document.querySelectorAll("time")) set(node, relative(Date.parse(node.dateTime)));
}
setInterval(age, 1000);

// ---- is it well ----

const MARKS = { good: "✓", care: "!", bad: "✕" };

function health(level, headline, summary, warnings) {
  $("health").className = level;
  set($("mark"), MARKS[level]);
  set($("headline"), headline);
  $("summary").replaceChildren(...summary);
  list($("warnings"), warnings, (warning) => warning, (warning) => el("li", {}, warning));
  document.title = `${MARKS[level]} larder`;
}

function unreachable() {
  $("open").hidden = false;
  const why = trouble instanceof Refusal ? [trouble.message, trouble.hint && ` – ${trouble.hint}`] : ["No answer from ", location.host, "."];
  const rest = seenAt ? [" What is below was so at ", clockTime(seenAt), "."] : [];
  health("bad", trouble instanceof Refusal ? "larder does not tell how it is." : "larder does not answer.", [...why.filter(Boolean), ...rest], []);
}

function show(status, hour, failures, jobs) {
  set($("version"), status.version);
  const { warnings, store } = status;
  const warming = status.warm_up && !status.warm_up.finished_at;
  const level = !status.ready ? "bad" : warnings.length ? "care" : "good";
  const headline = status.ready
    ? warnings.length ? `It serves, and ${plural(warnings.length, "thing needs", "things need")} a look.` : "All is well."
    : warming ? "It is not ready yet: plugins are being fetched." : "It is not ready.";
  const lately = failures.filter((failure) => failure.what === "request" && now() - Date.parse(failure.last_at) < 3600e3).length;
  const held = store.disk_entries + store.held_entries + store.local_entries;
  health(level, headline, [
    `${plural(held, "plugin")} held, `, lately ? `${plural(lately, "kind")} of request failed in the last hour` : "no request failed in the last hour", ", started ", time(status.started_at),
  ], warnings);
  numbers(store, hour.points);
  charts(hour);
  showFailures(failures);
  registries(status.registries);
  fetching(status.fetching, jobs);
  settings(status.settings);
  care(status.scrub, status.warm_up);
  list($("certificates"), status.certificates, (c) => `${c.role} ${c.file} ${c.not_after}`, certificate);
  if (!status.certificates.length) none($("certificates"), "No certificate of ours is in use.");
}

/** A word where a list would be empty. */
function none(parent, text) {
  list(parent, [text], (text) => text, (text) => el("li.quiet", {}, text));
}

const sum = (points, key) => points.reduce((all, point) => all + point[key], 0);

function numbers(store, points) {
  const hits = sum(points, "hits"), misses = sum(points, "misses"), errors = sum(points, "errors");
  const { disk_bytes: disk, disk_limit_bytes: diskLimit, memory_bytes: memory, memory_limit_bytes: memoryLimit } = store;
  const tiles = [
    ["Hit rate", percent(hits, hits + misses), `${plural(hits, "hit")}, ${plural(misses, "miss", "misses")}`],
    ["Requests", number(hits + misses + errors), errors ? `${plural(errors, "error")} among them` : "none failed"],
    ["Sent", bytes(sum(points, "sent_bytes")), `${bytes(sum(points, "fetched_bytes"))} fetched`],
    ["Disk", bytes(disk), `of ${bytes(diskLimit)}; ${bytes(store.disk_free_bytes)} free`, disk, diskLimit],
    ["Memory", bytes(memory), `of ${bytes(memoryLimit)}`, memory, memoryLimit],
  ];
  if (store.held_entries) tiles.push(["In memory alone", bytes(store.held_bytes), `${plural(store.held_entries, "plugin")} that the disk did not take`]);
  list($("numbers"), tiles, ([name]) => name, ([name, value, more, part, whole]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, el("b", {}, value), el("span.quiet", {}, more),
      whole ? el("meter", { min: 0, max: whole, high: whole * 0.9, optimum: 0, value: part, "aria-label": `${name} in use` }) : "")));
}

// ---- the last hour ----

let drawn = "", lastHour = null;

function charts(hour) {
  lastHour = hour;
  const told = JSON.stringify(hour) + $("requests-chart").clientWidth;
  if (drawn === told) return;
  drawn = told;
  const { points, step_seconds: step } = hour;
  const per = `per ${step} s`;
  const tell = (point) => `${clockTime(point.at * 1000)}: ${plural(point.hits, "hit")}${point.stale ? ` (${number(point.stale)} stale)` : ""}, ${plural(point.misses, "miss", "misses")}, ${plural(point.errors, "error")}`;
  const flow = (point) => `${clockTime(point.at * 1000)}: ${bytes(point.sent_bytes)} sent, ${bytes(point.fetched_bytes)} fetched`;
  legend($("requests-legend"), [["hits", "Hits", sum(points, "hits")], ["misses", "Misses", sum(points, "misses")], ["errors", "Errors", sum(points, "errors")], ["rate", "Hit rate over 5 min", null]]);
  legend($("traffic-legend"), [["sent", "Sent", bytes(sum(points, "sent_bytes"))], ["fetched", "Fetched", bytes(sum(points, "fetched_bytes"))]]);
  draw("requests", points, step, {
    per, tell, rate: true, top: Math.max(4, ...points.map((p) => p.hits + p.misses + p.errors)), label: number,
    paint(x, y, width) {
      return points.flatMap((point) => {
        let below = 0;
        return ["hits", "misses", "errors"].filter((key) => point[key]).map((key) => {
          const from = y(below), to = y((below += point[key]));
          return svg(`rect.${key}`, { x: x(point.at - step) + 0.5, y: to, width: Math.max(1, width - 1), height: Math.max(1, from - to) });
        });
      });
    },
  });
  draw("traffic", points, step, {
    per, tell: flow, top: Math.max(1024, ...points.map((p) => Math.max(p.sent_bytes, p.fetched_bytes))), label: bytes,
    paint(x, y) {
      const line = (key) => points.map((p, n) => `${n ? "L" : "M"}${x(p.at - step / 2).toFixed(1)} ${y(p[key]).toFixed(1)}`).join("");
      if (!points.length) return [];
      const ends = [points.at(-1), points[0]].map((p) => `L${x(p.at - step / 2).toFixed(1)} ${y(0)}`).join("");
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

function draw(name, points, step, { per, tell, rate, top, label, paint }) {
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
      if (found) path += `${goes ? "L" : "M"}${x(point.at - step / 2).toFixed(1)} ${up(hits / found).toFixed(1)}`;
      goes = Boolean(found);
    });
    parts.push(svg("path.rate", { d: path || "M0 0" }));
  }
  parts.push(...paint(x, y, x(step) - x(0)));
  const cursor = svg("path.cursor", {});
  const spots = points.map((point, n) => svg("rect.spot", { x: x(point.at - step), y: 0, width: x(step) - x(0), height: bottom, "data-n": n }, svg("title", {}, tell(point))));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, parts, cursor, spots);
  const point = (n) => {
    cursor.setAttribute("d", n === null ? "M0 0" : `M${x(points[n].at - step / 2)} ${rate ? 8 : above}V${bottom}`);
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
  box.replaceChildren(picture);
  point(null);
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

// ---- what failed, registries, fetches ----

let allFailures = false;

function failureOf(failure) {
  return [el("p.detail", {}, failure.detail), failure.hint && el("p.hint", {}, failure.hint)];
}

function showFailures(all) {
  // A fetch that failed is told once, with the request that it failed for.
  const requests = new Set(all.filter((f) => f.what === "request").map((f) => `${f.reference} ${f.code}`));
  const failures = all.filter((f) => f.what === "request" || !requests.has(`${f.subject} ${f.code}`));
  set($("failures-count"), failures.length ? number(failures.length) : "");
  list($("failures"), allFailures ? failures : failures.slice(0, FEW), (f) => `${f.what} ${f.subject} ${f.code}`, (f) =>
    el("li", {}, el("p.top", {}, el("code.subject", {}, f.subject), el("span.quiet", {}, f.count > 1 ? `${number(f.count)}×, ` : "", time(f.last_at))),
      el("p", {}, el("span.badge.failed", {}, f.status ? `${f.status} ` : "", f.code), f.reference && f.reference !== f.subject ? el("code.quiet", {}, f.reference) : ""), failureOf(f)));
  if (!failures.length) none($("failures"), "Nothing failed since the start.");
  $("failures-all").hidden = failures.length <= FEW;
  set($("failures-all"), allFailures ? "Show fewer" : `Show all ${failures.length}`);
  $("failures-all").onclick = () => {
    allFailures = !allFailures;
    showFailures(all);
  };
}

const BREAKER = {
  closed: ["fresh", "answers"],
  open: ["failed", "down: left alone for a while"],
  half_open: ["stale", "doubtful: asked by one at a time"],
  unasked: ["absent", "not asked yet"],
};

function registries(all) {
  list($("registries"), all, (registry) => registry.name, ({ name, state, error }) => {
    let [look, words] = BREAKER[state] ?? ["absent", state];
    if (error && state === "closed") [look, words] = ["stale", "the last question failed"];
    return el("li", {}, el("p.top", {}, el("b.wrap", {}, name), error ? el("span.quiet", {}, time(error.last_at)) : ""), el("p", {}, el(`span.badge.${look}`, {}, words)), error ? failureOf(error) : "");
  });
  if (!all.length) none($("registries"), "None was asked yet, and the catalog names none.");
}

function bar(done, total, label) {
  return el("progress", total ? { value: done, max: total, "aria-label": label } : { "aria-label": label });
}

/** Jobs that were begun here and whose end is still to be told. */
const begun = new Set();

function fetching(fetches, jobs) {
  set($("fetching-count"), fetches.length ? number(fetches.length) : "");
  list($("fetching"), fetches, (fetch) => fetch.reference, (fetch) =>
    el("li", {}, el("p.top", {}, el("code.subject", {}, fetch.reference), el("span.quiet", {}, fetch.expected ? `${bytes(fetch.received)} of ${bytes(fetch.expected)}` : bytes(fetch.received))), bar(fetch.received, fetch.expected, `Fetching ${fetch.reference}`)));
  if (!fetches.length) none($("fetching"), "Nothing just now.");
  list($("jobs"), jobs.filter((job) => job.kind === "prefetch").slice(0, 3), (job) => String(job.id), showJob);
  for (const job of jobs.filter((job) => begun.has(job.id) && job.finished_at)) {
    begun.delete(job.id);
    const failed = job.items.filter((item) => item.state === "failed");
    const why = failed.slice(0, 3).map((item) => `${nameOf(item)}: ${item.error?.detail ?? "failed"}`);
    say(failed.length ? "bad" : "good", `Fetched ${number(job.held)} of ${plural(job.total, "plugin")}.`, why, failed[0]?.error?.hint);
  }
}

const nameOf = (thing) => (thing.version ? `${thing.plugin} ${thing.version}` : thing.plugin);

function showJob(job) {
  const failed = job.items.filter((item) => item.state === "failed");
  const title = job.kind === "warm_up" ? "Warm-up" : job.total === 1 ? nameOf(job.items[0]) : plural(job.total, "plugin");
  const far = `${number(job.held)} of ${number(job.total)} held` + (job.failed ? `, ${number(job.failed)} failed` : "");
  return el("li", {}, el("p.top", {}, el("b.wrap", {}, title), el("span.quiet", {}, far, ", ", job.finished_at ? time(job.finished_at) : "under way")),
    job.finished_at ? "" : bar(job.held + job.failed, job.total, `${title}: ${far}`),
    failed.length ? el("details", {}, el("summary", {}, `${number(failed.length)} failed`), el("ul.plain", {}, failed.slice(0, 50).map((item) => el("li", {}, el("b.wrap", {}, nameOf(item)), item.error ? failureOf(item.error) : "")))) : "");
}

// ---- plugins ----

const shown = { sort: "plugin", order: "asc", cursors: [""], at: 0, total: 0 };
const open = new Set();
let asking = 0;

const isSearched = () => Boolean($("text").value.trim() || $("state").value);

function query(limit, cursor) {
  const query = new URLSearchParams({ sort: shown.sort, order: shown.order, limit });
  if ($("text").value.trim()) query.set("text", $("text").value.trim());
  if ($("state").value) query.set("state", $("state").value);
  if (cursor) query.set("cursor", cursor);
  return `entries?${query}`;
}

async function entries() {
  const own = ++asking;
  const page = await ask(query(PAGE, shown.cursors[shown.at]));
  if (own !== asking) return;
  // What was on this page is gone.
  if (!page.entries.length && shown.at) {
    shown.at = 0;
    return entries();
  }
  shown.cursors[shown.at + 1] = page.next;
  shown.total = page.total;
  set($("plugins-count"), number(page.total));
  list($("entries"), page.entries, (entry) => entry.key, row);
  $("entries").hidden = !page.total;
  $("nothing").hidden = Boolean(page.total);
  set($("nothing"), isSearched() ? "Nothing is like that." : "Nothing yet: a plugin comes here when a gateway first asks for it, or when you fetch it.");
  const first = shown.at * PAGE + 1;
  set($("place"), page.total ? `${number(first)}–${number(first + page.entries.length - 1)} of ${number(page.total)}` : "");
  $("before").disabled = !shown.at;
  $("after").disabled = !page.next;
  $("before").parentNode.hidden = !shown.at && !page.next;
  const which = isSearched() ? `these ${number(page.total)}` : "all";
  set($("revalidate-found"), `Revalidate ${which}`);
  set($("purge-found"), `Purge ${which} …`);
  $("revalidate-found").disabled = $("purge-found").disabled = !page.total;
}

function again() {
  Object.assign(shown, { cursors: [""], at: 0 });
  entries().catch(told);
}

let typing;
$("text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(again, 150);
});
$("state").addEventListener("change", again);
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  again();
});
for (const [id, by] of [["before", -1], ["after", 1]])
  $(id).addEventListener("click", () => {
    shown.at += by;
    entries().then(() => $("plugins").focus({ preventScroll: true })).catch(told);
  });
for (const button of document.querySelectorAll("[data-sort]"))
  button.addEventListener("click", () => {
    const sort = button.dataset.sort, first = sort === "plugin" || sort === "state" ? "asc" : "desc";
    shown.order = shown.sort === sort ? (shown.order === "asc" ? "desc" : "asc") : first;
    shown.sort = sort;
    for (const head of document.querySelectorAll("#entries th")) head.removeAttribute("aria-sort");
    button.parentNode.setAttribute("aria-sort", shown.order === "asc" ? "ascending" : "descending");
    again();
  });

function row(entry) {
  const name = nameOf(entry);
  const body = el("tbody");
  const toggle = el("button.opens", { type: "button", "aria-expanded": String(open.has(entry.key)), click: () => {
    const isOpen = !open.delete(entry.key) && Boolean(open.add(entry.key));
    toggle.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) body.append(more(entry));
    else body.lastChild.remove();
  } }, entry.plugin);
  const state = entry.state === "fetching" && entry.expected ? `fetching ${percent(entry.received, entry.expected)}` : entry.state;
  const local = entry.state === "local";
  const cell = (label, ...inside) => el("td", { "data-label": label }, ...inside);
  body.append(el("tr", {},
    el("th", { scope: "row" }, toggle), cell("Version", el("span.wrap", {}, entry.version || "–")),
    cell("State", el(`span.badge.${entry.state}`, {}, state), entry.error && entry.state !== "failed" ? el("span.badge.failed", { title: entry.error.detail }, "error") : ""),
    dress(cell("Size", bytes(entry.size)), ["number"], {}, []), cell("Last use", entry.last_used_at ? time(entry.last_used_at) : "–"),
    cell("From", el("span.wrap.quiet", {}, local ? "this machine" : entry.registry ?? "–")),
    el("td.actions", {}, local ? "" : [
      el("button", { type: "button", "aria-label": `Revalidate ${name}`, click: (event) => revalidate(event.target, { keys: [entry.key] }) }, "Revalidate"),
      el("button.risky", { type: "button", "aria-label": `Purge ${name} …`, click: (event) => purge(event.target, { keys: [entry.key] }) }, "Purge …"),
    ])));
  if (open.has(entry.key)) body.append(more(entry));
  return body;
}

const TIERS = { memory: "in memory and on disk", disk: "on disk", held: "in memory alone", local: "a local file", missing: "nowhere: it is fetched when it is asked for" };

function more(entry) {
  const code = (text) => text && el("code.whole", {}, text);
  const facts = [
    [entry.state === "local" ? "File" : "Reference", code(entry.key)], ["Module", code(entry.digest)], ["Manifest", code(entry.manifest)], ["Layer", code(entry.layer)],
    ["Size", entry.size !== undefined && `${number(entry.size)} bytes`], ["ABI", entry.abi], ["Bytes are", entry.tier && (TIERS[entry.tier] ?? entry.tier)],
    ["First fetched", entry.first_used_at && time(entry.first_used_at)], ["Last asked for", entry.last_used_at && time(entry.last_used_at)], ["Points there since", entry.since && time(entry.since)],
    ["Confirmed", entry.checked_at && time(entry.checked_at)], ["Lifetime ends", entry.expires_at && time(entry.expires_at)],
    ["Received", entry.received !== undefined && `${bytes(entry.received)}${entry.expected ? ` of ${bytes(entry.expected)}` : ""}`],
    ["Last error", entry.error && [el("span.badge.failed", {}, entry.error.code), " ", time(entry.error.last_at), failureOf(entry.error)]],
  ];
  return el("tr.more", {}, el("td", { colspan: 7 },
    el("dl", {}, facts.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("button", { type: "button", click: (event) => explain(event.target, entry) }, "Explain its road")));
}

// ---- changes ----

/** Tells what came of something, to everybody who sees or hears. */
function say(level, title, details = [], hint = "") {
  const card = el(`div.card.${level}`, {}, el("p", {}, el("span.mark", { "aria-hidden": "true" }, MARKS[level]), el("b", {}, title)),
    details.map((detail) => el("p.detail", {}, detail)), hint && el("p.hint", {}, hint),
    el("button", { type: "button", "aria-label": "Close this message", click: () => card.remove() }, "✕"));
  $("said").append(card);
  while ($("said").children.length > 3) $("said").firstChild.remove();
  if (level === "good") setTimeout(() => card.remove(), 15e3);
}

function told(error) {
  if (error.status === 401) return closed(error);
  if (error instanceof Refusal) say("bad", error.message, error.faults, error.hint);
  else say("bad", "larder does not answer.", [String(error.message ?? error)]);
}

/** Does something that takes a while, once: its button waits meanwhile. */
async function doing(button, work) {
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  try {
    await work();
  } catch (error) {
    told(error);
  } finally {
    button.removeAttribute("aria-disabled");
  }
  if (!isClosed) refresh();
}

/** All that the search finds, as a selector; local files are not ours to change. */
async function found() {
  if (!isSearched()) return { all: true };
  if (shown.total > MOST) throw new Refusal(413, { detail: `The search finds ${number(shown.total)}; at most ${number(MOST)} can be changed at once.`, hint: "Search for less." });
  const { entries } = await ask(query(MOST, ""));
  const keys = entries.filter((entry) => entry.state !== "local").map((entry) => entry.key);
  if (!keys.length) throw new Refusal(404, { detail: "Only local files were found, which larder does not change.", hint: "" });
  return { keys };
}

const VERDICTS = { unchanged: "as it was", updated: "updated", absent: "gone from the registry", failed: "not confirmed", pending: "still being asked" };

const revalidate = (button, selector) => doing(button, async () => {
  const { results } = await ask("revalidate", selector);
  const count = Object.entries(VERDICTS).map(([verdict, words]) => [results.filter((one) => one.result === verdict).length, words]).filter(([n]) => n);
  const failed = results.filter((one) => one.error);
  const title = results.length === 1 ? `${results[0].key}: ${VERDICTS[results[0].result]}.` : `Asked about ${number(results.length)}: ${count.map(([n, words]) => `${number(n)} ${words}`).join(", ") || "nothing"}.`;
  say(failed.length ? "bad" : "good", title, failed.slice(0, 3).map((one) => (results.length > 1 ? `${one.key}: ` : "") + one.error.detail), failed[0]?.error.hint);
});

/** Says what would leave, and takes away what was agreed to and nothing else. */
const purge = (button, selector) => doing(button, async () => {
  const would = await ask("purge", { ...selector, dry_run: true });
  if (!would.purged.length) return say("good", "There is nothing to purge.");
  const some = would.purged.slice(0, 20);
  set($("sure-title"), `Purge ${plural(would.purged.length, "plugin")}?`);
  set($("sure-detail"), `${plural(would.modules, "module")} with ${bytes(would.bytes)} will leave memory and disk. The next request for one fetches it again, if its registry answers.`);
  list($("sure-list"), [...some, ...(would.purged.length > some.length ? [`and ${number(would.purged.length - some.length)} more`] : [])], (key) => key, (key) => el("li", {}, el("code.whole", {}, key)));
  if (!(await agreed())) return;
  const gone = await ask("purge", selector.all ? selector : { keys: would.purged });
  say("good", `Purged ${plural(gone.purged.length, "plugin")}, ${bytes(gone.bytes)}.`);
});

function agreed() {
  const dialog = $("sure");
  return new Promise((resolve) => {
    dialog.returnValue = "";
    $("sure-yes").onclick = () => dialog.close("yes");
    $("sure-no").onclick = () => dialog.close("");
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.showModal();
    $("sure-no").focus();
  });
}

const explain = (button, entry) => doing(button, async () => {
  const query = new URLSearchParams({ name: entry.plugin, version: entry.version });
  const headers = { Accept: "text/plain" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(`api/v1/explain?${query}`, { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(60e3) });
  const text = await answer.text();
  if (answer.status === 401) throw new Refusal(401, { detail: text });
  set($("told-title"), `The road of ${nameOf(entry)}`);
  set($("told-text"), text);
  $("told").showModal();
});
$("told-close").addEventListener("click", () => $("told").close());

$("revalidate-found").addEventListener("click", (event) => doing(event.target, async () => {
  const selector = await found();
  event.target.removeAttribute("aria-disabled");
  await revalidate(event.target, selector);
}));
$("purge-found").addEventListener("click", (event) => doing(event.target, async () => {
  const selector = await found();
  event.target.removeAttribute("aria-disabled");
  await purge(event.target, selector);
}));

const prefetch = (button, plugins) => doing(button, async () => {
  const job = await ask("prefetch", { plugins });
  begun.add(job.id);
  $("wanted").value = "";
  say("good", `${plural(job.total, "plugin")} will be fetched.`);
});
$("prefetch").addEventListener("submit", (event) => {
  event.preventDefault();
  const plugins = $("wanted").value.split(/[\s,]+/).filter(Boolean);
  if (plugins.length) prefetch(event.submitter ?? $("prefetch").querySelector("button"), plugins);
});
$("prefetch-all").addEventListener("click", (event) => prefetch(event.target, ["all"]));

let catalogSeen = "";
async function catalog() {
  const { plugins } = await ask("catalog");
  const told = JSON.stringify(plugins);
  if (told === catalogSeen) return;
  catalogSeen = told;
  $("names").replaceChildren(...plugins.map(({ name, version }) => el("option", { value: version ? `${name}@${version}` : name })));
  set($("prefetch-all"), `Fetch all ${number(plugins.length)} of the catalog`);
  $("prefetch-all").disabled = !plugins.length;
}

$("reload").addEventListener("click", (event) => doing(event.target, async () => {
  const { changed, needs_restart: restart, warnings } = await ask("reload", {});
  const details = [changed.length && `Changed: ${changed.join(", ")}`, restart.length && `At the next start: ${restart.join(", ")}`, ...warnings];
  say("good", changed.length ? "Reloaded." : "Reloaded; nothing has changed.", details.filter(Boolean));
}));
$("scrub").addEventListener("click", (event) => doing(event.target, async () => {
  const scrub = await ask("scrub", {});
  say("good", `${plural(scrub.total, "plugin")} will be read and compared.`);
}));
$("level").addEventListener("change", (event) => doing(event.target, async () => {
  await ask("log", { level: event.target.value }, "PUT");
  say("good", `From now on the log has ${event.target.value} and what is more important.`);
}));

function settings(settings) {
  const parts = [el("p", {}, "In use since ", time(settings.loaded_at))];
  if (settings.refused) parts.push(el("p", {}, el("span.badge.failed", {}, "newer ones are refused")), el("p.detail", {}, settings.refused));
  if (settings.needs_restart.length) parts.push(el("p", {}, el("span.badge.stale", {}, "needs a restart"), " ", el("code", {}, settings.needs_restart.join(", "))));
  $("settings").replaceChildren(...parts);
  if (document.activeElement !== $("level")) $("level").value = settings.log_level;
}

function care(scrub, warmUp) {
  const parts = [];
  if (!scrub) parts.push(el("p.quiet", {}, "No full reading was asked for since the start."));
  else if (!scrub.finished_at) parts.push(el("p", {}, `${number(scrub.done)} of ${plural(scrub.total, "plugin")} read`), bar(scrub.done, scrub.total, "Reading every plugin"));
  else parts.push(el("p", {}, `${plural(scrub.done, "plugin")} read `, time(scrub.finished_at)));
  if (scrub) parts.push(el("p", {}, scrub.damaged ? el("span.badge.failed", {}, `${number(scrub.damaged)} damaged, fetched again`) : el("span.badge.fresh", {}, "none damaged")));
  $("care").replaceChildren(...parts, warmUp ? el("ul.plain", {}, showJob(warmUp)) : el("p.quiet", {}, "Nothing is fetched at the start (warm_up.plugins)."));
}

function certificate({ role, file, not_after: end }) {
  const left = Date.parse(end) - now();
  const badge = left < 0 ? ["failed", "has run out "] : left < 14 * DAY ? ["stale", "runs out "] : ["fresh", "good, ends "];
  return el("li", {}, el("p.top", {}, el("code.subject", {}, file), el("span.quiet", {}, { server: "for clients", client: "towards registries", ca: "authority" }[role] ?? role)),
    el("p", {}, el(`span.badge.${badge[0]}`, {}, badge[1], time(end))));
}

refresh();
