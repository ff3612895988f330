//! The machine that reads a pickle: a stack, marks and a memo, over values that are data and nothing else.
//!
//! Objects live in one list and refer to each other by position, so that neither a deep nor a circular structure is
//! ever walked by recursion. Every instruction counts against a limit, which bounds memory; strings stay where they
//! are in the pickle.

use std::collections::HashMap;

use llamac_plan::diagnostic::Code;

use super::globals::{self, Global};
use crate::source::safetensors::StoredDtype;

/// Instructions that are carried out: some thirty make a tensor, and the largest models have a few thousand.
const MAX_STEPS: usize = 1 << 19;

/// The longest name of a module, or in one.
const MAX_NAME: usize = 256;

/// The longest other text. Many objects may refer to one, and each reference is looked at.
const MAX_TEXT: usize = 4096;

/// Where a string is in the pickle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The string, whose encoding was checked when it was read.
    fn text(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(&bytes[self.start as usize..self.end as usize]).unwrap_or_default()
    }
}

/// A value on the stack or in an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(Span),
    Global(Global),
    /// A position in the list of objects.
    Object(u32),
}

/// Something that has parts, or was constructed. Small, since there may be as many as instructions.
#[derive(Debug)]
pub(super) enum Object {
    Tuple(Box<[Value]>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// Its members are never looked at.
    Set,
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
    /// What nobody asks for: a device, a dtype.
    Inert,
}

/// Elements that lie outside of the pickle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    pub(super) dtype: StoredDtype,
    /// Its name in the container.
    pub(super) key: Span,
    /// The number of its elements.
    pub(super) elements: u64,
    /// The part of it that is meant, if not all: the first element and the number of elements.
    pub(super) view: Option<(u64, u64)>,
}

/// A view of a storage; its sizes and strides are tuples.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    pub(super) offset: u64,
    pub(super) sizes: Value,
    pub(super) strides: Value,
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    objects: Vec<Object>,
    /// What it says.
    pub(super) value: Value,
    /// The number of its bytes.
    pub(super) end: usize,
}

/// Why a pickle cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// `DamagedTorchFile`, or `ForbiddenPickle` for what is more than data.
    pub(super) code: Code,
    /// Where, in bytes of the pickle.
    pub(super) place: usize,
    /// What is wrong.
    pub(super) message: String,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that `bytes` begins with.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let machine = Machine {
            bytes: &bytes[..bytes.len().min(u32::MAX as usize)],
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            objects: Vec::new(),
        };
        machine.run()
    }

    pub(super) fn text(&self, span: Span) -> &'a str {
        span.text(self.bytes)
    }

    pub(super) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(position) => self.objects.get(position as usize),
            _ => None,
        }
    }

    /// Every storage that it speaks of.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.objects
            .iter()
            .filter_map(|object| if let Object::Storage(storage) = object { Some(&**storage) } else { None })
    }

    /// The numbers of a tuple or a list of whole numbers, at most `most`.
    pub(super) fn numbers(&self, value: Value, most: usize) -> Option<Vec<i64>> {
        let items: &[Value] = match self.object(value)? {
            Object::Tuple(items) => items,
            Object::List(items) => items,
            _ => return None,
        };
        let number = |item: &Value| if let Value::Int(n) = item { Some(*n) } else { None };
        if items.len() <= most { items.iter().map(number).collect() } else { None }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    objects: Vec<Object>,
}

/// What is wrong, before it is known where.
enum Wrong {
    Damaged(String),
    Forbidden(String),
}

fn damaged<T>(message: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Damaged(message.into()))
}

fn forbidden<T>(message: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::Forbidden(message.into()))
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Result<Pickle<'a>, Fault> {
        for _ in 0..MAX_STEPS {
            let place = self.at;
            let fault = |wrong| match wrong {
                Wrong::Damaged(message) => Fault { code: Code::DamagedTorchFile, place, message },
                Wrong::Forbidden(message) => Fault { code: Code::ForbiddenPickle, place, message },
            };
            if let Some(value) = self.step().map_err(fault)? {
                let Self { bytes, at: end, objects, .. } = self;
                return Ok(Pickle { bytes, objects, value, end });
            }
        }
        let message = format!("it has more than {MAX_STEPS} instructions");
        Err(Fault { code: Code::DamagedTorchFile, place: self.at, message })
    }

    /// Carries out one instruction; the last one gives the pickle's value.
    fn step(&mut self) -> Result<Option<Value>, Wrong> {
        match self.byte()? {
            // PROTO, FRAME
            0x80 => match self.byte()? {
                2..=5 => {}
                version => return damaged(format!("protocol {version} is not one of 2 to 5")),
            },
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            // Constants
            b'N' => self.push(Value::None),
            truth @ (0x88 | 0x89) => self.push(Value::Bool(truth == 0x88)),
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()));
            }
            b'K' => {
                let n = self.byte()?;
                self.push(Value::Int(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                self.push(Value::Float);
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length.into())?;
            }
            0x8c | b'U' => {
                let length = self.byte()?;
                self.text(length.into())?;
            }
            0x8d => {
                let length = u64::from_le_bytes(self.array()?);
                self.text(length)?;
            }
            // Containers
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.create(Object::Tuple(Box::default())),
            b']' => self.create(Object::List(Vec::new())),
            b'}' => self.create(Object::Dict(Vec::new())),
            0x8f => self.create(Object::Set),
            b't' => {
                let items = self.pop_mark()?;
                self.create(Object::Tuple(items.into()));
            }
            count @ 0x85..=0x87 => {
                let items = self.pop_many(usize::from(count - 0x84))?;
                self.create(Object::Tuple(items.into()));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let pair = self.pop_many(2)?;
                self.set_items(&pair)?;
            }
            b'u' => {
                let pairs = self.pop_mark()?;
                self.set_items(&pairs)?;
            }
            0x90 => {
                self.pop_mark()?;
                let Some(Object::Set) = self.top()? else { return damaged("items are added to no set") };
            }
            // The memo
            b'q' => {
                let index = self.byte()?;
                self.remember(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let index = self.byte()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            // What constructs
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let &[Value::Text(module), Value::Text(name)] = &names[..] else {
                    return damaged("a name is no text");
                };
                self.global(module.text(self.bytes), name.text(self.bytes))?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.create(Object::Storage(Box::new(storage)));
            }
            b'R' | 0x81 => {
                let called = self.pop_many(2)?;
                let Value::Global(function) = called[0] else {
                    return forbidden("something is called that is no name");
                };
                self.construct(function, called[1])?;
            }
            b'b' => {
                self.pop()?;
                match self.top()? {
                    Some(Object::Dict(_) | Object::Tensor(_) | Object::Inert) => {}
                    _ => return forbidden("the state of an object is set that has none"),
                }
            }
            other => return forbidden(format!("the instruction {other:#04x} is none that tensors need")),
        }
        Ok(None)
    }

    // Reading

    fn take(&mut self, length: usize) -> Result<&'a [u8], Wrong> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else { return damaged("it ends in the middle of an instruction") };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        match self.take(N)?.first_chunk() {
            Some(array) => Ok(*array),
            None => damaged("it ends in the middle of an instruction"),
        }
    }

    fn byte(&mut self) -> Result<u8, Wrong> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A line of a name, without its end.
    fn line(&mut self) -> Result<&'a str, Wrong> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().take(MAX_NAME).position(|&byte| byte == b'\n') else {
            return damaged(format!("a name is cut, or longer than {MAX_NAME} bytes"));
        };
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).or_else(|_| damaged("a name is not UTF-8"))
    }

    /// A whole number of up to eight bytes.
    fn long(&mut self) -> Result<(), Wrong> {
        let length = self.byte()?;
        let bytes = self.take(length.into())?;
        if bytes.len() > 8 {
            return damaged(format!("a whole number has {length} bytes"));
        }
        let fill = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xFF } else { 0 };
        let mut all = [fill; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(all)));
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<(), Wrong> {
        let start = self.at as u32;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        if bytes.len() > MAX_TEXT {
            return damaged(format!("a text has {length} bytes, more than {MAX_TEXT}"));
        }
        if std::str::from_utf8(bytes).is_err() {
            return damaged("a text is not UTF-8");
        }
        self.push(Value::Text(Span { start, end: self.at as u32 }));
        Ok(())
    }

    // The stack

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn create(&mut self, object: Object) {
        self.stack.push(Value::Object(self.objects.len() as u32));
        self.objects.push(object);
    }

    /// The height below which the current mark does not let anybody reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value, Wrong> {
        if self.stack.len() <= self.floor() {
            return damaged("the stack is empty");
        }
        Ok(self.stack.pop().unwrap_or(Value::None))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, Wrong> {
        match self.stack.len().checked_sub(count).filter(|&start| start >= self.floor()) {
            Some(start) => Ok(self.stack.split_off(start)),
            None => damaged("the stack is empty"),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, Wrong> {
        match self.marks.pop() {
            Some(start) => Ok(self.stack.split_off(start)),
            None => damaged("there is no mark on the stack"),
        }
    }

    /// The object on top of the stack.
    fn top(&mut self) -> Result<Option<&mut Object>, Wrong> {
        match self.stack[self.floor()..].last() {
            Some(Value::Object(position)) => Ok(self.objects.get_mut(*position as usize)),
            Some(_) => Ok(None),
            None => damaged("the stack is empty"),
        }
    }

    fn append(&mut self, items: &[Value]) -> Result<(), Wrong> {
        let Some(Object::List(list)) = self.top()? else { return damaged("items are added to no list") };
        list.extend(items);
        Ok(())
    }

    fn set_items(&mut self, items: &[Value]) -> Result<(), Wrong> {
        let (pairs, rest) = items.as_chunks::<2>();
        let Some(Object::Dict(members)) = self.top()? else {
            return damaged("members are added to no dictionary");
        };
        if !rest.is_empty() {
            return damaged("a key has no value");
        }
        members.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn remember(&mut self, index: u32) -> Result<(), Wrong> {
        let Some(value) = self.stack[self.floor()..].last() else { return damaged("the stack is empty") };
        self.memo.insert(index, *value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), Wrong> {
        match self.memo.get(&index) {
            Some(value) => {
                self.push(*value);
                Ok(())
            }
            None => damaged(format!("nothing is remembered as number {index}")),
        }
    }

    // Constructing

    fn global(&mut self, module: &str, name: &str) -> Result<(), Wrong> {
        match globals::find(module, name) {
            Some(global) => {
                self.push(Value::Global(global));
                Ok(())
            }
            None => {
                let shown: String = format!("{module}.{name}").chars().take(MAX_NAME).collect();
                forbidden(format!("it asks for `{shown}`"))
            }
        }
    }

    fn tuple(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Object(position) => match self.objects.get(position as usize) {
                Some(Object::Tuple(items)) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// What a persistent id stands for: `("storage", class, key, device, elements[, view])`.
    fn storage(&self, id: Value) -> Result<Storage, Wrong> {
        let is_text = |span: Span, text: &str| span.text(self.bytes) == text;
        let (storage, view) = match self.tuple(id) {
            Some(&[Value::Text(what), class, Value::Text(key), Value::Text(_), Value::Int(elements)])
                if is_text(what, "storage") =>
            {
                ((class, key, elements), Value::None)
            }
            Some(
                &[Value::Text(what), class, Value::Text(key), Value::Text(_), Value::Int(elements), view],
            ) if is_text(what, "storage") => ((class, key, elements), view),
            _ => return forbidden("it refers to something that is no storage"),
        };
        let (Value::Global(Global::Storage(dtype)), key, elements) = storage else {
            return forbidden("it refers to a storage of no known class");
        };
        let count = |n: i64, what: &str| match u64::try_from(n) {
            Ok(n) => Ok(n),
            Err(_) => damaged(format!("a storage has {n} {what}")),
        };
        let view = match (view, self.tuple(view)) {
            (Value::None, _) => None,
            (_, Some(&[Value::Text(_), Value::Int(offset), Value::Int(length)])) => {
                Some((count(offset, "as the start of a view")?, count(length, "elements in a view")?))
            }
            _ => return damaged("the view of a storage has no offset and size"),
        };
        Ok(Storage { dtype, key, elements: count(elements, "elements")?, view })
    }

    /// Puts what `function` makes of `arguments` on the stack.
    fn construct(&mut self, function: Global, arguments: Value) -> Result<(), Wrong> {
        let Some(items) = self.tuple(arguments) else {
            return damaged("the arguments of a call are no tuple");
        };
        match (function, items) {
            (Global::OrderedDict, []) => self.create(Object::Dict(Vec::new())),
            (Global::RebuildTensor, &[storage, Value::Int(offset), sizes, strides, ..]) => {
                let tensor = self.tensor(storage, offset, sizes, strides)?;
                self.create(Object::Tensor(Box::new(tensor)));
            }
            (Global::RebuildParameter, &[tensor, ..]) => self.push(tensor),
            (Global::RebuildFromType, &[Value::Global(inner), _, arguments, ..])
                if inner != Global::RebuildFromType =>
            {
                self.construct(inner, arguments)?;
            }
            (Global::Size, &[sizes]) => self.push(sizes),
            (Global::Inert, _) => self.create(Object::Inert),
            _ => return forbidden("something is constructed from arguments that it does not take"),
        }
        Ok(())
    }

    fn tensor(&self, storage: Value, offset: i64, sizes: Value, strides: Value) -> Result<Tensor, Wrong> {
        let storage = match storage {
            Value::Object(position) => self.objects.get(position as usize),
            _ => None,
        };
        let Some(Object::Storage(storage)) = storage else { return damaged("a tensor has no storage") };
        let Ok(offset) = u64::try_from(offset) else {
            return damaged(format!("a tensor begins at element {offset} of its storage"));
        };
        Ok(Tensor { storage: **storage, offset, sizes, strides })
    }
}
