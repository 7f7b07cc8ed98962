//! Keys that are published at a URL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use serde_json::json;

use super::support::*;
use crate::auth::{
    Algorithm, AuthError as E, Authenticator, Credential, FetchError, FetchFuture, FetchKeys,
};

/// A key server of tests: returns the set answer once it is open, and counts the fetches.
struct Provider {
    answer: Mutex<Result<String, FetchError>>,
    fetches: AtomicUsize,
    open: Arc<AtomicBool>,
}

impl Provider {
    fn new(open: bool) -> Arc<Self> {
        let answer = Mutex::new(Err(FetchError("down".into())));
        let open = Arc::new(AtomicBool::new(open));
        Arc::new(Self { answer, fetches: AtomicUsize::new(0), open })
    }

    fn publish(&self, keys: &[(&Signer, &str)]) {
        let keys: Vec<_> = keys.iter().map(|(key, kid)| key.jwk(kid, Algorithm::Es256)).collect();
        *self.answer.lock() = Ok(json!({ "keys": keys }).to_string());
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

impl FetchKeys for Provider {
    fn fetch(&self, url: &str, _: usize) -> FetchFuture {
        assert_eq!(url, "https://id.example/jwks");
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let open = self.open.clone();
        let answer = self.answer.lock().clone();
        async move {
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                if open.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            answer.map(String::into_bytes)
        }
        .boxed()
    }
}

fn text() -> String {
    issuer("keys = { jwks_url = \"https://id.example/jwks\" }")
}

fn hub(provider: &Arc<Provider>) -> Authenticator {
    Authenticator::new(&config(&text()), &environment, Some(provider.clone())).unwrap()
}

/// Polls a future to its end; nothing here waits for I/O.
fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    let mut turns = std::iter::repeat_with(|| future.as_mut().now_or_never()).take(100_000);
    turns.find_map(|turn| turn).expect("comes to its end")
}

fn ask(hub: &Authenticator, token: &str, seconds: u64) -> Option<E> {
    run(hub.authenticate_fetching(Credential::Bearer(token), at(NOW + seconds))).err()
}

#[test]
fn a_new_key_is_fetched_when_a_token_names_it() {
    let provider = Provider::new(true);
    let old = Signer::new(Algorithm::Es256);
    let new = Signer::new(Algorithm::Es256);
    let hub = hub(&provider);
    let one = old.sign(Algorithm::Es256, "old", &claims());
    let two = new.sign(Algorithm::Es256, "new", &claims());
    provider.publish(&[(&old, "old")]);
    assert_eq!(ask(&hub, &one, 0), None);
    assert_eq!(ask(&hub, &one, 1), None);
    assert_eq!(provider.fetches(), 1);
    provider.publish(&[(&old, "old"), (&new, "new")]);
    assert_eq!(ask(&hub, &two, 9), Some(E::UnknownKey), "the last fetch was just now");
    assert_eq!(ask(&hub, &two, 10), None);
    assert_eq!(provider.fetches(), 2);
    provider.publish(&[(&new, "new")]);
    let principal = hub.authenticate(Credential::Bearer(&one), at(NOW + 11)).unwrap();
    run(hub.refresh(at(NOW + 500)));
    assert_eq!(provider.fetches(), 2, "ten minutes are not over");
    run(hub.refresh(at(NOW + 615)));
    assert_eq!(provider.fetches(), 3);
    assert_eq!(hub.recheck(&principal, at(NOW + 20)).unwrap_err(), E::UnknownKey);
}

#[test]
fn a_storm_of_made_up_names_costs_a_bounded_number_of_fetches() {
    let provider = Provider::new(true);
    let key = Signer::new(Algorithm::Es256);
    provider.publish(&[(&key, "k")]);
    let hub = hub(&provider);
    for number in 0..5000 {
        let token = key.sign(Algorithm::Es256, &format!("made-up-{number}"), &claims());
        assert_eq!(ask(&hub, &token, number / 100), Some(E::UnknownKey));
    }
    assert!(provider.fetches() <= 5, "{} fetches in 50 s", provider.fetches());
}

#[test]
fn an_unknown_name_is_not_looked_for_again_at_once() {
    let provider = Provider::new(true);
    let key = Signer::new(Algorithm::Es256);
    provider.publish(&[(&key, "k")]);
    let hub = hub(&provider);
    let token = key.sign(Algorithm::Es256, "unknown", &claims());
    for seconds in (0..60).step_by(5) {
        assert_eq!(ask(&hub, &token, seconds), Some(E::UnknownKey));
    }
    assert_eq!(provider.fetches(), 1);
    assert_eq!(ask(&hub, &token, 61), Some(E::UnknownKey));
    assert_eq!(provider.fetches(), 2);
}

#[test]
fn all_who_need_a_key_wait_for_one_fetch() {
    let provider = Provider::new(false);
    let key = Signer::new(Algorithm::Es256);
    provider.publish(&[(&key, "k")]);
    let hub = hub(&provider);
    let token = key.sign(Algorithm::Es256, "k", &claims());
    let impatient = hub.authenticate_fetching(Credential::Bearer(&token), now());
    assert!(impatient.now_or_never().is_none(), "who goes away does not end the fetch");
    let one = || hub.authenticate_fetching(Credential::Bearer(&token), now());
    let mut all = Box::pin(futures_util::future::join_all((0..100).map(|_| one())));
    assert!(all.as_mut().now_or_never().is_none());
    provider.open.store(true, Ordering::SeqCst);
    assert!(run(all).iter().all(Result::is_ok));
    assert_eq!(provider.fetches(), 1);
}

#[test]
fn a_fetch_that_fails_changes_nothing() {
    let provider = Provider::new(true);
    let key = Signer::new(Algorithm::Es256);
    let hub = hub(&provider);
    let token = key.sign(Algorithm::Es256, "k", &claims());
    assert_eq!(ask(&hub, &token, 0), Some(E::UnknownKey));
    provider.publish(&[(&key, "k")]);
    run(hub.refresh(at(NOW + 10)));
    assert_eq!(ask(&hub, &token, 10), None);
    let secret = json!({"keys": [Signer::secret().jwk("k", Algorithm::Hs256)]}).to_string();
    for answer in [
        Err(FetchError("down".into())),
        Ok("<html>".to_owned()),
        Ok("{\"keys\":[]}".to_owned()),
        Ok(format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300_000))),
        Ok(secret),
    ] {
        let fetches = provider.fetches();
        *provider.answer.lock() = answer;
        run(hub.refresh(at(NOW + 1000 * (1 + fetches as u64))));
        assert_eq!(provider.fetches(), fetches + 1);
        assert_eq!(ask(&hub, &token, 10), None);
    }
}

#[test]
fn a_reload_keeps_the_keys_that_were_fetched() {
    let provider = Provider::new(true);
    let key = Signer::new(Algorithm::Es256);
    provider.publish(&[(&key, "k")]);
    let hub = hub(&provider);
    let token = key.sign(Algorithm::Es256, "k", &claims());
    assert_eq!(ask(&hub, &token, 0), None);
    let changed = format!("leeway = \"1s\"\n{}", text());
    hub.reload(&config(&changed), &environment).unwrap();
    assert_eq!(ask(&hub, &token, 1), None);
    assert_eq!(provider.fetches(), 1);
}

#[test]
fn a_server_can_wait_on_any_thread() {
    fn movable<T: Send>(_: &T) {}
    let hub = by_secret();
    movable(&hub.authenticate_fetching(Credential::None, now()));
    movable(&hub.refresh(now()));
    movable(&Arc::new(by_secret()));
}
