//! `lyceum inspect`, against counts made by hand.

use super::*;

#[test]
fn counts_are_those_of_paper_and_pencil() {
    let out = json(run(args!["inspect", model("mixtral_mqa"), "--json", "--tensors"]));
    // Per layer: Q and O 4 heads x 24 x 32, K and V 24 x 32, two norms, a router of 4 x 32, experts of 3 x 48 x 32.
    let attention = 2 * 4 * 24 * 32 + 2 * 24 * 32;
    let always = attention + 2 * 32 + 4 * 32;
    let expert = 3 * 48 * 32;
    let outside = 2 * 101 * 32 + 32;
    assert_eq!(out["parameters"], outside + 2 * (always + 4 * expert));
    assert_eq!(out["active_parameters"], outside - 101 * 32 + 2 * (always + 2 * expert));
    assert_eq!(out["stored_bytes"], 4 * (outside + 2 * (always + 4 * expert)));
    assert_eq!(out["stored_bytes_by_type"]["F32"], out["stored_bytes"]);
    // Two layers, K and V, one head 24 wide; int8 has a 4-byte scale for each.
    let cache = &out["kv_bytes_per_token"];
    assert_eq!((&cache["f32"], &cache["bf16"], &cache["int8"]), (&384.into(), &192.into(), &112.into()));
    assert_eq!((&out["layers"], &out["heads"], &out["kv_heads"]), (&2.into(), &4.into(), &1.into()));
    let kind = &out["layer_kinds"][0];
    assert_eq!((&kind["experts"], &kind["top_k"], &kind["ffn_size"]), (&4.into(), &2.into(), &48.into()));
    // Seven of the layer itself, three of each expert; embedding, head, norm.
    assert_eq!(out["tensors"].as_array().unwrap().len(), 2 * (7 + 4 * 3) + 3);
}

#[test]
fn windows_and_formats_are_told_apart() {
    let text = stdout(run(args!["inspect", model("gpt_oss_mxfp4")]));
    for part in ["GptOssForCausalLM", "a window of 16 positions", "yarn", "BF16", "U8"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
