// One answer as it comes: its text, and what can be said of its speed.

import { postStream } from "./api.js";

/**
 * Streams an answer of `path` (chat or completions) and calls `update(text, figures)` for every event that brings something. Resolves to
 * `{ text, figures, finish }`; `finish` is the API's reason. `text` and `figures` so far are also in `update`'s last call where this throws.
 */
export async function generate(path, body, signal, update) {
  const meter = new Meter();
  let text = "";
  let finish = null;
  const request = { ...body, stream: true, stream_options: { include_usage: true }, return_token_ids: true };
  for await (const event of postStream(path, request, signal)) {
    if (event.usage) meter.usage(event.usage);
    const choice = event.choices?.[0];
    if (choice) {
      const piece = choice.delta?.content ?? choice.text ?? "";
      text += piece;
      finish = choice.finish_reason ?? finish;
      meter.tokens(choice.token_ids?.length ?? 0, piece !== "");
    }
    update(text, meter.figures());
  }
  return { text, figures: meter.figures(), finish };
}

/** What `figures` say, in words, shortest first. */
export function describe(figures) {
  const parts = [];
  if (figures.tokens) parts.push(`${figures.tokens} ${figures.tokens === 1 ? "token" : "tokens"}`);
  if (figures.perSecond) parts.push(`${figures.perSecond.toFixed(figures.perSecond < 10 ? 1 : 0)} tokens/s`);
  if (figures.first !== null) parts.push(`first after ${duration(figures.first)}`);
  if (figures.cached) parts.push(`${figures.cached} of ${figures.prompt} prompt tokens cached`);
  if (figures.accepted) parts.push(`${figures.accepted} speculated`);
  return parts;
}

/** Milliseconds as a person reads them. */
export function duration(milliseconds) {
  if (milliseconds < 1) return `${milliseconds.toFixed(2)} ms`;
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(milliseconds < 10000 ? 2 : 1)} s`;
}

class Meter {
  #start = performance.now();
  #first = null; // when the first text came
  #last = null; // when the last tokens came
  #counted = 0; // tokens that events named
  #before = 0; // of them, those that came with the first text: what follows took the time after it
  #usage = null;

  tokens(count, hasText) {
    this.#counted += count;
    if (!count && !hasText) return;
    this.#last = performance.now();
    if (this.#first === null && hasText) {
      this.#first = this.#last;
      this.#before = this.#counted;
    }
  }

  usage(usage) {
    this.#usage = usage;
  }

  /**
   * `tokens` generated; milliseconds to the `first` text as this page saw it; tokens `perSecond` after it; `prompt` tokens, of which
   * `cached`; drafted tokens that were `accepted`. What is not known is null.
   */
  figures() {
    const usage = this.#usage;
    const tokens = usage?.completion_tokens ?? (this.#counted || null);
    const seconds = this.#first === null ? 0 : (this.#last - this.#first) / 1000;
    const after = tokens - (this.#counted ? this.#before : 1);
    return {
      tokens,
      first: this.#first === null ? null : this.#first - this.#start,
      perSecond: after > 0 && seconds > 0 ? after / seconds : null,
      prompt: usage?.prompt_tokens ?? null,
      cached: usage?.prompt_tokens_details?.cached_tokens ?? null,
      accepted: usage?.completion_tokens_details?.accepted_prediction_tokens ?? null,
    };
  }
}
