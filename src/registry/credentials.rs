//! User name and password for a registry, from a file, never printed.

use super::HostConfig;
use secrecy::SecretString;

/// Password files longer than this are something else.
const PASSWORD_BYTES: u64 = 64 << 10;

/// A registry's credentials.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password; its `Debug` prints nothing of it.
    pub password: SecretString,
}

impl Credentials {
    /// Reads what `config` names; `None` where it names nothing.
    ///
    /// # Errors
    /// A text that names the file and not its content.
    pub fn read(config: &HostConfig) -> Result<Option<Self>, String> {
        let (username, file) = match (&config.username, &config.password_file) {
            (None, None) => return Ok(None),
            (Some(username), Some(file)) => (username, file),
            _ => return Err("username and password_file belong together; one of them is missing".into()),
        };
        let shown = file.display();
        let size = std::fs::metadata(file).map_err(|e| format!("{shown}: {e}"))?.len();
        if size > PASSWORD_BYTES {
            return Err(format!("{shown}: {size} bytes are no password"));
        }
        let text = std::fs::read_to_string(file).map_err(|e| format!("{shown}: {e}"))?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(format!("{shown}: the password is empty"));
        }
        if password.contains(['\r', '\n', '\0']) {
            return Err(format!("{shown}: more than one line; expected the password alone"));
        }
        Ok(Some(Self { username: username.clone(), password: password.to_owned().into() }))
    }
}
