//! Looking values up in what a pickle recorded: dictionaries, and the attributes of objects.

use super::value::{Node, NodeId, Object, Pickle};

impl Pickle<'_> {
    /// The module and name of what an object calls; sees through the ids of classes in the oldest
    /// streams of torch, `('module', class, source file, source)`.
    pub fn class_of(&self, callable: NodeId) -> Option<(&str, &str)> {
        let Node::Persistent(id) = self.node(callable) else { return self.global(callable) };
        match self.sequence(*id)? {
            [kind, class, ..] if self.text(*kind) == Some("module") => self.global(*class),
            _ => None,
        }
    }

    /// The name of the class of an object, without its module, which moves between versions.
    pub fn class_name(&self, id: NodeId) -> Option<&str> {
        let Node::Object(object) = self.node(id) else { return None };
        // `copyreg.__reduce_ex__` names the class first, `NEWOBJ` calls it.
        match self.class_of(object.callable)? {
            ("copyreg" | "copy_reg", "_reconstructor") => {
                let class = *self.sequence(object.args)?.first()?;
                self.class_of(class).map(|(_, name)| name)
            }
            (_, name) => Some(name),
        }
    }

    /// The keys and values of a dictionary, or of an object that is filled like one.
    pub fn items(&self, id: NodeId) -> Option<Vec<(NodeId, NodeId)>> {
        match self.node(id) {
            Node::Dict(items) => Some(items.clone()),
            Node::Object(object) if !object.items().is_empty() => Some(object.items().to_vec()),
            Node::Object(object) => {
                let (_, name) = self.class_of(object.callable)?;
                if name != "OrderedDict" {
                    return None;
                }
                // Python 2 hands over a list of pairs; Python 3 fills an empty dictionary.
                let pairs = match self.sequence(object.args)? {
                    [pairs, ..] => self.sequence(*pairs)?,
                    [] => &[],
                };
                let pairs = pairs.iter().map(|&pair| match self.sequence(pair)? {
                    [key, value] => Some((*key, *value)),
                    _ => None,
                });
                pairs.collect()
            }
            _ => None,
        }
    }

    /// The value that a dictionary has under a text, the last one where it stands twice.
    pub fn value(&self, id: NodeId, key: &str) -> Option<NodeId> {
        let find = |items: &[(NodeId, NodeId)]| {
            let found = items.iter().rev().find(|(of, _)| self.text(*of) == Some(key));
            found.map(|(_, value)| *value)
        };
        match self.node(id) {
            Node::Dict(items) => find(items),
            _ => find(&self.items(id)?),
        }
    }

    /// The dictionary of the attributes of an object.
    pub fn state(&self, object: &Object) -> Option<NodeId> {
        Some(self.attributes_of(*object.states().last()?))
    }

    /// The dictionary of attributes in a state: a class with slots has a pair, in which it is the first
    /// or the second.
    pub fn attributes_of(&self, state: NodeId) -> NodeId {
        let Node::Tuple(members) = self.node(state) else { return state };
        let is_dict = |&&id: &&NodeId| matches!(self.node(id), Node::Dict(_));
        members.iter().find(is_dict).or(members.first()).copied().unwrap_or(state)
    }

    /// The attribute of an object that has this name.
    pub fn attribute(&self, id: NodeId, name: &str) -> Option<NodeId> {
        let Node::Object(object) = self.node(id) else { return None };
        self.value(self.state(object)?, name)
    }

    /// The members of a list or tuple, or of an object that is made of one, as `torch.Size`, or that
    /// is filled like one.
    pub fn members(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.node(id) {
            Node::Object(object) if !object.elements().is_empty() => Some(object.elements()),
            Node::Object(object) => match self.sequence(object.args)? {
                [members] => self.sequence(*members),
                _ => None,
            },
            _ => self.sequence(id),
        }
    }

    /// Sizes or offsets, none of them below 0: a tuple, a list or a `torch.Size`.
    pub fn sizes(&self, id: NodeId) -> Option<Vec<u64>> {
        // torch allows a tensor 64 dimensions.
        let members = self.members(id).filter(|members| members.len() <= 64)?;
        members.iter().map(|&member| u64::try_from(self.int(member)?).ok()).collect()
    }
}
