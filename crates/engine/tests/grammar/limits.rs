//! Sources that would break a careless compiler: each is refused with an error, or compiles.

use crate::draw::Drawer;
use engine::grammar::{Compiler, GrammarError, Source};
use serde_json::{Value, json};

fn refused(source: &Source) -> GrammarError {
    Drawer::new("qwen").compiler.compile(source).unwrap_err()
}

#[test]
fn wrong_sources_are_refused_by_name() {
    let invalid = |source: &Source, says: &str| {
        let error = refused(source);
        assert!(matches!(error, GrammarError::Invalid { .. }), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.to_string().len() < 1000 && !error.to_string().contains('\n'), "{error}");
    };
    invalid(&Source::Regex("(a".into()), "unclosed group");
    invalid(&Source::Regex("a\\".into()), "incomplete escape");
    invalid(&Source::Regex(r"\bword\b".into()), "regular expression");
    invalid(&Source::Lark("start: other".into()), "other");
    invalid(&Source::Lark("start: \"a".into()), "grammar");
    invalid(&Source::Lark(String::new()), "grammar");
    invalid(&Source::Choice(Vec::new()), "empty");
    invalid(&Source::JsonSchema(json!({ "type": "strin" })), "strin");
    invalid(&Source::JsonSchema(json!({ "$ref": "#/$defs/none" })), "none");
    invalid(&Source::JsonSchema(json!({ "not": { "type": "string" } })), "not");
    invalid(&Source::JsonSchema(json!({ "x-guidance": {} })), "x-guidance");
    invalid(&Source::JsonSchema(json!(false)), "false");
    invalid(&Source::JsonSchema(json!(3)), "object or a boolean");
    invalid(&Source::JsonSchema(json!({ "type": "integer", "minimum": 5, "maximum": 4 })), "");
    invalid(&Source::JsonSchema(json!({ "oneOf": [{ "type": "integer" }, { "minimum": 4 }] })), "oneOf");
}

#[test]
fn large_sources_are_refused() {
    let large =
        |source: &Source| assert!(matches!(refused(source), GrammarError::TooLarge { .. }), "{:?}", refused(source));
    let words = |count: usize| (0..count).map(|i| format!("word number {i}")).collect::<Vec<_>>();
    large(&Source::JsonSchema(json!({ "enum": words(20_000) })));
    large(&Source::Choice(words(20_000)));
    large(&Source::Regex("a".repeat(1 << 20)));
    large(&Source::Lark("start: \"a\"\n".repeat(100_000)));
}

#[test]
fn deep_schemas_are_refused() {
    // Built by hand: parsers of JSON have limits of their own.
    let nested = |depth: usize| (0..depth).fold(json!({}), |inner, _| json!({ "items": inner }));
    for depth in [200, 2000] {
        let error = refused(&Source::JsonSchema(nested(depth)));
        assert!(matches!(error, GrammarError::TooDeep { .. }), "{error:?}");
    }
    Drawer::new("qwen").compile(&Source::JsonSchema(nested(60)));
}

/// Whatever the answer, there is one, and the next source compiles.
#[test]
fn bombs_are_answered() {
    let drawer = Drawer::new("qwen");
    let hasty = Compiler::new(drawer.tokenizer.clone()).unwrap();
    let chain = |link: &dyn Fn(usize) -> String, count: usize| (0..count).map(link).collect::<String>();
    let definitions: serde_json::Map<String, Value> = (0..4000)
        .map(|i| (format!("d{i}"), json!({ "$ref": format!("#/$defs/d{}", i + 1) })))
        .chain([("d4000".into(), json!({}))])
        .collect();
    let product = |count: usize| {
        let either =
            |i: usize| json!({ "anyOf": [{ "required": [format!("a{i}")] }, { "required": [format!("b{i}")] }] });
        json!({ "type": "object", "allOf": (0..count).map(either).collect::<Vec<_>>() })
    };
    let sources = [
        Source::JsonSchema(json!({ "$defs": definitions, "$ref": "#/$defs/d0" })),
        Source::JsonSchema(json!({ "$ref": "#" })),
        Source::JsonSchema(
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        ),
        Source::JsonSchema(json!({ "allOf": [{ "$ref": "#" }, { "type": "object" }] })),
        Source::JsonSchema(product(18)),
        Source::JsonSchema(json!({ "type": "array", "minItems": 1_000_000_000u64 })),
        Source::JsonSchema(json!({ "type": "string", "minLength": 1_000_000_000u64 })),
        Source::JsonSchema(json!({ "type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}" })),
        Source::JsonSchema(json!({ "const": "ä".repeat(120), "type": "ä".repeat(120) })),
        Source::Regex("((((a{1,100}){1,100}){1,100}){1,100}){1,100}".into()),
        Source::Regex("(".repeat(60_000)),
        Source::Regex("(?:a|b)*".repeat(2000)),
        Source::Regex(r"(\w+\s*){1,50}x".repeat(40)),
        Source::Regex(r"\p{L}{1,400}".repeat(20)),
        Source::Lark(format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000))),
        Source::Lark(format!("start: {}", "(".repeat(120_000))),
        Source::Lark(format!("start: {}", "a{".repeat(60_000))),
        Source::Lark(format!("start: \"a\" %if {}", "not(".repeat(30_000))),
        Source::Lark(format!("start: {}/a/", "~".repeat(60_000))),
        Source::Lark(format!("start: r0\n{}r5000: \"a\"", chain(&|i| format!("r{i}: r{}\n", i + 1), 5000))),
        Source::Lark(format!("start: T0\n{}T5000: \"a\"", chain(&|i| format!("T{i}: T{}\n", i + 1), 5000))),
        Source::Lark("start: start".into()),
        Source::Lark("start: start start | \"a\" |".into()),
        Source::Lark("start: a*\na: b*\nb: a* | \"x\"*".into()),
        Source::Lark("start: \"a\"{1000000000}".into()),
        Source::Lark("T: T\nstart: T".into()),
        Source::Lark("start: %json {\"type\": \"object\"".into()),
        Source::Lark("start: @other".into()),
        Source::Lark("start: <[4000000000]>".into()),
        Source::Lark("start: <|nobody|>".into()),
    ];
    for source in sources {
        let shown = format!("{source:?}").chars().take(80).collect::<String>();
        match hasty.compile(&source) {
            // A grammar that compiles can be drawn from, or says that it cannot go on.
            Ok(mut grammar) => {
                let mut logits = vec![0.0; drawer.tokenizer.vocab_size()];
                for _ in 0..20 {
                    let Ok(_) = grammar.mask(&mut logits, &[drawer.end]) else { break };
                    let token = engine::sampling::argmax(&logits);
                    if token == drawer.end || grammar.push(token).is_err() {
                        break;
                    }
                    logits.fill(0.0);
                }
            }
            Err(error) => assert!(!matches!(error, GrammarError::Stuck(_)), "{shown}: {error}"),
        }
        drawer.compile(&Source::JsonObject);
    }
}

/// Blanks without end are what this grammar asks for: its masks go on, and whoever draws from it has a limit.
#[test]
fn forced_blanks_do_not_stop_the_machine() {
    let drawer = Drawer::new("qwen");
    for source in [Source::Regex(r"\s+x".into()), Source::Lark("%ignore /\\s+/\nstart: \"a\"* \"b\"".into())] {
        let drawn = drawer.draw(drawer.compile(&source), 1, u64::MAX, 500);
        assert!(drawn.ended || drawn.tokens.len() == 500);
    }
}
