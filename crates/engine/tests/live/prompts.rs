//! What is wanted of prompts.
