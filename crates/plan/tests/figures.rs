//! The report's claims, against values from first principles that were computed elsewhere.

use plan::Catalogue;
use plan::figures::{Facts, FiguresError, Inputs, Row, solve, table};
use spec::recipe::Recipe;
use std::collections::{BTreeMap, BTreeSet};

const RECIPE: &str = include_str!("../../../recipes/gpt4.toml");

fn inputs(settings: &[&str]) -> Inputs {
    let settings: Vec<_> = settings.iter().map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::parse(RECIPE, &settings).unwrap();
    Inputs::new(&recipe, &Catalogue::embedded().unwrap(), Facts::embedded().unwrap()).unwrap()
}

fn rows(settings: &[&str]) -> Vec<Row> {
    table(&inputs(settings)).unwrap()
}

/// The values elsewhere take 111 and 55 billion as the report rounds them where the recipe has 110.98 and 54.73, and 2.15e25 FLOP where the recipe comes to
/// 2.158e25; the roofline and the memory of L03 were estimated there with rounded parts.
fn tolerance(id: &str) -> f64 {
    match id {
        "L03" => 0.03,
        "I19" | "I20" | "I22" => 0.02,
        // K, V and routers are held whole by every rank of a tensor-parallel group.
        "L07" => 0.005,
        "T02_90d" | "T02_100d" | "T05" | "D04" => 0.006,
        _ => 0.002,
    }
}

#[test]
fn every_claim_has_its_value_from_first_principles() {
    let expected: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(include_str!("fixtures/first_principles.json")).unwrap();
    let rows = rows(&[]);
    assert_eq!(rows.len(), 79);
    assert_eq!(rows.iter().filter(|row| row.computed.is_some()).count(), 70);
    let mut wrong = Vec::new();
    for row in &rows {
        let expected = &expected[&row.id];
        match (row.computed, expected["computed"].as_f64()) {
            (Some(computed), Some(value)) if (computed / value - 1.0).abs() > tolerance(&row.id) => {
                wrong.push(format!("{}: {computed} and not {value}", row.id));
            }
            (Some(_), Some(_)) | (None, None) => (),
            (computed, value) => wrong.push(format!("{}: {computed:?} and not {value:?}", row.id)),
        }
        if row.verdict != expected["verdict"] {
            wrong.push(format!("{}: {} and not {}", row.id, row.verdict, expected["verdict"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unit_errors_are_named_only_while_they_explain_the_figure() {
    let named = |settings: &[&str]| -> BTreeSet<String> {
        rows(settings).into_iter().filter(|row| row.unit_error.is_some()).map(|row| row.id).collect()
    };
    assert_eq!(named(&[]).into_iter().collect::<Vec<_>>(), ["I03", "I15", "I22", "P04", "P05", "P07"]);
    let fewer = named(&["model.layers=60"]);
    assert!(!fewer.contains("P04") && !fewer.contains("P05"), "{fewer:?}");
}

fn changed(before: &[Row], after: &[Row]) -> BTreeSet<String> {
    let pairs = before.iter().zip(after);
    pairs.filter(|(a, b)| a.computed != b.computed).map(|(a, _)| a.id.clone()).collect()
}

fn ids(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn changing_the_recipe_changes_what_depends_on_it_and_nothing_else() {
    let before = rows(&[]);
    // Whatever counts all parameters, whatever counts those that a token uses, and both.
    let total = "P01 P02 P05 P10 L02 L03 L07 I14 I15 I16 I17 I18 I19 I20 I22 I23";
    let active = "P03 P04 P09 D01 T01 T02_90d T02_100d T05 I29";
    let sizes = format!("{total} {active}");
    let attention = sizes.clone();
    let cases = [
        ("model.hidden_size=16384", sizes.clone()),
        ("model.ffn_size=28672", sizes.clone()),
        ("model.layers=105", format!("{sizes} P06")),
        ("model.heads=128", attention.clone()),
        ("model.head_dim=256", attention),
        // Eight K/V heads over eight ranks: a rank holds one, as before.
        ("model.kv_heads=8", sizes.replace(" L03 L07", "")),
        ("model.vocab_size=200704", sizes.replace(" I29", "")),
        ("model.experts=32", format!("{total} P03 P04 P09 D01 T01 T02_90d T02_100d T05 I29 B01 I11 I12")),
        ("model.top_k=4", format!("{active} B01 I11 I12 I19 I20 I22 L03")),
        ("train.tokens=15000000000000", "D02 D04 B03 T01 T02_90d T02_100d T05".to_owned()),
        ("data.sources.2.weight=2", "D02".to_owned()),
        ("hardware.devices=20000", "L01 L03 L04 L05 L06 L07 T02_90d T02_100d T03".to_owned()),
        ("hardware.layout.tensor=4", "L01 L02 L03 L04 L05 L07".to_owned()),
        ("hardware.layout.pipeline=12", "L01 L02 L03 L04 L05 L07".to_owned()),
        ("train.recompute=false", "L03".to_owned()),
        ("hardware.accelerator=a100-80g", "I17 I18 I19 I21 I22 I23".to_owned()),
    ];
    let mut wrong = Vec::new();
    for (setting, expected) in cases {
        let (found, expected) = (changed(&before, &rows(&[setting])), ids(&expected));
        if found != expected {
            let missing: Vec<_> = expected.difference(&found).collect();
            let more: Vec<_> = found.difference(&expected).collect();
            wrong.push(format!("{setting}: not changed {missing:?}, changed besides {more:?}"));
        }
    }
    let batch = "train.batch=[[0, 40001536]]";
    let found = changed(&before, &rows(&[batch]));
    if found != ids("B01 B02 B03 L04 L05") {
        wrong.push(format!("{batch}: {found:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_given_number_and_every_price_counts() {
    let whole = inputs(&[]);
    let before = table(&whole).unwrap();
    let names: Vec<_> = whole.facts.given_names().map(str::to_owned).collect();
    for name in names {
        let mut other = whole.clone();
        other.facts.set_given(&name, 2.0 * other.facts.given(&name));
        assert!(!changed(&before, &table(&other).unwrap()).is_empty(), "nothing depends on {name}");
    }
}

#[test]
fn what_is_no_number_is_an_error_that_names_the_claim() {
    let mut inputs = inputs(&[]);
    inputs.facts.set_given("limit_speed", 0.0);
    assert!(matches!(table(&inputs), Err(FiguresError::NotFinite { id, .. }) if id == "I06"));
}

#[test]
fn figures_solved_backwards_hold_forwards() {
    let inputs = inputs(&[]);
    let solutions = solve::solve(&inputs).unwrap();
    let find = |target: &str, assumed: &str, unknown: &str| {
        let found = solutions
            .iter()
            .find(|s| s.target.contains(target) && s.assumed.starts_with(assumed) && s.unknown.contains(unknown));
        found.unwrap_or_else(|| panic!("{target}, {assumed}, {unknown}")).clone()
    };
    // The report's $0.0021 is 4096 users at reading speed, in 8 bits: in 16 it would need more than the whole bandwidth.
    let fp8 = find("0.0021", "fp8 weights, 4096", "bandwidth");
    assert!(fp8.possible && (fp8.value.unwrap() - 0.8).abs() < 0.02, "{fp8:?}");
    let f16 = find("0.0021", "f16 weights, 4096", "bandwidth");
    assert!(!f16.possible && f16.value.unwrap() > 1.2, "{f16:?}");
    let days = find("$63M", "25000 devices at $1", "days");
    assert!((days.value.unwrap() - 105.0).abs() < 1e-9);
    assert!(days.note.starts_with("30."), "{}", days.note);
    let kernels = find("36%", "1 chunks a stage, recomputing all", "peak");
    let pipeline = 7324.0 / 208.0 / (7324.0 / 208.0 + 14.0);
    assert!((kernels.value.unwrap() * 0.75 * pipeline * 0.9 / 0.36 - 1.0).abs() < 0.02, "{kernels:?}");
}
