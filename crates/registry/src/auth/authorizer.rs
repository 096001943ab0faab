//! Remembers what each host asked for, who fetches the tokens of which client, and the grants.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::{HeaderMap, HeaderValue};
use tokio::sync::OnceCell;

use super::authority::{Question, Salt};
use super::grant::{Grant, basic, bearer};
use super::scopes::{merge_scopes, scope_is_of};
use super::{Authority, Purpose, denied};
use crate::challenge::Challenge;
use crate::error::RegistryError;

/// Grants, and clients, that are kept at one time. Every client brings its own, so without a bound
/// they would grow with the number of builds done.
const MAX_KEPT: usize = 1024;

/// Gives requests the header that their host asks for.
pub(crate) struct Authorizer {
    salt: Salt,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is known of who asks; `None` for one that is none of those whose keys are known.
    clients: HashMap<Client, Option<Account>>,
    challenges: HashMap<Account, Challenge>,
    grants: HashMap<(Account, String), Arc<OnceCell<Grant>>>,
}

/// One user of credentials at one registry host.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Client {
    identity: String,
    host: String,
}

/// Those who share grants at one registry host.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Account {
    host: String,
    holder: Holder,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Holder {
    /// Whoever can sign with the key. Tokens are fetched by it.
    Key([u8; 32]),
    /// Who is of this identity; the flag says whether it fetches tokens if it can.
    Identity(String, bool),
}

impl Account {
    fn fetches(&self) -> bool {
        match self.holder {
            Holder::Key(_) => true,
            Holder::Identity(_, fetches) => fetches,
        }
    }
}

impl Default for Authorizer {
    fn default() -> Authorizer {
        Authorizer {
            salt: Salt::new(),
            state: Mutex::default(),
        }
    }
}

impl Authorizer {
    /// The `Authorization` header for `purpose`, when its host is known to ask for one.
    pub(crate) async fn header(
        &self,
        purpose: &Purpose<'_>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let Some(account) = self.account(purpose).await else {
            return Ok(None);
        };
        let known = self.lock().challenges.get(&account).cloned();
        let Some(challenge) = known else {
            return Ok(None);
        };
        let (key, scopes) = match &challenge {
            Challenge::Basic => (String::new(), Vec::new()),
            Challenge::Bearer { scope, .. } => {
                let scopes = merge_scopes(&purpose.scopes, scope);
                (scopes.join(" "), scopes)
            }
        };
        let fetches = account.fetches();
        let cell = self.cell(account, key);
        let grant = cell
            .get_or_try_init(|| async {
                match &challenge {
                    Challenge::Basic => basic(purpose).await,
                    Challenge::Bearer { realm, service, .. } => {
                        bearer(purpose, realm, service, scopes, fetches).await
                    }
                }
            })
            .await?;
        Ok(Some(grant.header.clone()))
    }

    /// Takes in that a request was answered with 401, which says `detail`; `sent` is the header that
    /// it had.
    ///
    /// # Errors
    /// When the answer does not say how to do better, or the client cannot be asked.
    pub(crate) async fn refused(
        &self,
        purpose: &Purpose<'_>,
        headers: &HeaderMap,
        sent: Option<&HeaderValue>,
        detail: &str,
    ) -> Result<(), RegistryError> {
        let challenge = Challenge::of(headers).ok_or_else(|| denied(purpose, detail))?;
        let account = self.new_account(purpose, &challenge).await?;
        let mut state = self.lock();
        if let Some(sent) = sent {
            state
                .grants
                .retain(|_, cell| cell.get().is_none_or(|grant| grant.header != *sent));
        }
        state.make_room();
        state.clients.insert(client(purpose), Some(account.clone()));
        let challenge = challenge.within(|scope| scope_is_of(scope, &purpose.scopes));
        state.challenges.insert(account, challenge);
        Ok(())
    }

    /// Whose grants `purpose` may use, if that is known or can be found out. A client that comes
    /// again is known by its key.
    async fn account(&self, purpose: &Purpose<'_>) -> Option<Account> {
        let client = client(purpose);
        let keys: Vec<Account> = {
            let state = self.lock();
            if let Some(known) = state.clients.get(&client) {
                return known.clone();
            }
            let accounts = state.challenges.keys();
            let of_host = accounts.filter(|account| account.host == purpose.host);
            let keyed = of_host.filter(|account| matches!(account.holder, Holder::Key(_)));
            keyed.cloned().collect()
        };
        if keys.is_empty() {
            return None;
        }
        let question = Question::new();
        let signed = purpose
            .credentials
            .sign(purpose.host, self.salt.bytes(), question.bytes())
            .await;
        let is_signer = |account: &Account| match (&account.holder, &signed) {
            (Holder::Key(key), Some(signed)) => question.is_answered(signed, key),
            _ => false,
        };
        let found = keys.into_iter().find(is_signer);
        let mut state = self.lock();
        state.make_room();
        state.clients.insert(client, found.clone());
        found
    }

    /// Whose grants `purpose` uses from now on.
    async fn new_account(
        &self,
        purpose: &Purpose<'_>,
        challenge: &Challenge,
    ) -> Result<Account, RegistryError> {
        let known = self.lock().clients.get(&client(purpose)).cloned();
        if let Some(Some(account)) = known {
            return Ok(account);
        }
        let authority = match challenge {
            Challenge::Bearer { .. } => purpose
                .credentials
                .authority(purpose.host, self.salt.bytes())
                .await
                .map_err(RegistryError::Credentials)?,
            Challenge::Basic => Authority::Daemon,
        };
        let identity = || purpose.credentials.identity().to_owned();
        Ok(Account {
            host: purpose.host.to_owned(),
            holder: match authority {
                Authority::Key(key) => Holder::Key(key),
                Authority::Nameless => Holder::Identity(identity(), true),
                Authority::Daemon => Holder::Identity(identity(), false),
            },
        })
    }

    fn cell(&self, account: Account, key: String) -> Arc<OnceCell<Grant>> {
        let mut state = self.lock();
        state.make_room();
        let cell = state.grants.entry((account, key)).or_default();
        if !is_alive(cell, Instant::now()) {
            *cell = Arc::default();
        }
        cell.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held; were it so, the maps would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets what is of no use any more, and all if that is not enough.
    fn make_room(&mut self) {
        let full =
            |state: &State| state.grants.len() >= MAX_KEPT || state.clients.len() >= MAX_KEPT;
        if !full(self) {
            return;
        }
        let now = Instant::now();
        self.grants.retain(|_, cell| is_alive(cell, now));
        if full(self) {
            *self = State::default();
        }
    }
}

fn is_alive(cell: &Arc<OnceCell<Grant>>, now: Instant) -> bool {
    cell.get().is_none_or(|grant| grant.expires > now)
}

fn client(purpose: &Purpose<'_>) -> Client {
    Client {
        identity: purpose.credentials.identity().to_owned(),
        host: purpose.host.to_owned(),
    }
}
