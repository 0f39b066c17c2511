//! Rotary frequencies against those of transformers (`rope.py` wrote `rope.json`).

use serde_json::Value;
use spec::{HfConfig, Position};

fn bits(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

/// torch takes powers with a vectorised f32 routine that is off by one unit in the last place at times; what
/// follows them is exact, so that this is all the difference there may be, carried through a few roundings.
#[test]
fn frequencies_are_those_of_transformers() {
    let fixture: Value = serde_json::from_str(include_str!("rope.json")).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let name = &case["name"];
        let config = HfConfig::from_json(&case["config"].to_string()).unwrap();
        let Position::Rope(rope) = &config.decoder.position else {
            panic!("{name}: no RoPE");
        };
        let served = usize::try_from(case["served"].as_u64().unwrap()).unwrap();
        let (frequencies, factor) = rope.frequencies(config.decoder.head_dim, served);
        assert_eq!(factor.to_bits(), bits(&case["attention_factor"]), "{name}");
        let expected = case["inv_freq"].as_array().unwrap();
        assert_eq!(frequencies.len(), expected.len(), "{name}");
        let mut equal = 0;
        for (i, (ours, theirs)) in frequencies.iter().zip(expected).enumerate() {
            let apart = ours.to_bits().abs_diff(bits(theirs));
            assert!(apart <= 2, "{name}[{i}]: {apart} units apart");
            equal += usize::from(apart == 0);
        }
        println!("{name}: {equal} of {} equal", expected.len());
    }
}
