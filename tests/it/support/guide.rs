//! A guide: its fenced blocks, what each is for by its info string, and a shell that runs them as they are written.

use super::is_of_this_machine;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest time of a line of a block, each of which may be a command.
const A_LINE: Duration = Duration::from_secs(30);
/// Longest time of all blocks of a guide.
const ALL: Duration = Duration::from_secs(180);
/// What the shell writes behind a block, with its exit code.
const MARK: &str = "\u{1}the block has ended: ";

/// What is to be done with a block.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Purpose {
    /// `sh`: every command of it succeeds. `sh fails`: the last one does not.
    Run { fails: bool },
    /// `sh cluster` (needs a Kubernetes cluster), `sh console: needs …`: of a place that is not here; its syntax is checked.
    Elsewhere,
    /// A language and a file's name, `yaml larder.yaml`: written to /etc/larder, or to where `./` or `/` leads.
    File(PathBuf),
    /// `text`: what the block before it prints. A line of `…` is any lines, `…` in a line any text.
    Output,
    /// `yaml` and the like without a name: an excerpt, written nowhere.
    Excerpt,
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    pub language: String,
    pub purpose: Purpose,
    pub text: String,
    /// Where it begins in the guide, from 1.
    pub line: usize,
}

/// The blocks of a guide. An info string that means nothing fails.
pub fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = guide.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        // In a list a block is indented.
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let body = lines.by_ref().map(|(_, line)| line.strip_prefix(indent).unwrap_or(line));
        let body: Vec<_> = body.take_while(|line| *line != "```").collect();
        let mut words = info.split_whitespace();
        let language = words.next().unwrap_or_default();
        let word = words.next().map(|word| word.trim_end_matches([':', '：']));
        let purpose = match (language, word) {
            ("sh", None) => Purpose::Run { fails: false },
            ("sh", Some("fails")) => Purpose::Run { fails: true },
            ("sh", Some("cluster")) => Purpose::Elsewhere,
            ("sh", Some("console")) => {
                assert!(words.next().is_some(), "line {}: say why it is not run", n + 1);
                Purpose::Elsewhere
            }
            ("text", None) => Purpose::Output,
            ("yaml" | "properties" | "dockerfile", None) => Purpose::Excerpt,
            ("yaml" | "properties" | "dockerfile", Some(name)) => Purpose::File(name.into()),
            _ => panic!("line {}: nobody knows what to do with ```{info}", n + 1),
        };
        let text = body.join("\n") + "\n";
        blocks.push(Block { language: language.into(), purpose, text, line: n + 1 });
    }
    blocks
}

/// What shell, YAML and their like say without their comments, by which two languages differ.
pub fn without_comments(block: &Block) -> String {
    if block.language == "text" {
        return block.text.clone();
    }
    let code = block.text.lines().map(|line| line.split(" # ").next().unwrap_or_default().trim_end());
    code.filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// Whether `text` is what `pattern` says.
pub fn is_like(pattern: &str, text: &str) -> bool {
    let lines =
        |text: &str| -> Vec<String> { text.trim_end().lines().map(|l| l.trim_end().into()).collect() };
    lines_are_like(&lines(pattern), &lines(text))
}

fn lines_are_like(pattern: &[String], text: &[String]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((first, rest)) if first.trim() == "…" => {
            (0..=text.len()).any(|n| lines_are_like(rest, &text[n..]))
        }
        Some((first, rest)) => text
            .split_first()
            .is_some_and(|(line, more)| line_is_like(first, line) && lines_are_like(rest, more)),
    }
}

fn line_is_like(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    let open = parts.peek().is_some();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(found) = rest.find(part) else { return false };
        rest = &rest[found + part.len()..];
    }
    open || rest.is_empty()
}

/// One bash for a guide. Ended when dropped.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    end: Instant,
}

impl Shell {
    fn start(home: &Path, programs: &Path) -> Self {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", programs.display());
        let mut child = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .env_clear()
            .envs([("HOME", home.as_os_str()), ("PATH", path.as_ref()), ("LANG", "C.UTF-8".as_ref())])
            .current_dir(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is installed");
        let mut input = child.stdin.take().unwrap();
        // A command that fails ends the shell; programs in the background keep its output open.
        writeln!(input, "exec 2>&1; set -o pipefail; trap 'printf \"\\n{MARK}%s\\n\" $?' EXIT").unwrap();
        let (sender, output) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { child, input, output, end: Instant::now() + ALL }
    }

    /// The output and the exit code, or what came until the time was over.
    fn run(&mut self, file: &Path, text: &str, fails: bool) -> Result<(String, i32), String> {
        let lines = text.lines().count().try_into().unwrap_or(u32::MAX);
        std::fs::write(file, if fails { text.into() } else { format!("set -e\n{text}set +e\n") }).unwrap();
        let file = file.display();
        writeln!(self.input, ". {file} </dev/null; printf '\\n{MARK}%s\\n' $?").map_err(|e| e.to_string())?;
        let end = (Instant::now() + A_LINE * lines).min(self.end);
        let mut output = String::new();
        loop {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.strip_prefix(MARK) {
                    // The mark is on a line of its own, whatever was before it.
                    Some(code) => {
                        return Ok((output.trim_end().to_owned() + "\n", code.parse().unwrap_or(-1)));
                    }
                    None if line.starts_with("larder: warning: ") && is_of_this_machine(&line) => {}
                    None => output = output + &line + "\n",
                },
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{output}\n… and then nothing in time"));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(output),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does what a guide says in the home of who reads it, and compares what comes with what it says. All that was done is
/// in the error.
pub fn follow(guide: &str, home: &Path, programs: &Path) -> Result<(), String> {
    let scripts = tempfile::tempdir().unwrap();
    let mut shell = Shell::start(home, programs);
    let (mut told, mut faults, mut printed) = (String::new(), Vec::new(), String::new());
    for block in blocks(guide) {
        let line = block.line;
        match &block.purpose {
            Purpose::Run { fails } => {
                told += &format!("--- line {line}\n{}", block.text);
                let begun = Instant::now();
                let done = shell.run(&scripts.path().join("block.sh"), &block.text, *fails);
                let (output, code) = done.map_err(|text| format!("{told}>>> {text}\nline {line} hangs"))?;
                told += &format!(">>> {:?}, {code}\n{output}", begun.elapsed());
                if (code != 0) != *fails {
                    faults.push(format!("line {line} ends with {code}"));
                    if !fails {
                        break;
                    }
                }
                printed = output;
            }
            Purpose::Output if !is_like(&block.text, &printed) => {
                faults.push(format!("line {line}: this is not what the command before it prints"));
                told += &format!("!!! expected at line {line}:\n{}", block.text);
            }
            Purpose::File(name) => {
                let path =
                    if name.starts_with(".") { home.join(name) } else { Path::new("/etc/larder").join(name) };
                std::fs::create_dir_all(path.parent().unwrap_or(&path)).unwrap();
                std::fs::write(path, &block.text).unwrap();
            }
            Purpose::Output | Purpose::Elsewhere | Purpose::Excerpt => {}
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("{told}\n{}", faults.join("\n"))) }
}
