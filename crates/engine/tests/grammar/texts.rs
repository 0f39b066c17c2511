//! JSON, regular expressions, choices, Lark.

use crate::draw::Drawer;
use engine::grammar::{Allowed, Source};
use proptest::prelude::*;
use serde_json::{Value, json};

const DRAWS: u64 = 25;

/// Parses what is JSON; a number that no f64 holds is JSON too, but no value.
fn parse(text: &str) -> Option<Value> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    serde_json::from_str(text).ok()
}

#[test]
fn json_objects_are_json_objects() {
    for drawer in Drawer::both() {
        let grammar = drawer.compile(&Source::JsonObject);
        let mut ended = 0;
        for seed in 0..DRAWS {
            let drawn = drawer.draw(grammar.clone(), seed, 20, 1000);
            if drawn.ended {
                assert!(parse(&drawn.text).is_none_or(|value| value.is_object()), "{}", drawn.text);
                ended += 1;
            }
        }
        assert!(ended >= DRAWS - 2, "{ended} of {DRAWS} ended");
    }
}

fn schemas() -> Vec<Value> {
    vec![
        json!({ "type": "string", "minLength": 3, "maxLength": 12 }),
        json!({ "type": "integer", "minimum": -20, "maximum": 1000 }),
        json!({ "type": "number", "exclusiveMinimum": 0.5, "maximum": 7.25 }),
        json!({ "enum": ["red", "green", 3, null, { "a": [true] }] }),
        json!({ "type": "array", "items": { "type": "boolean" }, "minItems": 2, "maxItems": 5 }),
        json!({ "type": "string", "pattern": "^[a-f]{2}(-[0-9]{3})+$" }),
        json!({ "type": "string", "format": "date" }),
        json!({ "type": "object", "properties": { "a": { "type": "integer" }, "b": { "type": ["string", "null"] }, "c": { "const": "x" } },
            "required": ["a", "c"], "additionalProperties": false }),
        json!({ "type": "object", "additionalProperties": { "type": "number" }, "minProperties": 1, "maxProperties": 3 }),
        json!({ "anyOf": [{ "type": "object", "properties": { "kind": { "const": "dog" }, "bark": { "type": "integer" } },
            "required": ["kind", "bark"], "additionalProperties": false }, { "type": "array", "maxItems": 1 }] }),
        json!({ "allOf": [{ "type": "object", "required": ["u"] }, { "properties": { "u": { "type": "integer", "multipleOf": 5, "minimum": -1e6, "maximum": 1e6 } } }],
            "additionalProperties": true }),
        json!({ "$defs": { "tree": { "type": "object", "properties": { "v": { "type": "integer" },
            "left": { "anyOf": [{ "$ref": "#/$defs/tree" }, { "type": "null" }] } }, "required": ["v", "left"], "additionalProperties": false } },
            "$ref": "#/$defs/tree" }),
        json!(true),
    ]
}

#[test]
fn schemas_are_obeyed() {
    for drawer in Drawer::both() {
        for schema in schemas() {
            let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
            let grammar = drawer.compile(&Source::JsonSchema(schema.clone()));
            let mut ended = 0;
            for seed in 0..DRAWS {
                let drawn = drawer.draw(grammar.clone(), seed, 10, 600);
                if drawn.ended {
                    let valid = parse(&drawn.text).is_none_or(|value| validator.is_valid(&value));
                    assert!(valid, "{} is no {schema}", drawn.text);
                    ended += 1;
                }
            }
            assert!(ended >= DRAWS - 2, "{ended} of {DRAWS} ended for {schema}");
        }
    }
}

#[test]
fn regular_expressions_match_as_a_whole() {
    let patterns = [
        r"[a-z]{3,8}@[a-z]+\.(com|org)",
        r"(?:yes|no|maybe so)",
        r"\d{3}/\d{2,4}",
        r"(a|b)*c",
        r"[^\x00-\x1f]{1,5}",
        "é+ß?",
        r"\\\n\t/",
        "",
    ];
    for drawer in Drawer::both() {
        for pattern in patterns {
            let oracle = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
            let grammar = drawer.compile(&Source::Regex(pattern.into()));
            let drawn: Vec<_> = (0..DRAWS).map(|seed| drawer.draw(grammar.clone(), seed, 0, 400)).collect();
            assert!(drawn.iter().any(|drawn| drawn.ended), "{pattern}");
            for drawn in drawn.iter().filter(|drawn| drawn.ended) {
                assert!(oracle.is_match(&drawn.text), "{:?} does not match {pattern}", drawn.text);
            }
        }
    }
}

/// Balanced brackets with numbers, counted by hand.
#[test]
fn lark_is_followed() {
    let source =
        Source::Lark("start: list\nlist: \"(\" item* \")\"\nitem: list | NUMBER \";\"\nNUMBER: /[0-9]+/".into());
    for drawer in Drawer::both() {
        let grammar = drawer.compile(&source);
        for seed in 0..DRAWS {
            let drawn = drawer.draw(grammar.clone(), seed, 0, 200);
            let depths = drawn.text.chars().scan(0i32, |depth, c| {
                *depth += i32::from(c == '(') - i32::from(c == ')');
                Some(*depth)
            });
            assert!(depths.clone().all(|depth| depth >= 0));
            assert!(!drawn.ended || depths.last() == Some(0), "{}", drawn.text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// A token is allowed exactly if a choice goes on with it, the end exactly if a choice is complete: no more and no less.
    #[test]
    fn masks_are_exact(choices in proptest::collection::vec("[ab{\"\\\\/é\n (]{0,6}", 1..6), seed in 0..1000u64) {
        let drawer = &Drawer::both()[seed as usize % 2];
        let mut grammar = drawer.compile(&Source::Choice(choices.clone()));
        let mut text = Vec::new();
        for step in 0.. {
            let (allowed, logits) = drawer.mask(&mut grammar);
            let goes_on = |bytes: &[u8]| choices.iter().any(|c| c.as_bytes().starts_with(&[&text, bytes].concat()));
            let is_choice = choices.iter().any(|c| c.as_bytes() == text);
            let mut open = Vec::new();
            for (token, logit) in logits.iter().enumerate().filter(|&(token, _)| token as u32 != drawer.end) {
                let bytes = drawer.tokenizer.token_bytes(token as u32).unwrap_or_default();
                let expected = !bytes.is_empty() && !drawer.tokenizer.is_special(token as u32) && goes_on(bytes);
                prop_assert_eq!(logit.is_finite(), expected, "token {} {:?} after {:?}", token, bytes, &text);
                open.extend(expected.then_some(token as u32));
            }
            prop_assert_eq!(logits[drawer.end as usize].is_finite(), is_choice);
            prop_assert_eq!(allowed == Allowed::Some, is_choice || !open.is_empty());
            prop_assert_eq!(grammar.is_complete(), open.is_empty());
            if open.is_empty() {
                break;
            }
            let token = open[hash_below(seed, step, open.len())];
            grammar.push(token).unwrap();
            text.extend_from_slice(drawer.tokenizer.token_bytes(token).unwrap());
        }
    }
}

fn hash_below(seed: u64, step: u64, bound: usize) -> usize {
    spec::random::below(spec::random::hash(seed, 3, step, 0), bound as u64) as usize
}

/// Clones share what they learned, not where they are.
#[test]
fn clones_go_their_own_way() {
    let drawer = Drawer::new("qwen");
    let grammar = drawer.compile(&Source::JsonObject);
    let texts: Vec<_> = (0..6).map(|seed| drawer.draw(grammar.clone(), seed, 10, 300).text).collect();
    let anew: Vec<_> =
        (0..6).rev().map(|seed| drawer.draw(drawer.compile(&Source::JsonObject), seed, 10, 300).text).collect();
    assert!(texts.iter().eq(anew.iter().rev()));
}

/// A model that would write blanks for ever has to write something else, wherever it is.
#[test]
fn whitespace_comes_to_an_end() {
    for drawer in Drawer::both() {
        let is_blank = |token: u32| {
            let bytes = drawer.tokenizer.token_bytes(token).unwrap_or_default();
            !bytes.is_empty() && bytes.iter().all(u8::is_ascii_whitespace)
        };
        let list = json!({ "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 9 }, "minItems": 3, "maxItems": 3 });
        // In any object blanks come to an end too, but something else, such as a long string, may not.
        let mut object = drawer.compile(&Source::JsonObject);
        let mut in_a_row = 0;
        while in_a_row < 200 {
            let (_, logits) = drawer.mask(&mut object);
            let blank = (0..logits.len() as u32).find(|&token| logits[token as usize].is_finite() && is_blank(token));
            let Some(blank) = blank else { break };
            object.push(blank).unwrap();
            in_a_row += 1;
        }
        assert!(in_a_row < 200, "blanks never end in an object");
        let mut grammar = drawer.compile(&Source::JsonSchema(list));
        let mut blanks = 0;
        for _ in 0..1000 {
            let (allowed, logits) = drawer.mask(&mut grammar);
            if allowed == Allowed::Nothing {
                break;
            }
            let open: Vec<u32> = (0..logits.len() as u32).filter(|&token| logits[token as usize].is_finite()).collect();
            let blank = open.iter().copied().find(|&token| is_blank(token));
            blanks += u32::from(blank.is_some());
            let token = blank.unwrap_or(open[0]);
            if token == drawer.end {
                break;
            }
            grammar.push(token).unwrap();
        }
        assert!(grammar.is_complete() || grammar.may_end().unwrap());
        assert!(blanks > 5, "layout is possible");
    }
}
