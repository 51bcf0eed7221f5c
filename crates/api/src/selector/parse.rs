//! The grammar of label selectors. Error texts are upstream's, word for word: users search for them.

use std::collections::BTreeSet;

use super::label::{Operator, Requirement, check_key};
use crate::Error;
use crate::field::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    End,
    Word(String),
    Symbol(&'static str),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::End => "",
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
        }
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self, Self::Symbol(s) if *s == symbol)
    }
}

/// Longer symbols first.
const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if let Some(symbol) = SYMBOLS.into_iter().find(|s| rest.starts_with(s)) {
            rest = &rest[symbol.len()..];
            found.push(Token::Symbol(symbol));
            continue;
        }
        let end = rest.find([' ', '\t', '\r', '\n', '=', '!', '(', ')', ',', '>', '<']).unwrap_or(rest.len());
        if end == 0 {
            return found;
        }
        found.push(Token::Word(rest[..end].to_owned()));
        rest = &rest[end..];
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, Error> {
    let mut parser = Parser { tokens: tokens(text).into_iter().peekable() };
    let mut found = Vec::new();
    loop {
        let next = parser.peek();
        match next {
            Token::End => return Ok(found),
            Token::Word(_) => {}
            ref symbol if symbol.is("!") => {}
            other => return Err(malformed(&other, ", expected: !, identifier, or 'end of string'")),
        }
        found.push(parser.requirement().map_err(|e| Error::Malformed(format!("unable to parse requirement: {e}")))?);
        match parser.take() {
            Token::End => return Ok(found),
            comma if comma.is(",") => {
                let next = parser.peek();
                if !matches!(next, Token::Word(_)) && !next.is("!") {
                    return Err(malformed(&next, ", expected: identifier after ','"));
                }
            }
            other => return Err(malformed(&other, ", expected: ',' or 'end of string'")),
        }
    }
}

fn malformed(found: &Token, expected: &str) -> Error {
    Error::Malformed(format!("found '{}'{expected}", found.text()))
}

impl Parser {
    fn peek(&mut self) -> Token {
        self.tokens.peek().cloned().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token {
        self.tokens.next().unwrap_or(Token::End)
    }

    fn requirement(&mut self) -> Result<Requirement, Error> {
        let mut token = self.take();
        let negated = token.is("!");
        if negated {
            token = self.take();
        }
        let Token::Word(key) = token else { return Err(malformed(&token, ", expected: identifier")) };
        let mut errors = Vec::new();
        check_key(&mut errors, &key, &Path::default());
        if let Some(error) = errors.first() {
            return Err(Error::Malformed(error.to_string()));
        }
        let next = self.peek();
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if next == Token::End || next.is(",") {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.value()?,
        };
        Requirement::new(key, operator, values.into_iter().collect())
    }

    fn operator(&mut self) -> Result<Operator, Error> {
        let token = self.take();
        match token.text() {
            "in" => Ok(Operator::In),
            "notin" => Ok(Operator::NotIn),
            "=" => Ok(Operator::Equals),
            "==" => Ok(Operator::DoubleEquals),
            "!=" => Ok(Operator::NotEquals),
            ">" => Ok(Operator::GreaterThan),
            "<" => Ok(Operator::LessThan),
            _ => Err(malformed(&token, ", expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn value(&mut self) -> Result<BTreeSet<String>, Error> {
        let next = self.peek();
        if next == Token::End || next.is(",") {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.take() {
            Token::Word(word) => Ok(BTreeSet::from([word])),
            other => Err(malformed(&other, ", expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, Error> {
        let open = self.take();
        if !open.is("(") {
            return Err(malformed(&open, " expected: '('"));
        }
        match self.peek() {
            close if close.is(")") => {
                self.take();
                Ok(BTreeSet::from([String::new()]))
            }
            next if matches!(next, Token::Word(_)) || next.is(",") => {
                let values = self.list()?;
                self.take();
                Ok(values)
            }
            other => Err(malformed(&other, ", expected: ',', ')' or identifier")),
        }
    }

    /// Words between commas up to a closing parenthesis, which stays; where a word is missing there is an empty value.
    fn list(&mut self) -> Result<BTreeSet<String>, Error> {
        let mut values = BTreeSet::new();
        loop {
            match self.take() {
                Token::Word(word) => {
                    values.insert(word);
                    match self.peek() {
                        next if next.is(",") => {}
                        next if next.is(")") => return Ok(values),
                        other => return Err(malformed(&other, ", expected: ',' or ')'")),
                    }
                }
                comma if comma.is(",") => {
                    let next = self.peek();
                    if values.is_empty() || next.is(")") || next.is(",") {
                        values.insert(String::new());
                    }
                    if next.is(")") {
                        return Ok(values);
                    }
                }
                other => return Err(malformed(&other, ", expected: ',', or identifier")),
            }
        }
    }
}
