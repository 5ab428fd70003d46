//! What users and earlier runs supply: filters, files of jobs, memories.

use std::sync::Arc;
use std::sync::LazyLock;

use restow_content::Filter;
use restow_content::Filterable;
use restow_content::MemoryStore;
use restow_content::Overlay;
use restow_content::write;
use restow_convert::Memo;
use restow_convert::Memory;
use restow_convert::NoMemo;
use restow_convert::Options;
use restow_convert::Platforms;
use restow_convert::Seekable;
use restow_convert::Silent;
use restow_convert::Turn;
use restow_convert::convert;
use restow_layer::EncodeOptions;
use restow_layer::Workers;
use restow_layer::ZstdChunked;
use restow_oci::Descriptor;
use restow_oci::MediaType;
use restow_testkit::ImageBuilder;
use restow_testkit::Layer;
use restow_testkit::TarBuilder;

use crate::spool;

#[path = "../../cli/src/commands/batch/words.rs"]
mod words;

/// Something that has a value for most fields.
struct Thing;

impl Filterable for Thing {
    fn field(&self, path: &[String]) -> Option<String> {
        (path.len() < 4).then(|| path.join("."))
    }
}

/// Filters in containerd's grammar.
pub fn filter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(filter) = Filter::parse(text.lines()) {
        filter.matches(&Thing);
    }
}

/// Files of jobs: lines in a shell's or JSON's quotation.
pub fn jobs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for line in text.lines() {
        let Ok(Some(words)) = words::words(line.trim()) else { continue };
        let array = serde_json::to_string(&words).expect("strings are JSON");
        assert_eq!(words::words(&array), Ok(Some(words)), "{array}");
    }
}

/// Remembers one thing, whatever is asked for.
#[derive(Debug)]
struct Always(Memory);

impl Memo for Always {
    fn recall(&self, _key: &str) -> Option<Memory> {
        Some(self.0.clone())
    }

    fn begin(&self, key: &str) -> Box<dyn Turn> {
        NoMemo.begin(key)
    }
}

static IMAGE: LazyLock<(MemoryStore, Descriptor)> = LazyLock::new(|| {
    let layer = Layer::gzip(TarBuilder::new().file("file", "content").finish());
    let image = ImageBuilder::new().layer(layer).build();
    let store = MemoryStore::new();
    for (_, bytes) in &image.blobs {
        write(&store, MediaType::OCI_LAYER, bytes).expect("a memory takes everything");
    }
    (store, image.root)
});
static WORKERS: LazyLock<Arc<Workers>> =
    LazyLock::new(|| Arc::new(Workers::new(1).expect("a thread can be started")));

/// Memories of converted layers. A garbled one costs work at worst; the conversion goes on.
pub fn memo(bytes: &[u8]) {
    let Ok(memory) = serde_json::from_slice::<Memory>(bytes) else { return };
    let again = serde_json::to_vec(&memory).expect("a memory is JSON");
    assert_eq!(serde_json::from_slice::<Memory>(&again).expect("what was written can be read"), memory);
    let (source, root) = &*IMAGE;
    let results = MemoryStore::new();
    let both = Overlay::new(&results, [source as _]);
    let options = EncodeOptions::new(spool());
    let converter = Seekable::new(Box::new(ZstdChunked::new(1)), options, WORKERS.clone());
    let options = Options { memo: Arc::new(Always(memory)), platforms: Platforms::All, ..Options::default() };
    let converted = convert(&both, root, &converter, &options, &Silent);
    assert!(converted.is_ok(), "{converted:?}");
}
