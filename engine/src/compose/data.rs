//! Merge data: one recipient's values, and what else a template may name.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, Value};

/// The field names of a list, shared by all its records.
#[derive(Debug, Default)]
pub struct Columns {
    names: Vec<String>,
    index: HashMap<String, usize>,
}

impl Columns {
    /// Columns in order. Of two with one name the first is meant.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Arc<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let mut index = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            index.entry(name.clone()).or_insert(at);
        }
        Arc::new(Self { names, index })
    }

    /// Position of `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        // Few columns: comparing beats hashing.
        if self.names.len() <= 8 {
            return self.names.iter().position(|n| n == name);
        }
        self.index.get(name).copied()
    }

    /// The names in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// One recipient's values.
#[derive(Clone, Debug)]
pub struct Data {
    columns: Arc<Columns>,
    values: Vec<Value>,
}

impl Data {
    /// Values in the order of `columns`; what is too much is dropped, what is too little is missing.
    pub fn new<'a>(columns: Arc<Columns>, values: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            columns,
            values: values.into_iter().map(Value::from).collect(),
        }
    }

    /// The same from values of any kind: numbers, lists, maps.
    pub const fn from_values(columns: Arc<Columns>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// From names and values, as a command line gives them.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (names, values): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        Self::new(Columns::new(names), values)
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(self.columns.position(name)?)
    }
}

/// Names a template may use beside its fields.
pub(super) const BUILT_IN: &[&str] = &[
    "recipient",
    "recipient_local",
    "recipient_domain",
    "carrier",
    "now",
];

/// The root of a rendering: data, then defaults, then what Hikyaku itself knows.
#[derive(Debug)]
pub(super) struct Merge {
    pub data: Arc<Data>,
    pub defaults: Arc<HashMap<String, Value>>,
    /// In the order of [`BUILT_IN`]; empty if the template uses none of them.
    pub built_in: Vec<Value>,
}

impl Object for Merge {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        if let Some(value) = self.data.get(key) {
            // An empty cell of a list is no reason to greet nobody: its default stands in.
            if value.as_str() == Some("")
                && let Some(default) = self.defaults.get(key)
            {
                return Some(default.clone());
            }
            return Some(value.clone());
        }
        if let Some(default) = self.defaults.get(key) {
            return Some(default.clone());
        }
        let at = BUILT_IN.iter().position(|name| *name == key)?;
        self.built_in.get(at).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}
