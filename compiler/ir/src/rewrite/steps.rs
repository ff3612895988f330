//! Patches that add many operations in one place, written one after the other.

use super::{NoMatch, OpRef, Patch, PatchValue};
use crate::ops::{
    Add, Binary, BinaryFunction, Cast, Constant, Mul, Reshape, Transpose, Unary, UnaryFunction,
};
use crate::{DType, Dim, Graph, Loc, Op, OpDef, TensorType, ValueId, Weight};

/// A patch under construction, with short names for the operations that legalizations are made of.
#[derive(Debug)]
pub struct Steps<'g> {
    graph: &'g Graph,
    loc: Loc,
    patch: Patch,
}

impl<'g> Steps<'g> {
    /// Operations in the place of `root`.
    pub fn new<T: OpDef>(root: OpRef<'g, T>) -> Self {
        Self { graph: root.graph(), loc: root.loc().clone(), patch: Patch::new() }
    }

    /// Operations that come from `loc`.
    pub fn at(graph: &'g Graph, loc: Loc) -> Self {
        Self { graph, loc, patch: Patch::new() }
    }

    /// What follows comes from `loc`.
    pub fn move_to(&mut self, loc: &Loc) {
        self.loc = loc.clone();
    }

    /// The type of a value that is there or was added.
    pub fn ty(&self, value: PatchValue) -> Result<&TensorType, NoMatch> {
        self.patch.ty(self.graph, value).map_err(|message| NoMatch::new(message, &self.loc))
    }

    /// Adds an operation; its first result.
    pub fn add(&mut self, op: impl Into<Op>, args: &[PatchValue]) -> Result<PatchValue, NoMatch> {
        self.patch.add(self.graph, &self.loc, op, args)
    }

    /// A weight as a value.
    pub fn constant(&mut self, weight: Weight) -> Result<PatchValue, NoMatch> {
        self.add(Constant { weight }, &[])
    }

    /// A few numbers as a value.
    pub fn literal(&mut self, dtype: DType, shape: &[usize], values: &[f64]) -> Result<PatchValue, NoMatch> {
        let weight = Weight::literal(dtype, shape, values);
        let weight = weight.map_err(|error| NoMatch::new(error.to_string(), &self.loc))?;
        self.constant(weight)
    }

    /// One `f32` number as a value.
    pub fn number(&mut self, value: f64) -> Result<PatchValue, NoMatch> {
        self.literal(DType::F32, &[], &[value])
    }

    /// `a + b`.
    pub fn sum(&mut self, a: PatchValue, b: PatchValue) -> Result<PatchValue, NoMatch> {
        self.add(Add, &[a, b])
    }

    /// `a · b`.
    pub fn product(&mut self, a: PatchValue, b: PatchValue) -> Result<PatchValue, NoMatch> {
        self.add(Mul, &[a, b])
    }

    /// Another function of two.
    pub fn binary(
        &mut self,
        function: BinaryFunction,
        a: PatchValue,
        b: PatchValue,
    ) -> Result<PatchValue, NoMatch> {
        self.add(Binary { function }, &[a, b])
    }

    /// A function of one.
    pub fn unary(&mut self, function: UnaryFunction, x: PatchValue) -> Result<PatchValue, NoMatch> {
        self.add(Unary { function }, &[x])
    }

    /// `x` as another element type; itself if it is of that type.
    pub fn cast(&mut self, x: PatchValue, to: DType) -> Result<PatchValue, NoMatch> {
        if self.ty(x)?.dtype == to { Ok(x) } else { self.add(Cast { to }, &[x]) }
    }

    /// `x` in another shape.
    pub fn reshape(
        &mut self,
        x: PatchValue,
        shape: impl IntoIterator<Item = Dim>,
    ) -> Result<PatchValue, NoMatch> {
        self.add(Reshape { shape: shape.into_iter().collect() }, &[x])
    }

    /// `x` with its dimensions in another order.
    pub fn transpose(&mut self, x: PatchValue, perm: &[usize]) -> Result<PatchValue, NoMatch> {
        self.add(Transpose { perm: perm.to_vec() }, &[x])
    }

    /// The patch that puts `new` in the place of `old`.
    #[must_use]
    pub fn replace(self, old: ValueId, new: PatchValue) -> Patch {
        self.patch.replace(old, new)
    }
}
