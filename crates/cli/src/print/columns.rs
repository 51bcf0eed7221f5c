//! Columns of one's own: `custom-columns=NAME:.metadata.name,…`.

use serde_json::Value;

use super::jsonpath::{self, Template};
use super::table::Table;
use crate::failure::Failure;

/// A header and the path of its values.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    header: String,
    path: Template,
}

/// Reads `HEADER:PATH,…`.
pub(crate) fn parse(text: &str) -> Result<Vec<Column>, Failure> {
    if text.is_empty() {
        return Err(Failure::text("custom-columns format specified but no custom columns given"));
    }
    let column = |part: &str| {
        let (header, path) = part.split_once(':').ok_or_else(|| {
            Failure::text(format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"))
        })?;
        Ok(Column { header: header.to_owned(), path: Template::relaxed(path).map_err(Failure::text)? })
    };
    text.split(',').map(column).collect()
}

/// The table of an object, or of the items of a list.
pub(crate) fn show(columns: &[Column], object: &Value, has_headers: bool) -> Result<String, Failure> {
    let items = object.get("items").and_then(Value::as_array);
    let objects = items.map_or_else(|| std::slice::from_ref(object), Vec::as_slice);
    let mut rows = Vec::new();
    if has_headers {
        rows.push(columns.iter().map(|column| column.header.clone()).collect());
    }
    for object in objects {
        let cell = |column: &Column| {
            let values = column.path.values(object).map_err(Failure::text)?;
            let text = values.into_iter().map(jsonpath::show).collect::<Vec<_>>().join(",");
            Ok(if text.is_empty() { "<none>".to_owned() } else { text })
        };
        rows.push(columns.iter().map(cell).collect::<Result<Vec<_>, Failure>>()?);
    }
    Ok(Table::default().lines(&rows))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn a_row_for_each_object() {
        let columns = super::parse("NAME:.metadata.name,N:n").unwrap();
        let list = json!({"items": [{"metadata": {"name": "web"}, "n": 3}, {"metadata": {"name": "x"}}]});
        expect![[r#"
            NAME   N
            web    3
            x      <none>
        "#]]
        .assert_eq(&super::show(&columns, &list, true).unwrap());
    }
}
