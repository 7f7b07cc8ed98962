//! Handlers: functions that answer a request, or return a problem.

use std::sync::Arc;

use futures_util::FutureExt as _;

use super::app::{Request, Response, ResponseFuture};
use super::error_response::reads_stream;
use super::problem::Problem;

/// Answers a request. `A` is what the access of its route grants: the caller, and the channel that
/// the path names.
pub type Handler<A> = Arc<dyn Fn(Request, A) -> ResponseFuture + Send + Sync>;

/// Makes a handler of a function and its state. A problem becomes its response.
pub fn handler<S, A, F, R>(state: &S, answer: F) -> Handler<A>
where
    S: Clone + Send + Sync + 'static,
    F: Fn(S, Request, A) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    let state = state.clone();
    Arc::new(move |request, access| {
        let reads_stream = reads_stream(&request);
        let answer = answer(state.clone(), request, access);
        Box::pin(
            answer
                .map(move |outcome| outcome.unwrap_or_else(|problem| problem.answer(reads_stream))),
        )
    })
}
