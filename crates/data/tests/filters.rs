//! Every filter against documents that must pass, or be dropped for the stated reason.

use data::filters::{Chain, Draft, Judgement, RULES, Settings, decode, rule, script};
use data::sources::Kind;

/// Sentences that nothing is wrong with, all different.
fn prose(sentences: usize) -> String {
    let subjects = ["The baker", "An old sailor", "My neighbour", "Her teacher", "The quiet child"];
    let verbs = ["found", "carried", "painted", "remembered", "described", "lost", "bought"];
    let objects = ["a wooden chair", "the letter", "that small garden", "three grey stones", "a map of the island"];
    let ends = ["with great care", "before the winter came", "and walked home", "for the people of the village"];
    let sentence = |at: usize| {
        let (s, v, o, e) = (subjects[at % 5], verbs[at % 7], objects[(at / 3) % 5], ends[(at / 2) % 4]);
        format!("{s} {v} {o} number {at} {e}.{}", if at % 4 == 3 { "\n" } else { " " })
    };
    (0..sentences).map(sentence).collect()
}

struct Judged {
    judgement: Judgement,
    text: String,
}

fn judge_as(filter: &str, kind: Kind, text: &str) -> Judged {
    judge_with(filter, &Settings::default(), kind, text)
}

fn judge_with(filter: &str, settings: &Settings, kind: Kind, text: &str) -> Judged {
    let mut draft = Draft::default();
    draft.load(text.to_owned(), kind, 0);
    let judgement = Chain::named(&[filter], settings).unwrap().judge(&mut draft);
    Judged { judgement, text: draft.take() }
}

#[track_caller]
fn keeps(filter: &str, text: &str) {
    let judged = judge_as(filter, Kind::Text, text);
    assert_eq!(judged.judgement.dropped, None);
    assert_eq!(judged.text, text);
}

#[track_caller]
fn drops(filter: &str, text: &str, reason: &str) {
    assert_eq!(judge_as(filter, Kind::Text, text).judgement.dropped, Some((0, reason)));
}

#[track_caller]
fn mends(filter: &str, text: &str, into: &str) {
    let judged = judge_as(filter, Kind::Text, text);
    assert_eq!((judged.text.as_str(), judged.judgement.dropped), (into, None));
    assert_eq!(judged.judgement.mended, [0]);
}

#[test]
fn plain_prose_passes_all() {
    let mut draft = Draft::default();
    draft.load(prose(40), Kind::Text, 0);
    let chain = Chain::standard();
    assert_eq!(chain.judge(&mut draft), Judgement { mended: vec![], dropped: None });
    assert_eq!(draft.text(), prose(40));
}

#[test]
fn bytes_that_are_no_utf8_are_not_lost() {
    assert_eq!(decode(b"caf\xe9 \x93x\x94".to_vec()), ("café “x”".into(), 3));
    assert_eq!(decode("né".into()), ("né".into(), 0));
    assert_eq!(decode(b"\xff\xfeh\0i\0".to_vec()), ("hi".into(), 0));
    assert_eq!(decode(b"\xfe\xff\0h\0i".to_vec()), ("hi".into(), 0));
}

#[test]
fn utf8() {
    keeps("utf8", "Plain.\n\tNaïve café, “quoted” — 世界 Ã E é â ð.\n");
    mends("utf8", "one\r\ntwo\rthree\u{c}four\n", "one\ntwo\nthree\nfour\n");
    mends("utf8", "\u{feff}start", "start");
    let long = "words and words and words and words and words and words and words and words and more ";
    mends("utf8", &format!("{long}a\u{0}b\u{7f}c"), &format!("{long}abc"));
    mends("utf8", &format!("itâ€™s â€œfineâ€\u{9d}, cafÃ©, Â£5 {long}"), &format!("it’s “fine”, café, £5 {long}"));
    drops("utf8", "ab\u{1}\u{2}cd", "over 1% control characters");
    drops("utf8", "what \u{fffd}\u{fffd} is this", "over 1% replacement characters");
    let mut draft = Draft::default();
    draft.load("caf\u{e9}".into(), Kind::Text, 1);
    let dropped = Chain::named(&["utf8"], &Settings::default()).unwrap().judge(&mut draft).dropped;
    assert_eq!(dropped, Some((0, "over 10% of bytes are no UTF-8")));
}

#[test]
fn scripts() {
    let settings = Settings { scripts: vec![script("Latin").unwrap()] };
    let dropped = |settings: &Settings, text: &str| judge_with("script", settings, Kind::Text, text).judgement.dropped;
    assert_eq!(dropped(&settings, "Grüße aus Köln 2024, π!"), None);
    assert_eq!(dropped(&settings, "Привет, мир; hello"), Some((0, "over 20% of letters are of other scripts")));
    assert_eq!(dropped(&settings, "12345 !?"), None);
    let both = Settings { scripts: vec![script("Latin").unwrap(), script("Cyrl").unwrap()] };
    assert_eq!(dropped(&both, "Привет, мир; hello"), None);
    assert_eq!(dropped(&Settings::default(), "Привет"), None);
    assert!(script("Klingonese").unwrap_err().to_string().contains("Latin"));
}

#[test]
fn gopher_quality() {
    let filter = "gopher-quality";
    keeps(filter, &prose(10));
    drops(filter, "Too short to learn much from.", "fewer than 50 words");
    drops(filter, &prose(10_000), "more than 100,000 words");
    drops(filter, &"a b the of I x ".repeat(20), "mean word length under 3");
    drops(filter, &"incomprehensibilities ".repeat(60), "mean word length over 10");
    drops(filter, &format!("{}{}", prose(10), " #tag".repeat(30)), "more than 0.1 hash signs per word");
    drops(filter, &prose(10).replace(' ', "... "), "more than 0.1 ellipses per word");
    let bullets: String = (0..20).map(|at| format!("• point number {at} of many\n")).collect();
    drops(filter, &bullets, "over 90% of lines start with a bullet");
    let teasers: String =
        (0..20).map(|at| format!("This is the beginning of the long long story number {at} and …\n")).collect();
    drops(filter, &teasers, "over 30% of lines end with an ellipsis");
    drops(filter, &format!("{}{}", prose(5), " 12345".repeat(20)), "under 80% of words have a letter");
}

#[test]
fn stop_words() {
    keeps("stop-words", "Nothing but (the) right words, AND some.");
    drops("stop-words", "Only the one word counts here.", "fewer than two stop words");
    drops("stop-words", "lorem ipsum dolor sit amet", "fewer than two stop words");
}

#[test]
fn gopher_repetition() {
    let filter = "gopher-repetition";
    keeps(filter, &prose(40));
    keeps(filter, "");
    let paragraphs: String = (0..10).map(|at| format!("Paragraph {}.\n\n", at / 2)).collect();
    drops(filter, &paragraphs, "over 30% of paragraphs are repeated");
    let paragraph = format!("{}\n\n", prose(8).trim());
    let long = format!("{paragraph}One.\n\nTwo.\n\nThree.\n\n{paragraph}");
    drops(filter, &long, "repeated paragraphs have over 20% of characters");
    let lines: String = (0..20).map(|at| format!("line {}\n", at / 2)).collect();
    drops(filter, &lines, "over 30% of lines are repeated");
    let line = prose(3).trim().replace('\n', " ");
    let long = format!("{line}\na\nb\nc\nd\ne\n{line}\n");
    drops(filter, &long, "repeated lines have over 20% of characters");
    let top = |gram: &str| (0..40).map(|at| format!("word{at} {gram} ")).collect::<String>();
    drops(filter, &top("buy now"), "the top 2-gram has over 20% of characters");
    // A run of three whose middle is common: no two of them come as often.
    drops(
        filter,
        &format!("{} {}", prose(16).replace('\n', ""), "cheap viagra pills ".repeat(7)),
        "repeated 5-grams have over 15% of characters",
    );
    let varied = |length: usize| {
        // Every run of `length` words comes twice, at different places.
        let words: Vec<_> = (0..300).map(|at| format!("w{at}x")).collect();
        let runs: Vec<_> = words.chunks(length).map(|run| run.join(" ")).collect();
        let again: Vec<_> = runs.iter().rev().cloned().collect();
        format!("{} {}", runs.join(" "), again.join(" "))
    };
    drops(filter, &varied(6), "repeated 5-grams have over 15% of characters");
    keeps(filter, &varied(4));
}

#[test]
fn c4() {
    keeps("c4", &prose(10));
    drops("c4", &format!("{}Lorem Ipsum dolor.", prose(10)), "lorem ipsum");
    drops("c4", &format!("{}if (x) {{ y }}", prose(10)), "a curly brace");
    drops("c4", "One. Two! Three? Version 1.2.3.4.5 was not enough.", "fewer than five sentences");
    let text = prose(10);
    let with = |line: &str| format!("{}{line}\n{}", prose(10), prose(4));
    mends("c4", &with("Please enable JavaScript to see it."), format!("{text}{}", prose(4)).trim());
    mends("c4", &with("We value you. Read our Privacy Policy."), format!("{text}{}", prose(4)).trim());
    mends("c4", &with(&"x".repeat(1001)), format!("{text}{}", prose(4)).trim());
}

#[test]
fn c4_lines() {
    keeps("c4-lines", "A line of words.\n\n\"And a quoted one!\"\n");
    mends("c4-lines", "Menu\nA line of words.\nRead more\nIt goes on and...\nToo short.\n", "A line of words.");
    drops("c4-lines", "Home\nAbout us\n", "no line ends like a sentence");
}

#[test]
fn fineweb() {
    keeps("fineweb", &prose(20));
    drops("fineweb", " \n\n", "empty");
    let menu = "A line that is long enough but has no end to it\n".to_owned();
    drops("fineweb", &format!("{}And the last.", menu.repeat(9)), "at most 12% of lines end in punctuation");
    let short: String = (0..10).map(|at| format!("Item {at} is here.\n")).collect();
    drops("fineweb", &short, "67% of lines or more have at most 30 characters");
    let line = "This line is here once and then it is here once more.\n";
    drops("fineweb", &format!("{line}{}{line}", prose(8)), "repeated lines have 10% of characters or more");
    let gaps: String = (0..10).map(|at| format!("Extraordinarily{at} long-winded headlines.\n\n\n")).collect();
    drops("fineweb", &gaps, "more than 0.3 line ends per word");
}

#[test]
fn code() {
    let source = "/// Adds.\npub fn add(left: u64, right: u64) -> u64 {\n    left + right\n}\n".repeat(3);
    let dropped = |text: &str| judge_as("code", Kind::Code, text).judgement.dropped.map(|(_, reason)| reason);
    assert_eq!(dropped(&source), None);
    assert_eq!(dropped(&source.repeat(2000)), Some("over 256 KiB: hardly written by hand"));
    for header in
        ["// @generated", "/* automatically generated by rust-bindgen 0.69 */", "// Generated by x. DO NOT EDIT."]
    {
        assert_eq!(dropped(&format!("{header}\n{source}")), Some("says that it is generated"), "{header}");
    }
    assert_eq!(dropped(&format!("{}\n// This code is generated by hand.\n{source}", "\n".repeat(12))), None);
    assert_eq!(dropped("\n  \n"), Some("empty"));
    assert_eq!(dropped(&format!("{source}{}", "x ".repeat(600))), Some("a line of over 1000 bytes"));
    let wide: String =
        (0..10).map(|at| format!("let value_{at} = {};\n", "some_function(of_this) + ".repeat(6))).collect();
    assert_eq!(dropped(&wide), Some("lines of over 100 bytes on average"));
    assert_eq!(dropped(&"{ [ ( ; ) ] } , x\n".repeat(20)), Some("under 25% letters and digits"));
    let table: String = (0..50).map(|at| format!("    0x{at:04x}, 0x{:04x}, {at}, {},\n", at * 7, at * 31)).collect();
    assert_eq!(dropped(&format!("static TABLE: [u16; 200] = [\n{table}];\n")), Some("over 40% of it is numbers"));
}

#[test]
fn code_is_not_judged_as_prose() {
    let source = "fn main() {\n    println!(\"{}\", 1);\n}\n";
    let mut draft = Draft::default();
    draft.load(source.into(), Kind::Code, 0);
    assert_eq!(Chain::standard().judge(&mut draft).dropped, None);
    draft.load(source.into(), Kind::Text, 0);
    assert_eq!(Chain::standard().judge(&mut draft).dropped.map(|(_, reason)| reason), Some("a curly brace"));
}

#[test]
fn every_rule_is_found_by_its_name() {
    for entry in RULES {
        assert_eq!(rule(entry.name).unwrap().name, entry.name);
    }
    let error = rule("gopher").err().unwrap().to_string();
    assert!(error.contains("gopher") && error.contains("gopher-quality"), "{error}");
}
