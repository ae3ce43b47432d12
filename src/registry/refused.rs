//! What a registry means that refuses a push: which right, which project, which rule; and the next step.
//!
//! Harbor, and whatever stands before it, has a status and a sentence for each; the sentence is read where the status says
//! too little. The repository's own name is taken out before: a plugin may be called `ai-quota`.

use super::credentials::Lookup;
use super::error::{Kind, RegistryError};
use super::route::Host;

/// Tells a refusal of `what`, which was about `repository`, as one of a push.
pub fn explained(
    error: RegistryError,
    what: &str,
    host: &Host,
    repository: &str,
    found: &Lookup,
) -> RegistryError {
    let who = found.credentials.as_ref().map(|own| own.from.clone());
    let writes = !(what.starts_with("HEAD ") || what.starts_with("GET "));
    sorted(error, what, &host.name, &host.key, repository, who.as_deref(), writes)
}

fn sorted(
    error: RegistryError,
    what: &str,
    name: &str,
    key: &str,
    repository: &str,
    who: Option<&str>,
    writes: bool,
) -> RegistryError {
    let Some(status) = error.status else { return error };
    let last = repository.rsplit('/').next().unwrap_or_default();
    let said = error.detail.strip_prefix(what).unwrap_or(&error.detail);
    let said = said.replace(repository, "…").replace(last, "…").to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let project = repository.split('/').next().unwrap_or_default();
    let told = |kind, code, hint: String| RegistryError { kind, ..error.clone() }.code(code).hint(hint);
    if status == 507 || has(&["quota", "exceed the configured upper limit"]) {
        return told(
            Kind::Denied,
            "quota",
            format!("{name} has no room for {project}: raise its quota there, or delete what nobody needs"),
        );
    }
    if writes && (status == 412 || has(&["immutable"])) {
        return told(
            Kind::Denied,
            "immutable_tag",
            format!(
                "{name} does not let that tag be replaced: delete it there, or change {project}'s rule of immutable tags"
            ),
        );
    }
    if has(&["read only", "read-only", "readonly"]) || (writes && matches!(status, 405 | 501)) {
        return told(
            Kind::Denied,
            "read_only",
            format!("{name} takes no pushes there: is it in maintenance, or is {project} a proxy cache?"),
        );
    }
    if has(&["name_unknown", "project not found"])
        || (has(&["project"]) && has(&["not found"]))
        || (writes && status == 404)
    {
        return told(
            Kind::NotFound,
            "no_project",
            format!("does the project {project} exist at {name}? Harbor makes none for a push"),
        );
    }
    match error.kind {
        Kind::Denied => {
            let right = if writes { "push" } else { "pull" };
            let role = if writes {
                "in Harbor: Developer, or a robot account with Push Repository"
            } else {
                "in Harbor: Guest"
            };
            let hint = match who {
                Some(who) => format!(
                    "the credentials for {name} (from {who}) lack the right to {right} {repository} ({role})"
                ),
                None => format!(
                    "nobody may {right} {repository} without credentials: {key}.username and password_file, or registry.docker_config"
                ),
            };
            told(Kind::Denied, if writes { "push_denied" } else { "denied" }, hint)
        }
        _ if status == 413 => told(
            Kind::Upstream,
            "request_too_large",
            format!(
                "what stands before {name} takes no requests of that size (nginx: client_max_body_size): --chunk-size 512KiB sends less at a time"
            ),
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_push_names_what_is_missing_and_the_next_step() {
        let what = "POST an upload to plugins/ai-quota";
        let told = |status: u16, kind, said: &str, who| {
            let detail = format!("{what}: {status} ({said})");
            let error = RegistryError { status: Some(status), ..RegistryError::new(kind, detail) };
            let sorted = sorted(
                error,
                what,
                "harbor.corp",
                "registry.hosts.harbor.corp",
                "plugins/ai-quota",
                who,
                true,
            );
            let may_pass = sorted.may_pass();
            (sorted.code, sorted.hint, may_pass)
        };
        let robot = Some("harbor-password");
        for (status, kind, said, code, hint) in [
            (
                401,
                Kind::Denied,
                "UNAUTHORIZED: unauthorized to access repository: plugins/ai-quota, action: push",
                "push_denied",
                "lack the right to push",
            ),
            (
                403,
                Kind::Denied,
                "DENIED: adding 1 MiB of storage resource, which when updated to current usage of 9 GiB will exceed the configured upper limit of 9 GiB",
                "quota",
                "raise its quota",
            ),
            (507, Kind::Upstream, "", "quota", "raise its quota"),
            (
                412,
                Kind::Upstream,
                "PRECONDITION: configured as immutable",
                "immutable_tag",
                "rule of immutable tags",
            ),
            (403, Kind::Denied, "DENIED: the tag is immutable", "immutable_tag", "rule of immutable tags"),
            (
                404,
                Kind::NotFound,
                "NOT_FOUND: project plugins not found",
                "no_project",
                "does the project plugins exist",
            ),
            (
                401,
                Kind::Denied,
                "UNAUTHORIZED: project plugins not found",
                "no_project",
                "does the project plugins exist",
            ),
            (405, Kind::Upstream, "UNSUPPORTED", "read_only", "takes no pushes"),
            (403, Kind::Denied, "DENIED: The system is in read only mode.", "read_only", "takes no pushes"),
            (413, Kind::Upstream, "", "request_too_large", "--chunk-size"),
        ] {
            let (found, told, may_pass) = told(status, kind, said, robot);
            assert!(found == code && told.contains(hint) && !may_pass, "{status} {said}: {found}, {told}");
        }
        assert!(told(403, Kind::Denied, "DENIED", None).1.contains("without credentials"));
        assert!(told(503, Kind::Upstream, "", robot).2, "a busy registry is asked again");
    }
}
