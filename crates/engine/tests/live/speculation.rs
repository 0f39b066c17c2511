//! Drafts change speed, never a token.
