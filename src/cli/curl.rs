//! larder by the name `curl`: as much of curl as health checks and people in a container use, with its exit codes.
//!
//! The image has no other curl. What this one does not know it refuses, so that no check passes for a wrong reason.

use super::remote::is_loopback;
use crate::registry::error::chain;
use crate::registry::names::bare;
use crate::registry::pem;
use crate::registry::trace::Trace;
use crate::registry::trust::{Trust, Verifier};
use clap::{CommandFactory, Parser};
use reqwest::Response;
use reqwest::redirect::Policy;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use url::Url;

/// The name of the program that asks for it.
const NAME: &str = "curl";
/// Redirects that are followed, as curl does.
const REDIRECTS: usize = 50;
/// The only variable of `--write-out`.
const CODE: &str = "%{http_code}";

/// larder's small curl: one GET or HEAD, by http or https
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, args_override_self = true)]
struct Curl {
    /// Say nothing
    #[arg(short, long)]
    silent: bool,
    /// Say why it failed, even so
    #[arg(short = 'S', long)]
    show_error: bool,
    /// End with 22 if the status is 400 or more, and write no body
    #[arg(short, long)]
    fail: bool,
    /// Write the body to a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the answer's fields before the body
    #[arg(short, long)]
    include: bool,
    /// Ask for the fields alone (HEAD)
    #[arg(short = 'I', long)]
    head: bool,
    /// Follow redirects
    #[arg(short = 'L', long)]
    location: bool,
    /// Send a field (repeatable)
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = field)]
    header: Vec<(String, String)>,
    /// Believe whatever certificate the server shows
    #[arg(short = 'k', long)]
    insecure: bool,
    /// Longest time, in seconds; 0 is any
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    max_time: Option<Duration>,
    /// Longest time until there is a connection, in seconds; 0 is any
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    connect_timeout: Option<Duration>,
    /// What to write at the end; %{http_code} is the status, and \n a new line
    #[arg(short, long, value_name = "FORMAT", value_parser = format)]
    write_out: Option<String>,
    /// What to ask for
    url: String,
}

/// Why it failed: one of curl's exit codes, and the reason.
struct Failed(u8, String);

/// Whether this process was called by the name.
pub fn is_meant() -> bool {
    let called = std::env::args_os().next();
    called.as_deref().map(Path::new).and_then(Path::file_name) == Some(OsStr::new(NAME))
}

/// Asks once and ends.
pub fn run() -> ExitCode {
    let curl = match Curl::try_parse() {
        Ok(curl) => curl,
        Err(error) => {
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
            let command = Curl::command();
            let known: Vec<_> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
            eprintln!("curl: this is larder's small curl, which knows --{}", known.join(" --"));
            return ExitCode::from(2);
        }
    };
    let mut status = 0;
    let asked = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let asked = runtime.block_on(curl.ask(&mut status));
            // A name that is still being resolved is not waited for.
            runtime.shutdown_background();
            asked
        }
        Err(error) => Err(Failed(2, error.to_string())),
    };
    let last = curl.write_out.as_ref().map(|format| format.replace(CODE, &format!("{status:03}")));
    let written = write(&mut std::io::stdout(), last.unwrap_or_default().as_bytes());
    match asked.and(written) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(code, why)) => {
            if !curl.silent || curl.show_error {
                eprintln!("curl: ({code}) {why}");
            }
            ExitCode::from(code)
        }
    }
}

impl Curl {
    async fn ask(&self, status: &mut u16) -> Result<(), Failed> {
        let url = self.url()?;
        let request = match self.head {
            true => self.client(&url)?.head(url),
            false => self.client(&url)?.get(url),
        };
        let request = self.header.iter().fold(request, |request, (name, value)| request.header(name, value));
        let mut answer = request.send().await.map_err(|error| unanswered(&error))?;
        *status = answer.status().as_u16();
        let refused = self.fail && *status >= 400;
        let mut out: Option<Box<dyn Write>> = None;
        if self.include || self.head {
            write(self.output(&mut out)?, &fields(&answer))?;
        }
        if refused {
            return Err(Failed(22, format!("The requested URL returned error: {status}")));
        }
        while let Some(piece) = answer.chunk().await.map_err(|error| broken(&error))? {
            write(self.output(&mut out)?, &piece)?;
        }
        // A file for an answer without a body too.
        self.output(&mut out).map(drop)
    }

    /// What is asked for: by http, where it is not said.
    fn url(&self) -> Result<Url, Failed> {
        let text = if self.url.contains("://") { self.url.clone() } else { format!("http://{}", self.url) };
        let url = Url::parse(&text).map_err(|error| Failed(3, format!("{}: {error}", self.url)))?;
        match url.scheme() {
            "http" | "https" => Ok(url),
            other => Err(Failed(1, format!("larder's small curl speaks http and https, not {other}"))),
        }
    }

    fn client(&self, url: &Url) -> Result<reqwest::Client, Failed> {
        let unusable = |why: String| Failed(2, why);
        let mut trust = Trust::default();
        if url.scheme() == "https" || self.location {
            trust.bundles.push(pem::system_roots().map_err(unusable)?);
        }
        if self.insecure {
            trust.skip_verify.extend(url.host_str().map(|host| bare(host).into()));
        }
        let verifier = Verifier::new(&trust, Trace::default());
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("larder-curl/", env!("CARGO_PKG_VERSION")))
            .redirect(if self.location { Policy::limited(REDIRECTS) } else { Policy::none() })
            .tls_backend_preconfigured(trust.config(&verifier, true).map_err(unusable)?);
        if is_loopback(url) {
            builder = builder.no_proxy();
        }
        if let Some(time) = self.max_time.filter(|time| !time.is_zero()) {
            builder = builder.timeout(time);
        }
        if let Some(time) = self.connect_timeout.filter(|time| !time.is_zero()) {
            builder = builder.connect_timeout(time);
        }
        builder.build().map_err(|error| unusable(chain(&error)))
    }

    /// Where the answer goes, opened when there is something to write.
    fn output<'o>(&self, out: &'o mut Option<Box<dyn Write>>) -> Result<&'o mut dyn Write, Failed> {
        if out.is_none() {
            *out = Some(match &self.output {
                Some(path) if path.as_os_str() != "-" => {
                    let opened = OpenOptions::new().create(true).write(true).truncate(true).open(path);
                    Box::new(opened.map_err(|error| Failed(23, format!("{}: {error}", path.display())))?)
                }
                _ => Box::new(std::io::stdout()),
            });
        }
        match out {
            Some(out) => Ok(out.as_mut()),
            None => unreachable!("it was opened above"),
        }
    }
}

/// Writes what came, and at once.
fn write(out: &mut dyn Write, bytes: &[u8]) -> Result<(), Failed> {
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|error| Failed(23, format!("what came cannot be written: {error}")))
}

/// The status line and the fields, as HTTP/1.1 writes them.
fn fields(answer: &Response) -> Vec<u8> {
    let mut out = format!("{:?} {}\r\n", answer.version(), answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        out.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    out.extend(b"\r\n");
    out
}

/// No answer came.
fn unanswered(error: &reqwest::Error) -> Failed {
    let why = chain(error);
    let code = match () {
        () if error.is_timeout() => 28,
        () if error.is_redirect() => 47,
        () if error.is_builder() => 3,
        () if why.contains("dns error") => 6,
        () if why.contains("certificate") => 60,
        () if error.is_connect() => 7,
        () => 52,
    };
    Failed(code, why)
}

/// The answer broke off.
fn broken(error: &reqwest::Error) -> Failed {
    let why = chain(error);
    let early = why.contains("before message length reached");
    Failed(
        if error.is_timeout() {
            28
        } else if early {
            18
        } else {
            56
        },
        why,
    )
}

/// A field of the request.
fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("is no NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// A time in seconds, which may have a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "is no number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

/// What to write at the end, with its escapes undone.
fn format(text: &str) -> Result<String, String> {
    if text.replace(CODE, "").contains("%{") {
        return Err(format!("{CODE} is the only variable here"));
    }
    Ok(text.replace(r"\n", "\n").replace(r"\r", "\r").replace(r"\t", "\t").replace("%%", "%"))
}
