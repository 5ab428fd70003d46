//! Each limit of a prediction, with an image that goes just over it.

use super::*;

/// Returns the paths behind `etc` that are predicted within changed limits, and the notices.
fn within(
    change: impl Fn(&mut PredictionLimits),
    files: &[Named<'_>],
    launch: &Launch,
) -> (Vec<String>, String) {
    let mut limits = PredictionLimits::default();
    change(&mut limits);
    let prediction = predicted_within(&[files], launch, limits);
    (prediction.files.into_iter().map(|file| file.path).collect(), prediction.notices.join("; "))
}

/// Checks that `most` is enough for an image, that one less is not, and what is missing and said then.
fn just_over(
    set: impl Fn(&mut PredictionLimits, u64),
    most: u64,
    files: &[Named<'_>],
    command: &[&str],
    missing: &[&str],
    notice: &str,
) {
    let (all, none) = within(|limits| set(limits, most), files, &launch(command));
    assert_eq!(none, "", "{missing:?}");
    let (rest, notices) = within(|limits| set(limits, most - 1), files, &launch(command));
    let expected: Vec<_> = all.iter().filter(|path| !missing.contains(&path.as_str())).cloned().collect();
    assert_eq!((rest, notices.as_str()), (expected, notice));
    assert!(missing.iter().all(|path| all.iter().any(|found| found == path)), "{missing:?} in {all:?}");
}

#[test]
fn files_and_commands_beyond_their_number_are_left_out_with_a_notice() {
    let files = [
        elf("bin/sh", "", &[]),
        text("a.sh", "#!/bin/sh\n/b.sh\n/c.sh"),
        text("b.sh", "#!/bin/sh\n"),
        text("c.sh", "#!/bin/sh\n"),
    ];
    let notice = "more than 3 files would be read; the rest is left out";
    just_over(|limits, most| limits.files = most as usize, 4, &files, &["/a.sh"], &["c.sh"], notice);
    let notice = "more than 5 commands would run; the rest is left out";
    // Each script, and the shell for it; the last shell is known already.
    just_over(|limits, most| limits.commands = most as usize, 6, &files, &["/a.sh"], &[], notice);
    let notice = "bin/sh is reached through 3 commands; what it starts is left out";
    let set = |limits: &mut PredictionLimits, most| limits.command_depth = most as usize;
    let files = [&files[..], &[text("d.sh", "#!/bin/sh\n. ./e"), text("e", "")]].concat();
    let files: Vec<_> = files.into_iter().filter(|(path, _)| *path != "b.sh").collect();
    let files = [&files[..], &[text("b.sh", "#!/bin/sh\n. /e")]].concat();
    just_over(set, 4, &files, &["/a.sh"], &["e"], notice);
}

#[test]
fn what_one_program_is_followed_through_has_a_number() {
    let modules = |limits: &mut PredictionLimits, most| limits.modules = most as usize;
    let sources = |limits: &mut PredictionLimits, most| limits.sources = most as usize;
    let node = [
        elf("usr/bin/node", "", &[]),
        text("app/a.js", "require('./b')"),
        text("app/b.js", "require('./c')"),
        text("app/c.js", ""),
    ];
    just_over(modules, 3, &node, &["node", "a.js"], &["app/c.js"], "");
    let python = [
        elf("usr/bin/python3.11", "", &[]),
        text("usr/lib/python3.11/x", ""),
        text("app/a.py", "import b"),
        text("app/b.py", "import c"),
        text("app/c.py", ""),
    ];
    // What python imports by itself, found or not: 13 at its start and 2 behind it, 5 packages of them once.
    let count =
        |most| within(|limits| limits.modules = most, &python, &launch(&["python3.11", "a.py"])).0.len();
    let enough = (1..100).find(|most| count(*most) == count(100)).unwrap();
    just_over(modules, enough as u64, &python, &["python3.11", "a.py"], &["app/c.py"], "");
    let class = |names: &[&str]| {
        let mut class = vec![0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 61, 0, names.len() as u8 * 2 + 1];
        for name in names {
            class.extend([&[1, 0, name.len() as u8], name.as_bytes()].concat());
        }
        (0..names.len()).for_each(|at| class.extend([7, 0, at as u8 + 1]));
        class
    };
    let java = [elf("usr/bin/java", "", &[]), ("app/A.class", class(&["B"])), ("app/B.class", class(&[]))];
    just_over(modules, 2, &java, &["java", "A"], &["app/B.class"], "");
    let php = [
        elf("usr/bin/php", "", &[]),
        text("app/a.php", "<?php include 'b.php';"),
        text("app/b.php", "<?php include 'c.php';"),
        text("app/c.php", ""),
    ];
    just_over(sources, 2, &php, &["php", "a.php"], &["app/c.php"], "");
    let ruby = [
        elf("usr/bin/ruby", "", &[]),
        text("app/a.rb", "require_relative 'b'"),
        text("app/b.rb", "require_relative 'c'"),
        text("app/c.rb", ""),
    ];
    just_over(sources, 3, &ruby, &["ruby", "a.rb"], &["app/c.rb"], "");
    let nginx = [
        elf("usr/bin/nginx", "", &[]),
        text("etc/nginx/nginx.conf", "include a.conf;"),
        text("etc/nginx/a.conf", "include b.conf;"),
        text("etc/nginx/b.conf", ""),
    ];
    let set = |limits: &mut PredictionLimits, most| limits.configurations = most as usize;
    just_over(set, 2, &nginx, &["nginx"], &["etc/nginx/b.conf"], "");
    let shell = [
        elf("bin/sh", "", &[]),
        text("app/a.sh", ". ./b.sh\n. ./c.sh"),
        text("app/b.sh", ""),
        text("app/c.sh", ""),
    ];
    let set = |limits: &mut PredictionLimits, most| limits.sourced = most as usize;
    just_over(set, 2, &shell, &["sh", "a.sh"], &["app/c.sh"], "");
    let set = |limits: &mut PredictionLimits, most| limits.script_commands = most as usize;
    just_over(set, 2, &shell, &["sh", "a.sh"], &["app/c.sh"], "");
}

#[test]
fn of_what_is_too_long_there_is_no_note() {
    let script = "#!/bin/sh\n/b\n";
    let files = [elf("bin/sh", "", &[]), text("a.sh", script), text("b", "")];
    let set = |limits: &mut PredictionLimits, most| limits.script = most;
    let (all, _) = within(|limits| set(limits, script.len() as u64), &files, &launch(&["/a.sh"]));
    assert_eq!(all, ["a.sh", "bin/sh", "b"]);
    for set in [
        |limits: &mut PredictionLimits, most: usize| limits.script = most as u64,
        |limits: &mut PredictionLimits, most: usize| limits.note = most,
    ] {
        let rest = within(|limits| set(limits, script.len() - 1), &files, &launch(&["/bin/sh", "/a.sh"])).0;
        assert_eq!(rest, ["bin/sh", "a.sh"]);
    }
    let text_of = [elf("usr/bin/node", "", &[]), text("app/a.js", "require('./b')"), text("app/b.js", "")];
    let set = |limits: &mut PredictionLimits, most| limits.text = most;
    just_over(set, 14 - 1, &text_of, &["node", "a.js"], &["app/b.js"], "");
    // The names of what a program needs lie behind its start.
    let program = elf("bin/a", "", &[(NEEDED, "libx.so")]);
    let length = program.1.len() as u64;
    let files = [program, elf("lib/libx.so", "", &[])];
    let (rest, _) = within(
        |limits| (limits.text, limits.program) = (length / 2, length / 2),
        &files,
        &launch(&["/bin/a"]),
    );
    assert_eq!(rest, ["bin/a"]);
}

#[test]
fn notes_that_find_no_room_are_told() {
    let files = [elf("bin/sh", "", &[]), text("a.sh", "#!/bin/sh\n/b\n"), text("b", "")];
    let (_, notices) = within(|limits| limits.notes = 4, &files, &launch(&["/a.sh"]));
    assert_eq!(notices, "the image holds more programs and scripts than are remembered");
}

#[test]
fn a_prediction_that_costs_too_much_gives_what_it_has() {
    let names: Vec<String> = (0..50).map(|number| format!("app/m{number}.js")).collect();
    let mut files = vec![elf("usr/bin/node", "", &[])];
    files.extend(
        names.iter().enumerate().map(|(number, name)| text(name, &format!("require('./m{}')", number + 1))),
    );
    let all = within(|_| {}, &files, &launch(&["node", "m0.js"])).0;
    assert_eq!(all.len(), 51);
    for set in [
        |limits: &mut PredictionLimits, most: u64| limits.steps = most,
        |limits: &mut PredictionLimits, most: u64| limits.memory = most,
    ] {
        // It only ever knows more, and tells until it knows all.
        let mut before = 0;
        for most in (0..24).map(|power| 1 << power) {
            let (found, notices) = within(|limits| set(limits, most), &files, &launch(&["node", "m0.js"]));
            assert_eq!(found[..], all[..found.len()], "{most}");
            assert!(found.len() >= before, "{most}");
            assert_eq!(notices.contains("ends early"), found.len() < all.len(), "{most}: {notices}");
            before = found.len();
        }
        assert_eq!(before, all.len());
    }
}

/// Predicts within a tenth of the limits and says whether that was too little.
fn is_cut(files: &[Named<'_>], launch: &Launch) -> bool {
    let Limits { prediction, .. } = Limits::default();
    let limits =
        PredictionLimits { steps: prediction.steps / 10, memory: prediction.memory / 10, ..prediction };
    let prediction = predicted_within(&[files], launch, limits);
    prediction.notices.iter().any(|notice| notice.contains("ends early"))
}

#[test]
fn what_grows_by_its_own_size_is_cut_short() {
    let many = |count: usize, line: fn(usize) -> String| (0..count).map(line).collect::<String>();
    // A directory of many files under many names.
    let big: Vec<String> = (0..2000).map(|number| format!("big/{number}")).collect();
    let links: Vec<String> = (0..2000).map(|number| format!("s{number}")).collect();
    let mut aliases: Vec<_> = big.iter().map(|path| text(path, "")).collect();
    aliases.extend(links.iter().map(|path| text(path, "->big")));
    aliases.push(elf("bin/node", "", &[]));
    aliases.push(text("run.js", &many(2000, |number| format!("require('/s{number}/x');"))));
    assert!(!is_cut(&aliases, &launch(&["node", "/run.js"])));
    // The same pattern again and again is one; others are not.
    let nginx = |line: fn(usize) -> String| {
        let mut files: Vec<_> = big.iter().map(|path| text(path, "")).collect();
        files.push(elf("bin/nginx", "", &[]));
        files.push(text("etc/nginx/nginx.conf", &many(500, line)));
        files
    };
    assert!(!is_cut(&nginx(|_| "include /big/*;\n".into()), &launch(&["nginx"])));
    assert!(is_cut(
        &nginx(|number| format!("include {}/big/*;\n", "/.".repeat(number % 50))),
        &launch(&["nginx"])
    ));
    // Many libraries in many directories, many classes in many.
    let listed = |name: &str, count| {
        let mut launch = launch(&["/app", "A"]);
        launch
            .env
            .push(format!("{name}={}", (0..count).map(|number| format!("/{number}:")).collect::<String>()));
        launch
    };
    let names: Vec<String> = (0..1000).map(|number| format!("lib{number}")).collect();
    let needed: Vec<_> = names.iter().map(|name| (NEEDED, name.as_str())).collect();
    assert!(is_cut(&[elf("app", LOADER, &needed)], &listed("LD_LIBRARY_PATH", 10_000)));
}

#[test]
fn a_note_takes_time_by_the_length_of_its_file() {
    let limits = PredictionLimits { text: 4 << 20, ..PredictionLimits::default() };
    let mut class = vec![0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 61, 0xff, 0xff, 1, 0xf0, 0];
    class.extend(vec![b'x'; 0xf000]);
    class.extend([7, 0, 1].repeat(0xfffd));
    let import = |line: &str| format!("import a, \\\n{}", line.repeat(1 << 20));
    // Each took minutes or gigabytes while it was looked at again for each of its parts.
    for (path, content) in [
        ("a.py", "\"".repeat(3 << 20)),
        ("b.py", import("\\\n")),
        ("c.py", format!("from a import (\n{}", "\n".repeat(2 << 20))),
        ("d.sh", format!("{}{}", "(".repeat(100_000), "}\n".repeat(50_000))),
    ] {
        let limits = PredictionLimits { script: 4 << 20, ..limits.clone() };
        passing::write(&Passing::new(path, content.len() as u64, content.as_bytes(), &limits));
        let files = [elf("bin/sh", "", &[]), text("d.sh", &content)];
        within(|limits| limits.script = 4 << 20, &files, &launch(&["sh", "/d.sh"]));
    }
    assert_eq!(passing::write(&Passing::new("a.class", class.len() as u64, &class, &limits)), None);
}
