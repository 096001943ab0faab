//! Environment variables in the order of their last assignment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Environment variables in the order of their last assignment. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Env(Arc<Inner>);

#[derive(Clone, Debug, Default)]
struct Inner {
    next: u64,
    by_order: BTreeMap<u64, (String, String)>,
    order: HashMap<String, u64>,
}

impl Env {
    /// No variables.
    pub fn new() -> Env {
        Env::default()
    }

    /// Sets a variable; an assigned one moves to the end.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let key = key.into();
        let inner = Arc::make_mut(&mut self.0);
        let order = inner.next;
        inner.next += 1;
        if let Some(old) = inner.order.insert(key.clone(), order) {
            inner.by_order.remove(&old);
        }
        inner.by_order.insert(order, (key, value.into()));
    }

    /// Removes a variable.
    pub fn remove(&mut self, key: &str) {
        if !self.0.order.contains_key(key) {
            return;
        }
        let inner = Arc::make_mut(&mut self.0);
        if let Some(old) = inner.order.remove(key) {
            inner.by_order.remove(&old);
        }
    }

    /// The value of a variable.
    pub fn get(&self, key: &str) -> Option<&str> {
        let order = self.0.order.get(key)?;
        self.0.by_order.get(order).map(|(_, value)| value.as_str())
    }

    /// The names, the one assigned last at the end.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.by_order.values().map(|(key, _)| key.as_str())
    }

    /// `KEY=value` of each variable.
    pub fn to_list(&self) -> Vec<String> {
        self.0
            .by_order
            .values()
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }
}

impl<'a> FromIterator<&'a str> for Env {
    /// From `KEY=value` texts.
    fn from_iter<T: IntoIterator<Item = &'a str>>(items: T) -> Env {
        let mut env = Env::new();
        for item in items {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            env.set(key, value);
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assigned_variable_moves_to_the_end() {
        let mut env: Env = ["A=1", "B=2", "C"].into_iter().collect();
        let before = env.clone();
        env.set("A", "3");
        env.remove("C");
        assert_eq!(env.to_list(), ["B=2", "A=3"]);
        assert_eq!(before.to_list(), ["A=1", "B=2", "C="]);
    }
}
