// Markdown as elements. The text is a model's, so it is not trusted: nothing is ever parsed as HTML, every character ends up in a text
// node, links go to http, https and mailto only, and images are shown as links, so that reading an answer fetches nothing.
//
// Work is linear in the length of the text, and nesting is bounded, whatever the text is.

import { copyButton, el } from "./dom.js";
import { highlight } from "./code.js";

const deepest = 12;
const longestLink = 1000;

/**
 * Shows `text` in `container`. Blocks that did not change since the last call keep their elements, so an answer that grows costs only
 * its last block, and text that was selected above stays selected.
 */
export function showMarkdown(container, text) {
  const blocks = parseBlocks(text.split("\n"), 0);
  const shown = (container.markdownSources ??= []);
  let same = 0;
  while (same < blocks.length && same < shown.length && blocks[same].source === shown[same]) same++;
  while (container.childNodes.length > same) container.lastChild.remove();
  container.append(...blocks.slice(same).map(renderBlock));
  container.markdownSources = blocks.map((block) => block.source);
}

// Blocks

// None of these can backtrack over more than a few characters.
const fence = /^ {0,3}(`{3,}|~{3,})/;
const heading = /^ {0,3}(#{1,6})(?:[ \t]|$)/;
const rule = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const quote = /^ {0,3}> ?/;
const item = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}|\t|$)/;
const divider = /^:?-+:?$/;

/** Lines as a list of blocks, each with the `source` that it was made of. */
function parseBlocks(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (line.trim() === "") {
      at++;
      continue;
    }
    const from = at;
    let block;
    if (opensCode(line)) [block, at] = parseCode(lines, at);
    else if (heading.test(line)) [block, at] = parseHeading(lines, at);
    else if (rule.test(line)) [block, at] = [{ kind: "rule" }, at + 1];
    else if (quote.test(line) && depth < deepest) [block, at] = parseQuote(lines, at, depth);
    else if (item.test(line) && depth < deepest) [block, at] = parseList(lines, at, depth);
    else if (isTable(lines, at)) [block, at] = parseTable(lines, at);
    else [block, at] = parseParagraph(lines, at, depth);
    block.source = lines.slice(from, at).join("\n");
    blocks.push(block);
  }
  return blocks;
}

/** Three backticks that are closed in the same line are code within text. */
function opensCode(line) {
  const found = fence.exec(line);
  return found !== null && (found[1][0] === "~" || !line.slice(found[0].length).includes("`"));
}

/** Code runs to its closing fence, or to the end: an answer that still grows has not closed it yet. */
function parseCode(lines, at) {
  const [opening, mark] = fence.exec(lines[at]);
  const info = lines[at].slice(opening.length);
  const indent = lines[at].search(/[`~]/);
  const code = [];
  let next = at + 1;
  for (; next < lines.length; next++) {
    const line = lines[next];
    const closing = line.trim();
    if (closing.length >= mark.length && closing === mark[0].repeat(closing.length)) {
      next++;
      break;
    }
    code.push(line.slice(Math.min(indent, line.search(/[^ ]|$/))));
  }
  return [{ kind: "code", language: info.trim().split(/\s/)[0], text: code.join("\n") }, next];
}

function parseHeading(lines, at) {
  const [opening, marks] = heading.exec(lines[at]);
  const text = lines[at].slice(opening.length).trim();
  let end = text.length;
  while (text[end - 1] === "#") end--;
  const closed = end === 0 || /\s/.test(text[end - 1]);
  return [{ kind: "heading", level: marks.length, text: closed ? text.slice(0, end).trimEnd() : text }, at + 1];
}

function parseQuote(lines, at, depth) {
  const inside = [];
  let next = at;
  for (; next < lines.length && quote.test(lines[next]); next++) inside.push(lines[next].replace(quote, ""));
  return [{ kind: "quote", blocks: parseBlocks(inside, depth + 1) }, next];
}

/** Items of one list: the same kind of mark, each going on as long as lines are indented to its text. */
function parseList(lines, at, depth) {
  const kindOf = (mark) => mark.at(-1);
  const kind = kindOf(item.exec(lines[at])[2]);
  const items = [];
  let loose = false;
  let next = at;
  while (next < lines.length) {
    const start = item.exec(lines[next]);
    if (!start || kindOf(start[2]) !== kind || rule.test(lines[next])) break;
    const indent = start[1].length + start[2].length + Math.max(1, start[3].replace("\t", " ").length);
    const inside = [lines[next].slice(start[0].length)];
    next++;
    let blank = false;
    for (; next < lines.length; next++) {
      const line = lines[next];
      if (line.trim() === "") {
        blank = true;
        inside.push("");
      } else if (line.search(/[^ ]/) >= indent) {
        loose ||= blank;
        blank = false;
        inside.push(line.slice(indent));
      } else if (line.startsWith("\t")) {
        blank = false;
        inside.push(line.slice(1));
      } else if (!blank && !startsBlock(line) && !item.test(line)) {
        inside.push(line.trimStart());
      } else {
        break;
      }
    }
    // A blank line before the next item of the same list makes the list loose; one after the last does not.
    const following = item.exec(lines[next] ?? "");
    loose ||= blank && following !== null && kindOf(following[2]) === kind;
    items.push(parseBlocks(inside, depth + 1));
  }
  const number = /^\s*(\d+)/.exec(lines[at]);
  return [{ kind: "list", start: number && Number(number[1]), loose, items }, next];
}

function isTable(lines, at) {
  const [head, under] = [lines[at], lines[at + 1] ?? ""];
  if (!head.includes("|") || !under.includes("-")) return false;
  const columns = cells(under);
  return columns.every((cell) => divider.test(cell)) && cells(head).length === columns.length;
}

function parseTable(lines, at) {
  const align = cells(lines[at + 1]).map((cell) => ({ "::": "center", ":-": "left", "-:": "right" }[cell[0] + cell.at(-1)] ?? null));
  const rows = [cells(lines[at])];
  let next = at + 2;
  for (; next < lines.length && lines[next].includes("|") && lines[next].trim() !== ""; next++) rows.push(cells(lines[next]));
  return [{ kind: "table", align, rows: rows.map((row) => align.map((_, column) => row[column] ?? "")) }, next];
}

/** The cells of a table's line; `\|` does not part them. */
function cells(line) {
  const bare = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return bare.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function parseParagraph(lines, at, depth) {
  let next = at + 1;
  while (next < lines.length && lines[next].trim() !== "" && !(startsBlock(lines[next]) && depth < deepest) && !isTable(lines, next)) next++;
  return [{ kind: "paragraph", text: lines.slice(at, next).map((line) => line.trimStart()).join("\n") }, next];
}

/** Whether a line ends the paragraph before it. Numbered items do so only from 1, so that a year may begin a line. */
function startsBlock(line) {
  const start = item.exec(line);
  const begins = start && start[3] !== "" && (!/\d/.test(start[2]) || parseInt(start[2], 10) === 1);
  return begins || opensCode(line) || heading.test(line) || rule.test(line) || quote.test(line);
}

// Elements

function renderBlock(block) {
  switch (block.kind) {
    case "code":
      return renderCode(block);
    case "heading":
      // The page has its own first two levels.
      return el(`h${Math.min(6, block.level + 2)}`, { class: `level-${block.level}` }, ...inline(block.text));
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, ...block.blocks.map(renderBlock));
    case "list":
      return el(block.start === null ? "ul" : "ol", { start: block.start > 1 ? block.start : null },
        ...block.items.map((blocks) => el("li", {}, ...blocks.flatMap((inside) => renderItemBlock(inside, block.loose)))));
    case "table":
      return renderTable(block);
    default:
      return el("p", {}, ...inline(block.text));
  }
}

function renderItemBlock(block, loose) {
  return block.kind === "paragraph" && !loose ? inline(block.text) : [renderBlock(block)];
}

function renderCode({ language, text }) {
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", {}, language || "text"), copyButton(() => text, "Copy code")),
    el("pre", { tabindex: "0" }, el("code", {}, highlight(text, language))));
}

function renderTable({ align, rows }) {
  const row = (texts, name) =>
    el("tr", {}, ...texts.map((text, column) => el(name, { class: align[column] && `align-${align[column]}` }, ...inline(text))));
  return el("div", { class: "wide", tabindex: "0" },
    el("table", {}, el("thead", {}, row(rows[0], "th")), el("tbody", {}, ...rows.slice(1).map((texts) => row(texts, "td")))));
}

// Text within a block

const plain = /[^\\`*_~\[!<h\n]+/y;
const bareLink = /https?:\/\/[^\s<>"'`\\^{}|[\]]+/y;
const marks = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };

/** A list of nodes for text with emphasis, code and links. */
function inline(text, depth = 0) {
  const nodes = [];
  // Marks whose search for a partner found none: whoever comes later would find none either, so nobody searches twice.
  const alone = new Set();
  let words = "";
  const flush = () => {
    if (words) nodes.push(words);
    words = "";
  };
  let at = 0;
  while (at < text.length) {
    plain.lastIndex = at;
    const run = plain.exec(text);
    if (run) {
      words += run[0];
      at += run[0].length;
      continue;
    }
    const found = special(text, at, depth, alone);
    if (found) {
      flush();
      nodes.push(...found.nodes);
      at = found.end;
    } else {
      // A run of the same mark that means nothing is text as a whole.
      const length = "`*_~".includes(text[at]) ? runLength(text, at) : 1;
      words += text.slice(at, at + length);
      at += length;
    }
  }
  flush();
  return nodes;
}

/** What begins at `at` and is not just that character: `{ nodes, end }`, or null. */
function special(text, at, depth, alone) {
  switch (text[at]) {
    case "\\":
      if (text[at + 1] === "\n") return { nodes: [el("br")], end: at + 2 };
      return /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "") ? { nodes: [text[at + 1]], end: at + 2 } : null;
    case "\n":
      return / {2}$/.test(text.slice(Math.max(0, at - 2), at)) ? { nodes: [el("br")], end: at + 1 } : null;
    case "`":
      return codeSpan(text, at, alone);
    case "*":
    case "_":
    case "~":
      return depth < deepest ? emphasis(text, at, depth, alone) : null;
    case "[":
      return depth < deepest ? link(text, at, depth) : null;
    case "!":
      return text[at + 1] === "[" && depth < deepest ? link(text, at + 1, depth) : null;
    case "<":
      return autolink(text, at);
    case "h":
      return /\w/.test(text[at - 1] ?? "") ? null : bare(text, at);
    default:
      return null;
  }
}

function codeSpan(text, at, alone) {
  const length = runLength(text, at);
  const name = "`".repeat(length);
  if (alone.has(name)) return null;
  for (let end = text.indexOf("`", at + length); end !== -1; ) {
    const closing = runLength(text, end);
    if (closing === length) {
      const inside = text.slice(at + length, end).replaceAll("\n", " ");
      const padded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim() !== "";
      return { nodes: [el("code", {}, padded ? inside.slice(1, -1) : inside)], end: end + length };
    }
    end = text.indexOf("`", end + closing);
  }
  alone.add(name);
  return null;
}

function emphasis(text, at, depth, alone) {
  const character = text[at];
  const length = runLength(text, at);
  // Three are strong and emphasised at once; the inner mark is found again inside.
  const mark = character.repeat(length === 1 ? 1 : 2);
  const wanted = marks[mark];
  if (!wanted || length > 3 || alone.has(mark)) return null;
  const open = at + mark.length;
  if (/\s|^$/.test(text[open] ?? "")) return null;
  // Within words an underscore is part of a name.
  if (character === "_" && /\w/.test(text[at - 1] ?? "")) return null;
  for (let end = text.indexOf(mark, open); end !== -1; ) {
    const run = runLength(text, end);
    const last = end + run - mark.length;
    const closes = end > open && !/\s/.test(text[end - 1]) && text[end - 1] !== "\\" && (mark.length === 2 ? run >= 2 : run !== 2)
      && (character !== "_" || !/\w/.test(text[end + run] ?? ""));
    if (closes) return { nodes: [el(wanted, {}, ...inline(text.slice(open, last), depth + 1))], end: last + mark.length };
    end = text.indexOf(mark, end + run);
  }
  alone.add(mark);
  return null;
}

/** `[text](address)`; anything but a safe address leaves it as the text that it is. */
function link(text, at, depth) {
  const close = matching(text, at, "[", "]");
  if (close === -1 || text[close + 1] !== "(") return null;
  const end = matching(text, close + 1, "(", ")");
  if (end === -1) return null;
  const address = text.slice(close + 2, end).trim().replace(/\s+(".*"|'.*')$/s, "").replace(/^<(.*)>$/s, "$1");
  const target = safeAddress(address);
  if (target === null) return null;
  return { nodes: [anchor(target, ...inline(text.slice(at + 1, close) || address, depth + 1))], end: end + 1 };
}

function autolink(text, at) {
  const end = text.slice(at, at + longestLink).indexOf(">");
  if (end === -1) return null;
  const address = text.slice(at + 1, at + end);
  const target = /\s/.test(address) ? null : safeAddress(/^[^\s:@]+@[^\s@]+$/.test(address) ? `mailto:${address}` : address);
  return target === null ? null : { nodes: [anchor(target, address)], end: at + end + 1 };
}

function bare(text, at) {
  bareLink.lastIndex = at;
  const found = bareLink.exec(text);
  if (!found) return null;
  let address = found[0].slice(0, longestLink).replace(/[.,:;!?*_~]+$/, "");
  // A bracket that the address did not open belongs to the sentence.
  if (address.endsWith(")") && !address.includes("(")) address = address.replace(/\)+$/, "");
  const target = safeAddress(address);
  return target === null ? null : { nodes: [anchor(target, address)], end: at + address.length };
}

function anchor(href, ...children) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

/** The address in full if it is an absolute one that cannot run anything, else null. */
export function safeAddress(text) {
  let url;
  try {
    url = new URL(text);
  } catch {
    return null;
  }
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

/** Where the bracket that opens at `at` closes, within reason; else -1. */
function matching(text, at, open, close) {
  let depth = 0;
  const limit = Math.min(text.length, at + longestLink);
  for (let next = at; next < limit; next++) {
    if (text[next] === "\\") next++;
    else if (text[next] === open) depth++;
    else if (text[next] === close && --depth === 0) return next;
  }
  return -1;
}

function runLength(text, at) {
  let end = at + 1;
  while (text[end] === text[at]) end++;
  return end - at;
}
