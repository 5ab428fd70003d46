//! The example is compiled here once more, to be tested.

use restow_convert::Error;
use restow_oci::Digest;
use restow_testkit::Entry;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;
use restow_testkit::plain;

use crate::support::blob;
use crate::support::chain;
use crate::support::convert_all;
use crate::support::document;
use crate::support::follow;
use crate::support::store;
use crate::support::tar;

#[expect(dead_code, unreachable_pub, reason = "it is a program of its own")]
#[path = "../../examples/custom_converter.rs"]
pub(crate) mod custom_converter;

use custom_converter::DropPath;

#[test]
fn a_converter_from_outside_drops_a_path() {
    let kept =
        || [Entry::file("bin/app", "app"), Entry::file("usr/share/docs", "not doc").xattr("user.a", "b")];
    let dropped = [Entry::dir("./usr/share/doc/"), Entry::file("usr/share/doc/app", vec![7; 3000])];
    let [first, last] = kept();
    let whole = TarBuilder::new().entry(first).entries(dropped).entry(last).finish();
    let expected = TarBuilder::new().entries(kept()).finish();
    let image = ImageBuilder::new().layer(Layer::zstd(&whole)).layer(Layer::gzip(tar("other"))).build();
    let store = store(&image);
    let root = convert_all(&store, &image.root, &DropPath::new("/usr/share/doc/")).unwrap().root;
    let (before, after) = (image.document(), document(&store, &root));
    assert_eq!(plain::gunzip(blob(&store, &after, "/layers/0")).unwrap(), expected);
    assert_eq!(after["layers"][1], before["layers"][1], "a layer without the path stays");
    let config = follow(&store, &after, "/config");
    assert_eq!(config["rootfs"]["diff_ids"][0], Digest::sha256(&expected).as_str());
    assert_eq!(config["rootfs"]["diff_ids"][1], Digest::sha256(&tar("other")).as_str());
}

#[test]
fn a_converter_from_outside_can_refuse() {
    let linked = TarBuilder::new().file("doc", "words").hardlink("link", "doc").finish();
    let cases = [
        (Layer::gzip(linked), "link is another name of what is to be dropped"),
        (Layer::gzip(tar("doc")).diff_id(Digest::sha256(b"other")), "found sha256:"),
    ];
    for (layer, reason) in cases {
        let image = ImageBuilder::new().layer(layer).build();
        let error = convert_all(&store(&image), &image.root, &DropPath::new("doc")).unwrap_err();
        assert!(matches!(error, Error::Layer { position: 0, .. }));
        assert!(chain(&error).contains(reason), "{}", chain(&error));
    }
}
