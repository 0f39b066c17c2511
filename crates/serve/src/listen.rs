//! Accepts connections, with or without TLS, until the server is told to stop.

use crate::{App, drain, router};
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{Handle, Server};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the head of a request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Tls(RustlsConfig);

/// Why nobody can be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; choose another --port, or --host")]
    Address {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the certificate or the key cannot be read.
    #[error("{}: {message}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Certificate and key do not go together.
    #[error("the certificate and its key cannot be used: {0}")]
    Tls(rustls::Error),
    /// The system stopped listening.
    #[error("connections cannot be accepted any more: {0}")]
    Accept(io::Error),
}

impl Tls {
    /// A certificate chain and its key, from PEM files.
    ///
    /// # Errors
    /// A file that is missing or holds something else; a key that is not the certificate's.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, ListenError> {
        let pem = |path: &Path, error: rustls::pki_types::pem::Error| {
            let message = match error {
                rustls::pki_types::pem::Error::Io(error) => error.to_string(),
                other => format!("this is no PEM file of what is needed: {other}"),
            };
            ListenError::Pem { path: path.into(), message }
        };
        let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| pem(certificate, error))?;
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| pem(certificate, error))?;
        if chain.is_empty() {
            return Err(ListenError::Pem { path: certificate.into(), message: "it holds no certificate".into() });
        }
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| pem(key, error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(ListenError::Tls)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(RustlsConfig::from_config(Arc::new(config))))
    }
}

/// An address that is listened on, before anybody is answered.
#[derive(Debug)]
pub struct Listener(std::net::TcpListener);

impl Listener {
    /// Takes the address; port 0 is any that is free.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        std::net::TcpListener::bind(address).map(Self).map_err(|source| ListenError::Address { address, source })
    }

    /// The address.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until `stop` comes; then refuses what is new, answers what was accepted, and returns.
    ///
    /// # Errors
    /// The system stopped listening.
    pub async fn serve(
        self,
        app: Arc<App>,
        tls: Option<Tls>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ListenError> {
        let handle = Handle::new();
        let server = axum_server::from_tcp(self.0).map_err(ListenError::Accept)?.handle(handle.clone());
        let draining = tokio::spawn(drain::when(stop, app.clone(), handle));
        let service = router(app).into_make_service();
        let served = match tls {
            None => limited(server.acceptor(NoDelayAcceptor::new())).serve(service).await,
            Some(Tls(config)) => {
                let acceptor = RustlsAcceptor::new(config).acceptor(NoDelayAcceptor::new());
                limited(server.acceptor(acceptor)).serve(service).await
            }
        };
        draining.abort();
        served.map_err(ListenError::Accept)
    }
}

/// Clients that send their requests too slowly are left.
fn limited<A>(server: Server<SocketAddr, A>) -> Server<SocketAddr, A> {
    let mut server = server.http1_only().first_request_timeout(HEAD_TIMEOUT);
    server.http_builder().http1().header_read_timeout(HEAD_TIMEOUT);
    server
}
