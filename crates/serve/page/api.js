// The server's API: requests, streams of events, and errors as sentences.

import { el } from "./dom.js";

/** What went wrong, as a sentence for a person. `status` is 0 where no answer came at all. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether the server wants a key, or another one. */
  get wantsKey() {
    return this.status === 401;
  }

  /** Whether the model has no chat template, so that it can only continue text. */
  get lacksTemplate() {
    return this.status === 400 && /chat.?template/i.test(`${this.code} ${this.message}`);
  }
}

// The key lives as long as the browser's tab, and is sent to this server only.
const keyName = "lyceum.key";
let key = "";
try {
  key = sessionStorage.getItem(keyName) ?? "";
} catch {
  // Storage is forbidden: the key is asked for again after a reload.
}

/** Uses this API key from now on; empty: none. */
export function useKey(text) {
  key = text.trim();
  try {
    sessionStorage.setItem(keyName, key);
  } catch {
    // As above.
  }
}

/** GETs JSON from a path of this server. */
export async function getJson(path, signal) {
  const response = await request(path, { signal });
  try {
    return await response.json();
  } catch {
    throw new ApiError(`The server's answer to ${path} is not JSON.`, { status: response.status });
  }
}

/**
 * POSTs `body` and yields each event of the stream that comes back, as parsed JSON, until its `[DONE]`. Aborting `signal` ends it
 * with an `AbortError`; an error that the server reports midway, and a stream that breaks off, with an `ApiError`.
 */
export async function* postStream(path, body, signal) {
  const response = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of serverSentEvents(response.body, signal)) {
    if (data === "[DONE]") return;
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      throw new ApiError("The server sent an event that is not JSON.");
    }
    if (event.error) throw new ApiError(sentence(event.error.message), { code: event.error.code });
    yield event;
  }
  throw new ApiError("The connection ended before the answer was complete.");
}

/** An error as part of the page. */
export function errorNotice(error, ...actions) {
  const detail = [error.status || null, error.code].filter((part) => part !== null && part !== undefined).join(" · ");
  return el("div", { class: "notice", role: "alert" },
    el("p", {}, error.message),
    detail ? el("p", { class: "faint" }, detail) : "",
    actions.length ? el("p", { class: "row" }, ...actions) : "");
}

async function request(path, options) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(`The server at ${location.host} cannot be reached. Is it still running?`);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The error that an answer other than 2xx stands for. */
async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not the API's own error, perhaps a proxy's.
  }
  const { status } = response;
  const said = sentence(error.message);
  const wait = Number(response.headers.get("Retry-After"));
  const message = {
    401: said || "This server wants an API key.",
    429: `${said || "The server is busy."}${wait > 0 ? ` Try again in ${wait} s.` : ""}`,
    503: said || "The server is shutting down.",
  }[status] ?? (said || `The server answered with status ${status}.`);
  return new ApiError(message, { status, code: error.code ?? null });
}

/** Text with a capital at its start and a stop at its end. */
function sentence(text) {
  const trimmed = String(text ?? "").trim();
  if (!trimmed) return "";
  return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? "" : ".");
}

/** The `data` of each event in a stream of bytes. Lines end in LF, CR LF or CR and in nothing else: U+2028 may stand inside of one. */
async function* serverSentEvents(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await read(reader, signal);
      if (done) return;
      rest += value;
      // A CR at the very end may be half of a CR LF: it waits for what follows.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal?.aborted) throw new DOMException("stopped", "AbortError");
    throw new ApiError("The connection broke before the answer was complete.");
  }
}
