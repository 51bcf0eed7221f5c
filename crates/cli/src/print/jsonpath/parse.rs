//! Reads JSONPath templates.

use serde_json::Value;

use super::{Node, Operand, Operator, Path, Step};

/// Reads a whole template.
pub(super) fn template(text: &str) -> Result<Vec<Node>, String> {
    let mut parser = Parser { rest: text };
    let (nodes, is_ended) = parser.nodes()?;
    if is_ended { Err("not in range, nothing to end".to_owned()) } else { Ok(nodes) }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    /// Nodes up to the end of the text, or to an `{end}` (then true).
    fn nodes(&mut self) -> Result<(Vec<Node>, bool), String> {
        let mut nodes = Vec::new();
        while !self.rest.is_empty() {
            let brace = self.rest.find('{').unwrap_or(self.rest.len());
            if brace > 0 {
                nodes.push(Node::Text(self.rest[..brace].to_owned()));
            }
            self.rest = self.rest[brace..].strip_prefix('{').unwrap_or_default();
            let is_action = brace == 0 || !self.rest.is_empty();
            if is_action && self.action(&mut nodes)? {
                return Ok((nodes, true));
            }
        }
        Ok((nodes, false))
    }

    /// What stands between braces; true for `{end}`.
    fn action(&mut self, nodes: &mut Vec<Node>) -> Result<bool, String> {
        loop {
            self.blank();
            if self.take("}") {
                return Ok(false);
            }
            if self.rest.is_empty() {
                return Err("unclosed action".to_owned());
            }
            if self.word("range") {
                self.blank();
                let path = self.path()?;
                self.blank();
                if !self.take("}") {
                    return Err("unclosed action".to_owned());
                }
                let (body, is_ended) = self.nodes()?;
                if !is_ended {
                    return Err("not in range, nothing to end".to_owned());
                }
                nodes.push(Node::Range(path, body));
                return Ok(false);
            }
            if self.word("end") {
                self.blank();
                return if self.take("}") { Ok(true) } else { Err("unclosed action".to_owned()) };
            }
            nodes.push(match self.rest.starts_with(['"', '\'']) {
                true => Node::Text(self.quoted()?),
                false => Node::Path(self.path()?),
            });
        }
    }

    fn path(&mut self) -> Result<Path, String> {
        let is_absolute = self.take("$");
        if !is_absolute {
            self.take("@");
        }
        let mut steps = Vec::new();
        let length = self.rest.len();
        loop {
            if self.take("..") {
                steps.push(Step::Recursive);
                if !self.rest.starts_with('[') {
                    self.name(&mut steps)?;
                }
            } else if self.take(".") {
                self.name(&mut steps)?;
            } else if self.take("[") {
                steps.push(self.brackets()?);
            } else {
                break;
            }
        }
        if length == self.rest.len() && !self.is_at_end_of_path() {
            // A bare word is a field, as in {metadata.name}.
            self.name(&mut steps)?;
            let more = self.path()?;
            steps.extend(more.steps);
        }
        Ok(Path { is_absolute, steps })
    }

    fn is_at_end_of_path(&self) -> bool {
        self.rest.is_empty() || self.rest.starts_with(['}', ' ', ')', '=', '!', '<', '>', ','])
    }

    /// A field behind a dot; nothing for the object itself.
    fn name(&mut self, steps: &mut Vec<Step>) -> Result<(), String> {
        if self.take("*") {
            steps.push(Step::All);
            return Ok(());
        }
        let mut name = String::new();
        let mut characters = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((index, character)) = characters.next() {
            match character {
                '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
                '.' | '[' | ']' | '{' | '}' | '(' | ')' | ',' | '$' | '@' | '=' | '!' | '<' | '>' | '"' | '\'' => {
                    end = index;
                    break;
                }
                character if character.is_whitespace() => {
                    end = index;
                    break;
                }
                character => name.push(character),
            }
        }
        if end == 0 && !self.is_at_end_of_path() && !self.rest.starts_with('[') {
            return Err(format!("unrecognized character in action: {:?}", self.rest.chars().next().unwrap_or(' ')));
        }
        self.rest = &self.rest[end..];
        if !name.is_empty() {
            steps.push(Step::Child(name));
        }
        Ok(())
    }

    /// What stands between brackets, the first one is read.
    fn brackets(&mut self) -> Result<Step, String> {
        self.blank();
        if self.take("?(") {
            return self.filter();
        }
        let mut steps = Vec::new();
        loop {
            self.blank();
            steps.push(match self.rest.chars().next() {
                Some('\'' | '"') => Step::Child(self.quoted()?),
                Some('*') => {
                    self.take("*");
                    Step::All
                }
                _ => self.numbers()?,
            });
            self.blank();
            if self.take("]") {
                return Ok(if steps.len() == 1 { steps.remove(0) } else { Step::Union(steps) });
            }
            if !self.take(",") {
                return Err("unterminated array".to_owned());
            }
        }
    }

    /// An index, or a slice.
    fn numbers(&mut self) -> Result<Step, String> {
        let end = self.rest.find([',', ']']).ok_or("unterminated array")?;
        let text = self.rest[..end].trim();
        let wrong = || format!("invalid array index {text}");
        let number = |text: &str| match text.trim() {
            "" => Ok(None),
            digits => digits.parse::<i64>().map(Some).map_err(|_| wrong()),
        };
        let parts = text.split(':').map(number).collect::<Result<Vec<_>, _>>()?;
        self.rest = &self.rest[end..];
        match parts.as_slice() {
            [Some(index)] => Ok(Step::Index(*index)),
            [from, to] => Ok(Step::Slice { from: *from, to: *to, step: None }),
            [from, to, step] => Ok(Step::Slice { from: *from, to: *to, step: *step }),
            _ => Err(wrong()),
        }
    }

    fn filter(&mut self) -> Result<Step, String> {
        let left = self.operand()?;
        self.blank();
        let operators = [
            ("==", Operator::Equal),
            ("!=", Operator::Unequal),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let operator = operators.into_iter().find(|(text, _)| self.take(text)).map(|(_, operator)| operator);
        let right = if operator.is_some() { self.operand()? } else { Operand::Literal(Value::Null) };
        self.blank();
        if !self.take(")") {
            return Err("unterminated filter".to_owned());
        }
        self.blank();
        if self.take("]") {
            Ok(Step::Filter { left, operator, right })
        } else {
            Err("unclosed array expect ]".to_owned())
        }
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.blank();
        if self.rest.starts_with(['"', '\'']) {
            return self.quoted().map(|text| Operand::Literal(text.into()));
        }
        let end = self.rest.find([')', ' ', '=', '<', '>', '!']).unwrap_or(self.rest.len());
        match serde_json::from_str::<Value>(&self.rest[..end]) {
            Ok(value) => {
                self.rest = &self.rest[end..];
                Ok(Operand::Literal(value))
            }
            Err(_) => self.path().map(Operand::Path),
        }
    }

    /// A string in quotes of either kind, with backslash escapes.
    fn quoted(&mut self) -> Result<String, String> {
        let mut characters = self.rest.char_indices();
        let Some((_, quote)) = characters.next() else { return Err("unterminated quoted string".to_owned()) };
        let mut text = String::new();
        while let Some((index, character)) = characters.next() {
            match character {
                '\\' => text.extend(characters.next().map(|(_, escaped)| match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                })),
                end if end == quote => {
                    self.rest = &self.rest[index + 1..];
                    return Ok(text);
                }
                other => text.push(other),
            }
        }
        Err("unterminated quoted string".to_owned())
    }

    fn blank(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        if let Some(rest) = rest {
            self.rest = rest;
        }
        rest.is_some()
    }

    /// A word that stands for itself.
    fn word(&mut self, word: &str) -> bool {
        let is_there =
            self.rest.strip_prefix(word).is_some_and(|rest| rest.starts_with(|c: char| c.is_whitespace() || c == '}'));
        is_there && self.take(word)
    }
}
