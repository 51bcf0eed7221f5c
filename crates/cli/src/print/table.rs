//! Tables: cells aligned by blanks, as tabulators would.

use serde_json::Value;

/// Blanks between two columns.
const GAP: usize = 3;

/// What is shown beside the server's columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extra {
    /// Columns of low priority too.
    pub(crate) is_wide: bool,
    /// The namespace in front.
    pub(crate) has_namespace: bool,
    /// The word of the kind before each name.
    pub(crate) kind: Option<String>,
    /// Labels with a column each.
    pub(crate) labels: Vec<String>,
    /// All labels in the last column.
    pub(crate) has_all_labels: bool,
}

/// A table that grows; its columns never get narrower.
#[derive(Debug, Default)]
pub(crate) struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// The lines of some rows.
    pub(crate) fn lines(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (index, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                if self.widths.len() <= index {
                    self.widths.resize(index + 1, 0);
                }
                self.widths[index] = self.widths[index].max(cell.chars().count() + GAP);
            }
        }
        let mut text = String::new();
        for row in rows {
            for (index, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if index + 1 < row.len() {
                    let blanks = self.widths[index].saturating_sub(cell.chars().count());
                    text.extend(std::iter::repeat_n(' ', blanks));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// The headers of a server's table.
pub(crate) fn header(table: &Value, extra: &Extra) -> Vec<String> {
    let mut cells = Vec::new();
    if extra.has_namespace {
        cells.push("NAMESPACE".to_owned());
    }
    for (column, _) in shown(table, extra) {
        cells.push(column["name"].as_str().unwrap_or_default().to_uppercase());
    }
    for label in &extra.labels {
        cells.push(label.rsplit('/').next().unwrap_or_default().to_uppercase());
    }
    if extra.has_all_labels {
        cells.push("LABELS".to_owned());
    }
    cells
}

/// The rows of a server's table; `columns` is the table that names the columns, the same one but in a watch.
pub(crate) fn rows(columns: &Value, table: &Value, extra: &Extra) -> Vec<Vec<String>> {
    let rows = table["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().map(|row| cells(columns, row, extra)).collect()
}

/// The cells of one row.
pub(crate) fn cells(columns: &Value, row: &Value, extra: &Extra) -> Vec<String> {
    let metadata = &row["object"]["metadata"];
    let mut cells = Vec::new();
    if extra.has_namespace {
        cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
    }
    let mut is_first = true;
    for (_, index) in shown(columns, extra) {
        let cell = cell(&row["cells"][index]);
        cells.push(match &extra.kind {
            Some(kind) if std::mem::take(&mut is_first) => format!("{kind}/{cell}"),
            _ => cell,
        });
    }
    for label in &extra.labels {
        cells.push(metadata["labels"][label].as_str().unwrap_or_default().to_owned());
    }
    if extra.has_all_labels {
        cells.push(labels(&metadata["labels"]));
    }
    cells
}

fn shown<'a>(table: &'a Value, extra: &'a Extra) -> impl Iterator<Item = (&'a Value, usize)> {
    let columns = table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_shown = |column: &Value| extra.is_wide || column["priority"].as_i64().unwrap_or(0) == 0;
    columns.iter().enumerate().filter(move |(_, column)| is_shown(column)).map(|(index, column)| (column, index))
}

/// `a=b,c=d`.
pub(crate) fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let text = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>();
    if text.is_empty() { "<none>".to_owned() } else { text.join(",") }
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.find(['\n', '\r', '\u{c}']) {
        Some(end) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn table() -> Value {
        json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "Node", "priority": 1}, {"name": "Age"}],
            "rows": [
                {"cells": ["web", "1/1", "n1", "5s"], "object": {"metadata": {"namespace": "a", "labels": {"env": "prod", "x": "y"}}}},
                {"cells": ["database", "0/1", "n1", "12m"], "object": {"metadata": {"namespace": "default"}}},
            ],
        })
    }

    fn show(extra: &Extra) -> String {
        let table = table();
        let mut lines = vec![header(&table, extra)];
        lines.extend(rows(&table, &table, extra));
        Table::default().lines(&lines).replace(' ', "·")
    }

    #[test]
    fn columns_are_three_blanks_apart() {
        expect![[r#"
            NAME·······READY···AGE
            web········1/1·····5s
            database···0/1·····12m
        "#]]
        .assert_eq(&show(&Extra::default()));
    }

    #[test]
    fn columns_beside_those_of_the_server() {
        let extra = Extra {
            is_wide: true,
            has_namespace: true,
            kind: Some("pod".into()),
            labels: vec!["example.com/env".into(), "env".into()],
            has_all_labels: true,
        };
        expect![[r#"
            NAMESPACE···NAME···········READY···NODE···AGE···ENV···ENV····LABELS
            a···········pod/web········1/1·····n1·····5s··········prod···env=prod,x=y
            default·····pod/database···0/1·····n1·····12m················<none>
        "#]]
        .assert_eq(&show(&extra));
    }

    #[test]
    fn a_column_remembers_its_width() {
        let mut table = Table::default();
        table.lines(&[vec!["abcdef".into(), "x".into()]]);
        assert_eq!(table.lines(&[vec!["a".into(), "y".into()]]), "a        y\n");
    }
}
