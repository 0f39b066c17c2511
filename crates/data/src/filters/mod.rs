//! Which documents are worth learning from.
//!
//! A [`Filter`] looks at one document, may mend it, and keeps or drops it for a stated reason. [`RULES`] is the
//! table of all filters; a [`Chain`] is those of them that were chosen, in the table's order. Thresholds are those
//! of the papers that the table names.

mod c4;
mod code;
mod draft;
mod fineweb;
mod gopher_quality;
mod gopher_repetition;
mod script;
mod tally;
mod utf8;

pub use draft::{Anatomy, Draft, Line, Word};
pub use utf8::decode;

use crate::collect::{Error, Result};
use crate::sources::Kind;
use unicode_script::Script;

/// One rule, or a group of rules from one paper.
pub trait Filter: Send + Sync {
    /// Keeps a document, perhaps mended, or drops it.
    fn judge(&self, draft: &mut Draft) -> Verdict;
}

/// What a filter says of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may stay.
    Keep,
    /// It goes, for this reason.
    Drop(&'static str),
}

impl Verdict {
    /// The first reason of which the condition holds, if any.
    fn first_of<const N: usize>(reasons: [(bool, &'static str); N]) -> Self {
        reasons.into_iter().find(|(holds, _)| *holds).map_or(Self::Keep, |(_, reason)| Self::Drop(reason))
    }
}

/// A line of the table of filters.
pub struct Rule {
    /// What it is called in options and reports.
    pub name: &'static str,
    /// What it drops or mends.
    pub about: &'static str,
    /// Whose rules and thresholds these are.
    pub from: &'static str,
    /// Which kinds of document it applies to.
    pub kinds: &'static [Kind],
    /// Whether it runs when nothing was said.
    pub by_default: bool,
    make: fn(&Settings) -> Box<dyn Filter>,
}

/// What some filters need to be told.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Scripts whose letters are kept; empty: any.
    pub scripts: Vec<Script>,
}

const ANY: &[Kind] = &[Kind::Text, Kind::Docs, Kind::Code];
const PROSE: &[Kind] = &[Kind::Text, Kind::Docs];
const TEXT: &[Kind] = &[Kind::Text];
const CODE: &[Kind] = &[Kind::Code];

/// All filters, in the order in which they are applied.
pub const RULES: &[Rule] = &[
    Rule {
        name: "utf8",
        about: "mends line ends, control characters and twice-encoded letters; drops what is mostly not text",
        from: "-",
        kinds: ANY,
        by_default: true,
        make: |_| Box::new(utf8::Utf8),
    },
    Rule {
        name: "script",
        about: "drops documents whose letters are not of the scripts asked for (without --scripts: keeps all)",
        from: "Unicode Standard Annex 24",
        kinds: ANY,
        by_default: true,
        make: |settings| Box::new(script::Scripts::new(&settings.scripts)),
    },
    Rule {
        name: "code",
        about: "drops generated files, tables of numbers, encoded data, and code with over-long lines or few letters",
        from: "StarCoder, arXiv:2305.06161, appendix B, and The Stack v2, arXiv:2402.19173, section 3",
        kinds: CODE,
        by_default: true,
        make: |_| Box::new(code::Code),
    },
    Rule {
        name: "c4",
        about: "removes lines about JavaScript, policies and over-long words; drops lorem ipsum, braces, fewer than five sentences",
        from: "C4, arXiv:1910.10683, section 2.2",
        kinds: TEXT,
        by_default: true,
        make: |_| Box::new(c4::C4::new()),
    },
    Rule {
        name: "c4-lines",
        about: "removes lines that do not end in terminal punctuation or have fewer than three words (harsh: headings, verse and lists go)",
        from: "C4, arXiv:1910.10683, section 2.2",
        kinds: TEXT,
        by_default: false,
        make: |_| Box::new(c4::Lines),
    },
    Rule {
        name: "gopher-quality",
        about: "drops documents by their number of words, length of words, symbols, bullets, ellipses, words without letters",
        from: "Gopher, arXiv:2112.11446, appendix A.1.1",
        kinds: PROSE,
        by_default: true,
        make: |_| Box::new(gopher_quality::Quality),
    },
    Rule {
        name: "stop-words",
        about: "drops documents with fewer than two of the commonest English words",
        from: "Gopher, arXiv:2112.11446, appendix A.1.1",
        kinds: PROSE,
        by_default: true,
        make: |_| Box::new(gopher_quality::StopWords),
    },
    Rule {
        name: "gopher-repetition",
        about: "drops documents that repeat lines, paragraphs or runs of 2 to 10 words",
        from: "Gopher, arXiv:2112.11446, table A1",
        kinds: PROSE,
        by_default: true,
        make: |_| Box::new(gopher_repetition::Repetition),
    },
    Rule {
        name: "fineweb",
        about: "drops documents whose lines are short, repeated or without punctuation, as lists and menus are",
        from: "FineWeb, arXiv:2406.17557, section 3.6",
        kinds: TEXT,
        by_default: true,
        make: |_| Box::new(fineweb::FineWeb),
    },
];

/// The chosen filters.
pub struct Chain {
    filters: Vec<(&'static Rule, Box<dyn Filter>)>,
}

impl Chain {
    /// The filters of the table that `chosen` says yes to.
    pub fn new(chosen: impl Fn(&Rule) -> bool, settings: &Settings) -> Self {
        let rules = RULES.iter().filter(|rule| chosen(rule));
        Self { filters: rules.map(|rule| (rule, (rule.make)(settings))).collect() }
    }

    /// The filters that run when nothing is said.
    pub fn standard() -> Self {
        Self::new(|rule| rule.by_default, &Settings::default())
    }

    /// The filters of these names.
    pub fn named(names: &[impl AsRef<str>], settings: &Settings) -> Result<Self> {
        for name in names {
            rule(name.as_ref())?;
        }
        Ok(Self::new(|rule| names.iter().any(|name| name.as_ref() == rule.name), settings))
    }

    /// Their rules, in order.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &'static Rule> {
        self.filters.iter().map(|(rule, _)| *rule)
    }

    /// Applies the filters for the document's kind, up to the first that drops it.
    pub fn judge(&self, draft: &mut Draft) -> Judgement {
        let mut mended = Vec::new();
        for (index, (rule, filter)) in self.filters.iter().enumerate() {
            if !rule.kinds.contains(&draft.kind()) {
                continue;
            }
            let edits = draft.edits();
            if let Verdict::Drop(reason) = filter.judge(draft) {
                return Judgement { mended, dropped: Some((index, reason)) };
            }
            if draft.edits() != edits {
                mended.push(index);
            }
        }
        Judgement { mended, dropped: None }
    }
}

/// What a chain says of a document. Filters go by their place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Who changed the text.
    pub mended: Vec<usize>,
    /// Who dropped it, and why.
    pub dropped: Option<(usize, &'static str)>,
}

/// The rule of a name.
pub fn rule(name: &str) -> Result<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name).ok_or_else(|| {
        let names: Vec<_> = RULES.iter().map(|rule| rule.name).collect();
        Error::Options(format!("there is no filter {name:?}; there are {}", names.join(", ")))
    })
}

/// A script by its Unicode name, such as `Latin`.
pub fn script(name: &str) -> Result<Script> {
    let found = Script::from_full_name(name).or_else(|| Script::from_short_name(name));
    found.ok_or_else(|| {
        Error::Options(format!("there is no script {name:?}; Unicode's names are such as Latin, Greek, Cyrillic, Han"))
    })
}
