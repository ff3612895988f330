//! A JSON object of which some members are changed and the others stay as they are, in their order.

use std::fmt;

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::{RawValue, to_raw_value};

/// The members of an object in the order of the file, their values as they are there.
#[derive(Debug)]
pub struct Members {
    members: IndexMap<String, Box<RawValue>>,
    changed: bool,
}

impl Members {
    /// The names of the members, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// The value of a member, as text.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.members.get(key).map(|value| value.get())
    }

    /// Changes or adds a member.
    pub fn set(&mut self, key: &str, value: &impl serde::Serialize) {
        let value = to_raw_value(value).expect("numbers, texts and lists of them are JSON");
        self.changed = true;
        self.members.insert(key.to_owned(), value);
    }

    /// Takes a member out, if it is there.
    pub fn remove(&mut self, key: &str) {
        self.changed |= self.get(key).is_some();
        self.members.retain(|name, _| name != key);
    }

    /// Sets what is not there, or null.
    pub fn default(&mut self, key: &str, value: &impl serde::Serialize) {
        if self.get(key).is_none_or(|value| value == "null") {
            self.set(key, value);
        }
    }

    /// The object as text, if it was changed.
    pub fn text(&self) -> Option<Vec<u8>> {
        let lines = self
            .members
            .iter()
            .map(|(key, value)| format!("  {}: {value}", serde_json::Value::from(key.as_str())));
        let lines: Vec<String> = lines.collect();
        self.changed.then(|| format!("{{\n{}\n}}\n", lines.join(",\n")).into_bytes())
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = IndexMap::new();
                // As in every reader, the last of several members of one name counts.
                while let Some((key, value)) = map.next_entry()? {
                    members.insert(key, value);
                }
                Ok(Members { members, changed: false })
            }
        }
        deserializer.deserialize_map(Object)
    }
}
