// The sections around the table: failures, registries, fetches, settings, scrub and warm-up, certificates.

import { ask } from "./ask.js";
import { doing, say } from "./changes.js";
import { $, bar, el, failureOf, list, none, set } from "./elements.js";
import { bytes, DAY, nameOf, now, number, plural, time } from "./words.js";

/** Failures shown at first. */
const FEW = 6;

let allFailures = false;

export function showFailures(all) {
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

export function registries(all) {
  list($("registries"), all, (registry) => registry.name, ({ name, state, error }) => {
    let [look, words] = BREAKER[state] ?? ["absent", state];
    if (error && state === "closed") [look, words] = ["stale", "the last question failed"];
    return el("li", {}, el("p.top", {}, el("b.wrap", {}, name), error ? el("span.quiet", {}, time(error.last_at)) : ""), el("p", {}, el(`span.badge.${look}`, {}, words)), error ? failureOf(error) : "");
  });
  if (!all.length) none($("registries"), "None was asked yet, and the catalog names none.");
}

/** Jobs that were begun here and whose end is still to be told. */
const begun = new Set();

export function fetching(fetches, jobs) {
  set($("fetching-count"), fetches.length ? number(fetches.length) : "");
  list($("fetching"), fetches, (fetch) => fetch.reference, (fetch) =>
    el("li", {}, el("p.top", {}, el("code.subject", {}, fetch.reference), el("span.quiet", {}, fetch.expected ? `${bytes(fetch.received)} of ${bytes(fetch.expected)}` : bytes(fetch.received))), bar(fetch.received, fetch.expected, `Fetching ${fetch.reference}`)));
  if (!fetches.length) none($("fetching"), "Nothing just now.");
  list($("jobs"), jobs.filter((job) => job.kind === "prefetch").slice(0, 3), (job) => String(job.id), showJob);
  for (const job of jobs.filter((job) => begun.has(job.id) && job.finished_at)) {
    begun.delete(job.id);
    const failed = job.items.filter((item) => item.state === "failed");
    const why = failed.slice(0, 3).map((item) => `${nameOf(item)}: ${item.error?.detail ?? "failed"}`);
    say(failed.length ? "bad" : "good", `Fetched ${number(job.held)} of ${plural(job.total, "plugin")}.`, [...why, ...inPlace(job).slice(0, 3)], failed[0]?.error?.hint);
  }
}

/** What is held in place of the version that was asked for. */
const inPlace = (job) => job.items.filter((item) => item.state === "held" && item.matched === "fallback")
  .map((item) => [item, item.reference.split("/").at(-1).replace(/^[^:@]*[:@]/, "")])
  .filter(([item, version]) => item.version && item.version !== version)
  .slice(0, 50).map(([item, version]) => `${nameOf(item)}: held as ${version} (fallback)`);

function showJob(job) {
  const failed = job.items.filter((item) => item.state === "failed");
  const title = job.kind === "warm_up" ? "Warm-up" : job.total === 1 ? nameOf(job.items[0]) : plural(job.total, "plugin");
  const far = `${number(job.held)} of ${number(job.total)} held` + (job.failed ? `, ${number(job.failed)} failed` : "");
  return el("li", {}, el("p.top", {}, el("b.wrap", {}, title), el("span.quiet", {}, far, ", ", job.finished_at ? time(job.finished_at) : "under way")),
    job.finished_at ? "" : bar(job.held + job.failed, job.total, `${title}: ${far}`),
    inPlace(job).map((words) => el("p.detail", {}, words)),
    failed.length ? el("details", {}, el("summary", {}, `${number(failed.length)} failed`), el("ul.plain", {}, failed.slice(0, 50).map((item) => el("li", {}, el("b.wrap", {}, nameOf(item)), item.error ? failureOf(item.error) : "")))) : "");
}

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
export async function catalog() {
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

export function settings(settings) {
  const parts = [el("p", {}, "In use since ", time(settings.loaded_at))];
  if (settings.refused) parts.push(el("p", {}, el("span.badge.failed", {}, "newer ones are refused")), el("p.detail", {}, settings.refused));
  if (settings.needs_restart.length) parts.push(el("p", {}, el("span.badge.stale", {}, "needs a restart"), " ", el("code", {}, settings.needs_restart.join(", "))));
  $("settings").replaceChildren(...parts);
  if (document.activeElement !== $("level")) $("level").value = settings.log_level;
}

export function care(scrub, warmUp) {
  const parts = [];
  if (!scrub) parts.push(el("p.quiet", {}, "No full reading was asked for since the start."));
  else if (!scrub.finished_at) parts.push(el("p", {}, `${number(scrub.done)} of ${plural(scrub.total, "plugin")} read`), bar(scrub.done, scrub.total, "Reading every plugin"));
  else parts.push(el("p", {}, `${plural(scrub.done, "plugin")} read `, time(scrub.finished_at)));
  if (scrub) parts.push(el("p", {}, scrub.damaged ? el("span.badge.failed", {}, `${number(scrub.damaged)} damaged, fetched again`) : el("span.badge.fresh", {}, "none damaged")));
  $("care").replaceChildren(...parts, warmUp ? el("ul.plain", {}, showJob(warmUp)) : el("p.quiet", {}, "Nothing is fetched at the start (warm_up.plugins)."));
}

export function certificate({ role, file, not_after: end }) {
  const left = Date.parse(end) - now();
  const badge = left < 0 ? ["failed", "has run out "] : left < 7 * DAY ? ["stale", "runs out "] : ["fresh", "good, ends "];
  return el("li", {}, el("p.top", {}, el("code.subject", {}, file), el("span.quiet", {}, { server: "for clients", client: "towards registries", ca: "authority" }[role] ?? role)),
    el("p", {}, el(`span.badge.${badge[0]}`, {}, badge[1], time(end))));
}
