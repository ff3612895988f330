//! What each operation becomes: a node of the same meaning, with operands where the operator wants them.

use llamac_ir::ops::{
    AppendAttention, Binary, BinaryFunction, Embed, GroupQueryAttention, Linear, Reduce, Reduction, Reshape,
    Rotary, RotaryLookup, Unary, UnaryFunction,
};
use llamac_ir::{Dim, NodeId, Op, Real, ValueId, Weight, WeightExpr};
use llamac_plan::diagnostic::Diagnostic;

use super::Profile;
use super::emit::{Emitter, ONE, Operator};
use super::model::Attribute;

impl Emitter<'_, '_> {
    /// Adds the node of `op`, which is `node` of the graph.
    pub(super) fn node(&mut self, node: NodeId, op: &Op) -> Result<(), Diagnostic> {
        let operator = match op {
            // Those whose operands are the operator's.
            Op::Add(_) => Operator::new("Add"),
            Op::Mul(_) => Operator::new("Mul"),
            Op::Binary(binary) => Operator::new(binary_operator(binary)),
            Op::Unary(unary) => Operator::new(unary_operator(unary)),
            Op::Act(_) => Operator::new("Relu"),
            Op::Matmul(_) => Operator::new("MatMul"),
            Op::Softmax(_) => Operator::new("Softmax").with("axis", Attribute::Int(-1)),
            Op::Where(_) => Operator::new("Where"),
            Op::Cast(cast) => Operator::new("Cast").with("to", Attribute::Type(cast.to)),
            Op::Concat(concat) => Operator::new("Concat").int("axis", concat.axis),
            Op::Expand(_) => Operator::new("Expand"),
            Op::Gather(gather) => Operator::new("Gather").int("axis", gather.axis),
            Op::GatherRows(_) => Operator::new("GatherND").int("batch_dims", 1),
            Op::Shape(shape) => Operator::new("Shape").int("start", shape.start).int("end", shape.end),
            Op::Transpose(transpose) => Operator::new("Transpose")
                .with("perm", Attribute::Ints(transpose.perm.iter().map(|&at| at as i64).collect())),
            Op::RotaryLookup(RotaryLookup { heads, .. }) => {
                Operator::microsoft("RotaryEmbedding").int("num_heads", *heads)
            }
            Op::Rotary(Rotary { heads, .. }) => Operator::new("RotaryEmbedding").int("num_heads", *heads),

            // Those that want more.
            Op::Constant(constant) => return self.constant(node, &constant.weight),
            Op::Embed(embed) => return self.embed(node, embed),
            Op::Linear(linear) => return self.linear(node, linear),
            Op::Reshape(reshape) => return self.reshape(node, reshape),
            Op::Split(split) => {
                let sizes: Vec<i64> = split.sizes.iter().map(|&size| size as i64).collect();
                let inputs = [self.operands(node), vec![self.integers(&sizes)]].concat();
                let outputs: Vec<Option<u32>> = (0..sizes.len() as u32).map(Some).collect();
                let operator = Operator::new("Split").with("axis", Attribute::Int(-1));
                self.add(node, operator, inputs, &outputs);
                return Ok(());
            }
            Op::Slice(slice) => {
                let ends = [self.integers(&[i64::MAX]), self.integers(&[slice.axis as i64])];
                let inputs = [self.operands(node), ends.to_vec()].concat();
                self.add(node, Operator::new("Slice"), inputs, ONE);
                return Ok(());
            }
            Op::Range(_) => {
                let inputs = [self.operands(node), vec![self.integer(1)]].concat();
                self.add(node, Operator::new("Range"), inputs, ONE);
                return Ok(());
            }
            Op::Reduce(reduce) => {
                self.reduce(node, reduce);
                return Ok(());
            }
            Op::RmsNorm(norm) => {
                let inputs = [self.operands(node), vec![self.float(node, &norm.weight, "weight")?]].concat();
                let operator = match self.profile {
                    Profile::Ort => Operator::new("SimplifiedLayerNormalization"),
                    Profile::Portable | Profile::Standard => Operator::new("RMSNormalization"),
                };
                let operator = operator.with("axis", Attribute::Int(-1)).with("epsilon", float(norm.eps));
                self.add(node, operator, inputs, ONE);
                return Ok(());
            }
            Op::AddRmsNorm(norm) => {
                let inputs = [self.operands(node), vec![self.float(node, &norm.weight, "weight")?]].concat();
                let operator = Operator::microsoft("SkipSimplifiedLayerNormalization");
                let outputs = [Some(1), None, None, Some(0)];
                let wanted = if self.is_used(ValueId { node, result: 0 }) { 4 } else { 1 };
                let operator = operator.with("epsilon", float(norm.eps));
                self.add(node, operator, inputs, &outputs[..wanted]);
                return Ok(());
            }
            Op::AppendAttention(attention) => {
                self.append_attention(node, attention);
                return Ok(());
            }
            Op::GroupQueryAttention(attention) => {
                self.group_query_attention(node, attention);
                return Ok(());
            }
            _ => return Err(self.illegal(node, "there is no operator for it")),
        };
        let inputs = self.operands(node);
        self.add(node, operator, inputs, ONE);
        Ok(())
    }

    fn is_used(&self, value: ValueId) -> bool {
        self.graph.is_result(value) || !self.graph.uses(value).is_empty()
    }

    fn embed(&mut self, node: NodeId, embed: &Embed) -> Result<(), Diagnostic> {
        if let Some(scheme) = embed.table.scheme() {
            return self.quantized_embed(node, embed, scheme);
        }
        let table = self.initializer(node, &embed.table, "weight")?;
        let inputs = [vec![table], self.operands(node)].concat();
        let gather = Operator::new("Gather").int("axis", 0);
        let dtype = self.graph.types(node)[0].dtype;
        if embed.table.dtype() == dtype {
            self.add(node, gather, inputs, ONE);
        } else {
            // The rows are few, the table is large.
            let rows = self.add_inner(node, gather, inputs);
            let cast = Operator::new("Cast").with("to", Attribute::Type(dtype));
            self.add(node, cast, vec![rows], ONE);
        }
        Ok(())
    }

    fn linear(&mut self, node: NodeId, linear: &Linear) -> Result<(), Diagnostic> {
        if let Some(scheme) = linear.weight.scheme() {
            return self.quantized_linear(node, linear, scheme);
        }
        let mut inputs = self.operands(node);
        if self.graph.types(node)[0].rank() == 2 {
            inputs.push(self.float(node, &linear.weight, "weight")?);
            if let Some(bias) = &linear.bias {
                inputs.push(self.float(node, bias, "bias")?);
            }
            self.add(node, Operator::new("Gemm").int("transB", 1), inputs, ONE);
            return Ok(());
        }
        if self.is_table(&linear.weight) {
            let table = self.float(node, &linear.weight, "weight")?;
            return self.table_product(node, linear, table);
        }
        let transposed = transposed(&linear.weight).ok_or_else(|| self.illegal(node, "it has no matrix"))?;
        inputs.push(self.float(node, &transposed, "MatMul.weight")?);
        self.matmul(node, linear, inputs)
    }

    /// The product of tokens and the `table` of an embedding in single precision, with the bias of `linear`. The table is
    /// stored once, as rows.
    pub(super) fn table_product(
        &mut self,
        node: NodeId,
        linear: &Linear,
        table: String,
    ) -> Result<(), Diagnostic> {
        let mut inputs = self.operands(node);
        if self.profile == Profile::Ort {
            inputs.push(table);
            return self.product(node, linear, Operator::microsoft("FusedMatMul").int("transB", 1), inputs);
        }
        // Runtimes do this once, or not at all. A Gemm would need a Reshape of the logits, which they copy.
        let transpose = Operator::new("Transpose").with("perm", Attribute::Ints(vec![1, 0]));
        inputs.push(self.add_inner(node, transpose, vec![table]));
        self.matmul(node, linear, inputs)
    }

    /// The product of `inputs`, tokens and a matrix `[in, out]`, with the bias of `linear`.
    pub(super) fn matmul(
        &mut self,
        node: NodeId,
        linear: &Linear,
        inputs: Vec<String>,
    ) -> Result<(), Diagnostic> {
        self.product(node, linear, Operator::new("MatMul"), inputs)
    }

    /// What `product` makes of `inputs`, with the bias of `linear`.
    fn product(
        &mut self,
        node: NodeId,
        linear: &Linear,
        product: Operator,
        inputs: Vec<String>,
    ) -> Result<(), Diagnostic> {
        match &linear.bias {
            None => self.add(node, product, inputs, ONE),
            Some(bias) => {
                let product = self.add_inner(node, product, inputs);
                let bias = self.float(node, bias, "Add.bias")?;
                self.add(node, Operator::new("Add"), vec![product, bias], ONE);
            }
        }
        Ok(())
    }

    /// Whether `weight` is also the table of an embedding.
    pub(super) fn is_table(&self, weight: &Weight) -> bool {
        let mut nodes = self.graph.order().into_iter();
        nodes.any(|node| self.graph.op_ref::<Embed>(node).is_some_and(|embed| embed.table == *weight))
    }

    /// Sizes that stay where they are and one that is not known need not be computed.
    fn reshape(&mut self, node: NodeId, reshape: &Reshape) -> Result<(), Diagnostic> {
        let operand = self.graph.ty(self.graph.operands(node)[0]).shape.clone();
        let mut sizes: Vec<Result<i64, &Dim>> = Vec::new();
        for (i, dim) in reshape.shape.iter().enumerate() {
            sizes.push(match dim.as_constant() {
                // 0 would mean something else.
                Some(size) if size != 0 => Ok(size),
                _ if operand.get(i) == Some(dim) => Ok(0),
                _ => Err(dim),
            });
        }
        if let Some(last) = sizes.iter_mut().rfind(|size| size.is_err()) {
            *last = Ok(-1);
        }
        let mut parts = Vec::new();
        for sizes in sizes.chunk_by(|a, b| a.is_ok() && b.is_ok()) {
            match sizes {
                [Err(dim)] => parts.push(self.size(node, dim)?),
                _ => parts.push(self.integers(&sizes.iter().flatten().copied().collect::<Vec<_>>())),
            }
        }
        let shape = if parts.is_empty() { self.integers(&[]) } else { self.shape(parts) };
        let inputs = [self.operands(node), vec![shape]].concat();
        self.add(node, Operator::new("Reshape"), inputs, ONE);
        Ok(())
    }

    fn reduce(&mut self, node: NodeId, reduce: &Reduce) {
        let operator = Operator::new(match reduce.function {
            Reduction::Mean => "ReduceMean",
            Reduction::Max => "ReduceMax",
        });
        let mut inputs = self.operands(node);
        let operator = operator.int("keepdims", usize::from(reduce.axis.is_some()));
        let operator = match (reduce.axis, self.profile) {
            (None, _) => operator,
            (Some(axis), Profile::Portable) => operator.with("axes", Attribute::Ints(vec![axis as i64])),
            // Since opset 18 they are an operand.
            (Some(axis), Profile::Standard | Profile::Ort) => {
                inputs.push(self.integers(&[axis as i64]));
                operator
            }
        };
        self.add(node, operator, inputs, ONE);
    }

    fn append_attention(&mut self, node: NodeId, attention: &AppendAttention) {
        let AppendAttention { heads, kv_heads, scale, .. } = attention;
        let operator = Operator::new("Attention")
            .int("q_num_heads", *heads)
            .int("kv_num_heads", *kv_heads)
            .int("is_causal", 0)
            .with("scale", float(*scale));
        let inputs = self.operands(node);
        let outputs: Vec<Option<u32>> = (0..self.graph.types(node).len() as u32).map(Some).collect();
        self.add(node, operator, inputs, &outputs);
    }

    fn group_query_attention(&mut self, node: NodeId, attention: &GroupQueryAttention) {
        let GroupQueryAttention { heads, kv_heads, scale, .. } = attention;
        let operator = Operator::microsoft("GroupQueryAttention")
            .int("num_heads", *heads)
            .int("kv_num_heads", *kv_heads)
            .int("do_rotary", 0)
            .with("scale", float(*scale));
        let operands = self.operands(node);
        let none = String::new;
        let [past_key, past_value] = [6, 7].map(|at| operands.get(at).cloned().unwrap_or_default());
        let [query, key, value, bias, last, total] = [0, 1, 2, 3, 4, 5].map(|at| operands[at].clone());
        let inputs = vec![query, key, value, past_key, past_value, last, total, none(), none(), none(), bias];
        let outputs: Vec<Option<u32>> = (0..self.graph.types(node).len() as u32).map(Some).collect();
        self.add(node, operator, inputs, &outputs);
    }
}

fn float(value: Real) -> Attribute {
    Attribute::Float(value.f32())
}

fn binary_operator(binary: &Binary) -> &'static str {
    match binary.function {
        BinaryFunction::Sub => "Sub",
        BinaryFunction::Div => "Div",
        BinaryFunction::Pow => "Pow",
        BinaryFunction::Max => "Max",
        BinaryFunction::LessOrEqual => "LessOrEqual",
        BinaryFunction::Greater => "Greater",
        BinaryFunction::Equal => "Equal",
        BinaryFunction::And => "And",
    }
}

fn unary_operator(unary: &Unary) -> &'static str {
    match unary.function {
        UnaryFunction::Cos => "Cos",
        UnaryFunction::Sin => "Sin",
        UnaryFunction::Sqrt => "Sqrt",
        UnaryFunction::Sigmoid => "Sigmoid",
        UnaryFunction::Erf => "Erf",
        UnaryFunction::Tanh => "Tanh",
        UnaryFunction::Neg => "Neg",
    }
}

/// The matrix with rows and columns exchanged. Conversions come last, when elements are where they belong.
fn transposed(matrix: &Weight) -> Option<Weight> {
    match matrix.expr() {
        WeightExpr::Convert { base, dtype } => transposed(base)?.convert(*dtype).ok(),
        WeightExpr::Concat { parts } => {
            let stored = |part: &Weight| match part.expr() {
                WeightExpr::Convert { base, .. } => base.clone(),
                _ => part.clone(),
            };
            match Weight::concat(parts.iter().map(stored)) {
                Ok(stored) => stored.transpose().ok()?.convert(matrix.dtype()).ok(),
                // Of several dtypes.
                Err(_) => matrix.transpose().ok(),
            }
        }
        _ => matrix.transpose().ok(),
    }
}
