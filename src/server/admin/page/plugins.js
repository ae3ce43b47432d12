// The table of plugins: searched, sorted, in pages, and each with what is known of it.

import { ask, Refusal } from "./ask.js";
import { doing, explain, purge, revalidate, told } from "./changes.js";
import { $, dress, el, failureOf, list, set } from "./elements.js";
import { bytes, nameOf, number, percent, time } from "./words.js";

/** Entries of a page, most entries that one button changes. */
const PAGE = 25, MOST = 1000;

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

export async function entries() {
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
    ["First used", entry.first_used_at && time(entry.first_used_at)], ["Last used", entry.last_used_at && time(entry.last_used_at)], ["Points there since", entry.since && time(entry.since)],
    ["Checked", entry.checked_at && time(entry.checked_at)], ["Lifetime ends", entry.expires_at && time(entry.expires_at)],
    ["Received", entry.received !== undefined && `${bytes(entry.received)}${entry.expected ? ` of ${bytes(entry.expected)}` : ""}`],
    ["Last error", entry.error && [el("span.badge.failed", {}, entry.error.code), " ", time(entry.error.last_at), failureOf(entry.error)]],
  ];
  return el("tr.more", {}, el("td", { colspan: 7 },
    el("dl", {}, facts.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("button", { type: "button", click: (event) => explain(event.target, entry) }, "Explain its road")));
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
