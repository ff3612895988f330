//! Parsing graphs. Every instruction is type-checked as it is read, so errors have a place.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use super::{Cursor, SyntaxError, TextError};
use crate::attrs::Attrs;
use crate::{Bounds, BuildError, Builder, Graph, Loc, Op, Symbol, TensorType, ValueId, Weight};

impl Graph {
    /// Reads a graph, and verifies it. The inverse of printing, with or without locations.
    ///
    /// Values may have any name; types after `:` must be the inferred ones; bounds of symbols that the header does
    /// not mention are the default ones.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let mut parser = Parser {
            cursor: Cursor::new(text),
            builder: Builder::new(),
            values: HashMap::new(),
            weights: BTreeMap::new(),
        };
        parser.graph()?;
        Ok(parser.builder.finish()?)
    }
}

impl FromStr for Graph {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        Self::parse(text)
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    builder: Builder,
    values: HashMap<String, ValueId>,
    weights: BTreeMap<String, Weight>,
}

impl Parser<'_> {
    fn graph(&mut self) -> Result<(), SyntaxError> {
        self.cursor.expect("graph")?;
        if self.cursor.eat("<") {
            let bounds = self.cursor.list(">", bounds)?;
            for (symbol, bounds) in bounds {
                self.builder.bounds(symbol, bounds);
            }
        }
        self.cursor.expect("(")?;
        loop {
            if self.cursor.eat(")") {
                break;
            }
            self.declaration()?;
            if !self.cursor.eat(",") {
                self.cursor.expect(")")?;
                break;
            }
        }
        self.cursor.expect("{")?;
        while self.cursor.at("%") {
            self.instruction()?;
        }
        self.results()?;
        self.cursor.expect("}")?;
        if self.cursor.at_end() { Ok(()) } else { Err(self.cursor.error("the end of the text")) }
    }

    fn declaration(&mut self) -> Result<(), SyntaxError> {
        let start = self.cursor.mark();
        if self.cursor.eat("@") {
            let name = self.cursor.name("the name of a weight")?;
            self.cursor.expect(":")?;
            let ty = TensorType::parse(&mut self.cursor)?;
            let sizes = ty.shape.iter().map(|dim| dim.as_constant().and_then(|n| usize::try_from(n).ok()));
            let shape: Option<Vec<usize>> = sizes.collect();
            let shape = shape.ok_or_else(|| start.error(format!("@{name}: sizes of weights are numbers")))?;
            let weight = Weight::source(&name, ty.dtype, &shape).map_err(|e| start.error(e.to_string()))?;
            return match self.weights.insert(name.clone(), weight) {
                Some(_) => Err(start.error(format!("@{name} is declared twice"))),
                None => Ok(()),
            };
        }
        self.cursor.expect("%")?;
        let name = self.cursor.name("the name of a parameter")?;
        self.cursor.expect(":")?;
        let ty = TensorType::parse(&mut self.cursor)?;
        let value = self.builder.param(&name, ty).map_err(|e| start.error(e.to_string()))?;
        self.values.insert(name, value);
        Ok(())
    }

    fn instruction(&mut self) -> Result<(), SyntaxError> {
        let start = self.cursor.mark();
        let mut names = Vec::new();
        loop {
            self.cursor.expect("%")?;
            names.push(self.cursor.name("the name of a value")?);
            if !self.cursor.eat(",") {
                break;
            }
        }
        self.cursor.expect("=")?;
        let at_op = self.cursor.mark();
        let mnemonic = self.cursor.identifier("an operation")?;
        let (args, weights) = self.operands()?;
        let attrs =
            if self.cursor.eat("{") { Attrs::parse(&mut self.cursor, "}")? } else { Attrs::default() };
        if ![":", "loc(", "%", "return"].iter().any(|next| self.cursor.at(next)) {
            return Err(self.cursor.error("`,`, attributes, `:` or the next instruction"));
        }
        let op = Op::build(mnemonic, weights, &attrs).map_err(|message| {
            at_op.error(if Op::MNEMONICS.contains(&mnemonic) {
                format!("{mnemonic}: {message}")
            } else {
                message
            })
        })?;

        let declared = self.cursor.eat(":").then(|| (self.cursor.mark(), self.types(names.len())));
        let loc = self.loc()?;
        let results = self.builder.push_all(op, &args, &loc).map_err(|error| match error {
            BuildError::Operation { mnemonic, message, .. } => at_op.error(format!("{mnemonic}: {message}")),
            error => at_op.error(error.to_string()),
        })?;
        if let Some((at_types, declared)) = declared {
            let inferred: Vec<&TensorType> = results.iter().map(|&value| self.builder.ty(value)).collect();
            let declared = declared?;
            if declared.iter().ne(inferred.iter().copied()) {
                return Err(
                    at_types.error(format!("{mnemonic} results in {inferred:?}, not in {declared:?}"))
                );
            }
        }
        if results.len() != names.len() {
            let (names, results) = (names.len(), results.len());
            return Err(
                start.error(format!("{names} names for the results of {mnemonic}, which are {results}"))
            );
        }
        for (name, value) in names.into_iter().zip(results) {
            if self.values.insert(name.clone(), value).is_some() {
                return Err(start.error(format!("%{name} is defined twice")));
            }
        }
        Ok(())
    }

    fn operands(&mut self) -> Result<(Vec<ValueId>, Vec<Weight>), SyntaxError> {
        let (mut values, mut weights) = (Vec::new(), Vec::new());
        loop {
            if self.cursor.at("%") && weights.is_empty() {
                values.push(self.value()?);
            } else {
                weights.push(Weight::parse(&mut self.cursor, &self.weights)?);
            }
            if !self.cursor.eat(",") {
                return Ok((values, weights));
            }
        }
    }

    fn value(&mut self) -> Result<ValueId, SyntaxError> {
        let start = self.cursor.mark();
        self.cursor.expect("%")?;
        let name = self.cursor.name("the name of a value")?;
        self.values.get(&name).copied().ok_or_else(|| start.error(format!("%{name} is not defined")))
    }

    fn types(&mut self, count: usize) -> Result<Vec<TensorType>, SyntaxError> {
        let mut types = vec![TensorType::parse(&mut self.cursor)?];
        for _ in 1..count {
            self.cursor.expect(",")?;
            types.push(TensorType::parse(&mut self.cursor)?);
        }
        Ok(types)
    }

    fn loc(&mut self) -> Result<Loc, SyntaxError> {
        if !self.cursor.eat("loc(") {
            return Ok(Loc::none());
        }
        let modules = self.cursor.list(")", |cursor| cursor.name("the name of a module"))?;
        let locs: Vec<Loc> = modules.iter().map(|module| Loc::new(module)).collect();
        Ok(Loc::merge(&locs))
    }

    fn results(&mut self) -> Result<(), SyntaxError> {
        if !self.cursor.eat("return") {
            return Err(self.cursor.error("an instruction or `return`"));
        }
        loop {
            let start = self.cursor.mark();
            let name = self.cursor.name("the name of a result")?;
            self.cursor.expect("=")?;
            let value = self.value()?;
            self.builder.result(&name, value).map_err(|e| start.error(e.to_string()))?;
            if !self.cursor.eat(",") {
                return Ok(());
            }
        }
    }
}

fn bounds(cursor: &mut Cursor<'_>) -> Result<(Symbol, Bounds), SyntaxError> {
    let start = cursor.mark();
    let name = cursor.identifier("a symbol")?;
    let symbol = Symbol::from_name(name).ok_or_else(|| {
        let names = Symbol::ALL.map(Symbol::name);
        start.error(format!("`{name}` is not a symbol: {}", names.join(", ")))
    })?;
    cursor.expect(":")?;
    let min = cursor.integer()?;
    cursor.expect("..")?;
    let max = if cursor.eat("=") { Some(cursor.integer()?) } else { None };
    Ok((symbol, Bounds { min, max }))
}
