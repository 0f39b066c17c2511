//! The page of a run: made from what a run leaves behind, however it ended.

use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};
use train::TrainError;
use train::report::{self, Report};

const RECIPE: &str = r#"
[model]
tokenizer = "tok"
hidden_size = 32
layers = 2
heads = 2
ffn_size = 32
experts = 4
top_k = 2

[data]
context = 16

[[data.sources]]
name = "</script><b>&code"
path = "shards"

[train]
tokens = 1_000_000
batch = 32
micro_batch = 1
lr = 1e-3
"#;

fn run(log: &str, timing: &str) -> TempDir {
    let folder = tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("recipe.toml", RECIPE);
    write("log.jsonl", log);
    write("timing.jsonl", timing);
    folder
}

fn step(step: u64, loss: f64, load: &[u64]) -> Value {
    let layer = json!({ "min": 0.5, "max": 1.5, "entropy": 0.9, "router_entropy": 1.2, "load": load });
    json!({
        "step": step, "tokens": 32 * step, "batch": 32, "targets": 32, "loss": loss,
        "sources": { "</script><b>&code": loss }, "balance": 1.0, "z": 2.0, "gradient_norm": 1.0, "lr": 1e-3,
        "dropped": 0, "layers": [layer, layer],
    })
}

/// The page, and the data in it.
fn page(run: &Path) -> (String, Value, Report) {
    let (report, path) = report::write(run, 2.0).unwrap();
    assert_eq!(path, run.join("report.html"));
    let page = fs::read_to_string(path).unwrap();
    let (_, data) = page.split_once(r#"<script type="application/json" id="data">"#).unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data = serde_json::from_str(data).unwrap();
    (page, data, report)
}

fn chart<'a>(data: &'a Value, title: &str) -> Option<&'a Value> {
    data["charts"].as_array().unwrap().iter().find(|chart| chart["title"] == title)
}

#[test]
fn a_page_needs_nothing_else_and_takes_no_text_for_markup() {
    let log: String = (1..=5).map(|i| format!("{}\n", step(i, 3.0, &[1, 2, 3, 4]))).collect();
    let log = log + "{\"step\":5,\"tokens\":160,\"held_out\":{\"</script><b>&code\":3.25}}\n";
    let timing = "{\"event\":\"start\",\"step\":0,\"seconds\":1,\"time\":1000}\n";
    let folder = run(&log, timing);
    let (page, data, _) = page(folder.path());
    for outside in ["http:", "https:", "src=", "@import", "url(//", "<link"] {
        let allowed = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!allowed.contains(outside), "{outside}");
    }
    assert!(!page.contains("{{") && !page.contains("<b>&code"));
    let loss = chart(&data, "Loss").unwrap();
    assert_eq!(loss["series"][0]["y"], json!([3.0, 3.0, 3.0, 3.0, 3.0]));
    assert_eq!(loss["series"][1]["name"], "</script><b>&code, held out");
    assert_eq!((&loss["series"][1]["x"], &loss["series"][1]["y"]), (&json!([5]), &json!([3.25])));
    assert!(chart(&data, "Gradient norm").is_some() && chart(&data, "Dropped").is_none());
    // Shares of 0.4, 0.8, 1.2 and 1.6, as codes.
    assert_eq!(data["loads"]["latest"], json!(["60788690", "60788690"]));
    assert_eq!(data["loads"]["layers"][0][0], 4);
}

#[test]
fn a_run_that_was_cut_in_the_middle_of_a_line_is_told_as_far_as_it_goes() {
    let whole = step(1, 3.0, &[1, 1, 1, 1]).to_string();
    let timing = concat!(
        "{\"event\":\"start\",\"step\":0,\"seconds\":1,\"time\":1000}\n",
        "{\"step\":1,\"seconds\":1,\"stalled\":0,\"time\":1001}\n{\"step\":2,\"sec\n",
        "{\"event\":\"start\",\"step\":0,\"seconds\":1,\"time\":1010}\n{\"step\":1,\"seconds\":1,\"stalled\":0,\"time\":1011}\n{\"st",
    );
    for cut in 0..whole.len() {
        let folder = run(&format!("{whole}\n{}", &whole[..cut]), timing);
        let report = Report::read(folder.path()).unwrap();
        assert_eq!((report.log.step, report.broken_lines), (1, 2 + u64::from(cut > 0)));
        assert_eq!((report.timing.replayed_steps(), report.timing.parts().whole()), (1, 12.0));
    }
    // A step that is whole but for its line's end counts.
    let folder = run(&format!("{whole}\n{}", step(2, 3.0, &[1, 1, 1, 1])), timing);
    assert_eq!(Report::read(folder.path()).unwrap().log.step, 2);
}

#[test]
fn a_run_without_steps_experts_or_even_files_has_a_page_too() {
    let folder = run("", "");
    let (text, data, _) = page(folder.path());
    assert!(text.contains("No step yet") && text.contains("no ledger"));
    assert_eq!((&data["charts"], &data["loads"]), (&json!([]), &Value::Null));
    for file in ["log.jsonl", "timing.jsonl"] {
        fs::remove_file(folder.path().join(file)).unwrap();
    }
    page(folder.path());
    fs::remove_file(folder.path().join("recipe.toml")).unwrap();
    let error = Report::read(folder.path()).unwrap_err();
    assert!(matches!(error, TrainError::NoRun { .. }) && error.to_string().contains("holds no run"), "{error}");

    let mut dense = step(1, 3.0, &[]);
    dense["layers"] = json!([]);
    dense["loss"] = Value::Null;
    let folder = run(&format!("{dense}\n"), "");
    let (text, data, _) = page(folder.path());
    assert!(text.contains("no experts") && data["loads"].is_null());
    assert!(chart(&data, "Expert load").is_none() && chart(&data, "Loss").is_none());
}

#[test]
fn a_long_run_of_a_large_model_is_a_small_page() {
    let mut log = String::new();
    // The mean of a hundred thousand losses stays what it is, and so does a single spike.
    for i in 1..=100_000 {
        let loss = if i == 60_000 { 50.0 } else { 3.0 + f64::from(i % 2) };
        let layers = if i > 99_900 {
            json!(vec![json!({ "load": vec![i; 16], "min": 0.1, "max": 2.0 }); 120])
        } else {
            json!([])
        };
        let line = json!({
            "step": i, "tokens": 32 * i, "batch": 32, "loss": loss, "gradient_norm": 1.234_567_89, "lr": 1e-3 / f64::from(i),
            "balance": 1.01, "z": 1.0, "sources": { "code": loss, "text": loss }, "layers": layers,
        });
        writeln!(log, "{line}").unwrap();
        if i % 10 == 0 {
            writeln!(log, "{}", json!({ "step": i, "tokens": 32 * i, "held_out": { "code": 3.0, "text": 4.0 } }))
                .unwrap();
        }
    }
    let timing: String = (1..=100_000)
        .map(|i| format!("{{\"step\":{i},\"seconds\":1,\"stalled\":0,\"tokens_per_second\":123.456789,\"mfu\":0.4321,\"time\":{i}}}\n"))
        .collect();
    let folder = run(&log, &timing);
    let (page, data, report) = page(folder.path());
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    let loss = &chart(&data, "Loss").unwrap()["series"][0];
    let points = loss["x"].as_array().unwrap().len();
    assert!((500..=1000).contains(&points), "{points}");
    assert_eq!(loss["x"][points - 1], 100_000);
    assert!(loss["high"].as_array().unwrap().contains(&json!(50.0)));
    assert_eq!(loss["y"][0], 3.5);
    assert_eq!(report.timing.parts().productive, 100_000.0);
    assert_eq!(data["loads"]["layers"].as_array().unwrap().len(), 120);
}
