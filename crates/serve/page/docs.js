// The API's documentation, from the server's own description of it (OpenAPI 3).

import { errorNotice, getJson } from "./api.js";
import { byId, el } from "./dom.js";
import { showMarkdown } from "./markdown.js";

const methods = ["get", "post", "put", "delete", "patch"];

start();

async function start() {
  const base = new URL(".", document.baseURI).href;
  byId("example").textContent = `curl ${base}v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "Hello"}], "stream": true}'`;
  try {
    show(await getJson("openapi.json"));
  } catch (error) {
    byId("operations").replaceChildren(errorNotice(error));
  }
}

function show({ info, paths, components }) {
  if (info?.title) byId("title").textContent = info.title;
  showMarkdown(byId("about"), info?.description ?? "");
  const groups = new Map();
  for (const [path, item] of Object.entries(paths ?? {})) {
    for (const method of methods.filter((name) => item[name])) {
      const operation = item[method];
      const tag = operation.tags?.[0] ?? "Other";
      groups.set(tag, [...(groups.get(tag) ?? []), showOperation(method, path, operation)]);
    }
  }
  for (const [tag, operations] of groups) byId("operations").append(el("h2", {}, tag), ...operations);
  const schemas = Object.entries(components?.schemas ?? {});
  byId("schemas-title").hidden = schemas.length === 0;
  byId("schemas").append(...schemas.map(([name, schema]) => showSchema(name, schema)));
  addEventListener("hashchange", openTarget);
  openTarget();
}

function showOperation(method, path, operation) {
  const body = operation.requestBody?.content ?? {};
  const parameters = operation.parameters ?? [];
  return el("details", { class: "card" },
    el("summary", {}, el("span", { class: "method" }, method.toUpperCase()), el("code", {}, path), el("span", { class: "faint" }, operation.summary ?? "")),
    el("div", {},
      prose(operation.description),
      parameters.length ? el("h3", {}, "Parameters") : "",
      parameters.length ? fields(parameters.map(({ name, schema, required, description }) => ({ name, schema, required, description }))) : "",
      ...Object.entries(body).flatMap(([type, { schema }]) => [el("h3", {}, "Body"), el("p", {}, ...typeOf(schema), el("span", { class: "faint" }, ` as ${type}`))]),
      el("h3", {}, "Answers"),
      table(["Status", "Body", ""], Object.entries(operation.responses ?? {}).map(([status, { description, content }]) => [
        [status],
        Object.values(content ?? {}).flatMap(({ schema }) => typeOf(schema)),
        [prose(description)],
      ]))));
}

function showSchema(name, schema) {
  const required = new Set(schema.required ?? []);
  // What is composed of parts has all their fields.
  const parts = [schema, ...(schema.allOf ?? [])];
  const properties = parts.flatMap((part) => Object.entries(part.properties ?? {}));
  return el("details", { class: "card", id: `schema-${name}` },
    el("summary", {}, el("code", {}, name), el("span", { class: "faint" }, (schema.description ?? "").split("\n")[0])),
    el("div", {},
      prose(schema.description),
      properties.length
        ? fields(properties.map(([field, inner]) => ({ name: field, schema: inner, required: required.has(field), description: inner.description })))
        : el("p", {}, ...typeOf(schema))));
}

function fields(list) {
  return table(["Field", "Type", ""], list.map(({ name, schema, required, description }) => [
    [el("code", {}, name), required ? el("span", { class: "faint", title: "required" }, " required") : ""],
    typeOf(schema),
    [prose(description)],
  ]));
}

/** A type in words, with links to the objects that it names. */
function typeOf(schema, depth = 0) {
  if (!schema || typeof schema !== "object" || depth > 4) return ["anything"];
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return [el("a", { href: `#schema-${name}` }, name)];
  }
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(", ")];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  const choices = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (choices) return choices.flatMap((choice, index) => [index ? " or " : "", ...typeOf(choice, depth + 1)]);
  const types = [schema.type ?? "anything"].flat();
  return types.flatMap((type, index) => {
    const or = index ? " or " : "";
    if (type === "array") return [or, "list of ", ...typeOf(schema.items, depth + 1)];
    return [or, type === "object" && schema.title ? schema.title : type];
  });
}

function table(heads, rows) {
  return el("div", { class: "wide", tabindex: "0" }, el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", {}, head)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((nodes) => el("td", {}, ...nodes)))))));
}

function prose(text) {
  const element = el("div", { class: "answer" });
  showMarkdown(element, text ?? "");
  return element;
}

/** Opens what the address names. */
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.localName !== "details") return;
  target.open = true;
  target.scrollIntoView();
}
