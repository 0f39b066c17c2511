// The conversation: messages, the answer that is being written, and what can be done with each.

import { errorNotice } from "./api.js";
import { byId, copyButton, eachFrame, el, icon, iconButton } from "./dom.js";
import { describe, generate } from "./generation.js";
import { showMarkdown } from "./markdown.js";
import { sampling, systemPrompt } from "./settings.js";
import { recall, remember } from "./storage.js";

const suggestions = [
  "Explain what a mixture of experts is, in five sentences.",
  "Write a Rust function that reverses the words of a line.",
  "Compare a stack and a queue in a small table.",
];
/** Why an answer ended, where it did not end by itself. */
const endings = { length: "ended at the limit of tokens", content_filter: "ended by a filter", stopped: "stopped" };

/** Starts the view. `page` is what `app.js` offers. */
export function startChat(page) {
  const conversation = new Conversation(page);
  return { stop: () => conversation.stop(), focus: () => matchMedia("(pointer: fine)").matches && byId("message").focus() };
}

class Conversation {
  /** `{ role, content, note, ended }`: `note` is what is said under it, `ended` why it was cut short. Elements are `#list`'s, in this order. */
  #messages = [];
  #page;
  #list = byId("messages");
  #scroll = byId("chat-scroll");
  #field = byId("message");
  #running = null; // the AbortController of the answer that is being written

  constructor(page) {
    this.#page = page;
    const valid = ({ role, content }) => (role === "user" || role === "assistant") && typeof content === "string";
    const stored = recall("conversation", []);
    if (Array.isArray(stored)) this.#messages = stored.filter((message) => message && valid(message));
    this.#list.append(...this.#messages.map((message) => this.#element(message)));

    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) this.stop();
      else this.#send(this.#field.value);
    });
    byId("new-chat").addEventListener("click", () => this.#clear());
    this.#field.addEventListener("input", () => this.#fit());
    this.#field.addEventListener("keydown", (event) => {
      // With a touch keyboard, Enter is the only way to a new line.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
      event.preventDefault();
      if (!this.#running) this.#send(this.#field.value);
    });
    byId("suggestions").append(...suggestions.map((text) => el("button", { type: "button", click: () => this.#send(text) }, text)));
    // A reload while an answer comes keeps what came.
    addEventListener("pagehide", () => this.#keep());
    this.#show();
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  /** Ends the answer that is being written; what is there stays. */
  stop() {
    this.#running?.abort();
  }

  #clear() {
    this.stop();
    this.#cut(0);
    this.#show();
    this.#field.focus();
  }

  #send(text) {
    if (!text.trim() || this.#running) return;
    this.#field.value = "";
    this.#fit();
    this.#cut(this.#answered());
    this.#add({ role: "user", content: text });
    this.#answer();
  }

  /** Writes the answer to the messages that are there. */
  async #answer() {
    const messages = this.#messages.map(({ role, content }) => ({ role, content }));
    const system = systemPrompt();
    if (system) messages.unshift({ role: "system", content: system });
    const body = { model: this.#page.model(), messages, ...sampling() };

    const message = { role: "assistant", content: "", note: "", ended: null };
    const element = this.#add(message);
    element.setAttribute("aria-busy", "true");
    const running = (this.#running = new AbortController());
    this.#show();
    this.#page.announce("Answering.");
    this.#scrollDown();

    const paint = eachFrame(() => {
      const follow = this.#isAtEnd();
      this.#fill(element, message);
      if (follow) this.#scrollDown();
    });
    let failure = null;
    try {
      const { finish } = await generate("v1/chat/completions", body, running.signal, (text, figures) => {
        message.content = text;
        message.note = describe(figures).join(" · ");
        paint.soon();
      });
      message.ended = endings[finish] ?? null;
    } catch (error) {
      if (error.name === "AbortError") message.ended = endings.stopped;
      else failure = error;
    }
    this.#running = null;
    element.removeAttribute("aria-busy");
    paint.now();
    // Someone may have begun a new conversation meanwhile.
    if (this.#messages.includes(message)) this.#conclude(message, element, failure);
    this.#show();
  }

  #conclude(message, element, failure) {
    if (failure) {
      this.#explain(element, failure);
      // An answer of which nothing came is no part of the conversation.
      if (!message.content) this.#messages.splice(this.#messages.indexOf(message), 1);
    } else {
      this.#page.announce(`${message.content.slice(0, 2000)} ${message.ended ? `Answer ${message.ended}.` : "End of the answer."}`);
    }
    this.#scrollDown();
    this.#keep();
  }

  /** Says what went wrong, and offers the way out. */
  #explain(element, failure) {
    const actions = [];
    const last = this.#messages.findLast(({ role }) => role === "user")?.content ?? "";
    if (failure.lacksTemplate) {
      actions.push(el("button", { type: "button", class: "primary", click: () => this.#page.complete(last) }, "Continue the text instead"));
    } else if (failure.wantsKey) {
      actions.push(el("button", { type: "button", class: "primary", click: () => this.#page.askKey() }, "Enter an API key"));
      this.#page.askKey();
    }
    actions.push(el("button", { type: "button", click: () => this.#retry(element) }, "Try again"));
    element.querySelector(".trouble").replaceChildren(errorNotice(failure, ...actions));
  }

  /** Writes the answer in `element` anew; what came after it is dropped. */
  #retry(element) {
    if (this.#running) return;
    this.#cut([...this.#list.children].indexOf(element));
    this.#answer();
  }

  /** Lets a message of the person be written anew, and the answer after it. */
  #edit(element, message) {
    if (this.#running) return;
    const field = el("textarea", { "aria-label": "Edit the message", rows: Math.min(12, message.content.split("\n").length + 1) });
    field.value = message.content;
    const done = () => element.replaceWith(this.#element(message));
    const save = () => {
      if (!field.value.trim() || this.#running) return;
      this.#cut([...this.#list.children].indexOf(element));
      this.#send(field.value);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        done();
      } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        save();
      }
    });
    element.replaceChildren(el("div", { class: "edit" }, field, el("div", { class: "row end" },
      el("button", { type: "button", click: done }, "Cancel"),
      el("button", { type: "button", class: "primary", click: save }, "Send"))));
    field.focus();
  }

  // The list

  #add(message) {
    this.#messages.push(message);
    const element = this.#element(message);
    this.#list.append(element);
    this.#keep();
    return element;
  }

  /** How many messages remain without questions at the end that got no answer. */
  #answered() {
    return this.#messages.findLastIndex(({ role, content }) => role === "assistant" && content) + 1;
  }

  /** Drops messages and elements from `index` on. */
  #cut(index) {
    this.#messages.length = Math.min(this.#messages.length, index);
    while (this.#list.children.length > index) this.#list.lastElementChild.remove();
    this.#keep();
  }

  #element(message) {
    const isUser = message.role === "user";
    const element = el("article", { class: `message ${message.role}`, "aria-label": isUser ? "You" : "The model" },
      el("div", { class: isUser ? "bubble" : "answer" }),
      el("div", { class: "trouble" }),
      el("footer", {},
        el("div", { class: "actions" },
          copyButton(() => message.content),
          isUser ? iconButton("edit", "Edit", () => this.#edit(element, message))
            : iconButton("retry", "Retry", () => this.#retry(element))),
        el("span", { class: "figures faint" })));
    this.#fill(element, message);
    return element;
  }

  #fill(element, message) {
    const text = element.firstElementChild;
    if (message.role === "user") text.textContent = message.content;
    else showMarkdown(text, message.content);
    element.querySelector(".figures").textContent = [message.note, message.ended].filter(Boolean).join(" · ");
  }

  /** What the page shows of the state: that there are messages, that an answer is being written. */
  #show() {
    byId("welcome").hidden = this.#list.childElementCount > 0;
    byId("new-chat").hidden = this.#list.childElementCount === 0;
    const send = byId("send");
    const [name, label] = this.#running ? ["stop", "Stop (Esc)"] : ["send", "Send (Enter)"];
    send.replaceChildren(icon(name));
    send.title = label;
    send.setAttribute("aria-label", this.#running ? "Stop" : "Send");
  }

  #keep() {
    remember("conversation", this.#messages.length ? this.#messages : undefined);
  }

  /** The field grows with its text, up to what the style allows. */
  #fit() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }

  #isAtEnd() {
    return this.#scroll.scrollHeight - this.#scroll.scrollTop - this.#scroll.clientHeight < 60;
  }

  #scrollDown() {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }
}
