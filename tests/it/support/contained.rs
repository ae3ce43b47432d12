//! A container of an image, in namespaces of its own, as a kubelet would start it.
//!
//! Namespaces, control groups and an overlay of the kernel, by `unshare` and `chroot`: the same as runc's, without its
//! demands on the machine that tests run on. The network is that of the calling test, which has to have one of its own
//! (`netns::alone`): the image's ports are fixed, and other tests have such containers too.

use super::cgroup::Cgroup;
use super::eventually;
use super::image::Image;
use super::is_of_this_machine;
use super::netns;
use std::fmt::Write;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use tempfile::TempDir;

/// How a container is started; `Options::default()` is as `docker run` without flags.
#[derive(Default)]
pub struct Options {
    /// The root file system cannot be written to.
    pub read_only: bool,
    /// Most memory, in bytes.
    pub memory: Option<u64>,
    /// Most processors, such as 0.5; only with a limit of memory.
    pub processors: Option<f64>,
    /// Engines give each of the image's volumes a folder of the machine, owned as in the image; this leaves them out.
    pub without_volumes: bool,
    /// Folders and files of the machine, and where they are inside.
    pub mounts: Vec<Mount>,
    /// Variables beside the image's own and those that a kubelet sets.
    pub variables: Vec<(String, String)>,
    /// Arguments, in place of the image's.
    pub arguments: Vec<String>,
    /// User and group, in place of the image's.
    pub user: Option<(u32, u32)>,
}

/// A folder or file of the machine that is inside too.
pub struct Mount {
    pub from: PathBuf,
    /// Absolute.
    pub to: PathBuf,
    pub writable: bool,
}

/// A running container. Killed when dropped, with all that runs in it.
pub struct Contained {
    /// `unshare`, whose only child is the container's first process.
    child: Child,
    /// Where plugins are served.
    pub data: SocketAddr,
    /// Where metrics and health are served.
    pub admin: SocketAddr,
    user: (u32, u32),
    folder: TempDir,
    limits: Option<Cgroup>,
}

impl Contained {
    /// Starts a container and waits until its larder listens.
    pub fn start(image: &Image, options: &Options) -> Self {
        let mut container = Self::spawn(image, options);
        eventually("the container's start", || {
            if let Ok(Some(status)) = container.child.try_wait() {
                panic!("the container ended at its start: {status}\n{}", container.stderr());
            }
            container.stderr().contains(r#""listening""#).then_some(())
        });
        container
    }

    /// Starts a container that need not come to listen.
    pub fn spawn(image: &Image, options: &Options) -> Self {
        assert!(netns::is_alone(), "the ports of an image are fixed: call this inside netns::alone");
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let limits = options.memory.map(|bytes| Cgroup::with_processors(&name, bytes, options.processors));
        let user = options.user.unwrap_or_else(|| user_of(image));
        let script = folder.path().join("start.sh");
        std::fs::write(&script, setup(image, options, folder.path(), limits.as_ref(), user)).unwrap();
        let mut words: Vec<String> = limits.iter().flat_map(Cgroup::starter).collect();
        words.extend(
            ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh"].map(Into::into),
        );
        let output = |name: &str| File::create(folder.path().join(name)).unwrap();
        let child = Command::new(&words[0])
            .args(&words[1..])
            .arg(&script)
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn()
            .unwrap();
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (data, admin) = (here(8080), here(9090));
        Self { child, data, admin, user, folder, limits }
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// The log so far, a JSON object a line.
    pub fn log(&self) -> Vec<serde_json::Value> {
        self.stderr().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What it warned of, but for where this machine keeps the cache.
    pub fn warnings(&self) -> Vec<String> {
        let warnings = self.log().into_iter().filter(|line| line["level"] != "INFO");
        warnings.map(|line| line.to_string()).filter(|line| !is_of_this_machine(line)).collect()
    }

    /// The process that is number 1 inside, as it is numbered outside.
    pub fn id(&self) -> u32 {
        self.first().expect("the container runs")
    }

    fn first(&self) -> Option<u32> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Runs a command inside, as the container's user, and as `docker exec` does.
    pub fn run(&self, words: &[&str]) -> Output {
        let (user, group) = self.user;
        Command::new("nsenter")
            .args([
                "--target",
                &self.id().to_string(),
                "--mount",
                "--pid",
                "--ipc",
                "--uts",
                "--root",
                "--wd",
            ])
            .args(["--setuid", &user.to_string(), "--setgid", &group.to_string(), "--"])
            .args(words)
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Sends a signal to its first process.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the container's end", || self.child.try_wait().unwrap())
    }

    /// Processes that were killed for want of memory.
    pub fn kills(&self) -> u64 {
        self.limits.as_ref().map_or(0, Cgroup::kills)
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        // With the first process all others end, and `unshare` after them: then the ports are free.
        match self.first() {
            Some(_) => self.signal("KILL"),
            None => drop(self.child.kill()),
        }
        let _ = self.child.wait();
    }
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn words(value: &serde_json::Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The image's user and group, which are numbers.
fn user_of(image: &Image) -> (u32, u32) {
    let text = image.config["config"]["User"].as_str().unwrap();
    let (user, group) = text.split_once(':').expect("user and group");
    (user.parse().unwrap(), group.parse().unwrap())
}

/// The shell's script that becomes the container's first process.
fn setup(
    image: &Image,
    options: &Options,
    folder: &Path,
    limits: Option<&Cgroup>,
    user: (u32, u32),
) -> String {
    let root = folder.join("root");
    let inside = |path: &Path| quoted(&root.join(path.strip_prefix("/").unwrap()));
    let (layer, root_quoted) = (folder.join("layer"), quoted(&root));
    for new in [&root, &layer] {
        std::fs::create_dir(new).unwrap();
    }
    // The container's own layer is memory, so that the image stays as it is and nothing has to be taken away.
    let mut script = format!(
        "set -e\ncd /\nmount -t tmpfs layer {layer}\nmkdir {layer}/upper {layer}/work\n\
         mount -t overlay overlay -o lowerdir={},upperdir={layer}/upper,workdir={layer}/work {root_quoted}\n\
         cd {root_quoted}\nmkdir -p proc sys dev etc\nmount -t proc proc proc\nmount -t tmpfs -o mode=755 sys sys\n\
         mount -t tmpfs -o mode=755 dev dev\n\
         for name in null zero full random urandom; do touch dev/$name; mount --bind /dev/$name dev/$name; done\n\
         ln -s /proc/self/fd dev/fd\nln -s fd/1 dev/stdout\nln -s fd/2 dev/stderr\n\
         mkdir dev/shm\nmount -t tmpfs -o mode=1777 shm dev/shm\n\
         cat /etc/resolv.conf >etc/resolv.conf\necho 127.0.0.1 localhost >etc/hosts\n\
         hostname larder-0\necho larder-0 >etc/hostname\n",
        quoted(&image.root),
        layer = quoted(&layer),
    );
    if let Some((from, to)) = limits.map(Cgroup::memory) {
        let from = quoted(from);
        writeln!(script, "mkdir -p .{to}\nmount --bind {from} .{to}\nmount -o remount,bind,ro .{to}")
            .unwrap();
        // Whoever looks for it there finds it, and nobody can write.
        writeln!(script, "mount -o remount,ro sys").unwrap();
    }
    let volumes = image.config["config"]["Volumes"].as_object();
    for volume in volumes.into_iter().flat_map(|volumes| volumes.keys()).filter(|_| !options.without_volumes)
    {
        let (to, from) = (inside(Path::new(volume)), folder.join("volume"));
        if options.mounts.iter().all(|mount| mount.to != Path::new(volume)) {
            writeln!(script, "cp -a {to} {from}\nmount --bind {from} {to}", from = quoted(&from)).unwrap();
        }
    }
    for mount in &options.mounts {
        let (from, to) = (quoted(&mount.from), inside(&mount.to));
        let make = if mount.from.is_dir() { "mkdir -p" } else { "install -D /dev/null" };
        writeln!(script, "{make} {to}\nmount --bind {from} {to}").unwrap();
        if !mount.writable {
            writeln!(script, "mount -o remount,bind,ro {to}").unwrap();
        }
    }
    if options.read_only {
        writeln!(script, "mount -o remount,ro {root_quoted}").unwrap();
    }
    let config = &image.config["config"];
    let mut command = words(&config["Entrypoint"]);
    match options.arguments.is_empty() {
        true => command.extend(words(&config["Cmd"])),
        false => command.extend(options.arguments.iter().cloned()),
    }
    let home = "HOME=/var/lib/larder HOSTNAME=larder-0 KUBERNETES_SERVICE_HOST=10.96.0.1 KUBERNETES_SERVICE_PORT=443";
    let own = words(&config["Env"]);
    let more = options.variables.iter().map(|(name, value)| format!("{name}={value}"));
    let variables: Vec<String> = own.into_iter().chain(more).map(|word| quoted(word.as_ref())).collect();
    let command: Vec<String> = command.iter().map(|word| quoted(word.as_ref())).collect();
    let (user, group) = user;
    writeln!(
        script,
        "exec env -i PATH={PATH} {home} {} setpriv --no-new-privs chroot --userspec={user}:{group} --groups= {root_quoted} {}",
        variables.join(" "),
        command.join(" ")
    )
    .unwrap();
    script
}

/// A word of the shell.
fn quoted(text: &Path) -> String {
    format!("'{}'", text.to_str().unwrap().replace('\'', r"'\''"))
}
