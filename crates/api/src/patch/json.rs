//! JSON patches (RFC 6902): a list of operations, all or none.

use serde_json::Value;

use crate::Error;

/// No more operations than this are carried out for one request.
const MOST_OPERATIONS: usize = 10_000;

/// `current` after all operations.
pub fn apply(current: &Value, patch: &[u8]) -> Result<Value, Error> {
    let value = super::parse(patch)?;
    let Value::Array(operations) = &value else {
        return Err(super::mistyped(&value, "[]handlers.jsonPatchOp"));
    };
    if operations.len() > MOST_OPERATIONS {
        let count = operations.len();
        return Err(Error::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {count}"
        )));
    }
    let patch: json_patch::Patch = serde_json::from_value(value).map_err(|_| rejected())?;
    let mut patched = current.clone();
    json_patch::patch(&mut patched, &patch).map_err(|_| rejected())?;
    Ok(patched)
}

/// Upstream does not say which operation failed.
fn rejected() -> Error {
    Error::Unprocessable("the server rejected our request due to an error in our request".to_owned())
}
