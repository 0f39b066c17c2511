//! Calls of functions.

use crate::draw::Drawer;
use engine::grammar::{Calls, Function, Source};
use serde_json::{Value, json};

fn functions() -> Vec<Function> {
    let weather = json!({ "type": "object", "properties": { "city": { "enum": ["Bern", "Oslo"] }, "days": { "type": "integer", "maximum": 9, "minimum": 1 } },
        "required": ["city"], "additionalProperties": false });
    // References are those of this function.
    let tree = json!({ "$defs": { "node": { "type": "object", "properties": { "next": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/node" }] } },
        "required": ["next"], "additionalProperties": false } }, "type": "object",
        "properties": { "root": { "$ref": "#/$defs/node" } }, "required": ["root"], "additionalProperties": false });
    let none = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    [("weather", weather), ("tree", tree), ("now", none)]
        .map(|(name, parameters)| Function { name: name.into(), parameters })
        .to_vec()
}

fn calls(begin: &str, between: &str, end: &str) -> Calls {
    let [begin, between, end] = [begin, between, end].map(String::from);
    let arguments_key = "arguments".into();
    Calls { functions: functions(), begin, between, end, arguments_key, required: true, parallel: true }
}

/// Reads `between`-separated calls and checks each with `jsonschema`; says how many there were.
fn check(text: &str, calls: &Calls) -> usize {
    let inner = text.strip_prefix(&calls.begin).and_then(|text| text.strip_suffix(&calls.end));
    let inner = inner.unwrap_or_else(|| panic!("no markers around {text:?}"));
    let made: Vec<&str> = if calls.parallel { inner.split(&calls.between).collect() } else { vec![inner] };
    for call in &made {
        let call: Value = serde_json::from_str(call).unwrap_or_else(|error| panic!("{error}: {call:?} in {text:?}"));
        let function = calls.functions.iter().find(|function| call["name"] == function.name).unwrap();
        assert_eq!(call.as_object().unwrap().len(), 2);
        assert!(jsonschema::is_valid(&function.parameters, &call[&calls.arguments_key]), "{call}");
    }
    made.len()
}

#[test]
fn required_calls_are_calls() {
    for drawer in Drawer::both() {
        let special = drawer.special();
        let styles = [
            calls("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
            calls("[", "; ", "]"),
            calls(&format!("{special}["), "; ", &format!("]{special}")),
            Calls { parallel: false, arguments_key: "parameters".into(), ..calls("", "", "") },
        ];
        for calls in styles {
            let grammar = drawer.compile(&Source::Calls(calls.clone()));
            let (mut ended, mut most) = (0, 0);
            for seed in 0..30 {
                let drawn = drawer.draw(grammar.clone(), seed, 30, 400);
                if drawn.ended {
                    most = most.max(check(&drawn.text, &calls));
                    ended += 1;
                }
            }
            assert!(ended > 20, "{ended} ended of {:?}", calls.begin);
            assert_eq!(most > 1, calls.parallel);
        }
    }
}

/// Text is free until the marker, and then there is a call.
#[test]
fn optional_calls_follow_free_text() {
    for drawer in Drawer::both() {
        let special = drawer.special();
        // Short markers, so that they are drawn by chance.
        for marker in ["e", "ab", &special] {
            let calls = Calls { required: false, ..calls(marker, ";", marker) };
            let grammar = drawer.compile(&Source::Calls(calls.clone()));
            let (mut with, mut without) = (0, 0);
            for seed in 0..40 {
                let drawn = drawer.draw(grammar.clone(), seed, 4 * (seed % 10), 600);
                match (drawn.text.find(marker), drawn.ended) {
                    (Some(at), true) => with += check(&drawn.text[at..], &calls).min(1),
                    (None, _) => without += 1,
                    _ => {}
                }
            }
            assert!(without > 0 && (with > 0 || marker != "e"), "{marker:?}: {with} with calls, {without} without");
        }
    }
}

#[test]
fn without_a_marker_a_brace_begins_a_call() {
    let drawer = Drawer::new("qwen");
    let calls = Calls { required: false, parallel: false, ..calls("", "", "") };
    let grammar = drawer.compile(&Source::Calls(calls.clone()));
    let open = |text: &str| {
        let mut grammar = grammar.clone();
        drawer.tokenizer.encode(text).unwrap().into_iter().all(|token| {
            let fits = drawer.mask(&mut grammar).1[token as usize].is_finite();
            fits && grammar.push(token).is_ok()
        })
    };
    assert!(open("It is {fine}.") && open("") && open(r#"{"name": "now", "arguments": {}}"#));
    assert!(!open("{fine}") && !open(r#"{"name": "other""#) && !open(r#"{"name": "now", "arguments": {"a"#));
}

#[test]
fn no_functions_are_no_grammar() {
    let drawer = Drawer::new("qwen");
    let none = Calls { functions: Vec::new(), ..calls("<", ",", ">") };
    assert!(drawer.compiler.compile(&Source::Calls(none)).unwrap_err().to_string().contains("empty"));
}
