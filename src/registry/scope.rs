//! What a token is asked for: a repository, and what is to be done with it (token spec, "Resource Scope").

/// One repository, and for a mount the one that a blob is mounted from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The repository, as its registry calls it.
    pub repository: String,
    /// Whether it is written to.
    pushes: bool,
    /// Another repository of the same registry, which is read.
    source: Option<String>,
}

impl Scope {
    /// To read.
    pub fn pull(repository: impl Into<String>) -> Self {
        Self { repository: repository.into(), pushes: false, source: None }
    }

    /// To write, and to look at what is there.
    pub fn push(repository: impl Into<String>) -> Self {
        Self { repository: repository.into(), pushes: true, source: None }
    }

    /// The same, and to mount blobs from `source`.
    pub fn mounting(self, source: &str) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// The `scope` parameters, one a repository.
    pub fn parameters(&self) -> Vec<String> {
        let actions = if self.pushes { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", self.repository);
        let other = self.source.as_ref().map(|source| format!("repository:{source}:pull"));
        [own].into_iter().chain(other).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_asked_for_than_is_needed() {
        assert_eq!(Scope::pull("a/b").parameters(), ["repository:a/b:pull"]);
        assert_eq!(Scope::push("a/b").parameters(), ["repository:a/b:pull,push"]);
        assert_eq!(
            Scope::push("a/b").mounting("c").parameters(),
            ["repository:a/b:pull,push", "repository:c:pull"]
        );
    }
}
