//! What holds for every text and for all ids.

mod common;

use common::{ALL, NAMES};
use proptest::prelude::*;
use text::{DecodeOptions, Error};

fn options() -> impl Strategy<Value = DecodeOptions> {
    any::<(bool, bool)>().prop_map(|(skip_special, continues)| DecodeOptions { skip_special, continues })
}

proptest! {
    #[test]
    fn streaming_equals_decoding_the_whole(
        which in 0..NAMES.len(),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        options in options(),
    ) {
        let tokenizer = &ALL[which];
        let ids: Vec<u32> = choices.iter().map(|choice| choice.index(tokenizer.vocab_size()) as u32).collect();
        let mut decoder = tokenizer.decoder(options);
        let mut parts: Vec<String> = ids.iter().map(|&id| decoder.push(tokenizer, id).unwrap()).collect();
        parts.push(decoder.finish());
        let kept = ids.iter().filter(|&&id| !(options.skip_special && tokenizer.is_special(id)));
        let bytes: Vec<u8> = kept.flat_map(|&id| tokenizer.token_bytes(id).unwrap().to_vec()).collect();
        let whole = String::from_utf8_lossy(&bytes);
        let has_prefix = !options.continues && ["llama2", "mistral"].contains(&NAMES[which]);
        let whole = if has_prefix { whole.strip_prefix(' ').unwrap_or(&whole) } else { &whole };
        prop_assert_eq!(parts.concat(), whole);
        prop_assert_eq!(tokenizer.decode_with(&ids, options).unwrap(), whole);
    }

    #[test]
    fn byte_level_text_comes_back(text in any::<String>()) {
        let llama3 = &ALL[3];
        prop_assert_eq!(llama3.decode(&llama3.encode(&text).unwrap()).unwrap(), text);
    }

    #[test]
    fn text_with_prefix_space_comes_back(text in any::<String>()) {
        let llama2 = &ALL[1];
        let back = llama2.decode(&llama2.encode(&text).unwrap()).unwrap();
        prop_assert_eq!(back, text.replace('▁', " "));
    }
}

#[test]
fn characters_wait_for_their_last_byte() {
    let llama3 = &ALL[3];
    let ids = llama3.encode("🙂").unwrap();
    assert!(ids.len() > 1);
    let mut decoder = llama3.decoder(DecodeOptions::default());
    let parts: Vec<String> = ids.iter().map(|&id| decoder.push(llama3, id).unwrap()).collect();
    assert_eq!(parts.last().unwrap(), "🙂");
    assert!(parts[..parts.len() - 1].iter().all(String::is_empty));
    let mut cut = llama3.decoder(DecodeOptions::default());
    assert_eq!(cut.push(llama3, ids[0]).unwrap() + &cut.finish(), "\u{FFFD}");
}

#[test]
fn ids_beyond_the_vocabulary_are_errors() {
    let qwen = &ALL[0];
    let size = qwen.vocab_size();
    assert!(matches!(qwen.decode(&[size as u32]), Err(Error::UnknownId { .. })));
    assert!(qwen.check_vocabulary(size).is_ok());
    assert!(qwen.check_vocabulary(size + 100).is_ok());
    let error = qwen.check_vocabulary(size - 1).unwrap_err().to_string();
    assert!(error.contains("</think>") && error.contains(&(size - 1).to_string()), "{error}");
}
