//! What all kinds of attention are told: their heads, and the layer that they are in.

/// The numbers of heads, and of dims of each.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) q: usize,
    pub(super) kv: usize,
    pub(super) dim: usize,
    pub(super) v_dim: usize,
}

/// What a layer's attention is about.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The layer as it is run, which windows, sinks and skips count by.
    pub(super) layer: usize,
    /// Whether it sees only its window.
    pub(super) sliding: bool,
    /// What its tensors' names begin with: `decoder.layers.3.attn`.
    pub(super) name: &'a str,
}
