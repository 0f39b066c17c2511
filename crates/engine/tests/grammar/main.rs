//! Texts drawn at random under a grammar's mask, judged by other libraries; and what is sent to break the compiler.

mod calls;
mod draw;
mod limits;
mod texts;
