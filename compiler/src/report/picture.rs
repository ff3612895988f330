//! What a drawing of a graph shows: items and their inputs, grouped by layer, and repeated layers as one.

use std::collections::{BTreeSet, HashMap};

use llamac_ir::ops::Constant;
use llamac_ir::{Graph, NodeId, ValueId, Weight, WeightExpr};

use super::numbers;
use super::recipe::recipe;

/// What an item stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Param,
    Op,
    Result,
}

/// A parameter, an operation or a result of the graph.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    /// The name of a parameter or result, the mnemonic of an operation.
    pub(super) title: String,
    /// The modules of an operation.
    pub(super) loc: String,
    /// The weights of an operation, and the constants that it reads.
    pub(super) weights: Vec<String>,
    /// Whether some of them are more than a few numbers.
    pub(super) stored: bool,
    /// The attributes of an operation.
    pub(super) attrs: String,
    /// The types of the weights, and the numbers of literals.
    pub(super) signature: String,
    /// The items that it reads, each with the number of the result.
    pub(super) inputs: Vec<(usize, usize)>,
    /// The types of the results.
    pub(super) types: Vec<String>,
    /// The layer that it belongs to, as an index into the groups.
    pub(super) group: Option<usize>,
}

/// A layer, or several that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The name without the number: `model.layers.`.
    pub(super) prefix: String,
    /// The number of the first layer.
    pub(super) first: usize,
    /// The number of layers.
    pub(super) count: usize,
}

impl Group {
    /// `model.layers.0`, or `model.layers.0 to 3, × 4`.
    pub(super) fn title(&self) -> String {
        let Self { prefix, first, count } = self;
        match count {
            1 => format!("{prefix}{first}"),
            _ => format!("{prefix}{first} to {}, \u{d7} {count}", first + count - 1),
        }
    }
}

/// A graph for drawing. Items come after what they read.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) items: Vec<Item>,
    pub(super) groups: Vec<Group>,
}

impl Picture {
    /// Everything in `graph` that a result needs, and all parameters.
    pub(super) fn new(graph: &Graph) -> Self {
        let mut drawing =
            Drawing { graph, at: HashMap::new(), picture: Self { items: Vec::new(), groups: Vec::new() } };
        for node in graph.order() {
            drawing.params(graph.operands(node));
            drawing.op(node);
            drawing.results(node);
        }
        let params: Vec<ValueId> = graph.params().map(|(_, value)| value).collect();
        drawing.params(&params);
        drawing.picture
    }

    /// The same with runs of layers that are alike drawn once: what the first reads from outside stays, and what is
    /// outside reads the last as if it were the first.
    pub(super) fn folded(&self) -> Self {
        let members = self.members();
        let shapes: Vec<Vec<Shape<'_>>> =
            (0..self.groups.len()).map(|group| self.shape(&members, group)).collect();
        let mut groups: Vec<Group> = Vec::new();
        // The group after folding for each before, and the item that stands for each.
        let mut group_of: Vec<usize> = Vec::new();
        let mut stands: Vec<usize> = (0..self.items.len()).collect();
        let mut first = 0;
        for (index, group) in self.groups.iter().enumerate() {
            match groups.last_mut() {
                Some(run)
                    if run.continues(group) && alike(&shapes[index - 1], &shapes[index], run.count == 1) =>
                {
                    run.count += 1;
                    for (&first, &item) in members[first].iter().zip(&members[index]) {
                        stands[item] = first;
                    }
                }
                _ => {
                    first = index;
                    groups.push(group.clone());
                }
            }
            group_of.push(groups.len() - 1);
        }
        let kept: Vec<usize> = (0..self.items.len()).filter(|&item| stands[item] == item).collect();
        let position: HashMap<usize, usize> = kept.iter().enumerate().map(|(new, &old)| (old, new)).collect();
        let items = kept.iter().map(|&old| {
            let item = &self.items[old];
            let inputs =
                item.inputs.iter().map(|&(from, result)| (position[&stands[from]], result)).collect();
            Item { inputs, group: item.group.map(|group| group_of[group]), ..item.clone() }
        });
        Self { items: items.collect(), groups }
    }

    /// The items of each group.
    fn members(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.groups.len()];
        for (index, item) in self.items.iter().enumerate() {
            if let Some(group) = item.group {
                members[group].push(index);
            }
        }
        members
    }

    fn shape(&self, members: &[Vec<usize>], group: usize) -> Vec<Shape<'_>> {
        let place = |group: usize, item: usize| members[group].iter().position(|&member| member == item);
        let input = |&(item, result): &(usize, usize)| match self.items[item].group {
            Some(of) if of == group => Input::Inside(place(of, item), result),
            Some(of) if of + 1 == group => Input::Before(place(of, item), result),
            _ => Input::Outside(item, result),
        };
        let items = members[group].iter().map(|&item| &self.items[item]);
        items.map(|item| Shape { item, inputs: item.inputs.iter().map(input).collect() }).collect()
    }
}

impl Group {
    /// Whether `next` is the layer after this run.
    fn continues(&self, next: &Self) -> bool {
        next.prefix == self.prefix && next.first == self.first + self.count
    }
}

/// An item of a layer, and what it reads seen from the layer.
struct Shape<'a> {
    item: &'a Item,
    inputs: Vec<Input>,
}

/// Something that an item reads: by its place in the same layer or in the one before, or anywhere else; and which of its
/// results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Inside(Option<usize>, usize),
    Before(Option<usize>, usize),
    Outside(usize, usize),
}

/// Whether two layers do the same. Where the second reads the first, `begins` allows the first to read something else.
fn alike(first: &[Shape<'_>], second: &[Shape<'_>], begins: bool) -> bool {
    let same_input = |(a, b): (&Input, &Input)| {
        a == b || (begins && matches!(b, Input::Before(..)) && !matches!(a, Input::Inside(..)))
    };
    let same = |(a, b): (&Shape<'_>, &Shape<'_>)| {
        let same_name = a.item.kind != Kind::Op || a.item.title == b.item.title;
        a.item.kind == b.item.kind
            && same_name
            && a.item.signature == b.item.signature
            && a.item.attrs == b.item.attrs
            && a.item.types == b.item.types
            && a.inputs.len() == b.inputs.len()
            && a.inputs.iter().zip(&b.inputs).all(same_input)
    };
    first.len() == second.len() && first.iter().zip(second).all(same)
}

/// A picture that is being filled.
struct Drawing<'g> {
    graph: &'g Graph,
    at: HashMap<NodeId, usize>,
    picture: Picture,
}

impl<'g> Drawing<'g> {
    /// Adds those of `values` that are parameters and not there yet.
    fn params(&mut self, values: &[ValueId]) {
        for &value in values {
            let Some(name) = self.graph.param_name(value.node) else { continue };
            if self.at.contains_key(&value.node) {
                continue;
            }
            let users: BTreeSet<Option<(String, usize)>> =
                self.graph.uses(value).iter().map(|(user, _)| layer(self.graph, *user)).collect();
            let group = match users.into_iter().collect::<Vec<_>>().as_slice() {
                [Some((prefix, number))] => Some(self.group(prefix, *number)),
                _ => None,
            };
            self.at.insert(value.node, self.picture.items.len());
            self.picture.items.push(Item {
                kind: Kind::Param,
                title: name.to_owned(),
                loc: String::new(),
                weights: Vec::new(),
                stored: false,
                attrs: String::new(),
                signature: String::new(),
                inputs: Vec::new(),
                types: vec![self.graph.ty(value).to_string()],
                group,
            });
        }
    }

    fn op(&mut self, node: NodeId) {
        let Some(op) = self.graph.op(node).filter(|_| self.constant(node).is_none()) else { return };
        let mut operands = self.graph.operands(node).to_vec();
        let mut weights = op.weights();
        weights.extend(operands.iter().filter_map(|value| self.constant(value.node)));
        operands.retain(|value| self.constant(value.node).is_none());
        let attrs: Vec<String> = op.attrs().iter().map(|(key, value)| format!("{key}={value}")).collect();
        let stored = weights.iter().any(|weight| !matches!(weight.expr(), WeightExpr::Literal { .. }));
        let signature: Vec<String> = weights.iter().map(|weight| signature(weight)).collect();
        let item = Item {
            kind: Kind::Op,
            title: op.mnemonic().to_owned(),
            loc: self.graph.loc(node).to_string(),
            weights: weights.into_iter().map(recipe).collect(),
            stored,
            attrs: attrs.join(", "),
            signature: signature.join(", "),
            inputs: operands.into_iter().map(|value| self.input(value)).collect(),
            types: self.graph.types(node).iter().map(ToString::to_string).collect(),
            group: layer(self.graph, node).map(|(prefix, number)| self.group(&prefix, number)),
        };
        self.at.insert(node, self.picture.items.len());
        self.picture.items.push(item);
    }

    /// The weight of a constant that is drawn where it is read. One that is a result of the graph is an item.
    fn constant(&self, node: NodeId) -> Option<&'g Weight> {
        let constant = self.graph.op_ref::<Constant>(node)?;
        (!self.graph.is_result(constant.value())).then_some(&constant.op().weight)
    }

    fn results(&mut self, node: NodeId) {
        let results: Vec<(&str, ValueId)> =
            self.graph.results().filter(|(_, value)| value.node == node).collect();
        for (name, value) in results {
            let group = self.at.get(&node).and_then(|&at| self.picture.items[at].group);
            self.picture.items.push(Item {
                kind: Kind::Result,
                title: name.to_owned(),
                loc: String::new(),
                weights: Vec::new(),
                stored: false,
                attrs: String::new(),
                signature: String::new(),
                inputs: vec![self.input(value)],
                types: Vec::new(),
                group,
            });
        }
    }

    fn input(&self, value: ValueId) -> (usize, usize) {
        (self.at.get(&value.node).copied().unwrap_or_default(), value.result as usize)
    }

    fn group(&mut self, prefix: &str, number: usize) -> usize {
        let groups = &mut self.picture.groups;
        let same = |group: &Group| group.prefix == prefix && group.first == number;
        groups.iter().position(same).unwrap_or_else(|| {
            groups.push(Group { prefix: prefix.to_owned(), first: number, count: 1 });
            groups.len() - 1
        })
    }
}

/// What makes layers differ that read other weights: types, and numbers that are no weights of the model.
fn signature(weight: &Weight) -> String {
    match weight.expr() {
        WeightExpr::Literal { .. } => weight.to_string(),
        _ => weight.ty().to_string(),
    }
}

/// The layer that a node belongs to: that of the first module that it comes from.
fn layer(graph: &Graph, node: NodeId) -> Option<(String, usize)> {
    let number = numbers::of(graph.loc(node).modules().next()?).into_iter().next()?;
    Some((number.prefix, number.value))
}
