// Numbers, times and names, as a person reads them.

import { el } from "./elements.js";

export const DAY = 86400e3;

/** `skew` is the server's clock minus ours, in milliseconds. */
export const clock = { skew: 0 };
export const now = () => Date.now() + clock.skew;

export const number = (n) => new Intl.NumberFormat("en").format(n);
export const plural = (n, one, many = one + "s") => `${number(n)} ${n === 1 ? one : many}`;
export const percent = (part, whole) => (whole ? `${(Math.floor((1000 * part) / whole) / 10).toFixed(part === whole ? 0 : 1)} %` : "–");

export function bytes(n) {
  if (n === undefined || n === null) return "–";
  let unit = 0;
  for (; n >= 1000 && unit < 5; unit++) n /= 1024;
  return `${unit && n < 100 ? n.toFixed(1) : Math.round(n)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

export function relative(at) {
  const gone = now() - at, size = Math.abs(gone);
  if (size < 5000) return "just now";
  const [unit, name] = [[DAY, "d"], [3600e3, "h"], [60e3, "min"], [1e3, "s"]].find(([unit]) => size >= unit);
  const span = `${Math.floor(size / unit)} ${name}`;
  return gone < 0 ? `in ${span}` : `${span} ago`;
}

/** A time in words, with the exact one as its title. */
export function time(text) {
  const at = Date.parse(text);
  if (Number.isNaN(at)) return text ?? "–";
  return el("time", { datetime: text, title: `${new Date(at).toLocaleString()} (${text})` }, relative(at));
}

export const clockTime = (at) => new Date(at).toLocaleTimeString([], { hour12: false });

export const nameOf = (thing) => (thing.version ? `${thing.plugin} ${thing.version}` : thing.plugin);

export const sum = (points, key) => points.reduce((all, point) => all + point[key], 0);
