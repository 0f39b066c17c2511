//! `lyceum train --report`: where the page is, and what the time cost.

use super::*;

const RECIPE: &str = "[model]\ntokenizer = \"tok\"\nfamily = \"llama\"\nhidden_size = 32\nlayers = 1\nheads = 2\nffn_size = 32\n\
    [data]\ncontext = 16\n[[data.sources]]\nname = \"text\"\npath = \"shards\"\n\
    [train]\ntokens = 1000\nbatch = 16\nmicro_batch = 1\nlr = 1e-3\n";

const TIMING: &str = "{\"event\":\"start\",\"step\":0,\"seconds\":600,\"time\":10600}\n\
    {\"step\":1,\"seconds\":1800,\"stalled\":0,\"tokens_per_second\":10,\"mfu\":0.5,\"time\":12400}\n";

#[test]
fn a_report_says_where_it_is_and_what_the_time_cost() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
    std::fs::write(folder.path().join("timing.jsonl"), TIMING).unwrap();
    let page = folder.path().join("report.html");
    let said = stdout(run(args!["train", "--report", *folder.path()]));
    assert!(said.contains(&page.display().to_string()) && said.contains("75.0% of 0.67 hours"), "{said}");
    let out = json(run(args!["train", "--report", *folder.path(), "--price", "1.50", "--json"]));
    assert_eq!(out["report"], page.to_str().unwrap());
    assert_eq!((&out["goodput"], &out["money"]), (&0.75.into(), &1.0.into()));
    assert_eq!((&out["seconds"]["restarting"], &out["seconds"]["productive"]), (&600.0.into(), &1800.0.into()));
    assert!(std::fs::read_to_string(page).unwrap().contains("<!doctype html>"));
}

#[test]
fn what_is_no_run_has_no_report() {
    let folder = tempfile::tempdir().unwrap();
    fails(run(args!["train", "--report", *folder.path()]), 1, &["holds no run", "recipe.toml"]);
    fails(run(args!["train", "--report", "/no/such/run"]), 1, &["/no/such/run holds no run"]);
    fails(run(["train"]), 2, &["RECIPE"]);
    fails(run(["train", "recipe.toml", "--report", "x"]), 2, &["cannot be used with"]);
    fails(run(["train", "--report", "x", "--price", "-1"]), 2, &["--price"]);
    fails(run(["train", "--report", "x", "--price", "nan"]), 2, &["0 or above"]);
    fails(run(["train", "recipe.toml", "--price", "1"]), 2, &["--report"]);
}
