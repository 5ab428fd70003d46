//! Proxies on the way to a registry.

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use restow_testkit::ImageBuilder;
use restow_testkit::registry::Answer;

use super::tls::INDEX;
use super::tls::IS_INDEX;
use super::tls::answer;
use super::tls::authority;
use super::tls::head;
use super::tls::listen;
use super::tls::serve;
use super::*;

fn through(proxies: Proxies, settings: Settings) -> Client {
    client_with(Settings { proxies, ..settings }).0
}

fn plain() -> Settings {
    Settings { plain_http: true, attempts: 1, ..Settings::default() }
}

#[test]
fn a_proxy_is_asked_for_what_lies_elsewhere() {
    let proxy = Registry::start();
    proxy.intercept(|request| {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let found = request.path == "http://registry.test/v2/a/manifests/v1";
        found.then(|| Answer::new(200).header("Content-Type", media_type).body(INDEX))
    });
    let proxies = Proxies { http: Some(format!("http://user:word@{}", proxy.host())), ..Proxies::default() };
    let client = through(proxies, plain());
    let content = client.manifest(&Name::parse("registry.test/a:v1").unwrap()).unwrap().unwrap();
    assert_eq!(content.bytes, INDEX);
    assert_eq!(proxy.requests()[0].headers["proxy-authorization"], "Basic dXNlcjp3b3Jk");
}

#[test]
fn tls_goes_through_a_proxy_as_through_a_tunnel() {
    let server = serve(|_| answer(200, IS_INDEX, INDEX));
    let (told, heads) = std::sync::mpsc::channel();
    let proxy = listen(move |mut stream| {
        told.send(head(&mut stream).unwrap()).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut beyond = TcpStream::connect(("127.0.0.1", server)).unwrap();
        let (mut from, mut to) = (beyond.try_clone().unwrap(), stream.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut stream, &mut beyond);
    });
    let proxies = Proxies { https: Some(format!("http://127.0.0.1:{proxy}")), ..Proxies::default() };
    let settings = Settings { authorities: vec![authority("registry")], ..Settings::default() };
    let client = through(proxies, settings);
    let content = client.manifest(&Name::parse("registry.test/a:v1").unwrap()).unwrap().unwrap();
    assert_eq!(content.bytes, INDEX);
    let head = heads.recv().unwrap();
    assert!(head.starts_with("CONNECT registry.test:443 HTTP/1.1\r\n"), "{head}");
}

#[test]
fn no_proxy_is_asked_for_this_machine_nor_for_hosts_that_are_excepted() {
    let (registry, proxy) = (Registry::start(), Registry::start());
    registry.put("a", "v1", &ImageBuilder::new().build());
    proxy.intercept(|_| Some(Answer::new(403)));
    let port = registry.other_host().replace("localhost:", "");
    // The address that stands for none leads here too, but is none of this machine's own.
    for (none, host, direct) in [
        (None, "127.0.0.1", true),
        (None, "localhost", true),
        (None, "0.0.0.0", false),
        (Some("x.test,0.0.0.0"), "0.0.0.0", true),
        (Some("0.0.0.0/8"), "0.0.0.0", true),
        (Some("*"), "localhost", true),
    ] {
        let proxies = Proxies {
            http: Some(format!("http://{}", proxy.host())),
            none: none.map(str::to_owned),
            ..Proxies::default()
        };
        let name = Name::parse(&format!("{host}:{port}/a:v1")).unwrap();
        let found = through(proxies, plain()).manifest(&name);
        assert_eq!(found.is_ok(), direct, "{host} {none:?}: {found:?}");
        assert_eq!(proxy.take_lines().is_empty(), direct, "{host} {none:?}");
    }
}

#[test]
fn a_proxy_that_is_none_is_refused() {
    let proxies = Proxies { http: Some("://".to_owned()), ..Proxies::default() };
    let error = through(proxies, plain()).manifest(&Name::parse("registry.test/a:v1").unwrap()).unwrap_err();
    assert!(matches!(&error, Error::Configuration { .. }), "{error}");
}
