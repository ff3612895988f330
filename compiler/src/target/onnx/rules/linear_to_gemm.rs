//! Products with a matrix as the checkpoint has it, `[out, in]`: over all tokens as the rows of one matrix.
//!
//! ```text
//!                                r = reshape x {shape=[batch*seq, in]}
//! y = linear x, @w          →    g = linear r, @w
//!                                y = reshape g {shape=[batch, seq, out]}
//! ```
//!
//! A linear operation of three dimensions becomes a product with the transposed matrix. That needs a copy of the matrix,
//! which there must not be where weights stay in place.

use llamac_ir::Dim;
use llamac_ir::ops::Linear;
use llamac_ir::rewrite::{NoMatch, OpRef, OpSet, Patch, Rule, Steps};

/// Where a linear operation is illegal as it is.
#[derive(Clone, Copy, Debug)]
pub struct LinearToGemm;

impl Rule for LinearToGemm {
    const NAME: &'static str = "LinearToGemm";
    type Root = Linear;

    fn rewrite(&self, root: OpRef<'_, Linear>, target: &dyn OpSet) -> Result<Patch, NoMatch> {
        let (x, y) = (root.ty(root.operand(0)), root.ty(root.value()));
        let [batch, seq, width] = &x.shape[..] else {
            return Err(root.miss("it is a product of two matrices"));
        };
        let mut steps = Steps::new(root);
        let tokens: Dim = batch.clone() * seq.clone();
        let rows = steps.reshape(root.operand(0).into(), [tokens, width.clone()])?;
        let product = steps.add(root.op().clone(), &[rows])?;
        let product = steps.reshape(product, y.shape.iter().cloned())?;
        let patch = steps.replace(root.value(), product);
        patch.require_legal(root.graph(), target)?;
        Ok(patch.erase([root.id()]))
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use llamac_ir::testing::run;

    use super::*;

    const TIED: &str = "graph(%ids: i64[batch, seq], @table: bf16[16, 8], @w: bf16[8, 8]) {
        %x = embed %ids, @table
        %y = linear %x, @w
        %z = linear %y, @table
        return logits=%z }";

    #[test]
    fn tokens_are_the_rows_of_one_matrix() {
        assert_snapshot!(run(LinearToGemm, TIED), @"
        graph<batch: 1.., seq: 1..>(
          %ids: i64[batch, seq],
          @table: bf16[16, 8],
          @w: bf16[8, 8],
        ) {
          %0 = embed %ids, @table : f32[batch, seq, 8]
          %1 = reshape %0 {shape=[batch*seq, 8]} : f32[batch*seq, 8]
          %2 = linear %1, @w : f32[batch*seq, 8]
          %3 = reshape %2 {shape=[batch, seq, 8]} : f32[batch, seq, 8]
          %4 = reshape %3 {shape=[batch*seq, 8]} : f32[batch*seq, 8]
          %5 = linear %4, @table : f32[batch*seq, 16]
          %6 = reshape %5 {shape=[batch, seq, 16]} : f32[batch, seq, 16]
          return logits=%6
        }
        fired LinearToGemm 2 times
        missed LinearToGemm: ?: it is a product of two matrices
        ");
    }
}
