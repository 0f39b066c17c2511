// Elements, made without ever parsing markup: what a model wrote can only become text.

/**
 * An element. `attributes` holds attributes; a function is a listener of that event, `true` an empty attribute, and
 * `false`, `null` and `undefined` are left out. Children are nodes or strings.
 */
export function el(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

/** One of the symbols at the top of `index.html`. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

/** A button that shows an icon and is called `label`. */
export function iconButton(name, label, click) {
  return el("button", { type: "button", class: "quiet", title: label, "aria-label": label, click }, icon(name));
}

/** The element of `index.html` with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Puts text on the clipboard, also where the page came over plain HTTP and has no clipboard interface. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return;
  } catch {
    // No interface, or no permission: the old way needs neither.
  }
  const field = el("textarea", { class: "offscreen", "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** A button that copies what `text()` returns, and says so for a moment. */
export function copyButton(text, label = "Copy") {
  const button = iconButton("copy", label, async () => {
    await copy(text());
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1200);
  });
  return button;
}

/** Calls `paint` at most once per frame, however often `soon` is called; `now` calls it at once. */
export function eachFrame(paint) {
  let frame = null;
  const now = () => {
    cancelAnimationFrame(frame);
    frame = null;
    paint();
  };
  return { soon: () => (frame ??= requestAnimationFrame(now)), now };
}

function furnish(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
