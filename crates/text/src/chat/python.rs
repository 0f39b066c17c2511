//! What templates expect of Python: `json.dumps`, and methods of strings that the engine lacks.

use minijinja::value::{Kwargs, StringInput, Value, ValueKind};
use minijinja::{Error, ErrorKind, State, filters};
use serde_json::Value as Json;

/// Indents beyond this are refused.
const WIDEST_INDENT: usize = 16;

/// How `json.dumps` lays out.
struct Layout {
    item_separator: String,
    key_separator: String,
    indent: Option<String>,
    sort_keys: bool,
    ensure_ascii: bool,
}

/// The `tojson` filter as `transformers` defines it: `json.dumps(value, ensure_ascii=False, ...)`.
pub(super) fn tojson(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let indent = match arguments.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(indent_text(&indent)?),
    };
    let default = if indent.is_some() { "," } else { ", " };
    let (item_separator, key_separator) = match arguments.get::<Option<Vec<String>>>("separators")?.as_deref() {
        None => (default.into(), ": ".into()),
        Some([items, keys]) => (items.clone(), keys.clone()),
        Some(_) => return Err(invalid("tojson: separators are two")),
    };
    let layout = Layout {
        item_separator,
        key_separator,
        indent,
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    arguments.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|error| invalid(&format!("tojson: {error}")))?;
    let mut out = String::new();
    write_json(&json, &layout, 0, &mut out);
    Ok(out)
}

fn indent_text(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.into());
    }
    checked_width(usize::try_from(indent.clone())?).map(|width| " ".repeat(width))
}

fn checked_width(width: usize) -> Result<usize, Error> {
    if width <= WIDEST_INDENT {
        return Ok(width);
    }
    Err(invalid(&format!("an indent of {width} is more than {WIDEST_INDENT}")))
}

/// The engine's `indent` filter, with a width that is checked.
pub(super) fn indent(
    text: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let width = width.map_or_else(|| named.get::<Option<usize>>("width"), |width| Ok(Some(width)))?;
    filters::indent(text, Some(checked_width(width.unwrap_or(4))?), first, blank, named)
}

fn write_json(json: &Json, layout: &Layout, depth: usize, out: &mut String) {
    match json {
        Json::Number(number) => out.push_str(&number_text(number)),
        Json::String(text) => write_string(text, layout, out),
        Json::Array(items) => {
            let each = items.iter().map(|item| (None, item));
            write_items(['[', ']'], each, layout, depth, out);
        }
        Json::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, item)| (Some(key.as_str()), item)).collect();
            if layout.sort_keys {
                entries.sort_by_key(|(key, _)| *key);
            }
            write_items(['{', '}'], entries.into_iter(), layout, depth, out);
        }
        other => out.push_str(&other.to_string()),
    }
}

fn write_items<'a>(
    brackets: [char; 2],
    items: impl Iterator<Item = (Option<&'a str>, &'a Json)>,
    layout: &Layout,
    depth: usize,
    out: &mut String,
) {
    let new_line = |depth: usize, out: &mut String| {
        if let Some(indent) = &layout.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    out.push(brackets[0]);
    let mut is_empty = true;
    for (key, item) in items {
        if !is_empty {
            out.push_str(&layout.item_separator);
        }
        is_empty = false;
        new_line(depth + 1, out);
        if let Some(key) = key {
            write_string(key, layout, out);
            out.push_str(&layout.key_separator);
        }
        write_json(item, layout, depth + 1, out);
    }
    if !is_empty {
        new_line(depth, out);
    }
    out.push(brackets[1]);
}

fn write_string(text: &str, layout: &Layout, out: &mut String) {
    let quoted = Json::from(text).to_string();
    if !layout.ensure_ascii {
        return out.push_str(&quoted);
    }
    for unit in quoted.encode_utf16() {
        match char::from_u32(u32::from(unit)).filter(char::is_ascii) {
            Some(c) => out.push(c),
            None => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
}

/// Numbers as Python's `repr` writes them.
fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) => float_text(float),
        None => number.to_string(),
    }
}

/// The shortest digits that read back the same, with an exponent below 1e-4 and from 1e16 on.
fn float_text(float: f64) -> String {
    let scientific = format!("{float:e}");
    let exponent = scientific.split_once('e').and_then(|(digits, power)| Some((digits, power.parse::<i32>().ok()?)));
    match exponent {
        Some((digits, power)) if !(-4..16).contains(&power) => {
            let sign = if power < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", power.abs())
        }
        _ => {
            let plain = float.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// Methods of Python's strings and dicts: those of `minijinja-contrib`, and some that templates use besides.
pub(super) fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().filter(|_| value.kind() == ValueKind::String);
    match (text, name, arguments) {
        (Some(text), "removeprefix", [prefix]) => {
            Ok(prefix.as_str().and_then(|prefix| text.strip_prefix(prefix)).unwrap_or(text).into())
        }
        (Some(text), "removesuffix", [suffix]) => {
            Ok(suffix.as_str().and_then(|suffix| text.strip_suffix(suffix)).unwrap_or(text).into())
        }
        (Some(text), "rsplit", [separator, most]) => {
            let separator = separator.as_str().filter(|separator| !separator.is_empty());
            let separator = separator.ok_or_else(|| invalid("rsplit needs a separator"))?;
            let most = usize::try_from(most.clone())?;
            let mut parts: Vec<&str> = text.rsplitn(most.saturating_add(1), separator).collect();
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

pub(super) fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_string())
}

#[cfg(test)]
mod tests {
    use super::float_text;

    #[test]
    fn floats_read_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.5, "0.5"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e-5, "1.5e-05"),
            (1e-4, "0.0001"),
            (-2.5e300, "-2.5e+300"),
            (-0.0, "-0.0"),
        ];
        for (float, text) in cases {
            assert_eq!(float_text(float), text);
        }
    }
}
