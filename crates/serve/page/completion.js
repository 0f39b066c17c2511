// Plain text to continue, or a gap to fill: what a model can do without a chat template.

import { errorNotice } from "./api.js";
import { byId, eachFrame, el } from "./dom.js";
import { highlight } from "./code.js";
import { describe, generate } from "./generation.js";
import { sampling } from "./settings.js";
import { recall, remember } from "./storage.js";

const examples = {
  continue: { prefix: "/// Returns the n-th Fibonacci number.\npub fn fibonacci(n: u32) -> u64 {\n", suffix: "" },
  fill: {
    prefix: "/// The largest of some numbers, or none if there are none.\nfn largest(numbers: &[i32]) -> Option<i32> {\n    let mut best = None;\n",
    suffix: "    best\n}\n",
  },
};
/** Tokens asked for where the settings say nothing, if that is no more than half of what fits: the API's default of 16 is too few to look at. */
const usual = 128;

/** Starts the view. `page` is what `app.js` offers. */
export function startCompletion(page) {
  const form = byId("complete-form");
  const [prefix, suffix, result] = [byId("prefix"), byId("suffix"), byId("result")];
  let running = null;
  let last = null; // { prefix, suffix, text }: what the result shows

  const fills = () => form.elements.mode.value === "fill";

  function showMode() {
    byId("suffix-field").hidden = !fills();
    byId("prefix-label").textContent = fills() ? "Text before the gap" : "Text to continue";
    keep();
  }

  function keep() {
    remember("completion", { mode: form.elements.mode.value, prefix: prefix.value, suffix: suffix.value });
  }

  function showResult() {
    const written = el("mark", {}, highlight(last.text));
    result.replaceChildren(el("span", { class: "given" }, last.prefix), written, el("span", { class: "given" }, last.suffix));
  }

  function showRunning() {
    const go = byId("complete-go");
    go.textContent = running ? "Stop" : "Complete";
    byId("complete-actions").hidden = running !== null || !last?.text;
  }

  async function run() {
    byId("complete-error").replaceChildren();
    if (!prefix.value && !(fills() && suffix.value)) {
      prefix.focus();
      return;
    }
    const given = (last = { prefix: prefix.value, suffix: fills() ? suffix.value : "", text: "" });
    const limit = Math.min(usual, Math.floor(page.context() / 2));
    const body = { model: page.model(), prompt: given.prefix, max_tokens: limit, ...sampling() };
    if (fills()) body.suffix = given.suffix;
    const abort = (running = new AbortController());
    let note = "";
    const paint = eachFrame(() => {
      byId("complete-figures").textContent = note;
      showResult();
    });
    paint.now();
    showRunning();
    page.announce("Completing.");
    try {
      const { finish } = await generate("v1/completions", body, abort.signal, (text, figures) => {
        given.text = text;
        note = describe(figures).join(" · ");
        paint.soon();
      });
      if (finish === "length") note += " · ended at the limit of tokens";
      page.announce(`${given.text} End of the completion.`);
    } catch (error) {
      if (error.name === "AbortError") note += note ? " · stopped" : "Stopped";
      else byId("complete-error").replaceChildren(errorNotice(error));
      if (error.wantsKey) page.askKey();
    }
    running = null;
    paint.now();
    showRunning();
  }

  const stored = recall("completion", {});
  for (const field of [prefix, suffix]) field.value = typeof stored[field.id] === "string" ? stored[field.id] : "";
  if (stored.mode === "fill") form.elements.mode.value = "fill";
  showMode();

  form.addEventListener("change", (event) => event.target.name === "mode" && showMode());
  form.addEventListener("input", keep);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else run();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) {
      event.preventDefault();
      run();
    }
  });
  byId("complete-example").addEventListener("click", () => {
    const example = examples[form.elements.mode.value];
    prefix.value = example.prefix;
    suffix.value = example.suffix;
    keep();
    prefix.focus();
  });
  byId("complete-retry").addEventListener("click", () => !running && run());
  byId("complete-keep").addEventListener("click", () => {
    prefix.value = last.prefix + last.text;
    keep();
    prefix.focus();
    prefix.setSelectionRange(prefix.value.length, prefix.value.length);
    prefix.scrollTop = prefix.scrollHeight;
  });

  return {
    stop: () => running?.abort(),
    focus: () => matchMedia("(pointer: fine)").matches && prefix.focus(),
    /** Whether the model can fill gaps. */
    allowFilling(can) {
      const [, fill] = form.elements.mode;
      fill.disabled = !can;
      fill.parentElement.title = can ? "" : "This model was not trained to fill gaps";
      if (!can && fills()) form.elements.mode.value = "continue";
      showMode();
    },
    /** Puts a text there to be continued. */
    offer(text) {
      form.elements.mode.value = "continue";
      prefix.value = text;
      showMode();
    },
  };
}
