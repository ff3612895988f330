//! A reshape of a reshape is one, and a reshape to the shape that there is none.
//!
//! ```text
//! a = reshape x {shape=[batch, seq, 8]}
//! b = reshape a {shape=[batch, seq, 2, 4]}    →    b = reshape x {shape=[batch, seq, 2, 4]}
//! ```
//!
//! Part of legalization: decompositions put reshapes where operations meet.

use llamac_ir::ops::Reshape;
use llamac_ir::rewrite::{DynRule, NoMatch, OpSet, Patch};
use llamac_ir::{Graph, NodeId};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct FoldReshape;

impl DynRule for FoldReshape {
    fn name(&self) -> &'static str {
        "FoldReshape"
    }

    fn at(&self, node: NodeId, graph: &Graph, _: &dyn OpSet) -> Option<Result<Patch, NoMatch>> {
        let root = graph.op_ref::<Reshape>(node)?;
        if graph.ty(root.operand(0)) == graph.ty(root.value()) {
            return Some(Ok(Patch::new().replace(root.value(), root.operand(0)).erase([node])));
        }
        let inner = root.operand_as::<Reshape>(0).ok()?;
        let mut patch = Patch::new();
        let folded = patch.add(graph, root.loc(), root.op().clone(), &[inner.operand(0).into()]);
        Some(folded.map(|folded| patch.replace(root.value(), folded).erase([node])))
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;

    #[test]
    fn only_the_last_shape_counts() {
        let text = "graph(%x: f32[batch, seq, 8]) {
            %a = reshape %x {shape=[batch, seq, 2, 4]}
            %b = reshape %a {shape=[batch, seq, 8]}
            %c = reshape %b {shape=[batch, seq, 4, 2]}
            %d = reshape %b {shape=[batch*seq, 8]}
            return out=%c, flat=%d, same=%b }";
        assert_snapshot!(run(FoldReshape, text), @"
        graph<batch: 1.., seq: 1..>(
          %x: f32[batch, seq, 8],
        ) {
          %0 = reshape %x {shape=[batch, seq, 4, 2]} : f32[batch, seq, 4, 2]
          %1 = reshape %x {shape=[batch*seq, 8]} : f32[batch*seq, 8]
          return out=%0, flat=%1, same=%x
        }
        fired FoldReshape 4 times
        ");
    }
}
