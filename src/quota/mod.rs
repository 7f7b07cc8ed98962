//! How much one may have of a hub that all share: rates, by principal and by address, and what a
//! principal may hold.
//!
//! It knows names, addresses and numbers, and nothing of requests or channels. A [`Payer`] pays for
//! what a request does: before it does it where that can be refused, and after it where that comes
//! piece by piece. Whoever is in debt then waits, or is refused until it is paid.

mod account;
mod bucket;
mod budget;
mod config;
mod meter;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub use account::{Account, SubscriptionPermit};
pub use budget::Budget;
pub use config::{Config, InvalidRate, Rate};

use meter::{Meter, Meters, Rates};

/// Principals and addresses between two looks for those who have gone.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Bits of an IPv6 address that are somebody's network: whoever has one address has them all.
const NETWORK_V6: u32 = 64;

/// A limit that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{limit}` is used up: come back in {retry_after:?}")]
pub struct Exceeded {
    /// The setting.
    pub limit: &'static str,
    /// When there will be some of it again.
    pub retry_after: Duration,
}

/// All rates and shares of a hub.
pub struct Quotas {
    terms: RwLock<Arc<QuotaTerms>>,
    began: Instant,
    principals: Meters<Arc<str>>,
    addresses: Meters<IpAddr>,
    forgot: Mutex<Instant>,
}

/// What is in force: a reload exchanges it.
struct QuotaTerms {
    config: Config,
    principal: Rates,
    address: Rates,
}

impl QuotaTerms {
    fn of(config: Config) -> Arc<Self> {
        let (principal, address) = (config.principal(), config.address());
        Arc::new(Self { config, principal, address })
    }
}

/// Who pays for a request: a principal, an address, both, or nobody.
#[derive(Clone, Default)]
pub struct Payer {
    quotas: Option<Arc<Quotas>>,
    principal: Option<Arc<Meter>>,
    address: Option<Arc<Meter>>,
}

impl Quotas {
    /// Quotas by these settings.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let began = Instant::now();
        Self {
            terms: RwLock::new(QuotaTerms::of(config)),
            began,
            principals: Meters::new(),
            addresses: Meters::new(),
            forgot: Mutex::new(began),
        }
    }

    /// Goes over to these settings. What has been used of the ones before counts.
    pub fn exchange(&self, config: Config) {
        let (channels, retained) = (config.max_channels, config.max_retained());
        *self.terms.write() = QuotaTerms::of(config);
        self.principals.each(|meter| meter.account.resize(channels, retained));
    }

    fn terms(&self) -> Arc<QuotaTerms> {
        self.terms.read().clone()
    }

    /// Who pays for what comes from this address, as this principal if it is one in particular.
    /// This machine itself pays nothing as an address: everything in front of the hub would share
    /// one purse.
    #[must_use]
    pub fn payer(self: &Arc<Self>, principal: Option<Arc<str>>, address: IpAddr) -> Payer {
        let account = || {
            let terms = self.terms();
            Account::new(terms.config.max_channels, terms.config.max_retained())
        };
        let principal = principal.map(|name| self.principals.of(name, account));
        let address = self.address(address);
        if principal.is_none() && address.is_none() {
            return Payer { quotas: None, principal, address };
        }
        self.forget();
        Payer { quotas: Some(self.clone()), principal, address }
    }

    /// Takes a new connection from this address.
    ///
    /// # Errors
    /// It has had too many of late.
    pub fn connect(&self, address: IpAddr) -> Result<(), Exceeded> {
        let Some(meter) = self.address(address) else { return Ok(()) };
        self.forget();
        self.terms().address.connections.take(&meter.connections, 1, self.now())
    }

    /// Whether this address may show a credential: not if too many were refused of late.
    ///
    /// # Errors
    /// It must wait.
    pub fn may_try(&self, address: IpAddr) -> Result<(), Exceeded> {
        let Some(meter) = self.address(address) else { return Ok(()) };
        self.terms().address.refusals.look(&meter.refusals, 1, self.now())
    }

    /// A credential from this address was refused.
    pub fn refused(&self, address: IpAddr) {
        if let Some(meter) = self.address(address) {
            self.terms().address.refusals.charge(&meter.refusals, 1, self.now());
        }
    }

    /// The most subscriptions that a principal may have; zero for any number.
    #[must_use]
    pub fn max_subscriptions(&self) -> usize {
        self.terms().config.max_subscriptions
    }

    fn address(&self, address: IpAddr) -> Option<Arc<Meter>> {
        let network = network(address);
        (!network.is_loopback()).then(|| self.addresses.of(network, Account::default))
    }

    /// Nanoseconds since the quotas began.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Drops those who are owed nothing and owe nothing: they would begin anew as they are.
    fn forget(&self) {
        let Some(mut forgot) = self.forgot.try_lock() else { return };
        if forgot.elapsed() < FORGET_EVERY {
            return;
        }
        *forgot = Instant::now();
        let now = self.now();
        self.principals.forget(now);
        self.addresses.forget(now);
    }
}

/// What an address is counted as.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let bits = u128::from(address) >> (128 - NETWORK_V6) << (128 - NETWORK_V6);
            Ipv6Addr::from(bits).into()
        }
        address => address,
    }
}

impl Payer {
    /// Pays for one request to publish. Whoever still owes for events or bytes must wait.
    ///
    /// # Errors
    /// It cannot be paid now; nothing was taken.
    pub fn publish(&self) -> Result<(), Exceeded> {
        self.each(|rates, meter, now| {
            rates.events.look(&meter.events, 0, now)?;
            rates.bytes.look(&meter.bytes, 0, now)
        })?;
        self.each(|rates, meter, now| rates.publishes.take(&meter.publishes, 1, now))
    }

    /// Pays for what was published, if need be by a debt: how long to wait until it is paid.
    #[must_use]
    pub fn charge(&self, events: u64, bytes: u64) -> Option<Exceeded> {
        let mut longest: Option<Exceeded> = None;
        let _ = self.each(|rates, meter, now| {
            let debts = [
                rates.events.charge(&meter.events, events, now),
                rates.bytes.charge(&meter.bytes, bytes, now),
            ];
            for debt in debts.into_iter().flatten() {
                if longest.is_none_or(|longest| longest.retry_after < debt.retry_after) {
                    longest = Some(debt);
                }
            }
            Ok(())
        });
        longest
    }

    /// Pays for a signal.
    ///
    /// # Errors
    /// It cannot be paid now.
    pub fn signal(&self) -> Result<(), Exceeded> {
        self.each(|rates, meter, now| rates.signals.take(&meter.signals, 1, now))
    }

    /// Pays for a token.
    ///
    /// # Errors
    /// It cannot be paid now.
    pub fn token(&self) -> Result<(), Exceeded> {
        self.each(|rates, meter, now| rates.tokens.take(&meter.tokens, 1, now))
    }

    /// Takes a place for a subscription, which is free again when the guard is dropped. Nothing
    /// for a payer who may have any number.
    ///
    /// # Errors
    /// The principal has as many as it may; names the setting.
    pub fn subscribe(&self) -> Result<Option<SubscriptionPermit>, &'static str> {
        let (Some(quotas), Some(meter)) = (&self.quotas, &self.principal) else { return Ok(None) };
        let place = meter.account.subscribe(quotas.max_subscriptions());
        place.map(Some).ok_or("quotas.max_subscriptions")
    }

    /// The account of the principal, whose channels are counted there.
    #[must_use]
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.principal.as_ref().map(|meter| &meter.account)
    }

    fn each(
        &self,
        mut pay: impl FnMut(&Rates, &Meter, u64) -> Result<(), Exceeded>,
    ) -> Result<(), Exceeded> {
        let Some(quotas) = &self.quotas else { return Ok(()) };
        let (now, terms) = (quotas.now(), quotas.terms());
        if let Some(meter) = &self.principal {
            pay(&terms.principal, meter, now)?;
        }
        if let Some(meter) = &self.address {
            pay(&terms.address, meter, now)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(settings: &str) -> Arc<Quotas> {
        Arc::new(Quotas::new(toml::from_str(settings).unwrap()))
    }

    #[test]
    fn one_who_publishes_too_much_does_not_take_from_another() {
        let quotas = quotas("publishes = \"1/s, burst 2\"");
        let payer = |name: &str| quotas.payer(Some(name.into()), [127, 0, 0, 1].into());
        assert!(payer("a").publish().is_ok() && payer("a").publish().is_ok());
        let exceeded = payer("a").publish().unwrap_err();
        assert_eq!(exceeded.limit, "quotas.publishes");
        assert!(exceeded.retry_after <= Duration::from_secs(1), "{exceeded:?}");
        assert!(payer("b").publish().is_ok());
    }

    #[test]
    fn a_debt_is_waited_for_and_refuses_until_it_is_paid() {
        let quotas = quotas("bytes = \"1000/s, burst 1000\"");
        let payer = quotas.payer(Some("a".into()), [127, 0, 0, 1].into());
        assert_eq!(payer.charge(1, 1000), None);
        let debt = payer.charge(1, 3_600_000).unwrap();
        assert_eq!(debt.limit, "quotas.bytes");
        assert!(debt.retry_after > Duration::from_secs(3590), "{debt:?}");
        assert_eq!(payer.publish().unwrap_err().limit, "quotas.bytes");
    }

    #[test]
    fn an_address_is_its_network_and_this_machine_is_none() {
        let quotas = quotas("address_connections = \"1/s, burst 1\"");
        let connect = |address: &str| quotas.connect(address.parse().unwrap()).is_ok();
        assert!(connect("2001:db8::1") && !connect("2001:db8::2") && connect("2001:db8:0:1::1"));
        assert!(connect("192.0.2.1") && !connect("::ffff:192.0.2.1") && connect("192.0.2.2"));
        assert!(connect("127.0.0.1") && connect("127.0.0.1") && connect("::1") && connect("::1"));
    }

    #[test]
    fn whoever_guesses_credentials_must_wait_even_with_the_right_one() {
        let quotas = quotas("address_refusals = \"1/s, burst 3\"");
        let address = [192, 0, 2, 1].into();
        for _ in 0..3 {
            assert!(quotas.may_try(address).is_ok());
            quotas.refused(address);
        }
        assert_eq!(quotas.may_try(address).unwrap_err().limit, "quotas.address_refusals");
        assert!(quotas.may_try([192, 0, 2, 2].into()).is_ok());
    }

    #[test]
    fn subscriptions_are_counted_while_they_live() {
        let quotas = quotas("max_subscriptions = 2");
        let payer = quotas.payer(Some("a".into()), [127, 0, 0, 1].into());
        let (one, two) = (payer.subscribe(), payer.subscribe());
        assert_eq!(payer.subscribe().err(), Some("quotas.max_subscriptions"));
        drop(one);
        assert!(payer.subscribe().is_ok());
        drop(two);
        assert!(Payer::default().subscribe().unwrap().is_none());
    }

    #[test]
    fn those_who_have_gone_are_forgotten_and_no_others() {
        let quotas = quotas("publishes = \"1000000/s\"\nsignals = \"1/s, burst 1\"");
        let payer = |name: &str| quotas.payer(Some(name.into()), [127, 0, 0, 1].into());
        let stays = payer("stays");
        payer("in debt").signal().unwrap();
        payer("gone").publish().unwrap();
        std::thread::sleep(Duration::from_micros(50));
        quotas.principals.forget(quotas.now());
        let mut names = quotas.principals.names();
        names.sort();
        assert_eq!(names, ["in debt".into(), "stays".into()]);
        drop(stays);
    }
}
