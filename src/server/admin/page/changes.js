// What a person does to plugins, and what came of it. The window is told with `changed` when something was done, and with
// `refused` when who asked may not.

import { ask, Refusal, signed } from "./ask.js";
import { $, el, list, set } from "./elements.js";
import { bytes, nameOf, number, plural } from "./words.js";

export const MARKS = { good: "✓", care: "!", bad: "✕" };

/** Tells what came of something, to everybody who sees or hears. */
export function say(level, title, details = [], hint = "") {
  const card = el(`div.card.${level}`, {}, el("p", {}, el("span.mark", { "aria-hidden": "true" }, MARKS[level]), el("b", {}, title)),
    details.map((detail) => el("p.detail", {}, detail)), hint && el("p.hint", {}, hint),
    el("button", { type: "button", "aria-label": "Close this message", click: () => card.remove() }, "✕"));
  $("said").append(card);
  while ($("said").children.length > 3) $("said").firstChild.remove();
  if (level === "good") setTimeout(() => card.remove(), 15e3);
}

export function told(error) {
  if (error.status === 401) return dispatchEvent(new CustomEvent("refused", { detail: error }));
  if (error instanceof Refusal) say("bad", error.message, error.faults, error.hint);
  else say("bad", "larder does not answer.", [String(error.message ?? error)]);
}

/** Does something that takes a while, once: its button waits meanwhile. */
export async function doing(button, work) {
  if (button.getAttribute("aria-disabled")) return;
  button.setAttribute("aria-disabled", "true");
  try {
    await work();
  } catch (error) {
    told(error);
  } finally {
    button.removeAttribute("aria-disabled");
  }
  dispatchEvent(new Event("changed"));
}

const VERDICTS = { unchanged: "as it was", updated: "updated", absent: "gone from the registry", failed: "not confirmed", pending: "still being asked" };

export const revalidate = (button, selector) => doing(button, async () => {
  const { results } = await ask("revalidate", selector);
  const count = Object.entries(VERDICTS).map(([verdict, words]) => [results.filter((one) => one.result === verdict).length, words]).filter(([n]) => n);
  const failed = results.filter((one) => one.error);
  const title = results.length === 1 ? `${results[0].key}: ${VERDICTS[results[0].result]}.` : `Asked about ${number(results.length)}: ${count.map(([n, words]) => `${number(n)} ${words}`).join(", ") || "nothing"}.`;
  say(failed.length ? "bad" : "good", title, failed.slice(0, 3).map((one) => (results.length > 1 ? `${one.key}: ` : "") + one.error.detail), failed[0]?.error.hint);
});

/** Says what would leave, and takes away what was agreed to: what the list names, or with `all` everything there is then. */
export const purge = (button, selector) => doing(button, async () => {
  const would = await ask("purge", { ...selector, dry_run: true });
  if (!would.purged.length) return say("good", "There is nothing to purge.");
  const some = would.purged.slice(0, 20);
  set($("sure-title"), `Purge ${plural(would.purged.length, "plugin")}?`);
  const all = selector.all ? "Whatever is held when you agree leaves, also what comes until then. " : "";
  set($("sure-detail"), `${plural(would.modules, "module")} with ${bytes(would.bytes)} will leave memory and disk. ${all}The next request for one fetches it again, if its registry answers.`);
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

export const explain = (button, entry) => doing(button, async () => {
  const query = new URLSearchParams({ name: entry.plugin, version: entry.version });
  const headers = signed({ Accept: "text/plain" });
  const answer = await fetch(`api/v1/explain?${query}`, { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(60e3) });
  const text = await answer.text();
  if (answer.status === 401) throw new Refusal(401, { detail: text });
  set($("told-title"), `The road of ${nameOf(entry)}`);
  set($("told-text"), text);
  $("told").showModal();
});
$("told-close").addEventListener("click", () => $("told").close());
