//! The certificates that a server's process gives to itself and its administrator. All are made anew when two thirds of their time are over,
//! while they are in use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use wire::authority::{Authority, CLOCK_SKEW};
use wire::identity::Credential;
use wire::keys::Keys;

/// However late the end, the clock is looked at so often: somebody may set it.
pub(crate) const LOOK: Duration = Duration::from_secs(3600);
/// After a failure the next try comes after this time.
const RETRY: Duration = Duration::from_secs(60);

type Renew = Box<dyn Fn(&Authority) -> anyhow::Result<()> + Send + Sync>;

/// The certificates in use.
pub(crate) struct Own {
    authority: Arc<Authority>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    renewals: Vec<Renew>,
    /// When the oldest was made and when it ends.
    validity: Option<(SystemTime, SystemTime)>,
}

impl Own {
    /// Certificates of this authority.
    pub(crate) fn new(authority: Arc<Authority>) -> Arc<Self> {
        Arc::new(Self { authority, kept: Mutex::default() })
    }

    /// A certificate that is shown, and made anew in time.
    pub(crate) fn keys(
        &self,
        issue: impl Fn(&Authority) -> Result<Credential, wire::Error> + Send + Sync + 'static,
    ) -> anyhow::Result<Arc<Keys>> {
        let first = issue(&self.authority)?;
        let keys = Keys::new(&first)?;
        self.lock().validity.get_or_insert(first.validity()?);
        let shown = keys.clone();
        self.also(move |authority| Ok(shown.replace(&issue(authority)?)?));
        Ok(keys)
    }

    /// Something else to be done whenever the certificates are made anew.
    pub(crate) fn also(&self, renew: impl Fn(&Authority) -> anyhow::Result<()> + Send + Sync + 'static) {
        self.lock().renewals.push(Box::new(renew));
    }

    /// Renews until the shutdown.
    pub(crate) async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        loop {
            let pause = match self.wait(SystemTime::now()) {
                Some(left) => left.min(LOOK),
                None => match self.renew() {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::warn!("renewing this server's certificates: {error:#}");
                        RETRY
                    }
                },
            };
            tokio::select! {
                () = client::stopped(&mut shutdown) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn wait(&self, now: SystemTime) -> Option<Duration> {
        match self.lock().validity {
            Some((from, until)) => wait(from, until, now),
            None => Some(LOOK),
        }
    }

    /// Makes all anew now.
    pub(crate) fn renew(&self) -> anyhow::Result<()> {
        let mut kept = self.lock();
        let now = SystemTime::now();
        kept.renewals.iter().try_for_each(|renew| renew(&self.authority))?;
        kept.validity = Some((now - CLOCK_SKEW, now + self.authority.life()));
        tracing::info!("renewed this server's certificates");
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long until a certificate is to be renewed; `None` is now. It was given its beginning in the past, for slow clocks.
pub(crate) fn wait(from: SystemTime, until: SystemTime, now: SystemTime) -> Option<Duration> {
    let life = until.duration_since(from + CLOCK_SKEW).unwrap_or_default();
    (until - life / 3).duration_since(now).ok().filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use wire::Identity;

    #[test]
    fn a_certificate_is_renewed_in_its_last_third() {
        let given = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let (from, until) = (given - CLOCK_SKEW, given + Duration::from_secs(300));
        let at = |seconds: u64| wait(from, until, given + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(Duration::from_secs(200)));
        assert_eq!(at(150), Some(Duration::from_secs(50)));
        assert_eq!(at(200), None);
        assert_eq!(at(400), None);
    }

    #[test]
    fn all_certificates_are_made_anew_together() {
        let (authority, _) = Authority::create("test").expect("an authority");
        let own = Own::new(Arc::new(authority.with_life(Duration::from_secs(300))));
        let made = Arc::new(AtomicUsize::new(0));
        for name in ["a", "b"] {
            let made = made.clone();
            let issue = move |authority: &Authority| {
                made.fetch_add(1, Ordering::SeqCst);
                authority.client(&Identity::new(name, &[]))
            };
            own.keys(issue).expect("a certificate");
        }
        let soon = |own: &Own| own.wait(SystemTime::now() + Duration::from_secs(190)).is_some();
        let late = |own: &Own| own.wait(SystemTime::now() + Duration::from_secs(210)).is_none();
        assert!(soon(&own) && late(&own) && made.load(Ordering::SeqCst) == 2);
        own.renew().expect("they are renewed");
        assert!(soon(&own) && late(&own) && made.load(Ordering::SeqCst) == 4);
        own.also(|_| anyhow::bail!("no"));
        assert!(own.renew().is_err());
    }
}
