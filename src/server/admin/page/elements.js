// Elements of the page: made, changed in place, and what several sections have in common. Names, paths and errors come
// from outside, so all of them are put in as text; the Content-Security-Policy forbids whatever would make markup of them.

export const $ = (id) => document.getElementById(id);

/** An element: "tag.class", attributes and listeners, and what is in it: elements, texts, or nothing. */
export function el(what, attributes = {}, ...inside) {
  const [tag, ...classes] = what.split(".");
  return dress(document.createElement(tag), classes, attributes, inside);
}

export function svg(what, attributes = {}, ...inside) {
  const [tag, ...classes] = what.split(".");
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), classes, attributes, inside);
}

export function dress(node, classes, attributes, inside) {
  if (classes.length) node.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...inside.flat().filter((part) => part !== undefined && part !== null && part !== ""));
  return node;
}

/** Sets a text if it is another one: a live region is not told twice. */
export function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const FOCUS = "button, summary, input, select, [tabindex]";

/** Makes the children of `parent` those of `items`. What has not changed stays, and so do focus and what is open. */
export function list(parent, items, keyOf, make) {
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

/** A word where a list would be empty. */
export function none(parent, text) {
  list(parent, [text], (text) => text, (text) => el("li.quiet", {}, text));
}

export function bar(done, total, label) {
  return el("progress", total ? { value: done, max: total, "aria-label": label } : { "aria-label": label });
}

export function failureOf(failure) {
  return [el("p.detail", {}, failure.detail), failure.hint && el("p.hint", {}, failure.hint)];
}
