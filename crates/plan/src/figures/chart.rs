//! Charts of the claims, as SVG.

use super::decode::{Decode, price};
use super::{Inputs, Row};
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 110.0;
const HEAD: f64 = 56.0;
const ROW: f64 = 15.0;
/// Powers of ten to either side of agreement that are drawn.
const DECADES: f64 = 4.0;

/// Every claim that was given a value: what follows over what was said, on a logarithmic scale.
pub fn claims(rows: &[Row]) -> String {
    let shown: Vec<_> =
        rows.iter().filter_map(|row| Some((row, row.deviation? + 1.0))).filter(|(_, r)| *r > 0.0).collect();
    let bottom = HEAD + ROW * shown.len() as f64;
    let mut svg = open(bottom + 16.0, "Computed over claimed, claim by claim");
    let scale = (WIDTH - LEFT - 160.0) / (2.0 * DECADES);
    let x = |ratio: f64| LEFT + scale * (ratio.log10().clamp(-DECADES, DECADES) + DECADES);
    for power in -3..=3 {
        let x = x(10f64.powi(power));
        line(&mut svg, (x, HEAD - 4.0), (x, bottom), "#ccc");
        text(
            &mut svg,
            (x, HEAD - 8.0),
            "middle",
            &if power == 0 { "as claimed".to_owned() } else { format!("x 10^{power}") },
        );
    }
    for (index, (row, ratio)) in shown.into_iter().enumerate() {
        let y = HEAD + ROW * index as f64;
        let colour = if row.unit_error.is_some() {
            "#d08a2e"
        } else if matches!(row.verdict.as_str(), "wrong" | "contradicted" | "inconsistent") {
            "#b5533c"
        } else {
            "#2f7d4f"
        };
        let (from, to) = (x(1.0).min(x(ratio)), x(1.0).max(x(ratio)));
        let _ = write!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"11\" fill=\"{colour}\"/>",
            y,
            (to - from).max(2.0)
        );
        text(&mut svg, (LEFT - 8.0, y + 10.0), "end", &row.id);
        text(&mut svg, (to + 6.0, y + 10.0), "start", &row.verdict);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Dollars for a thousand tokens by the sequences in flight, beside the report's two prices.
pub fn prices(inputs: &Inputs) -> String {
    let curves =
        [("H100, fp8", inputs.decode_h100(), "#3b6ea5", "I20"), ("A100, f16", inputs.decode_a100(), "#b5533c", "I19")];
    let height = 420.0;
    let mut svg = open(height, "Dollars for 1,000 tokens, by sequences in flight in all 16 stages");
    let (top, bottom) = (HEAD, height - 40.0);
    let x = |sequences: f64| LEFT + (sequences / 64.0).log2() / 8.0 * (WIDTH - LEFT - 120.0);
    let y = |dollars: f64| bottom - (dollars / 1e-3).log10().clamp(0.0, 2.5) / 2.5 * (bottom - top);
    for power in 0..=8 {
        let sequences = 64.0 * f64::from(1 << power);
        line(&mut svg, (x(sequences), top), (x(sequences), bottom), "#eee");
        text(&mut svg, (x(sequences), bottom + 18.0), "middle", &format!("{sequences}"));
    }
    for dollars in [0.001, 0.003, 0.01, 0.03, 0.1, 0.3] {
        line(&mut svg, (LEFT, y(dollars)), (WIDTH - 120.0, y(dollars)), "#eee");
        text(&mut svg, (LEFT - 8.0, y(dollars) + 4.0), "end", &format!("${dollars}"));
    }
    for (name, decode, colour, claim) in curves {
        let at = |step: i32| 64.0 * 2f64.powf(f64::from(step) / 4.0);
        let dollars = |sequences| Decode { sequences, ..decode }.dollars(inputs, price(decode.accelerator));
        let point = |sequences| format!("{:.1},{:.1}", x(sequences), y(dollars(sequences)));
        let points: Vec<_> = (0..=32).map(|step| point(at(step))).collect();
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        let said = inputs.reported(claim);
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{0:.1}\" x2=\"{1:.1}\" y2=\"{0:.1}\" stroke=\"{colour}\" stroke-dasharray=\"4 4\"/>",
            y(said),
            WIDTH - 120.0
        );
        text(&mut svg, (WIDTH - 116.0, y(said) + 4.0), "start", &format!("{name}: ${said}"));
    }
    svg.push_str("</svg>\n");
    svg
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"16\" y=\"24\" font-size=\"16\">{title}</text>"
    )
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = write!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{text}</text>", at.0, at.1);
}
