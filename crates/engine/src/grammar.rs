//! Which tokens may come next: texts bound to a grammar.

/// A compiled grammar, at its beginning.
#[derive(Clone, Debug)]
pub struct Grammar {}
