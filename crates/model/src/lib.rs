//! What is the model? Its files, and (to come beside them) its layers, forward and backward, and K/V storage.

pub mod files;
