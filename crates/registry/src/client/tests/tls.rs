//! Registries behind TLS.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;

use restow_testkit::testdata;
use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::*;

/// Starts a server with the certificate in `testdata/tls`, which answers as `answer` says to the head of each
/// request, until the test ends. Returns its port.
pub(super) fn serve(answer: impl Fn(&str) -> String + Send + Clone + 'static) -> u16 {
    let certificate = CertificateDer::from_pem_file(authority("registry")).unwrap();
    let key = PrivateKeyDer::from_pem_file(testdata("tls/registry.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    listen(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        while let Some(head) = head(&mut stream) {
            if stream.write_all(answer(&head).as_bytes()).is_err() {
                break;
            }
        }
    })
}

/// Starts a server of which each connection has a thread, until the test ends. Returns its port.
pub(super) fn listen(serve: impl Fn(std::net::TcpStream) + Send + Clone + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(std::result::Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Reads a request without a body.
pub(super) fn head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Writes an answer with a body.
pub(super) fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

pub(super) const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
pub(super) const IS_INDEX: &str = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";

pub(super) fn authority(name: &str) -> PathBuf {
    testdata(format!("tls/{name}.pem"))
}

fn trusting(name: &str) -> Client {
    client_with(Settings { authorities: vec![authority(name)], ..Settings::default() }).0
}

#[test]
fn a_registry_of_a_known_authority_is_trusted_and_no_other() {
    let port = serve(|_| answer(200, IS_INDEX, INDEX));
    let name = Name::parse(&format!("127.0.0.1:{port}/a:v1")).unwrap();
    let content = trusting("registry").manifest(&name).unwrap().unwrap();
    assert_eq!(content.bytes, INDEX);
    let (client, clock) =
        client_with(Settings { authorities: vec![authority("other")], ..Settings::default() });
    let error = client.manifest(&name).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownAuthority { host } if host.ends_with(&port.to_string())),
        "{error}"
    );
    // Another try would end as this one did.
    assert!(clock.slept().is_empty());
    // The same server by an address that its certificate does not name.
    let elsewhere = Name::parse(&format!("0.0.0.0:{port}/a:v1")).unwrap();
    let error = trusting("registry").manifest(&elsewhere).unwrap_err();
    assert!(matches!(&error, Error::InvalidCertificate { .. }), "{}", chain(&error));
}

#[test]
fn a_server_that_does_not_speak_tls_is_told_apart() {
    let port = listen(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request");
    });
    let name = Name::parse(&format!("127.0.0.1:{port}/a:v1")).unwrap();
    let error = trusting("registry").manifest(&name).unwrap_err();
    assert!(matches!(&error, Error::NoTls { .. }), "{}", chain(&error));
    // And the other way round: Go's servers say what they want.
    let registry = Registry::start();
    registry.intercept(|_| {
        let text = "Client sent an HTTP request to an HTTPS server.\n";
        Some(restow_testkit::registry::Answer::new(400).body(text))
    });
    let error = client().manifest(&super::name(&registry, "a:v1")).unwrap_err();
    assert!(error.to_string().ends_with(": 400, Client sent an HTTP request to an HTTPS server."), "{error}");
}

#[test]
fn nothing_goes_on_in_the_clear_that_began_by_tls() {
    let eavesdropper = Registry::start();
    let there = eavesdropper.host();
    for (status, headers, expected) in [
        (307, format!("Location: http://{there}/v2/a/manifests/v1\r\n"), "a redirect from https to http://"),
        (401, format!("WWW-Authenticate: Bearer realm=\"http://{there}/token\"\r\n"), "tokens come by http"),
        (202, format!("Location: http://{there}/v2/a/blobs/uploads/1\r\n"), "the upload goes on without TLS"),
    ] {
        let port = serve(move |_| answer(status, &headers, ""));
        let name = Name::parse(&format!("localhost:{port}/a:v1")).unwrap();
        let client = trusting("registry");
        let error = match status {
            202 => client.push_blob(&name.repository, &layer(b"x"), &blob(b"x"), &[]).unwrap_err(),
            _ => client.manifest(&name).unwrap_err(),
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(eavesdropper.requests().is_empty());
}
