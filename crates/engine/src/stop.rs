//! Stop strings: text that ends a completion and is not part of it, found in text that comes in pieces.

/// Passes text on as soon as it cannot be the beginning of a stop string any more.
#[derive(Clone, Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    found: Option<String>,
}

impl StopStrings {
    /// Looks for these; empty ones are never found.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|s| !s.is_empty()).collect(), held: String::new(), found: None }
    }

    /// Takes the next piece of text and gives what is final. After a stop string nothing is.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop)?, stop)));
        let first = found.min_by_key(|&(start, _)| start);
        self.found = first.map(|(_, stop)| stop.clone());
        let end = first.map_or_else(|| self.held.len() - self.undecided(), |(start, _)| start);
        let rest = self.held.split_off(end);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string has come.
    pub fn found(&self) -> bool {
        self.found.is_some()
    }

    /// The stop string that has come; of several at the same place the one given first.
    pub fn which(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// The completion ended otherwise: what was held back is text after all.
    pub fn finish(self) -> String {
        if self.found.is_some() { String::new() } else { self.held }
    }

    /// Bytes at the end that may be the beginning of a stop string.
    fn undecided(&self) -> usize {
        let starts = self.held.char_indices().map(|(start, _)| &self.held[start..]);
        let mut longest_first = starts.filter(|end| self.stops.iter().any(|stop| stop.starts_with(end)));
        longest_first.next().map_or(0, str::len)
    }
}

#[cfg(test)]
mod tests {
    use super::StopStrings;

    /// What comes through, piece by piece, and whether a stop string was found.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut filter = StopStrings::new(stops.iter().map(|s| s.to_string()).collect());
        let mut out: Vec<_> = pieces.iter().map(|piece| filter.push(piece)).collect();
        let found = filter.found();
        out.push(filter.finish());
        (out, found)
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_never_shown() {
        let (out, found) = run(&["\nUser:"], &["Yes.", "\n", "Us", "er", ": no", "more"]);
        assert_eq!((out.concat().as_str(), found), ("Yes.", true));
    }

    #[test]
    fn text_waits_only_while_it_may_become_a_stop_string() {
        let (out, found) = run(&["END", "aab"], &["xE", "Nx", "aa", "ab", "y"]);
        assert_eq!(out, ["x", "ENx", "", "a", "", ""]);
        assert!(found);
        let (out, found) = run(&["END"], &["the E", "N"]);
        assert_eq!((out.concat().as_str(), found), ("the EN", false));
    }

    #[test]
    fn the_earliest_of_several_ends_the_text() {
        assert_eq!(run(&["c", "b"], &["abc"]), (vec!["a".into(), String::new()], true));
        assert_eq!(run(&[""], &["abc"]), (vec!["abc".into(), String::new()], false));
        assert_eq!(run(&["ß"], &["wei", "ß"]).0.concat(), "wei");
    }
}
