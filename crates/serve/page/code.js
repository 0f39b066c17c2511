// Colours for code: comments, strings, numbers, keywords and calls, by rules that most languages share.

const keywords = new Set(`abstract and as assert async await base bool break case catch char class const constexpr continue crate def default
del delete do double dyn elif else end enum except explicit export extends extern false final finally float fn for foreach from func function
global go goto if impl implements import in include inline instanceof int interface is lambda let local long loop macro match mod module move mut
namespace new nil none not null nullptr operator or override package pass private protected pub public raise ref require return select self short
signed sizeof static struct super switch template then this throw trait true try type typedef typeof union unsafe unsigned until use using val var
virtual void volatile when where while with yield None True False Self elsif unless begin i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize f32 f64
str String Vec Option Result`.split(/\s+/));

const hash = "#.*";
const slashes = "//.*|/\\*[^]*?(?:\\*/|$)";
const comments = {
  "": "",
  python: hash, py: hash, sh: hash, bash: hash, shell: hash, zsh: hash, ruby: hash, rb: hash, toml: hash, yaml: hash, yml: hash, r: hash,
  perl: hash, makefile: hash, dockerfile: hash, julia: hash, elixir: hash, nix: hash,
  sql: "--.*|/\\*[^]*?(?:\\*/|$)", lua: "--.*", haskell: "--.*", ada: "--.*",
  lisp: ";.*", clojure: ";.*", asm: ";.*", ini: "[;#].*", tex: "%.*", latex: "%.*",
  html: "<!--[^]*?(?:-->|$)", xml: "<!--[^]*?(?:-->|$)", json: "", text: null, txt: null, plain: null, markdown: null, md: null, diff: null,
};
// Where a single quote begins a string of any length; elsewhere it holds one character, or is a lifetime or an apostrophe.
const quoted = new Set(`python py sh bash shell zsh ruby rb perl php r javascript js jsx typescript ts tsx lua sql yaml yml toml html xml css
julia elixir nix`.split(/\s+/));
const tooLong = 50_000;
const rules = new Map();

/** Code as nodes: text, with spans around what has a colour. An unknown language is taken for one that looks like C. */
export function highlight(source, language = "") {
  const fragment = document.createDocumentFragment();
  const name = language.toLowerCase();
  const comment = name && Object.hasOwn(comments, name) ? comments[name] : slashes;
  if (comment === null || source.length > tooLong) {
    fragment.append(source);
    return fragment;
  }
  let written = 0;
  for (const match of source.matchAll(ruleFor(comment, quoted.has(name)))) {
    const kind = kindOf(match);
    if (!kind) continue;
    if (match.index > written) fragment.append(source.slice(written, match.index));
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = match[0];
    fragment.append(span);
    written = match.index + match[0].length;
  }
  fragment.append(source.slice(written));
  return fragment;
}

function kindOf({ 0: text, groups, index, input }) {
  if (groups.comment !== undefined) return "comment";
  if (groups.string !== undefined) return "string";
  if (groups.number !== undefined) return "number";
  if (keywords.has(text)) return "keyword";
  const after = index + text.length;
  return input.startsWith("(", after) || input.startsWith("!(", after) ? "call" : null;
}

/** What is looked for, with one way to write comments and one of what a single quote means. */
function ruleFor(comment, quotes) {
  const name = `${quotes} ${comment}`;
  let rule = rules.get(name);
  if (!rule) {
    const single = quotes ? String.raw`'(?:\\[^]|[^'\\\n])*'?` : String.raw`(?<!\w)'(?:\\[^\n']{1,9}|\\'|[^'\\\n])'`;
    rule = new RegExp([
      `(?<comment>${comment || "(?!)"})`,
      String.raw`(?<string>"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\[^]|[^"\\])*"?|` + "`(?:\\\\[^]|[^`\\\\])*`?|" + `${single})`,
      String.raw`(?<number>\b(?:0[xob][\da-fA-F_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?)\w*)`,
      String.raw`\b[A-Za-z_]\w*`,
    ].join("|"), "g");
    rules.set(name, rule);
  }
  return rule;
}
