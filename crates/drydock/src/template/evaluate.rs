//! Applies a template to a value.

use std::collections::BTreeMap;

use super::functions::Function;
use super::parse::{Base, Command, Node, Operand, Pipeline};
use super::{TemplateError, Value};

/// What a template says of `value`.
pub(super) fn apply(nodes: &[Node], value: &Value) -> Result<String, TemplateError> {
    let mut state = State {
        out: String::new(),
        variables: vec![("$".to_owned(), value.clone())],
    };
    state.list(nodes, value)?;
    Ok(state.out)
}

struct State {
    out: String,
    /// The innermost last.
    variables: Vec<(String, Value)>,
}

/// How a list ended.
enum Flow {
    On,
    Break,
    Continue,
}

impl State {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::On
                }
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&value.print());
                    }
                    Flow::On
                }
                Node::If(condition, then, otherwise) => {
                    self.scoped(|state| match state.pipeline(condition, dot)?.is_true() {
                        true => state.list(then, dot),
                        false => state.list(otherwise, dot),
                    })?
                }
                Node::With(condition, then, otherwise) => self.scoped(|state| {
                    let value = state.pipeline(condition, dot)?;
                    match value.is_true() {
                        true => state.list(then, &value),
                        false => state.list(otherwise, dot),
                    }
                })?,
                Node::Range(over, each, otherwise) => {
                    self.scoped(|state| state.range(over, each, otherwise, dot))?
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if !matches!(flow, Flow::On) {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// Variables of what is done go with it.
    fn scoped<T>(
        &mut self,
        action: impl FnOnce(&mut State) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        let count = self.variables.len();
        let done = action(self);
        self.variables.truncate(count);
        done
    }

    fn range(
        &mut self,
        over: &Pipeline,
        each: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let value = self.commands(&over.commands, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::Null => Vec::new(),
            Value::List(list) => (0_i64..).map(Value::Int).zip(list).collect(),
            Value::Map(map) => map.into_iter().map(|(k, v)| (Value::Text(k), v)).collect(),
            Value::Int(count) => (0..count).map(|n| (Value::Int(n), Value::Int(n))).collect(),
            other => {
                let error = format!("range can't iterate over {}", other.print());
                return Err(TemplateError::new(error));
            }
        };
        if items.is_empty() {
            return self.list(otherwise, dot);
        }
        for (key, item) in items {
            let flow = self.scoped(|state| {
                match &over.variables[..] {
                    [] => {}
                    [value] => state.set(value, item.clone(), over.declares)?,
                    [index, value, ..] => {
                        state.set(index, key, over.declares)?;
                        state.set(value, item.clone(), over.declares)?;
                    }
                }
                state.list(each, &item)
            })?;
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(&pipeline.commands, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.declares)?;
        }
        Ok(value)
    }

    fn set(&mut self, name: &str, value: Value, declare: bool) -> Result<(), TemplateError> {
        if declare {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let found = self.variables.iter_mut().rev().find(|(n, _)| n == name);
        let found = found.ok_or_else(|| undefined(name))?;
        found.1 = value;
        Ok(())
    }

    fn commands(&mut self, commands: &[Command], dot: &Value) -> Result<Value, TemplateError> {
        let mut given = None;
        for command in commands {
            given = Some(match command {
                Command::Value(operand) if given.is_none() => self.operand(operand, dot)?,
                Command::Value(_) => {
                    return Err(TemplateError::new("can't give argument to non-function"));
                }
                Command::Call(function, operands) => self.call(*function, operands, given, dot)?,
            });
        }
        Ok(given.unwrap_or(Value::Null))
    }

    fn call(
        &mut self,
        function: Function,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let mut arguments = Vec::new();
        for operand in operands {
            let value = self.operand(operand, dot)?;
            // What follows is not looked at.
            if function.is_decided_by(&value) {
                return Ok(value);
            }
            arguments.push(value);
        }
        arguments.extend(last);
        function.call(arguments)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        let mut value = match &operand.of {
            Base::Dot => dot.clone(),
            Base::Constant(value) => value.clone(),
            Base::Variable(name) => {
                let mut found = self.variables.iter().rev().filter(|(n, _)| n == name);
                let found = found.next().ok_or_else(|| undefined(name))?;
                found.1.clone()
            }
            Base::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Call(function) => function.call(Vec::new())?,
        };
        for name in &operand.fields {
            value = field(value, name)?;
        }
        Ok(value)
    }
}

fn undefined(name: &str) -> TemplateError {
    TemplateError::new(format!("undefined variable {name:?}"))
}

fn field(value: Value, name: &str) -> Result<Value, TemplateError> {
    let none = || TemplateError::new(format!("there is no field `{name}`"));
    match value {
        Value::Struct(fields) => {
            let found = fields.into_iter().find(|field| field.name == name);
            found.map(|field| field.value).ok_or_else(none)
        }
        Value::Map(mut map) => Ok(BTreeMap::remove(&mut map, name)
            .unwrap_or_else(|| Value::Text("<no value>".to_owned()))),
        Value::Null => Err(TemplateError::new(format!(
            "nil pointer evaluating `{name}`"
        ))),
        _ => Err(none()),
    }
}
