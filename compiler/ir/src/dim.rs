//! Symbolic dimensions: canonical integer polynomials over four fixed symbols.
//!
//! The canonical form makes equality structural, so shape inference compares and never solves. What a graph cannot
//! say with these symbols (ragged rows, a window) is deliberately not expressible.

use std::fmt;
use std::ops::{Add, Mul};

use smallvec::SmallVec;

use crate::text::{Cursor, SyntaxError};

/// A size that is only known when a graph runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Symbol {
    /// Rows of a batch.
    Batch,
    /// Positions of this forward.
    Seq,
    /// Positions already in the cache.
    Past,
    /// Last positions whose logits are wanted, at most [`Symbol::Seq`]. No input carries it: the caller chooses it.
    Keep,
}

impl Symbol {
    /// Every symbol, in the order of a monomial's exponents.
    pub const ALL: [Self; 4] = [Self::Batch, Self::Seq, Self::Past, Self::Keep];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Seq => "seq",
            Self::Past => "past",
            Self::Keep => "keep",
        }
    }

    /// The symbol of a name in text.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The bounds that a graph starts with: one or more, `past` zero or more.
    pub fn default_bounds(self) -> Bounds {
        Bounds { min: i64::from(self != Self::Past), max: None }
    }
}

/// The values that a symbol may take, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// The smallest value.
    pub min: i64,
    /// The largest value, if there is one.
    pub max: Option<i64>,
}

impl Bounds {
    /// Whether `value` lies within.
    pub fn contains(&self, value: i64) -> bool {
        value >= self.min && self.max.is_none_or(|max| value <= max)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            Some(max) => write!(f, "{}..={max}", self.min),
            None => write!(f, "{}..", self.min),
        }
    }
}

/// Values of symbols for one evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bindings([Option<i64>; 4]);

impl Bindings {
    /// No symbol bound.
    pub fn new() -> Self {
        Self::default()
    }

    /// These bindings with `symbol` bound to `value`.
    #[must_use]
    pub fn with(mut self, symbol: Symbol, value: i64) -> Self {
        self.set(symbol, value);
        self
    }

    /// Binds `symbol` to `value`.
    pub fn set(&mut self, symbol: Symbol, value: i64) {
        self.0[symbol as usize] = Some(value);
    }

    /// The value of `symbol`, if bound.
    pub fn get(&self, symbol: Symbol) -> Option<i64> {
        self.0[symbol as usize]
    }
}

/// Exponents of `batch`, `seq`, `past`, `keep`.
type Monomial = [u8; 4];
const CONSTANT: Monomial = [0; 4];

/// A dimension: an integer polynomial over [`Symbol`]s, canonical (terms sorted, no zero coefficient).
///
/// Arithmetic saturates: a size that does not fit in `i64` equals no size of a tensor that can exist.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(SmallVec<[(Monomial, i64); 2]>);

impl Dim {
    /// The dimension of a fixed size.
    pub fn constant(value: i64) -> Self {
        Self::canonical([(CONSTANT, value)])
    }

    /// The dimension `symbol`.
    pub fn symbol(symbol: Symbol) -> Self {
        let mut exponents = CONSTANT;
        exponents[symbol as usize] = 1;
        Self::canonical([(exponents, 1)])
    }

    fn canonical(terms: impl IntoIterator<Item = (Monomial, i64)>) -> Self {
        let mut all: SmallVec<[(Monomial, i64); 2]> = terms.into_iter().collect();
        all.sort_unstable_by_key(|&(monomial, _)| monomial);
        let mut merged: SmallVec<[(Monomial, i64); 2]> = SmallVec::new();
        for (monomial, factor) in all {
            match merged.last_mut() {
                Some((last, sum)) if *last == monomial => *sum = sum.saturating_add(factor),
                _ => merged.push((monomial, factor)),
            }
        }
        merged.retain(|(_, factor)| *factor != 0);
        Self(merged)
    }

    /// The size, if it is fixed.
    pub fn as_constant(&self) -> Option<i64> {
        match self.0.as_slice() {
            [] => Some(0),
            [(CONSTANT, value)] => Some(*value),
            _ => None,
        }
    }

    /// The symbol, if the dimension is exactly one symbol.
    pub fn as_symbol(&self) -> Option<Symbol> {
        Symbol::ALL.into_iter().find(|&s| *self == Self::symbol(s))
    }

    /// The symbols that occur.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol> + '_ {
        Symbol::ALL.into_iter().filter(|&s| self.0.iter().any(|(monomial, _)| monomial[s as usize] > 0))
    }

    /// The size under `bindings`, or the first symbol that is not bound.
    pub fn eval(&self, bindings: &Bindings) -> Result<i64, Symbol> {
        let mut sum = 0i64;
        for (monomial, factor) in &self.0 {
            let mut product = *factor;
            for symbol in Symbol::ALL {
                let exponent = monomial[symbol as usize];
                if exponent > 0 {
                    let value = bindings.get(symbol).ok_or(symbol)?;
                    product = product.saturating_mul(value.saturating_pow(u32::from(exponent)));
                }
            }
            sum = sum.saturating_add(product);
        }
        Ok(sum)
    }

    /// Reads a sum of products, such as `past + seq` or `2*batch*seq - 1`.
    pub(crate) fn parse(cursor: &mut Cursor<'_>) -> Result<Self, SyntaxError> {
        let mut sum = Self::constant(0);
        let mut sign = if cursor.eat("-") { -1 } else { 1 };
        loop {
            let mut term = Self::constant(sign);
            loop {
                term = term * Self::parse_factor(cursor)?;
                if !cursor.eat("*") {
                    break;
                }
            }
            sum = sum + term;
            if cursor.eat("+") {
                sign = 1;
            } else if cursor.eat("-") {
                sign = -1;
            } else {
                return Ok(sum);
            }
        }
    }

    fn parse_factor(cursor: &mut Cursor<'_>) -> Result<Self, SyntaxError> {
        if cursor.at_digit() {
            return Ok(Self::constant(cursor.integer()?));
        }
        let start = cursor.mark();
        let name = cursor.identifier("a size or a symbol")?;
        Symbol::from_name(name).map(Self::symbol).ok_or_else(|| {
            start.error(format!("`{name}` is not a symbol: sizes are numbers, batch, seq, past and keep"))
        })
    }
}

impl std::str::FromStr for Dim {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        let mut cursor = Cursor::new(text);
        let dim = Self::parse(&mut cursor)?;
        if cursor.at_end() { Ok(dim) } else { Err(cursor.error("the end of a size")) }
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Self {
        Self::symbol(symbol)
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Self::constant(value)
    }
}

impl From<usize> for Dim {
    fn from(value: usize) -> Self {
        Self::constant(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl Add for Dim {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::canonical(self.0.into_iter().chain(other.0))
    }
}

impl Mul for Dim {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let products = self.0.iter().flat_map(|(left, a)| {
            other.0.iter().map(move |(right, b)| {
                let mut monomial = *left;
                for (exponent, more) in monomial.iter_mut().zip(right) {
                    *exponent = exponent.saturating_add(*more);
                }
                (monomial, a.saturating_mul(*b))
            })
        });
        Self::canonical(products)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        // The constant sorts first and reads best last: `seq + 1`.
        let (constant, symbolic): (Vec<_>, Vec<_>) = self.0.iter().partition(|(m, _)| *m == CONSTANT);
        for (i, &(monomial, factor)) in symbolic.into_iter().chain(constant).enumerate() {
            match (i, factor < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            let names = Symbol::ALL
                .into_iter()
                .flat_map(|s| std::iter::repeat_n(s.name(), usize::from(monomial[s as usize])));
            let mut factors: Vec<String> = names.map(str::to_owned).collect();
            if factor.unsigned_abs() != 1 || factors.is_empty() {
                factors.insert(0, factor.unsigned_abs().to_string());
            }
            f.write_str(&factors.join("*"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dims() -> impl Strategy<Value = Dim> {
        prop::collection::vec((prop::array::uniform4(0u8..3), -5i64..6), 0..4).prop_map(Dim::canonical)
    }

    proptest! {
        #[test]
        fn addition_and_multiplication_form_a_commutative_ring(a in dims(), b in dims(), c in dims()) {
            prop_assert_eq!(a.clone() + b.clone(), b.clone() + a.clone());
            prop_assert_eq!(a.clone() * b.clone(), b.clone() * a.clone());
            prop_assert_eq!((a.clone() + b.clone()) + c.clone(), a.clone() + (b.clone() + c.clone()));
            prop_assert_eq!((a.clone() * b.clone()) * c.clone(), a.clone() * (b.clone() * c.clone()));
            prop_assert_eq!(a.clone() * (b.clone() + c.clone()), a.clone() * b + a.clone() * c);
            prop_assert_eq!(a.clone() + Dim::constant(0), a.clone());
            prop_assert_eq!(a.clone() * Dim::constant(1), a.clone());
            prop_assert_eq!(a.clone() + a * Dim::constant(-1), Dim::constant(0));
        }

        #[test]
        fn evaluation_is_a_homomorphism(a in dims(), b in dims(), v in prop::array::uniform4(0i64..5)) {
            let env = Symbol::ALL.into_iter().zip(v).fold(Bindings::new(), |env, (s, v)| env.with(s, v));
            let (x, y) = (a.eval(&env).unwrap(), b.eval(&env).unwrap());
            prop_assert_eq!((a.clone() + b.clone()).eval(&env).unwrap(), x + y);
            prop_assert_eq!((a * b).eval(&env).unwrap(), x * y);
        }

        #[test]
        fn text_is_the_identity(a in dims()) {
            let text = a.to_string();
            let mut cursor = Cursor::new(&text);
            prop_assert_eq!(Dim::parse(&mut cursor).unwrap(), a);
            prop_assert!(cursor.at_end());
        }
    }

    #[test]
    fn prints_symbols_before_the_constant() {
        let total = Dim::symbol(Symbol::Seq) + Dim::symbol(Symbol::Past);
        assert_eq!(total.to_string(), "past + seq");
        assert_eq!((total * Dim::constant(2) + Dim::constant(-1)).to_string(), "2*past + 2*seq - 1");
    }
}
