/// How much a prediction may cost, whatever the image holds. One that reaches a bound gives what it has so far.
///
/// There is no clock: work is counted in steps. The defaults come to less than 5 seconds and 256 MB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictionLimits {
    /// The work of a prediction. A step searches one layer for a name, or handles some dozen bytes.
    pub steps: u64,
    /// The size of all that a prediction remembers besides notes: paths, directories, commands.
    pub memory: u64,
    /// The size of the notes that are kept about the files of an image.
    pub notes: u64,
    /// The size of the note about one file. A longer one is not kept.
    pub note: usize,
    /// How many bytes of a text are looked at.
    pub text: u64,
    /// How many bytes at the start of a program are looked at.
    pub program: u64,
    /// The size of a shell script or a configuration that is followed. Of a longer one there is no note.
    pub script: u64,
    /// How many paths are predicted. A start that reads more is not made faster by an order.
    pub files: usize,
    /// How many commands are followed.
    pub commands: usize,
    /// How many commands lead to the one that is followed.
    pub command_depth: usize,
    /// How many commands of one shell script are followed.
    pub script_commands: usize,
    /// How many scripts a shell reads into itself.
    pub sourced: usize,
    /// How many modules of Python or Node.js, or classes of Java, one program is followed through.
    pub modules: usize,
    /// How many jars, gems, or sources of Ruby and PHP, one program is followed through.
    pub sources: usize,
    /// How many files of nginx's configuration are followed.
    pub configurations: usize,
}

impl Default for PredictionLimits {
    fn default() -> PredictionLimits {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        PredictionLimits {
            steps: 8_000_000,
            memory: 96 * MIB,
            notes: 48 * MIB,
            note: 256 * KIB as usize,
            text: MIB,
            // The names of the libraries that it needs lie there.
            program: 16 * MIB,
            script: 200 * KIB,
            files: 20_000,
            commands: 200,
            command_depth: 20,
            script_commands: 2000,
            sourced: 50,
            modules: 10_000,
            sources: 5000,
            configurations: 1000,
        }
    }
}
