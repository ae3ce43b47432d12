//! The image of `deploy/Dockerfile` with the larder under test in it: built by the real buildah, with nothing pulled.

use super::larder::PROGRAM;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The name that the image has everywhere.
pub const NAME: &str = concat!("larder:", env!("CARGO_PKG_VERSION"));

/// An image as a container engine has it.
pub struct Image {
    /// Its files, unpacked. Never written to.
    pub root: PathBuf,
    /// Its OCI configuration (`architecture`, `config`, `rootfs`, …).
    pub config: serde_json::Value,
    /// The image itself in one file, an OCI archive: `podman load --input`, `skopeo copy oci-archive:`.
    pub archive: PathBuf,
    /// What it lies in, if nobody else needs it.
    _folder: Option<TempDir>,
}

/// The image of `deploy/Dockerfile`, with the larder under test in place of a release build and this machine's busybox
/// in place of the one that is pulled. Built once a run of tests: a test that runs again in a network of its own has to
/// call this before, so that the building is not part of its time.
pub fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image");
        // Processes of one run meet here, and the first builds for all.
        let lock = std::fs::File::create(folder.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let (made_of, is_of) = (ingredients(), folder.join("made-of"));
        if std::fs::read_to_string(&is_of).ok().as_ref() != Some(&made_of) {
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).unwrap();
            let builder = Builder::new();
            builder.base();
            builder.larder("localhost/busybox", own());
            builder.push(NAME, &folder);
            std::fs::write(&is_of, made_of).unwrap();
        }
        Image::of(&folder, None)
    })
}

/// The image for a processor that this machine has not, of a base that has one file and of the program under test, which
/// would not run there.
pub fn image_for(architecture: &str) -> Image {
    let folder = tempfile::tempdir().unwrap();
    let builder = Builder::new();
    builder.bases(architecture);
    builder.larder("localhost/both", architecture);
    builder.push(NAME, folder.path());
    let path = folder.path().to_owned();
    Image::of(&path, Some(folder))
}

/// How many platforms the name of the image has after `make image` for this machine and `other`, so many times in a row, with
/// a script in larder's place: the first time the name is an image's.
pub fn platforms_made(other: &str, times: usize) -> Vec<usize> {
    let builder = Builder::new();
    builder.bases(other);
    let out = builder.path("built/out");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("larder"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(out.join("larder"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(out.join("libgcc_s.so.1"), "").unwrap();
    // Another's, which ends in the same name and has to stay.
    let stays = format!("harbor.corp/tools/{NAME}");
    for name in [NAME, &stays] {
        builder.buildah(&["tag", "localhost/busybox", name]);
    }
    let entries = |_| {
        builder.make("localhost/both", &format!("linux/{},linux/{other}", own()));
        let list = builder.buildah(&["manifest", "inspect", &format!("localhost/{NAME}")]);
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        builder.buildah(&["inspect", "--type", "image", &stays]);
        list["manifests"].as_array().unwrap().len()
    };
    (0..times).map(entries).collect()
}

/// This machine's architecture, as images call it.
pub fn own() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("no image is built for {other}"),
    }
}

impl Image {
    /// An image derived from this one by a Dockerfile whose context is `context`: `FROM larder:0.1.0`.
    pub fn derived(&self, dockerfile: &str, context: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let builder = Builder::new();
        let archive = format!("oci-archive:{}", self.archive.display());
        let id = builder.buildah(&["pull", "--quiet", &archive]);
        builder.buildah(&["tag", id.trim(), NAME]);
        let file = folder.path().join("Dockerfile");
        std::fs::write(&file, dockerfile).unwrap();
        builder.build("derived", &file, context);
        builder.push("derived", folder.path());
        let path = folder.path().to_owned();
        Self::of(&path, Some(folder))
    }

    fn of(folder: &Path, owned: Option<TempDir>) -> Self {
        let config = std::fs::read(folder.join("config.json")).unwrap();
        Self {
            root: folder.join("root"),
            config: serde_json::from_slice(&config).unwrap(),
            archive: folder.join("image.tar"),
            _folder: owned,
        }
    }
}

/// What tells whether an image was built of something else.
fn ingredients() -> String {
    let program = std::fs::metadata(PROGRAM).unwrap();
    let files = [
        "deploy/Dockerfile",
        "deploy/Dockerfile.dockerignore",
        "deploy/image.sh",
        "tests/it/support/image.rs",
    ];
    let texts = files.map(|file| std::fs::read_to_string(source().join(file)).unwrap());
    format!("{:?} {}\n{}", program.modified().unwrap(), program.len(), texts.concat())
}

fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// buildah with a storage of its own, which is gone when this is.
struct Builder {
    storage: TempDir,
}

impl Builder {
    fn new() -> Self {
        let storage = tempfile::tempdir().unwrap();
        let of = |name: &str| storage.path().join(name).display().to_string();
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            of("root"),
            of("run")
        );
        std::fs::write(storage.path().join("storage.conf"), text).unwrap();
        Self { storage }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.storage.path().join(name)
    }

    /// A program that uses buildah, with this storage and without namespaces, which not every machine lets it have.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("CONTAINERS_STORAGE_CONF", self.path("storage.conf")).env("BUILDAH_ISOLATION", "chroot");
        command
    }

    fn buildah(&self, arguments: &[&str]) -> String {
        run(self.command(Path::new("buildah")).args(arguments))
    }

    fn build(&self, name: &str, file: &Path, context: &Path) {
        self.build_for(own(), name, file, context);
    }

    fn build_for(&self, architecture: &str, name: &str, file: &Path, context: &Path) {
        let (file, context) = (file.to_str().unwrap(), context.to_str().unwrap());
        let platform = format!("--platform=linux/{architecture}");
        self.buildah(&[
            "build",
            "--pull-never",
            "--quiet",
            &platform,
            "--tag",
            name,
            "--file",
            file,
            context,
        ]);
    }

    /// This machine's busybox and libraries, laid out as in busybox's glibc image.
    fn base(&self) {
        let root = self.path("base");
        for folder in ["bin", "etc", "lib", "root", "tmp", "usr/bin"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let busybox = root.join("bin/busybox");
        std::fs::copy("/bin/busybox", &busybox).expect("busybox-static is installed");
        // Not the copy: while another test begins a process, that one may still hold it open for writing.
        for applet in
            run(Command::new("/bin/busybox").arg("--list")).lines().filter(|name| *name != "busybox")
        {
            std::fs::hard_link(&busybox, root.join("bin").join(applet)).unwrap();
        }
        symlink("lib", root.join("lib64")).unwrap();
        // What larder asks for of glibc, the loader included, and what glibc asks for when it resolves a name.
        let libraries = run(Command::new("ldd").arg(PROGRAM));
        let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        let paths: Vec<&str> = paths.filter(|path| !path.contains("libgcc_s")).collect();
        let libc = paths.iter().find(|path| path.contains("libc.so")).expect("larder is linked with glibc");
        let beside = ["libresolv.so.2", "libnss_dns.so.2", "libnss_files.so.2"];
        let beside = beside.map(|name| Path::new(libc).with_file_name(name));
        for path in paths.iter().map(Path::new).chain(beside.iter().map(PathBuf::as_path)) {
            std::fs::copy(path, root.join("lib").join(path.file_name().unwrap())).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
        // Whatever the umask of who runs the tests.
        run(Command::new("chmod").args(["--recursive", "u+rwX,go+rX"]).arg(&root));
        let file = self.path("Base");
        std::fs::write(&file, "FROM scratch\nCOPY . /\nCMD [\"sh\"]\n").unwrap();
        self.build("localhost/busybox", &file, &root);
    }

    /// `localhost/both`: this machine's busybox, and for another processor a base that has one file.
    fn bases(&self, other: &str) {
        self.base();
        let root = self.path("foreign");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("foreign"), "").unwrap();
        self.build_for(other, "localhost/foreign", &self.path("Base"), &root);
        self.buildah(&["manifest", "create", "localhost/both"]);
        for base in ["busybox", "foreign"] {
            let base = format!("containers-storage:localhost/{base}");
            self.buildah(&["manifest", "add", "localhost/both", &base]);
        }
    }

    /// The image as `make image` makes it, except that its stage `build` is a folder with what that stage would have made.
    fn larder(&self, base: &str, architecture: &str) {
        let out = self.path("built/out");
        std::fs::create_dir_all(&out).unwrap();
        // Without symbols, as a release build is.
        run(Command::new("strip").arg("-o").arg(out.join("larder")).arg(PROGRAM));
        let libgcc = run(Command::new("gcc").arg("-print-file-name=libgcc_s.so.1"));
        std::fs::copy(libgcc.trim(), out.join("libgcc_s.so.1")).unwrap();
        self.make(base, &format!("linux/{architecture}"));
    }

    fn make(&self, base: &str, platforms: &str) {
        let flags = format!(
            "--pull-never --build-context build={} --build-arg BUSYBOX={base}",
            self.path("built").display()
        );
        let mut make = self.command(Path::new("make"));
        make.args(["image", &format!("IMAGE_FLAGS={flags}")]).env("BUILDER", "buildah");
        run(make.env("PLATFORMS", platforms).current_dir(source()));
    }

    /// Puts the image, its files and its configuration into a folder.
    fn push(&self, name: &str, folder: &Path) {
        let archive = format!("oci-archive:{}:{NAME}", folder.join("image.tar").display());
        self.buildah(&["push", "--quiet", name, &archive]);
        let told = self.buildah(&["inspect", "--type", "image", name]);
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        std::fs::write(folder.join("config.json"), told["OCIv1"].to_string()).unwrap();
        let container = self.buildah(&["from", "--pull-never", name]);
        let mounted = self.buildah(&["mount", container.trim()]);
        run(Command::new("cp").args(["--archive", mounted.trim()]).arg(folder.join("root")));
    }
}

/// The standard output of a program that has to succeed.
fn run(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{name}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
