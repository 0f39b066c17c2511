// Sampling settings: a form whose empty fields leave a choice to the server, remembered by the browser.

import { byId } from "./dom.js";
import { recall, remember } from "./storage.js";

const numbers = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"];
const form = byId("settings-form");

/** What the API is to be asked for: the numbers that are set and valid. */
export function sampling() {
  const chosen = {};
  for (const name of numbers) {
    const field = form.elements[name];
    if (field.value !== "" && field.checkValidity()) chosen[name] = Number(field.value);
  }
  return chosen;
}

/** The system prompt; empty: none. */
export function systemPrompt() {
  return form.elements.system.value.trim();
}

/** Fills the form with what was remembered, and remembers what is typed. */
export function startSettings() {
  const stored = recall("settings", {});
  for (const name of [...numbers, "system"]) {
    if (typeof stored[name] === "string") form.elements[name].value = stored[name];
  }
  form.addEventListener("input", keep);
  form.addEventListener("reset", () => setTimeout(keep));
  mark();
}

function keep() {
  const values = {};
  for (const name of [...numbers, "system"]) {
    const { value } = form.elements[name];
    if (value !== "") values[name] = value;
  }
  remember("settings", values);
  mark();
}

/** The button says whether anything but the defaults is set. */
function mark() {
  byId("open-settings").classList.toggle("marked", Boolean(Object.keys(sampling()).length || systemPrompt()));
}
