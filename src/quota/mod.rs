//! Quotas of a shared hub: rates, by principal and by address, and what a principal may hold.
//!
//! This module knows names, addresses and numbers, but no requests or channels. A [`Payer`] is
//! charged for each operation: before it, where it can be refused, and after it, where its cost
//! arrives piece by piece. A payer in debt has to wait, or is refused until the debt is paid.

mod account;
mod bucket;
mod budget;
mod config;
mod limit;
mod meter;
mod rate;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub use account::{Account, SubscriptionPermit};
pub use budget::Budget;
pub use config::Config;
pub use limit::Exceeded;
pub use rate::{InvalidRate, Rate};

use limit::Rates;
use meter::{Meter, Meters};

/// Time between two removals of unused meters.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Prefix length of an IPv6 network: a client with one of its addresses usually has them all.
const NETWORK_V6: u32 = 64;

/// All meters of a hub.
pub struct Quotas {
    terms: RwLock<Arc<QuotaTerms>>,
    began: Instant,
    principals: Meters<Arc<str>>,
    addresses: Meters<IpAddr>,
    forgot: Mutex<Instant>,
}

/// The settings in force: a reload replaces them.
struct QuotaTerms {
    config: Config,
    principal: Rates,
    address: Rates,
}

impl QuotaTerms {
    fn of(config: Config) -> Arc<Self> {
        let principal = config.principal();
        let address = config.address();
        Arc::new(Self { config, principal, address })
    }
}

/// The payer of a request: a principal, an address, both, or none.
#[derive(Clone, Default)]
pub struct Payer {
    quotas: Option<Arc<Quotas>>,
    principal: Option<Arc<Meter>>,
    address: Option<Arc<Meter>>,
}

impl Quotas {
    /// Creates the meters for these settings.
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

    /// Replaces the settings. Past usage still counts.
    pub fn exchange(&self, config: Config) {
        let channels = config.max_channels;
        let retained = config.max_retained();
        *self.terms.write() = QuotaTerms::of(config);
        self.principals.each(|meter| meter.account.resize(channels, retained));
    }

    fn terms(&self) -> Arc<QuotaTerms> {
        self.terms.read().clone()
    }

    /// Returns the payer for a request of this principal, if it is a known one, from this address.
    /// The loopback address is not charged: all clients of a proxy on this machine would share one
    /// meter.
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

    /// Charges a new connection to this address.
    ///
    /// # Errors
    /// The address has opened too many recently.
    pub fn connect(&self, address: IpAddr) -> Result<(), Exceeded> {
        let Some(meter) = self.address(address) else { return Ok(()) };
        self.forget();
        self.terms().address.connections.take(&meter.connections, 1, self.now())
    }

    /// Checks that not too many credentials from this address were refused recently.
    ///
    /// # Errors
    /// The address has to wait.
    pub fn may_try(&self, address: IpAddr) -> Result<(), Exceeded> {
        let Some(meter) = self.address(address) else { return Ok(()) };
        self.terms().address.refusals.look(&meter.refusals, 1, self.now())
    }

    /// Charges a refused credential to this address.
    pub fn refused(&self, address: IpAddr) {
        if let Some(meter) = self.address(address) {
            self.terms().address.refusals.charge(&meter.refusals, 1, self.now());
        }
    }

    /// Returns the maximum number of subscriptions of a principal; zero for no limit.
    #[must_use]
    pub fn max_subscriptions(&self) -> usize {
        self.terms().config.max_subscriptions
    }

    fn address(&self, address: IpAddr) -> Option<Arc<Meter>> {
        let network = network(address);
        (!network.is_loopback()).then(|| self.addresses.of(network, Account::default))
    }

    /// Returns the nanoseconds since the quotas began.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Drops the meters that are full and hold nothing: a new meter would be the same.
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

/// Returns the key under which an address is counted.
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
    /// Charges one request to publish. A payer that is in debt for events or bytes has to wait.
    ///
    /// # Errors
    /// A rate is exceeded; nothing was charged.
    pub fn publish(&self) -> Result<(), Exceeded> {
        self.each(|rates, meter, now| {
            rates.events.look(&meter.events, 0, now)?;
            rates.bytes.look(&meter.bytes, 0, now)
        })?;
        self.each(|rates, meter, now| rates.publishes.take(&meter.publishes, 1, now))
    }

    /// Charges what was published, if need be as a debt. Returns the limit with the longest debt.
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

    /// Charges a signal.
    ///
    /// # Errors
    /// The rate is exceeded.
    pub fn signal(&self) -> Result<(), Exceeded> {
        self.each(|rates, meter, now| rates.signals.take(&meter.signals, 1, now))
    }

    /// Charges a token.
    ///
    /// # Errors
    /// The rate is exceeded.
    pub fn token(&self) -> Result<(), Exceeded> {
        self.each(|rates, meter, now| rates.tokens.take(&meter.tokens, 1, now))
    }

    /// Takes a permit for a subscription. `None` if the payer has no limit.
    ///
    /// # Errors
    /// The setting, if the principal has as many subscriptions as it may.
    pub fn subscribe(&self) -> Result<Option<SubscriptionPermit>, &'static str> {
        let (Some(quotas), Some(meter)) = (&self.quotas, &self.principal) else { return Ok(None) };
        let place = meter.account.subscribe(quotas.max_subscriptions());
        place.map(Some).ok_or("quotas.max_subscriptions")
    }

    /// Returns the account of the principal, on which its channels are counted.
    #[must_use]
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.principal.as_ref().map(|meter| &meter.account)
    }

    fn each(
        &self,
        mut pay: impl FnMut(&Rates, &Meter, u64) -> Result<(), Exceeded>,
    ) -> Result<(), Exceeded> {
        let Some(quotas) = &self.quotas else { return Ok(()) };
        let now = quotas.now();
        let terms = quotas.terms();
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
    fn an_address_that_guesses_credentials_must_wait_even_with_the_right_one() {
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
        let one = payer.subscribe();
        let two = payer.subscribe();
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
