//! `lyceum plan serve`: answers, and errors that name the field.

use super::*;

fn serve(more: &[&str]) -> Output {
    lyceum()
        .args(["plan", "serve"])
        .arg(model("mixtral"))
        .args(["--context", "64", "--prompt-tokens", "20", "--output-tokens", "10"])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn it_answers_the_same_for_the_same_seed() {
    let arguments = ["--hardware", "h100:2", "--traffic", "poisson:50", "--requests", "200", "--json"];
    let first = json(serve(&arguments));
    assert_eq!(first["simulated"]["requests"], 200);
    assert_eq!(first["simulated"]["output_tokens"], 2000);
    assert_eq!(first["copies"], 2);
    assert_eq!(first, json(serve(&arguments)));
    assert_ne!(first, json(serve(&[&arguments[..], &["--seed", "7"]].concat())));
    let text = stdout(serve(&arguments[..6]));
    for part in ["Assumed", "Decoding alone", "Time to first token", "per 1k tokens", "At 8.33 tokens/s each"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
}

#[test]
fn a_trace_is_followed_and_its_faults_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let path = path.to_str().unwrap();
    let arguments = ["--hardware", "h100:1", "--traffic", path, "--json"];
    std::fs::write(
        path,
        "{\"arrival\": 0, \"prompt\": 5, \"output\": 3}\n{\"arrival\": 2.5, \"prompt\": 7, \"output\": 4}\n",
    )
    .unwrap();
    let found = json(serve(&arguments));
    assert_eq!((&found["simulated"]["output_tokens"], &found["simulated"]["prompt_tokens"]), (&7.into(), &12.into()));
    std::fs::write(
        path,
        "{\"arrival\": 3, \"prompt\": 5, \"output\": 3}\n{\"arrival\": 2.5, \"prompt\": 7, \"output\": 4}\n",
    )
    .unwrap();
    fails(serve(&arguments), 1, &["line 2", "`arrival` is 2.5", path]);
    let gap = "{\"arrival\": 3, \"prompt\": 5, \"output\": 3}\n{\"arrival\": 800000, \"prompt\": 7, \"output\": 4}\n";
    std::fs::write(path, gap).unwrap();
    fails(serve(&arguments), 1, &["line 2", "`arrival`", "gap", path]);
    std::fs::write(path, "{\"arrival\": 3, \"prompt\": 5}\n").unwrap();
    fails(serve(&arguments), 1, &["line 1", "output"]);
    fails(serve(&["--hardware", "h100:1", "--traffic", "/no/such.jsonl"]), 1, &["cannot read /no/such.jsonl"]);
}

#[test]
fn what_cannot_be_is_refused_by_its_name() {
    fails(serve(&["--hardware", "h1000:8"]), 2, &["h1000", "a100-40g", "h100"]);
    fails(serve(&["--hardware", "h100:0"]), 2, &["h100:0"]);
    fails(serve(&["--hardware", "h100:8", "--price=-1"]), 2, &["--price -1"]);
    fails(serve(&["--hardware", "h200:8", "--tp", "8"]), 2, &["--price"]);
    fails(serve(&["--hardware", "h100:3", "--tp", "2"]), 2, &["devices is 3", "multiple"]);
    fails(serve(&["--hardware", "h100:7", "--tp", "7"]), 1, &["tensor is 7", "heads"]);
    fails(serve(&["--hardware", "h100:1", "--traffic", "burst:3"]), 2, &["burst:3", "poisson:RATE"]);
    fails(serve(&["--hardware", "h100:1", "--weights", "fp3"]), 2, &["fp3", "bf16"]);
    fails(serve(&["--hardware", "h100:1", "--prompt-tokens", "60"]), 2, &["cannot be used multiple times"]);
    fails(serve(&["--hardware", "/no/profile.toml:1"]), 1, &["cannot read /no/profile.toml"]);
    fails(serve(&[]), 2, &["--hardware"]);
}

#[test]
fn a_fleet_shuts_what_nobody_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.toml");
    let cluster = |name: &str, more: &str| {
        format!(
            "[[clusters]]\nname = \"{name}\"\nhardware = \"h100:1\"\nlend = 1.5\nstart = 300\n{more}\n[clusters.deployment]\nstep_sequences = 4\nstep_tokens = 64\n"
        )
    };
    let head = "[requests]\nprompt_tokens = 20\noutput_tokens = 10\n[promise]\nttft_p95 = 0.5\nitl_p95 = 0.05\nheadroom = 0.9\n\
                [[regions]]\npeak = 300\ntrough = 0.1\npeak_hour = 14\n";
    std::fs::write(&path, format!("{head}{}{}", cluster("east", ""), cluster("west", ""))).unwrap();
    let run = |more: &[&str]| {
        lyceum().args(["plan", "serve"]).arg(model("mixtral")).arg("--fleet").arg(&path).args(more).output().unwrap()
    };
    let day = json(run(&["--json"]));
    let hours = day["hours"].as_array().unwrap();
    assert_eq!(hours.len(), 24);
    let serving = |hour: usize| hours[hour]["serving"].as_array().unwrap().len();
    assert!(serving(2) == 1 && serving(14) == 2, "{day}");
    let (planned, always) = (day["planned"].as_f64().unwrap(), day["always_on"].as_f64().unwrap());
    assert!(planned < always && always == 96.0, "{planned} of {always}");
    assert!(stdout(run(&[])).contains("Saved"));
    std::fs::write(&path, format!("{head}{}", cluster("east", "rent = 1"))).unwrap();
    fails(run(&[]), 1, &["rent"]);
    for (wrong, named) in
        [("price = -1", "`price` is -1"), ("saved = -2", "`saved` is -2"), ("network = nan", "`network` is NaN")]
    {
        std::fs::write(&path, format!("{head}{}", cluster("east", wrong))).unwrap();
        fails(run(&[]), 2, &[named]);
    }
    std::fs::write(&path, format!("{head}{}", cluster("east", "")).replace("h100:1", "h1000:1")).unwrap();
    fails(run(&[]), 2, &["h1000", "known are"]);
    std::fs::write(&path, format!("{}{}", head.replace("peak = 300", "peak = -3"), cluster("east", ""))).unwrap();
    fails(run(&[]), 1, &["regions.peak is -3"]);
}

#[test]
fn slow_the_fleet_of_the_repository_is_one() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let arguments = args!["plan", "serve", recipes.join("gpt4.toml"), "--fleet", recipes.join("fleet.toml"), "--json"];
    let day = json(lyceum().args(arguments).output().unwrap());
    assert_eq!(day["capacities"].as_array().unwrap().len(), 3);
    assert!(day["planned"].as_f64().unwrap() < day["always_on"].as_f64().unwrap());
}
