//! The trunk: embedding, layers, final norm.

use llamac_ir::ops::{
    Act, Add, Attention, Embed, KvAppend, Length, Linear, Mul, Positions, RmsNorm, Rope, SplitHeads,
};
use llamac_ir::{DType, Dim, Loc, Op, Real, Symbol, TensorType, ValueId};

use super::{Fault, Inputs, Model};

/// What a head can build on.
pub(super) struct Trunk {
    /// The token ids, where the model reads them.
    pub(super) ids: Option<ValueId>,
    /// The hidden states after the final norm.
    pub(super) last_hidden_state: ValueId,
    /// What transformers gives as hidden states, the last of them [`Trunk::last_hidden_state`].
    pub(super) hidden_states: Vec<ValueId>,
    /// Keys and values of each layer, grown by the new ones.
    pub(super) presents: Vec<[ValueId; 2]>,
}

/// What every layer uses.
struct Shared {
    positions: ValueId,
    length: Option<ValueId>,
    mask: Option<ValueId>,
}

impl Model<'_> {
    pub(super) fn trunk(&mut self) -> Result<Trunk, Fault> {
        let config = self.config;
        let (ids, embeddings) = match self.options.inputs {
            Inputs::Ids => (Some(self.builder.param("input_ids", TensorType::per_token())?), None),
            Inputs::Embeddings => {
                (None, Some(self.builder.param("inputs_embeds", TensorType::activation(config.hidden_size))?))
            }
        };
        let shared = self.shared(ids.or(embeddings))?;
        let layers = 0..config.num_hidden_layers;
        let pasts = layers.map(|n| self.past(n)).collect::<Result<Vec<_>, _>>()?;
        let mut hidden = match (ids, embeddings) {
            (Some(ids), _) => {
                let table = (self.weight)("model.embed_tokens.weight")?;
                self.push(Embed { table }, &[ids], "model.embed_tokens")?
            }
            (None, Some(embeddings)) => embeddings,
            (None, None) => unreachable!("one of the two inputs is there"),
        };
        let mut hidden_states = vec![hidden];
        let mut presents = Vec::new();
        for (n, past) in pasts.into_iter().enumerate() {
            let (output, present) = self.layer(n, hidden, past, &shared)?;
            hidden = output;
            hidden_states.push(hidden);
            presents.push(present);
        }
        let last_hidden_state = self.norm(hidden, "model.norm")?;
        // The last layer's own output is not among them: transformers gives the norm of it.
        hidden_states.pop();
        hidden_states.push(last_hidden_state);
        Ok(Trunk { ids, last_hidden_state, hidden_states, presents })
    }

    /// What every layer uses, for the positions that `input` has.
    fn shared(&mut self, input: Option<ValueId>) -> Result<Shared, Fault> {
        let total = match self.options.cache {
            true => Dim::from(Symbol::Past) + Dim::from(Symbol::Seq),
            false => Symbol::Seq.into(),
        };
        let mask = if self.options.mask {
            Some(self.builder.param("mask", TensorType::new(DType::I64, [Symbol::Batch.into(), total]))?)
        } else {
            None
        };
        let positions = match input {
            Some(input) if !self.options.positions => self.push(Positions, &[input], "model.rotary_emb")?,
            _ => self.builder.param("positions", TensorType::per_token())?,
        };
        let length = match (self.config.rope.scaling.depends_on_length(), self.options.length) {
            (false, _) => None,
            (true, true) => Some(self.builder.param("length", TensorType::new(DType::I64, []))?),
            (true, false) => Some(self.push(Length, &[positions], "model.rotary_emb")?),
        };
        Ok(Shared { positions, length, mask })
    }

    fn past(&mut self, layer: usize) -> Result<Option<[ValueId; 2]>, Fault> {
        if !self.options.cache {
            return Ok(None);
        }
        let ty = TensorType::cache(self.config.num_key_value_heads, self.config.head_dim);
        Ok(Some([
            self.builder.param(&format!("past.{layer}.key"), ty.clone())?,
            self.builder.param(&format!("past.{layer}.value"), ty)?,
        ]))
    }

    /// `new` behind the cache, if there is one.
    fn append(&mut self, past: Option<ValueId>, new: ValueId, at: &str) -> Result<ValueId, Fault> {
        match past {
            Some(past) => self.push(KvAppend, &[past, new], at),
            None => self.push(SplitHeads { heads: self.config.num_key_value_heads }, &[new], at),
        }
    }

    /// Pre-norm attention, then pre-norm feed-forward, each added to the residual stream.
    fn layer(
        &mut self,
        n: usize,
        x: ValueId,
        past: Option<[ValueId; 2]>,
        shared: &Shared,
    ) -> Result<(ValueId, [ValueId; 2]), Fault> {
        let at = format!("model.layers.{n}");
        let normed = self.norm(x, &format!("{at}.input_layernorm"))?;
        let (attended, present) = self.attention(normed, past, shared, &format!("{at}.self_attn"))?;
        let x = self.push(Add, &[x, attended], &at)?;
        let normed = self.norm(x, &format!("{at}.post_attention_layernorm"))?;
        let fed = self.feed_forward(normed, &format!("{at}.mlp"))?;
        Ok((self.push(Add, &[x, fed], &at)?, present))
    }

    fn attention(
        &mut self,
        x: ValueId,
        past: Option<[ValueId; 2]>,
        shared: &Shared,
        at: &str,
    ) -> Result<(ValueId, [ValueId; 2]), Fault> {
        let config = self.config;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let bias = config.attention_bias;
        let query = self.linear(x, &format!("{at}.q_proj"), bias)?;
        let key = self.linear(x, &format!("{at}.k_proj"), bias)?;
        let value = self.linear(x, &format!("{at}.v_proj"), bias)?;
        let query = self.rope(query, heads, shared, at)?;
        let key = self.rope(key, kv_heads, shared, at)?;
        let keys = self.append(past.map(|past| past[0]), key, at)?;
        let values = self.append(past.map(|past| past[1]), value, at)?;
        let attention = Attention {
            heads,
            kv_heads,
            head_dim: config.head_dim,
            scale: Real::new((config.head_dim as f64).powf(-0.5)),
            causal: true,
        };
        let operands: Vec<ValueId> = [query, keys, values].into_iter().chain(shared.mask).collect();
        let attended = self.push(attention, &operands, at)?;
        Ok((self.linear(attended, &format!("{at}.o_proj"), bias)?, [keys, values]))
    }

    fn rope(&mut self, x: ValueId, heads: usize, shared: &Shared, at: &str) -> Result<ValueId, Fault> {
        let config = self.config;
        let rope = Rope {
            heads,
            head_dim: config.head_dim,
            theta: config.rope.theta,
            scaling: config.rope.scaling.clone(),
            interleaved: false,
        };
        let operands: Vec<ValueId> = [x, shared.positions].into_iter().chain(shared.length).collect();
        self.push(rope, &operands, at)
    }

    fn feed_forward(&mut self, x: ValueId, at: &str) -> Result<ValueId, Fault> {
        let bias = self.config.mlp_bias;
        let gate = self.linear(x, &format!("{at}.gate_proj"), bias)?;
        let gate = self.push(Act { function: self.config.activation }, &[gate], at)?;
        let up = self.linear(x, &format!("{at}.up_proj"), bias)?;
        let product = self.push(Mul, &[gate, up], at)?;
        self.linear(product, &format!("{at}.down_proj"), bias)
    }

    fn norm(&mut self, x: ValueId, at: &str) -> Result<ValueId, Fault> {
        let weight = (self.weight)(&format!("{at}.weight"))?;
        self.push(RmsNorm { weight, eps: self.config.rms_norm_eps }, &[x], at)
    }

    pub(super) fn linear(&mut self, x: ValueId, at: &str, bias: bool) -> Result<ValueId, Fault> {
        let weight = (self.weight)(&format!("{at}.weight"))?;
        let bias = if bias { Some((self.weight)(&format!("{at}.bias"))?) } else { None };
        self.push(Linear { weight, bias }, &[x], at)
    }

    pub(super) fn push(
        &mut self,
        op: impl Into<Op>,
        operands: &[ValueId],
        at: &str,
    ) -> Result<ValueId, Fault> {
        Ok(self.builder.push(op, operands, &Loc::new(at))?)
    }
}
