//! From headers, config and spec to a complete plan, or to findings. Opens no file.

pub mod layout;
pub mod program;
