//! The server over real sockets, with a small random model: what clients may send, and what they must get.

mod access;
mod chat;
mod completions;
mod edges;
mod errors;
mod others;
mod server;
mod streams;
