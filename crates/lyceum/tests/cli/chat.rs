//! `lyceum chat`.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::process::Child;

fn start(more: &[&str]) -> Child {
    let mut command = lyceum();
    command.arg("chat").arg(model("qwen3_moe_bpe")).args(["--max-tokens", "8", "--temperature", "0"]).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn talk(text: &str, more: &[&str]) -> String {
    let mut child = start(more);
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    stdout(child.wait_with_output().unwrap())
}

#[test]
fn an_answer_comes_before_the_next_line_is_written() {
    let mut child = start(&["--ignore-eos"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"Hello\n").unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    let mut first = Vec::new();
    answers.read_until(b'\n', &mut first).unwrap();
    assert!(first.len() > 1);
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn history_and_system_prompt_reach_the_model() {
    let alone = talk("And now?\n", &[]);
    let second = talk("Hello\n\nAnd now?\n", &[]);
    let first = talk("Hello\n", &[]);
    assert!(second.starts_with(&first));
    assert_ne!(second[first.len()..], alone);
    assert_ne!(talk("And now?\n", &["--system", "Speak in verse."]), alone);
}

#[test]
fn the_end_of_input_ends_it() {
    assert_eq!(talk("", &[]), "");
    assert_eq!(talk("Hello", &[]), talk("Hello\r\n", &[]));
}

#[test]
fn a_conversation_beyond_the_context_is_an_error() {
    let mut child = start(&["--context", "24", "--ignore-eos"]);
    child.stdin.take().unwrap().write_all("Hello, who are you and what do you do all day?\n".as_bytes()).unwrap();
    fails(child.wait_with_output().unwrap(), 1, &["context of 24"]);
}
