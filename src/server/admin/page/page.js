// The status page: asks /api/v1 and shows what it says.

import { ask, hasToken, keep, Refusal } from "./ask.js";
import { MARKS } from "./changes.js";
import { charts } from "./chart.js";
import { $, el, list, none, set } from "./elements.js";
import { entries } from "./plugins.js";
import { care, catalog, certificate, fetching, registries, settings, showFailures } from "./sections.js";
import { bytes, clock, clockTime, now, number, percent, plural, relative, sum, time } from "./words.js";

/** Milliseconds between two looks; while something is being fetched or read, they are shorter. */
const EVERY = 5000, SOON = 1000;

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
    clock.skew = Date.parse(status.now) - Date.now() || 0;
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
addEventListener("changed", () => !isClosed && refresh());
addEventListener("refused", (event) => closed(event.detail));

/** Nothing is shown to who may not see it; the reason is, and a field for a token where one would help. */
function closed(error) {
  // What was asked before is not shown any more, either.
  clearTimeout(timer);
  round++;
  isClosed = true;
  $("open").hidden = true;
  $("closed").hidden = false;
  const helps = error.status !== 403;
  set($("closed-title"), helps ? "Who are you?" : "Nobody may look here");
  set($("closed-detail"), error.status === 401 && !hasToken() ? "larder shows what it holds to who has a token." : error.message);
  set($("closed-hint"), error.hint);
  $("login").hidden = !helps;
  $("forget").hidden = !hasToken();
  set($("age"), "Closed");
  if (helps) $("token").focus();
}

function opened() {
  isClosed = false;
  const wasClosed = !$("closed").hidden;
  $("closed").hidden = true;
  $("open").hidden = false;
  $("forget").hidden = !hasToken();
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
  const from = seenAt ? relative(seenAt + clock.skew) : "never";
  set($("age"), trouble ? `Old: seen ${from}` : `Seen ${from}`);
  for (const node of document.querySelectorAll("time")) set(node, relative(Date.parse(node.dateTime)));
}
setInterval(age, 1000);

// ---- is it well ----

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

refresh();
