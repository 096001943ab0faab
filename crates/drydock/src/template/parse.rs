//! From words to what is to be done.

use std::collections::VecDeque;

use super::functions::Function;
use super::lex::{self, Part, Token};
use super::{TemplateError, Value};

/// Templates may be nested so deep.
const MAX_DEPTH: usize = 100;

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    Break,
    Continue,
}

/// Commands, each of which has what the one before it gave as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Variables that it is kept in.
    pub(super) variables: Vec<String>,
    /// Whether they are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Command>,
}

#[derive(Debug)]
pub(super) enum Command {
    Value(Operand),
    Call(Function, Vec<Operand>),
}

#[derive(Debug)]
pub(super) struct Operand {
    pub(super) of: Base,
    /// Fields of it, the outermost first.
    pub(super) fields: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Constant(Value),
    Pipeline(Box<Pipeline>),
    Call(Function),
}

/// Reads a template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        parts: lex::parts(text)?.into(),
        loops: 0,
        depth: 0,
    };
    match parser.list()? {
        (nodes, None) => Ok(nodes),
        (_, Some(end)) => Err(TemplateError::new(format!(
            "unexpected {{{{{}}}}}",
            end.word
        ))),
    }
}

struct Parser<'a> {
    parts: VecDeque<Part<'a>>,
    loops: usize,
    depth: usize,
}

/// What ended a list: `end`, or `else` with what follows it.
struct End {
    word: &'static str,
    more: Vec<Token>,
}

impl Parser<'_> {
    /// Nodes up to the next `end` or `else`, or the end of it all.
    fn list(&mut self) -> Result<(Vec<Node>, Option<End>), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(part) = self.parts.pop_front() {
            let action = match part {
                Part::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Part::Action(action) => lex::tokens(action)?,
            };
            let word = match action.first() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let more = || action[1..].to_vec();
            match word.as_str() {
                "end" | "else" => {
                    let word = if word == "end" { "end" } else { "else" };
                    let more = more();
                    return Ok((nodes, Some(End { word, more })));
                }
                "break" if self.loops > 0 => nodes.push(Node::Break),
                "continue" if self.loops > 0 => nodes.push(Node::Continue),
                "break" | "continue" => {
                    let error = format!("{{{{{word}}}}} outside {{{{range}}}}");
                    return Err(TemplateError::new(error));
                }
                "if" | "with" | "range" => nodes.push(self.branch(&word, more())?),
                "template" | "define" | "block" => {
                    return Err(TemplateError::new(format!("`{word}` is not supported")));
                }
                _ => nodes.push(Node::Print(pipeline(action, false)?)),
            }
        }
        Ok((nodes, None))
    }

    /// The rest of an `if`, a `with` or a `range`.
    fn branch(&mut self, word: &str, condition: Vec<Token>) -> Result<Node, TemplateError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(TemplateError::new("nested too deep"));
        }
        let is_loop = word == "range";
        let condition = pipeline(condition, is_loop)?;
        self.loops += usize::from(is_loop);
        let (then, end) = self.list()?;
        self.loops -= usize::from(is_loop);
        let open = || TemplateError::new("unexpected EOF");
        let end = end.ok_or_else(open)?;
        let otherwise = match (end.word, end.more.first()) {
            ("end", _) => Vec::new(),
            (_, None) => match self.list()? {
                (otherwise, Some(End { word: "end", .. })) => otherwise,
                (_, Some(_)) => return Err(TemplateError::new("expected end; found {{else}}")),
                (_, None) => return Err(open()),
            },
            (_, Some(Token::Word(next))) if next == word && !is_loop => {
                let condition = end.more[1..].to_vec();
                vec![self.branch(word, condition)?]
            }
            _ => return Err(TemplateError::new("unexpected word after {{else")),
        };
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If(condition, then, otherwise),
            "with" => Node::With(condition, then, otherwise),
            _ => Node::Range(condition, then, otherwise),
        })
    }
}

fn pipeline(tokens: Vec<Token>, is_loop: bool) -> Result<Pipeline, TemplateError> {
    let mut tokens: VecDeque<Token> = tokens.into();
    let (variables, declares) = variables(&mut tokens, is_loop);
    let pipeline = commands(&mut tokens, 0)?;
    match tokens.pop_front() {
        None => Ok(Pipeline {
            variables,
            declares,
            commands: pipeline,
        }),
        Some(_) => Err(TemplateError::new("unexpected word in command")),
    }
}

/// `$x :=`, `$x =`, and for loops `$x, $y :=`.
fn variables(tokens: &mut VecDeque<Token>, is_loop: bool) -> (Vec<String>, bool) {
    let is = |at: usize, token: &Token| tokens.get(at) == Some(token);
    let count = match (tokens.front(), tokens.get(2)) {
        (Some(Token::Variable(_)), _) if is(1, &Token::Declare) || is(1, &Token::Assign) => 1,
        (Some(Token::Variable(_)), Some(Token::Variable(_)))
            if is_loop
                && is(1, &Token::Comma)
                && (is(3, &Token::Declare) || is(3, &Token::Assign)) =>
        {
            2
        }
        _ => return (Vec::new(), false),
    };
    let declares = is(count * 2 - 1, &Token::Declare);
    let taken = tokens.drain(..count * 2);
    let names = taken.filter_map(|token| match token {
        Token::Variable(name) => Some(name),
        _ => None,
    });
    (names.collect(), declares)
}

/// Commands up to the end, or the parenthesis that closes them.
fn commands(tokens: &mut VecDeque<Token>, depth: usize) -> Result<Vec<Command>, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::new("nested too deep"));
    }
    let mut commands = Vec::new();
    loop {
        let mut operands = Vec::new();
        while let Some(token) = tokens.front() {
            if matches!(token, Token::Pipe | Token::Close) {
                break;
            }
            operands.push(operand(tokens, depth)?);
        }
        commands.push(command(operands)?);
        match tokens.front() {
            Some(Token::Pipe) => drop(tokens.pop_front()),
            _ => return Ok(commands),
        }
    }
}

fn command(mut operands: Vec<Operand>) -> Result<Command, TemplateError> {
    if operands.is_empty() {
        return Err(TemplateError::new("missing value for command"));
    }
    let first = operands.remove(0);
    match first {
        Operand {
            of: Base::Call(function),
            ref fields,
        } if fields.is_empty() => Ok(Command::Call(function, operands)),
        first if operands.is_empty() => Ok(Command::Value(first)),
        _ => Err(TemplateError::new("can't give argument to non-function")),
    }
}

fn operand(tokens: &mut VecDeque<Token>, depth: usize) -> Result<Operand, TemplateError> {
    let unexpected = || TemplateError::new("unexpected word in operand");
    let mut fields = Vec::new();
    let of = match tokens.pop_front().ok_or_else(unexpected)? {
        Token::Field(name, _) => {
            fields.extend(Some(name).filter(|name| !name.is_empty()));
            Base::Dot
        }
        Token::Variable(name) => Base::Variable(name),
        Token::Text(text) => Base::Constant(Value::Text(text)),
        Token::Int(number) => Base::Constant(Value::Int(number)),
        Token::Float(number) => Base::Constant(Value::Float(number)),
        Token::Word(word) => match word.as_str() {
            "true" => Base::Constant(Value::Bool(true)),
            "false" => Base::Constant(Value::Bool(false)),
            "nil" => Base::Constant(Value::Null),
            name => Base::Call(Function::named(name)?),
        },
        Token::Open => {
            let commands = commands(tokens, depth + 1)?;
            match tokens.pop_front() {
                Some(Token::Close) => Base::Pipeline(Box::new(Pipeline {
                    variables: Vec::new(),
                    declares: false,
                    commands,
                })),
                _ => return Err(TemplateError::new("unclosed left paren")),
            }
        }
        _ => return Err(unexpected()),
    };
    while let Some(Token::Field(name, false)) = tokens.front() {
        if name.is_empty() {
            return Err(unexpected());
        }
        fields.push(name.clone());
        tokens.pop_front();
    }
    Ok(Operand { of, fields })
}
