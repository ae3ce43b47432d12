//! What a power cut may leave: a model of a file system that keeps no more than it must. Bytes of a file last once the
//! file was synced, a name once the folder that holds it was; everything else may have come to the disk or not, in any
//! order.

use super::strace::Call;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

/// The folder that everything is below.
const TOP: usize = 0;
/// Most states that are looked at after one operation; beyond it they are taken at equal distances.
const MOST: usize = 512;

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A new folder, or a new file, under this path.
    Make {
        path: String,
        is_folder: bool,
    },
    /// With what is written where it is short text; larger bytes are taken from where they end.
    Write(String, Option<String>),
    Sync(String),
    Rename(String, String),
    Remove(String),
    /// The client has its answer.
    Answer,
}

/// What a process did below `top`, of what changes it, and when it wrote to its standard output.
pub fn ops(calls: &[Call], top: &Path) -> Vec<Op> {
    let mut known = BTreeSet::new();
    let op = |call: &Call| {
        if call.name == "write" && call.arguments.starts_with("1<") {
            return Some(Op::Answer);
        }
        if call.name == "fsync" && call.arguments.ends_with(&format!("<{}>", top.display())) {
            return Some(Op::Sync(String::new()));
        }
        let mut paths = call.paths(top).into_iter();
        let path = paths.next().filter(|_| !call.failed())?;
        match call.name.as_str() {
            "mkdir" => Some(Op::Make { path, is_folder: true }),
            "openat" if call.arguments.contains("O_CREAT") && known.insert(path.clone()) => {
                Some(Op::Make { path, is_folder: false })
            }
            "write" => Some(Op::Write(path, text(&call.arguments))),
            "fsync" | "fdatasync" => Some(Op::Sync(path)),
            "renameat" | "rename" => Some(Op::Rename(path, paths.next()?)),
            "unlink" => Some(Op::Remove(path)),
            _ => None,
        }
    };
    calls.iter().filter_map(op).collect()
}

/// What a write writes, if strace shows all of it.
fn text(arguments: &str) -> Option<String> {
    let (text, rest) = arguments.split_once(", \"")?.1.rsplit_once('"')?;
    (!rest.starts_with("...")).then(|| text.replace("\\n", "\n").replace("\\\"", "\""))
}

/// What is on the disk under a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    Folder,
    /// A file, and which part of its bytes came to the disk.
    File(usize, Part),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Whole,
    /// Its size, and none of its bytes.
    Zeros,
    Half,
    Nothing,
}

/// By path, relative to the top.
pub type State = BTreeMap<String, Content>;

/// A name in a folder: what it has led to, in order, and how far that lasts.
struct Name {
    led_to: Vec<Option<usize>>,
    lasts: usize,
}

/// The directory as the process sees it, and what of it lasts.
pub struct Model {
    names: BTreeMap<(usize, String), Name>,
    /// Folders, and files with whether their bytes last.
    folders: BTreeSet<usize>,
    synced: BTreeMap<usize, bool>,
    bytes: HashMap<usize, Vec<u8>>,
}

impl Model {
    /// What is in `top`, all of which lasts.
    pub fn of(top: &Path) -> Self {
        let (folders, names) = (BTreeSet::from([TOP]), BTreeMap::new());
        let mut model = Self { names, folders, synced: BTreeMap::new(), bytes: HashMap::new() };
        model.take(top, TOP);
        model
    }

    fn take(&mut self, folder: &Path, inode: usize) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let is_folder = entry.file_type().unwrap().is_dir();
            let made = self.make(is_folder);
            let name = Name { led_to: vec![Some(made)], lasts: 0 };
            self.names.insert((inode, entry.file_name().into_string().unwrap()), name);
            if is_folder {
                self.take(&entry.path(), made);
            } else {
                self.synced.insert(made, true);
                self.bytes.insert(made, fs::read(entry.path()).unwrap());
            }
        }
    }

    fn make(&mut self, is_folder: bool) -> usize {
        let inode = 1 + self.folders.len() + self.synced.len();
        match is_folder {
            true => drop(self.folders.insert(inode)),
            false => drop(self.synced.insert(inode, false)),
        }
        inode
    }

    /// The folder of a path, and the name in it.
    fn place(&self, path: &str) -> (usize, String) {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.find(above).unwrap_or_else(|| panic!("{path} has no folder")), name.into())
    }

    fn find(&self, path: &str) -> Option<usize> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(TOP, |folder, name| *self.names.get(&(folder, name.into()))?.led_to.last().unwrap())
    }

    fn lead(&mut self, path: &str, to: Option<usize>) {
        let place = self.place(path);
        let name = self.names.entry(place).or_insert(Name { led_to: vec![None], lasts: 0 });
        name.led_to.push(to);
    }

    /// Does what the process did.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Answer => {}
            Op::Make { path, is_folder } if self.find(path).is_none() => {
                let made = self.make(*is_folder);
                self.lead(path, Some(made));
            }
            Op::Make { .. } => {}
            // A file without a name is gone with the process.
            Op::Write(path, text) => {
                let Some(inode) = self.find(path) else { return };
                self.synced.insert(inode, false);
                self.bytes.extend(text.clone().map(|text| (inode, text.into_bytes())));
            }
            Op::Sync(path) => {
                let inode = self.find(path).unwrap();
                if let Some(synced) = self.synced.get_mut(&inode) {
                    *synced = true;
                }
                for (_, name) in self.names.iter_mut().filter(|((folder, _), _)| *folder == inode) {
                    name.lasts = name.led_to.len() - 1;
                }
            }
            Op::Rename(from, to) => {
                let inode = self.find(from);
                self.lead(to, inode);
                self.lead(from, None);
            }
            Op::Remove(path) => self.lead(path, None),
        }
    }

    /// Takes the bytes of what was made from where it ended. `Whole` is unknown of what was removed again.
    pub fn read_ends(&mut self, top: &Path) {
        for path in self.files(TOP, "") {
            let inode = self.find(&path).unwrap();
            self.bytes.insert(inode, fs::read(top.join(path)).unwrap());
        }
    }

    fn files(&self, folder: usize, above: &str) -> Vec<String> {
        let inside = self.names.iter().filter(|((f, _), _)| *f == folder);
        let present =
            inside.filter_map(|((_, name), n)| Some((format!("{above}{name}"), n.led_to.last()?.as_ref()?)));
        let paths = present.flat_map(|(path, inode)| match self.folders.contains(inode) {
            true => self.files(*inode, &format!("{path}/")),
            false => vec![path],
        });
        paths.collect()
    }

    /// What may be on the disk now.
    pub fn states(&self) -> BTreeSet<State> {
        let open = |name: &&Name| name.led_to.len() - 1 > name.lasts;
        let names: Vec<_> = self.names.iter().filter(|(_, name)| open(name)).collect();
        let torn: Vec<_> =
            self.synced.iter().filter(|(_, synced)| !**synced).map(|(inode, _)| *inode).collect();
        let choices: Vec<usize> = names
            .iter()
            .map(|(_, name)| name.led_to.len() - name.lasts)
            .chain(torn.iter().map(|_| 4))
            .collect();
        let all = choices.iter().fold(1_usize, |all, n| all.saturating_mul(*n));
        let picked = (0..all.min(MOST))
            .map(|k| if all <= MOST { k } else { (k as u128 * all as u128 / MOST as u128) as usize });
        let state = |mut number: usize| {
            let mut digits = choices.iter().map(|n| {
                let digit = number % n;
                number /= n;
                digit
            });
            let chosen: BTreeMap<_, _> = names
                .iter()
                .map(|(place, name)| (*place, name.led_to[name.lasts + digits.next().unwrap()]))
                .collect();
            let parts = [Part::Whole, Part::Zeros, Part::Half, Part::Nothing];
            let parts: BTreeMap<_, _> =
                torn.iter().map(|inode| (*inode, parts[digits.next().unwrap()])).collect();
            let mut state = State::new();
            self.fill(&mut state, TOP, "", &chosen, &parts);
            state
        };
        picked.map(state).collect()
    }

    fn fill(
        &self,
        state: &mut State,
        folder: usize,
        above: &str,
        chosen: &BTreeMap<&(usize, String), Option<usize>>,
        parts: &BTreeMap<usize, Part>,
    ) {
        for (place, name) in self.names.iter().filter(|((f, _), _)| *f == folder) {
            let leads = chosen.get(place).copied().unwrap_or(name.led_to[name.lasts]);
            let Some(inode) = leads else { continue };
            let path = format!("{above}{}", place.1);
            if self.folders.contains(&inode) {
                state.insert(path.clone(), Content::Folder);
                self.fill(state, inode, &format!("{path}/"), chosen, parts);
            } else {
                // Whatever is in a draft, it is thrown away.
                let part = if path.contains("/tmp/") { None } else { parts.get(&inode).copied() };
                state.insert(path, Content::File(inode, part.unwrap_or(Part::Whole)));
            }
        }
    }

    /// Puts a state into a folder.
    pub fn write(&self, state: &State, top: &Path) {
        for (path, content) in state {
            let path = top.join(path);
            let Content::File(inode, part) = content else {
                fs::create_dir_all(path).unwrap();
                continue;
            };
            let bytes = self.bytes.get(inode).map_or(&b"a draft"[..], Vec::as_slice);
            let bytes = match part {
                Part::Whole => bytes.to_vec(),
                Part::Zeros => vec![0; bytes.len()],
                Part::Half => bytes[..bytes.len() / 2].to_vec(),
                Part::Nothing => Vec::new(),
            };
            fs::write(path, bytes).unwrap();
        }
    }
}
