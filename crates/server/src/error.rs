//! From errors to Statuses, and from Statuses to responses: the only place that decides HTTP statuses of store errors.

use api::status::Status;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use wire::Body;

/// What a store error means to a client.
pub(crate) fn of_store(error: store::Error) -> Status {
    use store::Error;
    match error {
        Error::Compacted { oldest } => {
            Status::expired(format!("The provided resource version is too old: the oldest one kept is {oldest}"))
        }
        Error::Future { current } => Status::timeout(format!("Too large resource version, current: {current}"), 1),
        Error::TooLarge { bytes, limit } => {
            let limit = limit.min(crate::BODY_LIMIT);
            Status::too_large(format!("limit is {limit} bytes, got {bytes}"))
        }
        // No Retry-After: clients would come again in silence for ten seconds, and a full disk is for people to mend.
        Error::Full { .. } => Status::insufficient_storage(format!("the server cannot store: {error}")),
        Error::Closed => Status::unavailable("the server is shutting down"),
        error @ Error::Unavailable { .. } => Status::unavailable(error.to_string()),
        // No Retry-After either: to do it again is for those to decide who know whether that does harm.
        error @ Error::Ambiguous { .. } => Status::timeout(error.to_string(), 0),
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
            Status::internal(error)
        }
    }
}

/// What a store error means to a running watch.
pub(crate) fn of_watch(error: store::Error) -> Status {
    match error {
        store::Error::Compacted { oldest } => {
            Status::expired(format!("too old resource version: the oldest kept is {oldest}"))
        }
        error => of_store(error),
    }
}

/// What an error of the language means to a client.
pub(crate) fn of_api(error: api::Error) -> Status {
    use api::Error;
    let message = error.to_string();
    match error {
        Error::Malformed(_) | Error::Strict(_) => Status::bad_request(message),
        Error::Unprocessable(_) => Status::unprocessable(message),
        Error::TooLarge(_) => Status::too_large(message),
        Error::Untyped(_) => Status::internal(message),
    }
}

/// A Status as the response to a request.
pub(crate) fn response(status: &Status) -> Response<Body> {
    let code = match status.code {
        0 => StatusCode::OK,
        code => StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
    };
    let mut response = Response::new(wire::body::full(status.to_json()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let retry = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_at_once() {
        let answer = response(&of_store(store::Error::Full { place: "in /data/store".into() }));
        assert_eq!(answer.status(), StatusCode::INSUFFICIENT_STORAGE);
        assert!(
            !answer.headers().contains_key(RETRY_AFTER),
            "clients retry in silence for as long as they are told to"
        );
    }
}
