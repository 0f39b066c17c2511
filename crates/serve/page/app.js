// The page: its views, dialogs, keys and theme; which model answers.

import { ApiError, getJson, useKey } from "./api.js";
import { startChat } from "./chat.js";
import { startCompletion } from "./completion.js";
import { byId, el, icon } from "./dom.js";
import { startEngine } from "./engine.js";
import { startSettings } from "./settings.js";
import { recall, remember } from "./storage.js";

const views = ["chat", "complete", "engine"];
const themes = { auto: "Theme: the system's", light: "Theme: light", dark: "Theme: dark" };
let model = null; // as the server lists it

/** What the views need of the page around them. */
const page = {
  /** The name of the model that answers; undefined while the server has not said. */
  model: () => model?.id,
  /** Tokens that a prompt and its answer may have together; infinite while that is not known. */
  context: () => model?.max_model_len ?? Infinity,
  /** Says something to those who listen to the page. */
  announce: (text) => byId("status").replaceChildren(text),
  /** Asks for an API key. */
  askKey: () => openDialog("key-dialog"),
  /** Continues a text in the view that needs no chat template. */
  complete(text) {
    location.hash = "#complete";
    completion.offer(text);
  },
};

startSettings();
const chat = startChat(page);
const completion = startCompletion(page);
const engine = startEngine(page);
startTheme();
startDialogs();
startKeys();
addEventListener("hashchange", showView);
showView();
learnModel();

/** Shows the view that the address names. */
function showView() {
  const name = views.includes(location.hash.slice(1)) ? location.hash.slice(1) : "chat";
  for (const view of views) byId(view).hidden = view !== name;
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  engine.show(name === "engine");
  if (name === "chat") chat.focus();
  if (name === "complete") completion.focus();
}

/** Asks the server which models it has. */
async function learnModel() {
  try {
    const models = (await getJson("v1/models")).data ?? [];
    const names = models.map(({ id }) => id);
    const before = recall("model", null);
    model = models.find(({ id }) => id === before) ?? models[0] ?? null;
    if (model === null) throw new ApiError("The server has no model.");
    const choice = byId("model-choice");
    choice.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    choice.value = model.id;
    choice.hidden = names.length < 2;
    byId("model-name").hidden = names.length > 1;
    showModel(model);
  } catch (error) {
    byId("model-name").textContent = "";
    byId("welcome-about").textContent = error.message;
    if (error.wantsKey) page.askKey();
  }
}

/** Says which model answers, and leads to what it can do: `chat` and `fill_in_the_middle` are false where the server knows that it cannot. */
function showModel({ id, chat: chats, fill_in_the_middle: fills }) {
  byId("model-name").textContent = id;
  byId("model-name").title = id;
  byId("welcome-about").textContent = chats === false
    ? `${id} has no chat template. It continues texts: see Complete.`
    : `${id} answers, from the server at ${location.host}.`;
  byId("suggestions").hidden = chats === false;
  completion.allowFilling(fills !== false);
  if (chats === false && !location.hash) location.replace("#complete");
}

// Light and dark

function startTheme() {
  const button = byId("change-theme");
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.title = themes[theme];
    button.setAttribute("aria-label", themes[theme]);
    button.replaceChildren(icon(theme));
    engine.repaint();
  };
  const current = () => document.documentElement.dataset.theme ?? "auto";
  button.addEventListener("click", () => {
    const names = Object.keys(themes);
    const next = names[(names.indexOf(current()) + 1) % names.length];
    remember("theme", next === "auto" ? undefined : next);
    show(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => engine.repaint());
  show(current());
}

// Dialogs and keys

function openDialog(id) {
  if (!document.querySelector("dialog[open]")) byId(id).showModal();
}

function startDialogs() {
  byId("open-settings").addEventListener("click", () => openDialog("settings"));
  byId("open-help").addEventListener("click", () => openDialog("help"));
  byId("api-address").textContent = new URL("v1", document.baseURI).href;
  byId("change-key").addEventListener("click", () => {
    byId("settings").close();
    page.askKey();
  });
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
  byId("key-form").addEventListener("submit", () => {
    useKey(byId("key").value);
    byId("key").value = "";
    learnModel();
    engine.retry();
  });
  byId("model-choice").addEventListener("change", (event) => {
    remember("model", event.target.value);
    learnModel();
  });
  // A click beside a dialog closes it.
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
}

function startKeys() {
  addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "/" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (byId("help").open) byId("help").close();
      else openDialog("help");
    } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      chat.stop();
      completion.stop();
    } else if (event.altKey && !event.ctrlKey && views[event.key - 1]) {
      event.preventDefault();
      location.hash = `#${views[event.key - 1]}`;
    }
  });
}
