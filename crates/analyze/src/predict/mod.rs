//! What a container will read first, told from its image without running anything.
//!
//! Of a file, the predictor it concerns may write a note: the libraries a program needs, the modules a script imports. Where
//! the layers are only read, that is done while the file passes by; where files can be looked into, when somebody asks.
//! [`predict`] follows the image's command through these notes:
//! the program, what the loader opens for it, what its runtime opens for the script, and so on. Nothing is executed, no
//! path leaves the image, and each path says why it is there.
//!
//! What cannot be followed is left out. A prediction decides an order and no more, so an odd image makes it worse, never
//! the conversion. All that is found and remembered is paid for out of one budget ([`PredictionLimits`]), by `Reads`.
//!
//! To add a runtime: a `Predictor` in a file of its own and a line in `PREDICTORS`. What changes a prediction changes
//! [`VERSION`].

mod budget;
mod command;
mod elf;
mod go;
mod java;
mod libc;
mod nginx;
mod node;
pub(crate) mod passing;
mod php;
mod python;
mod reads;
mod ruby;
mod shell;
mod wrapper;

use restow_oci::Config;
use restow_oci::PredictionLimits;
use serde_json::Value;

pub use self::reads::Predicted;

use self::command::Program;
use self::passing::Passing;
use self::reads::Reads;
use crate::Tree;

/// The version of what is predicted: another one may order the same image differently.
pub const VERSION: u32 = 3;

/// What is started in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The environment, as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub directory: String,
}

impl Launch {
    /// Returns what an image's config starts: its entrypoint, followed by its command.
    ///
    /// What is not of the type it should be counts as left out.
    pub fn of(config: &Config) -> Self {
        let field = |name: &str| config.get("config").and_then(|config| config.get(name));
        let words = |name: &str| -> Vec<String> {
            let words = field(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            words.map(str::to_owned).collect()
        };
        Self {
            args: [words("Entrypoint"), words("Cmd")].concat(),
            env: words("Env"),
            directory: field("WorkingDir").and_then(Value::as_str).unwrap_or_default().to_owned(),
        }
    }
}

/// What will be read first, and what could not be followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prediction {
    /// The files and the links that lead to them, in the order of their first reading; none twice.
    pub files: Vec<Predicted>,
    /// What could not be followed, in words.
    pub notices: Vec<String>,
    /// Bytes in the files of each layer, predicted or not.
    pub layer_sizes: Vec<u64>,
}

/// Something that knows what a kind of program reads when it starts.
pub(crate) trait Predictor: Sync {
    /// Returns what to remember of a file that passes by, if it is of the kind this predictor asks about.
    ///
    /// One note is kept for a file, that of the first predictor that makes one.
    fn note(&self, file: &Passing<'_>) -> Option<String>;

    /// Adds what the program reads, if it is of the kind this predictor knows.
    fn predict(&self, program: &Program, reads: &mut Reads<'_>);
}

/// All predictors, in the order in which what they know is read.
pub(crate) const PREDICTORS: &[&dyn Predictor] = &[
    &elf::Loader,
    &libc::Libc,
    &go::Go,
    &wrapper::Wrapper,
    &shell::Shell,
    &python::Python,
    &node::Node,
    &ruby::Ruby,
    &php::Php,
    &java::Java,
    &nginx::Nginx,
];

/// Predicts what is read first in a container of these layers, which come with notes or with files to look into.
///
/// One that reaches a limit gives what it has found, with a notice.
pub fn predict(tree: &Tree, launch: &Launch, limits: &PredictionLimits) -> Prediction {
    let mut reads = Reads::new(tree, launch, limits);
    // runc looks the user up in them before the program starts, whoever the user is.
    for path in ["etc/passwd", "etc/group"] {
        reads.open(path, "the runtime looks up the user");
    }
    command::run(&mut reads, launch);
    if tree.lost_notes(limits) {
        reads.notice("the image holds more programs and scripts than are remembered".into());
    }
    reads.finish()
}

#[cfg(test)]
mod tests;
