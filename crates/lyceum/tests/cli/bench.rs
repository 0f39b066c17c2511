//! `lyceum bench`: the figures that others read.

use super::*;

#[test]
fn bench_gives_every_figure_that_comparisons_read() {
    let fixed = ["--prompt-tokens", "20", "--gen-tokens", "4", "--context", "10", "--repeats", "3", "--threads", "2"];
    let out = json(lyceum().arg("bench").arg(model("mixtral_mqa")).args(fixed).arg("--json").output().unwrap());
    for key in ["prefill_tokens_per_s", "decode_tokens_per_s", "prefill_gflops", "decode_gb_s", "load_s"] {
        assert!(out[key].as_f64().unwrap() > 0.0, "{key}");
    }
    for rate in ["prefill_tokens_per_s", "decode_tokens_per_s"] {
        let [min, median, max] = ["_min", "", "_max"].map(|end| out[format!("{rate}{end}")].as_f64().unwrap());
        assert!(min <= median && median <= max);
    }
    assert!(out["peak_rss_bytes"].as_u64().unwrap() > out["weight_bytes"].as_u64().unwrap());
    assert!(out["weight_bytes"].as_u64().unwrap() > out["active_weight_bytes"].as_u64().unwrap());
    assert_eq!((&out["threads"], &out["parameters"]), (&2.into(), &59104.into()));
}

#[test]
fn what_is_not_measured_is_null() {
    let path = model("mixtral_mqa");
    let out = json(run(args!["bench", path, "--prompt-tokens", "0", "--gen-tokens", "2", "--parallel", "3", "--json"]));
    assert!(out["prefill_tokens_per_s"].is_null() && out["prefill_gflops"].is_null());
    // Several sequences share what they read.
    assert!(out["decode_tokens_per_s"].is_f64() && out["decode_gb_s"].is_null());
}
