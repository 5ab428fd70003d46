//! Programs whose whole business is to start another one.

use super::Predictor;
use super::command::Program;
use super::passing::Passing;
use super::reads::Reads;

/// Wrappers, how many words stand between their options and the command, and the options that take a word.
const WRAPPERS: &[(&[&str], usize, &[&str])] = &[
    (&["env"], 0, &["-u", "-C", "--unset", "--chdir"]),
    (&["tini", "tini-static", "docker-init", "catatonit"], 0, &["-p", "-e"]),
    (&["dumb-init"], 0, &["-r", "--rewrite"]),
    (&["gosu", "su-exec"], 1, &[]),
    (&["setpriv"], 0, &["--reuid", "--regid", "--groups", "--inh-caps", "--ambient-caps", "--bounding-set"]),
    (&["nice", "ionice", "chrt"], 0, &["-n", "-c"]),
    (&["stdbuf"], 0, &["-i", "-o", "-e"]),
    (&["nohup", "setsid", "exec", "command", "time"], 0, &[]),
    (&["timeout"], 1, &["-k", "-s"]),
];

/// Wrappers around other programs.
#[derive(Debug)]
pub(crate) struct Wrapper;

impl Predictor for Wrapper {
    fn note(&self, _: &Passing<'_>) -> Option<String> {
        None
    }

    fn predict(&self, program: &Program, reads: &mut Reads<'_>) {
        if let Some(args) = wrapped(program) {
            reads.run(program.starts(args));
        }
    }
}

fn wrapped(program: &Program) -> Option<Vec<String>> {
    let (_, between, valued) = WRAPPERS.iter().find(|(names, ..)| program.is(names))?;
    // A script's interpreter line comes as one argument, which `env -S` takes apart.
    let split = |word: &String| -> Vec<String> {
        match word.strip_prefix("-S") {
            Some(words) => words.split_ascii_whitespace().map(str::to_owned).collect(),
            None => vec![word.clone()],
        }
    };
    let words: Vec<String> = program.args.iter().flat_map(split).collect();
    let mut at = 0;
    while let Some(word) = words.get(at).filter(|word| word.starts_with('-')) {
        at += if valued.contains(&word.as_str()) { 2 } else { 1 };
        if word == "--" {
            break;
        }
    }
    at += between;
    if program.is(&["env"]) {
        at += words.iter().skip(at).take_while(|word| word.contains('=')).count();
    }
    words.get(at..).filter(|rest| !rest.is_empty()).map(<[String]>::to_vec)
}
