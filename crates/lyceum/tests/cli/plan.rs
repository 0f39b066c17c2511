//! `lyceum plan`: tables, JSON, charts, and what is refused.

use super::*;

fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/gpt4.toml")
}

#[test]
fn figures_are_all_there_with_their_verdicts() {
    let text = stdout(run(["plan", "figures"]));
    assert!(text.contains("P04") && text.contains("units_error_1000x"));
    assert!(text.contains("unit error: dollars are called cents"));
    assert!(text.contains("Solved backwards"));
    assert!(!text.contains("NaN"));
    let object = json(run(["plan", "figures", "--json"]));
    assert_eq!(object["claims"].as_array().unwrap().len(), 79);
    let of = |object: &Value| object["claims"][0]["computed"].as_f64().unwrap();
    let fewer = json(run(["plan", "figures", "--json", "--set", "model.layers=60"]));
    assert!((of(&fewer) / of(&object) - 0.5).abs() < 0.01);
    let one = json(run(["plan", "figures", "--json", "--id", "T01"]));
    assert_eq!((one["claims"].as_array().unwrap().len(), one["solved"].as_array().unwrap().len()), (1, 0));
    let folder = tempfile::tempdir().unwrap();
    stdout(run(args!["plan", "figures", "--svg", folder.path()]));
    for name in ["claims.svg", "prices.svg"] {
        let svg = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
    fails(run(["plan", "figures", "--id", "Z9"]), 2, &["Z9", "P01"]);
    fails(run(["plan", "figures", "--set", "model.lyers=3"]), 1, &["lyers"]);
}

#[test]
fn a_training_run_has_its_price() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |more: &[&str]| {
        let arguments = args!["plan", "train", recipe(), "--hardware", "a100-40g:25000", "--price", "1.00"];
        lyceum().args(arguments).args(more).output().unwrap()
    };
    let text = stdout(plan(&["--svg", folder.path().to_str().unwrap()]));
    for expected in
        ["24960 work", "tensor 8 x pipeline 15", "Chinchilla", "goodput", "commoncrawl", "for a device-hour"]
    {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    for name in ["waterfall.svg", "timeline.svg"] {
        assert!(std::fs::read_to_string(folder.path().join(name)).unwrap().ends_with("</svg>\n"));
    }
    let cheap = json(plan(&["--json"]));
    let arguments = args!["plan", "train", recipe(), "--hardware", "a100-40g:25000", "--price", "2", "--json"];
    let dear = json(run(arguments));
    let dollars = |object: &Value| object["plan"]["dollars"].as_f64().unwrap();
    assert!((dollars(&dear) / dollars(&cheap) - 2.0).abs() < 1e-9);
}

#[test]
fn the_search_says_why() {
    let quick = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.toml");
    let text = stdout(run(args!["plan", "train", quick, "--hardware", "h100:8", "--search", "--why"]));
    assert!(text.contains("layouts fit") && text.contains("rather than"), "{text}");
}

#[test]
fn what_cannot_be_planned_is_refused_by_name() {
    let plan = |more: &[&str]| lyceum().args(args!["plan", "train", recipe()]).args(more).output().unwrap();
    fails(plan(&["--hardware", "h1000:8"]), 2, &["h1000", "a100-40g", "mi300x"]);
    fails(plan(&["--hardware", "h100:none"]), 2, &["none", "h100:128"]);
    fails(plan(&["--price=-1"]), 2, &["--price is -1"]);
    fails(plan(&["--price", "NaN"]), 2, &["--price is NaN"]);
    fails(plan(&["--set", "hardware.layout.tensor=7"]), 1, &["hardware.layout.tensor is 7"]);
    fails(plan(&["--set", "hardware.layout.expert=1"]), 1, &["GB more than the 40 GB", "nearest"]);
    fails(run(["plan", "train", "/no/such/recipe.toml"]), 1, &["/no/such/recipe.toml"]);
}

#[test]
fn the_trainer_refuses_what_is_only_planned() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let output = run(args!["train", recipe(), "--run", run_folder]);
    fails(output, 1, &["hardware.layout.tensor is 8", "one rank"]);
}
