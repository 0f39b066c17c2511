//! The server as a process: it says where it is, answers, names requests in its log, and leaves when asked.

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr};

/// A running server.
struct Server {
    process: Child,
    log: BufReader<ChildStderr>,
    url: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = lyceum();
        command.args(["serve", "--port", "0", "--kv-memory", "32M"]).args(arguments).stderr(Stdio::piped());
        let mut process = command.env_remove("LYCEUM_API_KEYS").env_remove("LYCEUM_LOG").spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let (mut line, mut said) = (String::new(), String::new());
        while !line.contains("listening on ") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended:\n{said}");
            said.push_str(&line);
        }
        let url = line.trim().split_once("listening on ").unwrap().1.trim_end_matches('/').to_string();
        Self { process, log, url }
    }

    fn ask(&self, path: &str, body: Value) -> Value {
        let request = ureq::post(format!("{}{path}", self.url)).header("x-request-id", "the-test-1");
        request.send_json(body).unwrap().body_mut().read_json().unwrap()
    }

    /// Sends SIGTERM, and gives the exit status and what was logged since the start.
    fn stop(mut self) -> (Option<i32>, String) {
        let killed = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(killed.success());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.log, &mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }
}

/// The first command of README.md: the demo, without any options that matter.
#[test]
fn the_demo_is_served_until_sigterm() {
    let server = Server::start(&[]);
    let models: Value = ureq::get(format!("{}/v1/models", server.url)).call().unwrap().body_mut().read_json().unwrap();
    assert_eq!(models["data"][0]["id"], "demo");
    let asked = serde_json::json!({ "prompt": "fn main() {", "max_tokens": 5, "ignore_eos": true });
    assert_eq!(server.ask("/v1/completions", asked)["usage"]["completion_tokens"], 5);
    let (status, log) = server.stop();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("shutting down"), "{log}");
    // Whatever is said while a request is answered names it.
    let answered: Vec<_> = log.lines().filter(|line| line.contains("/v1/")).collect();
    assert_eq!(answered.len(), 2, "{log}");
    assert!(answered.iter().all(|line| line.contains("request{id=")), "{log}");
    assert!(answered[1].contains("id=\"the-test-1\"") && answered[1].contains("/v1/completions"), "{log}");
}

#[test]
fn what_cannot_be_served_is_said() {
    let serve = |model_name: &str, more: &[&str]| {
        lyceum().args(["serve", "--port", "0"]).arg(model(model_name)).args(more).output().unwrap()
    };
    let other = model("mixtral_spm");
    let other = other.to_str().unwrap();
    fails(
        serve("qwen3_moe_bpe", &["--draft", other]),
        1,
        &["mixtral_spm", "another tokeniser", "id 0 is `<unk>` there"],
    );
    fails(serve("qwen3_moe_bpe", &["--speculate", "draft"]), 2, &["--draft MODEL"]);
    fails(serve("qwen3_moe_bpe", &["--typical-acceptance", "0.3"]), 2, &["needs drafts"]);
    #[cfg(not(feature = "otlp"))]
    fails(serve("qwen3_moe_bpe", &["--otlp", "http://127.0.0.1:4318"]), 2, &["--features otlp"]);
    fails(serve("llama", &[]), 1, &["no tokenizer.json"]);
    fails(serve("qwen3_moe_bpe", &["--api-keys", "/no/such/file"]), 1, &["/no/such/file"]);
}

#[cfg(feature = "otlp")]
#[test]
fn a_collector_hears_of_each_request() {
    use std::io::{Read, Write};

    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let heard = std::thread::spawn(move || {
        let mut reader = BufReader::new(collector.accept().unwrap().0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap()];
        reader.read_exact(&mut body).unwrap();
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        (head, String::from_utf8_lossy(&body).into_owned())
    });
    let server = Server::start(&["--otlp", &url]);
    server.ask("/v1/completions", serde_json::json!({ "prompt": "fn main() {", "max_tokens": 5 }));
    let (status, log) = server.stop();
    assert_eq!(status, Some(0), "{log}");
    let (head, body) = heard.join().unwrap();
    assert!(head.starts_with("POST /v1/traces "), "{head}");
    // Protocol buffers hold texts as they are.
    for part in ["lyceum", "request", "the-test-1", "/v1/completions"] {
        assert!(body.contains(part), "{part} is not in {body}");
    }
}
