//! Keys, origins, certificates, and the end.

use crate::server::{Server, completion, engine_config, model_folder, refusal, start_engine};
use serde_json::{Value, json};
use serve::{App, Keys, Listener, Options, Tls};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

const PLAIN: &str = "/v1/completions";

fn keys(text: &str) -> Keys {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, text).unwrap();
    Keys::from_file(&path).unwrap()
}

#[tokio::test]
async fn a_key_opens_what_it_should_and_no_more() {
    let text = "[[key]]\nname = \"a\"\nkey = \"0123456789abcdef\"\nconcurrent = 1\n[[key]]\nname = \"b\"\nkey = \"fedcba9876543210\"\nrequests_per_minute = 2\n";
    let server = Server::with(Options { keys: keys(text), ..Options::default() }, engine_config()).await;
    let url = format!("{}{PLAIN}", server.url);
    let ask =
        |key: &str, more: Value| server.client.post(&url).bearer_auth(key).json(&completion(json!("x"), more)).send();
    let (status, error) = server.refused(PLAIN, completion(json!("x"), json!({}))).await;
    assert_eq!((status, &error["code"]), (401, &json!("invalid_api_key")));
    assert_eq!(refusal(ask("0123456789abcdeX", json!({})).await.unwrap()).await.0, 401);
    assert_eq!(refusal(server.get("/v1/models").await).await.0, 401);
    assert_eq!(refusal(server.get("/api/live").await).await.0, 401);
    assert_eq!(server.get("/health").await.status().as_u16(), 200);
    assert_eq!(server.get("/").await.status().as_u16(), 200);
    let twice =
        server.client.post(&url).bearer_auth("0123456789abcdef").header("authorization", "Bearer fedcba9876543210");
    assert_eq!(refusal(twice.json(&json!({})).send().await.unwrap()).await.0, 400);

    // One at once: as long as its stream is open.
    let long = json!({ "stream": true, "max_tokens": 3000, "ignore_eos": true });
    let first = ask("0123456789abcdef", long).await.unwrap();
    assert_eq!(first.status().as_u16(), 200);
    assert_eq!(refusal(ask("0123456789abcdef", json!({})).await.unwrap()).await.0, 429);
    drop(first);
    let mut again = 429;
    for _ in 0..1000 {
        again = ask("0123456789abcdef", json!({})).await.unwrap().status().as_u16();
        if again == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(again, 200, "its place was not given back");

    // Two a minute.
    for _ in 0..2 {
        assert_eq!(ask("fedcba9876543210", json!({})).await.unwrap().status().as_u16(), 200);
    }
    let third = ask("fedcba9876543210", json!({})).await.unwrap();
    assert!(third.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 30);
    assert_eq!(refusal(third).await.0, 429);
}

#[tokio::test]
async fn keys_do_not_share_the_prefix_cache() {
    let text = "[[key]]\nname = \"a\"\nkey = \"0123456789abcdef\"\n[[key]]\nname = \"b\"\nkey = \"fedcba9876543210\"\n";
    let server = Server::with(Options { keys: keys(text), ..Options::default() }, engine_config()).await;
    let prompt: Vec<u32> = (0..200).collect();
    let cached = async |key: &str| {
        let body = completion(json!(prompt), json!({ "max_tokens": 1 }));
        let request = server.client.post(format!("{}{PLAIN}", server.url)).bearer_auth(key).json(&body);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached("0123456789abcdef").await, 0);
    assert!(cached("0123456789abcdef").await >= 160);
    assert_eq!(cached("fedcba9876543210").await, 0);
}

#[tokio::test]
async fn pages_of_other_origins_are_told_what_they_may() {
    let options = Options { cors: vec!["https://example.org".into()], ..Options::default() };
    let server = Server::with(options, engine_config()).await;
    let ask = async |origin: &str| {
        let request =
            server.client.request(reqwest::Method::OPTIONS, format!("{}{PLAIN}", server.url)).header("origin", origin);
        let request = request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type");
        request.send().await.unwrap()
    };
    let allowed = ask("https://example.org").await;
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://example.org");
    assert!(
        allowed.headers()["access-control-allow-headers"].to_str().unwrap().to_lowercase().contains("authorization")
    );
    assert!(!ask("https://evil.example").await.headers().contains_key("access-control-allow-origin"));
    let closed = Server::start().await;
    let answer = closed
        .client
        .get(format!("{}/health", closed.url))
        .header("origin", "https://example.org")
        .send()
        .await
        .unwrap();
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_certificate_is_shown_and_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    assert!(Tls::from_files(&key, &certificate).is_err(), "the other way round");
    let tls = Tls::from_files(&certificate, &key).unwrap();

    let model = model_folder();
    let app = Arc::new(App::new(start_engine(model.path(), engine_config()), Options::default()));
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address().unwrap();
    tokio::spawn(listener.serve(app, Some(tls), std::future::pending()));

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connection = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = TlsConnector::from(Arc::new(config)).connect(name, connection).await.unwrap();
    connection.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn what_was_accepted_is_answered_before_the_end() {
    let mut server = Server::start().await;
    let long = completion(
        json!("x"),
        json!({ "stream": true, "max_tokens": 1500, "ignore_eos": true, "stream_options": { "include_usage": true } }),
    );
    let mut accepted = server.post(PLAIN, long).await;
    accepted.chunk().await.unwrap();
    assert_eq!(server.get("/ready").await.status().as_u16(), 200);
    server.stop();
    while server.get("/ready").await.status().as_u16() == 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let refused = server.post(PLAIN, completion(json!("x"), json!({}))).await;
    assert!(refused.headers().contains_key("retry-after"));
    let (status, error) = refusal(refused).await;
    assert_eq!((status, &error["code"]), (503, &json!("draining")));
    assert_eq!(server.get("/health").await.status().as_u16(), 200, "it lives");
    let rest = accepted.text().await.unwrap();
    assert!(rest.contains("\"completion_tokens\":1500") && rest.ends_with("data: [DONE]\n\n"));
    server.stopped().await;
    assert!(server.client.get(format!("{}/health", server.url)).send().await.is_err(), "nobody listens any more");
}
