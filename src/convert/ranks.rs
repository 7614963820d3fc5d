//! Over how many ranks what is written is cut.

/// What ranks share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Each matrix.
    Tensor,
    /// The layers.
    Pipeline,
    /// The experts.
    Expert,
}

/// Over how many ranks of each kind a model is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// That share each matrix.
    pub tensor: u64,
    /// That share the layers.
    pub pipeline: u64,
    /// That share the experts.
    pub expert: u64,
}

impl Ranks {
    /// One rank has all.
    pub const ONE: Ranks = Ranks { tensor: 1, pipeline: 1, expert: 1 };

    /// Each kind with its flag and number.
    pub fn each(self) -> [(Kind, &'static str, u64); 3] {
        [
            (Kind::Tensor, "--tp", self.tensor),
            (Kind::Pipeline, "--pp", self.pipeline),
            (Kind::Expert, "--ep", self.expert),
        ]
    }
}
